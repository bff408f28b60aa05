"""Convert data frames of any library that narwhals supports to Arrow and back."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lowerbound.columns.arrow import listed
from lowerbound.errors import DataError
from lowerbound.files import frame_types
from lowerbound.files.arrays import mixed
from lowerbound.files.data import Table, size


@dataclass(frozen=True)
class FrameNative:
    """Returns tables as data frames of the input's library, with the same index if it has one.

    Columns of the input get its types and labels back, as far as these hold the values.

    Args:
        narwhal: the input, as a narwhals frame.
        names: the names of its columns as text.
    """

    narwhal: Any
    names: tuple[str, ...]

    def renamed(self, names: tuple[str, ...]) -> FrameNative:
        """Return the same for tables whose columns have other names."""
        return FrameNative(self.narwhal, names)

    def wrap(self, table: pa.Table) -> Any:
        """Return the table as a data frame; rows that correspond keep their index."""
        native = self.narwhal.to_native()
        if self.narwhal.implementation.is_pandas():
            back = pandas_frame(table, self._kinds(native), native)
            back.columns = self._labels(table.column_names, native.columns)
            return _with_index(back, native.index)
        nw = importlib.import_module("narwhals")
        frame = nw.from_arrow(table, backend=self.narwhal.implementation)
        if self.narwhal.implementation.is_polars():
            kinds = dict(zip(self.names, native.dtypes, strict=True))
            return polars_frame(frame.to_native(), kinds)
        back = frame.to_native()
        if frame.implementation.is_pandas_like() and len(frame) == len(self.narwhal):
            back.index = native.index
        return back

    def _kinds(self, native: Any) -> dict[str, Any]:
        """Return the types of the columns of a pandas frame, by name."""
        columns = (native.iloc[:, place] for place in range(len(self.names)))
        return dict(zip(self.names, map(frame_types.kind_of, columns), strict=True))

    def _labels(self, names: Sequence[str], own: Any) -> Any:
        """Return the labels of columns: those of the input, and names for further ones."""
        if tuple(names) == self.names:
            return own
        label = dict(zip(self.names, own, strict=True))
        return relabelled([label.get(name, name) for name in names], own)

    def description(self) -> dict[str, Any]:
        """Return types and labels that Arrow does not tell as plain JSON values; see `frame`."""
        native = self.narwhal.to_native()
        if self.narwhal.implementation.is_pandas():
            kinds = {n: frame_types.described(d) for n, d in self._kinds(native).items()}
            labels = frame_types.labels_described(native.columns)
            return {"types": kinds, **({} if labels is None else {"labels": labels})}
        if not self.narwhal.implementation.is_polars():
            return {}
        kinds = zip(self.names, map(frame_types.polars_described, native.dtypes), strict=True)
        return {"types": {name: kind for name, kind in kinds if kind is not None}}


def frame(kind: str, table: pa.Table, names: Sequence[str], description: Mapping[str, Any]) -> Any:
    """Return a table as a data frame of a library.

    Args:
        kind: the library.
        table: the rows.
        names: of all columns of the frame that was described.
        description: the `FrameNative.description` of a frame; {} for models of earlier versions.

    Raises:
        ModuleNotFoundError: the library is not installed.
    """
    nw = importlib.import_module("narwhals")
    types = description.get("types", {})
    types = types if isinstance(types, Mapping) else {}
    if kind == "polars":
        back = nw.from_arrow(table, backend=kind).to_native()
        known = {n: frame_types.polars_type(t) for n, t in types.items() if n in set(names)}
        return polars_frame(back, known)
    if kind != "pandas":
        return nw.from_arrow(table, backend=kind).to_native()
    back = pandas_frame(table, {name: frame_types.dtype_of(t) for name, t in types.items()})
    labels = frame_types.labels_of(description["labels"]) if "labels" in description else None
    if labels is not None and len(labels) == len(names):
        label = dict(zip(names, labels, strict=True))
        back.columns = relabelled([label.get(n, n) for n in table.column_names], labels)
    return back


def pandas_frame(table: pa.Table, types: Mapping[str, Any], own: Any = None) -> Any:
    """Return a table as a pandas frame with columns of these types, where they hold the values."""
    pd = importlib.import_module("pandas")
    columns = {}
    for place, (name, cells) in enumerate(zip(table.column_names, table.columns, strict=True)):
        kind = types.get(name)
        objects = None
        if own is not None and (isinstance(kind, frame_types.Objects) or kind == np.dtype(object)):
            objects = own.iloc[:, list(types).index(name)]
        columns[place] = frame_types.to_pandas(cells, kind, objects)
    back = pd.DataFrame(columns, index=range(table.num_rows))
    back.columns = table.column_names
    return back


def polars_frame(back: Any, types: Mapping[str, Any]) -> Any:
    """Return a polars frame with columns of these types, where they hold the values."""
    columns = [frame_types.to_polars(c, types.get(c.name)) for c in back.get_columns()]
    return type(back)(columns)


def relabelled(labels: list[Any], own: Any) -> Any:
    """Return labels as a pandas index like `own`; to those of several levels, "" is added."""
    pd = importlib.import_module("pandas")
    if not isinstance(own, pd.MultiIndex):
        return pd.Index(labels, name=own.name)
    if not any(isinstance(label, tuple) for label in labels):
        return labels
    deep = own.nlevels
    full = [each if isinstance(each, tuple) else (each, *[""] * (deep - 1)) for each in labels]
    return pd.MultiIndex.from_tuples(full, names=own.names)


def _with_index(back: Any, index: Any) -> Any:
    """Give a pandas frame the index of the rows that it repeats a whole number of times."""
    copies, rest = divmod(len(back), len(index))
    if copies and not rest:
        back.index = index if copies == 1 else index.take(np.tile(np.arange(len(index)), copies))
    return back


def names_of(labels: Sequence[Any]) -> list[str]:
    """Return the names of columns with labels of any kind; equal text is told apart by type."""
    names = [str(label) for label in labels]
    if len(set(names)) == len(names) or len(set(labels)) < len(labels):
        return names
    return [
        name if isinstance(label, str) or names.count(name) == 1 else f"{name} ({_type(label)})"
        for name, label in zip(names, labels, strict=True)
    ]


def _type(label: Any) -> str:
    return type(label).__name__


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
    names = names_of(frame.columns)
    _refuse_duplicates(names, origin)
    columns = [_column(c, n) for c, n in zip(frame.iter_columns(), names, strict=True)]
    table = pa.Table.from_arrays(columns, names=names)
    native = FrameNative(frame, tuple(names))
    return Table(table, native=native, origin=origin, total=table.num_rows)


def _column(series: Any, name: str) -> pa.ChunkedArray:
    nw = importlib.import_module("narwhals")
    try:
        if series.implementation.is_pandas():
            native = frame_types.of_pandas(series.to_native())
            series = nw.from_native(native, series_only=True)
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
