"""``python -m lowerbound`` is the command line."""

from lowerbound.cli import entry

entry()
