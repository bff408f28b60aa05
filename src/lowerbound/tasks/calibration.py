"""P-values and alarm thresholds from the ranks of scores among held-out rows.

They are valid for any score, whatever its distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

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
        """Return the threshold that flags the share `rate` of normal rows, with its interval.

        The share flagged by the k-th largest of n held-out scores has a Beta(k, n + 1 - k)
        distribution over draws of the held-out rows, whatever the score's distribution.

        Raises:
            UsageError: E240 for a rate outside (0, 1).
        """
        if not 0.0 < rate < 1.0:
            raise UsageError(
                "E240", f"alarm_rate must be between 0 and 1, got {rate}", fix="--alarm-rate 0.01"
            )
        n = len(self.scores)
        k = int(np.floor(rate * (n + 1)))
        if k < 1:
            # Too few rows for so small a rate: the largest score is the best possible threshold.
            top = float(self.scores[-1]) if n else np.inf
            return Alarm(top, 1.0 / (n + 1), 0.0, _beta_quantile(0.975, 1, n) if n else 1.0)
        low, high = (_beta_quantile(q, k, n + 1 - k) for q in (0.025, 0.975))
        return Alarm(float(self.scores[n - k]), k / (n + 1), low, high)


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
    within = p[p <= rate * np.arange(1, len(p) + 1) / len(p)]
    return float(within[-1]) if len(within) else 0.0


def _beta_quantile(share: float, a: int, b: int) -> float:
    # Equal to scipy.stats.beta.ppf; importing scipy.stats would add a second to every start.
    return float(special.betaincinv(a, b, share))
