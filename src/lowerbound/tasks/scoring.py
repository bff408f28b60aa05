"""The scorings of a trained model by name: likelihood, typicality, levels.

`WAYS` maps each name to its scoring.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lowerbound.bundle.documents import invalid
from lowerbound.coding.base import Coded
from lowerbound.errors import UsageError, nearest
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import Recipe
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Calibration
from lowerbound.tasks.measures import Deviation, LevelRatio, Likelihood, Scoring
from lowerbound.tasks.state import TrainedState
from lowerbound.tasks.typicality import LEVEL_SAMPLES, Typicality


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
