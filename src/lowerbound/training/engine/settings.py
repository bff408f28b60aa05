"""What a fit is told: when to stop, and how to step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lowerbound.errors import UsageError
from lowerbound.nn.objectives.schedules import Cosine
from lowerbound.training.engine.history import Check


@dataclass(frozen=True)
class Budget:
    """When to stop.

    Attributes:
        epochs: passes over the data at most.
        seconds: wall time at most, or None.
        patience: checks without a gain of the held-out bound before stopping.
        steps: optimiser steps at least, whatever `epochs` says, for small tables.
        most: optimiser steps at most, whatever `epochs` says, for large tables; None is no limit.
        settled: step from which on the best check is kept, and patience counts. Before it what is
            minimised still changes, so that bounds say little: the latest check is kept.
    """

    epochs: int = 200
    seconds: float | None = None
    patience: int = 10
    steps: int = 0
    most: int | None = None
    settled: int = 0

    def total(self, per_epoch: float) -> int:
        """Return the number of optimiser steps at most, with so many in a pass."""
        wanted = max(round(self.epochs * per_epoch), self.steps)
        return wanted if self.most is None else min(wanted, self.most)

    def spent(self, step: int, steps: int, last: Check | None) -> float:
        """Return which share of it is spent at a step: of so many steps, or of the seconds.

        Seconds are those of the last check, and from there on as many for a step as before it: a
        clock at every step would tell each of the processes that train together something else.
        """
        share = step / steps
        if self.seconds is None or last is None:
            return share
        return max(share, last.seconds * step / last.step / self.seconds)


@dataclass(frozen=True)
class Optimiser:
    """How to step.

    Attributes:
        batch_size: rows per step.
        learning_rate: of Adam, lowered by `decay` when checks stop gaining.
        weight_decay: decoupled (AdamW).
        clip: the largest norm of the gradient.
        warmup: steps over which the learning rate rises to its value.
        ema: decay of the exponential moving average of the weights that is checked and kept, or
            0 to keep the weights themselves.
        decay: factor of the learning rate after half of the patience without a gain; 1 leaves it
            alone, and the moving average does its work.
        schedule: a further factor of the learning rate at a step, or None.
        anneal: a further factor of the learning rate at the end of the budget, reached along half
            a cosine; 1 leaves it alone.
        betas: Adam's decay rates of the two moments.
        epsilon: Adam's constant beside the root of the second moment.
    """

    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 100.0
    warmup: int = 50
    ema: float = 0.0
    decay: float = 1.0
    schedule: Callable[[int], float] | None = None
    anneal: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def rate(self, step: int, decayed: float, spent: float = 0.0) -> float:
        """Return the learning rate of a step, the first of which is 1.

        Args:
            step: number of the step.
            decayed: what `decay` has left of the learning rate.
            spent: share of the budget that is spent, for `anneal`.
        """
        risen = decayed * min(1.0, step / max(1, self.warmup)) * Cosine(1, self.anneal)(spent)
        return risen if self.schedule is None else risen * self.schedule(step - 1)

    @property
    def memory(self) -> int:
        """Steps after which the moving average holds less than a twentieth of what was before."""
        return math.ceil(math.log(20) / -math.log(self.ema)) if self.ema else 0

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name, low in [("batch_size", 1), ("learning_rate", 0.0), ("clip", 0.0)]:
            value = getattr(self, name)
            if not (value >= low and value > 0):
                raise UsageError("E240", f"{name} must be above 0, got {value}", fix=name)
        if not 0.0 <= self.ema < 1.0:
            raise UsageError(
                "E240", f"ema must be at least 0 and below 1, got {self.ema}", fix="ema=0.999"
            )
