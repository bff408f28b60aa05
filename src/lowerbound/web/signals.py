"""Signals that a server handles in its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping


@contextlib.contextmanager
def handled(actions: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """Call functions in the running event loop when signals arrive, inside the block.

    Args:
        actions: the functions by the names of their signals; a platform may lack some of these.
    """
    loop = asyncio.get_running_loop()
    added: list[signal.Signals] = []
    for name, act in actions.items():
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, act)
            added.append(number)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or another thread
            with contextlib.suppress(ValueError):
                signal.signal(number, lambda *_, act=act: loop.call_soon_threadsafe(act))
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
