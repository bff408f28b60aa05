"""All rows scored and embedded part by part, in files that are mapped into memory.

However many rows there are, one part of them is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.errors import DataError, UsageError
from lowerbound.web.explore import columns, latents
from lowerbound.web.explore.plane import plane
from lowerbound.web.values import rows_at, values_of

MOST = 5_000_000  # rows of a page
_MOST_PIXELS = 4 << 30  # bytes of pictures that are kept
_ANNOTATIONS = 40  # columns of cells
_AT_ONCE = 1 << 14  # cells or pictures that are scored together
_SAMPLE = {"table": 4_000, "cells": 1_000, "pictures": 400}  # rows that tell what latents mean

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Order:
    """What to look at.

    Attributes:
        most: number of rows at most; None is the most that a page can have.
        seed: of the rows that are drawn from more, and of the map.
        by: "umap" or "pca".
    """

    most: int | None = None
    seed: int = 0
    by: str = "umap"


@dataclass
class Explored:
    """Rows with their scores, latents and places on the map.

    Attributes:
        about: plain JSON values: numbers of rows, columns, the map, the latents.
        rows: the rows as they were read; of pictures their bytes, of cells nothing.
        scores: anomaly_score, p_value, is_anomaly, and ``row``, the number of the row in the data.
        values: further columns to look at, such as dates in seconds and the folder of a picture.
        z: (n, latents) posterior means.
        points: (n, 2) places on the map.
    """

    about: Mapping[str, Any]
    rows: pa.Table
    scores: pa.Table
    values: pa.Table
    z: NDArray[np.float32]
    points: NDArray[np.float32]
    columns: list[columns.Column] = field(init=False)

    def __post_init__(self) -> None:
        self.columns = [columns.Column(**each) for each in self.about["columns"]]

    @classmethod
    def load(cls, folder: Path) -> Explored:
        """Map the files of a folder that `prepare` filled."""
        about = json.loads(folder.joinpath("about.json").read_text("utf-8"))
        n, width = about["rows"], about["latent"]
        tables = {}
        for name in ("rows", "scores", "values"):
            with pa.memory_map(str(folder / f"{name}.arrow")) as file:
                tables[name] = pa.ipc.open_file(file).read_all()
        z = np.memmap(folder / "latents.f32", np.float32, "r", shape=(n, width))
        points = np.memmap(folder / "points.f32", np.float32, "r", shape=(n, 2))
        return cls(about, tables["rows"], tables["scores"], tables["values"], z, points)

    @property
    def total(self) -> int:
        """The number of rows."""
        return self.scores.num_rows


def check(model: Any) -> None:
    """Check that a model scores rows.

    Raises:
        UsageError: E270 for a model that restores or encodes pictures.
    """
    if model.command:
        raise UsageError(
            "E270",
            f"a model for `lowerbound {model.command}` scores no rows to explore",
            fix=f"lowerbound {model.command} M.vae PICTURES --out made",
        )


def prepare(model: Any, given: Any, order: Order, folder: Path, progress: Progress) -> None:
    """Score and embed rows, place them on the map, and write all that to a folder.

    Args:
        model: a `lowerbound.Model`.
        given: the rows, read part by part.
        order: what to look at.
        folder: an empty folder.
        progress: is told the share that is done, and a line about it.

    Raises:
        DataError: E0xx for rows that cannot be scored.
    """
    wanted = min(given.rows, order.most or MOST)
    if given.rows < 1:
        raise DataError("E013", f"{given.origin} has no rows", fix="give data with rows")
    if model.holds == "pictures":
        wanted = min(wanted, max(1, _MOST_PIXELS // given.first(1).pixels.nbytes))
    with _Files(folder, model) as files:
        for part in _drawn(given, wanted, order.seed):
            files.add(part)
            share = files.count / wanted
            progress(0.7 * share, f"scored {files.count:,} of {wanted:,} rows")
    n, width = files.count, files.width
    z = np.memmap(folder / "latents.f32", np.float32, "r", shape=(n, width))
    placed = plane(z, order.by, order.seed, lambda s: progress(0.7 + 0.28 * s, "drawing the map"))
    placed.points.tofile(folder / "points.f32")
    tables = {}
    for name in ("rows", "scores", "values"):
        with pa.memory_map(str(folder / f"{name}.arrow")) as file:
            tables[name] = pa.ipc.open_file(file).read_all()
    sample = _sample(model, given, files, tables["rows"], order.seed)
    threshold = float(model.alarm.threshold)
    about = {
        "holds": model.holds,
        "origin": str(given.origin),
        "rows": n,
        "total": given.rows,
        "latent": width,
        "threshold": threshold if np.isfinite(threshold) else None,
        "flagged": int(np.count_nonzero(tables["scores"]["is_anomaly"].to_numpy())),
        "map": {"by": placed.by, "fitted": placed.fitted, "explained": placed.explained},
        "columns": columns.described(tables, model.columns, model.holds),
        "latents": latents.described(model, sample, z, order.seed),
        "shape": list(files.shape),
        "dtype": files.dtype,
        "notes": list(dict.fromkeys([*given.notes, *files.notes])),
    }
    folder.joinpath("about.json").write_text(json.dumps(about), "utf-8")
    progress(1.0, "ready")


def _drawn(given: Any, wanted: int, seed: int) -> Iterator[Any]:
    """Yield the rows of data, or `wanted` of them drawn at random, in parts of bounded size."""
    rng, left, missing = np.random.default_rng(seed), given.rows, wanted
    for part in given.parts():
        count, start = part.rows, part.start
        if missing < left:
            count = int(rng.hypergeometric(missing, left - missing, part.rows))
        chosen = None
        if count < part.rows:
            chosen = np.sort(rng.choice(part.rows, count, replace=False))
        left, missing = left - part.rows, missing - count
        size = part.rows if hasattr(part, "table") else _AT_ONCE
        for begin in range(0, count, size):
            end = min(begin + size, count)
            if chosen is None:
                some, places = part.cut(slice(begin, end)), np.arange(begin, end)
            else:
                places = chosen[begin:end]
                some = rows_at(part, places)
            yield _Part(some, places + start)


@dataclass(frozen=True)
class _Part:
    """Some rows, and their places in the data."""

    frame: Any
    places: NDArray[np.int64]


class _Files:
    """The files of a folder, to which parts are added."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder, self.model = folder, model
        self.count = self.width = 0
        self.shape: tuple[int, ...] = ()
        self.dtype = ""
        self.notes: dict[str, None] = {}
        self.chosen: Sequence[str] | None = None  # genes that cells can be coloured by
        self._writers: dict[str, _Arrow] = {}
        self._z = open(folder / "latents.f32", "wb")  # noqa: SIM115 - closed with the others

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *error: object) -> None:
        self._z.close()
        for writer in self._writers.values():
            writer.close()

    def add(self, part: _Part) -> None:
        """Score and embed rows, and write them with what they can be coloured by."""
        frame, model = part.frame, self.model
        scores, coded = model.score_table(frame)
        z = np.asarray(model.embed_coded(coded), np.float32).reshape(frame.rows, -1)
        self.notes |= dict.fromkeys(coded.notes)
        self.width = z.shape[1]
        self._z.write(np.ascontiguousarray(z).tobytes())
        scores = scores.append_column("row", pa.array(part.places.astype(np.int64)))
        if frame.files:
            scores = scores.append_column("file", pa.array([str(name) for name in frame.files]))
        tables = {"scores": scores, "rows": self._rows(frame), "values": self._values(frame)}
        nothing = pa.table({"none": pa.nulls(frame.rows, pa.string())})
        for name, given in tables.items():
            table = given if given.num_columns else nothing
            if name not in self._writers:
                self._writers[name] = _Arrow(self.folder / f"{name}.arrow", table)
            self._writers[name].add(table)
        self.count += frame.rows

    def _rows(self, frame: Any) -> pa.Table:
        """Return rows as they are kept to be scored again."""
        if self.model.holds == "table":
            return frame.to_table().table
        if self.model.holds == "pictures":
            pixels = np.ascontiguousarray(frame.pixels)
            self.shape, self.dtype = pixels.shape[1:], pixels.dtype.str
            size = pixels[0].nbytes
            kind = pa.binary(size)
            flat = pa.Array.from_buffers(kind, len(pixels), [None, pa.py_buffer(pixels)])
            return pa.table({"pixels": flat})
        return pa.table({})

    def _values(self, frame: Any) -> pa.Table:
        """Return what rows can be coloured by, where that is not in the rows themselves."""
        if self.model.holds == "table":
            return columns.canonical(self.model, frame.to_table().table)
        found = values_of(self.model, frame, _ANNOTATIONS, self.chosen)
        if self.chosen is None:
            self.chosen = found.genes
        return found.table


