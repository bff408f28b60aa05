"""``python -m reproductions list | show | run``."""

from lowerbound.cli.main import entry
from reproductions.command import PROGRAM

if __name__ == "__main__":
    entry(PROGRAM)
