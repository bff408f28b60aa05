"""Dates and times: a bijection to week, weekday and hour."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from lowerbound.columns.arrow import (
    BadValues,
    arrow_type,
    is_moment,
    is_number,
    is_text,
    pc,
    plain,
    row_of,
    snippet,
    storage,
)
from lowerbound.columns.base import (
    LIMIT,
    Asked,
    Column,
    Days,
    Part,
    Scale,
    Tally,
    no_value,
    one_cell,
    shown,
)
from lowerbound.columns.calendar import Calendar, Style, positions
from lowerbound.columns.date_formats import (
    COMPACT,
    fitting,
    is_format,
    likeliest,
    only_digits,
    read,
    styled,
    write,
    written,
)
from lowerbound.errors import DataError

DAY, HOUR = 86_400, 3_600
_YEAR_1, _YEAR_9999 = -62_135_596_800, 253_402_300_799  # first and last second of most calendars
MOST_ATOMS = 10
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, and weeks begin on Monday
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ISO = "ISO 8601"


def seconds(cells: pa.Array, column: str, pattern: str | None) -> np.ndarray:
    """Return seconds since 1970 (UTC, or the wall clock of naive times), NaN where missing.

    Args:
        cells: a date, timestamp or text column.
        column: its name, for messages.
        pattern: format of text: `ISO`, a format of `date_formats`, or None to infer it. Text that
            does not fit it is read as ISO 8601.

    Raises:
        DataError: E032 for values that are not dates, E041 if day and month cannot be told apart.
    """
    if is_number(cells.type) and not pa.types.is_boolean(cells.type):
        return seconds(digits(cells), column, _for_digits(pattern))
    if pa.types.is_dictionary(cells.type):
        pattern = pattern or find_format(cells.dictionary, column) or _likeliest(cells.dictionary)
        parsed = _parse(cells.dictionary, pattern)
        if len(parsed) and parsed.null_count == len(parsed):  # all may be in another format
            pattern = find_format(cells.dictionary, column)
            parsed = parsed if pattern is None else _parse(cells.dictionary, pattern)
        codes = np.asarray(cells.indices.cast(pa.int64()).fill_null(-1))
        table = np.append(seconds(parsed, column, None), np.nan)
        wrong = np.isnan(table[codes]) & (codes >= 0)
        if wrong.any():
            first = row_of(wrong)
            raise BadValues.at(
                wrong,
                "not a date",
                "E032",
                f"column {snippet(column)} must be dates, but row {first:,} holds "
                f"{snippet(cells.dictionary[int(codes[first - 1])])} "
                f"({int(wrong.sum()):,} of {len(codes):,} rows)",
                fix="write dates as 2024-01-31 or 2024-01-31T18:05:00, or leave them empty",
                column=column,
            )
        return table[codes]
    if pa.types.is_null(cells.type):
        return np.full(len(cells), np.nan)
    if not is_moment(cells.type):
        raise DataError(
            "E032",
            f"column {snippet(column)} must be dates, but its type is {cells.type}",
            fix="convert it to dates, written as 2024-01-31 or 2024-01-31T18:05:00",
            column=column,
        )
    per_second = _per_second(cells.type)
    ticks = cells.cast(pa.int32()) if cells.type == pa.date32() else cells
    whole = np.asarray(ticks.cast(pa.int64()).fill_null(0))
    if per_second >= 1:  # nanoseconds since 1970 have more digits than float64
        second, ticks = np.divmod(whole, int(per_second))
        out = second + ticks / per_second
    else:
        out = whole * float(DAY)
    out[np.asarray(cells.is_null())] = np.nan
    return out


def _per_second(kind: pa.DataType) -> float:
    if kind == pa.date32():
        return 1 / DAY
    return 1e3 if kind == pa.date64() else _TICKS[kind.unit]


def digits(cells: pa.Array) -> pa.DictionaryArray:
    """Return whole numbers as a dictionary of text; other numbers keep their decimals."""
    if pa.types.is_floating(cells.type):
        wide = cells.cast(pa.float64())
        wide = pc.if_else(pc.is_nan(wide), pa.scalar(None, wide.type), wide)
        whole = pc.and_(pc.equal(wide, pc.round(wide)), pc.less(pc.abs(wide), 2.0**53))
        numbers = pc.if_else(whole, wide, pa.scalar(None, wide.type)).cast(pa.int64())
        text = pc.coalesce(numbers.cast(pa.large_string()), wide.cast(pa.large_string()))
        return text.dictionary_encode()
    return cells.cast(pa.large_string()).dictionary_encode()


def _for_digits(pattern: str | None) -> str:
    """Return the format of dates that are numbers: that of the column if it has digits only."""
    return COMPACT if pattern is None or not only_digits(pattern) else pattern


def _parse(words: pa.Array, pattern: str | None) -> pa.Array:
    """Read text as timestamps, null where it is no date."""
    text = pc.utf8_trim_whitespace(words)
    if pattern is None:
        return pa.nulls(len(words), pa.timestamp("us"))
    if pattern != ISO:
        moments = read(text, pattern)
        return pc.coalesce(moments, _parse(text, ISO)) if moments.null_count else moments
    zoned = pc.match_substring_regex(text, r"[T ]\d\d:?\d\d.*(Z|[+-]\d\d:?\d\d)$")
    fits = pc.match_substring_regex(
        text, r"^\d{4}-\d\d-\d\d([T ]\d\d(:?\d\d(:?\d\d(\.\d{1,9})?)?)?(Z|[+-]\d\d:?\d\d)?)?$"
    )
    with_zone = pc.if_else(pc.and_(fits, zoned), text, pa.scalar(None, text.type))
    without = pc.if_else(pc.and_(fits, pc.invert(zoned)), text, pa.scalar(None, text.type))
    try:
        utc = with_zone.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us"))
        return pc.coalesce(utc, without.cast(pa.timestamp("us")))
    except pa.ArrowInvalid:  # looks like a date, but there is no such day
        if len(words) <= 1:
            return pa.nulls(len(words), pa.timestamp("us"))
        halves = words[: len(words) // 2], words[len(words) // 2 :]
        return pa.concat_arrays([_parse(half, ISO) for half in halves])


def find_format(words: pa.Array, column: str) -> str | None:
    """Return the one format in which all these words are dates, or None.

    Raises:
        DataError: E041 when several formats fit and give different dates.
    """
    if not len(words):
        return None
    if not _parse(words[:20], ISO).null_count and not _parse(words, ISO).null_count:
        return ISO
    text = pc.utf8_trim_whitespace(words)
    fits = fitting(text)
    if len(fits) > 1 and not all(fit.moments.equals(fits[0].moments) for fit in fits):
        raise DataError(
            "E041",
            f"column {snippet(column)} holds dates such as {snippet(words[0])}: whether the day "
            "or the month comes first cannot be told",
            fix="write dates as 2024-01-31, or give their format: --types "
            f"'{column}=datetime:{fits[0].pattern}'",
            column=column,
        )
    return styled(fits[0].pattern, text) if fits else None


def _likeliest(words: pa.Array) -> str:
    """Return the format that fits most words, so that a message can name the others."""
    best = likeliest(pc.utf8_trim_whitespace(words))
    if best is None or _parse(words, ISO).null_count <= best.moments.null_count:
        return ISO
    return best.pattern


class Datetime(Column):
    """Column of dates or times, as week (real), weekday and hour (categories).

    For dates, week and weekday are a bijection with the date. For times, the position within the
    hour is modelled as uniform and decoded to its middle, unless all training rows share one
    position, which is then kept. Bounded moments are those of draws: they lie anywhere within
    the hour, in the range and at the resolution of the training rows.

    Moments that stand for something else, such as 9999-12-31, are atoms: a last part holds the
    number of the row's atom, the last code meaning none. The other parts of an atom are NaN, and
    take no part in the range. Therefore all parts together have a valid mixed density.
    """

    kind: Literal["datetime"]
    mean: float  # of the week's index
    std: float = Field(gt=0)
    first: int
    last: int
    hours: bool
    rest: float | None = Field(default=None, ge=0, lt=DAY)
    pattern: str | None = None
    seen: Calendar | None = None  # None in models of earlier versions
    style: Style | None = None  # of text in ISO 8601
    atoms: tuple[float, ...] = Field(default=(), max_length=MOST_ATOMS)  # in seconds since 1970

    @field_validator("pattern")
    @classmethod
    def _readable(cls, pattern: str | None) -> str | None:
        if pattern not in (None, ISO) and not is_format(pattern):
            raise ValueError(f"{pattern!r} is no format of dates")
        return pattern

    @classmethod
    def fit(
        cls, cells: pa.Array, moments: np.ndarray, atoms: tuple[float, ...] = (), **common: object
    ) -> Datetime:
        """Return the column fitted to cells (n,), at moments in seconds (n,), NaN if missing.

        At least one moment is no atom.
        """
        known = moments[~(np.isnan(moments) | np.isin(moments, atoms))]
        week, _, hour, rest = split(known)
        style = Style.fit(cells, moments) if common["pattern"] in (ISO, None) else None
        hours = bool((hour != hour[0]).any() or (rest != rest[0]).any())
        even = bool((rest == rest[0]).all())
        constant = float(rest[0] if hours else hour[0] * HOUR + rest[0])
        return cls.model_validate(
            {
                "kind": "datetime",
                "mean": float(week.mean()),
                "std": float(week.std()) or 1.0,
                "first": int(week.min()),
                "last": int(week.max()),
                "hours": hours,
                "rest": constant if even else None,
                "style": style,
                "atoms": atoms,
                "seen": Calendar.fit(known, getattr(cells.type, "tz", None) or "", style),
                **common,
            }
        )

    @property
    def _weeks(self) -> bool:
        """Return whether the week varies; within one week only weekday and hour are modelled."""
        return self.last > self.first

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts week, weekday and hour that can vary."""
        week = Part(name=self.name, column=self.name, family="real", step=1 / self.std)
        day = Part(name=f"{self.name}#weekday", column=self.name, family="categorical", size=7)
        hour = Part(name=f"{self.name}#hour", column=self.name, family="categorical", size=24)
        parts = ((week,) if self._weeks else ()) + (day,) + ((hour,) if self.hours else ())
        if not self.atoms:
            return parts
        size, name = len(self.atoms) + 1, f"{self.name}#atom"
        return (*parts, Part(name=name, column=self.name, family="categorical", size=size))

    @property
    def none(self) -> int:
        """The code of moments that are no atom."""
        return len(self.atoms)

    @property
    def scales(self) -> tuple[Scale | None, ...]:
        """The map of the week's code to its number; None for the codes."""
        week = Scale((-1.0, 1.0), (self.mean - self.std, self.mean + self.std), grain=1.0)
        return tuple(week if part.family == "real" else None for part in self.parts)

    @property
    def code_values(self) -> tuple[tuple[float | None, ...] | None, ...]:
        """The number of each weekday and hour; None for the other parts."""
        week = (None,) * self._weeks
        clock = (tuple(map(float, range(7))), *((tuple(map(float, range(24))),) * self.hours))
        return (*week, *clock, *((None,) if self.atoms else ()))

    @property
    def days(self) -> Days:
        """The weighted sum of week, weekday and hour that gives days since 1970."""
        weights = (*((7.0,) * self._weeks), 1.0, *((HOUR / DAY,) * self.hours))
        constant = -EPOCH_WEEKDAY + (0.0 if self._weeks else 7.0 * self.first)
        within = (HOUR / 2 if self.hours else 0.0) if self.rest is None else self.rest
        return Days(tuple(range(len(weights))), weights, constant + within / DAY)

    @property
    def action(self) -> str:
        """Return the parts as text."""
        names = ["week"] * self._weeks + ["weekday"] + ["hour"] * self.hours
        atoms = ", ".join(written(atom) for atom in self.atoms)
        return ", ".join(names) + (f"; atom at {atoms}" if atoms else "")

    def canonical(self, cells: pa.Array) -> pa.Array:
        """Return seconds since 1970."""
        return pa.array(seconds(cells, self.name, self.pattern), from_pandas=True)

    def encode(self, cells: pa.Array, out: np.ndarray) -> Tally:
        """Split moments into week, weekday and hour."""
        moments = seconds(cells, self.name, self.pattern)
        missing = np.isnan(moments)
        gone = missing | np.isin(moments, self.atoms)
        week, day, hour, rest = split(np.where(gone, 0.0, moments))
        columns = [day]
        outside = np.zeros(len(gone), dtype=bool)
        if self._weeks:
            score = (week - self.mean) / self.std
            outside |= np.abs(score) > LIMIT
            columns.insert(0, np.clip(score, -LIMIT, LIMIT))
        else:
            outside |= week != self.first
        if self.hours:
            columns.append(hour)
        if self.rest is not None:
            outside |= (rest if self.hours else hour * HOUR + rest) != self.rest
        out[:, : len(columns)] = np.stack(columns, axis=1)
        out[gone] = np.nan
        if self.atoms:
            atom = np.full(len(moments), float(len(self.atoms)))
            for code, moment in enumerate(self.atoms):
                atom[moments == moment] = code
            out[:, -1] = np.where(missing, np.nan, atom)
        odd = np.flatnonzero(outside & ~gone)
        return Tally(int(missing.sum()), clipped=len(odd), rows=odd)

    def decode(self, values: np.ndarray, *, bounded: bool = False) -> pa.Array:
        """Return moments, in the middle of the hour if the position within it varied."""
        gone = np.isnan(values).any(axis=1)
        if self.atoms:
            values, atom = values[:, :-1], values[:, -1]
            gone = np.isnan(values).any(axis=1) | np.isnan(atom)
        codes = iter(np.nan_to_num(values.astype(np.float64)).T)
        week = np.rint(next(codes) * self.std + self.mean) if self._weeks else float(self.first)
        if bounded:
            week = np.clip(week, self.first, self.last)
        moments = (week * 7 + np.rint(next(codes)) - EPOCH_WEEKDAY) * DAY
        moments = moments + (np.rint(next(codes)) * HOUR if self.hours else 0)
        moments = np.where(gone, np.nan, moments + self._within_hour(values, bounded))
        if bounded and self.seen:
            moments = self.seen.held(moments, self.style)
        for code, moment in enumerate(self.atoms):
            moments = np.where(atom == code, moment, moments)
        return self._written(moments)

    def _written(self, moments: np.ndarray) -> pa.Array:
        """Return moments (n,) in the type of the column, text in its style."""
        kind = storage(arrow_type(self.dtype))
        if self.style and is_text(kind):
            return self.style.write(moments).cast(kind)
        return _restore(moments, self.dtype, self.pattern)

    def _within_hour(self, values: np.ndarray, bounded: bool) -> np.ndarray | float:
        if self.rest is not None:
            return self.rest
        if self.seen is None or self.seen.grain > HOUR:
            return HOUR / 2
        if not bounded:
            return self.seen.middle()
        grain = self.seen.grain
        return self.seen.base % grain + np.floor(positions(values) * (HOUR / grain)) * grain

    def reaching(self, other: Self) -> Self:
        """Return the column with the range of `other`."""
        if self.seen is None or other.seen is None:
            return self
        ends = {"low": other.seen.low, "high": other.seen.high}
        return self.model_copy(update={"seen": self.seen.model_copy(update=ends)})

    def like(self, cells: pa.Array) -> Self:
        """Return the column with the type, and the way of writing, of other cells of it."""
        if is_moment(cells.type):
            return self.model_copy(update={"dtype": str(cells.type)})
        if not pa.types.is_dictionary(cells.type) or not len(cells.dictionary):
            return self
        pattern = self.pattern
        if pattern is None or _parse(cells.dictionary, pattern).null_count:
            pattern = find_format(cells.dictionary, self.name)
        if pattern == self.pattern and pattern != ISO:
            return self
        moments = seconds(cells, self.name, pattern)
        style = Style.fit(cells, moments) if pattern == ISO else None
        update = {"dtype": "large_string", "pattern": pattern, "style": style or self.style}
        return self.model_copy(update=update)

    def asked(self, value: object) -> Asked:
        """Return a moment as a condition."""
        cells = plain(one_cell(value, self.name))
        try:
            moment = seconds(cells, self.name, self.pattern)
        except DataError:
            raise DataError(
                "E032",
                f"the condition on column {snippet(self.name)} must be a date, got {shown(value)}",
                fix="write it as 2024-01-31 or 2024-01-31T18:05:00",
                column=self.name,
            ) from None
        if np.isnan(moment[0]):
            raise no_value(self.name, value)
        codes = np.empty((1, len(self.parts)), dtype=np.float32)
        tally = self.encode(cells, codes)
        low, high = self._range()
        apart = moment[0] in self.atoms
        if tally.clipped or not (apart or low <= moment[0] <= high):
            raise self._not_seen(value, self._seen())
        cell = self._written(moment)
        if not np.array_equal(seconds(plain(pa.chunked_array([cell])), self.name, None), moment):
            raise self._not_seen(value, f"its values are of the type {self.dtype}")
        return Asked(codes[0], cell)

    def _range(self) -> tuple[float, float]:
        """Return the first and the last moment of training; whole weeks for earlier versions."""
        if self.seen:
            return self.seen.low, self.seen.high
        low, high = (np.array([self.first, self.last + 1]) * 7 - EPOCH_WEEKDAY) * float(DAY)
        return low, high - 1

    def _seen(self) -> str:
        """Return the range of the training data as text."""
        ends = (np.datetime64(int(end // DAY), "D") for end in self._range())
        first, last = map(str, ends)
        same = "" if self.rest is None else ", all at one time of day or of the hour"
        return f"its dates go from {first} to {last}{same}"

    def log_jacobian(self, values: np.ndarray) -> np.ndarray:
        """Return the log density of a second, or of a day where there is no time of day."""
        out = np.zeros(values.shape)
        scale = -np.log(self.std) if self._weeks else 0.0
        uniform = -np.log(HOUR) if self.rest is None else 0.0
        out[:, 0] = np.where(np.isnan(values[:, 0]), 0.0, scale + uniform)
        return out


def split(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Split seconds into week index, weekday (Monday = 0), hour and seconds within the hour."""
    day, second = np.divmod(moments, DAY)
    week, weekday = np.divmod(day + EPOCH_WEEKDAY, 7)
    hour, rest = np.divmod(second, HOUR)
    return week, weekday, hour, rest


def _restore(moments: np.ndarray, dtype: str, pattern: str | None) -> pa.Array:
    kind = storage(arrow_type(dtype))
    gone = np.isnan(moments)
    if is_text(kind) or is_number(kind) or pa.types.is_decimal(kind):
        held = np.clip(moments, _YEAR_1, _YEAR_9999)
        midnight = not (np.nan_to_num(held) % DAY).any()
        shape = "%Y-%m-%d" if midnight else "%Y-%m-%dT%H:%M:%S"
        text = write(held, shape if pattern in (ISO, None) else pattern)
        return text.cast(kind) if is_text(kind) else text.cast(pa.int64()).cast(kind)
    per_second = _per_second(kind)
    reach = 9.2e18 / per_second if per_second >= 1 else np.inf  # of 64 bits of nanoseconds
    held = np.clip(np.nan_to_num(moments), max(-reach, _YEAR_1), min(reach, _YEAR_9999))
    if kind == pa.date32():
        return pa.array((held // DAY).astype(np.int32), mask=gone).cast(kind)
    if kind == pa.date64():
        held = held // DAY * DAY
    ticks = np.rint(held).astype(np.int64) * int(per_second)
    ticks += np.rint((held - np.rint(held)) * per_second).astype(np.int64)
    return pa.array(ticks, mask=gone).cast(kind)
