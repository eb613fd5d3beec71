"""The search for the best values of a merge's settings."""
