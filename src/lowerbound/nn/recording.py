"""Tell the parts of a model that their operations are being recorded as a graph.

A graph is run with other values than it was recorded with. Code that looks at values to take a
shorter way, such as skipping missing cells where there are none, asks `is_recorded` first. What
depends on the number of the optimiser step, such as a schedule, is evaluated by `at_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_RECORDING = ContextVar("recording", default=False)


def is_recorded() -> bool:
    """Return True in an export by torch and inside `recording`: values must not be looked at."""
    return _RECORDING.get() or torch.compiler.is_exporting()


@contextmanager
def recording() -> Iterator[None]:
    """Make `is_recorded` true inside the block, in this thread only."""
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)


class RecordedStep(Protocol):
    """The number of the optimiser step while a graph is recorded, whose value is not known."""

    def value_of(self, function: Callable[..., Any], given: tuple[Tensor, ...]) -> Any:
        """Return tensors that stand for ``function(step, *given)`` in every step."""
        ...

    def values_of(self, function: Callable[..., Any], given: tuple[Tensor, ...]) -> Any:
        """Return tensors that stand for the results of `at_steps` in every step."""
        ...


def at_step(function: Callable[..., T], step: int | RecordedStep, *given: Tensor) -> T:
    """Return ``function(step, *given)``, which is no part of the graph where one is recorded.

    A graph gets the results as inputs. They may depend on values in any way, but their shapes must
    be the same in every step, and no gradient passes through them.

    Args:
        function: of the number of a step, such as a schedule, and of what is given. It returns a
            number, a tensor, or a tuple of tensors and None.
        step: the number of the step, as an objective is given it.
        given: the rows of the batch, or their context; nothing else is known outside of a graph.

    Returns:
        What the function returns; while a graph is recorded, a number is a tensor.

    >>> at_step(lambda step: step / 10, 5)
    0.5
    """
    return function(step, *given) if isinstance(step, int) else step.value_of(function, given)


def at_steps(
    function: Callable[..., tuple[Tensor | None, ...]], step: int | RecordedStep, *given: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the results of a function that computes several optimiser steps together.

    It is `at_step` for functions whose time is mostly the overhead of their operations.

    Args:
        function: of the numbers of S steps and of (S, ...) what is given in each. It returns a
            tuple of (S, ...) tensors and None.
        step: the number of the step, as an objective is given it.
        given: the rows of the batch, or their context.

    Returns:
        The results of this step.

    >>> at_steps(lambda steps, x: (x.sum(1) * torch.tensor(steps),), 5, torch.ones(3))
    (tensor(15.),)
    """
    if not isinstance(step, int):
        return step.values_of(function, given)
    made = function([step], *(each[None] for each in given))
    return tuple(None if each is None else each[0] for each in made)
