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
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lowerbound.columns.arrow import declared, labels_of, listed, plain, snippet
from lowerbound.columns.base import Column, Kind, Part, Tally
from lowerbound.columns.categories import Category
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
    """

    values: np.ndarray
    unseen: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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

    def encode(self, table: pa.Table, origin: str = "the table") -> Encoded:
        """Return a table as coded numbers.

        Columns are found by name: their order does not matter and others are ignored.

        Args:
            table: the raw columns.
            origin: name of the table in messages.

        Raises:
            DataError: E031 when a column is missing, E030 and E032 to E035 when its values
                cannot be coded.
        """
        self._require(table.column_names, origin)
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

    def _require(self, names: Sequence[str], origin: str) -> None:
        """Raise E031 naming every modelled column that is absent or ambiguous."""
        given, wanted = set(names), self.modelled
        absent = [name for name in wanted if name not in given]
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
            like: a table with these columns; values get its types and ways of writing where
                these can hold them.
        """
        if values.ndim != 2 or values.shape[1] != len(self.parts):
            raise ValueError(f"expected (n, {len(self.parts)}) codes, got {values.shape}")
        found = {}
        for column, span in self._slices:
            if not column.parts and column.kind != "constant":
                continue
            if like is not None:
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
        rows = []
        for column in self.columns:
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
            ordinal may carry its order: ``"ordinal:low<mid<high"``. A key may be a pattern
            such as ``"x*"``; an exact name wins over a pattern.
        drop: columns to leave out; patterns are allowed too.
        transform: "standard", or "quantile" for Gaussian scores through quantiles.
        exclude_atoms: do not treat values shared by very many rows as atoms.

    Raises:
        UsageError: E202, E203 or E205 for a kind, column or order that does not exist.
        DataError: E012 or E030 to E041 for values that no kind allows, or if no column can be
            modelled.
    """
    _refuse_duplicates(table.column_names)
    dropped = set(_match(drop, table.column_names, "drop"))
    forced = _kinds(types or {}, table.column_names)
    if table.num_rows < 2:
        raise DataError(
            "E038",
            f"the table has {table.num_rows} row{'s' * (table.num_rows != 1)}; what columns hold "
            "cannot be learned from fewer than 2",
            fix="give more rows",
            rows=table.num_rows,
        )
    columns = []
    for name in table.column_names:
        if name in dropped:
            continue
        sample = _sample(name, table.column(name), transform, exclude_atoms)
        columns.append(
            force_column(sample, *forced[name]) if name in forced else infer_column(sample)
        )
    schema = _build(columns)
    if not schema.parts:
        found = [f"{c.name} ({c.kind})" for c in columns]
        raise DataError(
            "E037",
            f"no column can be modelled: {listed(found) if found else 'every column was dropped'}",
            fix="give a kind yourself, such as --types NAME=categorical",
        )
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


def _match(keys: Iterable[str], names: Sequence[str], flag: str) -> list[str]:
    """Return the settings by column, with patterns expanded; raise E203 for an unknown name."""
    found: list[str] = []
    for key in keys:
        hits = [key] if key in names else fnmatch.filter(names, key)
        if not hits:
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
    """Return the kinds given by --types and, for ordinals, the order of their levels."""
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
        order = _order(key, kind, spec)
        forced |= {name: (kind, order) for name in _match([key], names, "types")}
    return forced


def _order(column: str, kind: str, spec: str) -> list[str] | None:
    if not spec:
        return None
    order = [word.strip() for word in spec.split("<")]
    if kind != "ordinal" or len(order) < 2 or len(set(order)) != len(order) or "" in order:
        raise UsageError(
            "E205",
            f"the order {snippet(spec)} given for column {snippet(column)} is not usable",
            fix=f"--types '{column}=ordinal:low<mid<high', each level once, lowest first",
            column=column,
        )
    return order
