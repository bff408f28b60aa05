"""Read Zarr stores: an array of numbers, or the counts of an AnnData."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lowerbound.columns.arrow import listed, place
from lowerbound.errors import DataError
from lowerbound.files import anndata, array_files, arrays
from lowerbound.files.data import Whole
from lowerbound.files.stream import Stream
from lowerbound.optional import library

_MARKS = ("zarr.json", ".zarray", ".zgroup")  # of the formats 3 and 2
_TABLE = "X"  # the array of a group, where there are several


def is_store(data: object) -> bool:
    """Return whether a path is that of a Zarr store, which is a folder."""
    if not isinstance(data, str | os.PathLike):
        return False
    try:
        folder = Path(os.fsdecode(data)).expanduser()
        return folder.is_dir() and any((folder / mark).is_file() for mark in _MARKS)
    except (OSError, ValueError):  # `read` reports it
        return False


def stream(path: Path, origin: str, layer: str = "") -> Stream | None:
    """Return a table of numbers or the counts of an AnnData as a stream; None for others.

    Raises:
        DataError: E025 or E028, as `read_store`.
        ResourceError: E310 without zarr.
    """
    array = _array(_opened(path), path)
    if array is None:
        library("anndata", *anndata.NEEDS)
        return anndata.stream(lambda: nullcontext(_opened(path)), path, origin, layer)
    if array.ndim != 2 or not min(array.shape) or array.dtype.kind not in "buif":
        return None
    return array_files.stream(array, origin)


def read_store(path: Path, rows: int | None = None, layer: str = "") -> Whole:
    """Read an array, or the counts of the AnnData that a store holds.

    Raises:
        DataError: E025 where the store is damaged, E028 for a group of several arrays of which
            none is called X, and as `lowerbound.files.arrays.from_array`.
        ResourceError: E310 without zarr, or without anndata for an AnnData.
    """
    opened = _opened(path)
    with _intact(path):
        array = _array(opened, path)
        if array is None:
            cells = library("anndata", *anndata.NEEDS).read_zarr(path)
            return anndata.from_anndata(cells, rows, path.name, layer=layer)
        return arrays.from_array(
            array[: array.shape[0] if rows is None else rows], None, path.name
        )


def _array(opened: Any, path: Path) -> Any:
    """Return the array that is the table; None where the store is an AnnData."""
    if hasattr(opened, "ndim"):
        return opened
    if opened.attrs.get("encoding-type") == "anndata":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other files in the folder
        found = dict(opened.arrays())
    if not found:
        raise _broken(path, "it holds no array")
    if _TABLE in found or len(found) == 1:
        return found.get(_TABLE, next(iter(found.values())))
    raise DataError(
        "E028",
        f"{place(path)} holds {len(found)} arrays and none called {_TABLE}: {listed(list(found))}",
        fix=f"give the path of one: '{path / next(iter(found), _TABLE)}'",
        path=str(path),
        arrays=list(found),
    )


def _opened(path: Path) -> Any:
    zarr = library("zarr", "Zarr stores need", "cells")
    with _intact(path):
        return zarr.open(str(path), mode="r")


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turn the library's errors for files that are not a store into E025."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _broken(path, reason[:160]) from error


def _broken(path: Path, why: str) -> DataError:
    return DataError(
        "E025",
        f"{place(path)} is damaged: {why}",
        fix="write the store again",
        path=str(path),
    )
