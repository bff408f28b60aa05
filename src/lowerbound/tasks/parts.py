"""Rows in parts that the processors work on side by side.

A product that torch computes with several threads has them wait for each other in a busy loop: of
the small products of a score, they wait for most of the time, and if another program uses one of
the processors, a score takes tens of times longer. Parts of the rows need not wait.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

from lowerbound.coding.rows import Dense, Rows
from lowerbound.errors import LowerboundError
from lowerbound.files.parallel import in_order

In = TypeVar("In")
Out = TypeVar("Out")

TILES = 8  # of rows in a part


def by_parts(
    rows: Rows, tile: int, work: Callable[[Rows, int], Tensor], device: torch.device
) -> Tensor:
    """Apply `work` to parts of the rows, one for each processor at a time.

    The parts consist of whole tiles, so that the results are those of all rows at once. As many
    parts are worked on as torch has threads in the calling thread.

    Args:
        rows: the n rows.
        tile: rows that `work` computes together.
        work: function of a part of the rows and of the number of its first row, which returns
            one result per row and may be called in several threads.
        device: that `work` computes on; there is one part on an accelerator.

    Returns:
        (n, ...) results, on the CPU.
    """
    count, tiles = torch.get_num_threads(), -(-len(rows) // tile)
    if count == 1 or tiles == 1 or device.type != "cpu":
        return work(rows, 0)
    size = tile * min(TILES, -(-tiles // count))

    def parts() -> Iterator[tuple[Rows, int]]:
        for first in range(0, len(rows), size):
            index = torch.arange(first, min(first + size, len(rows)))
            yield Dense(*rows.take(index)), first

    results = []
    for _, found in in_order(partial(_alone, work), parts(), count):
        if isinstance(found, LowerboundError):
            raise found
        results.append(found)
    return torch.cat(results)


def side_by_side(work: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Return the results of a few items in order, each computed with one torch thread.

    Args:
        work: function of an item, which is called in several threads: one for each processor.
        items: what to work on.

    Raises:
        LowerboundError: the first error of ours.
    """

    def alone(item: In) -> Out:
        with threads(1):
            return work(item)

    results: list[Out] = []
    for _, found in in_order(alone, items):
        if isinstance(found, LowerboundError):
            raise found
        results.append(found)
    return results


def _alone(work: Callable[[Rows, int], Tensor], part: tuple[Rows, int]) -> Tensor:
    with threads(1):
        return work(*part)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use `count` torch threads in the calling thread, inside the block, and in no other thread.

    Sums and products can differ in their last bits with the number of threads: a fit must not
    change the results of other threads. ``torch.set_num_threads`` also sets the default of
    threads that use torch for the first time later, so the number is set by the functions that
    it calls for the calling thread: those of OpenMP and of MKL.
    """
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


def set_threads(count: int) -> None:
    """Use `count` torch threads in the calling thread from now on, and in no other thread."""
    for set_number in _thread_setters():
        set_number(count)
    if torch.get_num_threads() != count:
        _set_and_reset_default(count)


@cache
def _thread_setters() -> tuple[Callable[[int], object], ...]:
    """The functions by which torch sets the number of the calling thread; none if not found."""
    folder = Path(torch.__file__).parent / "lib"
    names = ["omp_set_num_threads"]
    if torch.backends.mkl.is_available():
        names.append("MKL_Set_Num_Threads_Local")
    for ending in ("so", "dylib"):
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(folder / f"libtorch_cpu.{ending}"))
            return tuple(getattr(library, name) for name in names)
    return ()


_SWITCHING = Lock()


def _set_and_reset_default(count: int) -> None:
    """Set the number by torch, and let another thread reset the default.

    A thread that uses torch for the first time between the two keeps `count`.
    """
    with _SWITCHING, ThreadPoolExecutor(1) as new:
        others = new.submit(torch.get_num_threads).result()
        torch.set_num_threads(count)
        new.submit(torch.set_num_threads, others).result()
