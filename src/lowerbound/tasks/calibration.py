"""P-values and alarm thresholds from the ranks of scores among held-out rows.

They are valid for any score, whatever its distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from lowerbound.errors import UsageError


class Alarm(NamedTuple):
    """A threshold on the anomaly score and the false-alarm rate that it gives.

    Attributes:
        threshold: rows with a score above it are flagged.
        rate: expected share of normal rows that are flagged.
        low: lower end of the 95 % interval of that share.
        high: upper end.
    """

    threshold: float
    rate: float
    low: float
    high: float

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> Alarm:
        """Rebuild an alarm from its document; keys of later versions are ignored."""
        return cls(*(document[name] for name in cls._fields))


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out normal rows, in ascending order.

    References:
        Vovk, Gammerman & Shafer, "Algorithmic learning in a random world", 2005 (conformal
        p-values); Bates et al., "Testing for outliers with conformal p-values", 2023.

    Args:
        scores: anomaly scores of rows that training has not seen.
    """

    scores: NDArray[np.float64]

    @classmethod
    def of(cls, scores: NDArray[np.floating]) -> Calibration:
        """Build a calibration from unsorted scores; infinite and NaN scores are left out."""
        finite = np.asarray(scores, np.float64)
        return cls(np.sort(finite[np.isfinite(finite)]))

    def p_values(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the conformal p-value (1 + #{held-out >= score}) / (n + 1) of every score, (n,).

        For rows exchangeable with the held-out ones, it is at most alpha with probability at most
        alpha.
        """
        n = len(self.scores)
        above = n - np.searchsorted(self.scores, np.asarray(scores, np.float64), side="left")
        return np.asarray((1.0 + above) / (n + 1.0), np.float64)

    def alarm(self, rate: float) -> Alarm:
        """Return the threshold that flags at most the share `rate` of normal rows.

        The threshold is the k-th largest of the n held-out scores, k = floor(rate (n + 1)), at
        least 1. If the score is continuous, the share flagged has a Beta(k, n + 1 - k)
        distribution over draws of the held-out rows, with mean k / (n + 1). Ties at the threshold
        lower it: of n + 1 exchangeable rows, those with a score above the (k + 1)-th largest are
        flagged when the others calibrate, so the expected share is their number over n + 1.

        Raises:
            UsageError: E240 for a rate outside (0, 1).
        """
        if not 0.0 < rate < 1.0:
            raise UsageError(
                "E240", f"alarm_rate must be between 0 and 1, got {rate}", fix="--alarm-rate 0.01"
            )
        n = len(self.scores)
        if not n:
            return Alarm(np.inf, 0.0, 0.0, 1.0)
        k = min(n, max(1, _floor(rate * (n + 1))))
        threshold = float(self.scores[n - k])
        following = float(self.scores[n - k - 1]) if k < n else -np.inf
        # Ties show that the score is discrete: then Beta(k, ...) is an upper bound of the share,
        # and fewer rows may be flagged, as if the threshold had the rank below.
        beyond, tied = self._above(threshold), bool((np.diff(self.scores) == 0).any())
        low, high = (beyond, beyond + 1) if tied else (k, k)
        return Alarm(
            threshold,
            self._above(following) / (n + 1),
            _beta_quantile(0.025, low, n + 1 - low) if low else 0.0,
            _beta_quantile(0.975, high, n + 1 - high),
        )

    def _above(self, score: float) -> int:
        """Return the number of held-out scores above a score."""
        return len(self.scores) - int(np.searchsorted(self.scores, score, side="right"))

    def unreachable(self, rate: float) -> str:
        """Return why an alarm rate cannot be reached, and the rate used instead; "" if it can."""
        n = len(self.scores)
        if _floor(rate * (n + 1)) >= 1:
            return ""
        return (
            f"{n:,} calibration {_rows(n)} cannot resolve an alarm rate of {rate:.3%}, which "
            f"takes {_ceiling(1 / rate) - 1:,}: the threshold is their highest score, which flags "
            f"{self.alarm(rate).rate:.2%} of normal rows"
        )

    def too_coarse(self, scores: NDArray[np.floating], rate: float) -> Coarse | None:
        """Return the calibration rows that a false-discovery rate takes, if there are too few.

        The smallest p-value of n calibration rows is 1 / (n + 1). The Benjamini-Hochberg procedure
        flags m of N rows with this p-value only if it is at most m rate / N, which takes
        N / (m rate) - 1 calibration rows.

        Args:
            scores: (N,) scores of all rows that are tested.
            rate: the false-discovery rate, in (0, 1).

        Returns:
            None if a row is flagged, or if one row with the smallest p-value would be.
        """
        p, n = self.p_values(scores), len(self.scores)
        coarse = Coarse(n, len(p), rate, int((p * (n + 1) < 1.5).sum()))
        return coarse if coarse.needed() > n and discovery_cut(p, rate) == 0.0 else None


class Coarse(NamedTuple):
    """P-values that are too coarse for a false-discovery rate.

    Attributes:
        held_out: number of calibration rows.
        tested: number of rows that are tested together.
        rate: the false-discovery rate.
        highest: number of tested rows with the smallest p-value: those that score above all
            calibration rows.
    """

    held_out: int
    tested: int
    rate: float
    highest: int

    def needed(self, flagged: int = 1) -> int:
        """Return the number of calibration rows that it takes to flag this many rows."""
        return _ceiling(self.tested / (flagged * self.rate)) - 1

    def __str__(self) -> str:
        """Return the cause, and the number of calibration rows that it takes, as a sentence."""
        least = f"{1 / (self.held_out + 1):.2g}"
        together = _ceiling(self.tested / (self.rate * (self.held_out + 1)))
        limit = (
            f"{together:,} of the {self.tested:,} rows must have it to be flagged"
            + (f", and {self.highest:,} {'has' if self.highest == 1 else 'have'}")
            if together <= self.tested
            else f"not even all {self.tested:,} rows together can be flagged"
        )
        some = (
            f"{self.needed(self.highest):,} calibration rows to flag these {self.highest:,} rows, "
            if self.highest > 1
            else ""
        )
        return (
            f"the p-values are too coarse for a false-discovery rate of {self.rate:g}: the "
            f"smallest with {self.held_out:,} calibration {_rows(self.held_out)} is {least}; "
            f"{limit}. It takes {some}{self.needed():,} to flag a single row"
        )


def _rows(n: int) -> str:
    return "row" if n == 1 else "rows"


_ROUNDING = 1e-12  # relative; 0.29 times 100 is a little below 29


def _floor(number: float) -> int:
    return math.floor(number * (1 + _ROUNDING))


def _ceiling(number: float) -> int:
    return math.ceil(number * (1 - _ROUNDING))


def discovery_cut(p_values: NDArray[np.floating], rate: float) -> float:
    """Return the p-value up to which to flag rows, for a given false-discovery rate.

    References:
        Benjamini & Hochberg, "Controlling the false discovery rate", 1995.

    Args:
        p_values: (n,), in (0, 1].
        rate: the largest expected share of flagged rows that are normal, in (0, 1).

    Returns:
        The largest p_(k) that is at most k rate / n; 0, which flags nothing, if there is none.
    """
    p = np.sort(np.asarray(p_values, np.float64))
    within = p[p <= (1 + _ROUNDING) * rate * np.arange(1, len(p) + 1) / len(p)]
    return float(within[-1]) if len(within) else 0.0


def _beta_quantile(share: float, a: int, b: int) -> float:
    # Equal to scipy.stats.beta.ppf; importing scipy.stats would add a second to every start.
    return float(scipy.special.betaincinv(a, b, share))
