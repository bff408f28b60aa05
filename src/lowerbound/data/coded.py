"""What coding gives: rows for a model, and what belongs to which raw column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.cells import (
    MISSING_NUMBER,
    MISSING_TEXT,
    computable,
    is_moment,
    is_number,
    is_text,
    missing,
    storage,
)
from lowerbound.data.batches import Rows, subset
from lowerbound.data.source import Frame
from lowerbound.data.views import View
from lowerbound.data.wanted import Wanted
from lowerbound.errors import DataError


@dataclass(frozen=True)
class Coded:
    """Rows that a model can take, and what coding them came across.

    Attributes:
        rows: the coded rows.
        jacobian: computes `log_jacobian`, which most tasks have no need of.
        surcharge: (n,) nats that the score gains for columns that were constant in training and
            are not any more: log(rows + 2) each, by Laplace's rule of succession.
        unseen: cells per column whose category training never saw.
        clipped: cells per column that were held back to the coded range.
        missing: missing cells per column.
        notes: what else the user should know.
        view: what training sees of `raw`, drawn anew at every step; None: `rows` as they are.
        raw: the rows that `view` looks at; `rows` are what it showed once and for all.
        each: how many rows every example gives: row i is of the example i modulo their number.
        digest: of what the rows are made from, where that takes less than to look at them all.
        shuffled: whether the rows are in random order already.
    """

    rows: Rows
    jacobian: Callable[[], NDArray[np.float64]]
    surcharge: NDArray[np.float64]
    unseen: Mapping[str, int] = field(default_factory=dict)
    clipped: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    view: View | None = None
    raw: Rows | None = None
    each: int = 1
    digest: str = ""
    shuffled: bool = False

    @cached_property
    def log_jacobian(self) -> NDArray[np.float64]:
        """What to add to log p(coded) for log p(raw), (n,) nats."""
        return self.jacobian()

    def part(self, index: Tensor) -> Coded:
        """Return the rows at `index` alone, with nothing of what coding came across."""
        i = index.numpy()
        return Coded(subset(self.rows, index), lambda: self.log_jacobian[i], self.surcharge[i])


class Group(NamedTuple):
    """A raw column and where its coded parts stand."""

    column: str
    parts: tuple[int, ...]


class Coding(Protocol):
    """How raw rows become coded rows and back."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one raw example where each is a picture, else ()."""
        ...

    @property
    def groups(self) -> Sequence[Group]:
        """The raw columns that are modelled."""
        ...

    def arguments(self) -> dict[str, Any]:
        """Return the recipe's arguments that the data decide."""
        ...

    def wanted(self) -> Wanted:
        """Return what pictures in files must become to be encoded."""
        ...

    def encode(self, frame: Frame) -> Coded:
        """Code the rows of `frame`."""
        ...

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Return raw columns for coded rows; `bounded` holds them to the range seen."""
        ...

    def filled(self, frame: Frame, values: NDArray[np.floating]) -> pa.Table:
        """Return the rows of `frame` with their missing cells taken from coded `values`."""
        ...

    def document(self) -> dict[str, Any]:
        """Return plain JSON values that `restore` rebuilds the coding from."""
        ...


def table_of(frame: Frame) -> pa.Table:
    """Return the named columns of `frame`; a sparse matrix becomes dense columns.

    Raises:
        DataError: E027 where the rows of `frame` are pictures.
    """
    if frame.shape:
        raise DataError(
            "E027",
            f"{frame.origin} has {len(frame.shape) + 1} dimensions; a table has 2. Reshape your "
            "data",
            fix="array.reshape(len(array), -1) makes each example one row; --recipe conv models "
            "pictures",
            shape=[frame.rows, *frame.shape],
        )
    if frame.table is not None:
        return frame.table
    assert frame.matrix is not None
    dense = frame.matrix.toarray()
    return pa.table({name: dense[:, i] for i, name in enumerate(frame.names)})


def filled(original: pa.Table, decoded: pa.Table, numbers: Collection[str] = ()) -> pa.Table:
    """Return `original` with its missing cells taken from `decoded`, cell by cell.

    Args:
        original: the raw cells.
        decoded: columns of it, as they would be.
        numbers: those that hold numbers: in text of them more words say that there is none.
    """
    columns = []
    for name, column in zip(original.column_names, original.columns, strict=True):
        words = MISSING_NUMBER if name in numbers else MISSING_TEXT
        known = name in decoded.column_names
        columns.append(_filled(column, decoded[name], words) if known else column)
    return pa.table(columns, names=original.column_names)


def _filled(
    column: pa.ChunkedArray, values: pa.ChunkedArray, words: Sequence[str]
) -> pa.ChunkedArray:
    column, values = computable(column), computable(values)
    kind = _holding(column.type, values.type)
    gone = missing(column, words)
    return pc.call_function("if_else", [gone, _cast(values, kind), _cast(column, kind)])


def _holding(kind: pa.DataType, seen: pa.DataType) -> pa.DataType:
    """Return a type for the cells of a column and for those that are filled in.

    It follows from types alone, so that all parts of a file have the same.

    Args:
        kind: of the column: kept, unless it could not hold all that is filled in.
        seen: in training, and so of what is filled in.
    """
    if kind == seen or is_text(storage(kind)):
        return kind
    kind, seen = storage(kind), storage(seen)
    if pa.types.is_null(kind):
        return seen
    if kind == seen or (is_moment(kind) and is_moment(seen)):
        return kind
    numbers = all(is_number(each) or pa.types.is_decimal(each) for each in (kind, seen))
    return _of_numbers(kind, seen) if numbers else pa.string()


def _of_numbers(kind: pa.DataType, seen: pa.DataType) -> pa.DataType:
    if pa.types.is_decimal(kind) != pa.types.is_decimal(seen):
        return pa.float64()
    if pa.types.is_floating(kind) or pa.types.is_boolean(seen):
        return kind
    if pa.types.is_boolean(kind):
        return seen
    both = [pa.schema([("", each)]) for each in (kind, seen)]
    return pa.unify_schemas(both, promote_options="permissive").field(0).type


def _cast(cells: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if cells.type == kind:
        return cells
    cells = cells.cast(storage(cells.type))
    try:
        return cells.cast(storage(kind), safe=False).cast(kind)
    except pa.ArrowNotImplementedError:  # of truth values to half floats
        return cells.cast(pa.float64()).cast(kind)
