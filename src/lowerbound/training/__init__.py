"""Training: one fit loop, the state that lets it go on after a kill, and how it uses the machine.

`fit` trains an objective on rows; `Engine` says how the machine is used and `choose` chooses it by
rules; `RunFolder` keeps the states of one run on the disk.
"""

from lowerbound.training.checkpoints import Checkpoints, OnDisk, State
from lowerbound.training.engine import Engine, choose
from lowerbound.training.history import Check, History
from lowerbound.training.loop import Report, chosen, fit, held_out
from lowerbound.training.run_folder import RunFolder
from lowerbound.training.settings import Budget, Optimiser

__all__ = [
    "Budget",
    "Check",
    "Checkpoints",
    "Engine",
    "History",
    "OnDisk",
    "Optimiser",
    "Report",
    "RunFolder",
    "State",
    "choose",
    "chosen",
    "fit",
    "held_out",
]
