"""Arrays in the idx format of the MNIST files, plain or gzipped, read within bounds."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from lowerbound.columns.arrow import place
from lowerbound.errors import DataError
from lowerbound.files.arrays import from_array
from lowerbound.files.data import Whole
from lowerbound.files.paths import readable

MOST_BYTES = 2 * 2**30
_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_file(path: Path, rows: int | None = None) -> Whole:
    """Read an idx file.

    Raises:
        DataError: E017 where it unpacks to more than 2 GB, E025 where it is damaged.
    """
    with readable(path), path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            source = gzip.GzipFile(fileobj=file) if packed else file
            array = _array(source, path)  # pyright: ignore[reportArgumentType] - GzipFile reads
        except (gzip.BadGzipFile, zlib.error, EOFError, struct.error) as error:
            raise _broken(path, str(error) or "it is cut short") from error
    return from_array(array[:rows], origin=path.name)


def _array(file: IO[bytes], path: Path) -> np.ndarray:
    zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
    if zeros or kind not in _TYPES or not dimensions:
        raise _broken(path, "its first bytes are those of another format")
    shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    dtype = np.dtype(_TYPES[kind])
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_BYTES:
        raise DataError(
            "E017",
            f"{place(path)} unpacks to {size:,} bytes",
            fix="if you trust it, save it as .npy, which is not compressed",
            path=str(path),
        )
    raw = file.read(size + 1)
    if len(raw) != size:
        raise _broken(path, f"shape {shape} needs {size:,} bytes, and {len(raw):,} are there")
    try:
        array = np.frombuffer(raw, dtype).reshape(shape)
    except ValueError as error:  # more dimensions than NumPy has, or longer than it counts
        raise _broken(path, str(error)) from error
    return array.astype(dtype.newbyteorder("="))


def _broken(path: Path, why: str) -> DataError:
    return DataError(
        "E025",
        f"{place(path)} is damaged: {why}",
        fix="download it again",
        path=str(path),
    )
