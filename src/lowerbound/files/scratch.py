"""Scratch space for data that should not be held in memory: unnamed temporary files."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowerbound.columns.arrow import place
from lowerbound.errors import ResourceError
from lowerbound.files import memory

_SHARE = 4  # arrays larger than 1/_SHARE of the free memory go to the disk


def room(size: int) -> NDArray[np.uint8]:
    """Return `size` zero bytes, in memory or in an unnamed temporary file.

    Raises:
        ResourceError: E301 where neither memory nor the disk has room.
    """
    if size * _SHARE <= memory.available() or not size:
        return np.zeros(size, np.uint8)
    return _on_disk(size)


def _on_disk(size: int) -> NDArray[np.uint8]:
    with file(size) as opened:
        return np.memmap(opened, np.uint8, "r+", shape=(size,))


def file(size: int) -> BinaryIO:
    """Return an unnamed file of `size` bytes, which vanishes when it is closed.

    Raises:
        ResourceError: E301 where the disk has no room, E302 where it takes no file.
    """
    with refusals(size):
        opened = _opened(size)
        try:
            # Reserved now: a page that finds the disk full later kills the process.
            os.posix_fallocate(opened.fileno(), 0, size)
        except OSError:
            opened.close()
            raise
    return opened


class Address(NamedTuple):
    """The address of an unnamed file, valid while the process that made it has it open.

    Attributes:
        path: that leads to it through the process that made it (Linux).
        device: that it is on.
        number: of the file there.
    """

    path: str
    device: int
    number: int


def address(opened: BinaryIO) -> Address:
    """Return the address of a scratch file for other processes of this machine."""
    found = os.fstat(opened.fileno())
    return Address(f"/proc/{os.getpid()}/fd/{opened.fileno()}", found.st_dev, found.st_ino)


def reopened(at: Address) -> BinaryIO:
    """Open a scratch file of another process of this machine, to read it.

    Raises:
        ResourceError: E302 where that process has ended, or its files are not to be seen.
    """
    try:
        opened = os.fdopen(os.open(at.path, os.O_RDONLY), "rb")
    except OSError as error:
        raise _gone(at, error.strerror or str(error)) from error
    found = os.fstat(opened.fileno())
    if (found.st_dev, found.st_ino) != at[1:]:
        opened.close()
        raise _gone(at, "it is another file by now")
    return opened


def _gone(at: Address, reason: str) -> ResourceError:
    return ResourceError(
        "E302",
        f"the scratch file of another process, {at.path}, cannot be opened: {reason}",
        fix="run the processes as one user on a machine whose /proc shows them each other",
        path=at.path,
    )


def written(write: Callable[[BinaryIO], None], size: int) -> mmap.mmap:
    """Return a memory map of the output of `write`, about `size` bytes, in an unnamed file.

    Raises:
        ResourceError: E301 where the disk has no room, E302 where it takes no file.
    """
    with refusals(size), _opened(size) as opened:
        write(opened)
        opened.flush()
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _opened(size: int) -> BinaryIO:
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < size:
        raise _full(folder, size)
    return tempfile.TemporaryFile(dir=folder)  # pyright: ignore[reportReturnType] - wraps one


@contextmanager
def refusals(size: int) -> Iterator[None]:
    """Turn the system's errors for a scratch file of `size` bytes into ours."""
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(folder, size) from error
        raise ResourceError(
            "E302",
            f"{place(folder)} takes no scratch file: {error.strerror or error}",
            fix="name another folder: TMPDIR=/path lowerbound ...",
            path=folder,
        ) from error


def _full(folder: str, size: int) -> ResourceError:
    free = shutil.disk_usage(folder).free
    return ResourceError(
        "E301",
        f"disk full: {place(folder)} has {free / 1e6:,.1f} MB, and the data take "
        f"{size / 1e6:,.1f} MB",
        fix="choose another disk with TMPDIR=/path; of pictures also a smaller --size",
        path=folder,
        have=free,
        need=size,
    )
