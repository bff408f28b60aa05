"""The version of this package, and nothing else, so that every module may import it."""

__version__ = "1.0.0rc1"
