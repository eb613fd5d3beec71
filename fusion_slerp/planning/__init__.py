"""Settings and opened checkpoints become a plan: a value that says what happens to every tensor."""
