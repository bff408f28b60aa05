"""Schema of a table: its columns, their kinds, and the exact map between values and numbers.

>>> import pyarrow as pa
>>> table = pa.table({"size": [1.5, 2.0, 4.0, 3.5], "colour": ["red", "blue", "red", None]})
>>> schema = infer(table)
>>> [part.name for part in schema.parts]
['size', 'colour']
>>> schema.decode(schema.encode(table).values)["colour"].to_pylist()
['red', 'blue', 'red', None]
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lowerbound.columns import hints
from lowerbound.columns.arrow import BadValues, declared, labels_of, listed, pc, plain, snippet
from lowerbound.columns.base import NO_ROWS, Column, Kind, Part, Tally
from lowerbound.columns.categories import Category
from lowerbound.columns.date_formats import is_format
from lowerbound.columns.dates import Datetime
from lowerbound.columns.kinds import Sample, Transform, force_column, infer_column
from lowerbound.columns.levels import joined
from lowerbound.columns.numbers import Count, Numeric
from lowerbound.columns.skipped import Skipped
from lowerbound.errors import DataError, UsageError, each_of, nearest

__all__ = ["Column", "Encoded", "Kind", "Part", "Schema", "infer"]

AnyColumn = Annotated[Skipped | Numeric | Count | Category | Datetime, Field(discriminator="kind")]

KINDS: tuple[str, ...] = get_args(Kind)
_CACHE_LINE = 16  # float32 numbers
_ALIASES = {
    "numeric": "real",
    "number": "real",
    "float": "real",
    "num": "real",
    "cat": "categorical",
    "category": "categorical",
    "bool": "binary",
    "ord": "ordinal",
    "time": "datetime",
    "date": "datetime",
    "timestamp": "datetime",
}


@dataclass(frozen=True)
class Encoded:
    """A table as coded numbers, with counts of unusual values.

    Attributes:
        values: (n, parts) float32, NaN where a value is missing.
        unseen: per column, the number of values with a level not seen in training.
        clipped: per column, the number of values outside the range of the coding.
        missing: per column, the number of missing values.
        notes: remarks for the user, such as a suspected change of unit.
        odd: the numbers of the rows, rising, that `unseen`, `clipped` and `notes` are about.
    """

    values: np.ndarray
    unseen: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    odd: np.ndarray = field(default_factory=lambda: NO_ROWS)


def _rows_of(tallies: Iterable[Tally]) -> np.ndarray:
    """Return the rows that any of the tallies is about, rising."""
    rows = [tally.rows for tally in tallies if len(tally.rows)]
    return np.unique(np.concatenate(rows)) if rows else NO_ROWS


class Asked(NamedTuple):
    """Values that samples are conditional on.

    Attributes:
        row: (parts,) codes, NaN where open.
        cells: the values by column, (1,) each, in the columns' own types.
        notes: remarks for the user.
    """

    codes: np.ndarray
    cells: dict[str, pa.Array]
    notes: tuple[str, ...] = ()


def no_column(name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a condition on a column that is not modelled."""
    near = nearest(name, known)
    return UsageError(
        "E243",
        f"the model has no column {name!r}"
        + (f"; found a similar name: {near!r}" if near else ""),
        fix=f"--where {near}=VALUE" if near else "lowerbound info M.vae lists them",
    )