class _Arrow:
    """An Arrow file that tables are added to; its types are those of the first."""

    def __init__(self, path: Path, first: pa.Table) -> None:
        self.schema = pa.schema(
            [(field.name, _kept(field.type)) for field in first.schema if _kept(field.type)]
        )
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self.schema)

    def add(self, table: pa.Table) -> None:
        """Add rows.

        Raises:
            DataError: E029 for a column whose type changes from part to part.
        """
        arrays = []
        for wanted in self.schema:
            column = table[wanted.name]
            try:
                arrays.append(column if column.type == wanted.type else _cast(column, wanted.type))
            except (pa.ArrowException, ValueError) as error:
                raise DataError(
                    "E029",
                    f"the column {wanted.name[:80]!r} is {wanted.type} in the first rows and "
                    f"{column.type} in later ones: {str(error)[:120]}",
                    fix="store the data as one Parquet file, in which each column has one type",
                    column=wanted.name[:200],
                ) from None
        self._writer.write_table(pa.table(arrays, schema=self.schema))

    def close(self) -> None:
        """End the file."""
        self._writer.close()
        self._file.close()


def _kept(kind: pa.DataType) -> pa.DataType | None:
    """Return the type in which a column is kept, or None for one that holds no single values."""
    if pa.types.is_dictionary(kind):
        return _kept(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view":
        return pa.string()
    if pa.types.is_nested(kind) and not pa.types.is_fixed_size_binary(kind):
        return None
    return kind


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = pa.chunked_array(
            [chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type
        )
    return column.cast(kind)


def _sample(model: Any, given: Any, files: _Files, rows: pa.Table, seed: int) -> Any:
    """Return a few rows, as every method of the model takes them."""
    most = _SAMPLE[model.holds]
    if model.holds == "cells":
        return model.some(given, most, seed=seed).frame
    places = np.sort(np.random.default_rng(seed).permutation(files.count)[:most])
    if model.holds == "table":
        return rows.take(pa.array(places))
    return pictures(rows, places, files.shape, files.dtype)


def pictures(
    rows: pa.Table, places: Sequence[int] | NDArray[np.int64], shape: Sequence[int], dtype: str
) -> NDArray[Any]:
    """Return pictures from their bytes, (n, ...).

    Args:
        rows: the bytes of all pictures.
        places: which of them.
        shape: of one picture.
        dtype: of its pixels.
    """
    taken = rows["pixels"].take(pa.array(np.asarray(places, np.int64))).to_pylist()
    return np.stack([np.frombuffer(each, dtype).reshape(tuple(shape)) for each in taken])
