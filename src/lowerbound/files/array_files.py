"""Arrays in .npy and .npz files, read within bounds and without pickles."""

from __future__ import annotations

import importlib
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from lowerbound.columns.arrow import listed, place, snippet
from lowerbound.errors import DataError
from lowerbound.files import idx
from lowerbound.files.arrays import NumpyNative, from_array, from_sparse
from lowerbound.files.data import Matrix, Table, Whole
from lowerbound.files.paths import is_idx, readable
from lowerbound.files.stream import Stream, of_tables

MOST_BYTES = 2 * 2**30
_NAME_KEYS = ("columns", "feature_names", "names")
# What NumPy and zipfile raise for bytes that are no array.
_NO_ARRAY = (ValueError, TypeError, EOFError, SyntaxError, RecursionError, tokenize.TokenError)
_NO_ARCHIVE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, zlib.error),
    UnicodeDecodeError,  # of the names of members
)
_SPARSE_KEYS = {"data", "indices", "indptr", "shape"}


def read_file(path: Path, rows: int | None = None, *, strict: bool = True) -> Whole:
    """Read an .npy, .npz or idx file; pickled objects in it are refused."""
    if is_idx(path):
        return idx.read_file(path, rows)
    with readable(path), path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        if head == b"\x93NUMPY":
            array = _read_npy(file, path, path.stat().st_size)
            return from_array(array[:rows], origin=path.name)
        if head[:4] == b"PK\x03\x04":
            return _read_npz(file, path, rows, strict)
    raise _broken(path, f"its first bytes are {head!r}")


def read_npy(path: Path) -> np.ndarray:
    """Read the array of an .npy file, of any shape.

    Raises:
        DataError: E002 to E004 for what is no plain file, E017 for one that is too large, E025
            for a damaged one, E026 for one of Python objects.
    """
    with readable(path), path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise _broken(path, "its first bytes are not those of an .npy file")
        file.seek(0)
        return _read_npy(file, path, path.stat().st_size)


def _broken(path: Path, why: str) -> DataError:
    return DataError(
        "E025",
        f"{place(path)} is damaged: {snippet(why, 160)[1:-1]}",
        fix="save it again with numpy.save or numpy.savez",
        path=str(path),
    )


def mapped(path: Path) -> np.ndarray | None:
    """Return a memory map of a table of numbers in an .npy file; None for anything else.

    Raises:
        DataError: E025 or E026 where the file is damaged, or holds Python objects.
    """
    with readable(path), path.open("rb") as file:
        if is_idx(path) or file.read(6) != b"\x93NUMPY":
            return None
        file.seek(0)
        shape, fortran, dtype = _header(file, path, path.stat().st_size)
        if len(shape) != 2 or not min(shape) or dtype.kind not in "buif" or dtype.itemsize > 8:
            return None
        if math.prod(shape) * dtype.itemsize > path.stat().st_size - file.tell():
            raise _broken(path, "it ends early")
        order = "F" if fortran else "C"
        return np.memmap(path, dtype, "r", file.tell(), shape, order)


def stream(array: np.ndarray, origin: str) -> Stream[Table]:
    """Return the rows of an array on disk as a stream."""
    rows, columns = array.shape

    def tables(size: int) -> Iterator[pa.Table]:
        for start in range(0, rows, size):
            yield from_array(array[start : start + size], origin=origin).to_table().table

    names = tuple(f"x{j}" for j in range(columns))
    frames = of_tables(tables, columns, typed=False)
    known = {"origin": origin, "bytes": array.nbytes, "native": NumpyNative()}
    return Stream(names, rows, frames, typed=False, **known)


def _read_npy(file: IO[bytes], path: Path, room: int) -> np.ndarray:
    """Read one array, after a check that the file is as long as its header says."""
    shape, fortran, dtype = _header(file, path, room)
    wanted = math.prod(shape) * dtype.itemsize
    raw = file.read(wanted)
    if len(raw) != wanted:
        raise _broken(path, f"it ends {wanted - len(raw):,} bytes early")
    try:
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    except ValueError as error:  # more dimensions than NumPy has, or longer than it counts
        raise _broken(path, str(error)) from error


