"""Drift: how rows differ from the held-out rows of the fit, column by column and by their scores.

The null hypothesis of every test is that the given rows and the held-out (calibration) rows of the
fit are exchangeable: drawn from one distribution. All tests are of two samples and hold for any
distribution, any number of rows and any ties:

- a number, a date or an ordered level: the Kolmogorov-Smirnov test of two samples, exact for few
  rows and by the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart for many;
- a category: the exact hypergeometric test of the share of each level, times their number; levels
  that fewer than `RARE` rows of both samples have are one level;
- gaps, and constants that are not constant any more: the same test of their share;
- alarms: the share of flagged rows, beta-binomial given the ranks of the threshold.

The p-value of a column is the smallest of its tests times their number. Columns, scores and alarms
are corrected together by Holm's method, so that the probability of any false alarm is at most the
stated level, however many columns there are and however they depend on each other.

References:
    Holm, "A simple sequentially rejective multiple test procedure", 1979; Massart, "The tight
    constant in the Dvoretzky-Kiefer-Wolfowitz inequality", 1990; Wei & Dudley, "Two-sample
    Dvoretzky-Kiefer-Wolfowitz inequalities", 2012.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from lowerbound import noise
from lowerbound.coding.base import Coded, Coding
from lowerbound.coding.rows import Rows, subset
from lowerbound.coding.tables import TableCoding
from lowerbound.columns.arrow import snippet
from lowerbound.columns.base import Family
from lowerbound.columns.skipped import Skipped
from lowerbound.errors import UsageError, nearest
from lowerbound.files.data import Data, Whole
from lowerbound.files.stream import Stream
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Calibration
from lowerbound.tasks.finite import finite
from lowerbound.tasks.measures import Likelihood
from lowerbound.tasks.state import HeldOut, HeldOutColumn, HeldOutPart, TrainedState

LEVEL = 0.01  # the usual probability of any false alarm
MOST_DRIFT = 0.1  # a smaller difference of shares is no problem, however sure it is
RARE = 5  # rows of both samples; rarer levels are tested as one
FEW = 30  # rows of a sample below which only large drift can be shown
COLUMNS = 5_000  # wider tables keep no held-out columns
NUMBERS = 100_000  # held-out numbers that a model keeps of all columns together
FEWEST_KNOTS, MOST_KNOTS = 20, 200  # of the distribution of a column of numbers
CELLS = 1 << 24  # held-out values that are looked at
EXACT = 200_000  # product of the two numbers of rows up to which the test of numbers is exact
ROWS = 20_000  # rows that are scored, drawn at random from more
LOOKED_AT = 100_000  # rows of a table that is not in memory
NATS_ROWS = 500  # rows from which the nats of each column are estimated

ORDERED: frozenset[Family] = frozenset({"real", "count", "ordinal"})


def families(coding: Coding) -> list[Family]:
    """Return the family of every coded column."""
    if isinstance(coding, TableCoding):
        return [part.family for part in coding.schema.parts]
    return ["count"] * len(coding.groups)


def held_out(coding: Coding, rows: Rows) -> HeldOut:
    """Return the distribution of every column over held-out rows, to be saved with the model.

    Args:
        coding: the coding of the rows, which has not seen them.
        rows: the coded held-out rows.
    """
    groups = () if coding.shape else coding.groups
    if not 0 < len(groups) <= COLUMNS or not len(rows):
        return HeldOut()
    kinds = families(coding)
    knots = min(MOST_KNOTS, max(FEWEST_KNOTS, NUMBERS // len(kinds)))
    n = min(len(rows), max(1, CELLS // len(kinds)))
    x = rows.take(torch.arange(n)).x.numpy()
    columns = {}
    for group in groups:
        own = x[:, list(group.parts)]
        parts = [
            _distribution(own[:, i], knots if kinds[part] in ORDERED else None)
            for i, part in enumerate(group.parts)
        ]
        columns[group.column] = HeldOutColumn(int(np.isnan(own).all(1).sum()), tuple(parts))
    return HeldOut(n, columns)


def _distribution(codes: NDArray[np.floating], knots: int | None) -> HeldOutPart:
    """Return the values of a coded column and their counts, merged to `knots` values or fewer."""
    values, counts = np.unique(codes[~np.isnan(codes)].astype(np.float64), return_counts=True)
    if knots is not None and len(values) > knots:
        total = np.cumsum(counts)
        wanted = np.linspace(0, total[-1], knots + 1)[1:]
        ends = np.unique(np.searchsorted(total, wanted - 0.5))
        counts, values = np.diff(total[ends], prepend=0), values[ends]
    return HeldOutPart(tuple(values.tolist()), tuple(counts.tolist()))


class Difference(NamedTuple):
    """The difference of two samples by one test.

    Attributes:
        p_value: the probability of as large a difference between exchangeable samples, at most.
        difference: the difference of the shares of rows, from 0 to 1.
        what: the rows that the shares are of, such as "missing".
        shares: their share of the held-out rows, and of the given rows.
    """

    p_value: float
    difference: float
    what: str
    shares: tuple[float, float]


def _tail(x: int, n: int, total: int, marked: int) -> float:
    """Return P(X >= x) of a hypergeometric X: the marked rows among n of `total` rows."""
    k = np.arange(max(x, 0, n - (total - marked)), min(n, marked) + 1)
    if not len(k):
        return 0.0

    logs = _log_choose(marked, k) + _log_choose(total - marked, n - k) - _log_choose(total, n)
    return min(1.0, float(np.exp(scipy.special.logsumexp(logs))))


def _log_choose(n: Any, k: Any) -> Any:
    """Return log C(n, k), the logarithm of a binomial coefficient."""
    gammaln = scipy.special.gammaln
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def shares_test(held: tuple[int, int], given: tuple[int, int], what: str) -> Difference:
    """Return the two-sided exact test of the share of marked rows in two samples.

    Args:
        held: number of marked rows and of all rows of the held-out sample.
        given: the same of the given rows.
        what: the marked rows, in words.
    """
    (a, m), (b, n) = held, given
    if not (m and n):
        return Difference(1.0, 0.0, what, (0.0, 0.0))
    many, few = _tail(b, n, m + n, a + b), _tail(n - b, n, m + n, m + n - a - b)
    shares = a / m, b / n
    return Difference(min(1.0, 2 * min(many, few)), abs(shares[1] - shares[0]), what, shares)


def order_test(
    held: tuple[NDArray[np.int64], NDArray[np.int64]], spell: Callable[[int], str]
) -> Difference:
    """Return the Kolmogorov-Smirnov test of two samples in the same ordered bins.

    Binning lowers the statistic, so that the test holds for the rows that are in the bins.

    Args:
        held: (bins,) held-out rows in each bin, and given rows in each.
        spell: returns the rows up to a bin, in words.
    """
    (m, n), (first, second) = (int(each.sum()) for each in held), held
    if not (m and n):
        return Difference(1.0, 0.0, "", (0.0, 0.0))
    f, g = np.cumsum(first) / m, np.cumsum(second) / n
    at = int(np.abs(f - g).argmax())
    distance = float(abs(f[at] - g[at]))
    p = min(1.0, 2 * math.exp(-2 * m * n / (m + n) * distance**2))
    if m * n <= EXACT and p < 1:
        bins, stats = np.arange(len(first)), import_module("scipy.stats")
        samples = np.repeat(bins, first), np.repeat(bins, second)
        p = float(stats.ks_2samp(*samples, method="exact").pvalue)
    return Difference(min(1.0, p), distance, spell(at), (float(f[at]), float(g[at])))


@dataclass(frozen=True)
class _Column:
    """The tests of one column.

    Args:
        name: of the raw column.
        tests: its tests.
        nats: how much more the column adds to the score of a row than to that of held-out rows.
    """

    name: str
    tests: Sequence[Difference]
    nats: float | None = None

    @property
    def p_value(self) -> float:
        return min(1.0, len(self.tests) * min((t.p_value for t in self.tests), default=1.0))

    def shown(self, level: float) -> Difference:
        """Return the largest difference of those that are sure, or else the surest one."""
        sure = [t for t in self.tests if len(self.tests) * t.p_value <= level]
        if sure:
            return max(sure, key=lambda t: t.difference)
        return min(self.tests, key=lambda t: (t.p_value, -t.difference))


class _Names:
    """Words for the coded values of a model's columns."""

    def __init__(self, coding: Coding) -> None:
        self.coding, self.parts = coding, families(coding)
        gates = coding.gates if isinstance(coding, TableCoding) else ()
        self.gates = {part: (by, none) for part, by, none in gates}

    def value(self, column: str, part: int, code: float) -> str:
        """Return the raw value that a code stands for, as text."""
        if not isinstance(self.coding, TableCoding):  # counts, which are their own codes
            return f"{code:g}"
        row = np.full((1, len(self.parts)), np.nan, np.float32)
        row[0, part] = code
        if part in self.gates:
            by, none = self.gates[part]
            row[0, by] = none
        table = self.coding.decode(row)
        if column not in table.column_names:
            return f"{code:g}"
        found = table[column][0].as_py()
        return f"{found:.5g}" if isinstance(found, float) else str(found)

    def level(self, column: str, part: int, code: float) -> str:
        """Return a level of a category in words."""
        if isinstance(self.coding, TableCoding):
            known = self.coding.schema.parts[part]
            if known.unknown and code == 0:
                return "not seen in training"
            if known.name != column:  # an atom of a number, or the hour of a date
                kind = known.name.removeprefix(f"{column}#")
                value = self.coding.code_values[part]
                number = None if value is None else value[int(code)]
                if kind == "atom":
                    return "another number" if number is None else f"= {number:g}"
                return f"{kind} {code:g}"
        return f"= {snippet(self.value(column, part, code))[1:-1]}"

    def up_to(self, column: str, part: int, values: Sequence[float], at: int) -> str:
        """Return the rows up to a knot in words."""
        if isinstance(self.coding, TableCoding):
            scaled = next(c for c in self.coding.schema.columns if c.name == column)
            if scaled.kind == "datetime":
                return f"the first {at + 1} of {len(values)} parts of the time seen"
        return f"<= {self.value(column, part, values[min(at, len(values) - 1)])}"


