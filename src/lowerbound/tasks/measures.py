"""Anomaly scores as objects: what is measured, and its calibration on held-out rows.

Whatever a `Measure` is, p-values and alarms come from its ranks among held-out rows, so they keep
their meaning for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from lowerbound.coding.base import Coded
from lowerbound.errors import UsageError
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Alarm, Calibration, discovery_cut
from lowerbound.tasks.typicality import LEVEL_SAMPLES, Typicality, level_ratio


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

    samples: int = draws.SCORE_SAMPLES
    parted: ClassVar[bool] = True

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats."""
        return draws.score(model, coded.rows, self.samples).numpy() + coded.surcharge


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
    samples: int = draws.SCORE_SAMPLES
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
