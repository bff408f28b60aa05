"""Ways of scoring rows: what is measured, and what held-out rows measure in the same way.

`WAYS` names them all. Whatever a `Measure` is, p-values and alarms come from its ranks among
held-out rows, so they keep their word for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from lowerbound import recipes, tasks
from lowerbound.calibration import Alarm, Calibration, discovery_cut
from lowerbound.data.coded import Coded
from lowerbound.data.pairs import restores
from lowerbound.errors import UsageError, nearest
from lowerbound.model import LatentModel
from lowerbound.typicality import LEVEL_SAMPLES, Typicality, level_ratio

if TYPE_CHECKING:
    from lowerbound.trained import Trained


class Measure(Protocol):
    """A number for every row, nats: higher is further from the usual."""

    parted: ClassVar[bool]
    """Whether it is a sum of what columns and pixels add, which can be named and drawn."""

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats."""
        ...


@dataclass(frozen=True)
class Likelihood:
    """-log p(coded row), by importance sampling.

    Args:
        samples: draws of z for each row.
    """

    samples: int = tasks.SCORE_SAMPLES
    parted: ClassVar[bool] = True

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats."""
        return tasks.score(model, coded.rows, self.samples).numpy() + coded.surcharge


@dataclass(frozen=True)
class Deviation:
    """How far -log p(coded row) is from its mean over held-out rows, in either direction.

    References:
        Nalisnick, Matsukawa, Teh & Lakshminarayanan, 2019, as in `Typicality`.

    Args:
        usual: what held-out rows score.
        samples: draws of z for each row.
    """

    usual: Typicality
    samples: int = tasks.SCORE_SAMPLES
    parted: ClassVar[bool] = False

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats."""
        return self.usual.deviation(Likelihood(self.samples)(model, coded))


