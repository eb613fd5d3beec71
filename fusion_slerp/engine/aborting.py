"""The error of work that a failure elsewhere has made useless."""


class AbortedError(Exception):
    """Something else failed; that error is reported."""
