"""Range and resolution of the dates of a column, and the way in which their text is written."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from lowerbound.columns.arrow import is_text, pc
from lowerbound.columns.spellings import DAY, offset

HOUR = 3_600
_MICRO = 10**6
_MOST_RUNS = 100  # of rows with one offset from UTC that are remembered, as summer and winter
_LOOKED_AT = 1_000  # texts from which the usual way of writing is learned
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d((?P<between>[T ])\d\d(?P<minute>:?\d\d(?P<second>:?\d\d"
    r"(\.(?P<fraction>\d{1,9}))?)?)?(?P<zone>Z|[+-]\d\d(:?\d\d)?)?)?"
)
_ZONE = r"[T ]\d\d(?::?\d\d)*(?:\.\d+)?(?P<zone>Z|[+-]\d\d(?::?\d\d)?)$"
_NEAREST_DAYS = (0, 1, -1, 2, -2, 3, -3)


class Calendar(BaseModel):
    """Range and resolution of moments, by the clock of their time zone.

    Attributes:
        low: the first moment, in seconds since 1970 (UTC).
        high: the last moment.
        grain: the spacing of the times of day, in seconds; a day if all are equal.
        base: the first time of day of that grid, in seconds.
        weekdays: the days of the week that occur, Monday = 0.
        month_day: 1 if all dates are the first of a month, -1 if all are the last, else 0.
        months: the months that occur, if `month_day` is not 0.
        zone: the time zone of the clock; "" for naive moments and text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float
    high: float
    grain: float = Field(gt=0, le=DAY)
    base: float = Field(ge=0, lt=DAY)
    weekdays: tuple[int, ...] = Field(min_length=1)
    month_day: int = Field(default=0, ge=-1, le=1)
    months: tuple[int, ...] = ()
    zone: str = ""

    @classmethod
    def fit(cls, moments: np.ndarray, zone: str = "", style: Style | None = None) -> Calendar:
        """Return the range and resolution of moments (n,), n >= 1, in seconds and without NaN."""
        local = to_local(moments, zone, style)
        days, clock = np.divmod(local, DAY)
        ticks = np.rint(clock * _MICRO).astype(np.int64)
        grain = int(np.gcd(np.gcd.reduce(ticks - ticks[0]), DAY * _MICRO))
        dates = np.unique(days).astype("datetime64[D]")
        months = dates.astype("datetime64[M]")
        first = bool((dates == months.astype("datetime64[D]")).all())
        last = bool((dates + 1 == (months + 1).astype("datetime64[D]")).all())
        month_day = (first - last) if len(dates) > 2 else 0
        return cls(
            low=float(moments.min()),
            high=float(moments.max()),
            grain=grain / _MICRO,
            base=int(ticks[0]) % grain / _MICRO,
            weekdays=tuple(np.unique(_weekday(np.unique(days))).astype(int).tolist()),
            month_day=month_day,
            months=tuple(np.unique(_month(months)).tolist()) if month_day else (),
            zone=zone,
        )

    def middle(self) -> float:
        """Return the moment of the grid nearest to the middle of an hour, in seconds."""
        steps = np.floor((HOUR / 2 - self.base % HOUR) / self.grain)
        return float(self.base % HOUR + steps * self.grain) if self.grain <= HOUR else HOUR / 2

    def held(self, moments: np.ndarray, style: Style | None = None) -> np.ndarray:
        """Return moments (n,) within the range and at the resolution, NaN kept.

        Those outside are reflected at the nearer end, so that they do not pile up there.
        """
        gone = np.isnan(moments)
        held = np.where(gone, self.low, moments)
        held = np.where(held < self.low, 2 * self.low - held, held)
        held = np.where(held > self.high, 2 * self.high - held, held)
        lost = held < self.low  # the range is shorter than the way outside
        if lost.any():
            held = np.where(lost, self.low + positions(held) * (self.high - self.low), held)
        local = to_local(held, self.zone, style)
        days, clock = np.divmod(local, DAY)
        clock = self.base + np.rint((clock - self.base) / self.grain) * self.grain
        days, clock = days + clock // DAY, clock % DAY
        days = self._near_months(days) if self.month_day else self._near_weekdays(days)
        back = to_utc(days * DAY + clock, self.zone, style)
        return np.where(gone, np.nan, np.clip(back, self.low, self.high))

    def _near_weekdays(self, days: np.ndarray) -> np.ndarray:
        if len(self.weekdays) == 7:
            return days
        shift = [
            next(step for step in _NEAREST_DAYS if (day + step) % 7 in self.weekdays)
            for day in range(7)
        ]
        return days + np.array(shift)[_weekday(days).astype(int)]

    def _near_months(self, days: np.ndarray) -> np.ndarray:
        dates = days.astype(np.int64).astype("datetime64[D]")
        # The middle of a month is as far from its first day as from that of the next.
        months = (dates + (15 if self.month_day > 0 else -15)).astype("datetime64[M]")
        near = sorted(range(-6, 6), key=abs)
        shift = [
            next((s for s in near if (month + s - 1) % 12 + 1 in self.months), 0)
            for month in range(1, 13)
        ]
        months = months + np.array(shift)[_month(months) - 1]
        if self.month_day > 0:
            return months.astype("datetime64[D]").astype(np.int64).astype(np.float64)
        return ((months + 1).astype("datetime64[D]") - 1).astype(np.int64).astype(np.float64)


