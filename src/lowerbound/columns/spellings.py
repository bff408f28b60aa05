"""Values spelled as text: numbers, dates, times of day, durations, intervals, truth values."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_NUMBER = re.compile(NUMBER)
_ZERO_LED = re.compile(r"\s*[+-]?0\d")
_MOMENT = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"([T ](?P<hour>\d\d)(:?(?P<minute>\d\d)(:?(?P<second>\d\d)([.,](?P<fraction>\d{1,9}))?)?)?"
    r" ?(?P<zone>Z|[+-]\d\d(:?\d\d)?)?)?"
)
_CLOCK = r"(?P<hour>\d+):(?P<minute>\d\d)(:(?P<second>\d\d)(\.(?P<fraction>\d{1,9}))?)?"
_INTERVAL = re.compile(r"\s*([\[(]) *(.+?), *(.+?) *([\])])\s*")
_TIME = re.compile(_CLOCK)
_SPAN = re.compile(rf"((?P<days>-?\d+) days?,? ?)?(?P<sign>[+-]?)({_CLOCK})?")

DAY = 86_400
NANO = 10**9
TRUTH = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}
BARE_TRUTH = {word: TRUTH[word] for word in ("true", "false", "1", "0")}


def number(word: str) -> Decimal | None:
    """Return the number that a text spells, or None."""
    return Decimal(word.strip()) if _NUMBER.match(word) else None


def is_zero_led(word: str) -> bool:
    """Return whether a text begins with a zero and a further digit, as codes such as 007 do."""
    return bool(_ZERO_LED.match(word))


def moment(word: str) -> int | None:
    """Return the nanoseconds since 1970 of a date in ISO 8601; naive ones count as UTC."""
    found = _MOMENT.fullmatch(word.strip())
    if not found:
        return None
    try:
        day = dt.date.fromisoformat(found["day"]).toordinal() - dt.date(1970, 1, 1).toordinal()
    except ValueError:  # there is no such day
        return None
    at = day * DAY * NANO + _clock(found)
    return at - offset(found["zone"] or "Z") * NANO


def offset(zone: str) -> int:
    """Return the seconds by which a zone such as Z or +02:00 is ahead of UTC."""
    if zone == "Z":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -seconds if zone[0] == "-" else seconds


def time_of_day(word: str) -> int | None:
    """Return the nanoseconds since midnight of a time such as 08:30 or 08:30:00.25, or None."""
    found = _TIME.fullmatch(word.strip())
    return _clock(found) if found and int(found["hour"]) < 24 else None


def span(word: str) -> int | None:
    """Return the nanoseconds of a duration as pandas writes it, `1 days 02:00:00`, or None."""
    found = _SPAN.fullmatch(word.strip())
    if not found or not (found["days"] or found["hour"]):
        return None
    clock = _clock(found)
    return int(found["days"] or 0) * DAY * NANO + (-clock if found["sign"] == "-" else clock)


def interval(word: str) -> tuple[object, ...] | None:
    """Return the brackets and the ends of an interval such as (0, 1.5] of numbers or moments."""
    found = _INTERVAL.fullmatch(word)
    if not found:
        return None
    ends = (
        next((at for read in (number, moment, span) if (at := read(side)) is not None), side)
        for side in found.group(2, 3)
    )
    return (found[1], *ends, found[4])


def _clock(found: re.Match[str]) -> int:
    """Return the nanoseconds of the hour, minute, second and fraction of a match."""
    parts = [int(found[name] or 0) for name in ("hour", "minute", "second")]
    seconds = parts[0] * 3600 + parts[1] * 60 + parts[2]
    return seconds * NANO + int((found["fraction"] or "0").ljust(9, "0"))
