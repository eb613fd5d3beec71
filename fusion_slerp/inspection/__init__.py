"""What checkpoints contain, and how they differ: facts, and angles between models."""
