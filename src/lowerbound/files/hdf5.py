"""Check that the HDF5 library survives a file: damage can make it loop, crash or fill memory."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from lowerbound.columns.arrow import place
from lowerbound.errors import DataError
from lowerbound.files.paths import readable

_SECONDS, _SPEED = 3, 10**7  # of processor time, and the bytes that take another second
_ROOM = 2**30  # bytes of memory for text and attributes, besides twice the size of the file
_TOO_LARGE = 9  # exit status
# Run by another process, which may be killed. An error is met again by whoever reads the file.
_PROGRAM = f"""
import sys
try:
    import h5py
except ImportError:
    sys.exit()
path, seconds, room = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    import resource
    with open("/proc/self/statm") as file:
        room += int(file.read().split()[0]) * resource.getpagesize()
    for name, most in (("CORE", 0), ("CPU", seconds), ("AS", room)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
except (ImportError, OSError, ValueError):
    pass

def attempt(read):
    try:
        return read()
    except MemoryError:
        sys.exit({_TOO_LARGE})
    except Exception as error:
        if "alloc" in str(error):
            sys.exit({_TOO_LARGE})

def look(found):
    address = attempt(lambda: h5py.h5o.get_info(found.id).addr)
    if found is None or (address is not None and address in seen):
        return
    seen.add(address)
    for key in attempt(lambda: list(found.attrs)) or ():
        attempt(lambda: found.attrs[key])
    if isinstance(found, h5py.Group):
        for name in attempt(lambda: list(found)) or ():
            look(attempt(lambda: found[name]))
    elif isinstance(found, h5py.Dataset):
        attempt(lambda: h5py.check_string_dtype(found.dtype) and found[()])

seen = set()
look(attempt(lambda: h5py.File(path, "r")))
"""


def refuse_fatal(path: Path) -> None:
    """Raise E025 for a file on which the HDF5 library loops, crashes or fills the memory.

    HDF5 trusts the lengths in a file. Another process therefore reads its attributes and its text
    first, within limits of time and memory; this takes about 0.2 s.

    Raises:
        DataError: E025 for such a file, E003 or E009 where the system refuses to read it.
    """
    with readable(path), path.open("rb"):
        status = path.stat()
    if why := _fatal(os.fspath(path.absolute()), status.st_size, status.st_mtime_ns):
        raise DataError(
            "E025",
            f"{place(path)} is damaged: {why}",
            fix="write it again: adata.write_h5ad(path)",
            path=str(path),
        )


@lru_cache(maxsize=16)  # a file is opened several times
def _fatal(path: str, size: int, changed: int) -> str:
    """Return what reading a file does to a process, or "" if it ends well."""
    if not sys.executable or getattr(sys, "frozen", False):
        return ""  # there is no interpreter to run
    seconds = _SECONDS + size // _SPEED
    words = [sys.executable, "-P", "-c", _PROGRAM, path, str(seconds), str(_ROOM + 2 * size)]
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    try:
        ended = subprocess.run(  # noqa: S603 - the program above
            words,
            env={**os.environ, **one},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60 + 10 * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "reading it does not end"
    except OSError:  # no further process can be started
        return ""
    if ended.returncode == _TOO_LARGE:
        return "the lengths of its texts cannot be right"
    return "reading it does not end, or crashes" if ended.returncode < 0 else ""
