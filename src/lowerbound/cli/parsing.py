"""Parse values of flags such as 10m, 0.1% or zip=categorical; each bad value is one error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lowerbound.errors import LowerboundError, UsageError, nearest
from lowerbound.training import units


def refusal(flag: str, value: object, wanted: str, fix: str) -> UsageError:
    """Return the error for a value that a flag cannot have."""
    return UsageError("E231", f"{flag} must be {wanted}, got {value!r}", fix=fix, flag=flag)


def number(value: object, flag: str) -> float:
    """Read a number such as 0.003 or 3e-3."""
    return units.number(str(value).strip(), flag, "a number such as 0.003", "0.003")


def whole(value: object, flag: str) -> int:
    """Read a whole number."""
    try:
        if isinstance(value, bool) or int(str(value)) != float(str(value)):
            raise ValueError
        return int(str(value))
    except ValueError:
        raise refusal(flag, value, "a whole number", f"{flag} 10") from None


def at_least(value: object, low: int, flag: str) -> int:
    """Read a whole number of at least `low`."""
    number = whole(value, flag)
    if number < low:
        raise UsageError(
            "E240", f"{flag} must be at least {low}, got {number}", fix=f"{flag} {max(low, 1)}"
        )
    return number


def size(value: object, flag: str) -> tuple[int, int]:
    """Read 64 or "64x96" as (height, width)."""
    parts = str(value).lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise refusal(flag, value, "a size such as 64 or 64x96 (height x width)", f"{flag} 64")
    return int(parts[0]), int(parts[-1])


def one_of(value: object, known: Sequence[str], flag: str) -> None:
    """Raise an error unless `value` is one of the known words."""
    if value not in known:
        near = nearest(str(value), known) or known[-1]
        raise UsageError(
            "E241",
            f"{flag} must be one of {', '.join(known)}, got {value!r}",
            fix=f"{flag} {near}",
        )


def latent(value: object, flag: str = "--latent") -> int | str:
    """Read a whole number, or "auto"."""
    return "auto" if value == "auto" else whole(value, flag)


def text(value: object, flag: str) -> str:
    """Read a word."""
    if not isinstance(value, str) or not value:
        raise refusal(flag, value, "a word", f"{flag} WORD")
    return value


def texts(value: object, flag: str) -> tuple[str, ...]:
    """Read one or several texts."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(i, str) and i for i in items):
        raise refusal(flag, value, "a list of names", f"{flag} NAME")
    return tuple(items)


def pairs(value: object, flag: str, example: str, *, commas: bool = False) -> dict[str, Any]:
    """Read "key=value" texts, or return a mapping unchanged; each key may occur once."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence):
        raise refusal(flag, value, "key=value", f"{flag} {example}")
    if commas:
        items = [part for item in items for part in _split(str(item))]
    found: dict[str, Any] = {}
    for item in items:
        key, equals, word = str(item).partition("=")
        if not (equals and key and word):
            raise refusal(flag, item, f"like {example}", f"{flag} {example}")
        if key in found:
            raise UsageError(
                "E236", f"{flag} names {key!r} twice: {found[key]!r} and {word!r}", fix="keep one"
            )
        found[key] = word
    return found


def _split(item: str) -> list[str]:
    """Split "a=x,b=y" at commas that are followed by a key, so that values may contain commas."""
    return re.split(r",(?=[^,=]+=)", item)


def value_of(word: object) -> Any:
    """Read a value of --set: as JSON if it is valid JSON, otherwise as text."""
    if not isinstance(word, str):
        return word
    try:
        return json.loads(word, parse_constant=lambda name: name)
    except ValueError:
        return word


def all_of(
    given: Mapping[str, object], readers: Mapping[str, Callable[[Any], Any]]
) -> tuple[dict[str, Any], list[LowerboundError]]:
    """Read every value and collect all errors instead of stopping at the first."""
    values: dict[str, Any] = {}
    problems: list[LowerboundError] = []
    for name, value in given.items():
        try:
            values[name] = readers[name](value)
        except LowerboundError as error:
            problems.append(error)
    return values, problems
