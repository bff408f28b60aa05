"""Ctrl-C and SIGTERM wait until a step is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Held:
    """Hold SIGINT and SIGTERM back until `deliver`; a second one goes through at once.

    A step that is broken off in the middle leaves weights, moments and average that do not belong
    together, and no checkpoint could be made of them. Outside the main thread, and for signals
    that nobody handles, nothing changes.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._waiting: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Held:
        """Take the signals."""
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
        """Give the signals back to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.deliver()

    @property
    def waiting(self) -> bool:
        """Whether a signal has come."""
        return self._waiting is not None

    def deliver(self) -> None:
        """Let the signal that came, if any, do what it would have done."""
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
