"""Columns of numbers that follow from others on all rows, or are at most another one.

Sums, products, logarithms, other units, and orders.

scikit-learn's OrthogonalMatchingPursuit is not used: it needs complete rows and a number of terms
or a squared error to stop at, where a formula must give every value to its grid, and importing it
would add a second to each fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Form = Literal["sum", "log", "exp", "product"]

MOST_TERMS, MOST_FACTORS = 24, 4  # columns of a sum and of a product
# Rows per term, at least, and rows on which formulas are looked for before all rows confirm them.
ROWS_PER_TERM, LOOKED_AT = 20, 1_000
# A column is added to a formula if it explains a share of HOPEFUL / n of the residual variance,
# where n more columns may be added. It is ignored if the columns chosen so far explain it up to a
# residual of COLLINEAR standard deviations.
HOPEFUL, COLLINEAR = 0.25, 1e-8
FEW_STEPS = 4  # a number with fewer steps of its grid is no product
CLOSE = 1e-6  # difference from a formula, in standard deviations, of numbers without a grid
HALF = 0.5 + 1e-6  # difference from a formula, in steps of the grid: an exact half rounds to both
BELOW_HALF = 0.5 - 5e-6  # likewise, of numbers that are all rounded down, or all up
NEARLY = 1.0  # likewise, of weights by least squares: those of fewer digits may be better
TIPPED = 1e-6  # in steps of the grid, added to a constant to round halves up or down
# No formula is looked for if least squares leave more than this multiple of the difference that
# one may have, and this share of the range.
SLACK, ROUNDING = 2.0, 1e-9
MOST_OTHERS = 8  # formulas of a column, besides the first
MOSTLY = 0.6  # share of rows that the rounded formula gives; the others are halves
# Rows in which an order of two columns would be broken if they were independent, at least.
BY_CHANCE = 30.0
DIGITS = range(1, 10)  # of weights, the fewest that suffice


class Relation(NamedTuple):
    """A number by a formula of others.

    Attributes:
        columns: the columns in the formula.
        weights: the weight of each of these columns.
        constant: the intercept, or the factor of a product.
        form: "sum" of weights times columns and the constant; "log", the same of logarithms;
            "exp", the exponential of a sum; or "product" of powers and the constant.
    """

    columns: list[int]
    weights: list[float]
    constant: float
    form: Form = "sum"

    def value(self, raw: Floats) -> Floats:
        """Return what the formula gives in rows (n, N)."""
        terms, weights = raw[:, self.columns], np.array(self.weights)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.form == "product":
                return np.prod(np.maximum(terms, 0.0) ** weights, 1) * self.constant
            if self.form == "log":
                terms = np.log(np.maximum(terms, 0.0))
            found = terms @ weights + self.constant
            return np.exp(found) if self.form == "exp" else found


class Relations(NamedTuple):
    """The formulas of the columns of a table, returned by `related`.

    Attributes:
        formulas: column -> formula, for the columns that follow from others.
        follows: column -> columns that it follows from, without any circle.
        others: column -> further formulas of it, in other columns, and how far the first of these
            may be from its value before it was rounded: 0 if the formula gives every number, to
            its grid.
    """

    formulas: dict[int, Relation]
    follows: dict[int, list[int]]
    others: dict[int, list[tuple[Relation, float]]]


def related(raw: Floats, grains: Floats, fixed: Collection[int] = ()) -> Relations:
    """Find the columns that follow from others on all rows, as sums, products or logarithms.

    Formulas of few digits come first, so that 19 % of an amount are that and no mixture of other
    columns. Of the columns of one formula, that with the most values follows from the others: a
    total can have any value that its parts add up to, but a part may have only a few. For columns
    that follow from no others, formulas are looked for again without those that follow from them.

    Args:
        raw: (n, N) numbers, NaN where missing.
        grains: (N,) the number that all values of a column are multiples of; 0 for none.
        fixed: columns that others follow from, but that follow from none.

    >>> a, b = np.arange(100.0) % 7, np.arange(100.0) % 5
    >>> related(np.stack([a, b, a + b], 1), np.ones(3)).follows
    {2: [0, 1]}
    """
    found, follows = formulas(raw, grains, fixed), {}
    every = range(raw.shape[1])
    size = {i: (len(np.unique(raw[:, i])), _steps(raw[:, i], float(grains[i]))) for i in every}
    order = sorted(every, key=lambda i: (size[i], -i), reverse=True)

    def follow(column: int, relation: Relation) -> None:
        """Let one column of a relation follow from the others, if none follows from it."""
        for target in sorted({column, *relation.columns}, key=order.index):
            turned = relation if target == column else _solved(column, relation, target)
            free = turned is not None and target not in fixed
            if turned and free and _may_follow(raw, grains, target, turned, follows):
                found[target], follows[target] = turned, turned.columns
                return

    done: list[set[int]] = []
    for column, relation in sorted(found.items(), key=lambda each: _digits(each[1])):
        if {column, *relation.columns} not in done:
            done.append({column, *relation.columns})
            follow(column, relation)
    for column in order:
        later = [c for c in follows if c != column and needs(follows, c, column)]
        if column not in follows and column not in fixed and later:
            relation = _confirmed(raw, column, float(grains[column]), later)
            if relation is not None:
                follow(column, relation)
    return Relations(found, follows, _turned(raw, grains, found, fixed))


def _may_follow(
    raw: Floats,
    grains: Floats,
    column: int,
    relation: Relation,
    follows: Mapping[int, Sequence[int]],
) -> bool:
    """Return whether a column can follow by a formula that holds, without any circle."""
    circle = any(needs(follows, each, column) for each in relation.columns)
    return (
        column not in follows
        and not circle
        and _holds(raw, column, relation, float(grains[column]))
    )


def _turned(
    raw: Floats, grains: Floats, found: Mapping[int, Relation], fixed: Collection[int]
) -> dict[int, list[tuple[Relation, float]]]:
    """Return the formulas solved for each column in them, and how far numbers may be from each."""
    others: dict[int, list[tuple[Relation, float]]] = {}
    for column, relation in sorted(found.items(), key=lambda each: _digits(each[1])):
        for other in (each for each in relation.columns if each not in fixed):
            known = others.setdefault(other, [])
            had = [set(each.columns) for each, _ in known]
            had += [set(found[other].columns)] if other in found else []
            turned = _solved(column, relation, other)
            if turned and set(turned.columns) not in had and len(known) < MOST_OTHERS:
                exact = _holds(raw, other, turned, float(grains[other]))
                within = 0.0 if exact else HALF * float(grains[column])
                known += [(turned, within)] if exact or within > 0 else []
    return others


def at_most(raw: Floats) -> list[tuple[int, int]]:
    """Return the pairs (lower, upper) of columns with lower <= upper on all rows.

    Only pairs for which that is no matter of chance: if the two columns were independent, at
    least `BY_CHANCE` rows would be the other way round. Pairs that follow from two others are
    left out.

    Args:
        raw: (n, N) numbers, NaN where missing.

    >>> first = np.arange(100.0) % 7
    >>> at_most(np.stack([first, first + np.arange(100.0) % 3], 1))
    [(0, 1)]
    """
    count = raw.shape[1]
    below: NDArray[np.int64] = np.zeros((count, count), dtype=np.int64)
    some, ordered = raw[:LOOKED_AT], [np.sort(own[~np.isnan(own)]) for own in raw.T]
    for i in range(count):
        with np.errstate(invalid="ignore"):
            hopeful = np.flatnonzero(~(some[:, i : i + 1] > some).any(0))
        for j in hopeful[hopeful != i].tolist():
            with np.errstate(invalid="ignore"):
                holds = not (raw[:, i] > raw[:, j]).any() and (raw[:, i] < raw[:, j]).any()
            rows = (~np.isnan(raw[:, [i, j]])).all(1).sum() if holds else 0
            if rows and len(ordered[i]) and len(ordered[j]):
                less = np.searchsorted(ordered[j], ordered[i], side="left").mean()
                below[i, j] = rows * less / len(ordered[j]) >= BY_CHANCE
    implied = below @ below > 0
    return [(int(i), int(j)) for i, j in np.argwhere((below > 0) & ~implied)]


def needs(follows: Mapping[int, Sequence[int]], column: int, other: int) -> bool:
    """Return whether a column is another one, or follows from it, directly or not."""
    return column == other or any(needs(follows, c, other) for c in follows.get(column, ()))


def _digits(relation: Relation) -> int:
    """Return the number of digits of the weights, without zeros before or after them."""
    words = (f"{abs(weight):.{max(DIGITS)}e}" for weight in relation.weights)
    return sum(len(word.split("e")[0].replace(".", "").rstrip("0")) for word in words)


def _steps(values: Floats, grain: float) -> float:
    """Return the steps of the grid over the range of a column; infinite without a grid."""
    known = values[~np.isnan(values)]
    return float(np.ptp(known)) / grain if grain > 0 and len(known) else np.inf


def formulas(raw: Floats, grains: Floats, fixed: Collection[int] = ()) -> dict[int, Relation]:
    """Return column -> formula, for the columns that follow from others on all rows.

    Terms are chosen one after another by the variance that they explain (orthogonal matching
    pursuit), until the formula gives every value, and are left out again if they can be. Products
    are looked for in the same way, in logarithms.

    References:
        Pati, Rezaiifar & Krishnaprasad, "Orthogonal matching pursuit", 1993.

    Args:
        raw: (n, N) numbers, NaN where missing.
        grains: (N,) the number that all values of a column are multiples of; 0 for none.
        fixed: columns without a formula of their own.

    >>> a, b = np.arange(100.0) % 7, np.arange(100.0) % 5
    >>> found = formulas(np.stack([a, b, a + b], 1), np.ones(3))
    >>> found[2].columns, found[2].weights
    ([0, 1], [1.0, 1.0])
    """
    found = {}
    for column in sorted(set(range(raw.shape[1])) - set(fixed)):
        relation = _confirmed(raw, column, float(grains[column]))
        if relation is not None:
            found[column] = relation
    for column, relation in sorted(found.items(), key=lambda each: _digits(each[1])):
        for other in (each for each in relation.columns if each not in fixed):
            if other not in found or _digits(found[other]) > _digits(relation):
                turned = _solved(column, relation, other)
                if turned and _holds(raw, other, turned, float(grains[other])):
                    found[other] = turned
    return found


def _confirmed(
    raw: Floats, column: int, grain: float, without: Collection[int] = ()
) -> Relation | None:
    """Return the formula of a column, found on some rows, if it holds on all."""
    some = raw[:LOOKED_AT]
    relation = (
        _looked_for(some, column, grain, without)
        or _product(some, column, grain, without)
        or _logarithmic(some, column, grain, without)
    )
    some_hold = relation is not None and relation.form == "sum" and grain > 0
    if relation is not None and some_hold and not _holds(raw, column, relation, grain):
        bare = relation._replace(constant=0.0)
        relation = relation._replace(constant=_middle(raw, column, bare))
        if not _holds(raw, column, relation, grain, BELOW_HALF):
            return None
    if relation is None or not _holds(raw, column, relation, grain):
        return None
    if grain == 0 or relation.form != "sum":
        return relation
    shares = {}
    for tipped in (0.0, TIPPED * grain, -TIPPED * grain):
        found = relation._replace(constant=relation.constant + tipped)
        shares[tipped] = float((np.abs(_difference(raw, column, found, grain)) < 0.25).mean())
    best = max(shares, key=lambda tipped: shares[tipped])
    return relation._replace(constant=relation.constant + best) if shares[best] > MOSTLY else None


def _solved(column: int, relation: Relation, other: int) -> Relation | None:
    """Return the formula of a column as one of another column in it, if that has a form too."""
    own = relation.weights[relation.columns.index(other)]
    pairs = zip(relation.columns, relation.weights, strict=True)
    rest = [(c, -weight / own) for c, weight in pairs if c != other]
    columns, weights = [column, *(c for c, _ in rest)], [1 / own, *(w for _, w in rest)]
    if relation.form == "product":
        return Relation(columns, weights, relation.constant ** (-1 / own), "product")
    turned: dict[Form, Form] = {"sum": "sum", "log": "exp", "exp": "log"}
    if relation.form != "sum" and rest:  # logarithms of some of the columns only
        return None
    return Relation(columns, weights, -relation.constant / own, turned[relation.form])


def _looked_for(
    raw: Floats, column: int, grain: float, without: Collection[int]
) -> Relation | None:
    """Return the sum of a column on some rows, in which some columns may not be."""
    if not _may_be_sum(raw, column, grain, without):
        return None
    for chosen in _both_ways(raw, column, without, MOST_TERMS):
        rows = ~np.isnan(raw[:, [column, *chosen]]).any(1)
        relation = _fitted(raw[rows], column, chosen)[0]
        if _holds(raw, column, relation, grain, NEARLY):
            found = _shortest(raw, column, chosen, grain)
            if found is not None:
                return found
    return None


def _may_be_sum(raw: Floats, column: int, grain: float, without: Collection[int]) -> bool:
    """Return False if no sum of the others gives a column on some rows, because all fail it.

    The least squares of all columns are at most those of any formula in some of them.
    """
    spread = np.fmax.reduce(raw) - np.fmin.reduce(raw)
    others = [i for i in np.flatnonzero(spread > 0).tolist() if i != column and i not in without]
    rows = raw[~np.isnan(raw[:, [column, *others]]).any(1)]
    if not others or len(rows) < ROWS_PER_TERM + 2 * len(others):
        return bool(others)
    own, left = raw[:, column], _fitted(rows, column, others)[1]
    near = NEARLY * grain if grain > 0 else CLOSE * np.nanstd(own)
    return bool(np.sqrt(np.mean(left**2)) <= SLACK * near + ROUNDING * spread[column])


def _product(raw: Floats, column: int, grain: float, without: Collection[int]) -> Relation | None:
    """Return the product of a column on some rows: powers are whole, or a half."""
    own = raw[:, column]
    if not (np.nan_to_num(own, nan=1.0) >= 0).all() or _steps(own, grain) < FEW_STEPS:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(raw)
    logs[~np.isfinite(logs)] = np.nan
    negative = [i for i in range(raw.shape[1]) if (raw[:, i] < 0).any()]
    for chosen in _both_ways(logs, column, {*without, *negative}, MOST_FACTORS):
        rows = ~np.isnan(logs[:, [column, *chosen]]).any(1)
        fitted = _fitted(logs[rows], column, chosen)[0]
        powers = {c: round(2 * w) / 2 for c, w in zip(chosen, fitted.weights, strict=True)}
        kept = [c for c, power in powers.items() if power]
        bare = Relation(kept, [powers[c] for c in kept], 1.0, "product")
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = float(np.median(own[rows] / bare.value(raw[rows]))) if kept else 0.0
        for digits in DIGITS:
            found = bare._replace(constant=float(f"{factor:.{digits}g}"))
            if kept and 0 < found.constant < np.inf and _holds(raw, column, found, grain):
                return found
    return None


def _logarithmic(
    raw: Floats, column: int, grain: float, without: Collection[int]
) -> Relation | None:
    """Return a column as a sum of logarithms on some rows, or as the exponential of a sum."""
    positive = np.nan_to_num(raw, nan=1.0).min(0) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(positive, np.log(raw), np.nan)
    terms = logs.copy()
    terms[:, column] = raw[:, column]
    relation = _looked_for(terms, column, grain, without)
    if relation is not None:
        return relation._replace(form="log")
    if grain > 0 or not positive[column]:
        return None
    terms = raw.copy()
    terms[:, column] = logs[:, column]
    relation = _looked_for(terms, column, 0.0, without)
    return None if relation is None else relation._replace(form="exp")


def _both_ways(
    raw: Floats, column: int, without: Collection[int], most: int
) -> Iterator[list[int]]:
    """Yield growing lists of columns that begin with the best one, and then with the best two.

    A difference of two columns that are nearly equal depends on neither alone.
    """
    spread = [np.ptp(known) if len(known) else 0.0 for known in (c[~np.isnan(c)] for c in raw.T)]
    others = [i for i in range(raw.shape[1]) if i != column and i not in without and spread[i] > 0]
    if spread[column] > 0:
        yield from _pursued(raw, column, others, [], most)
        pair = _best_pair(raw, column, others)
        if pair:
            yield pair
            yield from _pursued(raw, column, others, pair, most)


def _pursued(
    raw: Floats, column: int, among: Sequence[int], chosen: list[int], most: int
) -> Iterator[list[int]]:
    """Yield growing lists of columns; each adds the one with the largest partial correlation."""
    others = [i for i in among if i not in chosen]
    while others and len(chosen) < most:
        rows = ~np.isnan(raw[:, [column, *chosen]]).any(1)
        if rows.sum() < ROWS_PER_TERM * (len(chosen) + 2):
            return
        gains = _gains(raw[rows], column, chosen, others)
        best = int(gains.argmax())
        if gains[best] < HOPEFUL / (most - len(chosen)):
            return
        chosen = [*chosen, others.pop(best)]
        yield chosen


def _best_pair(raw: Floats, column: int, others: Sequence[int]) -> list[int]:
    """Return the two columns that explain most of another one; empty if that is little.

    Only rows without gaps are looked at.
    """
    x = raw[:, [column, *others]]
    x = x[~np.isnan(x).any(1)]
    if len(others) < 2 or len(x) < 3 * ROWS_PER_TERM:
        return []
    x = x - x.mean(0)
    norm = np.sqrt((x**2).sum(0))
    x /= np.maximum(norm, 1e-300)
    r = x.T @ x
    own, among = r[0, 1:], r[1:, 1:]
    rest = 1.0 - among**2  # of a column given another one
    with np.errstate(divide="ignore", invalid="ignore"):
        both = own**2 + own[:, None] ** 2 - 2 * own * own[:, None] * among
        share = np.where(rest > COLLINEAR, both / rest, 0.0)  # multiple correlation, squared
    first, second = divmod(int(share.argmax()), len(others))
    return [others[first], others[second]] if share[first, second] > HOPEFUL else []


def _gains(raw: Floats, column: int, chosen: Sequence[int], others: Sequence[int]) -> Floats:
    """Return the squared partial correlation of a column with others, given the chosen columns.

    Rows in which one of the others is missing are left out for that one.
    """
    known = ~np.isnan(raw[:, others])
    x = np.concatenate([raw[:, [column, *chosen]], raw[:, others]], 1)
    there = ~np.isnan(x)
    count = np.maximum(there.sum(0), 1)
    x = there * (np.nan_to_num(x) - np.nan_to_num(x).sum(0) / count)
    x /= np.maximum(np.sqrt((x**2).sum(0) / count), 1e-300)
    basis = np.linalg.qr(x[:, 1 : 1 + len(chosen)])[0]
    left = x - basis @ (basis.T @ x)
    rest, own = left[:, :1] * known, left[:, 1 + len(chosen) :] * known
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = (own * rest).sum(0) ** 2 / ((own**2).sum(0) * (rest**2).sum(0))
    usable = (known.sum(0) >= ROWS_PER_TERM) & ((own**2).mean(0) > COLLINEAR**2)
    return np.where(usable, np.nan_to_num(gains), 0.0)


def _fitted(raw: Floats, column: int, chosen: list[int]) -> tuple[Relation, Floats]:
    """Return the least-squares formula in the chosen columns, and its residuals (rows,)."""
    y, x = raw[:, column], raw[:, chosen]
    middle, scale = x.mean(0), np.maximum(x.std(0), 1e-300)
    weights = np.linalg.lstsq((x - middle) / scale, y - y.mean(), rcond=None)[0] / scale
    constant = float(y.mean() - middle @ weights)
    return Relation(chosen, weights.tolist(), constant), y - x @ weights - constant


def _holds(raw: Floats, column: int, relation: Relation, grain: float, most: float = HALF) -> bool:
    """Return whether a formula gives every known value of a column, to its grid.

    Args:
        raw: the rows.
        column: the column.
        relation: the formula.
        grain: of the column; 0 for none.
        most: largest difference, in steps of the grid.
    """
    rows = ~np.isnan(raw[:, [column, *relation.columns]]).any(1)
    y, made = raw[rows, column], relation.value(raw[rows])
    near = most * grain if grain > 0 else CLOSE * np.std(y)
    return bool(len(y) and (np.abs(made - y) <= near).all())


def _difference(raw: Floats, column: int, relation: Relation, grain: float) -> Floats:
    """Return how many steps of its grid the known values are from the rounded formula."""
    rows = ~np.isnan(raw[:, [column, *relation.columns]]).any(1)
    made = relation.value(raw[rows])
    parts = round(1 / grain)
    decimal = grain < 1 and abs(parts * grain - 1) < 1e-9
    rounded = np.round(made * parts) / parts if decimal else np.round(made / grain) * grain
    return (rounded - raw[rows, column]) / grain


def _shortest(raw: Floats, column: int, chosen: list[int], grain: float) -> Relation | None:
    """Return the formula with as few terms and digits as it needs; None if it does not hold."""
    kept = list(chosen)
    for each in chosen:
        fewer = [i for i in kept if i != each]
        rows = ~np.isnan(raw[:, [column, *fewer]]).any(1)
        if fewer and _holds(raw, column, _fitted(raw[rows], column, fewer)[0], grain, NEARLY):
            kept = fewer
    rows = ~np.isnan(raw[:, [column, *kept]]).any(1)
    whole = _fitted(raw[rows], column, kept)[0]
    size = np.abs(raw[rows, column]).max()
    for weights, digits in _rounded(whole.weights):
        short = Relation(kept, weights, 0.0)
        near = float(f"{whole.constant:.{digits}g}")
        constants = [(0.0, HALF), (near, HALF)] if abs(near) > CLOSE * size else [(0.0, HALF)]
        if grain > 0:  # all numbers rounded down, or all up: none is an exact half
            constants.append((_middle(raw, column, short), BELOW_HALF))
        for constant, most in constants:
            found = short._replace(constant=constant)
            if _holds(raw, column, found, grain, most):
                return found
    return whole if _holds(raw, column, whole, grain) else None


def _rounded(weights: Sequence[float]) -> Iterator[tuple[list[float], int]]:
    """Yield weights of ever more digits, and how many; also weights that are one over such."""
    for digits in DIGITS:
        yield [float(f"{weight:.{digits}g}") for weight in weights], digits
        if any(0 < abs(weight) < 1 for weight in weights):
            yield [_one_over(weight, digits) for weight in weights], digits


def _one_over(weight: float, digits: int) -> float:
    """Return one over a number of few digits, or a number of few digits if that is above 1."""
    small = 0 < abs(weight) < 1
    short = float(f"{1 / weight if small else weight:.{digits}g}")
    return 1 / short if small else short


def _middle(raw: Floats, column: int, relation: Relation) -> float:
    """Return the constant that lies amid all differences of a column from a formula.

    Numbers that are rounded down or up are at most half a step from a formula with it.
    """
    rows = ~np.isnan(raw[:, [column, *relation.columns]]).any(1)
    left = raw[rows, column] - relation.value(raw[rows])
    return float(left.min() + left.max()) / 2
