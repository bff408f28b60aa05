"""The commands of the command line as functions: ``commands.fit(...)`` returns a `Result`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowerbound.cli.verbs import VERBS


def __getattr__(name: str) -> Callable[..., Any]:
    if name in VERBS:
        return VERBS[name].load()
    raise AttributeError(name)
