"""Sorted distinct values of a column of numbers, and statistics of their distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Sorted distinct numbers, their counts, and statistics of their distribution."""

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray) -> Spread:
        """Return the spread of the numbers that are not missing."""
        ordered = np.sort(numbers[~np.isnan(numbers)])
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
        return cls(ordered[starts], np.diff(np.append(starts, len(ordered))))

    @cached_property
    def _ranks(self) -> np.ndarray:
        return np.cumsum(self.counts)

    @property
    def rows(self) -> int:
        """Return the number of values, duplicates included."""
        return int(self._ranks[-1]) if len(self.counts) else 0

    @property
    def whole(self) -> bool:
        """Return whether all are whole numbers that float64 represents exactly."""
        values = self.values
        return bool((values == np.rint(values)).all() and (np.abs(values) < 2.0**53).all())

    def where(self, keep: np.ndarray) -> Spread:
        """Return the spread of the distinct values selected by a mask."""
        return Spread(self.values[keep], self.counts[keep])

    def quantile(self, share: float) -> float:
        """Return the smallest value that is at least as large as the given share of the rows."""
        return float(self.values[np.searchsorted(self._ranks, share * self.rows)])

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation, with extreme outliers clipped.

        Values are clipped at a hundred robust standard deviations from the median, so that one
        value of 1e12 in a column of hundreds does not flatten all others.
        """
        middle = self.quantile(0.5)
        reach = 100 * (self.quantile(0.75) - self.quantile(0.25)) / 1.349
        values = self.values
        if 0 < reach < np.inf:
            values = np.clip(values, middle - reach, middle + reach)
        size = float(np.abs(values).max()) or 1.0
        weights = self.counts / self.rows
        scaled = values / size  # squares of 1e200 overflow float64
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
