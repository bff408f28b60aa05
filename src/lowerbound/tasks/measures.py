"""Anomaly measures, and their calibration on held-out rows.

P-values and alarms come from the ranks of a measure among held-out rows, so they have the same
meaning for every `Measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from lowerbound.coding.base import Coded
from lowerbound.coding.rows import Rows, Sparse
from lowerbound.errors import UsageError
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Alarm, Calibration, Coarse, discovery_cut
from lowerbound.tasks.finite import finite
from lowerbound.tasks.labels import WithoutLabels
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
class Unlabelled:
    """Difference of -log p(counts) from its mean over cells of the same total count, nats.

    Labels are not part of it. -log p depends most on the total count, so its mean given the total
    is subtracted. A gene that a cell lacks contributes the mean -log p of that gene over held-out
    cells, so that cells with fewer genes are comparable.

    Args:
        usual: (genes,) E[-log p(count | z)] of each gene over held-out cells, nats.
        depth: the smallest and the largest log total of training, and the coefficients of a
            polynomial of -log p in the log total, scaled to -1 to 1 between these.
        samples: draws of z for each cell.
    """

    usual: tuple[float, ...] = ()
    depth: tuple[float, ...] = (0.0, 1.0, 0.0)
    samples: int = draws.SCORE_SAMPLES
    parted: ClassVar[bool] = False

    @classmethod
    def of(cls, usual: Sequence[float], samples: int) -> Unlabelled:
        """Return the measure without a curve, to which `given_total` adds one."""
        return cls(tuple(float(f"{nats:.4g}") for nats in usual), samples=samples)

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> Unlabelled:
        """Rebuild the measure from its document; keys of later versions are ignored."""
        numbers = {name: tuple(document[name]) for name in ("usual", "depth")}
        return cls(**numbers, samples=document["samples"])

    def given_total(self, model: nn.Module, learned: Coded) -> Unlabelled:
        """Return the measure with the curve of -log p in the log total of training cells."""
        totals, nats = _log_totals(learned.rows), self(model, learned)
        low, high = float(totals.min()), float(totals.max())
        degree = min(3, len(np.unique(totals)) - 1)
        powers = np.vander(_between(totals, low, high), degree + 1, increasing=True)
        curve = np.linalg.lstsq(powers, nats, rcond=None)[0]
        return replace(self, depth=(low, high, *map(float, curve)))

    def __call__(self, model: nn.Module, coded: Coded) -> NDArray[np.float64]:
        """Return the score of every cell, (n,) nats."""
        head: Any = model.get_submodule("likelihood")
        rows = WithoutLabels(coded.rows, head.sizes[1])
        absent = coded.rows.absent if isinstance(coded.rows, Sparse) else ()
        nats = draws.score(model, rows, self.samples).double().numpy()
        nats = nats + sum(self.usual[gene] for gene in absent)
        low, high, *curve = self.depth
        at = _between(_log_totals(coded.rows), low, high)
        return nats - np.vander(at, len(curve), increasing=True) @ np.array(curve)


def _log_totals(rows: Rows) -> NDArray[np.float64]:
    """Return the first number of the context of counts, (n,)."""
    found = [rows.take(part).context for part in torch.arange(len(rows)).split(256)]
    return torch.cat([each[:, 0] for each in found if each is not None]).double().numpy()


def _between(totals: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return log totals held to a range, and scaled to -1 to 1 in it."""
    width = max(high - low, 1e-9)
    return 2.0 * (np.clip(totals, low, high) - low) / width - 1.0


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
_KEPT: dict[str, Callable[[Mapping[str, Any]], Measure]] = {
    "levels": LevelRatio.restored,
    "unlabelled": Unlabelled.restored,
}


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