class Schema(BaseModel):
    """Columns of a table and their coding, stored as JSON in the model file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: list[AnyColumn]

    @model_validator(mode="after")
    def _distinct_names(self) -> Schema:
        for names in ([c.name for c in self.columns], [p.name for p in self.parts]):
            if len(set(names)) != len(names):
                raise ValueError("columns and parts must have distinct names")
        return self

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The coded numbers of a row, in the order of the columns."""
        return tuple(part for column in self.columns for part in column.parts)

    @cached_property
    def modelled(self) -> tuple[str, ...]:
        """The names of the raw columns that are modelled."""
        return tuple(column.name for column in self.columns if column.parts)

    @cached_property
    def _slices(self) -> tuple[tuple[AnyColumn, slice], ...]:
        """The columns with the positions of their parts."""
        ends = np.cumsum([len(column.parts) for column in self.columns])
        spans = zip(self.columns, ends, strict=True)
        return tuple((c, slice(int(end) - len(c.parts), int(end))) for c, end in spans)

    @cached_property
    def _side_by_side(self) -> tuple[tuple[tuple[tuple[AnyColumn, slice], ...], slice], ...]:
        """Groups of columns whose parts share a cache line of a coded row, with their positions.

        Writing columns one by one touches a cache line per number, a quarter of the coding time.
        """
        groups: dict[int, list[tuple[AnyColumn, slice]]] = {}
        for column, span in self._slices:
            if column.parts:
                groups.setdefault(span.start // _CACHE_LINE, []).append((column, span))
        return tuple(
            (tuple(some), slice(some[0][1].start, some[-1][1].stop)) for some in groups.values()
        )

    def reaching(self, other: Schema) -> Schema:
        """Return the schema with ranges and types of `other`, of the same columns with more rows.

        A column whose kind differs in the two is that of `other`.
        """
        pairs: Any = zip(self.columns, other.columns, strict=True)
        wider = [a.reaching(b) if a.kind == b.kind else b for a, b in pairs]
        typed = [
            a.model_copy(update={"dtype": b.dtype})
            for a, b in zip(wider, other.columns, strict=True)
        ]
        return Schema(columns=typed)

    def encode(
        self, table: pa.Table, origin: str = "the table", *, genes: bool = False
    ) -> Encoded:
        """Return a table as coded numbers.

        Columns are found by name: their order does not matter and others are ignored.

        Args:
            table: the raw columns.
            origin: name of the table in messages.
            genes: whether columns are genes: then no message proposes to rename one.

        Raises:
            DataError: E031 when a column is missing, E030 and E032 to E035 when its values
                cannot be coded.
        """
        self._require(table.column_names, origin, genes)
        values = np.empty((table.num_rows, len(self.parts)), dtype=np.float32)
        tallies: dict[str, Tally] = {}
        for together, span in self._side_by_side:
            apart = np.empty((span.stop - span.start, table.num_rows), dtype=np.float32)
            for column, own in together:
                cells = plain(table.column(column.name))
                lines = apart[own.start - span.start : own.stop - span.start]
                tallies[column.name] = column.encode(cells, lines.T)
            values[:, span] = apart.T
        notes = (f"column {snippet(name)}: {t.note}" for name, t in tallies.items() if t.note)
        return Encoded(
            values=values,
            unseen={name: t.unseen for name, t in tallies.items() if t.unseen},
            clipped={name: t.clipped for name, t in tallies.items() if t.clipped},
            missing={name: t.missing for name, t in tallies.items() if t.missing},
            notes=tuple(notes),
            odd=_rows_of(tallies.values()),
        )

    def problems(self, table: pa.Table) -> list[DataError]:
        """Return the error of every column whose values cannot be coded; `encode` raises one.

        Args:
            table: the raw columns, all modelled ones among them.
        """
        found = []
        for column in self.columns:
            if column.parts:
                out = np.empty((table.num_rows, len(column.parts)), dtype=np.float32)
                try:
                    column.encode(plain(table.column(column.name)), out)
                except DataError as error:
                    found.append(error)
        return found

    def canonical(self, table: pa.Table, origin: str = "the table") -> pa.Table:
        """Return the modelled columns in types and spellings that all tables share.

        Args:
            table: the raw columns, in any order; others are ignored.
            origin: name of the table in messages.

        Returns:
            Columns of `Column.canonical`: float64 numbers, dates in seconds, levels as text.

        Raises:
            DataError: E031 when a column is missing, E030 and E032 when its values cannot be read.
        """
        self._require(table.column_names, origin, False)
        return pa.table(
            {
                column.name: column.canonical(plain(table.column(column.name)))
                for column in self.columns
                if column.parts
            }
        )

    def asked(self, where: Mapping[str, object]) -> Asked:
        """Return values of some columns as conditions of samples.

        Args:
            where: values by name of a modelled column.

        Raises:
            LowerboundError: E243 for a column that is not modelled, the errors of `Column.asked`,
                and E233 for several of them.
        """
        row = np.full(len(self.parts), np.nan, dtype=np.float32)
        spans = {column.name: (column, span) for column, span in self._slices if column.parts}
        cells, notes = {}, []

        def take(name: str) -> None:
            if name not in spans:
                raise no_column(name, spans)
            column, span = spans[name]
            row[span], cells[name], note = column.asked(where[name])
            notes.extend([note] if note else [])

        each_of(where, take, "conditions")
        return Asked(row, cells, tuple(notes))

    def changed_constants(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Return, for each constant column, a mask (n,) of the rows with another value."""
        return {
            column.name: column.changed(plain(table.column(column.name)))
            for column in self.columns
            if isinstance(column, Skipped) and column.held and column.name in table.column_names
        }

    def _require(self, names: Sequence[str], origin: str, genes: bool) -> None:
        """Raise E031 naming every modelled column that is absent or ambiguous."""
        given, wanted = set(names), self.modelled
        absent = [name for name in wanted if name not in given]
        if absent and genes:
            raise DataError(
                "E031",
                f"{len(absent):,} of {len(wanted):,} genes of the model are missing from "
                f"{origin}: {listed(absent)}",
                fix="give all genes of the model, under the same names",
                columns=absent,
                count=len(absent),
            )
        if absent:
            spare = sorted(given.difference(wanted))
            close = {name: nearest(name, spare) for name in absent}
            renames = [f"{theirs}={ours}" for ours, theirs in close.items() if theirs]
            noun = "column" if len(absent) == 1 else f"{len(absent):,} columns:"
            message = f"{noun} {listed(absent)} missing from {origin}"
            if renames:
                message += f"; similar there: {listed([n for n in close.values() if n])}"
            raise DataError(
                "E031",
                message,
                fix=" ".join(f"--rename {r}" for r in renames[:3])
                or f"add the column (values may be empty); {origin} has {listed(list(names))}",
                columns=absent,
                similar=close,
            )
        if len(given) < len(names):
            _refuse_duplicates([name for name in names if name in wanted])

    def decode(
        self, values: np.ndarray, *, bounded: bool = False, like: pa.Table | None = None
    ) -> pa.Table:
        """Return raw columns of their original types from coded numbers; NaN becomes null.

        Ids and free text are left out, constants are repeated.

        Args:
            values: (n, parts) codes.
            bounded: clip numbers to the range seen at fit time, as for samples.
            like: a table with the modelled columns; values get its types and ways of writing
                where these can hold them. Constants that it does not have are left out.
        """
        if values.ndim != 2 or values.shape[1] != len(self.parts):
            raise ValueError(f"expected (n, {len(self.parts)}) codes, got {values.shape}")
        found = {}
        for column, span in self._slices:
            if not column.parts and column.kind != "constant":
                continue
            if like is not None:
                if column.name not in like.column_names:
                    continue
                column = column.like(plain(like.column(column.name)))  # noqa: PLW2901
            found[column.name] = column.decode(values[:, span], bounded=bounded)
        return pa.table(found)

    def log_jacobian(self, values: np.ndarray) -> np.ndarray:
        """Return log |d coded / d raw| (n, parts) in nats, for densities of raw values.

        ``log p(raw) = log p(coded) + log_jacobian``; 0 where a part is discrete or missing.
        """
        out = np.zeros(values.shape)
        for column, span in self._slices:
            if column.parts:
                out[:, span] = column.log_jacobian(values[:, span])
        return out

    def describe(self) -> list[dict[str, Any]]:
        """Return one row per column for printing: column, kind, done, missing share, notes."""
        return described(self.columns)


def described(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """Return one row per column for printing: column, kind, done, missing share, notes."""
    rows = []
    for column in columns:
        share = column.missing / column.rows if column.rows else 0.0
        notes = [f"{share:.1%} missing"] if share else []
        rows.append(
            {
                "column": column.name,
                "kind": column.kind,
                "done": column.action,
                "missing": share,
                "notes": "; ".join([*notes, *column.notes]),
            }
        )
    return rows


def infer(
    table: pa.Table,
    *,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    transform: Transform = "standard",
    exclude_atoms: bool = False,
) -> Schema:
    """Infer the kind of each column of a table, and fit its coding.

    Args:
        table: the raw columns, all the rows that statistics may use.
        types: kinds given by the user, such as ``{"zip": "categorical"}``; an
            ordinal may carry its order: ``"ordinal:low<mid<high"``, and dates their format:
            ``"datetime:%d/%m/%Y"``. A key may be a pattern such as ``"x*"``; an exact name wins
            over a pattern.
        drop: columns to leave out, as for `matched`.
        transform: "standard", or "quantile" for Gaussian scores through quantiles.
        exclude_atoms: do not treat values shared by very many rows as atoms.

    Raises:
        UsageError: E202, E203 or E205 for a kind, column or order that does not exist.
        DataError: E012 or E030 to E041 for values that no kind allows, or if no column can be
            modelled.
    """
    _refuse_duplicates(table.column_names)
    dropped = matched(drop, table.column_names, "drop")
    forced = _kinds(types or {}, table.column_names)
    if table.num_rows < 2:
        raise _too_few(table)
    columns = []
    for name in table.column_names:
        if name not in dropped:
            sample = _sample(name, table.column(name), transform, exclude_atoms)
            columns.append(_column(sample, forced))
    schema = _build(columns)
    if not schema.parts:
        raise _nothing_modelled(columns)
    return schema


def _sample(
    name: str, column: pa.ChunkedArray, transform: Transform, exclude_atoms: bool
) -> Sample:
    kind = declared(column.type)
    cells = joined(plain(column))
    categories = pa.types.is_dictionary(kind)
    ordered = categories and bool(kind.ordered)
    words = None
    if ordered or (categories and not pa.types.is_dictionary(cells.type)):
        words = tuple(labels_of(column))
    return Sample(name, cells, str(kind), transform, exclude_atoms, words, ordered)


def _column(sample: Sample, forced: Mapping[str, tuple[str, list[str] | None]]) -> Any:
    """Return a column of the kind that was given for it, or of the inferred one."""
    if sample.name in forced:
        return force_column(sample, *forced[sample.name])
    return infer_column(sample)


def _too_few(table: pa.Table) -> DataError:
    return DataError(
        "E038",
        f"the table has {table.num_rows} row{'s' * (table.num_rows != 1)}; what columns hold "
        "cannot be learned from fewer than 2",
        fix="give more rows",
        rows=table.num_rows,
    )


def _nothing_modelled(columns: Sequence[Column]) -> DataError:
    shown = ", ".join(f"{snippet(c.name, 40)} ({c.kind})" for c in columns[:5])
    more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
    return DataError(
        "E037",
        f"no column can be modelled: {shown + more if columns else 'every column was dropped'}",
        fix="give a kind yourself, such as --types NAME=categorical",
    )


@dataclass(frozen=True)
class Problem:
    """Values of a column, or a whole column, that are probably wrong.

    Attributes:
        column: its name; empty for a problem of the table.
        why: the reason, such as "not a number".
        error: the error that `infer` raises; None for values that it accepts.
        values: the rows, from 1, and the text of the first of the values.
        count: the number of the values.
    """

    column: str
    why: str
    error: DataError | None = None
    values: tuple[tuple[int, str], ...] = ()
    count: int = 0

    @classmethod
    def at(cls, sample: Sample, wrong: np.ndarray, why: str, error: DataError | None) -> Problem:
        """Return the problem of the values of a column where `wrong` holds."""
        rows = np.flatnonzero(wrong)[:SHOWN]
        values = tuple((int(row) + 1, str(sample.cells[int(row)].as_py())) for row in rows)
        return cls(sample.name, why, error, values, int(wrong.sum()))


SHOWN = 20  # values that a `Problem` lists
_TRIES = 4  # problems of one column: values that are not numbers, infinite ones, ...


def survey(
    table: pa.Table,
    *,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    transform: Transform = "standard",
    exclude_atoms: bool = False,
) -> tuple[list[Column], list[Problem]]:
    """Infer columns as `infer` does, but go on after values that it refuses.

    Bad values are treated as missing; a column that cannot be used is returned as ignored. The
    arguments are those of `infer`.

    Returns:
        The columns and the problems.

    Raises:
        UsageError: E202, E203 or E205 for a kind, column or order that does not exist.
    """
    dropped = matched(drop, table.column_names, "drop")
    forced = _kinds(types or {}, table.column_names)
    columns: list[Column] = []
    problems: list[Problem] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name not in dropped:
            found, more = _surveyed(_sample(name, column, transform, exclude_atoms), forced)
            columns.append(found)
            problems += more
    for check in (lambda: _refuse_duplicates(table.column_names), lambda: _build(columns)):
        try:
            check()
        except DataError as error:
            problems.append(Problem("", error.message, error))
            break
    if table.num_rows < 2:
        error = _too_few(table)
        problems.append(Problem("", error.message, error))
    elif not any(column.parts for column in columns):
        error = _nothing_modelled(columns)
        problems.append(Problem("", error.message, error))
    return columns, problems


def _surveyed(
    sample: Sample, forced: Mapping[str, tuple[str, list[str] | None]]
) -> tuple[Column, list[Problem]]:
    """Return a column, and the problems that were found on the way to it."""
    problems: list[Problem] = []
    for _ in range(_TRIES):
        try:
            column = _column(sample, forced)
        except BadValues as error:
            if error.wrong is None:
                break
            problems.append(Problem.at(sample, error.wrong, error.why, error))
            sample = replace(sample, cells=_without(sample.cells, error.wrong))
        except DataError as error:
            problems.append(Problem(sample.name, error.message, error))
            break
        else:
            wrong = sum(problem.count for problem in problems)
            if pa.types.is_dictionary(sample.cells.type) and sample.name not in forced:
                _, rows = hints.of_words(sample.name, sample.cells)
                if rows.any() and column.kind != "datetime":
                    problems.append(Problem.at(sample, rows, "not a date", None))
            return column.model_copy(update={"missing": column.missing - wrong}), problems
    values = {**sample.common, "kind": "text", "notes": (problems[-1].why,)}
    return Skipped.model_validate(values), problems


def _without(cells: pa.Array, wrong: np.ndarray) -> pa.Array:
    """Return a column with values replaced by missing ones."""
    mask = pa.array(wrong)
    if not pa.types.is_dictionary(cells.type):
        return pc.if_else(mask, pa.scalar(None, cells.type), cells)
    indices = pc.if_else(mask, pa.scalar(None, cells.indices.type), cells.indices)
    fewer = pa.DictionaryArray.from_arrays(indices, cells.dictionary)
    return plain(pa.chunked_array([fewer]))  # without the levels that are gone


def _build(columns: list[Any]) -> Schema:
    names = {column.name for column in columns}
    for column in columns:
        for part in column.parts[1:]:
            if part.name in names:
                raise DataError(
                    "E012",
                    f"the name {snippet(part.name)} is needed for a part of column "
                    f"{snippet(column.name)}, but another column has it",
                    fix=f"rename the column {part.name}",
                    column=part.name,
                )
    return Schema(columns=columns)


def _refuse_duplicates(names: Iterable[str]) -> None:
    names = list(names)
    if len(set(names)) == len(names):
        return
    twice = sorted({name for name in names if names.count(name) > 1})
    raise DataError(
        "E012",
        f"{len(twice)} column names occur more than once: {listed(twice)}",
        fix="give every column its own name",
        columns=twice,
    )


def matched(keys: Iterable[str], names: Sequence[str], flag: str) -> list[str]:
    """Return the columns that a flag names.

    Args:
        keys: names, patterns such as ``"x*"``, or several of them separated by commas. The name of
            a column wins over a pattern, and both over a list.
        names: of the table's columns.
        flag: the flag without its dashes, for messages.

    Raises:
        UsageError: E203 for a name that the table does not have.
    """
    known = {*names}
    found: list[str] = []
    for key in keys:
        hits = [key] if key in known else fnmatch.filter(names, key)
        if not hits and "," in key:
            found += matched(
                [part.strip() for part in key.split(",") if part.strip()], names, flag
            )
        elif not hits:
            close = nearest(key, names)
            raise UsageError(
                "E203",
                f"--{flag} names the column {snippet(key)}, which the table does not have",
                fix=f"did you mean {snippet(close)}?"
                if close
                else f"it has {listed(list(names))}",
                column=key,
                similar=close,
            )
        found.extend(hits)
    return found


def _kinds(
    types: Mapping[str, str], names: Sequence[str]
) -> dict[str, tuple[str, list[str] | None]]:
    """Return the kinds given by --types, with the order of levels or the format of dates."""
    forced: dict[str, tuple[str, list[str] | None]] = {}
    exact_last = sorted(types, key=lambda key: key in names)
    for key in exact_last:
        word, _, spec = str(types[key]).partition(":")
        kind = _ALIASES.get(word.strip().lower(), word.strip().lower())
        if kind not in KINDS:
            close = nearest(word, (*KINDS, *_ALIASES))
            raise UsageError(
                "E202",
                f"{snippet(word)} is no kind of column (given for {snippet(key)})",
                fix=(f"did you mean {close}? " if close else "")
                + f"the kinds are {', '.join(KINDS)}",
                column=key,
                similar=close,
            )
        more = _spec(key, kind, spec)
        forced |= {name: (kind, more) for name in matched([key], names, "types")}
    return forced


def _spec(column: str, kind: str, spec: str) -> list[str] | None:
    """Return what follows a kind: the levels of an ordinal in order, or the format of dates."""
    if not spec:
        return None
    if kind == "datetime":
        if is_format(spec):
            return [spec]
        raise UsageError(
            "E205",
            f"the format {snippet(spec)} given for column {snippet(column)} is not usable",
            fix=f"--types '{column}=datetime:%d/%m/%Y', with a year and a month, as in strftime",
            column=column,
        )
    order = [word.strip() for word in spec.split("<")]
    if kind != "ordinal" or len(order) < 2 or len(set(order)) != len(order) or "" in order:
        raise UsageError(
            "E205",
            f"the order {snippet(spec)} given for column {snippet(column)} is not usable",
            fix=f"--types '{column}=ordinal:low<mid<high', each level once, lowest first",
            column=column,
        )
    return order
