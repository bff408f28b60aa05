"""``python -m lowerbound`` is the command line."""

import sys

from lowerbound.cli import main

sys.exit(main())
