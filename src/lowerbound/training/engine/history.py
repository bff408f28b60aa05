"""The history of a fit: its checks on held-out rows, and training means between two checks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Check(NamedTuple):
    """The results of one check on the held-out rows.

    Attributes:
        step: number of optimiser steps taken.
        epoch: number of passes over the data, with a fraction.
        loss: mean training loss since the last check, nats per row.
        train_elbo: mean plain ELBO of the training batches since the last check, nats per row.
        valid_bound: importance-weighted bound on the held-out rows, nats per row (see `held_out`).
        active: number of latent dimensions in use.
        latent: total number of latent dimensions.
        rows_per_second: training speed since the last check.
        seconds: training time since the start, including time before an interruption.
    """

    step: int
    epoch: float
    loss: float
    train_elbo: float
    valid_bound: float
    active: int
    latent: int
    rows_per_second: float
    seconds: float


class Pulse(NamedTuple):
    """The pace of training between two checks.

    Attributes:
        step: number of optimiser steps taken.
        steps: largest number of steps of the fit.
        rows: rows per step.
        seconds_per_step: mean time of a step since the start, checks included.
        seconds_left: forecast of the longest remaining training time.
        epoch: number of passes over the data, with a fraction.
    """

    step: int
    steps: int
    rows: int
    seconds_per_step: float
    seconds_left: float
    epoch: float

    @property
    def share(self) -> float:
        """The share of the training that is done, from 0 to 1; it may stop earlier."""
        spent = self.seconds_per_step * self.step
        return spent / max(spent + self.seconds_left, 1e-9)


_WHOLE = [
    place for place, name in enumerate(Check._fields) if name in ("step", "active", "latent")
]


@dataclass
class History:
    """The history of a fit.

    Attributes:
        checks: the checks on the held-out rows, in order.
        best: index in `checks` of the weights that were kept.
        stopped: the reason why training ended: "patience", "epochs", "time" or "interrupt".
        skipped: number of steps skipped because the loss or the gradient was not finite.
    """

    checks: list[Check] = field(default_factory=list)
    best: int = 0
    stopped: str = ""
    skipped: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "checks": [check._asdict() for check in self.checks]}

    def state(self) -> tuple[dict[str, Any], np.ndarray]:
        """Return the state of this history: JSON values, and the checks as float64 rows."""
        rows = np.array(self.checks, np.float64).reshape(len(self.checks), len(Check._fields))
        return {"best": self.best, "stopped": self.stopped, "skipped": self.skipped}, rows

    @classmethod
    def restored(cls, values: Mapping[str, Any], rows: np.ndarray) -> History:
        """Return the history whose `state` was `values` and `rows`."""
        checks = []
        for row in rows.tolist():
            for place in _WHOLE:
                row[place] = int(row[place])
            checks.append(Check(*row))
        return cls(checks, **values)


class Meter:
    """Accumulator of the training means and the speed between two checks.

    Args:
        spent: training time of an interrupted run before this one, seconds.
    """

    def __init__(self, spent: float = 0.0) -> None:
        self.began = time.monotonic() - spent
        self.restart()

    def restart(self) -> None:
        """Reset the sums."""
        # Kept as tensors: reading their values at every step would stall an accelerator.
        self.loss, self.elbo = torch.zeros(()), torch.zeros(())
        self.steps, self.rows = 0, 0
        self.since = time.monotonic()

    def add(self, loss: Tensor, elbo: Tensor, rows: int) -> None:
        """Add one step of `rows` rows."""
        self.loss, self.elbo = self.loss + loss, self.elbo + elbo
        self.steps, self.rows = self.steps + 1, self.rows + rows

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.began

    def read(self) -> tuple[float, float, float]:
        """Return the mean loss, the mean ELBO and the rows per second since the last restart."""
        if not self.steps:
            return math.nan, math.nan, 0.0
        spent = max(time.monotonic() - self.since, 1e-9)
        return float(self.loss) / self.steps, float(self.elbo) / self.steps, self.rows / spent

    def state(self) -> np.ndarray:
        """Return the sums, for a checkpoint."""
        return np.array([float(self.loss), float(self.elbo), self.steps, self.rows], np.float64)

    def restore(self, values: np.ndarray) -> None:
        """Load the sums that `state` returned."""
        loss, elbo, steps, rows = values.tolist()
        self.loss, self.elbo = torch.tensor(loss), torch.tensor(elbo)
        self.steps, self.rows = int(steps), int(rows)
