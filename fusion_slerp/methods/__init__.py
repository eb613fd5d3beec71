"""Merge methods, one per file: what is measured, the coefficients, what is combined."""
