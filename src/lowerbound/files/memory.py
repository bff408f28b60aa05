"""Check the available memory before something large is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from lowerbound.columns.arrow import place
from lowerbound.errors import ResourceError, UsageError

_SHARE = 0.9  # of the free memory; the rest is for other processes
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_LEAST = 500 * 10**6  # that the libraries and one part of a table take
_limit: ContextVar[int | None] = ContextVar("limit", default=None)


@contextmanager
def limited(size: int | None) -> Iterator[None]:
    """Limit the memory of this process to `size` bytes within the block.

    What may be large is asked for beforehand (`require`, `available`), and refused or kept on
    the disk; the limit is none of the system's, so that nothing is killed by it.
    """
    token = _limit.set(size)
    try:
        yield
    finally:
        _limit.reset(token)


def limit() -> int | None:
    """Return the limit that `limit` has set, in bytes."""
    return _limit.get()


def size_of(text: str) -> int:
    """Read "2GB", "1.5G", "800 MB" or a number of bytes.

    Raises:
        UsageError: E231 for any other text, E240 for less than the program itself takes.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    if found is None:
        message = f"--max-memory must be a size such as 2GB or 800MB, got {text!r}"
        raise UsageError("E231", message, fix="--max-memory 2GB")
    size = int(float(found[1]) * _UNITS[found[2].upper()])
    if size < _LEAST:
        raise UsageError(
            "E240",
            f"--max-memory must be at least {_LEAST // 10**6}MB, which the program and its "
            f"libraries take, got {text}",
            fix=f"--max-memory {_LEAST // 10**6}MB, or more",
        )
    return size


def available() -> int:
    """Return the bytes that this process can still allocate, within all limits."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" is not a number and means no limit
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    if (most := _limit.get()) is not None:
        free = min(free, most - _resident())
    return max(free, 0)


def _resident() -> int:
    """Return the bytes of memory that this process has now, or 0 where the system hides it."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def require(need: int, path: object, fix: str) -> None:
    """Raise E303 if a table of `need` bytes does not fit.

    Raises:
        ResourceError: with what is needed and what is there.
    """
    have = available()
    if need > _SHARE * have:
        raise ResourceError(
            "E303",
            f"{place(path)} takes about {need / 1e9:,.1f} GB of memory as a table, and "
            f"{have / 1e9:,.1f} GB are free",
            fix=fix,
            path=str(path),
            need=need,
            have=have,
        )
