"""``python -m lowerbound`` is the command line."""

from lowerbound.cli.main import entry

entry()
