"""Delay Ctrl-C and SIGTERM until a training step is complete."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class DelayedSignals:
    """A context manager that delays SIGINT and SIGTERM until `deliver`.

    A second signal is delivered at once. Without the delay, a step interrupted in the middle would
    leave inconsistent weights, moments and averages, which cannot be saved as a checkpoint.
    Outside the main thread, and for signals without a Python handler, it does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._waiting: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> DelayedSignals:
        """Install the delaying handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):  # not ignored, and not the system's own
                    self._before[number] = handler
                    signal.signal(number, self._hold)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the previous handlers; deliver a waiting signal unless an error was raised."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.deliver()

    @property
    def waiting(self) -> bool:
        """Return True if a signal is waiting."""
        return self._waiting is not None

    def deliver(self) -> None:
        """Call the previous handler of the waiting signal, if there is one."""
        if self._waiting is None:
            return
        number, frame = self._waiting
        self._waiting = None
        self._before[number](number, frame)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._waiting is None:
            self._waiting = number, frame
        else:
            self._before[number](number, frame)
