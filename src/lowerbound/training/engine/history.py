"""What happened in a fit: its checks, and the means between two of them."""

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
    """One look at the held-out rows.

    Attributes:
        step: optimiser steps done.
        epoch: passes done, with a fraction.
        loss: mean training loss since the last check, nats.
        train_elbo: mean plain ELBO of the training batches since the last check, nats.
        valid_bound: importance-weighted bound on the held-out rows, nats (see `held_out`).
        active: latent dimensions in use.
        latent: latent dimensions in all.
        rows_per_second: of training since the last check.
        seconds: since the start, those before an interruption included.
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


_WHOLE = [
    place for place, name in enumerate(Check._fields) if name in ("step", "active", "latent")
]


@dataclass
class History:
    """What happened in a fit.

    Attributes:
        checks: the looks at the held-out rows, in order.
        best: index into `checks` of the weights that were kept.
        stopped: why training ended: "patience", "epochs", "time" or "interrupt".
        skipped: steps that were skipped because the loss or the gradient was not finite.
    """

    checks: list[Check] = field(default_factory=list)
    best: int = 0
    stopped: str = ""
    skipped: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "checks": [check._asdict() for check in self.checks]}

    def state(self) -> tuple[dict[str, Any], np.ndarray]:
        """Return what restores this history: JSON values, and the checks as float64 rows."""
        rows = np.array(self.checks, np.float64).reshape(len(self.checks), len(Check._fields))
        return {"best": self.best, "stopped": self.stopped, "skipped": self.skipped}, rows

    @classmethod
    def restored(cls, values: Mapping[str, Any], rows: np.ndarray) -> History:
        """Return the history that `state` described."""
        checks = []
        for row in rows.tolist():
            for place in _WHOLE:
                row[place] = int(row[place])
            checks.append(Check(*row))
        return cls(checks, **values)


class Meter:
    """Means of the training terms and the speed between two checks.

    Args:
        spent: seconds that an interrupted run had taken before.
    """

    def __init__(self, spent: float = 0.0) -> None:
        self.began = time.monotonic() - spent
        self.restart()

    def restart(self) -> None:
        """Begin the next stretch."""
        # Kept as tensors: reading them at every step would stall an accelerator.
        self.loss, self.elbo = torch.zeros(()), torch.zeros(())
        self.steps, self.rows = 0, 0
        self.since = time.monotonic()

    def add(self, loss: Tensor, elbo: Tensor, rows: int) -> None:
        """Count one step."""
        self.loss, self.elbo = self.loss + loss, self.elbo + elbo
        self.steps, self.rows = self.steps + 1, self.rows + rows

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.began

    def read(self) -> tuple[float, float, float]:
        """Return the mean loss, the mean ELBO and the rows per second of this stretch."""
        if not self.steps:
            return math.nan, math.nan, 0.0
        spent = max(time.monotonic() - self.since, 1e-9)
        return float(self.loss) / self.steps, float(self.elbo) / self.steps, self.rows / spent

    def state(self) -> np.ndarray:
        """Return what restores the sums of this stretch."""
        return np.array([float(self.loss), float(self.elbo), self.steps, self.rows], np.float64)

    def restore(self, values: np.ndarray) -> None:
        """Go on with the sums that `state` gave."""
        loss, elbo, steps, rows = values.tolist()
        self.loss, self.elbo = torch.tensor(loss), torch.tensor(elbo)
        self.steps, self.rows = int(steps), int(rows)
