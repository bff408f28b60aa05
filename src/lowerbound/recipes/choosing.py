"""Look up the part that an argument of a recipe names."""

from __future__ import annotations

from typing import Any

from lowerbound.errors import UsageError, nearest


def choice(argument: str, value: str, known: dict[str, Any]) -> Any:
    """Return `known[value]`.

    Args:
        argument: name of the recipe's argument, for the error.
        value: the name to look up.
        known: the allowed names and their parts.

    Raises:
        UsageError: E241 if `value` is not in `known`.
    """
    if value not in known:
        close = nearest(value, known)
        raise UsageError(
            "E241",
            f"{argument} must be one of {', '.join(map(repr, known))}, got {value!r}",
            fix=f"{argument}={close or next(iter(known))!r}",
        )
    return known[value]
