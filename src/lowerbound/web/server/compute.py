"""Threads that compute, and micro-batches of concurrent requests.

A row's score does not depend on the other rows of a pass, and one pass over a hundred rows costs
little more than over one. Requests that arrive while a pass runs are scored together by the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from lowerbound.tasks.parts import set_threads

T = TypeVar("T")

SMALL = 256  # rows of a request up to which it shares a pass with others
GATHER = (
    0.004  # seconds that a pass waits for further requests, where they come faster than passes
)
PASS = 2048  # rows of a pass that several requests share

Work = Callable[[Sequence[Any]], Sequence[Any]]


class Job(NamedTuple):
    """A request that waits for a pass.

    Attributes:
        key: requests of one key are computed together.
        work: computes the results of several requests; an error of one is its result.
        item: what to compute.
        rows: the number of its rows.
        done: receives the result.
    """

    key: Any
    work: Work
    item: Any
    rows: int
    done: asyncio.Future[Any]


class Compute:
    """Two threads: one for passes that small requests share, one for all other work.

    A large request then delays the small ones only by what it takes of the processors.
    """

    def __init__(self) -> None:
        # Products of few rows take longer on two threads, which would wait for each other while
        # the event loop needs the processor.
        self._shared = ThreadPoolExecutor(1, "lowerbound-pass", set_threads, (1,))
        self._single = ThreadPoolExecutor(1, "lowerbound-work")
        self._waiting: deque[Job] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._loaded = False  # whether requests came while a pass ran
        self.passes = self.passed = 0

    async def alone(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run work in the thread of large requests."""
        return await asyncio.get_running_loop().run_in_executor(self._single, work, *arguments)

    async def together(self, key: Any, work: Work, item: Any, rows: int) -> Any:
        """Compute a request together with others of the same key.

        Args:
            key: as of `Job`.
            work: as of `Job`.
            item: as of `Job`.
            rows: as of `Job`.

        Returns:
            The result of `work` for `item`.

        Raises:
            Exception: the error that `work` returned for it.
        """
        if rows > SMALL:
            found = (await self.alone(work, [item]))[0]
        else:
            done = asyncio.get_running_loop().create_future()
            self._waiting.append(Job(key, work, item, rows, done))
            if self._runner is None:
                self._runner = asyncio.create_task(self._run())
            found = await done
        if isinstance(found, Exception):
            raise found
        return found

    async def _run(self) -> None:
        """Compute passes until no request waits."""
        try:
            while self._waiting:
                if self._loaded:
                    await asyncio.sleep(GATHER)
                jobs = self._next()
                if not jobs:
                    continue
                items = [job.item for job in jobs]
                loop = asyncio.get_running_loop()
                try:
                    found = await loop.run_in_executor(self._shared, jobs[0].work, items)
                except Exception as error:  # a bug: told to each of them
                    logging.getLogger("lowerbound").exception("a pass failed")
                    found = [error] * len(jobs)
                self.passes += 1
                self.passed += len(jobs)
                self._loaded = bool(self._waiting)
                for job, result in zip(jobs, found, strict=True):
                    if not job.done.done():
                        job.done.set_result(result)
        finally:
            self._runner = None

    def _next(self) -> list[Job]:
        """Return the requests of the next pass: those of the first one's key, in order."""
        key, rows, jobs, others = None, 0, [], deque[Job]()
        while self._waiting and rows < PASS:
            job = self._waiting.popleft()
            if job.done.done():  # its client no longer waits
                continue
            if key is None:
                key = job.key
            if job.key == key:
                jobs.append(job)
                rows += job.rows
            else:
                others.append(job)
        self._waiting.extendleft(reversed(others))
        return jobs

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a pass."""
        return len(self._waiting)

    def close(self) -> None:
        """End the threads; work that has begun is finished."""
        self._shared.shutdown(wait=False, cancel_futures=True)
        self._single.shutdown(wait=False, cancel_futures=True)
