"""Check a model on rows, as a gate of a pipeline: schema, drift, alarms and latency."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from lowerbound.coding.base import Coded
from lowerbound.coding.tables import TableCoding
from lowerbound.columns.arrow import (
    arrow_type,
    is_moment,
    is_number,
    is_text,
    listed,
    plain,
    snippet,
    storage,
)
from lowerbound.errors import CheckFailed, DataError, UsageError, nearest
from lowerbound.files.data import Table, Whole
from lowerbound.tasks import drift
from lowerbound.tasks.state import TrainedState

WARM_UP = 20  # rows that are scored before latency is measured
TIMED = 1_000  # rows whose latency is measured
MOST_SECONDS = 10.0  # of the measurement of latency
SHOWN = 5  # columns that a problem of drift names


class Problem(NamedTuple):
    """One failed check.

    Attributes:
        check: "schema", "drift", "scores", "alarms" or "latency".
        column: the column that it is about, or "".
        message: what is wrong.
        fix: how to repair it, or "".
        code: the code of the error that `score` would raise, or "".
    """

    check: str
    column: str
    message: str
    fix: str = ""
    code: str = ""


class Latency(NamedTuple):
    """The time that it takes to score one row, coding included.

    Attributes:
        rows: number of rows that were timed, one by one.
        p50: median, seconds.
        p99: 99th percentile, seconds.
    """

    rows: int
    p50: float
    p99: float


@dataclass(frozen=True)
class Limits:
    """The limits of a check.

    Args:
        max_drift: largest drift that is no problem: a difference of shares, from 0 to 1.
        level: probability of any false alarm of the tests of drift and of alarms.
        max_alarm_rate: largest share of flagged rows; None is that of the fit, by a test.
        max_p99: largest 99th percentile of the seconds to score one row; None does not measure.
        ignore: columns whose drift is no problem.

    Raises:
        UsageError: E240 for a number out of range.
    """

    max_drift: float = drift.MOST_DRIFT
    level: float = drift.LEVEL
    max_alarm_rate: float | None = None
    max_p99: float | None = None
    ignore: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, low, high, inclusive in (
            ("max_drift", 0.0, 1.0, True),
            ("level", 0.0, 1.0, False),
            ("max_alarm_rate", 0.0, 1.0, True),
            ("max_p99", 0.0, math.inf, False),
        ):
            value = getattr(self, name)
            if value is None or (low <= value <= high if inclusive else low < value < high):
                continue
            flag = f"--{name.replace('_', '-')}"
            wanted = "above 0" if high == math.inf else f"between {low:g} and {high:g}"
            example = {"max_p99": "20ms", "level": "1%"}.get(name, "0.1")
            raise UsageError(
                "E240", f"{flag} must be {wanted}, got {value}", fix=f"{flag} {example}"
            )


@dataclass(frozen=True)
class CheckReport:
    """The result of `lowerbound.Model.check`.

    Attributes:
        rows: number of rows of the data.
        problems: the failed checks; empty if all passed.
        notes: remarks that fail nothing, such as columns that the model does not have.
        drift: the result of `lowerbound.Model.drift`, without scores and alarms if the schema has
            problems; None if no row could be coded.
        latency: the time to score a row, or None if it was not measured.
        limits: the limits of the check.
    """

    rows: int
    problems: Sequence[Problem]
    notes: Sequence[str]
    drift: Mapping[str, Any] | None
    latency: Latency | None
    limits: Limits = field(default_factory=Limits)

    @property
    def passed(self) -> bool:
        """True if there is no problem."""
        return not self.problems

    def of(self, *checks: str) -> list[Problem]:
        """Return the problems of some checks."""
        return [problem for problem in self.problems if problem.check in checks]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "passed": self.passed,
            "rows": self.rows,
            "problems": [problem._asdict() for problem in self.problems],
            "drift": self.drift,
            "latency": None if self.latency is None else self.latency._asdict(),
            "limits": {**vars(self.limits), "ignore": list(self.limits.ignore)},
            "notes": list(self.notes),
        }

    def error(self) -> CheckFailed | None:
        """Return the error E604 that tells all problems, or None if the check passed."""
        if self.passed:
            return None
        lines = [
            f"\n  - {p.check}: {p.message}" + (f" (fix: {p.fix})" if p.fix else "")
            for p in self.problems
        ]
        fixes = [p.fix for p in self.problems if p.fix.startswith("--rename")]
        return CheckFailed(
            "E604",
            f"{len(lines)} {'problem' if len(lines) == 1 else 'problems'} in {self.rows:,} rows:"
            + "".join(lines),
            fix=" ".join(fixes) or "repair the data, or fit the model again if they are right",
            problems=[p._asdict() for p in self.problems],
        )

    def raise_if_failed(self) -> None:
        """Raise E604 if the check failed.

        Raises:
            CheckFailed: E604 with all problems.
        """
        if (error := self.error()) is not None:
            raise error

    def __str__(self) -> str:
        """Return the verdict, and one line for each problem."""
        if self.passed:
            return f"passed: {self.rows:,} rows are like those that the model learned"
        lines = [f"{p.check}: {p.message}" for p in self.problems]
        return "\n".join([f"FAILED: {len(lines)} problems in {self.rows:,} rows", *lines])

    def _repr_html_(self) -> str:
        """Return the verdict as HTML, for notebooks."""
        first, *rest = (html.escape(line) for line in str(self).splitlines())
        items = "".join(f"<li>{line}</li>" for line in rest)
        return f"<div><b>{first}</b><ul>{items}</ul></div>"


class Scorer(Protocol):
    """A model that scores rows: `lowerbound.Model`."""

    def encode(self, data: object) -> tuple[Whole, Coded]:
        """Read and code rows."""
        ...

    def score_coded(self, coded: Coded) -> Any:
        """Return the scores of coded rows."""
        ...


def check(trained: TrainedState, scorer: Scorer, given: Any, limits: Limits) -> CheckReport:
    """Check a model on rows.

    Args:
        trained: the model.
        scorer: the same model, to score single rows.
        given: the rows, as `lowerbound.files.read.walk` returns them.
        limits: what is a problem.
    """
    ignore = drift.check_ignored(trained, limits.ignore)
    drift.check_scorable(trained)
    sample = drift.sampled(given)
    frame, problems, notes = _readable(trained, sample.frame)
    notes = [*sample.notes, *notes]
    try:
        frame, coded = scorer.encode(frame)
    except DataError as error:
        problems.append(Problem("schema", "", error.message, error.fix, error.code))
        return CheckReport(sample.total, problems, notes, None, None, limits)
    broken = {problem.column for problem in problems if problem.column}
    problems += _of_units(coded)
    notes += [note for note in coded.notes if note not in notes and not _is_unit(note)]
    notes += _counted(coded)
    whole = not problems
    found = drift.report(
        trained, (frame, coded), limits.level, ignore | frozenset(broken), scored=whole
    )
    notes += found["notes"]
    if not whole:
        notes.append("scores, alarms and latency wait for a schema without problems")
    problems += _of_drift(found, limits)
    latency = None
    if whole and limits.max_p99 is not None:
        latency = _latency(scorer, frame)
        if latency.p99 > limits.max_p99:
            problems.append(
                Problem(
                    "latency",
                    "",
                    f"the 99th percentile of the time to score a row is "
                    f"{1000 * latency.p99:.3g} ms, above {1000 * limits.max_p99:g} ms",
                    "lowerbound export M.vae --out M.onnx scores rows faster",
                )
            )
    return CheckReport(sample.total, problems, notes, found, latency, limits)


def _readable(trained: TrainedState, frame: Whole) -> tuple[Whole, list[Problem], list[str]]:
    """Return rows whose columns can all be coded, and what is wrong with the others.

    A column that is missing, or whose values cannot be read, is replaced by one without values.
    """
    coding, problems, notes = trained.coding, [], []
    if not isinstance(coding, TableCoding):
        return frame, [], []
    table = frame.to_table()
    names, schema = table.table.column_names, coding.schema
    spare = [name for name in names if name not in {c.name for c in schema.columns}]
    columns = {name: table.table.column(name) for name in dict.fromkeys(names)}
    nothing = pa.chunked_array([pa.nulls(table.rows)])
    for column in schema.columns:
        if not column.parts:
            continue
        if column.name not in columns:
            problems.append(_missing(column.name, spare))
            columns[column.name] = nothing
            continue
        cells = columns[column.name]
        scratch = np.empty((table.rows, len(column.parts)), np.float32)
        try:
            column.encode(plain(cells), scratch)
        except DataError as error:
            message = error.message
            problems.append(Problem("schema", column.name, message, error.fix, error.code))
            columns[column.name] = nothing
            continue
        notes += _retyped(column.name, arrow_type(column.dtype), cells.type)
    learned = set(trained.facts.get("columns", ()))
    extra = [name for name in spare if name not in learned]
    if extra:
        noun = "column" if len(extra) == 1 else "columns"
        notes.append(f"{len(extra):,} {noun} that the model does not have: {listed(extra)}")
    if problems:
        return _with_columns(table, columns), problems, notes
    return frame, problems, notes


def _with_columns(table: Table, columns: Mapping[str, Any]) -> Table:
    return replace(table, table=pa.table(dict(columns)))


def _missing(name: str, spare: Sequence[str]) -> Problem:
    """Return the problem of a missing column, with the column that may be the renamed one."""
    near = nearest(name, spare)
    similar = "" if near is None else f"; similar there: {snippet(near)}"
    fix = "" if near is None else f"--rename {near}={name}"
    return Problem("schema", name, f"column {snippet(name)} is missing{similar}", fix, "E031")


def _class_of(kind: pa.DataType) -> str:
    """Return what the values of an Arrow type are, in one word."""
    kind = storage(kind)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    for name, holds in (
        ("truth values", pa.types.is_boolean),
        ("numbers", is_number),
        ("dates", is_moment),
        ("text", is_text),
    ):
        if holds(kind):
            return name
    return str(kind)


def _retyped(name: str, learned: pa.DataType, given: pa.DataType) -> list[str]:
    """Return a note on a column whose values are of another type and are converted."""
    if pa.types.is_null(given):
        return [f"column {snippet(name)} has no values"]
    before, now = _class_of(learned), _class_of(given)
    if before == now:
        return []
    return [f"column {snippet(name)} has {now} instead of {before}; all could be converted"]


_UNIT = "has the unit changed?"


def _is_unit(note: str) -> bool:
    return note.endswith(_UNIT)


def _of_units(coded: Coded) -> list[Problem]:
    """Return the problems of columns whose values are in another unit."""
    return [
        Problem("schema", "", note, "convert the column to the unit of the training data")
        for note in coded.notes
        if _is_unit(note)
    ]


def _counted(coded: Coded) -> list[str]:
    """Return a note on values whose level training has not seen."""
    if not coded.unseen:
        return []
    worst = sorted(coded.unseen.items(), key=lambda each: -each[1])[:SHOWN]
    total = sum(coded.unseen.values())
    named = ", ".join(f"{name} {count:,}" for name, count in worst)
    return [f"{total:,} values not seen in training: {named}"]


def _of_drift(found: Mapping[str, Any], limits: Limits) -> list[Problem]:
    """Return the problems of columns, scores and alarms."""
    problems = [
        Problem(
            "drift",
            row["column"],
            f"column {snippet(row['column'])} drifted by {row['drift']:.3g} "
            f"({spell_p(row['adjusted_p_value'])}): {row['told']}",
        )
        for row in found["columns"]
        if row["drifted"] and row["drift"] > limits.max_drift
    ]
    scores, alarms = found.get("scores"), found.get("alarms")
    if scores and scores["drifted"] and scores["drift"] > limits.max_drift:
        problems.append(
            Problem(
                "scores",
                "",
                f"the scores drifted by {scores['drift']:.3g} "
                f"({spell_p(scores['adjusted_p_value'])}): {scores['told']}",
            )
        )
    if alarms is None:
        return problems
    most = limits.max_alarm_rate
    told = f"{alarms['share']:.2%} of {alarms['rows']:,} rows are flagged"
    if most is not None and alarms["share"] > most:
        problems.append(Problem("alarms", "", f"{told}, above the limit of {most:.2%}"))
    elif most is None and alarms["drifted"]:
        problems.append(
            Problem(
                "alarms",
                "",
                f"{told}, {alarms['expected']:.2%} were expected "
                f"({spell_p(alarms['adjusted_p_value'])})",
            )
        )
    return problems


def spell_p(p: float) -> str:
    """Return a p-value as text."""
    return "p < 1e-12" if p < 1e-12 else f"p = {p:.2g}"


def _latency(scorer: Scorer, frame: Whole) -> Latency:
    """Score rows one by one, and return the time that it takes."""
    n, times, began = frame.rows, [], time.monotonic()
    for i in range(WARM_UP + TIMED):
        row = frame.cut(slice(i % n, i % n + 1))
        start = time.perf_counter()
        scorer.score_coded(scorer.encode(row)[1])
        took = time.perf_counter() - start
        if i >= WARM_UP or n == 1:
            times.append(took)
        if times and time.monotonic() - began > MOST_SECONDS:
            break
    p50, p99 = np.quantile(times, 0.5), np.quantile(times, 0.99, method="higher")
    return Latency(len(times), float(p50), float(p99))
