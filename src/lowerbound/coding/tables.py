"""Convert tables to the numbers that a model takes, and back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lowerbound.coding.base import Coded, Coding, Conditions, Group, WithoutContext, table_of
from lowerbound.coding.counts import CountsCoding
from lowerbound.coding.filling import filled
from lowerbound.coding.pairs import PairCoding, Restoration
from lowerbound.coding.pictures import PictureCoding
from lowerbound.coding.rows import Dense
from lowerbound.columns.arrow import is_number, listed
from lowerbound.columns.base import Days, Scale
from lowerbound.columns.schema import Schema, infer
from lowerbound.errors import DataError, LowerboundError
from lowerbound.files.data import Matrix, Whole
from lowerbound.files.pictures.options import ANY, Wanted

_DROPPED = 20  # columns that a way to repair something names

__all__ = ["Coded", "Coding", "Group", "numbers_for", "restore", "table_of"]


def _grouped(schema: Schema) -> tuple[Group, ...]:
    places: dict[str, list[int]] = {}
    for i, part in enumerate(schema.parts):
        places.setdefault(part.column, []).append(i)
    return tuple(Group(column, tuple(parts)) for column, parts in places.items())


@dataclass(frozen=True)
class TableCoding(WithoutContext):
    """The coding of the recipe `table`: every column by its kind, gaps kept as NaN.

    Args:
        schema: kinds and statistics of the columns.
        gaps: whether any training cell was missing.
    """

    schema: Schema
    gaps: bool

    @classmethod
    def fit(
        cls, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> TableCoding:
        """Infer kinds and statistics from `frame`."""
        rows = frame.to_table()
        hints = rows.inference(types, drop)
        schema = infer(rows.table, transform=transform, **hints)  # pyright: ignore
        gaps = any(schema.encode(rows.table).missing.values())
        return cls(schema, gaps)

    def with_gaps(self, found: bool) -> Self:
        """Return the coding with `gaps` also set if `found`, in rows that `fit` did not see."""
        return replace(self, gaps=self.gaps or found)

    def reaching(self, other: TableCoding) -> TableCoding:
        """Return the coding with ranges and kinds of `other`, which was fitted to more rows."""
        schema = self.schema.reaching(other.schema)
        return replace(self, schema=schema, gaps=self.gaps or other.gaps)

    @property
    def shape(self) -> tuple[int, ...]:
        """(): rows are not images."""
        return ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The raw columns that are modelled."""
        return _grouped(self.schema)

    def arguments(self) -> dict[str, Any]:
        """Families and sizes of the coded columns, and that the encoder is told of gaps."""
        parts = self.schema.parts
        rows = {column.name: column.rows for column in self.schema.columns}
        unseen = [1.0 / (rows[part.column] + 2) if part.unknown else 0.0 for part in parts]
        return {
            "families": [part.family for part in parts],
            "sizes": [part.size for part in parts],
            # Laplace's rule of succession: the next value is new once in rows + 2.
            "reserved": unseen,
            "gaps": 0.0,
        }

    @property
    def scales(self) -> tuple[Scale | None, ...]:
        """For each coded column, the map to raw values; None for codes."""
        return tuple(scale for column in self.schema.columns for scale in column.scales)

    @property
    def code_values(self) -> tuple[tuple[float | None, ...] | None, ...]:
        """For each coded column of codes that stand for numbers, these; None for others."""
        return tuple(each for column in self.schema.columns for each in column.code_values)

    @property
    def days(self) -> list[Days]:
        """The dates as weighted sums of coded columns, whose indices are the parts, in days."""
        found = []
        for group in self.groups:
            days = next(c for c in self.schema.columns if c.name == group.column).days
            if days is not None:
                found.append(days._replace(parts=tuple(group.parts[part] for part in days.parts)))
        return found

    @property
    def gates(self) -> list[tuple[int, int, int]]:
        """The coded columns that have a value only where their column is no atom.

        Each is (column, column of the atoms, code there of no atom).
        """
        found: list[tuple[int, int, int]] = []
        for group in self.groups:
            column = next(c for c in self.schema.columns if c.name == group.column)
            atoms = getattr(column, "atoms", ())
            if atoms:
                *gated, by = group.parts
                none = column.none  # pyright: ignore[reportAttributeAccessIssue]
                found += [(part, by, none) for part in gated]
        return found

    def wanted(self) -> Wanted:
        """The defaults: rows are not images."""
        return ANY

    def encode(self, frame: Whole) -> Coded:
        """Code the rows of `frame`; columns are found by name."""
        table = table_of(frame)
        coded = self.schema.encode(table, frame.origin, genes=isinstance(frame, Matrix))

        def jacobian() -> NDArray[np.float64]:
            cells = self.schema.log_jacobian(coded.values)
            return np.where(np.isnan(coded.values), 0.0, cells).sum(1)

        return Coded(
            Dense(torch.from_numpy(coded.values)),
            jacobian,
            self._surcharge(table),
            unseen=coded.unseen,
            clipped=coded.clipped,
            missing=coded.missing,
            notes=(*frame.notes, *coded.notes),
            groups=[group.parts for group in self.groups],
            odd=coded.odd,
        )

    def problems(self, frame: Whole) -> list[LowerboundError]:
        """Return everything that keeps rows from being coded, instead of the first error."""
        table = table_of(frame)
        try:
            self.schema.encode(table, frame.origin)
        except LowerboundError as error:
            if error.code == "E031":  # columns are missing, and the message names all of them
                return [error]
            return [*self.schema.problems(table)] or [error]
        return []

    def _surcharge(self, table: pa.Table) -> NDArray[np.float64]:
        """Return -log p of every change of a constant, p = 1 / (rows + 2), summed by row."""
        rows = {column.name: column.rows for column in self.schema.columns}
        total = np.zeros(table.num_rows)
        for name, changed in self.schema.changed_constants(table).items():
            total[changed] += np.log(rows[name] + 2.0)
        return total

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Return raw columns for coded rows; `bounded` holds them to the range seen."""
        return self.schema.decode(np.asarray(values), bounded=bounded)

    def means(self, values: NDArray[np.floating]) -> pa.Table:
        """Return raw columns for means of coded rows; columns of counts become floats."""
        table = self.decode(values)
        places = {part.name: place for place, part in enumerate(self.schema.parts)}
        for column in self.schema.columns:
            if column.kind == "count":
                place = table.column_names.index(column.name)
                mean = np.asarray(values, np.float64)[:, places[column.name]]
                table = table.set_column(place, column.name, pa.array(mean))
        return table

    def asked(self, where: Mapping[str, object]) -> Conditions:
        """Return values of columns as conditions of samples; see `Schema.asked`."""
        codes, cells, notes = self.schema.asked(where)
        return Conditions(torch.from_numpy(codes), cells, notes)

    def filled(self, frame: Whole, values: NDArray[np.floating]) -> pa.Table:
        """Return the rows of `frame` with missing values replaced by the decoded `values`."""
        numbers = [c.name for c in self.schema.columns if c.kind in {"real", "positive", "count"}]
        table = table_of(frame)
        decoded = self.schema.decode(np.asarray(values), bounded=True, like=table)
        return filled(table, decoded, numbers)

    def document(self) -> dict[str, Any]:
        """Return the schema as plain JSON values."""
        return {
            "coding": "table",
            "gaps": self.gaps,
            "schema": self.schema.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class NumberCoding(TableCoding):
    """The coding of the recipes for real vectors: every column a standardised number."""

    family: ClassVar[str] = "real"
    name: ClassVar[str] = "numbers"

    @classmethod
    def fit(
        cls, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> NumberCoding:
        """Infer statistics, with every numeric column as one of the coding's family.

        Raises:
            DataError: E071 for a column of another family.
        """
        table = table_of(frame)
        numeric = {
            name: cls.family
            for name, column in zip(table.column_names, table.columns, strict=True)
            if is_number(column.type) and name not in types and name not in drop
        }
        plain = {"exclude_atoms": True, "transform": transform}
        schema = infer(table, types={**numeric, **types}, drop=drop, **plain)  # pyright: ignore
        odd = [part.column for part in schema.parts if part.family != cls.family]
        if odd:
            raise cls._another_kind(frame.origin, list(dict.fromkeys(odd)))
        return cls(schema, any(schema.encode(table).missing.values()))

    @classmethod
    def _another_kind(cls, origin: str, columns: list[str]) -> DataError:
        drop = " ".join(f"--drop {shlex.quote(name)}" for name in columns[:_DROPPED])
        few = f", or {drop}" if len(columns) <= _DROPPED else ""
        return DataError(
            "E071",
            f"{origin}: this recipe models {cls.name}, and {listed(columns)} "
            f"{'is' if len(columns) == 1 else 'are'} of another kind",
            fix=f"--recipe table{few}",
            columns=columns,
        )

    def arguments(self) -> dict[str, Any]:
        """The number of columns, and that the encoder is told which values are missing."""
        return {"features": len(self.schema.parts), "missing": True}

    def document(self) -> dict[str, Any]:
        """Return the schema as plain JSON values."""
        return {**super().document(), "coding": self.name}


@dataclass(frozen=True)
class BitsCoding(NumberCoding):
    """The coding of the recipe `binary`: every column 0 or 1."""

    family: ClassVar[str] = "binary"
    name: ClassVar[str] = "bits"


_STORED = {"table": TableCoding, "numbers": NumberCoding, "bits": BitsCoding}


def numbers_for(likelihood: object) -> type[NumberCoding]:
    """Return the coding of columns of numbers that a likelihood asks for."""
    return BitsCoding if likelihood == "bernoulli" else NumberCoding


def restore(document: Mapping[str, Any], restoration: Restoration | None = None) -> Coding:
    """Rebuild a coding from its `document`.

    Args:
        document: plain JSON values.
        restoration: of a model of one picture given another.
    """
    if document["coding"] == "counts":
        return CountsCoding.restored(document)
    if document["coding"] == "pictures":
        return PictureCoding.restored(document)
    if restoration is not None:
        return PairCoding.restored(document, restoration)
    kind = _STORED[document["coding"]]
    return kind(Schema.model_validate(document["schema"]), bool(document["gaps"]))