def _of_column(
    group: Any, held: HeldOutColumn, rows: int, x: NDArray[np.floating], names: _Names
) -> Iterator[Difference]:
    """Yield the tests of one column: its gaps, and each of its coded parts."""
    own, n = x[:, list(group.parts)].astype(np.float64), len(x)
    gone = int(np.isnan(own).all(1).sum())
    if held.missing or gone:
        yield shares_test((held.missing, rows), (gone, n), "missing")
    for i, (part, known) in enumerate(zip(group.parts, held.parts, strict=True)):
        codes = own[~np.isnan(own[:, i]), i]
        if not len(codes) or not known.values:
            continue
        if names.parts[part] in ORDERED:
            knots = np.asarray(known.values)
            bins = np.searchsorted(knots, codes, side="left")
            given = np.bincount(bins, minlength=len(knots) + 1)
            both = np.append(known.counts, 0), given

            def spell(at: int, part: int = part, known: HeldOutPart = known) -> str:
                return names.up_to(group.column, part, known.values, at)

            yield order_test(both, spell)
        else:
            yield from _of_levels(group.column, part, known, codes, names)


def _of_levels(
    column: str, part: int, known: HeldOutPart, codes: NDArray[np.floating], names: _Names
) -> Iterator[Difference]:
    """Yield the tests of the levels of a category as one test, corrected for their number."""
    values, counts = np.unique(codes, return_counts=True)
    first = dict(zip(known.values, known.counts, strict=True))
    second = dict(zip(values.tolist(), counts.tolist(), strict=True))
    m, n = sum(first.values()), len(codes)
    both = {code: (first.get(code, 0), second.get(code, 0)) for code in {**first, **second}}
    rare = [code for code, (a, b) in both.items() if a + b < RARE]
    tests = [
        shares_test((a, m), (b, n), names.level(column, part, code))
        for code, (a, b) in both.items()
        if a + b >= RARE
    ]
    if rare:
        a, b = (sum(both[code][side] for code in rare) for side in (0, 1))
        tests.append(shares_test((a, m), (b, n), f"one of {len(rare):,} rare levels"))
    count = 1 if len(tests) == 2 else len(tests)  # of two shares, one gives the other
    if tests:
        best = min(tests, key=lambda t: (t.p_value, -t.difference))
        yield best._replace(p_value=min(1.0, count * best.p_value))


