"""Columns of numbers that follow from others on all rows: sums, differences, other units.

scikit-learn's OrthogonalMatchingPursuit is not used: it needs complete rows and a number of terms
or a squared error to stop at, where a formula must give every value to its grid, and importing it
would add a second to each fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

MOST_TERMS = 8  # columns of a formula
# Rows per term, at least, and rows on which formulas are looked for before all rows confirm them.
ROWS_PER_TERM, LOOKED_AT = 20, 2_000
CLOSE = 1e-6  # difference from a formula, in standard deviations, of numbers without a grid
DIGITS = 9  # of weights, if these suffice
# Share of the variance that must be explained by the terms so far, for another one.
HOPEFUL = (0.0, 0.0, 0.3, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9)


class Relation(NamedTuple):
    """A number as the sum of weights times others, and a constant.

    Attributes:
        columns: the columns in the formula.
        weights: the weight of each of these columns.
        constant: the intercept.
    """

    columns: list[int]
    weights: list[float]
    constant: float


def formulas(raw: Floats, grains: Floats) -> dict[int, Relation]:
    """Return column -> formula, for the columns that follow linearly from others on all rows.

    Terms are chosen one after another by the variance that they explain (orthogonal matching
    pursuit), until the formula gives every value, and are left out again if they can be.

    References:
        Pati, Rezaiifar & Krishnaprasad, "Orthogonal matching pursuit", 1993.

    Args:
        raw: (n, N) numbers, NaN where missing.
        grains: (N,) the number that all values of a column are multiples of; 0 for none.

    >>> a, b = np.arange(100.0) % 7, np.arange(100.0) % 5
    >>> found = formulas(np.stack([a, b, a + b], 1), np.ones(3))
    >>> found[2].columns, found[2].weights
    ([0, 1], [1.0, 1.0])
    """
    some = raw[:LOOKED_AT]
    found = {}
    for column in range(raw.shape[1]):
        relation = _looked_for(some, column, float(grains[column]))
        if relation is not None and _holds(raw, column, relation, float(grains[column])):
            found[column] = relation
    for column, relation in list(found.items()):
        for other in relation.columns:
            if other not in found:
                turned = _solved(column, relation, other)
                if _holds(raw, other, turned, float(grains[other])):
                    found[other] = turned
    return found


def _solved(column: int, relation: Relation, other: int) -> Relation:
    """Return the formula of a column as one of another column in it."""
    own = relation.weights[relation.columns.index(other)]
    pairs = zip(relation.columns, relation.weights, strict=True)
    rest = [(c, -weight / own) for c, weight in pairs if c != other]
    columns, weights = [column, *(c for c, _ in rest)], [1 / own, *(w for _, w in rest)]
    return Relation(columns, weights, -relation.constant / own)


def _looked_for(raw: Floats, column: int, grain: float) -> Relation | None:
    """Return the formula of a column on some rows."""
    others = [i for i in range(raw.shape[1]) if i != column and np.nanstd(raw[:, i]) > 0]
    chosen: list[int] = []
    for share in HOPEFUL[: MOST_TERMS + 1]:
        rows = ~np.isnan(raw[:, [column, *chosen]]).any(1)
        if rows.sum() < ROWS_PER_TERM * (len(chosen) + 2):
            return None
        relation, rest = _fitted(raw[rows], column, chosen)
        spread = np.std(raw[rows, column])
        if spread == 0 or 1 - (np.std(rest) / spread) ** 2 < share:
            return None
        if chosen and _holds(raw, column, relation, grain):
            return _shortest(raw, column, chosen, grain)
        if not others:
            return None
        best = max(others, key=lambda i: _alike(raw[rows, i], rest))
        chosen.append(best)
        others.remove(best)
    return None


def _alike(one: Floats, other: Floats) -> float:
    """Return the absolute correlation of two columns where the first is known."""
    known = ~np.isnan(one)
    if known.sum() < ROWS_PER_TERM:
        return 0.0
    a, b = one[known] - one[known].mean(), other[known] - other[known].mean()
    return float(abs(a @ b) / max(np.sqrt((a @ a) * (b @ b)), 1e-300))


def _fitted(raw: Floats, column: int, chosen: list[int]) -> tuple[Relation, Floats]:
    """Return the least-squares formula in the chosen columns, and its residuals (rows,)."""
    y, x = raw[:, column], raw[:, chosen]
    middle, scale = x.mean(0), np.maximum(x.std(0), 1e-300)
    weights = np.linalg.lstsq((x - middle) / scale, y - y.mean(), rcond=None)[0] / scale
    constant = float(y.mean() - middle @ weights)
    return Relation(chosen, weights.tolist(), constant), y - x @ weights - constant


def _holds(raw: Floats, column: int, relation: Relation, grain: float) -> bool:
    """Return whether a formula gives every known value of a column, to its grid."""
    rows = ~np.isnan(raw[:, [column, *relation.columns]]).any(1)
    y = raw[rows, column]
    made = raw[rows][:, relation.columns] @ np.array(relation.weights) + relation.constant
    if grain > 0:
        return bool(len(y) and (np.abs(np.round(made / grain) * grain - y) < grain / 4).all())
    return bool(len(y) and (np.abs(made - y) <= CLOSE * np.std(y)).all())


def _shortest(raw: Floats, column: int, chosen: list[int], grain: float) -> Relation:
    """Return the formula with as few terms and digits as it needs."""
    kept = list(chosen)
    for each in chosen:
        fewer = [i for i in kept if i != each]
        rows = ~np.isnan(raw[:, [column, *fewer]]).any(1)
        if fewer and _holds(raw, column, _fitted(raw[rows], column, fewer)[0], grain):
            kept = fewer
    rows = ~np.isnan(raw[:, [column, *kept]]).any(1)
    whole = _fitted(raw[rows], column, kept)[0]
    size = np.abs(raw[rows, column]).max()
    weights = [float(f"{weight:.{DIGITS}g}") for weight in whole.weights]
    constant = 0.0 if abs(whole.constant) < CLOSE * size else float(f"{whole.constant:.{DIGITS}g}")
    short = Relation(kept, weights, constant)
    return short if _holds(raw, column, short, grain) else whole
