"""The scorings of a trained model by name: likelihood, typicality, levels.

`WAYS` maps each name to its scoring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lowerbound.bundle.documents import invalid
from lowerbound.coding.base import Coded
from lowerbound.coding.rows import subset
from lowerbound.errors import UsageError, nearest
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import Recipe
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Calibration
from lowerbound.tasks.measures import Deviation, LevelRatio, Likelihood, Scoring, Unlabelled
from lowerbound.tasks.state import TrainedState
from lowerbound.tasks.typicality import LEVEL_SAMPLES, Typicality

USUAL_CELLS, USUAL_DRAWS = 500, 10  # for the usual part of each gene in a score
CURVE_CELLS = 1_000  # training cells, at most, for the score that is usual at a total


def by_levels(model: nn.Module, held_out: Coded, alarm_rate: float, samples: int) -> Scoring:
    """Calibrate `LevelRatio` on held-out rows.

    Args:
        model: a model with several levels of latents.
        held_out: the rows.
        alarm_rate: share of normal rows that may be flagged.
        samples: draws of the likelihood score; each of the two bounds uses a quarter of them.
    """
    measure = LevelRatio(samples=max(1, samples * LEVEL_SAMPLES // draws.SCORE_SAMPLES))
    calibration = Calibration.of(measure(model, held_out))
    return Scoring("levels", measure, calibration, calibration.alarm(alarm_rate))


def by_counts_alone(
    model: nn.Module, learned: Coded, held_out: Coded, alarm_rate: float, samples: int
) -> Scoring:
    """Calibrate `Unlabelled` on held-out cells.

    Args:
        model: a model of counts that learned labels.
        learned: training cells, for what is usual at a total.
        held_out: other cells.
        alarm_rate: share of normal cells that may be flagged.
        samples: draws of z for each cell.
    """
    few = torch.arange(min(len(held_out.rows), USUAL_CELLS))
    usual = draws.cell_nats(model, subset(held_out.rows, few), USUAL_DRAWS).double().mean(0)
    measure = Unlabelled.of(usual.tolist(), samples).given_total(model, learned)
    calibration = Calibration.of(measure(model, held_out))
    return Scoring("unlabelled", measure, calibration, calibration.alarm(alarm_rate))


@dataclass(frozen=True)
class TypicalCounts:
    """The test whether the counts of cells are typical for their total, labels aside.

    Attributes:
        way: the score of the counts alone, calibrated on held-out cells.
        alpha: the expected share of cells like those of the training that are flagged.
    """

    way: Scoring
    alpha: float

    @property
    def usual(self) -> Typicality:
        """The typicality of a score, as of `score --by typicality`."""
        return Typicality(self.way.calibration)

    @property
    def doubt(self) -> str:
        """Why the share `alpha` cannot be reached, and the share used instead, or ""."""
        return self.usual.calibration.unreachable(self.alpha) if self.alpha else ""

    def __call__(
        self, model: nn.Module, coded: Coded
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the p-value of every cell, (n,), and whether it is flagged, (n,).

        Raises:
            ModelFileError: E142 if a score is not a finite number.
        """
        calibration = self.usual.calibration
        far = self.usual.deviation(self.way.scores(model, coded))
        highest = calibration.alarm(self.alpha).threshold if self.alpha else np.inf
        return calibration.p_values(far), far > highest


def typical_counts(trained: TrainedState, alpha: float | None = None) -> TypicalCounts | None:
    """Return the test of counts of a model that learned labels.

    Args:
        trained: the model.
        alpha: the expected share of cells like those of the training that are flagged; 0 flags
            none, None takes the alarm rate of the fit.

    Returns:
        None for a model of an earlier version, which did not keep the scores of counts alone,
        unless `alpha` is given.

    Raises:
        UsageError: E240 for alpha outside [0, 1), E246 for such a model where `alpha` is given.
    """
    share = trained.facts["plan"]["alarm_rate"] if alpha is None else alpha
    if not 0.0 <= share < 1.0:
        raise UsageError(
            "E240", f"alpha must be at least 0 and below 1, got {share:g}", fix="--alpha 0.01"
        )
    if "unlabelled" not in trained.further:
        if not alpha:
            return None
        raise UsageError(
            "E246",
            "the model was saved by an earlier version, which did not keep the scores that alpha "
            "is compared with",
            fix="leave --alpha out, or fit the model again",
        )
    way = trained.further["unlabelled"]
    genes = len(trained.coding.groups)
    if isinstance(way.measure, Unlabelled) and len(way.measure.usual) != genes:
        raise invalid(
            "calibration.json",
            f"is wrong at 'further.unlabelled.measure.usual': {len(way.measure.usual):,} numbers "
            f"for {genes:,} genes",
        )
    return TypicalCounts(way, share)


def levels_lacking(recipe: Recipe, model: LatentModel) -> UsageError | None:
    """Return the error E258 if a model cannot be scored by its levels, or None if it can."""
    fix = "--by typicality"
    if recipe.restoration:
        why = (
            f"a model of the recipe {recipe.name!r} {recipe.restoration.does} and does not score "
        )
        why += "them"
        fix = recipe.restoration.use()
    elif recipe.first_stage:
        why = f"the latents of a {recipe.name} model are codes; continuous latents are needed"
    elif len(model.levels) < 2:
        why = "the model has one level of latents; at least two are needed"
    else:
        return None
    return UsageError("E258", why, fix=fix)


def _likelihood(trained: TrainedState) -> Scoring:
    measure = Likelihood(trained.importance_samples, trained.passes)
    return Scoring("likelihood", measure, trained.calibration, trained.alarm)


def _typicality(trained: TrainedState) -> Scoring:
    usual = Typicality(trained.calibration)
    alarm = usual.calibration.alarm(trained.facts["plan"]["alarm_rate"])
    measure = Deviation(usual, trained.importance_samples)
    return Scoring("typicality", measure, usual.calibration, alarm)


def _levels(trained: TrainedState) -> Scoring:
    if lacking := levels_lacking(trained.recipe, trained.model):
        raise lacking
    if "levels" not in trained.further:
        raise UsageError(
            "E258",
            "the model was saved by an earlier version, which did not score held-out rows by "
            "levels",
            fix="fit the model again: lowerbound fit DATA --out M.vae",
        )
    found, depth = trained.further["levels"], len(trained.model.levels)
    if isinstance(found.measure, LevelRatio) and found.measure.k >= depth:
        raise invalid(
            "calibration.json",
            f"is wrong at 'further.levels.measure.k': {found.measure.k} is not below {depth}, the "
            "number of levels",
        )
    return found


WAYS: dict[str, Callable[[TrainedState], Scoring]] = {
    "likelihood": _likelihood,
    "typicality": _typicality,
    "levels": _levels,
}


def scoring_of(trained: TrainedState, by: str) -> Scoring:
    """Return the calibrated scoring of a model by name.

    Args:
        trained: the model.
        by: a name in `WAYS`.

    Raises:
        UsageError: E241 for a name that is not in `WAYS`, E258 for "levels" if the model has too
            few levels or the model file stores no held-out scores of them.
    """
    if by not in WAYS:
        raise UsageError(
            "E241",
            f"by must be one of {', '.join(WAYS)}, got {by!r}",
            fix=f"--by {nearest(by, WAYS) or 'likelihood'}",
        )
    return WAYS[by](trained)
