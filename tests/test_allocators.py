"""What a process frees goes back to the system, where glibc serves it."""

import subprocess
import sys

import pytest

HOLES = """
import ctypes
from pathlib import Path
from lowerbound.files import allocators

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


def resident():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024


allocators.give_back()
size = 64 << 10
blocks = [libc.malloc(size) for _ in range(2048)]
for block in blocks:
    ctypes.memset(block, 1, size)
for number, block in enumerate(blocks):
    if (number + 1) % 64:
        libc.free(block)
freed = resident()
allocators.trim()
print(freed - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc alone")
def test_trim_gives_holes_within_the_heap_back():
    """128 MB of blocks, of which every 64th lives on: 126 MB lie between them."""
    done = subprocess.run(
        [sys.executable, "-c", HOLES], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 100
