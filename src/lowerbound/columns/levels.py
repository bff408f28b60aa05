"""Levels of a column, found in every spelling of the same value."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from lowerbound.columns import spellings
from lowerbound.columns.arrow import is_bytes, is_moment, is_text, nanoseconds, pc
from lowerbound.columns.dates import find_format, seconds
from lowerbound.errors import DataError

_WHOLE_DIGITS = 40  # of a number that is compared digit by digit; longer ones as float64


class Known:
    """The levels of a column, found in every spelling of the same value.

    1, 1.0, "1", " 1" and True are the same level, and so are dates, times of day and durations
    in other types, units and time zones, and intervals of equal ends. An equal spelling comes
    first; any other way to read a value counts only if a single level reads so. Therefore "1.1"
    and "1.10" are two levels of a column that has both, and "007" is the number 7, but not the
    text "7".

    Args:
        words: the levels, as text.
        kind: the Arrow type that they were read from.
    """

    def __init__(self, words: Sequence[str], kind: pa.DataType) -> None:
        self.words, self.kind = words, _plain_type(kind)
        self._place = {word: code for code, word in enumerate(words)}
        self._tables: dict[str, dict[Hashable, int]] = {}

    def find(self, words: Sequence[str | None], kind: pa.DataType) -> list[int]:
        """Return the position of the level that each word means, -1 for none.

        Args:
            words: distinct values as text, as `lowerbound.columns.arrow.levels` returns them.
            kind: the Arrow type that they come from.
        """
        kind = _plain_type(kind)
        # The text of a duration is a number of ticks, which says nothing without their unit.
        apart = pa.types.is_duration(kind) and pa.types.is_duration(self.kind)
        place = {} if apart and kind != self.kind else self._place
        found = [-1 if word is None else place.get(word, -1) for word in words]
        strange = [i for i, code in enumerate(found) if code < 0 and words[i] is not None]
        for i in strange:
            found[i] = self._other_spelling(str(words[i]), kind)
        left = [i for i in strange if found[i] < 0]
        if left and (is_text(kind) or is_text(self.kind)):
            dates = self._of_local_dates([str(words[i]) for i in left], kind)
            for i, code in zip(left, dates, strict=True):
                found[i] = code
        return found

    def _other_spelling(self, word: str, kind: pa.DataType) -> int:
        for name, read in self._views(kind):
            key = read(word, kind)
            code = -1 if key is None else self._table(name, read).get(key, -1)
            if code >= 0 and (name != "float32" or self._widened(word, code, kind)):
                return code
        return -1

    def _views(self, kind: pa.DataType) -> Iterator[tuple[str, _Reader]]:
        """Yield the ways to read values, the strictest first."""
        yield "text", _text
        yield "interval", _interval
        both_text = is_text(kind) and is_text(self.kind)
        yield "number", _number
        if not both_text:
            yield "any number", _any_number
        yield "moment", _moment
        yield "time", _time
        yield "span", _span
        yield "float64", _float64
        yield "float32", _float32
        if pa.types.is_float16(kind) or pa.types.is_float16(self.kind):
            yield "float16", _float16
        yield "truth", self._truth

    def _table(self, name: str, read: _Reader) -> dict[Hashable, int]:
        """Return the level of each reading that a single level has."""
        if name not in self._tables:
            table: dict[Hashable, int] = {}
            for code, word in enumerate(self.words):
                key = read(word, self.kind)
                if key is not None:
                    table[key] = -1 if key in table else code
            self._tables[name] = table
        return self._tables[name]

    def _widened(self, word: str, code: int, kind: pa.DataType) -> bool:
        """Return whether one of two numbers that are equal as float32 can come from float32."""
        if any(pa.types.is_float32(each) for each in (kind, self.kind)):
            return True
        narrow = _float32(word, kind)
        numbers = _float64(word, kind), _float64(self.words[code], self.kind)
        return narrow in numbers and not float(narrow or 0.0).is_integer()

    @cached_property
    def _truths(self) -> Mapping[str, bool]:
        """The words for true and false; yes, y, t and on are some only where all levels are."""
        every = all(_lower(word, self.kind) in spellings.TRUTH for word in self.words)
        return spellings.TRUTH if every else spellings.BARE_TRUTH

    def _truth(self, word: str, kind: pa.DataType) -> bool | None:
        return self._truths.get(_lower(word, kind))

    def _of_local_dates(self, words: list[str], kind: pa.DataType) -> list[int]:
        """Return the levels that words mean where one side is text of dates not in ISO 8601."""
        own, given = _moments(self.words, self.kind), _moments(words, kind)
        if own is None or given is None:
            return [-1] * len(words)
        table: dict[int, int] = {}
        for code, at in enumerate(own):
            table[at] = -1 if at in table else code
        return [table.get(at, -1) for at in given]


def _plain_type(kind: pa.DataType) -> pa.DataType:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.large_string() if is_bytes(kind) else kind


_Reader = Callable[[str, pa.DataType], Hashable | None]


def _text(word: str, kind: pa.DataType) -> str | None:
    return word.strip() if is_text(kind) else None


def _interval(word: str, kind: pa.DataType) -> tuple[object, ...] | None:
    return spellings.interval(word) if is_text(kind) else None


def _lower(word: str, kind: pa.DataType) -> str:
    """Return a number in its shortest form, and other text in lower case."""
    value = _number(word, kind)
    return word.strip().casefold() if value is None else str(value)


def _any_number(word: str, kind: pa.DataType) -> object:
    if pa.types.is_boolean(kind):
        return 1 if word == "true" else 0
    if pa.types.is_duration(kind):
        return None
    value = spellings.number(word)
    if value is None or not value:
        return value if value is None else 0
    small = value.as_tuple()
    exponent = small.exponent if isinstance(small.exponent, int) else 0
    if len(small.digits) + abs(exponent) > _WHOLE_DIGITS:
        return float(value)
    # The remainder of a division by 1 is an error where the number has more than 28 digits.
    return int(value) if value == value.to_integral_value() else value.normalize()


def _number(word: str, kind: pa.DataType) -> object:
    return None if is_text(kind) and spellings.is_zero_led(word) else _any_number(word, kind)


def _float64(word: str, kind: pa.DataType) -> float | None:
    value = _number(word, kind)
    return None if value is None else float(value)  # pyright: ignore[reportArgumentType]


def _float32(word: str, kind: pa.DataType) -> float | None:
    return _narrow(word, kind, np.float32)


def _float16(word: str, kind: pa.DataType) -> float | None:
    return _narrow(word, kind, np.float16)


def _narrow(word: str, kind: pa.DataType, width: type[np.floating]) -> float | None:
    value = _float64(word, kind)
    if value is None:
        return None
    with np.errstate(over="ignore", under="ignore"):
        return float(width(value))


def _moment(word: str, kind: pa.DataType) -> int | None:
    return spellings.moment(word) if is_text(kind) or is_moment(kind) else None


def _time(word: str, kind: pa.DataType) -> int | None:
    return spellings.time_of_day(word) if is_text(kind) or pa.types.is_time(kind) else None


def _span(word: str, kind: pa.DataType) -> int | None:
    if pa.types.is_duration(kind):
        return int(word) * int(nanoseconds(kind))
    return spellings.span(word) if is_text(kind) else None


def _moments(words: Sequence[str], kind: pa.DataType) -> list[int] | None:
    """Return the microseconds since 1970 of dates in the one format that all have, or None."""
    if is_moment(kind):
        return [(spellings.moment(word) or 0) // 1000 for word in words]
    if not is_text(kind):
        return None
    texts = pa.array(words, pa.large_string())
    try:
        pattern = find_format(texts, "")
    except DataError:  # day first or month first
        return None
    if pattern is None:
        return None
    at = seconds(texts.dictionary_encode(), "", pattern)
    return [round(each * 1e6) for each in at.tolist()]


def joined(cells: pa.Array) -> pa.Array:
    """Return text whose spellings of one level, " a" and "a", or "-0" and "0", are made equal.

    The most frequent spelling is kept. Columns of other types, and those where nothing has to be
    joined, are returned as they are.
    """
    if not pa.types.is_dictionary(cells.type) or not len(cells.dictionary):
        return cells
    bare = pc.utf8_trim_whitespace(cells.dictionary)
    keys = pc.replace_substring_regex(bare, r"^-(0+\.?0*|\.0+)$", r"\1").dictionary_encode()
    if len(keys.dictionary) == len(bare):
        return cells
    codes = np.asarray(cells.indices.cast(pa.int64()).fill_null(-1))
    groups = np.asarray(keys.indices)
    counts = np.bincount(codes[codes >= 0], minlength=len(bare))
    negative = ~np.asarray(pc.equal(bare, keys.dictionary.take(keys.indices)))
    best = np.full(len(keys.dictionary), -1)
    for word in np.lexsort((-counts, negative)):  # the most frequent first, negative zeros last
        if best[groups[word]] < 0:
            best[groups[word]] = word
    fresh = np.where(codes >= 0, groups[codes], -1).astype(np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(fresh, mask=fresh < 0), cells.dictionary.take(pa.array(best))
    )
