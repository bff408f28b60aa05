"""What a fit is made from, how it is split, and what training leaves."""

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
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.history import History
from lowerbound.training.engine.loop import Report
from lowerbound.training.engine.processes import Team
from lowerbound.training.engine.run_folder import RunFolder

VALID_ROWS = 4_000
CALIBRATION_ROWS = 10_000
SMALL = 1_000  # below this many rows, early stopping and calibration share the held-out rows
HELD_CROPS = 128  # that are held out for each purpose, of all pictures together

Say = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts of the data; they share rows only where there are few."""

    train: Tensor | range
    valid: Tensor
    calibration: Tensor

    @classmethod
    def of(cls, n: int, seed: int) -> Split:
        """Split n rows at random: a tenth each for stopping and for calibration, within limits."""
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
        """Split n rows that are in random order already: the first ones are held out."""
        held = min(n // 10, VALID_ROWS)
        both = held + min(n // 10, CALIBRATION_ROWS)
        return cls(range(both, n), torch.arange(held), torch.arange(held, both))

    @classmethod
    def of_crops(cls, n: int, each: int, seed: int) -> Split:
        """Split n pictures of so many crops each: those of a picture stay together.

        Of those that are held out only some are taken: crops of a picture tell the same.
        """
        pictures = cls.of(n, seed)

        def crops(index: Tensor) -> Tensor:
            return (index + n * torch.arange(each)[:, None]).flatten()

        held = crops(pictures.valid)[:HELD_CROPS], crops(pictures.calibration)[:HELD_CROPS]
        return cls(crops(torch.as_tensor(pictures.train)), *held)


class Material(NamedTuple):
    """What a fit is made from, and whom it tells."""

    coding: Coding
    coded: Coded
    split: Split
    report: Report | None
    say: Say
    run: RunFolder | None
    team: Team

    @property
    def train(self) -> Rows:
        """The rows to learn from, as the coding's view is to see them."""
        return subset(self.coded.raw or self.coded.rows, self.split.train)

    @property
    def learned(self) -> Rows:
        """The rows to learn from as rows are held out: each seen in one way."""
        return subset(self.coded.rows, self.split.train)

    @property
    def valid(self) -> Rows:
        """The rows that decide when to stop."""
        return subset(self.coded.rows, self.split.valid)


class Fitted(NamedTuple):
    """A model after training.

    Attributes:
        model: in evaluation mode.
        arguments: of its recipe.
        history: of the training, where there were two stages of the first.
        engine: how the machine was used.
        priors: the history of the second stage, in which the priors were learned, if any.
    """

    model: LatentModel
    arguments: dict[str, Any]
    history: History
    engine: Engine
    priors: History | None = None
