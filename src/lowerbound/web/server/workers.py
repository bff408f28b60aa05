"""Several processes that serve on one address, and the one that looks after them.

All accept connections from one socket that the first process opened: when a worker ends, even by
SIGKILL, connections that wait are taken by the others, and only its own requests are lost.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from lowerbound.errors import LowerboundError, ResourceError
from lowerbound.web.server.guard import Log
from lowerbound.web.server.process import serve
from lowerbound.web.server.served import Holder
from lowerbound.web.server.settings import Settings

_FAILED = 3  # workers in a row that end before they serve, after which the server gives up
_MOST_PAUSE = 60.0  # seconds before another is started, while others still serve
_POLL = 0.05  # seconds between two looks at the workers
_SERVES = b"1"  # what a worker writes into its pipe when it serves


class Worker:
    """A process that serves.

    Args:
        settings: of the server.
        listening: the socket that it takes connections from.
    """

    def __init__(self, settings: Settings, listening: socket.socket) -> None:
        number = listening.fileno()
        self._pipe, end = os.pipe()
        os.set_blocking(self._pipe, False)
        words = [sys.executable, "-m", __name__, str(number), str(end), settings.to_json()]
        try:
            self.process = subprocess.Popen(
                words,
                pass_fds=[number, end],
                env={"OMP_NUM_THREADS": str(_threads(settings.workers)), **os.environ},
                stdin=subprocess.DEVNULL,
                # Ctrl-C reaches the whole group: the first process passes it on.
                start_new_session=True,
            )
        finally:
            os.close(end)
        self._serves = False

    @property
    def serves(self) -> bool:
        """Whether it has loaded its model and has begun to serve."""
        if not self._serves:
            with suppress(BlockingIOError):
                self._serves = os.read(self._pipe, 1) == _SERVES
        return self._serves

    def close(self) -> None:
        """Forget it after its end."""
        os.close(self._pipe)


def _threads(workers: int) -> int:
    """Return the threads of each worker, unless OMP_NUM_THREADS says otherwise."""
    able = getattr(os, "sched_getaffinity", None)
    processors = len(able(0)) if able is not None else os.cpu_count() or 1
    return max(1, processors // workers)


class Supervisor:
    """Starts workers, and starts one again when one ends.

    Args:
        settings: of the server.
        listening: the socket that they share.
        log: the log.
    """

    def __init__(self, settings: Settings, listening: socket.socket, log: Log) -> None:
        self.settings, self.listening, self.log = settings, listening, log
        self.workers: list[Worker] = []
        self.failed = 0
        self.next = 0.0  # when the next worker may start
        self.ending = False

    def run(self) -> None:
        """Look after the workers until a signal ends the process.

        Raises:
            ResourceError: E328 if workers end again and again.
        """
        handlers = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGTERM, self._end),
                (signal.SIGINT, self._end),
                (signal.SIGHUP, self._load),
            )
        }
        with tempfile.TemporaryDirectory(prefix="lowerbound-metrics-") as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            try:
                while self.workers or not self.ending:
                    self._look()
                    time.sleep(_POLL)
            finally:
                self._stop()
                del os.environ["PROMETHEUS_MULTIPROC_DIR"]
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    def _look(self) -> None:
        """Start as many workers as are missing."""
        for worker in list(self.workers):
            code = worker.process.poll()
            if code is not None:
                self._remove(worker, code)
            elif worker.serves:
                self.failed = 0
        missing = self.settings.workers - len(self.workers)
        if missing and not self.ending and time.monotonic() >= self.next:
            for _ in range(1 if self.failed else missing):
                self.workers.append(Worker(self.settings, self.listening))

    def _remove(self, worker: Worker, code: int) -> None:
        """Take note of the end of a worker.

        Raises:
            ResourceError: E328 if none serves and several in a row have ended before they did.
        """
        self.workers.remove(worker)
        served = worker.serves
        worker.close()
        mark_process_dead(worker.process.pid)
        if self.ending:
            return
        self.log("worker ended", "error", pid=worker.process.pid, code=code, served=served)
        if served:
            return
        self.failed += 1
        self.next = time.monotonic() + min(_MOST_PAUSE, 0.5 * 2**self.failed)
        if self.failed >= _FAILED and not any(other.serves for other in self.workers):
            raise ResourceError(
                "E328",
                f"{self.failed} workers in a row ended before they served, the last with the "
                f"code {code}",
                fix="the log above says why; try --workers 1",
            )

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._send(signal.SIGKILL if self.ending else signal.SIGTERM)
        self.ending = True

    def _load(self, number: int, frame: FrameType | None) -> None:
        self._send(signal.SIGHUP)

    def _send(self, number: int) -> None:
        for worker in list(self.workers):
            with suppress(OSError):
                worker.process.send_signal(number)

    def _stop(self) -> None:
        """End all workers, at the latest when the time to drain is over."""
        self._send(signal.SIGTERM)
        latest = time.monotonic() + self.settings.limits.drain + 2
        for worker in self.workers:
            try:
                worker.process.wait(max(0.1, latest - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def work(number: int, pipe: int, settings: Settings) -> int:
    """Serve as one of several workers, on a socket that is open already.

    Args:
        number: the file descriptor of the socket.
        pipe: the file descriptor of the pipe that says that it serves.
        settings: of the server.

    Returns:
        The exit code.
    """
    log = Log(settings.quiet)
    parent = os.getppid()
    _end_with(parent)
    listening = socket.socket(fileno=number)
    listening.setblocking(False)
    holder = Holder(settings.model, settings.name)
    try:
        holder.load()
    except LowerboundError as error:
        log("load failed", "error", code=error.code, message=error.message)
        return error.exit_code
    os.write(pipe, _SERVES)
    os.close(pipe)
    serve(settings, listening, holder, log)
    return 0


def _end_with(parent: int) -> None:
    """End this process by SIGTERM when the one that looks after it is gone, even if killed."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # noqa: PLC0415 - used on Linux only

    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)


def _main(words: list[str]) -> Any:
    # Signals that come before the loop handles them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the model is loaded in a moment
    return work(int(words[0]), int(words[1]), Settings.from_json(words[2]))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
