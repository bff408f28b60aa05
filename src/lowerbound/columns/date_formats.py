"""Dates written as text: find the format of a column, read it, and write it.

A format is a pattern of `strftime`. Names of months are English, whatever the locale of the
process. Patterns may have these additions:

- ``%-d``, ``%-m``, ``%-H``, ``%-I``: without a leading zero (reading accepts both).
- ``%^b``, ``%^B``, ``%^p``, ``%#b``, ``%#B``, ``%#p``: in upper or lower case.
- ``%1962y``: two digits for a year from 1962 to 2061. Plain ``%y`` means 1969 to 2068.
- ``%3f``: three digits of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lowerbound.columns.arrow import pc

COMPACT = "%Y%m%d"
_DAY = 86_400
_FIRST_OF_TWO_DIGITS = 1969
_MARGIN = 10  # years before the first seen that two digits may still mean
_ENOUGH = 20  # words that rule out most formats before the whole column is tried
_MONTHS = "January February March April May June July August September October November December"
_MONTHS = _MONTHS.split()
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_LONGEST = 100  # letters of a format
_TOKEN = re.compile(r"%(?P<flag>[-^#]?)(?P<number>\d*)(?P<letter>[A-Za-z])")
_MONTH = "|".join([*_MONTHS, *(name[:3] for name in _MONTHS), "Sept"])
_WEEKDAY = "|".join([*_DAYS, *(name[:3] for name in _DAYS)])
_CENTURIES = (1900, 2100)  # of dates without separators, which could be other numbers
_READ = {
    "Y": r"\d{4}",
    "y": r"\d{2}",
    "m": r"\d{1,2}",
    "d": r"\d{1,2}",
    "H": r"\d{1,2}",
    "I": r"\d{1,2}",
    "M": r"\d{2}",
    "S": r"\d{2}",
    "f": r"\d{1,9}",
    "b": _MONTH,
    "B": _MONTH,
    "a": _WEEKDAY,
    "A": _WEEKDAY,
    "p": r"[AP]\.?M\.?",
    "z": r"Z|UTC|GMT|[+-]\d{2}:?\d{2}",
}


class _Part(NamedTuple):
    """A field of a format, or the text between two fields."""

    letter: str  # empty for text
    flag: str = ""
    number: str = ""
    text: str = ""

    @property
    def digits(self) -> bool:
        return self.letter != "" and self.letter in "YymdHIMSf"


def _parts(pattern: str) -> list[_Part]:
    """Split a format into fields and the text between them."""
    found, at = [], 0
    for token in _TOKEN.finditer(pattern):
        if token.start() > at:
            found.append(_Part("", text=pattern[at : token.start()]))
        found.append(_Part(token["letter"], token["flag"], token["number"]))
        at = token.end()
    return [*found, _Part("", text=pattern[at:])] if at < len(pattern) else found


def is_format(pattern: str) -> bool:
    """Return whether a text is a format that dates can be read by: it has a year and a month."""
    parts = _parts(pattern)
    fields = [part for part in parts if part.letter]
    letters = [part.letter for part in fields]
    return (
        len(pattern) <= _LONGEST
        and all(_is_field(part) for part in fields)
        and not any("%" in part.text for part in parts)
        and len(set(letters)) == len(letters)
        and bool({"Y", "y"} & {*letters})
        and bool({"m", "b", "B"} & {*letters})
    )


def _is_field(part: _Part) -> bool:
    allowed = {"-": "mdHI", "^": "bBaAp", "#": "bBaAp"}.get(part.flag, part.letter)
    numbers = {"y": r"(\d{4})?", "f": r"[1-9]?"}.get(part.letter, "")
    fits = re.fullmatch(numbers, part.number) is not None
    return part.letter in _READ and part.letter in allowed and fits


def only_digits(pattern: str) -> bool:
    """Return whether text in this format is a whole number."""
    return all(part.digits for part in _parts(pattern))


@lru_cache(maxsize=256)
def _regex(pattern: str) -> str:
    """Return the regular expression that reads a format, with a group for each field."""
    parts = _parts(pattern)
    pieces = []
    for i, part in enumerate(parts):
        if not part.letter:
            pieces.append(re.sub(r"\\? +", " +", re.escape(part.text)))
            continue
        near = [parts[j] for j in (i - 1, i + 1) if 0 <= j < len(parts)]
        together = part.digits and any(each.digits for each in near)
        expression = r"\d{2}" if together and part.letter in "mdHI" else _READ[part.letter]
        pieces.append(f"(?P<{part.letter}>{expression})")
    return "(?i)^" + "".join(pieces) + "$"


def read(words: pa.Array, pattern: str) -> pa.Array:
    """Read text as timestamps in microseconds, null where it does not fit the format.

    Args:
        words: text without spaces around it.
        pattern: the format.
    """
    found = pc.extract_regex(words, _regex(pattern))
    good = np.asarray(pc.is_valid(found))
    fields = {found.type.field(i).name: found.field(i) for i in range(found.type.num_fields)}
    part = {each.letter: each for each in _parts(pattern) if each.letter}

    def number(letter: str, default: int = 0) -> np.ndarray:
        if letter not in fields:
            return np.full(len(words), default)
        text = pc.if_else(pa.array(good), fields[letter], pa.scalar("0", fields[letter].type))
        return np.asarray(text.cast(pa.int64()))

    if "y" in fields:
        first = int(part["y"].number or _FIRST_OF_TWO_DIGITS)
        year = first + (number("y") - first) % 100
    else:
        year = number("Y")
    name = "b" if "b" in fields else "B"
    month = _month(fields[name], good) if name in fields else number("m")
    day, hour = number("d", 1), number("H")
    if "I" in fields:
        clock = number("I")
        good = good & (clock >= 1) & (clock <= 12)
        afternoon = _starts(fields["p"], "p") if "p" in fields else np.zeros(len(words), bool)
        hour = clock % 12 + 12 * afternoon
    minute, second = number("M"), number("S")
    good = good & (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    good &= (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(good, (year - 1970) * 12 + month - 1, 0)
    start = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    after = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    good &= day <= after - start
    micro = ((start + day - 1) * _DAY + hour * 3600 + minute * 60 + second) * 10**6
    if "f" in fields:
        micro = micro + _microseconds(fields["f"], good)
    if "z" in fields:
        micro = micro - _offset(fields["z"], good) * 10**6
    return pa.array(micro, mask=~good).cast(pa.timestamp("us"))


def _month(names: pa.Array, good: np.ndarray) -> np.ndarray:
    short = pa.array([name[:3].lower() for name in _MONTHS], names.type)
    found = pc.index_in(pc.utf8_lower(pc.utf8_slice_codeunits(names, 0, 3)), value_set=short)
    return np.where(good, np.asarray(found.fill_null(-1)) + 1, 0).astype(np.int64)


def _starts(words: pa.Array, letter: str) -> np.ndarray:
    return np.asarray(pc.starts_with(pc.utf8_lower(words), letter).fill_null(False))


def _microseconds(digits: pa.Array, good: np.ndarray) -> np.ndarray:
    padded = pc.utf8_slice_codeunits(pc.utf8_rpad(digits, 6, "0"), 0, 6)
    padded = pc.if_else(pa.array(good), padded, pa.scalar("0", padded.type))
    return np.asarray(padded.cast(pa.int64()))


def _offset(zones: pa.Array, good: np.ndarray) -> np.ndarray:
    """Return the offsets from UTC in seconds."""
    plain = pc.replace_substring(zones, ":", "")
    numeric = pc.match_substring_regex(plain, r"^[+-]\d{4}$").fill_null(False)
    digits = pc.if_else(
        pc.and_(numeric, pa.array(good)),
        pc.utf8_slice_codeunits(plain, 1, 5),
        pa.scalar("0000", plain.type),
    )
    hours, minutes = np.divmod(np.asarray(digits.cast(pa.int64())), 100)
    return np.where(_starts(plain, "-"), -1, 1) * (hours * 3600 + minutes * 60)


def write(moments: np.ndarray, pattern: str) -> pa.Array:
    """Write moments as text.

    Args:
        moments: (n,) seconds since 1970, NaN where missing.
        pattern: the format.

    Returns:
        (n,) strings, null where missing.
    """
    gone = np.isnan(moments)
    micro = np.rint(np.where(gone, 0.0, moments) * 1e6).astype(np.int64)
    days, rest = np.divmod(micro, _DAY * 10**6)
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    month = months.astype(np.int64) % 12
    second = rest // 10**6
    hour = second // 3600
    values = {
        "Y": dates.astype("datetime64[Y]").astype(np.int64) + 1970,
        "m": month + 1,
        "d": (dates - months).astype(np.int64) + 1,
        "H": hour,
        "I": (hour + 11) % 12 + 1,
        "M": second // 60 % 60,
        "S": second % 60,
        "f": rest % 10**6,
        "b": month,
        "a": (days + 3) % 7,
        "p": hour // 12,
        "z": np.zeros_like(days),
    }
    values |= {"y": values["Y"] % 100, "B": month, "A": values["a"]}
    pieces: list[pa.Array | pa.Scalar] = [pa.scalar("")]
    for part in _parts(pattern):
        pieces.append(_spelled(part, values[part.letter]) if part.letter else pa.scalar(part.text))
    text = pc.binary_join_element_wise(*pieces, "")
    return pc.if_else(pa.array(gone), pa.scalar(None, pa.string()), text)


def _spelled(part: _Part, values: np.ndarray) -> pa.Array:
    """Return the values of one field as text; each distinct value is spelled once."""
    distinct, codes = np.unique(values, return_inverse=True)
    words = pa.array([_spell(part, int(value)) for value in distinct], pa.string())
    return words.take(pa.array(codes.ravel()))


def _spell(part: _Part, value: int) -> str:
    letter = part.letter
    if letter in "bBaAp":
        names = {"b": _MONTHS, "B": _MONTHS, "a": _DAYS, "A": _DAYS, "p": ["AM", "PM"]}[letter]
        word = names[value][:3] if letter in "ba" else names[value]
        return {"^": word.upper(), "#": word.lower()}.get(part.flag, word)
    if letter == "z":
        return "+0000"
    if letter == "f":
        return f"{value:06d}".ljust(9, "0")[: int(part.number or 6)]
    return str(value) if part.flag == "-" else f"{value:0{4 if letter == 'Y' else 2}d}"


def written(moment: float) -> str:
    """Return a moment in seconds since 1970 as 2024-01-31."""
    return str(write(np.array([moment]), "%Y-%m-%d")[0])


# The shapes of dates, each with the orders of its fields. Separators are taken from the text.
_S, _NAME = r"[-/. ]", r"[A-Za-z]{3,9}"
_WEEK = rf"(?:(?P<a>{_WEEKDAY})(?P<s0>\.?,? ))?"
_SHAPES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (rf"\d{{4}}(?P<s1>{_S})\d{{1,2}}(?P=s1)\d{{1,2}}", ("Y1m1d",)),
    (rf"{_WEEK}\d{{1,2}}(?P<s1>{_S})\d{{1,2}}(?P=s1)\d{{4}}", ("d1m1Y", "m1d1Y")),
    (r"\d{1,2}(?P<s1>[-/.])\d{1,2}(?P=s1)\d{2}", ("d1m1y", "m1d1y", "y1m1d")),
    (rf"{_WEEK}\d{{1,2}}(?P<s1>{_S}?){_NAME}(?P<s2>\.?,? ?|[-/.])\d{{4}}", ("d1b2Y",)),
    (rf"\d{{1,2}}(?P<s1>{_S}?){_NAME}(?P<s2>[-/. ]?)\d{{2}}", ("d1b2y",)),
    (rf"{_WEEK}{_NAME}(?P<s1>\.? |[-/.])\d{{1,2}}(?P<s2>,? |,|[-/.])\d{{4}}", ("b1d2Y",)),
    (rf"\d{{4}}(?P<s1>{_S}?){_NAME}(?P<s2>{_S}?)\d{{1,2}}", ("Y1b2d",)),
    (rf"{_NAME}(?P<s1>\.?,? |[-/.])\d{{4}}", ("b1Y",)),
    (r"\d{4}(?P<s1>[-/])\d{1,2}", ("Y1m",)),
    (r"\d{1,2}(?P<s1>[-/])\d{4}", ("m1Y",)),
    (r"\d{8}", ("Ymd", "dmY", "mdY")),
)
_TIME = (
    r"(?P<s5>[T:]|,? +)(?P<H>\d{1,2})(?:(?P<s6>[:.])(?P<M>\d{2})(?:(?P=s6)(?P<S>\d{2})"
    r"(?:(?P<s7>[.,])(?P<f>\d{1,9}))?)?)?(?:(?P<s8> ?)(?P<p>[AaPp]\.?[Mm]\.?))?"
    r"(?:(?P<s9> ?)(?P<z>Z|UTC|GMT|[+-]\d{2}:?\d{2}))?"
)
_SHAPED = tuple(
    (re.compile(rf"(?:{shape})(?P<time>{_TIME})?"), orders) for shape, orders in _SHAPES
)
_CTIME = re.compile(rf"(?:{_WEEKDAY}) {_NAME} +\d{{1,2}} \d{{2}}:\d{{2}}:\d{{2}} \d{{4}}")
_RUN = re.compile(r"\d{8}(?P<s5>[T ]?)\d{4}(?P<S>\d{2})?")


def _formats(word: str) -> Iterator[str]:
    """Yield the formats that a text has the shape of."""
    if _CTIME.fullmatch(word):
        yield "%a %b %d %H:%M:%S %Y"
    if run := _RUN.fullmatch(word):
        yield COMPACT + run["s5"] + "%H%M" + "%S" * bool(run["S"])
    for shape, orders in _SHAPED:
        if match := shape.fullmatch(word):
            groups = match.groupdict()
            time = _time(groups) if groups["time"] else ""
            for order in orders if time is not None else ():
                start = f"%a{groups['s0']}" if groups.get("a") else ""
                yield start + _with_separators(order, groups) + (time or "")


def _with_separators(order: str, groups: dict[str, str | None]) -> str:
    """Return an order of fields as a format: "d1m1Y" is %d, separator 1, %m, ..."""
    return "".join((groups[f"s{c}"] or "") if c.isdigit() else f"%{c}" for c in order)


def _time(groups: dict[str, str | None]) -> str | None:
    """Return the format of the time of day; None if it is none."""
    twelve = groups["p"] is not None
    if groups["M"] is None and not twelve:
        return None
    text = (groups["s5"] or "") + ("%I" if twelve else "%H")
    text += f"{groups['s6']}%M" if groups["M"] else ""
    text += f"{groups['s6']}%S" if groups["S"] else ""
    text += f"{groups['s7']}%{len(groups['f'] or '')}f" if groups["f"] else ""
    text += f"{groups['s8']}%p" if twelve else ""
    return text + (f"{groups['s9']}%z" if groups["z"] else "")


def _candidates(words: pa.Array) -> list[str]:
    """Return the formats that the first words have the shape of."""
    some = [str(word) for word in words[:_ENOUGH].to_pylist()]
    return list(dict.fromkeys(pattern for word in some for pattern in _formats(word)))


class Fit(NamedTuple):
    """A format, and the timestamps that it reads from the words of a column."""

    pattern: str
    moments: pa.Array


def fitting(words: pa.Array) -> list[Fit]:
    """Return the formats that fit all words, in order of preference.

    Args:
        words: distinct text without spaces around it.
    """
    some = words[:_ENOUGH]
    found = [c for c in _candidates(words) if not _read_safely(some, c).null_count]
    fits = (Fit(c, _read_safely(words, c)) for c in found)
    return [fit for fit in fits if not fit.moments.null_count]


def likeliest(words: pa.Array) -> Fit | None:
    """Return the format that fits most words; None if none fits any."""
    fits = [Fit(c, _read_safely(words, c)) for c in _candidates(words)]
    best = min(fits, key=lambda fit: fit.moments.null_count, default=None)
    return None if best is None or best.moments.null_count == len(words) else best


def _read_safely(words: pa.Array, pattern: str) -> pa.Array:
    """Read words; without separators only dates of usual years, because ids look alike."""
    moments = read(words, pattern)
    parts = _parts(pattern)
    if not any(one.digits and other.digits for one, other in pairwise(parts)):
        return moments
    year = pc.year(moments)
    usual = pc.and_(pc.greater_equal(year, _CENTURIES[0]), pc.less(year, _CENTURIES[1]))
    return pc.if_else(usual, moments, pa.scalar(None, moments.type))


def styled(pattern: str, words: pa.Array) -> str:
    """Return a format that also writes as these words are written: zeros, case, centuries."""
    found = pc.extract_regex(words, _regex(pattern))
    fields = {found.type.field(i).name: found.field(i) for i in range(found.type.num_fields)}
    out = ""
    for part in _parts(pattern):
        if not part.letter:
            out += part.text
            continue
        flag, number, letter = part.flag, part.number, part.letter
        text = fields[letter].drop_null()
        if letter in "mdHI" and not flag:
            flag = "-" if pc.any(pc.equal(pc.utf8_length(text), 1)).as_py() else ""
        elif letter in "bBaAp":
            letter = _long_or_short(letter, text)
            flag = flag or _case(text)
        elif letter == "y" and not number:
            number = _first_year(np.unique(np.asarray(text.cast(pa.int64()))))
        out += f"%{flag}{number}{letter}"
    return out


def _long_or_short(letter: str, text: pa.Array) -> str:
    if letter == "p":
        return letter
    long = pc.any(pc.greater(pc.utf8_length(text), 4)).as_py()
    return letter.upper() if long else letter.lower()


def _case(text: pa.Array) -> str:
    if pc.all(pc.equal(text, pc.utf8_lower(text))).as_py():
        return "#"
    upper = pc.all(pc.equal(text, pc.utf8_upper(text))).as_py()
    return (
        "^"
        if upper and not pc.all(pc.is_in(text, pa.array(["AM", "PM"], text.type))).as_py()
        else ""
    )


def _first_year(years: np.ndarray) -> str:
    """Return the first of the hundred years that two digits mean; "" for those of POSIX.

    POSIX means 1969 to 2068. Where the years of a column run over that limit, such as 62 to 99 and
    00 to 14, they belong together: the hundred begins in the longest gap between them.
    """
    if not len(years):
        return ""
    gaps = np.diff(years, append=years[0] + 100)
    at = int(gaps.argmax())
    start = int(years[(at + 1) % len(years)])
    gap = int(gaps[at])
    split = _FIRST_OF_TWO_DIGITS % 100
    length = 100 - gap  # years from the first to the last
    crosses = start < split <= start + length and gap > 1
    if not crosses:
        return ""
    return str(1900 + start - min(_MARGIN, gap // 2))
