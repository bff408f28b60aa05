"""How a recipe's argument names one of several parts."""

from __future__ import annotations

from typing import Any

from lowerbound.errors import UsageError, nearest


def choice(argument: str, value: str, known: dict[str, Any]) -> Any:
    """Return what `value` stands for.

    Raises:
        UsageError: E241 where it stands for nothing.
    """
    if value not in known:
        close = nearest(value, known)
        raise UsageError(
            "E241",
            f"{argument} is {value!r}, which is none of {', '.join(map(repr, known))}",
            fix=f"{argument}={close or next(iter(known))!r}",
        )
    return known[value]