def _header(file: IO[bytes], path: Path, room: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an .npy file: shape, whether columns come first, and type."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"format {version} is not supported")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files that Python 2 wrote are fine
            shape, fortran, dtype = readers[version](file)
    except _NO_ARRAY as error:
        raise _broken(path, str(error)[:100]) from error
    if dtype.hasobject:
        raise DataError(
            "E026",
            f"{place(path)} contains Python objects (a pickle), which could run code",
            fix="save numbers: numpy.save(path, array.astype(float))",
            path=str(path),
        )
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or wanted > room or not dtype.itemsize:
        raise _broken(path, f"shape {shape} needs {wanted:,} bytes, and {room:,} are there")
    return shape, fortran, dtype


def _read_npz(file: IO[bytes], path: Path, rows: int | None, strict: bool) -> Whole:
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {i.filename: i.file_size for i in archive.infolist()}
            keys = [name.removesuffix(".npy") for name in sizes if name.endswith(".npy")]
            if not keys:
                raise _broken(path, "it is a zip archive without any array in it")
            arrays = _Archive(archive, path, sizes)
            if set(keys) >= _SPARSE_KEYS:
                return _sparse_file(arrays, keys, path, rows, strict)
            return _dense_file(arrays, keys, path, rows)
    except (*_NO_ARCHIVE, OSError, RuntimeError) as error:
        # Impossible offsets are an OSError, encrypted members a RuntimeError.
        raise _broken(path, str(error)) from error


@dataclass(frozen=True)
class _Archive:
    """The arrays of an .npz file, read one at a time and within bounds."""

    archive: zipfile.ZipFile
    path: Path
    sizes: dict[str, int]

    def read(self, key: str) -> np.ndarray:
        """Read one array."""
        room = self.sizes[f"{key}.npy"]
        if room > MOST_BYTES:
            raise DataError(
                "E017",
                f"array {snippet(key)} of {place(self.path)} unpacks to {room:,} bytes",
                fix="if you trust it, save it as .npy, which is not compressed",
                path=str(self.path),
            )
        with self.archive.open(f"{key}.npy") as member:
            return _read_npy(member, self.path, room)

    def dimensions(self, key: str) -> int:
        """Return the number of dimensions of an array from its header."""
        with self.archive.open(f"{key}.npy") as member:
            version = np.lib.format.read_magic(member)
            one = version == (1, 0)
            reader = (
                np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
            )
            return len(reader(member)[0])


def _dense_file(arrays: _Archive, keys: list[str], path: Path, rows: int | None) -> Whole:
    try:
        sizes = {key: arrays.dimensions(key) for key in keys}
        tables = [key for key in keys if sizes[key] == 2]
        pictures = [key for key in keys if sizes[key] in (3, 4)]
        flat = ["X"] if "X" in keys else tables or pictures
    except _NO_ARRAY as error:
        raise _broken(path, str(error)[:100]) from error
    if len(flat) != 1:
        what = "two-dimensional" if tables or not pictures else "picture"
        found = ", ".join(f"{key} ({arrays.dimensions(key)}-D)" for key in keys[:8])
        raise DataError(
            "E028",
            f"{place(path)} has {len(flat)} {what} arrays and none called X: {found}",
            fix="save the table alone: numpy.savez(path, X=table)",
            path=str(path),
            arrays=keys,
        )
    table = arrays.read(flat[0])
    width = table.shape[1] if table.ndim == 2 else 0
    frame = from_array(table[:rows], _names(arrays, keys, width), path.name)
    others = [key for key in keys if key != flat[0] and key not in _NAME_KEYS]
    notes = (f"{path.name}: read array {flat[0]}, not {listed(others)}",) if others else ()
    return replace(frame, notes=notes, total=len(table))


def _names(arrays: _Archive, keys: list[str], width: int) -> list[str] | None:
    """Return the column names in the archive, if there is one for each column."""
    for key in _NAME_KEYS:
        if key in keys:
            names = arrays.read(key)
            if names.ndim == 1 and names.dtype.kind == "U" and len(set(names)) == width:
                return [str(name) for name in names]
    return None


def _sparse_file(
    arrays: _Archive, keys: list[str], path: Path, rows: int | None, strict: bool
) -> Matrix:
    """Read what scipy.sparse.save_npz writes, or the same arrays without their format."""
    layout = bytes(arrays.read("format")).decode("ascii", "replace") if "format" in keys else "csr"
    shape = arrays.read("shape")
    if layout not in ("csr", "csc") or shape.shape != (2,):
        raise DataError(
            "E042",
            f"{place(path)} holds a sparse matrix in the format {snippet(layout)}",
            fix="save it as CSR: scipy.sparse.save_npz(path, matrix.tocsr())",
            path=str(path),
        )
    sparse = importlib.import_module("scipy.sparse")
    make = sparse.csr_matrix if layout == "csr" else sparse.csc_matrix
    columns = tuple(arrays.read(key) for key in ("data", "indices", "indptr"))
    try:
        matrix = make(columns, shape=tuple(int(n) for n in shape))
        matrix.check_format(full_check=True)
    except (ValueError, IndexError) as error:
        raise DataError(
            "E042", f"{place(path)} is damaged: {error}", fix="save it again", path=str(path)
        ) from error
    names = _names(arrays, keys, int(shape[1]))
    frame = from_sparse(matrix.tocsr()[:rows], names, path.name, strict=strict)
    total = int(shape[0])
    return replace(frame, total=total)
