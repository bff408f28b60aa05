"""An experiment of a paper: data, arms, schedule, evaluation, published values, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from lowerbound.coding.rows import Rows
from lowerbound.nn.model import LatentModel
from lowerbound.training.engine.settings import Optimiser

Means = Mapping[str, Mapping[str, float]]  # arm -> metric -> mean over seeds
Objective = Callable[[nn.Module, int, int], nn.Module]


class Published(NamedTuple):
    """A value of a paper.

    Attributes:
        value: the number.
        checked: whether it was read in the paper itself, and not quoted from memory.
    """

    value: float
    checked: bool = True


@dataclass(frozen=True)
class Arm:
    """One model of an experiment.

    Attributes:
        recipe: name in `lowerbound.recipes`.
        arguments: of the recipe.
        objective: (model, steps per epoch, epochs) -> what is trained.
        published: metric -> the paper's value.
        tolerance: how far ours may be from it, or what else must hold, in a few characters.
        start: what the weights are before training, where a paper says so: (model, train rows).
    """

    recipe: str
    arguments: Mapping[str, Any]
    objective: Objective
    published: Mapping[str, Published] = field(default_factory=dict)
    tolerance: str = ""
    start: Callable[[LatentModel, Rows], None] | None = None


@dataclass(frozen=True)
class Scale:
    """How much of an experiment is done.

    Attributes:
        epochs: passes over the training rows.
        samples: importance samples of the evaluation.
        train: rows to learn from, None for all of them.
        test: rows that are evaluated, None for all of them.
        rows: how many an experiment's own measures look at.
        time: what it took on two cores.
    """

    epochs: int
    samples: int
    train: int | None = None
    test: int | None = None
    rows: int = 10_000
    time: str = ""


class Check(NamedTuple):
    """One line of a verdict: what had to hold, and whether it does."""

    claim: str
    holds: bool


@dataclass(frozen=True)
class Experiment:
    """A table of a paper, or a part of one.

    Attributes:
        title: what is compared.
        paper: authors, title, year, table.
        data: name in `datasets.DATASETS`.
        values: what the model sees: "bits" as they are stored, "binarised" (grey levels, binarised
            anew at every step, and the held-out rows once), "grey" (in [0, 1]) or "codes".
        shape: what the model sees of an image: (784,) or (1, 28, 28).
        arms: by name.
        scales: smoke, short and full.
        optimiser: (epochs, steps per epoch) -> how to step.
        metric: the number that is compared, such as "nll".
        judge: the verdict on the means of all arms.
        measure: what else is measured of a trained model: (model, rows, seed) -> numbers by name.
        patience: checks without a gain before stopping, None for never.
        precision: of the products while training, "float32" or "bfloat16"; numbers are always
            evaluated in float32.
        notes: what differs from the paper.
    """

    title: str
    paper: str
    data: str
    shape: tuple[int, ...]
    arms: Mapping[str, Arm]
    scales: Mapping[str, Scale]
    optimiser: Callable[[int, int], Optimiser]
    judge: Callable[[Means], Sequence[Check]]
    metric: str = "nll"
    values: str = "bits"
    measure: Callable[[LatentModel, int, int], Mapping[str, float]] | None = None
    patience: int | None = None
    precision: str = "float32"
    notes: str = ""


def close(claim: str, ours: float, published: float, above: float, below: float = 1e9) -> Check:
    """Check that ours is at most `above` higher, and `below` lower, than the published value."""
    told = f"{claim}: {ours:.2f} against {published:.2f} (at most +{above:g})"
    return Check(told, -below <= ours - published <= above)
