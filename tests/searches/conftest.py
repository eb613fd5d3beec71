"""The tiny models of the sweeps."""

from tests.sweeps.conftest import family

__all__ = ["family"]
