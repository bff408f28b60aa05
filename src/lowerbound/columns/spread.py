"""The sorted distinct values of a column of numbers, and the shape of their distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Sorted distinct numbers, how often each occurs, and the shape of their distribution."""

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray) -> Spread:
        """Sort the numbers that are not missing."""
        ordered = np.sort(numbers[~np.isnan(numbers)])
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
        return cls(ordered[starts], np.diff(np.append(starts, len(ordered))))

    @cached_property
    def _ranks(self) -> np.ndarray:
        return np.cumsum(self.counts)

    @property
    def rows(self) -> int:
        """Return how many numbers there are."""
        return int(self._ranks[-1]) if len(self.counts) else 0

    @property
    def whole(self) -> bool:
        """Tell whether all are whole numbers that float64 holds exactly."""
        values = self.values
        return bool((values == np.rint(values)).all() and (np.abs(values) < 2.0**53).all())

    def where(self, keep: np.ndarray) -> Spread:
        """Keep some of the distinct values."""
        return Spread(self.values[keep], self.counts[keep])

    def quantile(self, share: float) -> float:
        """Return the smallest value that at least this share of the rows does not exceed."""
        return float(self.values[np.searchsorted(self._ranks, share * self.rows)])

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation after holding back absurd outliers.

        One cell of 1e12 in a column of hundreds must not flatten all the others, so values
        beyond a hundred robust standard deviations from the median count as lying there.
        """
        middle = self.quantile(0.5)
        reach = 100 * (self.quantile(0.75) - self.quantile(0.25)) / 1.349
        values = self.values
        if 0 < reach < np.inf:
            values = np.clip(values, middle - reach, middle + reach)
        size = float(np.abs(values).max()) or 1.0
        weights = self.counts / self.rows
        scaled = values / size  # the squares of 1e200 are no float64
        mean = float(weights @ scaled)
        std = float(np.sqrt(weights @ (scaled - mean) ** 2))
        return mean * size, max(std * size, np.finfo(float).tiny)

    def skewness(self) -> float:
        """Return the third standardised moment."""
        size = float(np.abs(self.values).max()) or 1.0
        weights = self.counts / self.rows
        scaled = self.values / size
        centred = scaled - weights @ scaled
        variance = float(weights @ centred**2)
        return float(weights @ centred**3) / variance**1.5 if variance > 0 else 0.0