def _constants(coding: Coding, frame: Whole) -> Iterator[_Column]:
    """Yield the test of each column that was constant in training."""
    if not isinstance(coding, TableCoding):
        return
    table = frame.to_table().table
    schema, n = coding.schema, table.num_rows
    for column in schema.columns:
        if isinstance(column, Skipped) and column.held and column.name in table.column_names:
            changed = int(schema.changed_constants(table.select([column.name]))[column.name].sum())
            what = f"not {snippet(column.value)}"
            yield _Column(column.name, [shares_test((0, max(1, column.rows)), (changed, n), what)])


def _of_scores(calibration: Calibration, scores: NDArray[np.float64]) -> Difference:
    knots, counts = np.unique(calibration.scores, return_counts=True)
    if not len(knots):
        return Difference(1.0, 0.0, "", (0.0, 0.0))
    given = np.bincount(np.searchsorted(knots, scores), minlength=len(knots) + 1)
    return order_test(
        (np.append(counts, 0), given), lambda at: f"<= {knots[min(at, len(knots) - 1)]:.5g} nats"
    )


def alarms_test(calibration: Calibration, threshold: float, flagged: int, n: int) -> float:
    """Return the probability of at least as many alarms among n rows like the held-out ones.

    If k - 1 of m held-out scores are above the threshold, which is the k-th largest of them, the
    number of alarms has a beta-binomial distribution, or a smaller one if scores are tied.

    Args:
        calibration: the held-out scores.
        threshold: one of them.
        flagged: number of rows with a score above the threshold.
        n: number of rows.
    """
    m = len(calibration.scores)
    k = int((calibration.scores > threshold).sum()) + 1
    if not m or k > m or not flagged:
        return 1.0
    x = np.arange(flagged, n + 1)
    betaln = scipy.special.betaln
    logs = _log_choose(n, x) + betaln(k + x, m + 1 - k + n - x) - betaln(k, m + 1 - k)
    return min(1.0, float(np.exp(scipy.special.logsumexp(logs))))


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Return p-values corrected by Holm's method: at most `level` once in 1 / level families."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(1.0, steps)
    return out


