"""Progress of long jobs: a bar on a terminal, otherwise one line per minute."""

from __future__ import annotations

import re
import textwrap
import time
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from lowerbound.cli.visible import visible
from lowerbound.training.units import spell_seconds

if TYPE_CHECKING:
    from lowerbound.training.engine.history import Check, Pulse
    from lowerbound.training.engine.settings import Budget

EVERY = 60.0  # seconds between two lines if the output is not a terminal


class Voice(Protocol):
    """Receiver of the messages and the progress of a verb.

    Attributes:
        began: `time.monotonic()` at the start of the command, or None if it counts from the call.
    """

    began: float | None

    def say(self, line: str) -> None:
        """Show one line."""
        ...

    def report(self, check: Check, budget: Budget) -> None:
        """Show the progress of training."""
        ...

    def beat(self, pulse: Pulse) -> None:
        """Show how far training is between two checks."""
        ...

    def show(self, share: float, line: str) -> None:
        """Show the share of a job that is done, from 0 to 1, and a line about it."""
        ...

    def close(self) -> None:
        """Remove temporary output, such as a bar."""
        ...


class Silence:
    """A voice that shows nothing, the default in Python."""

    def __init__(self, began: float | None = None) -> None:
        self.began = began

    def say(self, line: str) -> None:
        """Do nothing."""

    def report(self, check: Check, budget: Budget) -> None:
        """Do nothing."""

    def beat(self, pulse: Pulse) -> None:
        """Do nothing."""

    def show(self, share: float, line: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


SILENT = Silence()


def done(check: Check, budget: Budget) -> float:
    """Return the share of the budget that is spent, from 0 to 1; training may stop earlier."""
    shares = [check.epoch / _epochs(check, budget)]
    if budget.seconds is not None:
        shares.append(check.seconds / budget.seconds)
    return min(1.0, max(shares))


def _epochs(check: Check, budget: Budget) -> float:
    """Return the largest number of epochs that the budget allows."""
    per_epoch = check.step / check.epoch
    return budget.total(per_epoch) / per_epoch


def status(check: Check, budget: Budget) -> str:
    """Return the state of training in one line."""
    return (
        f"epoch {check.epoch:.0f}/{_epochs(check, budget):.0f}  {results(check)}  "
        f"{spell_speed(check.rows_per_second)}"
    )


def results(check: Check) -> str:
    """Return the bounds and the latents in use at a check; log p alone without latents."""
    told = f"{check.train_elbo:.2f} (valid {check.valid_bound:.2f})"
    if not check.latent:  # a chain of columns
        return f"log p {told}"
    return f"ELBO {told}  dims used {check.active}/{check.latent}"


def remaining(pulse: Pulse) -> str:
    """Return the pace of training and the longest time left in one line."""
    return (
        f"step {pulse.step:,}/{pulse.steps:,}, epoch {pulse.epoch:.1f}, "
        f"{spell_speed(pulse.rows / max(pulse.seconds_per_step, 1e-9))}, "
        f"at most {spell_seconds(pulse.seconds_left)} of training left"
    )


def spell_speed(speed: float) -> str:
    """Return rows per second as short text, such as 12k rows/s."""
    if speed >= 1e6:
        return f"{speed / 1e6:.1f}M rows/s"
    return f"{speed / 1e3:.0f}k rows/s" if speed >= 1e4 else f"{speed:.0f} rows/s"


def hanging(line: str, width: int) -> str:
    """Wrap a long line at spaces and indent the rest to the text after its label.

    Lines that begin with "$ " are commands to copy and are not wrapped.
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
    """Print lines, wrapped to the width of the console; paths are not broken."""
    for line in visible(text).split("\n"):
        broken = hanging(line, console.width)
        console.print(broken, markup=False, highlight=False, soft_wrap=True)


class Plain:
    """A voice that prints one line per minute, for logs."""

    def __init__(self, console: Console, began: float | None = None) -> None:
        self._console, self.began = console, began
        self._next = time.monotonic() + EVERY
        self._latest = ""  # the last check; lines of the pace repeat its results

    def say(self, line: str) -> None:
        """Print the line."""
        _print(self._console, line)

    def report(self, check: Check, budget: Budget) -> None:
        """Print the state of training, if a minute has passed."""
        self._latest = f"; {results(check)}"
        self.show(done(check, budget), status(check, budget))

    def beat(self, pulse: Pulse) -> None:
        """Print how far training is, if a minute has passed."""
        self.show(pulse.share, f"{remaining(pulse)}{self._latest}")

    def show(self, share: float, line: str) -> None:
        """Print the line, if a minute has passed."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        self.say(f"{share:4.0%}  {line}")

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A voice with a progress bar that disappears when the job is done."""

    def __init__(self, console: Console, began: float | None = None) -> None:
        self._console, self.began = console, began
        self._latest = ""
        self._progress: Progress | None = None
        self._task: Any = None

    def say(self, line: str) -> None:
        """Print the line above the bar."""
        _print(self._console, line)

    def report(self, check: Check, budget: Budget) -> None:
        """Move the bar."""
        self._latest = f"; {results(check)}"
        self.show(done(check, budget), status(check, budget))

    def beat(self, pulse: Pulse) -> None:
        """Move the bar, and show the time left."""
        left = f"{spell_seconds(pulse.seconds_left)} left"
        speed = spell_speed(pulse.rows / max(pulse.seconds_per_step, 1e-9))
        self.show(pulse.share, f"epoch {pulse.epoch:.1f}, {speed}, {left}{self._latest}")

    def show(self, share: float, line: str) -> None:
        """Move the bar."""
        if self._progress is None:
            self._progress = _bar(self._console)
            self._task = self._progress.add_task("", total=1.0)
            self._progress.start()
        self._progress.update(self._task, completed=share, description=visible(line))

    def close(self) -> None:
        """Remove the bar."""
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
