"""Parse and spell durations such as "90s" or "10m"; parse shares such as "0.1%"."""

from __future__ import annotations

import math
import re

from lowerbound.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd])\s*)+")


def seconds(value: object, name: str = "--time-limit") -> float:
    """Convert a duration to seconds: 90, "90s", "10m" or "1h30m".

    Args:
        value: a number of seconds, or text with the units ms, s, m, h and d.
        name: the option or argument to name in the error.

    Raises:
        UsageError: E231 if `value` is neither.
    """
    text = str(value).strip().lower()
    if _DURATION.fullmatch(text):
        return sum(float(n) * _UNITS[u] for n, u in re.findall(r"([\d.]+)(ms|[smhd])", text))
    return number(text, name, "a time such as 90s, 10m or 1h", "10m")


def spell_seconds(seconds: float) -> str:
    """Return a duration as text, such as 3.2 s or 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def share(value: object, name: str = "--alarm-rate") -> float:
    """Convert 0.001 or "0.1%" to a fraction.

    Args:
        value: a number, or text with or without a percent sign.
        name: the option or argument to name in the error.

    Raises:
        UsageError: E231 if `value` is neither, or is from 1 to 100 without a percent sign.
    """
    text = str(value).strip()
    wanted = "a share such as 0.1% or 0.001"
    if text.endswith("%"):
        return number(text[:-1], name, wanted, "0.1%") / 100
    found = number(text, name, wanted, "0.1%")
    if 1 <= found < 100:
        # 5 may mean 5% or be a typo for 0.5: ask rather than guess.
        raise _refusal(name, value, "a share below 1", f"{found:g}%")
    return found


def number(text: str, name: str, wanted: str, example: str) -> float:
    """Parse a finite number.

    Args:
        text: the number.
        name: the option or argument to name in the error.
        wanted: what is allowed, for the error.
        example: a valid value, for the fix.

    Raises:
        UsageError: E231 if `text` is not a finite number.
    """
    try:
        found = float(text)
    except ValueError:
        raise _refusal(name, text, wanted, example) from None
    if not math.isfinite(found):
        raise _refusal(name, text, wanted, example)
    return found


def _refusal(name: str, value: object, wanted: str, example: str) -> UsageError:
    given = f"{name} {example}" if name.startswith("-") else f"{name}={example!r}"
    return UsageError("E231", f"{name} must be {wanted}, got {value!r}", fix=given, flag=name)
