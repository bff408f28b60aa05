"""Tune the memory allocators of this process, and return freed memory to the system.

None of it changes what is computed. glibc and Linux only: other systems are left alone.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _PARTS, _TOP = 1 << 30, 4 << 20, 64 << 20  # bytes


def give_back() -> None:
    """Set up the allocators of a process that streams data, so that its memory does not grow.

    By default glibc keeps blocks of up to 32 MB once one of them was freed, and Arrow what it had
    freed; after thousands of parts of a file both hold ever more between what lives longer.
    Blocks of a whole part are mapped instead, which the tiles of a network are too small for, and
    of Arrow's allocators the one that returns most is taken; it has to be said before Arrow is
    imported.
    """
    if sys.platform == "linux":
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
    _mallopt(_M_MMAP_THRESHOLD, _PARTS)
    # With that alone the end of the heap is given back at every pass of a network: a score takes
    # half as long again.
    _mallopt(_M_TRIM_THRESHOLD, _TOP)


def keep() -> None:
    """Let glibc keep freed memory instead of returning it at every training step.

    Activations and gradients beyond 128 KiB are mapped anew for every step: their page faults took
    a third of the time of a 64x64 convolution, and a fifth of that of a 784-400-20 net at batch
    128 (180 faults a step).
    """
    _mallopt(_M_MMAP_THRESHOLD, _KEPT)
    _mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT - 1)


def trim() -> None:
    """Return the free pages of the heap to the system, between one part and the next.

    What lives on, a writer's notes of every group of rows, comes to lie between blocks of a part
    that are freed: over 30 million rows 20 MB of holes, which no later block of another size
    fills. It takes a millisecond, and a part at least a hundred.
    """
    _glibc("malloc_trim", 0)


def _mallopt(what: int, value: int) -> None:
    _glibc("mallopt", what, value)


def _glibc(function: str, *arguments: int) -> None:
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL("libc.so.6")[function](*arguments)
    except (OSError, AttributeError):  # another C library
        return
