"""How a long job tells the terminal how it goes: a bar on a terminal, else a line a minute."""

from __future__ import annotations

import re
import textwrap
import time
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from lowerbound.training.engine.history import Check
    from lowerbound.training.engine.settings import Budget

EVERY = 60.0  # seconds between two lines where there is no terminal


class Voice(Protocol):
    """What a verb says while it works."""

    def say(self, line: str) -> None:
        """Pass on one line."""
        ...

    def report(self, check: Check, budget: Budget) -> None:
        """Pass on how training goes."""
        ...

    def show(self, share: float, line: str) -> None:
        """Pass on which share of a job is done, and what more is to be said of it."""
        ...

    def close(self) -> None:
        """Take away what is not to stay."""
        ...


class Silence:
    """Say nothing: the voice in Python."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def report(self, check: Check, budget: Budget) -> None:
        """Do nothing."""

    def show(self, share: float, line: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


SILENT = Silence()


def done(check: Check, budget: Budget) -> float:
    """Return the share of the budget that is spent; training may stop before all of it is."""
    shares = [check.epoch / _epochs(check, budget)]
    if budget.seconds is not None:
        shares.append(check.seconds / budget.seconds)
    return min(1.0, max(shares))


def _epochs(check: Check, budget: Budget) -> float:
    """Return the passes at most: the budget's, or what its limits on steps come to."""
    per_epoch = check.step / check.epoch
    return budget.total(per_epoch) / per_epoch


def status(check: Check, budget: Budget) -> str:
    """Describe how training goes in one line."""
    return (
        f"epoch {check.epoch:.0f}/{_epochs(check, budget):.0f}  ELBO {check.train_elbo:.2f} "
        f"(valid {check.valid_bound:.2f})  dims used {check.active}/{check.latent}  "
        f"{spell_speed(check.rows_per_second)}"
    )


def spell_speed(speed: float) -> str:
    """Spell rows per second, short."""
    if speed >= 1e6:
        return f"{speed / 1e6:.1f}M rows/s"
    return f"{speed / 1e3:.0f}k rows/s" if speed >= 1e4 else f"{speed:.0f} rows/s"


def hanging(line: str, width: int) -> str:
    """Break a long line at spaces, the rest under the text that follows its label.

    Commands, which are there to be copied, stay whole.
    """
    if line.startswith("$ "):
        return line
    label = re.match(r"(?:[A-Za-z]+ {2,}| +|! )", line)
    indent = " " * (len(label[0]) if label else 0)
    return textwrap.fill(
        line,
        max(width, 40),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def _print(console: Console, text: str) -> None:
    """Print lines as they are, but for their length; paths stay whole."""
    for line in text.split("\n"):
        broken = hanging(line, console.width)
        console.print(broken, markup=False, highlight=False, soft_wrap=True)


class Plain:
    """One line a minute, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = time.monotonic() + EVERY

    def say(self, line: str) -> None:
        """Print the line."""
        _print(self._console, line)

    def report(self, check: Check, budget: Budget) -> None:
        """Print where training stands, if a minute has passed."""
        self.show(done(check, budget), status(check, budget))

    def show(self, share: float, line: str) -> None:
        """Print the line, if a minute has passed."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        self.say(f"{share:4.0%}  {line}")

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A bar that goes away when the job is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: Any = None

    def say(self, line: str) -> None:
        """Print the line above the bar."""
        _print(self._console, line)

    def report(self, check: Check, budget: Budget) -> None:
        """Move the bar."""
        self.show(done(check, budget), status(check, budget))

    def show(self, share: float, line: str) -> None:
        """Move the bar."""
        if self._progress is None:
            self._progress = _bar(self._console)
            self._task = self._progress.add_task("", total=1.0)
            self._progress.start()
        self._progress.update(self._task, completed=share, description=line)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        console=console,
        transient=True,
    )