def _nats(trained: TrainedState, coded: Coded) -> dict[str, float]:
    """Return what each column adds to the score of these rows beyond its mean in training."""
    typical = trained.facts.get("typical_nats", {})
    groups = trained.coding.groups if typical and not trained.coding.shape else ()
    if not groups or not len(coded.rows):
        return {}
    some = _random(len(coded.rows), NATS_ROWS)
    nats = draws.cell_nats(trained.model, subset(coded.rows, some)).flatten(1).double().mean(0)
    return {
        g.column: float(nats[list(g.parts)].sum()) - typical[g.column]
        for g in groups
        if g.column in typical
    }


def _random(n: int, most: int) -> torch.Tensor:
    """Return the indices of at most `most` rows, drawn at random, in order."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=noise.generator("drift", n))[:most].sort().values


@dataclass(frozen=True)
class Sampled:
    """Rows that are tested.

    Args:
        frame: the rows.
        total: the number of rows of the data that they were drawn from.
        notes: on how they were read and drawn.
    """

    frame: Whole
    total: int
    notes: list[str] = field(default_factory=list)


def sampled(given: Data) -> Sampled:
    """Return the rows to look at: all in memory, or some of a larger table, drawn at random."""
    frame = given.sample(LOOKED_AT, 0) if isinstance(given, Stream) else given.whole()
    notes = list(dict.fromkeys([*given.notes, *frame.notes]))
    if frame.rows < given.rows:
        notes.append(f"{frame.rows:,} of {given.rows:,} rows were looked at, drawn at random")
    return Sampled(frame, given.rows, notes)


def check_scorable(trained: TrainedState) -> None:
    """Raise an error for a model that scores no rows.

    Raises:
        UsageError: E247.
    """
    if trained.recipe.restoration is not None:
        raise UsageError(
            "E247",
            f"a model of the recipe {trained.recipe.name!r} {trained.recipe.restoration.does}: it "
            "has no scores to find drift in",
            fix=trained.recipe.restoration.use(),
        )


def check_ignored(trained: TrainedState, ignore: Sequence[str]) -> frozenset[str]:
    """Return the columns whose drift does not count.

    Raises:
        UsageError: E203 for a name that the model does not have.
    """
    coding = trained.coding
    known = [group.column for group in (() if coding.shape else coding.groups)]
    if isinstance(coding, TableCoding):
        known = [column.name for column in coding.schema.columns]
    for name in ignore:
        if name not in known:
            near = nearest(name, known)
            raise UsageError(
                "E203",
                f"--ignore names the column {snippet(name)}, which the model does not have",
                fix=f"--ignore {near}" if near else "lowerbound info M.vae lists the columns",
                column=name,
            )
    return frozenset(ignore)


def report(
    trained: TrainedState,
    rows: tuple[Whole, Coded],
    level: float = LEVEL,
    ignore: frozenset[str] = frozenset(),
    *,
    scored: bool = True,
) -> dict[str, Any]:
    """Return the drift of rows as plain values; see `lowerbound.Model.drift`.

    Args:
        trained: the model.
        rows: the rows, and the same rows coded.
        level: the probability of any false alarm.
        ignore: columns that are not tested.
        scored: test the scores and the alarms, too.
    """
    frame, coded = rows
    n, held, notes = len(coded.rows), trained.held_out, []
    columns = [c for c in _constants(trained.coding, frame) if c.name not in ignore]
    columns += _tested(trained, coded, ignore, _nats(trained, coded) if scored else {})
    if not held.columns and not trained.coding.shape:
        notes.append(
            "the model keeps no held-out columns (it is of an earlier version, or very wide): "
            "only scores and alarms are tested; fit it again to test its columns"
        )
    fewest = min(n, held.rows or len(trained.calibration.scores))
    if fewest < FEW:
        notes.append(f"with {fewest} rows of a sample, only large drift can be shown")
    tests = [column.p_value for column in columns]
    if not scored:
        adjusted = holm(tests)
        found = _sorted(columns, adjusted, level)
        return {"rows": n, "held_out": held.rows, "level": level, "columns": found, "notes": notes}
    some = _random(n, ROWS)
    if len(some) < n:
        notes.append(f"{len(some):,} of {n:,} rows were scored, drawn at random")
    part = coded if len(some) == n else coded.part(some)
    scores = finite(Likelihood(trained.importance_samples)(trained.model, part), "scores")
    flagged = int((scores > trained.alarm.threshold).sum())
    own = _of_scores(trained.calibration, scores)
    alarming = alarms_test(trained.calibration, trained.alarm.threshold, flagged, len(scores))
    adjusted = holm([*tests, own.p_value, alarming])
    return {
        "rows": n,
        "held_out": held.rows or len(trained.calibration.scores),
        "level": level,
        "columns": _sorted(columns, adjusted, level),
        "scores": {
            "drift": own.difference,
            "p_value": own.p_value,
            "adjusted_p_value": float(adjusted[-2]),
            "drifted": bool(adjusted[-2] <= level),
            "mean": float(scores.mean()),
            "held_out_mean": _mean(trained.calibration.scores),
            "told": _told(own),
        },
        "alarms": {
            "rows": len(scores),
            "flagged": flagged,
            "share": flagged / len(scores),
            "expected": trained.alarm.rate,
            "threshold": trained.alarm.threshold,
            "p_value": alarming,
            "adjusted_p_value": float(adjusted[-1]),
            "drifted": bool(adjusted[-1] <= level),
        },
        "notes": notes,
    }


def _mean(scores: NDArray[np.float64]) -> float | None:
    return float(scores.mean()) if len(scores) else None


def _tested(
    trained: TrainedState, coded: Coded, ignore: frozenset[str], nats: dict[str, float]
) -> list[_Column]:
    """Return the tests of all modelled columns that the model keeps held-out values of."""
    held = trained.held_out
    if not held.columns:
        return []
    x = coded.rows.take(_random(len(coded.rows), max(1, CELLS // len(families(trained.coding)))))
    names, values = _Names(trained.coding), x.x.numpy()
    return [
        _Column(
            group.column,
            list(_of_column(group, held.columns[group.column], held.rows, values, names)),
            nats.get(group.column),
        )
        for group in trained.coding.groups
        if group.column in held.columns and group.column not in ignore
    ]


def _sorted(
    columns: Sequence[_Column], adjusted: NDArray[np.float64], level: float
) -> list[dict[str, Any]]:
    """Return the columns as plain values, those that drift most surely first."""
    found = []
    for column, p in zip(columns, adjusted.tolist(), strict=False):  # scores and alarms follow
        test = column.shown(level) if column.tests else Difference(1.0, 0.0, "", (0.0, 0.0))
        found.append(
            {
                "column": column.name,
                "drift": test.difference,
                "p_value": column.p_value,
                "adjusted_p_value": p,
                "drifted": p <= level,
                "nats": column.nats,
                "told": _told(test),
            }
        )
    found.sort(key=lambda row: (not row["drifted"], -row["drift"] if row["drifted"] else 0.0))
    calm = [row for row in found if not row["drifted"]]
    calm.sort(key=lambda row: row["p_value"])
    return [row for row in found if row["drifted"]] + calm


def _told(test: Difference) -> str:
    """Return a difference of shares in words."""
    if not test.what:
        return ""
    held, given = test.shares
    return f"{test.what}: {_percent(held)} of held-out rows, {_percent(given)} of these"


def _percent(share: float) -> str:
    return f"{share:.2%}" if 0 < share < 0.01 else f"{share:.1%}"