def _weekday(days: np.ndarray) -> np.ndarray:
    return (days + 3) % 7  # 1970-01-01 was a Thursday


def _month(months: np.ndarray) -> np.ndarray:
    return months.astype("datetime64[M]").astype(np.int64) % 12 + 1


def positions(values: np.ndarray) -> np.ndarray:
    """Return numbers in [0, 1), one for each row of codes (n, parts), that depend on them alone.

    They place a drawn moment within its hour, where the model is uniform.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).random(len(values))


def to_local(moments: np.ndarray, zone: str, style: Style | None = None) -> np.ndarray:
    """Return the wall clock of moments, in seconds."""
    if style is not None:
        return moments + style.offsets_at(moments)
    if not zone:
        return moments
    stamps = _stamps(moments).cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us", zone))
    return _seconds(pc.local_timestamp(stamps))


def to_utc(local: np.ndarray, zone: str, style: Style | None = None) -> np.ndarray:
    """Return the moments of a wall clock, in seconds; of two, the earlier one."""
    if style is not None:
        return local - style.offsets_at(local)
    if not zone:
        return local
    known = {"ambiguous": "earliest", "nonexistent": "latest"}
    return _seconds(pc.assume_timezone(_stamps(local), zone, **known))


def _stamps(moments: np.ndarray) -> pa.Array:
    return pa.array(np.rint(moments * _MICRO).astype(np.int64)).cast(pa.timestamp("us"))


def _seconds(stamps: pa.Array) -> np.ndarray:
    return np.asarray(stamps.cast(pa.int64())) / _MICRO


class Style(BaseModel):
    """The way in which text in ISO 8601 is written.

    Attributes:
        between: what separates date and time: "T", a space, or "" for dates alone.
        clock: the format of the time, such as ``%H:%M:%S``.
        digits: decimals of the seconds.
        zone: "Z", or the form of an offset: "+hh:mm", "+hhmm" or "+hh"; "" for naive times.
        offsets: the offsets in seconds, each with the moment that it is used from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    between: str = Field(pattern=r"^[T ]?$")
    clock: str = Field(pattern=r"^(%H(:?%M(:?%S)?)?)?$")
    digits: int = Field(default=0, ge=0, le=9)
    zone: str = Field(default="", pattern=r"^(Z|\+hh(:?mm)?)?$")
    offsets: tuple[tuple[float, int], ...] = Field(default=(), max_length=_MOST_RUNS)

    @classmethod
    def fit(cls, cells: pa.Array, moments: np.ndarray) -> Style | None:
        """Return the usual style of text in ISO 8601, None for other columns.

        Args:
            cells: a dictionary of text, (n,).
            moments: their moments in seconds (n,), NaN where missing.
        """
        if not pa.types.is_dictionary(cells.type) or not is_text(cells.type.value_type):
            return None
        words = pc.utf8_trim_whitespace(cells.dictionary)
        found = [_ISO.fullmatch(word) for word in words[:_LOOKED_AT].to_pylist()]
        styles = Counter(_form(each) for each in found if each)
        if not styles:
            return None
        between, clock, digits, _ = styles.most_common(1)[0][0]
        digits = max(form[2] for form in styles)
        zones = Counter({form[3]: n for form, n in styles.items() if form[3]})
        zone = zones.most_common(1)[0][0] if zones else ""
        offsets = _runs(words, cells, moments) if zone else ()
        return cls(between=between, clock=clock, digits=digits, zone=zone, offsets=offsets)

    def offsets_at(self, moments: np.ndarray) -> np.ndarray:
        """Return the offset from UTC of each moment, in seconds."""
        if not self.offsets:
            return np.zeros(len(moments))
        starts, shifts = np.array(self.offsets).T
        return shifts[np.clip(np.searchsorted(starts, moments, "right") - 1, 0, None)]

    def write(self, moments: np.ndarray) -> pa.Array:
        """Return moments (n,), NaN where missing, as text in this style."""
        gone = np.isnan(moments)
        held = np.where(gone, 0.0, moments)
        shifts = self.offsets_at(held)
        thousands = -(-self.digits // 3)
        unit = ("s", "ms", "us", "ns")[thousands]
        local = np.clip(held + shifts, -62_135_596_800, 253_402_300_799)  # years 1 to 9999
        if unit == "ns":
            local = np.clip(local, -9.2e9, 9.2e9)
        ticks = np.rint(local * 1000.0**thousands)
        stamps = pa.array(ticks.astype(np.int64)).cast(pa.timestamp(unit))
        text = pc.strftime(stamps, format=f"%Y-%m-%d{self.between}{self.clock}")
        if self.digits % 3 and self.clock.endswith("%S"):
            text = pc.utf8_slice_codeunits(text, 0, self.digits % 3 - 3)
        names = {shift: _spelled(int(shift), self.zone) for shift in np.unique(shifts)}
        ends = pa.array([names[shift] for shift in shifts], pa.string())
        text = pc.binary_join_element_wise(text, ends, "") if self.zone else text
        return pc.if_else(pa.array(gone), pa.scalar(None, text.type), text)


def _form(found: re.Match[str]) -> tuple[str, str, int, str]:
    """Return the separator, the format of the time, its decimals and the form of the offset."""
    clock = "%H" if found["between"] else ""
    for name, code in (("minute", "%M"), ("second", "%S")):
        if found[name]:
            clock += ":" * found[name].startswith(":") + code
    zone = found["zone"] or ""
    if zone not in ("", "Z"):
        zone = "+hh" + ":" * (":" in zone) + "mm" * (len(zone) > 3)
    return found["between"] or "", clock, len(found["fraction"] or ""), zone


def _runs(words: pa.Array, cells: pa.Array, moments: np.ndarray) -> tuple[tuple[float, int], ...]:
    """Return the offsets of text with the moments from which they are used.

    Offsets that change too often to be those of one place are reduced to the most frequent one.
    """
    zones = pc.struct_field(pc.extract_regex(words, pattern=_ZONE), "zone").to_pylist()
    by_word = np.array([np.nan if not zone else offset(zone) for zone in zones] + [np.nan])
    shifts = by_word[np.asarray(cells.indices.cast(pa.int64()).fill_null(-1))]
    known = ~np.isnan(shifts) & ~np.isnan(moments)
    order = np.argsort(moments[known], kind="stable")
    starts, shifts = moments[known][order], shifts[known][order]
    if not len(shifts):
        return ()
    changes = np.flatnonzero(np.append(True, shifts[1:] != shifts[:-1]))
    if len(changes) > _MOST_RUNS:
        values, counts = np.unique(shifts, return_counts=True)
        return ((float(starts[0]), int(values[counts.argmax()])),)
    return tuple((float(starts[i]), int(shifts[i])) for i in changes)


def _spelled(seconds: int, form: str) -> str:
    """Return an offset in a form such as "+hh:mm"; "Z" only for none."""
    if form == "Z" and not seconds:
        return "Z"
    hours, minutes = divmod(abs(seconds) // 60, 60)
    between = ":" if ":" in form or form == "Z" else ""
    tail = "" if form == "+hh" and not minutes else f"{between}{minutes:02}"
    return f"{'-' if seconds < 0 else '+'}{hours:02}{tail}"
