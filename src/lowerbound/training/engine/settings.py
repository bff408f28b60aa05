"""The settings of a fit: when to stop, and how to optimise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lowerbound.errors import UsageError
from lowerbound.nn.objectives.schedules import Cosine
from lowerbound.training.engine.history import Check


@dataclass(frozen=True)
class Budget:
    """Limits on the length of a fit.

    Attributes:
        epochs: largest number of passes over the data.
        seconds: largest training time, or None for no limit.
        patience: number of checks without a gain of the held-out bound before stopping.
        steps: smallest number of optimiser steps, overriding `epochs` for small tables.
        most: largest number of optimiser steps, overriding `epochs` for large tables; None is no
            limit.
        settled: step from which the best check is kept and patience counts. Before it, the
            objective still changes, so that bounds are not comparable: the latest check is kept.
        gain: nats per column: smallest gain of the held-out bound that resets the patience.
    """

    epochs: int = 200
    seconds: float | None = None
    patience: int = 10
    steps: int = 0
    most: int | None = None
    settled: int = 0
    gain: float = 1e-3

    def total(self, per_epoch: float) -> int:
        """Return the largest number of optimiser steps, with `per_epoch` steps in a pass."""
        wanted = max(round(self.epochs * per_epoch), self.steps)
        return wanted if self.most is None else min(wanted, self.most)

    def spent(self, step: int, steps: int, last: Check | None) -> float:
        """Return the share of the budget that is spent at a step.

        It is the share of the steps or of the seconds, whichever is larger. The seconds are
        extrapolated from the last check: reading the clock at every step would give a different
        share in each of the processes that train together.

        Args:
            step: number of steps taken.
            steps: number of steps of the whole fit.
            last: the last check, or None.
        """
        share = step / steps
        if self.seconds is None or last is None:
            return share
        return max(share, last.seconds * step / last.step / self.seconds)


@dataclass(frozen=True)
class Optimiser:
    """Settings of the optimiser, AdamW.

    Attributes:
        batch_size: rows per step.
        learning_rate: peak learning rate; lowered by `decay` when checks stop gaining.
        weight_decay: decoupled weight decay.
        clip: largest norm of the gradient.
        warmup: number of steps over which the learning rate rises linearly to its peak.
        ema: decay of the exponential moving average of the weights, which is checked and kept; 0
            keeps the weights themselves.
        decay: factor on the learning rate after half of the patience without a gain; 1 (no decay)
            relies on the moving average instead.
        schedule: a function from the step to a further factor on the learning rate, or None.
        anneal: factor on the learning rate reached at the end of the budget, along half a cosine;
            1 is no annealing.
        betas: decay rates of Adam's two moments.
        epsilon: constant added to the root of Adam's second moment.

    Raises:
        UsageError: E240 for a value out of range.
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
        """Return the learning rate of a step.

        Args:
            step: number of the step, from 1.
            decayed: the learning rate after the reductions by `decay`.
            spent: share of the budget that is spent, for `anneal`.
        """
        risen = decayed * min(1.0, step / max(1, self.warmup)) * Cosine(1, self.anneal)(spent)
        return risen if self.schedule is None else risen * self.schedule(step - 1)

    @property
    def memory(self) -> int:
        """Number of steps after which older weights make up less than 1/20 of the average."""
        return math.ceil(math.log(20) / -math.log(self.ema)) if self.ema else 0

    def __post_init__(self) -> None:
        """Check that the values are in range."""
        for name, low in [("batch_size", 1), ("learning_rate", 0.0), ("clip", 0.0)]:
            value = getattr(self, name)
            if not (value >= low and value > 0):
                default = getattr(Optimiser, name)
                raise UsageError(
                    "E240", f"{name} must be above 0, got {value}", fix=f"{name}={default}"
                )
        if not 0.0 <= self.ema < 1.0:
            raise UsageError(
                "E240", f"ema must be at least 0 and below 1, got {self.ema}", fix="ema=0.999"
            )
