"""Records of an experiment: data, arms, schedule, evaluation, published values, verdict."""

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
    """A value published in a paper.

    Attributes:
        value: the number.
        checked: whether it was verified in the paper itself.
    """

    value: float
    checked: bool = True


@dataclass(frozen=True)
class Arm:
    """One model of an experiment.

    Attributes:
        recipe: name in `lowerbound.recipes`.
        arguments: of the recipe.
        objective: (model, steps per epoch, epochs) -> the module to train.
        published: metric -> the paper's value.
        tolerance: the allowed difference or another condition, as short text.
        start: (model, train rows) -> None; initialises the weights as in the paper.
    """

    recipe: str
    arguments: Mapping[str, Any]
    objective: Objective
    published: Mapping[str, Published] = field(default_factory=dict)
    tolerance: str = ""
    start: Callable[[LatentModel, Rows], None] | None = None


@dataclass(frozen=True)
class Scale:
    """Size of a run of an experiment.

    Attributes:
        epochs: passes over the training rows.
        samples: importance samples of the evaluation.
        train: the number of training rows, None for all.
        test: the number of test rows, None for all.
        rows: the number of rows for the experiment's own measures.
        time: the duration on two cores, as text.
    """

    epochs: int
    samples: int
    train: int | None = None
    test: int | None = None
    rows: int = 10_000
    time: str = ""


class Check(NamedTuple):
    """One line of a verdict: a claim, and whether it holds."""

    claim: str
    holds: bool


@dataclass(frozen=True)
class Experiment:
    """A table of a paper, or a part of one.

    Attributes:
        title: what is compared.
        paper: authors, title, year, table.
        data: name in `datasets.DATASETS`.
        values: the model's input: "bits" as stored, "binarised" (grey levels, binarised anew at
            every step, but held-out rows once), "grey" (in [0, 1]) or "codes".
        shape: of an image as the model's input, such as (784,) or (1, 28, 28).
        arms: by name.
        scales: smoke, short and full.
        optimiser: (epochs, steps per epoch) -> the optimiser's settings.
        metric: the quantity to compare, such as "nll".
        judge: means of all arms -> the verdict.
        measure: (model, rows, seed) -> further measures of a trained model by name.
        patience: the number of checks without improvement before stopping, None for never.
        precision: of matrix products in training, "float32" or "bfloat16"; the evaluation is
            always in float32.
        notes: differences from the paper.
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
    """Check that ours is at most `above` above and `below` below the published value."""
    told = f"{claim}: {ours:.2f} against {published:.2f} (at most +{above:g})"
    return Check(told, -below <= ours - published <= above)
