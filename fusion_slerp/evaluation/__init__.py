"""Losses of models on texts, for the command and the plugin alike."""
