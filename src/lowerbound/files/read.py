"""Read data from paths or from objects in memory: the one place that recognises containers."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lowerbound.columns.arrow import place, spelled
from lowerbound.errors import DataError, UsageError
from lowerbound.files import (
    anndata,
    array_files,
    arrays,
    dataframes,
    datasets,
    ipc,
    modality,
    parquet,
    paths,
    shards,
    torch_datasets,
    zarr,
)
from lowerbound.files.data import Data, Table, Whole, part_rows, size
from lowerbound.files.pictures.options import ANY, Wanted
from lowerbound.files.stream import Stream
from lowerbound.files.text import long, tables


def read(
    data: object, *, rows: int | None = None, wanted: Wanted = ANY, strict: bool = True
) -> Whole:
    """Read data into memory.

    Args:
        data: a path to a CSV, TSV, Parquet, Arrow IPC, .npy, .npz or idx file, to a folder of
            shards or of pictures, or a pattern such as ``"tx/*.parquet"``; a list of such paths;
            or a NumPy array, a data frame (pandas, polars, Arrow, ...), a ``pyarrow.dataset``, a
            dict of columns, a SciPy sparse matrix, an AnnData, a torch ``Dataset`` or
            ``DataLoader`` (see `torch_datasets.from_torch`), or `Data` that were read before.
        rows: stop after this many rows.
        wanted: options for picture files and cells.
        strict: refuse text with bad lines, and files that do not fit together; see
            `tables.read_table` and `shards.read`.

    Raises:
        DataError: E001 to E030 and E082 to E086 when the input cannot be read as it is.
        UsageError: E201 when it is no table at all, E206 for an impossible `rows`.
    """
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise UsageError(
            "E206", f"cannot read {rows!r} rows", fix="pass a whole number of at least 1"
        )
    if isinstance(data, Data):
        return data.whole() if rows is None else data.first(rows)
    if are_picture_files(data):
        # Found by name, so that pillow is imported only by those who use it.
        pictures = importlib.import_module("lowerbound.files.pictures.source")
        return pictures.read(data, rows, wanted)
    located = _located(data, strict)
    if located is None:
        return _read_object(data, wanted.layer).first(rows)
    return _read_files(*located, rows, strict=strict, layer=wanted.layer)


def walk(data: object, *, wanted: Wanted = ANY) -> Data:
    """Open data to be processed part by part; of large files, one part is in memory at a time.

    Args:
        data: anything that `read` takes.
        wanted: options for picture files and cells.

    Raises:
        DataError: as `read`; of damage within a file, once it is met.
        UsageError: as `read`.
    """
    if isinstance(data, Data):
        return data
    located = None if are_picture_files(data) else _located(data)
    if located is None:
        stream = datasets.stream(data) if datasets.is_dataset(data) else None
        return stream if stream and _has_parts(stream) else read(data, wanted=wanted)
    kind, notes = _kind_of(located[0])
    stream = _stream_of(kind, *located, wanted.layer)
    if stream is not None and (kind == "text" or _has_parts(stream)):
        return replace(stream, notes=(*notes, *stream.notes))
    return _read_files(*located, None, layer=wanted.layer)


def _has_parts(stream: Stream) -> bool:
    return stream.rows > part_rows(len(stream.names))


def _stream_of(kind: str, found: paths.Found, origin: str, layer: str = "") -> Stream | None:
    """Return files as a stream; None where they can only be read whole."""
    if kind == "text":
        return _long_text(found, origin) if long.are_long(found.files) else None
    if kind in _SHARDED:
        return shards.stream(_SHARDED[kind](found.files), found.root, origin)
    if kind == "zarr":
        return zarr.stream(found.files[0], origin, layer)
    if kind == "cells" and not found.files[1:]:
        return anndata.file_stream(found.files[0], origin, layer)
    array = array_files.mapped(found.files[0]) if kind == "array" and not found.files[1:] else None
    return None if array is None else array_files.stream(array, origin)


def _long_text(found: paths.Found, origin: str) -> Stream:
    opened = long.open_all(found.files)
    notes = tuple(note for shard in opened for note in shard.notes)
    return replace(shards.stream(opened, found.root, origin), notes=notes)


def are_picture_files(data: object) -> bool:
    """Return whether data are paths of pictures: a path, or a list of nothing but such paths.

    Nothing is opened.

    Raises:
        DataError: E001, E003, E006 or E007 for a path that does not exist.
    """
    found = paths.named(data)
    return bool(found) and all(modality.means_pictures(paths.standing(path)) for path in found)


def may_be_pictures(data: object) -> bool:
    """Return whether data could be pictures; False for what can only be a table.

    Nothing is opened, and a path that does not exist is reported by `read`.
    """
    found = paths.named(data)
    if not found:
        return not isinstance(data, list | tuple | Mapping)
    try:
        array = len(found) == 1 and paths.kind_by_suffix(paths.standing(found[0]).path) == "array"
        return array or are_picture_files(data)
    except DataError:
        return False


def may_be_cells(data: object) -> bool:
    """Return whether data may be annotated cells: an AnnData, or a path to one."""
    if anndata.is_anndata(data) or anndata.is_mudata(data) or zarr.is_store(data):
        return True
    if not isinstance(data, str | os.PathLike):
        return False
    try:
        return paths.kind_by_suffix(paths.standing(os.fsdecode(data)).path) == "cells"
    except DataError:
        return False  # `read` reports it


def _located(data: object, strict: bool = True) -> tuple[paths.Found, str] | None:
    """Return the files of a table and its name in messages; None where data are an object."""
    if isinstance(data, str | os.PathLike):
        if zarr.is_store(data):
            path = Path(os.fsdecode(data)).expanduser()
            return paths.Found([path], path.parent), spelled(path.name)
        found = paths.locate(os.fsdecode(data), strict=strict)
        return found, spelled(Path(os.fsdecode(data)).name or str(found.root))
    found = paths.named(data)
    return (paths.locate_all(found, strict=strict), "the files") if found else None


def _read_files(
    found: paths.Found, name: str, rows: int | None, *, strict: bool = True, layer: str = ""
) -> Whole:
    kind, notes = _kind_of(found)
    lenient = not strict and kind in _LENIENT
    if kind in _LAYERED:
        frame = _LAYERED[kind](found, rows, strict=strict, layer=layer)
    else:
        frame = _LENIENT[kind](found, rows) if lenient else _READERS[kind](found, rows)
    return replace(frame, origin=name, notes=(*notes, *frame.notes))


def _kind_of(found: paths.Found) -> tuple[str, tuple[str, ...]]:
    """Return the kind of the files, by name and content, and notes about it."""
    if zarr.is_store(found.files[0]):
        return "zarr", found.notes
    kind = paths.kind_by_suffix(found.files[0])
    start = paths.magic(found.files[0])
    notes = found.notes
    if paths.is_idx(found.files[0]):  # which only its name tells, plain or gzipped
        start = None
    by_content = _BY_CONTENT.get(start or "")
    if kind is None and by_content is None:
        if start or found.files[0].suffix:
            raise paths.unreadable_kind(found.files[0], start)
        kind = "text"
    if kind == "text" and start and by_content is None:
        raise paths.unreadable_kind(found.files[0], start)
    if by_content and kind not in (by_content, *_SHARDED):
        notes += (f"{found.files[0].name}: read as {start}, judged by its content",)
        kind = by_content
    return kind or "text", notes


_BY_CONTENT = {
    "parquet": "parquet",
    "npy": "array",
    "gzip": "text",
    "Arrow IPC": "arrow",
}


def _read_text(found: paths.Found, rows: int | None, *, strict: bool = True) -> Whole:
    parts, notes, left = [], [], rows
    for path in found.files:
        if left is not None and left <= 0:
            break
        table, more = tables.read_table(path, left, strict=strict)
        left = None if left is None else left - table.num_rows
        parts.append((path, shards.with_partitions(table, path, found.root)))
        notes += more
    table, differ = (_joined(parts), ()) if strict else _joined_anyhow(parts)
    notes += differ
    whole = rows is None or table.num_rows < rows
    total = table.num_rows if whole else None
    return Table(table, notes=tuple(notes), total=total)


def _joined(parts: list[tuple[Path, pa.Table]]) -> pa.Table:
    """Concatenate shards of text; a column may widen from whole numbers to text."""
    first_path, first = parts[0]
    for path, table in parts[1:]:
        if set(table.column_names) != set(first.column_names):
            raise shards.other_columns(first_path, path, first.column_names, table.column_names)
    types = {name: [table[name].type for _, table in parts] for name in first.column_names}
    text = {
        n for n, modality in types.items() if pa.string() in modality and len(set(modality)) > 1
    }
    same = [
        pa.table({n: t[n].cast(pa.string()) if n in text else t[n] for n in first.column_names})
        for _, t in parts
    ]
    try:
        return pa.concat_tables(same, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            "E022",
            f"the files of {place(first_path.parent)} do not fit together: {str(error)[:160]}",
            fix="write all files with the same types, or choose some with a pattern",
            path=str(first_path.parent),
        ) from error


def _joined_anyhow(parts: list[tuple[Path, pa.Table]]) -> tuple[pa.Table, tuple[str, ...]]:
    """Concatenate shards of text, and note why `_joined` refuses them."""
    try:
        return _joined(parts), ()
    except DataError as error:
        note = f"{error.message}; read as far as possible here, and refused by fit ({error.code})"
        tables = shards.alike([table for _, table in parts])
        return pa.concat_tables(tables, promote_options="permissive"), (note,)


def _read_sharded(
    kind: str, found: paths.Found, rows: int | None, *, strict: bool = True
) -> Whole:
    opened = _SHARDED[kind](found.files)
    table, total, notes = shards.read(opened, found.root, rows, strict=strict)
    return Table(table, total=total, notes=notes)


def _read_array(found: paths.Found, rows: int | None, *, strict: bool = True) -> Whole:
    fix = "give one .npy or .npz file, or store the shards as Parquet"
    return array_files.read_file(_only(found, "array", fix), rows, strict=strict)


def _read_cells(
    found: paths.Found, rows: int | None, *, strict: bool = True, layer: str = ""
) -> Whole:
    fix = "put them together first: anndata.concat([...]).write_h5ad(path)"
    return anndata.read_file(_only(found, "AnnData", fix), rows, strict=strict, layer=layer)


def _read_zarr(
    found: paths.Found, rows: int | None, *, strict: bool = True, layer: str = ""
) -> Whole:
    return zarr.read_store(found.files[0], rows, layer)


def _only(found: paths.Found, kind: str, fix: str) -> Path:
    """Return the only file, for formats whose files cannot be concatenated."""
    if len(found.files) > 1:
        raise DataError(
            "E008",
            f"{len(found.files):,} {kind} files were found: {paths.shards(found.files)}",
            fix=fix,
            path=str(found.root),
        )
    return found.files[0]


# Formats that can be read part by part.
_SHARDED: dict[str, Callable[[list[Path]], Sequence[shards.Shard]]] = {
    "parquet": parquet.open_all,
    "arrow": ipc.open_all,
}
_READERS: dict[str, Callable[[paths.Found, int | None], Whole]] = {
    "text": _read_text,
    **{kind: partial(_read_sharded, kind) for kind in _SHARDED},
    "array": _read_array,
}
# Those that may hold several matrices of counts.
_LAYERED: dict[str, Callable[..., Whole]] = {"cells": _read_cells, "zarr": _read_zarr}

# Those that describe what others refuse.
_LENIENT: dict[str, Callable[[paths.Found, int | None], Whole]] = {
    "text": partial(_read_text, strict=False),
    **{kind: partial(_read_sharded, kind, strict=False) for kind in _SHARDED},
    "array": partial(_read_array, strict=False),
}


def _read_object(data: Any, layer: str = "") -> Whole:
    if anndata.is_anndata(data) or anndata.is_mudata(data):
        return anndata.from_anndata(anndata.rna_of(data), layer=layer)
    for reader in _OBJECTS:
        frame = reader(data)
        if frame is not None:
            return frame
    raise _no_table(data)


def _no_table(data: object) -> UsageError:
    return UsageError(
        "E201",
        f"a {type(data).__name__} cannot be read as a table",
        fix="pass a path, an array, a data frame, a dict of columns or a sparse matrix",
        type=type(data).__name__,
    )


def _from_arrow(data: Any) -> Whole | None:
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    return dataframes.from_arrow(data) if isinstance(data, pa.Table) else None


def _from_torch(data: Any) -> Whole | None:
    known = torch_datasets.is_torch_dataset(data)
    return torch_datasets.from_torch(data) if known else None


def _from_dataset(data: Any) -> Whole | None:
    return datasets.stream(data).whole() if datasets.is_dataset(data) else None


def _from_sparse(data: Any) -> Whole | None:
    # Asked by name, so that scipy is imported only by those who use it.
    if not type(data).__module__.startswith("scipy.sparse"):
        return None
    return arrays.from_sparse(data)


def _from_columns(data: Any) -> Whole | None:
    if not isinstance(data, Mapping):
        return None
    lengths = {str(name): len(column) for name, column in data.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            "E029",
            f"the columns have different lengths: {lengths}",
            fix="give every column a value for each row, None where it is missing",
        )
    objects = {str(name): np.asarray(column) for name, column in data.items()}
    table = pa.table({n: arrays.from_column(column, n) for n, column in objects.items()})
    return dataframes.from_arrow(table, f"the dict ({size(table.num_rows, table.num_columns)})")


def _from_array(data: Any) -> Whole | None:
    try:
        array = np.ma.asarray(data) if np.ma.isMaskedArray(data) else np.asarray(data)
        if array.dtype.kind == "U" and isinstance(data, list | tuple):
            array = np.asarray(data, dtype=object)  # NumPy turned the numbers into text
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "E029",
            f"the {type(data).__name__} is not a rectangular table: {str(error)[:160]}",
            fix="give every row the same number of values",
        ) from error
    return arrays.from_array(array) if array.ndim else None


_OBJECTS = (
    _from_arrow,
    _from_dataset,
    _from_torch,
    _from_sparse,
    _from_columns,
    dataframes.from_frame,
    _from_array,
)
