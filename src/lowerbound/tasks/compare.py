"""Compare drawn rows with real ones: likeness, impossible combinations, usefulness, privacy.

The measures take Arrow tables with the same columns. Numbers, dates and durations are numbers;
every other column is a category. A missing value is a level of its own for a category, and is left
out for a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.columns.arrow import floats, levels, plain, snippet, storage
from lowerbound.errors import UsageError
from lowerbound.tasks.parts import side_by_side

Learner = Callable[[NDArray[np.bool_]], Any]
"""Returns an estimator as scikit-learn has them, given which features are categories.

Features are (n, columns) float64: numbers, NaN where missing, and the codes of levels from 0.
"""

_DISTANT = 4_000  # rows of each table whose distances are taken
_DISTANCES = 1 << 29  # of one column, of all pairs of rows
_PAIRS = 10_000  # pairs of columns that are looked at
_COUNTED = 1 << 20  # cells of a table of frequencies; larger ones are sparse
_FEW_VALUES = 20  # distinct values up to which numbers are levels, too
_TREE_LEVELS = (
    254  # levels of a category that scikit-learn's trees tell apart, less one for others
)
_Z = 1.959964  # of an interval of 95 %


def _stats() -> Any:
    """Return scipy.stats, imported late: it takes a second, and few commands need it."""
    return import_module("scipy.stats")


class Estimate(NamedTuple):
    """A measure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Values:
    """The values of a table as numbers: those of several tables have the same codes.

    Attributes:
        names: of the columns.
        words: for each categorical column, its levels, with None as the last one if values are
            missing; for each column of numbers, None.
        x: (n, columns) float64: numbers, NaN where missing, and codes of levels.
    """

    names: tuple[str, ...]
    words: tuple[tuple[str | None, ...] | None, ...]
    x: NDArray[np.float64]

    @property
    def categorical(self) -> NDArray[np.bool_]:
        """Mask of the categorical columns, (columns,) bool."""
        return np.array([words is not None for words in self.words], bool)

    def take(self, rows: NDArray[np.integer]) -> Values:
        """Return the rows at these indices."""
        return Values(self.names, self.words, self.x[rows])

    def without(self, column: str) -> Values:
        """Return the columns but one."""
        keep = [i for i, name in enumerate(self.names) if name != column]
        names = tuple(self.names[i] for i in keep)
        return Values(names, tuple(self.words[i] for i in keep), self.x[:, keep])


def _is_number(kind: pa.DataType) -> bool:
    kind = storage(kind)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)
    return any(test(kind) for test in tests)


def aligned(first: pa.Table, *others: pa.Table) -> list[Values]:
    """Return tables as numbers, with the same codes for the levels of all.

    Args:
        first: its columns, their order and their types are those of all.
        others: tables with these columns; further ones are left out.

    Raises:
        DataError: E032 for a value that is not of its column's type, E030 for an infinite one.
    """
    tables = (first, *others)
    columns: list[list[NDArray[np.float64]]] = [[] for _ in tables]
    words: list[tuple[str | None, ...] | None] = []
    for name in first.column_names:
        cells = [plain(table.column(name)) for table in tables]
        kind = storage(first.schema.field(name).type)
        if _is_number(kind):
            found, known = [floats(each, name, kind) for each in cells], None
        else:
            found, known = _codes(cells, name)
        words.append(known)
        for column, each in zip(columns, found, strict=True):
            column.append(each)
    names = tuple(first.column_names)
    shapes = [(table.num_rows, len(names)) for table in tables]
    stacked = [
        np.stack(column, 1) if column else np.empty(shape)
        for column, shape in zip(columns, shapes, strict=True)
    ]
    return [Values(names, tuple(words), x) for x in stacked]


