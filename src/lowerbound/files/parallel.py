"""Process items in parallel, with results in order and a bounded queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from lowerbound.errors import LowerboundError

In = TypeVar("In")
Out = TypeVar("Out")


def workers() -> int:
    """Return the number of processors that this process may use, within its container's limit."""
    from joblib import cpu_count  # noqa: PLC0415 - `--help` does not wait for it

    return cpu_count()


def share(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the number of processors that a container allows, or None without a limit."""
    for name, unlimited in (("cpu.max", "max"), ("cpu/cpu.cfs_quota_us", "-1")):
        try:
            limit = (folder / name).read_text()
        except OSError:
            continue
        return None if limit.split()[:1] == [unlimited] else workers()
    return None


def in_order(
    work: Callable[[In], Out], items: Iterable[In], together: int | None = None
) -> Iterator[tuple[int, Out | LowerboundError]]:
    """Yield (place, result or error of ours) in the order of the items.

    However many there are, at most two results per thread wait for the reader.

    Args:
        work: function of an item.
        items: any number of them.
        together: number of threads; one for each processor by default.
    """
    waiting: deque[Future[Out | LowerboundError]] = deque()
    count = together or workers()
    most, place = 2 * count, 0

    def guarded(item: In) -> Out | LowerboundError:
        try:
            return work(item)
        except LowerboundError as error:
            return error

    with ThreadPoolExecutor(count, "items") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(guarded, item))
                if len(waiting) > most:
                    yield place, waiting.popleft().result()
                    place += 1
            while waiting:
                yield place, waiting.popleft().result()
                place += 1
        finally:
            for future in waiting:
                future.cancel()


def ahead(items: Iterable[Out]) -> Iterator[Out]:
    """Yield the items, while a thread prepares the next one.

    What the items raise is raised in its place, after those before it.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(list, islice(source, 1))
        while item := coming.result():
            coming = pool.submit(list, islice(source, 1))
            yield item[0]
