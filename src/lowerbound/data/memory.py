"""How much memory there is, asked before something large is read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lowerbound.cells import place
from lowerbound.errors import ResourceError

_SHARE = 0.9  # of what is free; the rest is for everything else


def available() -> int:
    """Return the bytes that this process can still take, within its container's limit."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" is no number: there is no limit
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    return max(free, 0)


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
