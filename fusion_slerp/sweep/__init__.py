"""Sweeps: many values of a setting from one reading of the models."""
