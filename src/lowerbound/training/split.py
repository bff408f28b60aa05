"""Split the rows into training, validation and calibration parts; records shared by one fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.coding.rows import Rows, subset
from lowerbound.coding.tables import Coded, Coding
from lowerbound.nn.model import LatentModel
from lowerbound.tasks.doctor import ROWS
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.history import History
from lowerbound.training.engine.loop import Beat, Report
from lowerbound.training.engine.processes import Team
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.engine.time_limit import TimeLimit

VALID_ROWS = 4_000
CALIBRATION_ROWS = 10_000
SMALL = 1_000  # below this many rows, early stopping and calibration share the held-out rows
HELD_CROPS = 128  # held-out crops in total for validation, and as many for calibration

Say = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """Row indices of the three parts of the data.

    Validation and calibration share their rows if there are fewer than `SMALL`; below 10 rows,
    all three parts are the whole data.

    Attributes:
        train: rows to train on.
        valid: rows for early stopping.
        calibration: rows for calibrating the scores.
    """

    train: Tensor | range
    valid: Tensor
    calibration: Tensor

    @classmethod
    def of(cls, n: int, seed: int) -> Split:
        """Split n rows at random, a tenth each for validation and calibration, up to limits."""
        order = torch.randperm(n, generator=noise.generator(seed, "split"))
        if n < 10:
            return cls(order, order, order)
        held = min(max(2, n // 10), VALID_ROWS)
        if n < SMALL:
            return cls(order[held:], order[:held], order[:held])
        both = held + min(n // 10, CALIBRATION_ROWS)
        return cls(order[both:], order[:held], order[held:both])

    @classmethod
    def of_shuffled(cls, n: int) -> Split:
        """Split n rows that are already in random order by holding out the first ones."""
        held = min(n // 10, VALID_ROWS)
        both = held + min(n // 10, CALIBRATION_ROWS)
        return cls(range(both, n), torch.arange(held), torch.arange(held, both))

    @classmethod
    def of_crops(cls, n: int, each: int, seed: int) -> Split:
        """Split n pictures of `each` crops, keeping the crops of a picture together.

        At most `HELD_CROPS` crops are used for validation and for calibration, because the crops
        of a picture are much alike.
        """
        pictures = cls.of(n, seed)

        def crops(index: Tensor) -> Tensor:
            return (index + n * torch.arange(each)[:, None]).flatten()

        held = crops(pictures.valid)[:HELD_CROPS], crops(pictures.calibration)[:HELD_CROPS]
        return cls(crops(torch.as_tensor(pictures.train)), *held)


class Material(NamedTuple):
    """The inputs of a fit: rows and their split, callbacks, run folder, processes, time limit."""

    coding: Coding
    coded: Coded
    split: Split
    report: Report | None
    say: Say
    run: RunFolder | None
    team: Team
    limit: TimeLimit
    beat: Beat | None = None
    checked: int = ROWS  # rows of each part that the health is measured on
    samples: int | None = None  # importance samples per score; None is the usual number

    @property
    def train(self) -> Rows:
        """The training rows in the form that the coding's augmentation takes."""
        return subset(self.coded.raw or self.coded.rows, self.split.train)

    @property
    def learned(self) -> Rows:
        """The training rows without augmentation, in the form of the held-out rows."""
        return subset(self.coded.rows, self.split.train)

    @property
    def valid(self) -> Rows:
        """The rows for early stopping."""
        return subset(self.coded.rows, self.split.valid)


class Fitted(NamedTuple):
    """A model after training.

    Attributes:
        model: the trained model, in evaluation mode.
        arguments: the arguments of its recipe.
        history: the history of training; with two stages, that of the first.
        engine: threads, kernels, layout and precision used in training.
        priors: the history of the second stage, which trains the priors, or None.
    """

    model: LatentModel
    arguments: dict[str, Any]
    history: History
    engine: Engine
    priors: History | None = None
