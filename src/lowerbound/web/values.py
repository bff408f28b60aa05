"""Values that rows can be coloured by and named with: of tables, cells and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

GENES = 8  # the most variable ones, by which cells can be coloured

Numbers = NDArray[np.float64]


class Values(NamedTuple):
    """Columns of numbers as float64, and of text.

    Attributes:
        table: the columns.
        genes: of cells, the names of the genes among them.
    """

    table: pa.Table
    genes: tuple[str, ...] = ()


def values_of(
    model: Any, frame: Any, most: int | None = None, genes: Sequence[str] | None = None
) -> Values:
    """Return what rows can be coloured by and named with.

    Args:
        model: a `lowerbound.Model`.
        frame: the rows.
        most: number of columns at most, of tables and of the annotations of cells.
        genes: names of genes; by default those that vary most.
    """
    if model.holds == "table":
        table = model.canonical(frame)
        return Values(table.select(table.column_names[:most]))
    if model.holds == "cells":
        return _of_cells(frame, most, genes)
    pixels = model.shown(frame)
    columns: dict[str, Any] = {"brightness": pa.array(pixels.reshape(len(pixels), -1).mean(1))}
    if frame.classes:
        columns["label"] = pa.array(frame.classes)
    elif frame.labels:
        columns["folder"] = pa.array([str(label) for label in frame.labels])
    return Values(pa.table(columns))


def _of_cells(frame: Any, most: int | None, genes: Sequence[str] | None) -> Values:
    columns: dict[str, Any] = {}
    known = frame.annotations
    for name in known.column_names[:most]:
        columns[name] = plain(known[name])
    if not hasattr(frame, "matrix"):
        return Values(pa.table(columns))
    matrix, names = frame.matrix.tocsr(), list(frame.columns)
    totals = np.asarray(matrix.sum(1)).ravel()
    columns["total counts"] = pa.array(totals.astype(np.float64))
    scaled = matrix.multiply(1e4 / np.maximum(totals, 1.0)[:, None]).tocsr()
    scaled.data = np.log1p(scaled.data)
    if genes is None:
        mean = np.asarray(scaled.mean(0)).ravel()
        spread = np.asarray(scaled.multiply(scaled).mean(0)).ravel() - mean**2
        genes = [names[g] for g in np.argsort(-spread, kind="stable")[:GENES]]
    for name in genes:
        column = scaled[:, names.index(name)].toarray()[:, 0].astype(float)
        columns[f"{name} (log expression)"] = pa.array(column)
    return Values(pa.table(columns), tuple(genes))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return numbers as float64 and everything else as text."""
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return column.cast(pa.float64())
    words = [None if each is None else str(each) for each in column.to_pylist()]
    return pa.chunked_array([pa.array(words, pa.string())])


def rows_at(frame: Any, places: NDArray[np.int64]) -> Any:
    """Return the rows of a frame at these places, in this order."""
    files = tuple(frame.files[i] for i in places) if frame.files else ()
    labels = tuple(frame.labels[i] for i in places) if frame.labels else ()
    if frame.shape:
        return replace(frame, pixels=frame.pixels[places], files=files, labels=labels, start=0)
    return replace(frame.take(places), files=files, labels=labels, start=0)
