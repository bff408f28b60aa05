"""A progress bar of a fit in a notebook."""

from __future__ import annotations

import html
import sys
import time
from typing import TYPE_CHECKING, Any

from lowerbound.training.units import spell_seconds

if TYPE_CHECKING:
    from lowerbound.training.engine.history import Check, Pulse
    from lowerbound.training.engine.settings import Budget

_KERNEL = "ZMQInteractiveShell"  # the shell of notebooks; a terminal has another


def in_notebook() -> bool:
    """Return whether this process runs the cells of a notebook."""
    shell = sys.modules.get("IPython")  # it is imported by the notebook, or not at all
    found = None if shell is None else shell.get_ipython()
    return type(found).__name__ == _KERNEL


class NotebookBar:
    """A bar with the state of a fit, which is replaced in place.

    Args:
        shell: the module IPython; by default the one that runs this notebook.
    """

    def __init__(self, shell: Any = None) -> None:
        self._display = (shell or sys.modules["IPython"]).display
        self._handle, self._share, self._told = None, 0.0, ""
        self._began = time.monotonic()

    def beat(self, pulse: Pulse) -> None:
        """Show how far training is."""
        self._share = pulse.share
        self._show(f"epoch {pulse.epoch:.1f}, at most {spell_seconds(pulse.seconds_left)} left")

    def report(self, check: Check, budget: Budget) -> None:
        """Show the results of a check on the held-out rows."""
        self._told = f"held-out bound {check.valid_bound:.2f} nats"
        if check.latent:
            self._told += f", {check.active} of {check.latent} latents in use"
        self._show(f"epoch {check.epoch:.1f}")

    def close(self) -> None:
        """Show that training is done."""
        self._share = 1.0
        self._show(f"done in {spell_seconds(time.monotonic() - self._began)}")

    def _show(self, now: str) -> None:
        told = html.escape(", ".join(filter(None, (now, self._told))))
        bar = f'<progress value="{self._share:.3f}" max="1" aria-label="training"></progress>'
        page = {"text/html": f"{bar} {told}", "text/plain": f"{self._share:.0%} {told}"}
        if self._handle is None:
            self._handle = self._display.display(page, raw=True, display_id=True)
        else:
            self._handle.update(page, raw=True)
