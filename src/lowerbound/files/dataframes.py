"""Convert data frames of any library that narwhals supports to Arrow and back."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lowerbound.columns.arrow import listed
from lowerbound.errors import DataError
from lowerbound.files.arrays import mixed
from lowerbound.files.data import Table, size


@dataclass(frozen=True)
class FrameNative:
    """Returns tables as data frames of the input's library, with the same index if it has one."""

    narwhal: Any

    def wrap(self, table: pa.Table) -> Any:
        """Return the table as a data frame; rows that correspond keep their index."""
        nw = importlib.import_module("narwhals")
        back = nw.from_arrow(table, backend=self.narwhal.implementation)
        native = back.to_native()
        if back.implementation.is_pandas_like() and len(back) == len(self.narwhal):
            native.index = self.narwhal.to_native().index
        return native


def from_arrow(table: pa.Table, origin: str = "") -> Table:
    """Take an Arrow table as it is, without its metadata."""
    table = table.replace_schema_metadata(None)
    origin = origin or f"the table ({size(table.num_rows, table.num_columns)})"
    _refuse_duplicates(table.column_names, origin)
    _refuse_empty(table.num_rows, table.num_columns, origin)
    return Table(table, origin=origin, total=table.num_rows)


def from_frame(data: Any) -> Table | None:
    """Read a data frame, eager or lazy; None when the object is no data frame.

    Raises:
        DataError: E012, E013 or E029, naming the column.
    """
    nw = importlib.import_module("narwhals")
    try:
        frame = nw.from_native(data, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        raise DataError(
            "E012",
            f"the {type(data).__name__} has columns of the same name: "
            + " ".join(str(error).split()[5:]),
            fix="give every column its own name",
        ) from error
    if isinstance(frame, nw.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, nw.DataFrame):
        return None
    origin = f"the {type(data).__name__} ({size(*frame.shape)})"
    _refuse_empty(frame.shape[0], frame.shape[1], origin)
    names = [str(name) for name in frame.columns]
    _refuse_duplicates(names, origin)
    columns = [_column(c, n) for c, n in zip(frame.iter_columns(), names, strict=True)]
    table = pa.Table.from_arrays(columns, names=names)
    return Table(table, native=FrameNative(frame), origin=origin, total=table.num_rows)


def _column(series: Any, name: str) -> pa.ChunkedArray:
    try:
        cells = series.to_arrow()
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise mixed(series.to_list(), name, str(error)) from error
    return cells if isinstance(cells, pa.ChunkedArray) else pa.chunked_array([cells])


def _refuse_duplicates(names: list[str], origin: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            "E012",
            f"{origin} has {listed(twice)} more than once among its columns",
            fix="give every column its own name",
            columns=twice,
        )


def _refuse_empty(rows: int, columns: int, origin: str) -> None:
    if not rows or not columns:
        raise DataError(
            "E013",
            f"{origin} has no {'rows' if columns else 'columns'}",
            fix="pass a table with at least 1 row and 1 column",
            rows=rows,
        )
