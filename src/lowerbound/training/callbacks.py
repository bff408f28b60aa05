"""Callbacks of a fit: functions that are called after every check and may end the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lowerbound.errors import UsageError
from lowerbound.training.engine.history import Check
from lowerbound.training.engine.loop import Report
from lowerbound.training.engine.settings import Budget

STAGES = {"first": "model"}  # the names that callbacks see, where they are not those of the run


class TrainingCheck(NamedTuple):
    """The argument of a callback: the results of one check on the held-out rows.

    Attributes:
        stage: what is trained: "model"; "narrow", the model again with fewer latents; "priors" of
            codes; "proposal", from which scores draw; "rows", the chain of columns. Bounds of
            different stages are not comparable.
        step: number of optimiser steps taken in this stage.
        epoch: number of passes over the data, with a fraction.
        bound: bound on log p of the held-out rows, nats per row; higher is better.
        loss: mean training loss since the last check, nats per row.
        train_elbo: mean ELBO of the training batches since the last check, nats per row.
        active: number of latent dimensions in use.
        latent: total number of latent dimensions.
        rows_per_second: training speed since the last check.
        seconds: training time of this stage.
    """

    stage: str
    step: int
    epoch: float
    bound: float
    loss: float
    train_elbo: float
    active: int
    latent: int
    rows_per_second: float
    seconds: float

    @classmethod
    def of(cls, stage: str, check: Check) -> TrainingCheck:
        """Return a check of a stage of the run."""
        values = check._asdict()
        bound = values.pop("valid_bound")
        return cls(stage=STAGES.get(stage, stage), bound=bound, **values)


Callback = Callable[[TrainingCheck], Any]


def checked_callbacks(callbacks: object) -> tuple[Callback, ...]:
    """Return callbacks as a tuple: none, one function, or a sequence of functions.

    Raises:
        UsageError: E245 for anything else.
    """
    if callbacks is None:
        return ()
    some = (callbacks,) if callable(callbacks) else callbacks
    if isinstance(some, Sequence) and not isinstance(some, str) and all(map(callable, some)):
        return tuple(some)
    raise UsageError(
        "E245",
        f"callbacks must be a list of functions of one argument, got {callbacks!r}",
        fix="callbacks=[lambda check: print(check.step, check.bound)]",
    )


def reporting(report: Report | None, callbacks: Sequence[Callback], stage: str) -> Report | None:
    """Return a function that reports a check to `report` and to callbacks.

    Args:
        report: called first, or None.
        callbacks: called with each check; the fit ends if one of them returns True.
        stage: of the run.

    Raises:
        UsageError: E276 if a callback raises an exception.
    """
    if not callbacks:
        return report

    def tell(check: Check, budget: Budget) -> bool:
        if report is not None:
            report(check, budget)
        told = TrainingCheck.of(stage, check)
        return any([_asks_to_stop(callback, told) for callback in callbacks])  # all are called

    return tell


def _asks_to_stop(callback: Callback, told: TrainingCheck) -> bool:
    """Call a callback; return whether it returned True, and not merely something true."""
    try:
        answer = callback(told)
    except Exception as error:
        name = getattr(callback, "__qualname__", type(callback).__qualname__)
        reason = (str(error).splitlines() or [""])[0][:300]
        raise UsageError(
            "E276",
            f"the callback {name} raised {type(error).__name__} at step {told.step:,}: {reason}",
            fix="correct the callback; with `out`, the same fit continues from its last state",
            callback=name,
            step=told.step,
        ) from error
    return isinstance(answer, bool | np.bool_) and bool(answer)
