"""The input of an exported graph: one float64 number per value of a table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.columns.arrow import floats, levels, plain
from lowerbound.columns.base import Column
from lowerbound.columns.categories import Category
from lowerbound.columns.dates import Datetime, seconds
from lowerbound.columns.numbers import Numeric
from lowerbound.columns.schema import Schema
from lowerbound.columns.skipped import Skipped


class Input(NamedTuple):
    """One column of the graph's input.

    Attributes:
        name: name of the raw column.
        kind: kind of the column.
        cell: meaning of a number of this column, in words.
        levels: the text of each position, for a column of levels; None for other columns.
    """

    name: str
    kind: str
    cell: str
    levels: tuple[str, ...] | None = None

    def document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        found = {"name": self.name, "kind": self.kind, "cell": self.cell}
        return found if self.levels is None else {**found, "levels": list(self.levels)}


_POSITION = "position in levels, from 0; -1 for any other value; NaN where missing"
_NUMBER = "the number; NaN where missing"
_MOMENT = "seconds since 1970-01-01, naive times as they are and others in UTC; NaN where missing"


def columns_of(schema: Schema) -> list[Column]:
    """Return the columns that the graph needs: the modelled ones, and constants with a value.

    A changed constant adds to the score; ids and free text never do.
    """
    return [
        column
        for column in schema.columns
        if column.parts or (isinstance(column, Skipped) and _level_of(column))
    ]


def _level_of(column: Skipped) -> tuple[str, ...]:
    """Return the level of a constant; () for an id, a text, or an always missing column."""
    return (column.value,) if column.kind == "constant" and column.value is not None else ()


def levels_of(column: Column) -> tuple[str, ...] | None:
    """Return the text of each position of a column, or None for a column of numbers."""
    if isinstance(column, Category):
        return column.levels
    return _level_of(column) if isinstance(column, Skipped) else None


def inputs_of(schema: Schema) -> list[Input]:
    """Return descriptions of the columns of the graph's input, in order."""
    found = []
    for column in columns_of(schema):
        known = levels_of(column)
        moment = _MOMENT if isinstance(column, Datetime) else _NUMBER
        cell = moment if known is None else _POSITION
        found.append(Input(column.name, column.kind, cell, known))
    return found


def matrix(schema: Schema, table: pa.Table) -> NDArray[np.float64]:
    """Return the graph's input for the rows of `table`, (n, inputs)."""
    columns = columns_of(schema)
    out = np.empty((table.num_rows, len(columns)))
    for i, column in enumerate(columns):
        if column.name in table.column_names:
            out[:, i] = _numbers(column, plain(table.column(column.name)))
        else:  # a missing constant column counts as unchanged
            out[:, i] = np.nan
    return out


def _numbers(column: Column, cells: pa.Array) -> NDArray[np.float64]:
    if isinstance(column, Category | Skipped):
        codes, words = levels(cells, column.name)
        return np.array([*map(float, column.known.find(words, cells.type)), np.nan])[codes]
    if isinstance(column, Datetime):
        return seconds(cells, column.name, column.pattern)
    if isinstance(column, Numeric):
        return column.numbers(cells)
    return floats(cells, column.name)
