"""Schedules: numbers as functions of the optimiser's step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Stages:
    """Schedule with one value per stage; the last value stays.

    Args:
        lengths: number of steps of each stage.
        values: one value per stage.

    >>> [Stages((2, 3), (1.0, 0.5))(step) for step in (1, 2, 9)]
    [1.0, 0.5, 0.5]
    """

    lengths: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, step: int) -> float:
        """Return the value at `step`."""
        ends = list(accumulate(self.lengths))
        return self.values[min(bisect_right(ends, step), len(self.values) - 1)]


@dataclass(frozen=True)
class Cosine:
    """Schedule that falls from 1 to `end` along half a cosine, then stays.

    References:
        Loshchilov & Hutter, "SGDR", 2017, eq. 5, https://arxiv.org/abs/1608.03983

    Args:
        steps: number of steps of the descent.
        end: the value at its end and after.

    >>> Cosine(10, end=0.2)(10)
    0.2
    """

    steps: int
    end: float = 0.0

    def __call__(self, step: float) -> float:
        """Return the value at `step`."""
        done = min(1.0, step / max(1, self.steps))
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * done))
