"""Distribute a random sample without replacement over the parts of a table.

NumPy draws hypergeometric numbers from fewer than a billion rows. Beyond them the binomial law
stands in, from which no sample could tell it there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST = 10**9


def share(rng: np.random.Generator, wanted: int, left: int, rows: int) -> int:
    """Return the number to draw from `rows` rows, if `wanted` of `left` remain to be drawn.

    `rows` are the next of the `left` ones; what remains to be drawn is never more than what
    remains of these.
    """
    if wanted == left:
        return rows
    if left < _MOST:
        return int(rng.hypergeometric(wanted, left - wanted, rows))
    fewest = wanted - (left - rows)
    return min(max(int(rng.binomial(rows, wanted / left)), fewest), wanted)


def dealt(rng: np.random.Generator, count: int, free: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of `count` rows that go to each block, (blocks,), by its `free` places."""
    places = int(free.sum())
    if places < _MOST:
        return rng.multivariate_hypergeometric(free, count, method="marginals")
    before, behind = np.array_split(free, 2)
    first = share(rng, count, places, int(before.sum()))
    return np.concatenate([dealt(rng, first, before), dealt(rng, count - first, behind)])
