"""The time limit of a fit, which covers everything from its start to the saved model."""

from __future__ import annotations

import math
import time


class TimeLimit:
    """Counts the time that a fit has used, together with that of runs that it resumes.

    Args:
        seconds: largest time of the fit; None is no limit.
        began: `time.monotonic()` at the start of the fit; None is now.

    >>> TimeLimit(None).left()
    inf
    """

    def __init__(self, seconds: float | None = None, began: float | None = None) -> None:
        self.seconds = seconds
        self._began = time.monotonic() if began is None else began
        self._before = 0.0

    def used(self) -> float:
        """Return the seconds since the start, including those of earlier runs."""
        return self._before + time.monotonic() - self._began

    def left(self) -> float:
        """Return the seconds left, which may be negative; infinity without a limit."""
        return math.inf if self.seconds is None else self.seconds - self.used()

    def within(self, seconds: float | None) -> TimeLimit:
        """Return the limit of a part that begins now: `seconds`, or the time that is left."""
        left = max(0.0, self.left())
        most = left if seconds is None else min(seconds, left)
        return TimeLimit(None if most == math.inf else most)

    def resumed(self, used: float) -> float:
        """Count the time of an interrupted run, and return the seconds that this adds.

        Args:
            used: `used()` when the run was last saved; earlier stages are part of it.
        """
        more = max(0.0, used - self._before)
        self._before += more
        return more