def _codes(
    cells: Sequence[pa.Array], name: str
) -> tuple[list[NDArray[np.float64]], tuple[str | None, ...]]:
    """Return codes of levels, and the levels; a missing value is the last of them."""
    found = [levels(each, name) for each in cells]
    words = tuple(dict.fromkeys(word for each in found for word in each.words))
    place = {word: code for code, word in enumerate(words)}
    tables = [np.array([*(place[w] for w in each.words), len(words)], float) for each in found]
    codes = [table[each.codes] for table, each in zip(tables, found, strict=True)]
    gaps = any((each == len(words)).any() for each in codes)
    return codes, (*words, None) if gaps else words


def auc(low: NDArray[np.float64], high: NDArray[np.float64]) -> Estimate:
    """Return the probability that a score of `high` exceeds one of `low`, ties counting half.

    The interval is that of DeLong.

    Args:
        low: (n,) scores of one class.
        high: (m,) scores of the other.

    References:
        DeLong, DeLong & Clarke-Pearson, "Comparing the areas under two or more correlated receiver
        operating characteristic curves", 1988; Sun & Xu, 2014, for the computation from ranks.
    """
    value, error = _auc(low, high)
    return Estimate(value, max(0.0, value - _Z * error), min(1.0, value + _Z * error))


def _auc(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[float, float]:
    n, m = len(low), len(high)
    ranks = _stats().rankdata(np.concatenate([low, high]))
    above = (ranks[n:] - _stats().rankdata(high)) / n
    below = 1 - (ranks[:n] - _stats().rankdata(low)) / m
    variance = sum(each.var(ddof=1) / len(each) for each in (above, below) if len(each) > 1)
    return float(above.mean()), math.sqrt(variance)


class Detection(NamedTuple):
    """Result of a classifier two-sample test of drawn against real rows.

    Attributes:
        score: 2 (1 - max(AUC, 0.5)): 1 if it cannot tell them apart, 0 if it always can.
        auc: of the classifier.
        rows: the number of real rows, and of drawn ones.
    """

    score: Estimate
    auc: Estimate
    rows: int


def boosting(categorical: NDArray[np.bool_], seed: int = 0) -> Any:
    """Return scikit-learn's classifier of boosted trees."""
    ensemble = import_module("sklearn.ensemble")  # imported late: it takes a second
    return ensemble.HistGradientBoostingClassifier(
        categorical_features=categorical, random_state=seed
    )


def boosting_of_numbers(categorical: NDArray[np.bool_], seed: int = 0) -> Any:
    """Return scikit-learn's regressor of boosted trees."""
    ensemble = import_module("sklearn.ensemble")
    return ensemble.HistGradientBoostingRegressor(
        categorical_features=categorical, random_state=seed
    )


def c2st(
    real: pa.Table,
    drawn: pa.Table,
    *,
    classifier: Learner | None = None,
    folds: int = 3,
    seed: int = 0,
) -> Detection:
    """Test how well a classifier tells drawn rows from equally many real ones.

    The AUC is the mean over the folds of a cross-validation. Its interval follows from DeLong's
    variance on each fold, and a correlation of folds of 1 / folds (Nadeau & Bengio). Drawn rows
    are complete: numbers are set to missing in as many drawn rows as in real rows, so that gaps
    of numbers do not tell the two apart.

    Args:
        real: rows.
        drawn: rows with the same columns.
        classifier: by default scikit-learn's boosted trees, which tell the 254 commonest levels
            of a category apart.
        folds: of the cross-validation.
        seed: of the choice of rows, the folds and the classifier.

    References:
        Lopez-Paz & Oquab, "Revisiting classifier two-sample tests", 2017,
        https://arxiv.org/abs/1610.06545
        Nadeau & Bengio, "Inference for the generalization error", 2003, section 3, for the
        correlation.
    """
    rng = np.random.default_rng(seed)
    first, second = aligned(real, drawn)
    count = min(len(first.x), len(second.x))
    a, b = (each.take(rng.permutation(len(each.x))[:count]) for each in (first, second))
    x = _fewer_levels(a, np.concatenate([a.x, np.where(np.isnan(a.x), np.nan, b.x)]))
    y = np.repeat([0, 1], count)
    split = import_module("sklearn.model_selection").StratifiedKFold
    limits = import_module("threadpoolctl").threadpool_limits

    def area_of(parts: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[float, float]:
        train, test = parts
        learner = classifier(a.categorical) if classifier else boosting(a.categorical, seed)
        seen, new = _without_empty(x[train], x[test])
        # Threads of few rows wait for each other in busy loops: folds are computed side by side.
        with limits(1, "openmp"):
            chance = learner.fit(seen, y[train]).predict_proba(new)[:, 1]
        return _auc(chance[y[test] == 0], chance[y[test] == 1])

    parts = split(folds, shuffle=True, random_state=seed).split(x, y)
    found = side_by_side(area_of, parts)
    value = float(np.mean([each for each, _ in found]))
    # The folds learn from each other's test rows: their correlation is about the share of these.
    alike = 1 + (folds - 1) / folds
    error = math.sqrt(alike * sum(each**2 for _, each in found)) / folds
    area = Estimate(value, max(0.0, value - _Z * error), min(1.0, value + _Z * error))
    score, low, high = (2 * (1 - max(v, 0.5)) for v in (area.value, area.high, area.low))
    return Detection(Estimate(score, low, high), area, count)


def _fewer_levels(values: Values, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return features in which rare levels of categories with very many are one level."""
    x = x.copy()
    for i, words in enumerate(values.words):
        if words is not None and len(words) > _TREE_LEVELS:
            counts = np.bincount(x[:, i].astype(int), minlength=len(words))
            place = np.full(len(words), float(_TREE_LEVELS))
            # The levels of the first table have the lowest codes: ties must not follow these.
            mixed = np.random.default_rng(0).permutation(len(words))
            place[np.lexsort((mixed, -counts))[:_TREE_LEVELS]] = np.arange(_TREE_LEVELS)
            x[:, i] = place[x[:, i].astype(int)]
    return x


def _without_empty(
    x: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return features to learn from and others, with 0 in those that have no value to learn from.

    The trees of scikit-learn need a value.
    """
    empty = np.isnan(x).all(0)
    return np.where(empty, 0.0, x), np.where(empty, 0.0, new)


def _variation(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Return the total variation distance of the frequencies of codes; NaN without codes."""
    if not (len(a) and len(b)):
        return math.nan
    if max(a.max(), b.max()) >= _COUNTED:
        code = np.unique(np.concatenate([a, b]), return_inverse=True)[1]
        a, b = code[: len(a)], code[len(a) :]
    size = int(max(a.max(), b.max())) + 1
    p, q = (np.bincount(each, minlength=size) / len(each) for each in (a, b))
    return float(abs(p - q).sum() / 2)


def shape_errors(real: pa.Table, drawn: pa.Table) -> dict[str, float]:
    """Return the distance of the distributions of each column, in [0, 1]; 0 is the same.

    It is the Kolmogorov-Smirnov distance for numbers, and the total variation for categories.
    Columns of numbers without any value are left out.
    """
    a, b = aligned(real, drawn)
    errors = {}
    for i, (name, words) in enumerate(zip(a.names, a.words, strict=True)):
        one, other = (each.x[~np.isnan(each.x[:, i]), i] for each in (a, b))
        if words is not None:
            errors[name] = _variation(one.astype(np.int64), other.astype(np.int64))
        elif len(one) and len(other):
            found: Any = _stats().ks_2samp(one, other, method="asymp")
            errors[name] = float(found.statistic)
    return errors


def pair_errors(
    real: pa.Table, drawn: pa.Table, *, most: int = _PAIRS, seed: int = 0
) -> dict[tuple[str, str], float]:
    """Return the distance of the dependence of each pair of columns, in [0, 1]; 0 is the same.

    It is half the difference of the coefficients of correlation for two numbers, and the total
    variation of the joint frequencies for two categories; in a pair of both, the number is cut at
    the deciles of the real rows. Pairs with a number that has no spread are left out.

    Args:
        real: rows.
        drawn: rows with the same columns.
        most: pairs; of more, some are chosen at random.
        seed: of the choice.
    """
    a, b = aligned(real, drawn)
    numbers = np.flatnonzero(~a.categorical)
    place = {column: i for i, column in enumerate(numbers.tolist())}
    wanted, got = (_correlations(each.x[:, numbers]) for each in (a, b))
    got = np.where(np.isnan(got), 0.0, got)  # drawn numbers without any spread
    codes = [_binned(a, b, i) for i in range(len(a.names))]
    errors = {}
    for i, j in _pairs(len(a.names), most, seed):
        if i in place and j in place:
            error = abs(wanted[place[i], place[j]] - got[place[i], place[j]]) / 2
        else:
            error = _variation(*(_joint(codes[i][k], codes[j][k], codes[j]) for k in (0, 1)))
        if not math.isnan(error):
            errors[a.names[i], a.names[j]] = float(error)
    return errors


def _pairs(columns: int, most: int, seed: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of columns: all, or as many of them drawn at random."""
    if columns * (columns - 1) // 2 <= most:
        yield from combinations(range(columns), 2)
        return
    first, second = np.triu_indices(columns, 1)
    chosen = np.sort(np.random.default_rng(seed).choice(len(first), most, replace=False))
    yield from zip(first[chosen].tolist(), second[chosen].tolist(), strict=True)


def _correlations(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients of correlation from the rows where both are known; NaN if none."""
    known = ~np.isnan(x)
    m = known.astype(float)
    size = np.abs(np.where(known, x, 0.0)).max(0, initial=0.0)
    z = np.where(known, x / np.where(size > 0, size, 1.0), 0.0)  # squares of 1e200 overflow
    z = np.where(known, z - z.sum(0) / m.sum(0).clip(1), 0.0)
    size = np.abs(z).max(0, initial=0.0)
    z = z / np.where(size > 1e-12, size, np.inf)  # a constant but for rounding
    n = (m.T @ m).clip(1)
    total, square = z.T @ m, (z**2).T @ m
    spread = square - total**2 / n
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (z.T @ z - total * total.T / n) / np.sqrt(spread * spread.T)
    return np.where((spread > 1e-9) & (spread.T > 1e-9), found, np.nan)


def _binned(a: Values, b: Values, i: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a column as codes, -1 where missing; numbers are cut at the deciles of `a`."""
    if a.words[i] is not None:
        return a.x[:, i].astype(np.int64), b.x[:, i].astype(np.int64)
    known = a.x[~np.isnan(a.x[:, i]), i]
    edges = np.unique(np.quantile(known, np.arange(1, 10) / 10)) if len(known) else np.array([])

    def cut(x: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.where(np.isnan(x), -1, np.searchsorted(edges, x)).astype(np.int64)

    return cut(a.x[:, i]), cut(b.x[:, i])


def _joint(
    one: NDArray[np.int64], other: NDArray[np.int64], both: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the codes of pairs of codes, without the rows where one is missing.

    Args:
        one: (n,) codes, -1 where missing.
        other: (n,) the same of another column.
        both: all codes of that column, whose number is the step between pairs.
    """
    keep = (one >= 0) & (other >= 0)
    step = max(int(each.max(initial=0)) for each in both) + 1
    return one[keep] * step + other[keep]


def relabelled(real: pa.Table, drawn: pa.Table, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Return tables of as many rows each, with the rows of both in random order.

    Their distance is that of two samples of one distribution: chance alone.
    """
    both = pa.concat_tables([real, drawn.select(real.column_names).cast(real.schema)])
    mixed = both.take(pa.array(np.random.default_rng(seed).permutation(both.num_rows)))
    return mixed.slice(0, real.num_rows), mixed.slice(real.num_rows)


class Impossible(NamedTuple):
    """A pair of levels that drawn rows have and no real row has.

    Attributes:
        columns: the two columns.
        levels: a level of each.
        rows: the number of drawn rows with both.
        expected: the number of real rows that would have both if they were independent.
    """

    columns: tuple[str, str]
    levels: tuple[str, str]
    rows: int
    expected: float


class Impossibles(NamedTuple):
    """The share of drawn rows with at least one impossible pair, and the pairs, commonest first.

    Attributes:
        share: of drawn rows.
        pairs: those that occur.
    """

    share: Estimate
    pairs: list[Impossible]


def impossible(
    real: pa.Table,
    drawn: pa.Table,
    *,
    least: float = 10.0,
    most: int = _PAIRS,
    seed: int = 0,
) -> Impossibles:
    """Find drawn rows with two levels that never occur together in real rows.

    Levels are those of categories, and the values of numbers that have at most 20.

    Args:
        real: rows, all that there are.
        drawn: rows with the same columns.
        least: a pair counts only if this many real rows are expected from its levels' frequencies.
        most: pairs of columns; of more, some are chosen at random.
        seed: of the choice.
    """
    a, b = aligned(real, drawn)
    leveled = [found for i in range(len(a.names)) if (found := _levels(a, b, i))]
    hit, pairs = np.zeros(len(b.x), bool), []
    for i, j in _pairs(len(leveled), most, seed):
        (one, codes, words), (other, more, others) = leveled[i], leveled[j]
        known = (codes[0] >= 0) & (more[0] >= 0)
        left, right = codes[0][known], more[0][known]
        step = len(others)
        seen = left * step + right
        drawn_both = (codes[1] >= 0) & (more[1] >= 0)
        keys = np.where(drawn_both, codes[1] * step + more[1], -1)
        if len(words) * step <= _COUNTED:
            table = np.zeros(len(words) * step + 1, bool)  # the last one is that of key -1
            table[seen] = table[-1] = True
            new = ~table[keys]
        else:
            new = ~np.isin(keys, seen) & (keys >= 0)
        if not new.any():
            continue
        ways = np.bincount(left, minlength=len(words)), np.bincount(right, minlength=step)
        expected = ways[0][codes[1][new]] * ways[1][more[1][new]] / max(1, len(left))
        at = np.flatnonzero(new)[expected >= least]
        hit[at] = True
        for key, rows in zip(*np.unique(keys[at], return_counts=True), strict=True):
            x, y = divmod(int(key), step)
            wanted = float(ways[0][x]) * float(ways[1][y]) / len(left)
            both = (words[x], others[y])
            pairs.append(Impossible((one, other), both, int(rows), wanted))
    pairs.sort(key=lambda pair: (-pair.rows, -pair.expected, pair.columns, pair.levels))
    return Impossibles(_share(int(hit.sum()), len(hit)), pairs)


def _levels(
    a: Values, b: Values, i: int
) -> tuple[str, tuple[NDArray[np.int64], NDArray[np.int64]], Sequence[str]] | None:
    """Return a column as codes of levels, -1 for none, and the levels; None for other numbers."""
    words = a.words[i]
    if words is not None:
        return (
            a.names[i],
            (a.x[:, i].astype(np.int64), b.x[:, i].astype(np.int64)),
            list(map(str, words)),
        )
    known = np.unique(a.x[~np.isnan(a.x[:, i]), i])
    if not 0 < len(known) <= _FEW_VALUES:
        return None

    def code(x: NDArray[np.float64]) -> NDArray[np.int64]:
        at = np.searchsorted(known, x).clip(0, len(known) - 1)
        return np.where(known[at] == x, at, -1)

    return a.names[i], (code(a.x[:, i]), code(b.x[:, i])), [f"{value:.12g}" for value in known]


def _missing(x: NDArray[np.float64], words: Sequence[str | None] | None) -> NDArray[np.bool_]:
    """Return which values of a column are missing."""
    if words is None:
        return np.isnan(x)
    return np.array([word is None for word in words])[x.astype(int)]


def _share(count: int, rows: int) -> Estimate:
    """Return a share with Wilson's interval."""
    if not rows:
        return Estimate(math.nan, math.nan, math.nan)
    ends = _stats().binomtest(count, rows).proportion_ci(method="wilson")
    return Estimate(count / rows, float(ends.low), float(ends.high))


class Utility(NamedTuple):
    """Quality of predictions of a target column on real rows.

    Attributes:
        measure: "AUC" for a target of two levels, "accuracy" for more, "R2" for numbers.
        value: of the measure, on the test rows.
        rows: the number of rows that the predictor learned from.
    """

    measure: str
    value: Estimate
    rows: int


def utility(
    train: pa.Table,
    test: pa.Table,
    target: str,
    *,
    learner: Learner | None = None,
    seed: int = 0,
) -> Utility:
    """Return how well a predictor of one column that learned from `train` does on `test`.

    Rows whose target is missing are left out.

    Args:
        train: drawn rows, or real ones to compare with.
        test: real rows.
        target: a column of both.
        learner: a classifier, or a regressor for numbers; by default boosted trees.
        seed: of the learner and of the bootstrap for R2.

    Raises:
        UsageError: E249 if all test rows have one value of the target, or no row of `train` any.
    """
    tested, learned = aligned(test, train)
    at = tested.names.index(target)
    words, features = tested.words[at], learned.without(target)
    x = _fewer_levels(features, np.concatenate([features.x, tested.without(target).x]))
    parts = []
    for each, some in ((learned, x[: len(learned.x)]), (tested, x[len(learned.x) :])):
        y = each.x[:, at]
        known = ~_missing(y, words)
        parts.append((some[known], y[known]))
    (x, y), (x_test, wanted) = parts
    x, x_test = _without_empty(x, x_test)
    if len(y) < 2 or len(np.unique(wanted)) < 2:
        raise UsageError(
            "E249",
            f"--target {snippet(target)} cannot be predicted: "
            + ("no row to learn from has it" if len(y) < 2 else "all test rows have one value"),
            fix="--target with a column that varies, or more rows",
        )
    default = boosting_of_numbers if words is None else boosting
    model = learner(features.categorical) if learner else default(features.categorical, seed)
    if words is None:
        return Utility("R2", _r2(wanted, model.fit(x, y).predict(x_test), seed), len(y))
    chances = np.zeros((len(wanted), len(words)))
    known = np.unique(y).astype(int)
    if len(known) < 2:  # which no classifier can learn from
        chances[:, known] = 1.0
    else:
        fitted = model.fit(x, np.searchsorted(known, y))
        chances[:, known] = fitted.predict_proba(x_test)
    found = np.unique(wanted).astype(int)
    if len(found) > 2:
        right = int((chances.argmax(1) == wanted).sum())
        return Utility("accuracy", _share(right, len(wanted)), len(y))
    score = chances[:, found[1]] - chances[:, found[0]]
    return Utility("AUC", auc(score[wanted == found[0]], score[wanted == found[1]]), len(y))


def _r2(
    wanted: NDArray[np.float64], got: NDArray[np.float64], seed: int, draws: int = 200
) -> Estimate:
    """Return R2 with an interval by the bootstrap of the test rows."""
    y = (wanted - wanted.mean()) / (np.abs(wanted - wanted.mean()).max() or 1.0)
    error = (wanted - got) / (np.abs(wanted - wanted.mean()).max() or 1.0)
    n = len(y)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    every = np.concatenate([np.ones((1, n)), times])
    spread = every @ y**2 - (every @ y) ** 2 / n
    found = 1 - (every @ error**2) / np.where(spread > 0, spread, np.nan)
    low, high = np.nanquantile(found[1:], [0.025, 0.975])
    return Estimate(float(found[0]), float(low), float(high))


class Nearness(NamedTuple):
    """Distances of drawn rows to the training rows, relative to those to held-out rows.

    Attributes:
        dcr_share: share of drawn rows that are nearer to a learned row than to a held-out one.
        nearest_ratio: median over drawn rows of the distance to the nearest learned row, relative
            to that of the second-nearest.
        held_out_ratio: the same for held-out rows.
        rows: the number of learned rows, and of held-out ones.
    """

    dcr_share: Estimate
    nearest_ratio: float
    held_out_ratio: float
    rows: int


def nearness(
    drawn: pa.Table,
    learned: pa.Table,
    held_out: pa.Table,
    *,
    most: int = _DISTANT,
    seed: int = 0,
) -> Nearness:
    """Measure whether drawn rows are nearer to learned rows than to others (Gower's distance).

    A number adds its difference over the range of the real rows, a category 0 or 1; a missing
    number is taken as the median. Ties count half. The interval allows for rows that are nearest
    to many drawn ones.

    Args:
        drawn: rows.
        learned: rows that the model learned from.
        held_out: rows that it did not learn from.
        most: rows of each table; of more, these are chosen at random.
        seed: of the choice.

    References:
        Gower, "A general coefficient of similarity and some of its properties", 1971.
    """
    rng = np.random.default_rng(seed)
    every = aligned(learned, held_out, drawn)
    most = max(2, min(most, math.isqrt(_DISTANCES // max(1, len(every[0].names)))))
    count = min(most, *(len(each.x) for each in every[:2]))
    sizes = (count, count, min(most, len(every[2].x)))
    known, other, new = _scaled(
        [v.take(rng.permutation(len(v.x))[:n]) for v, n in zip(every, sizes, strict=True)]
    )
    mine, second, at = _two_nearest(new, known)
    theirs, _, there = _two_nearest(new, other)
    near = (mine < theirs) + 0.5 * (mine == theirs)
    # Drawn rows with the same nearest row are on one side together: a cluster.
    away = np.bincount(np.where(mine <= theirs, at, count + there), near - near.mean())
    error = math.sqrt((away**2).sum()) / len(near)
    share = float(near.mean())
    first, next_, _ = _two_nearest(other, known)
    return Nearness(
        Estimate(share, max(0.0, share - _Z * error), min(1.0, share + _Z * error)),
        _ratio(mine, second),
        _ratio(first, next_),
        count,
    )


def _scaled(tables: Sequence[Values]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the numbers of each table, divided by their range in the first two, and the codes."""
    apart = tables[0].categorical
    real = np.concatenate([each.x[:, ~apart] for each in tables[:2]])
    known = ~np.isnan(real)
    low = np.where(known, real, np.inf).min(0, initial=np.inf)
    high = np.where(known, real, -np.inf).max(0, initial=-np.inf)
    width = np.where(high > low, high / 2 - low / 2, 1.0)  # halves: the range may overflow
    middle = np.array(
        [np.median(x[k]) if k.any() else 0.0 for x, k in zip(real.T, known.T, strict=True)]
    )
    made = []
    for each in tables:
        x = each.x[:, ~apart]
        made.append((np.where(np.isnan(x), middle, x) / width / 2, each.x[:, apart]))
    return made


_Features = tuple[NDArray[np.float64], NDArray[np.float64]]


def _two_nearest(
    rows: _Features, among: _Features
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Return the distances to the nearest and second-nearest row, and the index of the nearest."""
    (x, codes), (others, their_codes) = rows, among
    near, second, at = [], [], []
    for part in range(0, len(x), 256):
        some = slice(part, part + 256)
        apart = np.zeros((len(x[some]), len(others)))
        if x.shape[1]:
            apart += import_module("scipy.spatial.distance").cdist(x[some], others, "cityblock")
        if codes.shape[1]:
            apart += np.rint(
                codes.shape[1]
                * import_module("scipy.spatial.distance").cdist(
                    codes[some], their_codes, "hamming"
                )
            )
        nearest_two = np.partition(apart, 1, axis=1)
        near.append(nearest_two[:, 0])
        second.append(nearest_two[:, 1])
        at.append(apart.argmin(1))
    return np.concatenate(near), np.concatenate(second), np.concatenate(at)


def _ratio(near: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the median ratio of two distances; 1 for two rows at distance 0."""
    return float(np.median(np.where(second > 0, near / np.where(second > 0, second, 1.0), 1.0)))
