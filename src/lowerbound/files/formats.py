"""Writers of the table formats, which take one part after the other."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lowerbound.columns.arrow import is_flat, is_number, listed, place, snippet, storage
from lowerbound.errors import UsageError, nearest
from lowerbound.files.pictures.columns import holds_pixels, pixels_of, spread

Tables = Iterator[pa.Table]
Writer = Callable[[Tables, BinaryIO, str, tuple[int, ...]], None]


def writer_of(text: str) -> Writer:
    """Return the writer for the suffix of a path.

    Raises:
        UsageError: E222 for a suffix that names none.
    """
    name = os.path.basename(text).lower()
    for suffix, writer in _WRITERS.items():
        if name.endswith(suffix) and name != suffix:
            return writer
    given = "".join(Path(name).suffixes[-2:]) or "none"
    close = nearest(given, _WRITERS)
    raise UsageError(
        "E222",
        f"the suffix {snippet(given)} of {place(text)} names no format that can be written",
        fix=(f"did you mean {close}? " if close else "") + f"use one of {', '.join(_WRITERS)}",
        path=text,
    )


def _write_parquet(tables: Tables, file: BinaryIO, path: str, shape: tuple[int, ...]) -> None:
    first = next(tables)
    # Numbers with a fraction hardly repeat: a dictionary of them takes longer and more space.
    repeating = [field.name for field in first.schema if not pa.types.is_floating(field.type)]
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": repeating}
    with pq.ParquetWriter(file, first.schema, **options) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))


def _write_arrow(tables: Tables, file: BinaryIO, path: str, shape: tuple[int, ...]) -> None:
    first = next(tables)
    with pa.ipc.new_file(file, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))


def _separated(delimiter: str, packed: bool) -> Writer:
    def spell(tables: Tables, file: Any, path: str) -> None:
        options = arrow_csv.WriteOptions(delimiter=delimiter, quoting_style="needed")
        first = _flat(next(tables), path)
        with arrow_csv.CSVWriter(file, first.schema, write_options=options) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(_flat(table, path).cast(first.schema))

    def write(tables: Tables, file: BinaryIO, path: str, shape: tuple[int, ...]) -> None:
        if not packed:
            spell(tables, file, path)
            return
        # No time stamp and no name, so that equal results are equal files.
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as pack:
            spell(tables, pack, path)

    return write


def _flat(table: pa.Table, path: str) -> pa.Table:
    """Decode dictionaries, which text files do not have, and raise an error for nested columns."""
    _refuse(
        table, [f.name for f in table.schema if not is_flat(storage(f.type))], path, ".parquet"
    )
    columns = {}
    for field in table.schema:
        column = table.column(field.name)
        columns[field.name] = column.cast(storage(field.type))
    return pa.table(columns)


def _refuse(table: pa.Table, names: list[str], path: str, better: str) -> None:
    if names:
        types = ", ".join(f"{snippet(n)} is {table.schema.field(n).type}" for n in names[:3])
        raise UsageError(
            "E224",
            f"{place(path)} cannot hold the columns {listed(names)}: {types}",
            fix=f"choose a path that ends in {better}",
            columns=names,
        )


def _numbers(table: pa.Table, path: str) -> NDArray[Any]:
    """Return the columns side by side; missing cells become NaN."""
    _refuse(
        table, [f.name for f in table.schema if not is_number(f.type)], path, ".csv or .parquet"
    )
    columns = [table.column(j).to_numpy() for j in range(table.num_columns)]
    columns = [c.astype(np.float64) if c.dtype == object else c for c in columns]
    return np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0))


def _write_npy(tables: Tables, file: BinaryIO, path: str, shape: tuple[int, ...]) -> None:
    first = next(tables)
    if holds_pixels(first):
        np.save(file, pixels_of(first, shape), allow_pickle=False)
        return
    numbers = _numbers(first, path)
    kind, columns, rows = numbers.dtype, numbers.shape[1], 0
    begun = file.tell()
    _begin_npy(file, kind, (0, columns))
    for part in chain([numbers], (_numbers(table, path) for table in tables)):
        if not np.can_cast(part.dtype, kind, "safe"):
            raise UsageError(
                "E224",
                f"{place(path)} holds numbers of one kind: {kind} at first, and {part.dtype} "
                f"from row {rows:,} on",
                fix="choose a path that ends in .parquet",
            )
        file.write(np.ascontiguousarray(part, kind).data)
        rows += len(part)
    ended = file.tell()
    file.seek(begun)
    _begin_npy(file, kind, (rows, columns))  # as long as before: NumPy leaves room for the count
    file.seek(ended)


def _begin_npy(file: BinaryIO, kind: np.dtype[Any], shape: tuple[int, int]) -> None:
    described = np.lib.format.dtype_to_descr(kind)
    header = {"descr": described, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_npz(tables: Tables, file: BinaryIO, path: str, shape: tuple[int, ...]) -> None:
    first = next(tables)
    if holds_pixels(first):
        np.savez_compressed(file, X=pixels_of(first, shape))
        return
    names = np.array(first.column_names, dtype=np.str_)
    parts = [_numbers(first, path), *(_numbers(table, path) for table in tables)]
    np.savez_compressed(file, X=np.concatenate(parts), columns=names)


def _with_cells(writer: Writer) -> Writer:
    """Return a writer with one column for each pixel of an image."""

    def write(tables: Tables, file: BinaryIO, path: str, shape: tuple[int, ...]) -> None:
        writer((spread(table, shape) for table in tables), file, path, shape)

    return write


_WRITERS: dict[str, Writer] = {
    ".csv": _with_cells(_separated(",", packed=False)),
    ".tsv": _with_cells(_separated("\t", packed=False)),
    ".csv.gz": _with_cells(_separated(",", packed=True)),
    ".tsv.gz": _with_cells(_separated("\t", packed=True)),
    ".parquet": _with_cells(_write_parquet),
    ".arrow": _with_cells(_write_arrow),
    ".feather": _with_cells(_write_arrow),
    ".npy": _write_npy,
    ".npz": _write_npz,
}