@dataclass(frozen=True)
class LevelRatio:
    """LLR^{>k}: what the lowest k levels say of a row beyond what those above foretell.

    What coding adds to every -log p, such as for a constant that has changed, cancels.

    References:
        Havtorn, Frellsen, Hauberg & Maaloe, 2021, as in `level_ratio`.

    Args:
        k: how many levels, from the data upwards.
        samples: draws of all levels in each of the two bounds.
    """

    k: int = 1
    samples: int = LEVEL_SAMPLES
    parted: ClassVar[bool] = False

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats."""
        return level_ratio(model, coded.rows, self.k, self.samples).numpy()


@dataclass(frozen=True)
class Scoring:
    """A measure, and what held-out rows make of it.

    Args:
        by: its name in `WAYS`.
        measure: the score of rows.
        calibration: scores of held-out rows.
        alarm: the threshold, and the false-alarm rate that it gives.
    """

    by: str
    measure: Measure
    calibration: Calibration
    alarm: Alarm

    def flag(self, scores: NDArray[np.float64], cut: float | None = None) -> pa.Table:
        """Return anomaly_score, p_value and is_anomaly for scores.

        Args:
            scores: (n,) of the measure, nats.
            cut: flag what has a p-value of at most this, instead of what is above the threshold.
        """
        p = self.calibration.p_values(scores)
        flagged = scores > self.alarm.threshold if cut is None else p <= cut
        return pa.table({"anomaly_score": scores, "p_value": p, "is_anomaly": flagged})

    def cut(self, scores: NDArray[np.float64], rate: float) -> float:
        """Return the p-value up to which to flag so that at most `rate` of the flags are false.

        Args:
            scores: of all rows that are to be flagged, (n,) nats.
            rate: the false-discovery rate, in (0, 1).
        """
        return discovery_cut(self.calibration.p_values(scores), rate)

    def check_parted(self, flag: str) -> None:
        """Refuse to tell the parts of a score that has none.

        Args:
            flag: what would tell them.

        Raises:
            UsageError: E236 where the measure is not the sum of what columns or pixels add.
        """
        if not self.measure.parted:
            raise UsageError(
                "E236",
                f"{flag} shows what adds to -log p, and that is not the score by {self.by}",
                fix=f"leave out {flag}, or score by likelihood",
            )

    def document(self) -> dict[str, Any]:
        """Return plain JSON values that `kept` reads: the measure as it was calibrated."""
        return {
            "measure": dict(vars(self.measure)),
            "scores": self.calibration.scores.tolist(),
            "alarm": self.alarm._asdict(),
        }


# Measures whose held-out scores are no function of the likelihood's, so that a model file keeps
# them, with the arguments that they were made with.
_KEPT: dict[str, Callable[..., Measure]] = {"levels": LevelRatio}


def kept(documents: Mapping[str, Any]) -> dict[str, Scoring]:
    """Return the ways of scoring that a model file keeps; those of later versions are ignored."""
    return {
        by: Scoring(
            by,
            _KEPT[by](**document["measure"]),
            Calibration(np.asarray(document["scores"], np.float64)),
            Alarm(**document["alarm"]),
        )
        for by, document in documents.items()
        if by in _KEPT
    }


def by_levels(model: nn.Module, held_out: Coded, alarm_rate: float, samples: int) -> Scoring:
    """Calibrate the ratio of a hierarchy's levels on held-out rows.

    Args:
        model: the hierarchy.
        held_out: the rows.
        alarm_rate: share of usual rows that may be flagged.
        samples: draws that the likelihood takes; each of the two bounds takes a quarter of them.
    """
    measure = LevelRatio(samples=max(1, samples * LEVEL_SAMPLES // tasks.SCORE_SAMPLES))
    calibration = Calibration.of(measure(model, held_out))
    return Scoring("levels", measure, calibration, calibration.alarm(alarm_rate))


def levels_lacking(recipe: str, model: LatentModel) -> UsageError | None:
    """Return what keeps a model from being scored by its levels, E258; None where nothing does."""
    fix = "--by typicality"
    if restores(recipe):
        why = f"a model of the recipe {recipe!r} makes pictures of given ones, and scores none"
        fix = f"lowerbound {recipe} M.vae PICTURES --out FOLDER"
    elif recipe in recipes.FIRST_STAGES:
        why = f"the latents of a {recipe} model are codes, whose levels are not compared"
    elif len(model.levels) < 2:
        why = "the model has one level of latents, and several are compared"
    else:
        return None
    return UsageError("E258", why, fix=fix)


def _likelihood(trained: Trained) -> Scoring:
    measure = Likelihood(trained.importance_samples)
    return Scoring("likelihood", measure, trained.calibration, trained.alarm)


def _typicality(trained: Trained) -> Scoring:
    usual = Typicality(trained.calibration)
    alarm = usual.calibration.alarm(trained.facts["plan"]["alarm_rate"])
    measure = Deviation(usual, trained.importance_samples)
    return Scoring("typicality", measure, usual.calibration, alarm)


def _levels(trained: Trained) -> Scoring:
    if "levels" in trained.further:
        return trained.further["levels"]
    raise levels_lacking(trained.recipe, trained.model) or UsageError(
        "E258",
        "the model was saved by an earlier version, which did not score held-out rows by levels",
        fix="lowerbound fit DATA --out M.vae makes a model that can be scored by its levels",
    )


WAYS: dict[str, Callable[[Trained], Scoring]] = {
    "likelihood": _likelihood,
    "typicality": _typicality,
    "levels": _levels,
}


def scoring_of(trained: Trained, by: str) -> Scoring:
    """Return a way of scoring rows by a model.

    Raises:
        UsageError: E241 for a name that is not in `WAYS`, E258 for levels where there are none or
            the model file keeps no held-out scores of them.
    """
    if by not in WAYS:
        raise UsageError(
            "E241",
            f"rows can be scored by {', '.join(WAYS)}, and not by {by!r}",
            fix=f"--by {nearest(by, WAYS) or 'likelihood'}",
        )
    return WAYS[by](trained)
