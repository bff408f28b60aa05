"""Split the rows into training, validation and calibration parts; records shared by one fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.coding.rows import Rows, subset
from lowerbound.coding.tables import Coded, Coding
from lowerbound.nn.model import LatentModel
from lowerbound.tasks.doctor import ROWS
from lowerbound.tasks.trained import Model
from lowerbound.training.callbacks import Callback
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.history import History
from lowerbound.training.engine.loop import Beat, Report
from lowerbound.training.engine.processes import Team
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.engine.time_limit import TimeLimit

VALID_ROWS = 4_000
CALIBRATION_ROWS = 10_000
FEW = 10  # below this many rows, training stops by the rows that it learns from
HELD_CROPS = 128  # held-out crops in total for validation, and as many for calibration

Say = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """Row indices of the three parts of the data.

    No calibration row is used for training or early stopping, however few rows there are: only
    then are p-values and alarms of new rows as stated. Below `FEW` rows, training and validation
    share theirs.

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
        last = min(max(1, n // 10), CALIBRATION_ROWS)
        if n < FEW:
            return cls(order[last:], order[last:], order[:last])
        held = min(max(2, n // 10), VALID_ROWS)
        return cls(order[held + last :], order[:held], order[held : held + last])

    @classmethod
    def of_shuffled(cls, n: int) -> Split:
        """Split n rows that are already in random order by holding out the first ones."""
        held = min(n // 10, VALID_ROWS)
        both = held + min(n // 10, CALIBRATION_ROWS)
        return cls(range(both, n), torch.arange(held), torch.arange(held, both))

    @classmethod
    def of_crops(cls, n: int, each: int, seed: int) -> Split:
        """Split n pictures of `each` crops, keeping the crops of a picture together.

        At most `HELD_CROPS` crops are used for validation, because the crops of a picture are much
        alike. They are the calibration rows too: models of crops restore pictures, and state no
        p-values. Below `FEW` pictures, all parts are the whole data.
        """
        order = torch.randperm(n, generator=noise.generator(seed, "split"))
        held = n if n < FEW else min(max(2, n // 10), VALID_ROWS)

        def crops(index: Tensor) -> Tensor:
            return (index + n * torch.arange(each)[:, None]).flatten()

        valid = crops(order[:held])[:HELD_CROPS]
        return cls(crops(order[held % n :]), valid, valid)


class FitInputs(NamedTuple):
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
    callbacks: Sequence[Callback] = ()
    start: Model | None = None  # whose weights training starts at

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
        rows: the history of the training of the chain of columns, or None.
        proposal: the history of the training of the proposal, or None.
    """

    model: LatentModel
    arguments: dict[str, Any]
    history: History
    engine: Engine
    priors: History | None = None
    rows: History | None = None
    proposal: History | None = None

    @property
    def interrupted(self) -> bool:
        """True if a stage was ended by Ctrl-C or by a callback, so that no other one follows."""
        stages = (self.history, self.priors, self.rows, self.proposal)
        return any(stage is not None and stage.stopped == "interrupt" for stage in stages)
