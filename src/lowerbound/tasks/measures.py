"""Anomaly measures, and their calibration on held-out rows.

P-values and alarms come from the ranks of a measure among held-out rows, so they have the same
meaning for every `Measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from lowerbound.coding.base import Coded
from lowerbound.errors import UsageError
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Alarm, Calibration, Coarse, discovery_cut
from lowerbound.tasks.finite import finite
from lowerbound.tasks.typicality import LEVEL_SAMPLES, Typicality, level_ratio


class Measure(Protocol):
    """A function that scores rows, in nats: higher is more unusual."""

    parted: ClassVar[bool]
    """True for scores that are sums of contributions of columns or pixels."""

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats."""
        ...


@dataclass(frozen=True)
class Likelihood:
    """The negative log-likelihood -log p(coded row), by importance sampling.

    Args:
        samples: draws of z for each row.
        passes: numbers of rows, in ascending order, that may be computed together if there are no
            more rows: see `lowerbound.tasks.few_rows`.
    """

    samples: int = draws.SCORE_SAMPLES
    passes: tuple[int, ...] = ()
    parted: ClassVar[bool] = True

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats."""
        count = len(coded.rows)
        most = next((size for size in self.passes if size >= count), draws.TILE)
        nats = draws.score(model, coded.rows, self.samples, most=most, groups=coded.groups)
        return nats.numpy() + coded.surcharge


@dataclass(frozen=True)
class Deviation:
    """Absolute difference of -log p(coded row) and its mean over held-out rows.

    References:
        Nalisnick, Matsukawa, Teh & Lakshminarayanan, 2019, as in `Typicality`.

    Args:
        usual: the scores of held-out rows.
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
    """LLR^{>k}, the information about a row that only the lowest k levels have.

    The surcharge that the coding adds to -log p, such as for a changed constant, cancels.

    References:
        Havtorn, Frellsen, Hauberg & Maaloe, 2021, as in `level_ratio`.

    Args:
        k: number of levels, counted from the data upwards.
        samples: draws of all levels in each of the two bounds.
    """

    k: int = 1
    samples: int = LEVEL_SAMPLES
    parted: ClassVar[bool] = False

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> LevelRatio:
        """Rebuild the measure from its document; keys of later versions are ignored."""
        known = {each.name for each in fields(cls)} & document.keys()
        return cls(**{name: document[name] for name in known})

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats."""
        return level_ratio(model, coded.rows, self.k, self.samples).numpy()


@dataclass(frozen=True)
class Scoring:
    """A measure, with its calibration on held-out rows.

    Args:
        by: its name in `lowerbound.tasks.scoring.WAYS`.
        measure: the score of rows.
        calibration: scores of held-out rows.
        alarm: the threshold, and the false-alarm rate that it gives.
    """

    by: str
    measure: Measure
    calibration: Calibration
    alarm: Alarm

    def scores(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every row, (n,) nats.

        Raises:
            ModelFileError: E142 if a score is not a finite number.
        """
        return finite(self.measure(model, coded), "scores")

    def flag(self, scores: NDArray[np.float64], cut: float | None = None) -> pa.Table:
        """Return anomaly_score, p_value and is_anomaly for scores.

        Args:
            scores: (n,) of the measure, nats.
            cut: flag rows whose p-value is at most this, instead of rows above the threshold.
        """
        p = self.calibration.p_values(scores)
        flagged = scores > self.alarm.threshold if cut is None else p <= cut
        return pa.table({"anomaly_score": scores, "p_value": p, "is_anomaly": flagged})

    def cut(self, scores: NDArray[np.float64], rate: float) -> float:
        """Return the p-value up to which to flag rows, for a given false-discovery rate.

        Args:
            scores: (n,) nats, the scores of all rows that are tested.
            rate: the largest expected share of flagged rows that are normal, in (0, 1).
        """
        return discovery_cut(self.calibration.p_values(scores), rate)

    def too_coarse(self, scores: NDArray[np.float64], rate: float) -> Coarse | None:
        """Return the calibration rows that a false-discovery rate takes, if there are too few.

        Args:
            scores: (n,) nats, the scores of all rows that are tested.
            rate: the largest expected share of flagged rows that are normal, in (0, 1).
        """
        return self.calibration.too_coarse(scores, rate)

    def check_parted(self, flag: str) -> None:
        """Raise an error if the score is not a sum of contributions.

        Args:
            flag: the option that shows contributions, for the message.

        Raises:
            UsageError: E236 if the measure is not a sum of contributions of columns or pixels.
        """
        if not self.measure.parted:
            raise UsageError(
                "E236",
                f"{flag} shows contributions to -log p, which the score by {self.by} is not",
                fix=f"leave out {flag}, or score by likelihood",
            )

    def document(self) -> dict[str, Any]:
        """Return measure and calibration as plain JSON values, which `kept` reads."""
        return {
            "measure": dict(vars(self.measure)),
            "scores": self.calibration.scores.tolist(),
            "alarm": self.alarm._asdict(),
        }


# Measures whose held-out scores cannot be computed from the likelihood scores. A model file stores
# their scores and arguments.
_KEPT: dict[str, Callable[[Mapping[str, Any]], Measure]] = {"levels": LevelRatio.restored}


def kept(documents: Mapping[str, Any]) -> dict[str, Scoring]:
    """Return the scorings stored in a model file; those of later versions are ignored."""
    return {
        by: Scoring(
            by,
            _KEPT[by](document["measure"]),
            Calibration(np.asarray(document["scores"], np.float64)),
            Alarm.restored(document["alarm"]),
        )
        for by, document in documents.items()
        if by in _KEPT
    }
