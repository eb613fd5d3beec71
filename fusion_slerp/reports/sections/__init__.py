"""The sections of a report's page: each takes the data and returns its part, or None without data."""
