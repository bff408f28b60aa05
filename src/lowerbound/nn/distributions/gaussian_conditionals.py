"""The conditionals of one Gaussian, given any subset of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

SMALLEST = 1e-9  # variance of a column that the seen ones determine


class Conditional(NamedTuple):
    """The Gaussian of all features given those that were seen in each of B rows.

    Attributes:
        mean: (B, D) float64.
        covariance: (B, D, D) float64, or (1, D, D) while all rows have seen the same columns.
    """

    mean: Tensor
    covariance: Tensor

    def at(self, rows: Tensor) -> Conditional:
        """Return some of the rows."""
        shared = len(self.covariance) == 1
        return Conditional(self.mean[rows], self.covariance if shared else self.covariance[rows])


class GaussianConditionals(nn.Module):
    """A Gaussian of the numbers and some codes of a row, conditioned on one column after another.

    Each step is one update of the sweep, as in a Kalman filter: after any of them, the mean and
    the variance of every number given the columns seen so far are at hand.

    Args:
        numbers: the columns of numbers, the first features.
        codes: (column, code) of each further feature, which is 1 where the column has the code.
        passive: columns that are predicted, and on which nothing is conditioned.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(
        self,
        numbers: Sequence[int],
        codes: Sequence[Sequence[int]],
        passive: Sequence[int] = (),
    ) -> None:
        super().__init__()
        size = len(numbers) + len(codes)
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(size, dtype=torch.float64))
        self.features: dict[int, list[tuple[int, int | None]]] = {}
        for place, column in enumerate(numbers):
            self.features[column] = [] if column in passive else [(place, None)]
        for place, (column, code) in enumerate(codes, len(numbers)):
            self.features.setdefault(column, []).append((place, code))

    def start(self, rows: int) -> Conditional:
        """Return the Gaussian of rows in which nothing is seen."""
        return Conditional(self.mean.expand(rows, -1), self.covariance[None])

    def see(self, now: Conditional, column: int, values: Tensor, seen: Tensor) -> Conditional:
        """Return the Gaussian given also the values of a column.

        Args:
            now: given the columns so far.
            column: its index.
            values: (B,) its numbers or codes; arbitrary where it is not seen.
            seen: (B,) bool.
        """
        features = self.features.get(column, ())
        some = bool(seen.any()) if features else False
        if not some:
            return now
        everywhere = bool(seen.all())
        mean, covariance = now
        for place, code in features:
            value = values if code is None else values == code
            variance = covariance[:, place, place].clamp_min(SMALLEST)
            gain = covariance[:, :, place] / variance[:, None]
            if not everywhere:
                gain = gain * seen[:, None]
            mean = mean + gain * (value.to(mean) - mean[:, place])[:, None]
            covariance = covariance - gain[:, :, None] * covariance[:, place, None, :]
        return Conditional(mean, covariance)

    def of(self, now: Conditional, number: int) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (B,), of a number given what was seen."""
        variance = now.covariance[:, number, number].clamp_min(SMALLEST)
        return now.mean[:, number], variance.sqrt().expand(len(now.mean))
