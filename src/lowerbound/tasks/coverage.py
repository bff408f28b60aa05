"""Coverage: how often hidden values lie where the model expects them, column by column."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

INSIDE = 0.8  # probability of the central interval whose coverage is measured


class ColumnCoverage(NamedTuple):
    """The coverage of one column: the share of hidden values within the predicted range.

    Attributes:
        column: its name.
        kind: "number" or "category".
        expected: of numbers, the probability of the interval; of categories, how often the model
            expects its draw to be right, which is how often two of its draws agree.
        found: of numbers, the share of hidden values in the interval; of categories, how often a
            draw is right.
        low: lower end of the 95 % interval of `found`.
        high: upper end.
        rows: number of values that were hidden.
    """

    column: str
    kind: str
    expected: float
    found: float
    low: float
    high: float
    rows: int

    @property
    def as_expected(self) -> bool:
        """True if the expected share lies in the 95 % interval of the share found."""
        return self.low <= self.expected <= self.high


def column_coverage(
    name: str, hidden: pa.ChunkedArray, draws: list[pa.ChunkedArray], seed: int = 0
) -> ColumnCoverage | None:
    """Compare hidden values with draws of them given the rest of their rows.

    Args:
        name: the column.
        hidden: (n,) the values, in the type of `Schema.canonical`.
        draws: copies of them as the model draws them, (n,) each.
        seed: of the random ranks of equal values.

    Returns:
        The coverage; None if no value is left.
    """
    if pa.types.is_floating(hidden.type) or pa.types.is_integer(hidden.type):
        truth, drawn = _floats(hidden), np.stack([_floats(each) for each in draws], 1)
        seen = np.isfinite(truth) & np.isfinite(drawn).all(1)
        if not seen.any():
            return None
        ranks = _ranks(truth[seen], drawn[seen], seed)
        edge = (1 - INSIDE) / 2
        inside = ((ranks > edge) & (ranks < 1 - edge)).astype(np.float64)
        return ColumnCoverage(name, "number", INSIDE, *_share(inside), len(inside))
    truth = np.array(hidden.cast(pa.string()).to_pylist(), object)
    drawn = np.array([each.cast(pa.string()).to_pylist() for each in draws], object).T
    seen = np.array([value is not None for value in truth])
    if not seen.any():
        return None
    right = (drawn[seen] == truth[seen][:, None]).mean(1)
    agree = np.mean([drawn[seen][:, i] == drawn[seen][:, i - 1] for i in range(len(draws))])
    return ColumnCoverage(name, "category", float(agree), *_share(right), int(seen.sum()))


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: Any = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values.astype(np.float64)


def _ranks(
    truth: NDArray[np.float64], drawn: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return the rank of every value among its draws, uniform on (0, 1) if both are alike."""
    uniform = np.random.default_rng(seed).random(len(truth))
    below = (drawn < truth[:, None]).sum(1)
    equal = (drawn == truth[:, None]).sum(1)
    return (below + uniform * (equal + 1)) / (drawn.shape[1] + 1)


def _share(each: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return a mean of shares and the ends of its 95 % interval (Agresti and Coull)."""
    n = len(each)
    mean = float(each.mean())
    centre = (each.sum() + 2) / (n + 4)
    reach = 1.96 * float(np.sqrt(centre * (1 - centre) / (n + 4)))
    return mean, max(0.0, float(centre) - reach), min(1.0, float(centre) + reach)
