"""Losses of models on texts."""
