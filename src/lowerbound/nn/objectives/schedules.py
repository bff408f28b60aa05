"""Numbers that change as training goes on: functions of the optimiser's step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Stages:
    """A value per stage; the last one stays.

    Args:
        lengths: steps of each stage.
        values: as many.
    """

    lengths: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, step: int) -> float:
        """Return the value at `step`."""
        ends = list(accumulate(self.lengths))
        return self.values[min(bisect_right(ends, step), len(self.values) - 1)]


@dataclass(frozen=True)
class Cosine:
    """From 1 down to `end` along half a cosine: Loshchilov & Hutter, "SGDR", 2017.

    Args:
        steps: of the descent.
        end: the value there and after.
    """

    steps: int
    end: float = 0.0

    def __call__(self, step: float) -> float:
        """Return the value at `step`."""
        done = min(1.0, step / max(1, self.steps))
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * done))
