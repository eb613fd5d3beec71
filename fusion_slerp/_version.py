"""The version, in a file of its own: whoever writes it into a record need not import the whole package."""

__version__ = "0.2.0"
