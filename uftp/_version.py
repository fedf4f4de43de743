"""The version of both packages; the servers greet with it."""

__version__ = "0.1.0"
