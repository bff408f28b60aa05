"""Columns of numbers: reals, heavy-tailed positives, counts, and the atoms among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Literal, Self, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lowerbound.columns.arrow import (
    BadValues,
    arrow_type,
    floats,
    listed,
    plain,
    restore,
    row_of,
    snippet,
    storage,
)
from lowerbound.columns.base import (
    LIMIT,
    Asked,
    Column,
    Part,
    Scale,
    Tally,
    no_value,
    one_cell,
    shown,
)
from lowerbound.columns.knots import Knots, by_blocks
from lowerbound.errors import DataError

_FAR = 20.0  # standard deviations; when most rows lie beyond, the unit has probably changed
_MOST_LOG = 709.0  # exp of a larger number overflows float64


_MOST_KNOTS, _FEWEST_KNOTS = 1000, 3
_PER_KNOT = (1, 6, 12, 24, 48)  # values for each knot of a column's quantiles, at least


MOST_DECIMALS = 6  # of numbers that count as rounded

NEAREST = 1e-300  # least distance of two knots: slopes between nearer ones overflow float64


C = TypeVar("C", bound=Column)


class Quantiles(BaseModel):
    """Monotone map through quantiles to Gaussian scores, piecewise linear.

    Its inverse and slope are exact, so that a density of scores gives a density of raw values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    raw: tuple[float, ...] = Field(min_length=2, max_length=1000)
    scores: tuple[float, ...] = Field(min_length=2, max_length=1000)

    @model_validator(mode="after")
    def _rising(self) -> Quantiles:
        for knots in (self.raw, self.scores):
            if len(self.raw) != len(self.scores) or not (np.diff(knots) > 0).all():
                raise ValueError("knots must rise and come in pairs")
        return self

    @classmethod
    def fit(
        cls, values: np.ndarray, counts: np.ndarray, weight: float = 1.0, most: int = _MOST_KNOTS
    ) -> Quantiles:
        """Choose knots from the sorted distinct `values` that occur `counts` times each.

        Ties share their mean rank, so that the map does not depend on the order of rows.

        Args:
            values: sorted and distinct.
            counts: how often each occurs.
            weight: weight of the Gaussian scores in a mixture with the standardised values,
                which is standardised again.
            most: maximal number of knots.
        """
        raw, scores = _Ranked(values, counts).knots(weight, most)
        return cls(raw=tuple(raw.tolist()), scores=tuple(scores.tolist()))

    @classmethod
    def chosen(cls, values: np.ndarray, counts: np.ndarray, weight: float = 1.0) -> Quantiles:
        """Choose knots as `fit` does, and their number by the likelihood of held-out values.

        Knots of few values each follow the chance of the sample: the slopes between them are a
        density that is too high at the values seen and too low at others. Each half of the values
        is scored by the knots of the other half, for several numbers of values per knot; scores
        are taken to be standard normal.
        """
        rows = int(counts.sum())
        if rows >= _PER_KNOT[-1] * _MOST_KNOTS:
            return cls.fit(values, counts, weight)
        first = np.random.default_rng(0).binomial(counts, 0.5)
        halves = [_Ranked(values[n > 0], n[n > 0]) for n in (first, counts - first)]
        if min(len(half.values) for half in halves) < _FEWEST_KNOTS:
            return cls.fit(values, counts, weight)

        def held_out(each: int) -> float:
            total = 0.0
            for seen, other in (halves, halves[::-1]):
                raw, scores = seen.knots(weight, _most_knots(int(seen.counts.sum()), each))
                try:
                    found = cls(raw=tuple(raw.tolist()), scores=tuple(scores.tolist()))
                except ValueError:  # equal scores next to each other
                    return -np.inf
                scores = found.forward(other.values)
                with np.errstate(over="ignore"):  # a score of 1e200 is as unlikely as can be
                    total += float(other.counts @ (found.log_slope(scores) - scores**2 / 2))
            return total

        best = max(_PER_KNOT, key=lambda each: (held_out(each), each))
        return cls.fit(values, counts, weight, _most_knots(rows, best))

    @cached_property
    def _raw(self) -> Knots:
        return Knots(np.asarray(self.raw))

    @cached_property
    def _scores(self) -> Knots:
        return Knots(np.asarray(self.scores))

    def slopes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return raw knots, their scores, and d score / d raw before, between and after them."""
        raw, scores = np.asarray(self.raw), np.asarray(self.scores)
        inner = np.diff(scores) / np.diff(raw)
        # A single tail segment may be steep by chance: use the outer twentieth of the knots.
        reach = max(len(raw) // 20, 1)
        left = (scores[reach] - scores[0]) / (raw[reach] - raw[0])
        right = (scores[-1] - scores[-1 - reach]) / (raw[-1] - raw[-1 - reach])
        return raw, scores, np.concatenate([[left], inner, [right]])

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The linear pieces, (knots + 1,) each: raw value and score of a point, and the slope."""
        raw, scores, slopes = self.slopes()
        return np.append(raw[:1], raw), np.append(scores[:1], scores), slopes

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Return the Gaussian scores of raw values."""
        return by_blocks(self._forward, values)

    def _forward(self, values: np.ndarray) -> np.ndarray:
        (raw, scores, slopes), at = self._pieces, self._raw.below(values)
        out = values - raw.take(at, mode="clip")
        out *= slopes.take(at, mode="clip")
        out += scores.take(at, mode="clip")
        return out

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Return the raw values of Gaussian scores."""
        return by_blocks(self._inverse, values)

    def _inverse(self, values: np.ndarray) -> np.ndarray:
        (raw, scores, slopes), at = self._pieces, self._scores.below(values)
        out = values - scores.take(at, mode="clip")
        out /= slopes.take(at, mode="clip")
        out += raw.take(at, mode="clip")
        return out

    def log_slope(self, values: np.ndarray) -> np.ndarray:
        """Return log d score / d raw at the given scores."""
        log = np.log(self._pieces[2])
        return by_blocks(lambda some: log.take(self._scores.below(some), mode="clip"), values)


@dataclass(frozen=True)
class _Ranked:
    """Sorted distinct values (n,) that occur `counts` (n,) times each, with their mean ranks."""

    values: np.ndarray
    counts: np.ndarray

    @cached_property
    def share(self) -> np.ndarray:
        """The share of each value among all rows, (n,)."""
        return self.counts / self.counts.sum()

    @cached_property
    def ranks(self) -> np.ndarray:
        """The mean rank of each value, between 0 and 1, (n,)."""
        return (np.cumsum(self.counts) - self.counts / 2) / self.counts.sum()

    @cached_property
    def standardised(self) -> np.ndarray:
        """The values, standardised, (n,)."""
        return _standardised(self.values, self.share)

    def knots(self, weight: float, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the knots, at most `most`, and their scores; neighbouring scores may be equal."""
        values, ranks = self.values, self.ranks
        pick = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round())
        if len(values) > most:  # equal steps in probability, and both ends
            wanted = np.linspace(ranks[0], ranks[-1], most)
            pick = np.unique(np.clip(np.searchsorted(ranks, wanted), 0, len(values) - 1))
        pick = pick.astype(int)
        apart = np.diff(values[pick], prepend=-np.inf) >= NEAREST
        pick = pick[apart] if apart.sum() > 1 else pick
        normal = NormalDist()
        scores = np.array([normal.inv_cdf(rank) for rank in ranks[pick].tolist()])
        if weight < 1.0:
            # Mean and spread come from all rows, not only from the knots.
            every = np.interp(values, values[pick], scores)
            scored = _standardised(every, self.share)
            mixed = (1 - weight) * self.standardised + weight * scored
            centre = self.share @ mixed
            spread = np.sqrt(self.share @ (mixed - centre) ** 2)
            scores = (mixed[pick] - centre) / spread
        return values[pick], scores


def _most_knots(rows: int, each: int) -> int:
    """Return the largest number of knots with at least `each` rows per knot."""
    return int(np.clip(rows // each, _FEWEST_KNOTS, _MOST_KNOTS))


def _standardised(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return values standardised by their mean and deviation, each with its share of the rows."""
    size = float(np.abs(values).max()) or 1.0
    scaled = values / size  # squares of 1e200 overflow float64
    centred = scaled - share @ scaled
    return centred / np.sqrt(share @ centred**2)


class Numeric(Column):
    """Column of real numbers, standardised; heavy-tailed positive ones after a logarithm.

    For values that very many rows share (atoms, such as 0 in ``capital-gain``), a second part
    holds the number of the row's atom, the last code meaning none. The continuous part of an atom
    is NaN, so that the two parts together have a valid mixed density.

    In a `complete` column, all training rows hold atoms. Code 0 means none there, with the small
    probability of values that training has not seen.
    """

    kind: Literal["real", "positive"]
    mean: float
    std: float = Field(gt=0)
    low: float
    high: float
    whole: bool = False
    grain: float = Field(default=1.0, gt=0)  # spacing of whole numbers
    decimals: int | None = Field(default=None, ge=1, le=MOST_DECIMALS)  # of rounded numbers
    atoms: tuple[float, ...] = ()
    complete: bool = False
    quantiles: Quantiles | None = None

    @property
    def none(self) -> int:
        """The code of values that are no atom."""
        return 0 if self.complete else len(self.atoms)

    @property
    def _codes(self) -> range:
        """The codes of the atoms."""
        return range(int(self.complete), len(self.atoms) + int(self.complete))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The continuous part, and that of the atoms if there are any."""
        even = self.whole and self.kind == "real" and self.quantiles is None
        step = self.grain / self.std if even else 0.0
        main = Part(name=self.name, column=self.name, family="real", step=step)
        if not self.atoms:
            return (main,)
        size, name = len(self.atoms) + 1, f"{self.name}#atom"
        unknown = self.complete
        atom = Part(name=name, column=self.name, family="categorical", size=size, unknown=unknown)
        return main, atom

    @property
    def scales(self) -> tuple[Scale | None, ...]:
        """The map of the continuous part to raw values; None for the atoms."""
        grain, log = self.grain if self.whole else 0.0, self.kind == "positive"
        if self.decimals is not None:
            grain = 10.0**-self.decimals
        if self.quantiles is None:
            raw = (self.mean - self.std, self.mean + self.std)
            main = Scale((-1.0, 1.0), raw, log, grain)
        else:
            far = np.array([self.quantiles.scores[0] - LIMIT, self.quantiles.scores[-1] + LIMIT])
            first, last = self.quantiles.inverse(far).tolist()
            coded = (float(far[0]), *self.quantiles.scores, float(far[1]))
            main = Scale(coded, (first, *self.quantiles.raw, last), log, grain)
        return (main, None) if self.atoms else (main,)

    @property
    def code_values(self) -> tuple[tuple[float | None, ...] | None, ...]:
        """The values of the atoms; None for the code that stands for none."""
        if not self.atoms:
            return (None,)
        by_code = dict(zip(self._codes, self.atoms, strict=True))
        return None, tuple(by_code.get(code) for code in range(len(self.atoms) + 1))

    @property
    def action(self) -> str:
        """Return the scaling and the atoms as text."""
        start = "log, then " if self.kind == "positive" else ""
        scale = "scaled" if self.quantiles else "standardised"
        atoms = ", ".join(f"{a:g}" for a in self.atoms)
        if self.complete:
            return f"all values are atoms: {atoms}"
        return f"{start}{scale}" + (f"; atom at {atoms}" if atoms else "")

    @cached_property
    def _type(self) -> pa.DataType:
        return storage(arrow_type(self.dtype))

    def numbers(self, cells: pa.Array) -> np.ndarray:
        """Return the values (n,) in the unit of training, NaN where missing.

        Where the type here or in training is float32 or float16, a number that is an atom but for
        its rounding is returned as that atom.
        """
        raw = floats(cells, self.name, self._type)
        for width, kind in ((np.float32, pa.float32()), (np.float16, pa.float16())):
            for atom in self.atoms if kind in (cells.type, self._type) else ():
                with np.errstate(over="ignore"):
                    raw[raw.astype(width) == width(atom)] = atom
        return raw

    def canonical(self, cells: pa.Array) -> pa.Array:
        """Return the numbers in the unit of training."""
        return pa.array(self.numbers(cells), from_pandas=True)

    def encode(self, cells: pa.Array, out: np.ndarray) -> Tally:
        """Standardise; values beyond `LIMIT` standard deviations are clipped and counted."""
        raw = self.numbers(cells)
        gone = np.isnan(raw)
        if self.atoms:
            atom = np.full(len(raw), float(self.none))
            for code, value in zip(self._codes, self.atoms, strict=True):
                atom[_is(raw, value)] = code
            raw = np.where(atom != self.none, np.nan, raw)
            atom[gone] = np.nan
            out[:, 1] = atom
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            scores = self._score(raw)
        far = np.abs(scores)  # NaN compares false below: missing values are not counted
        missing = int(np.count_nonzero(gone))
        if np.fmax.reduce(far, initial=0.0) <= _FAR:  # the usual case: nothing to count
            out[:, 0] = scores
            return Tally(missing)
        clipped = int(np.count_nonzero(far > LIMIT))
        out[:, 0] = np.clip(scores, -LIMIT, LIMIT) if clipped else scores
        odd = np.flatnonzero(far > _FAR)
        return Tally(missing, clipped=clipped, note=self._unit_note(far), rows=odd)

    def _score(self, raw: np.ndarray) -> np.ndarray:
        if self.kind == "positive":
            # A value outside the support is coded as minus infinity, and clipped.
            raw = np.log(np.where(raw <= 0, 0.0, raw))
        return self.quantiles.forward(raw) if self.quantiles else (raw - self.mean) / self.std

    def _unit_note(self, far: np.ndarray) -> str:
        seen = int((~np.isnan(far)).sum())
        beyond = int((far > _FAR).sum())
        if beyond * 2 <= seen:
            return ""
        return (
            f"{beyond:,} of {seen:,} values lie more than {_FAR:g} standard deviations from "
            f"the training data ({self.low:g} to {self.high:g}): has the unit changed?"
        )

    def decode(self, values: np.ndarray, *, bounded: bool = False) -> pa.Array:
        """Invert the coding; whole numbers and decimals are rounded as those of training."""
        scores = values[:, 0].astype(np.float64)
        raw = self.quantiles.inverse(scores) if self.quantiles else scores * self.std + self.mean
        if self.kind == "positive":
            raw = np.exp(np.minimum(raw, _MOST_LOG))
        if self.whole:
            raw = np.rint(raw / self.grain) * self.grain
        elif self.decimals is not None:
            raw = np.round(raw, self.decimals) + 0.0  # no negative zero
        if bounded:
            raw = np.clip(raw, self.low, self.high)
        if self.atoms:
            atom = values[:, 1]
            for code, value in zip(self._codes, self.atoms, strict=True):
                raw[atom == code] = value
            raw[np.isnan(atom)] = np.nan
        return restore(raw, self.dtype)

    def reaching(self, other: Self) -> Self:
        """Return the column with the range of `other`."""
        return self.model_copy(update={"low": other.low, "high": other.high})

    def like(self, cells: pa.Array) -> Self:
        """Return the column with the type of other cells, if that type holds its values."""
        return _with_type(self, cells.type, self.low, self.high) if self.whole else self

    def asked(self, value: object) -> Asked:
        """Return a number as a condition; one just beyond the range is allowed with a note."""
        number = _number(value, self.name, self.dtype)
        if self.whole and number != np.rint(number) and number not in self.atoms:
            raise _wrong_kind(value, self.name, "a whole number")
        seen = f"its values go from {self.low:g} to {self.high:g}"
        below, above = self._reach()
        if not below <= number <= above:
            raise self._not_seen(value, seen)
        codes = np.empty((1, len(self.parts)), dtype=np.float32)
        tally = self.encode(pa.array([number]), codes)
        if tally.clipped or (self.complete and number not in self.atoms):
            raise self._not_seen(value, f"its values are {listed([f'{a:g}' for a in self.atoms])}")
        note = ""
        if not self.low <= number <= self.high:
            note = (
                f"column {snippet(self.name)}: {number:g} lies beyond the training data, and the "
                f"draws extrapolate: {seen}"
            )
        return Asked(codes[0], restore(np.array([number]), self.dtype), note)

    def _reach(self) -> tuple[float, float]:
        """Return the range of conditions: that of training, and a little of its tails.

        The next rows may exceed the extremes of a continuous column by about the distance that
        lies between the extremes and the quantile of a two-hundredth.
        """
        if self.quantiles is None or self.whole:
            return self.low, self.high
        raw = np.asarray(self.quantiles.raw)
        inner = max(len(raw) // 200, 1)
        ends = np.array([2 * raw[0] - raw[inner], 2 * raw[-1] - raw[-1 - inner]])
        low, high = np.exp(np.minimum(ends, _MOST_LOG)) if self.kind == "positive" else ends
        return min(self.low, float(low)), max(self.high, float(high))

    def log_jacobian(self, values: np.ndarray) -> np.ndarray:
        """Return log |d z / d x| of the continuous part at the coded values."""
        scores = values[:, 0].astype(np.float64)
        out = np.zeros(values.shape)
        if self.quantiles:
            slope, log_raw = self.quantiles.log_slope(scores), self.quantiles.inverse(scores)
        else:
            slope, log_raw = -np.log(self.std), scores * self.std + self.mean
        out[:, 0] = slope - log_raw if self.kind == "positive" else slope
        out[np.isnan(scores), 0] = 0.0
        return out


def _is(raw: np.ndarray, value: float) -> np.ndarray:
    """Return where numbers are a value, or what it becomes in float32: 0.10000000149 for 0.1."""
    same = raw == value
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
        if value != np.rint(value) and narrow:  # 1e-80 is not 0
            same |= raw.astype(np.float32) == narrow
    return same


class Count(Column):
    """Column of counts: whole numbers from 0, kept raw for a distribution of counts."""

    kind: Literal["count"]
    high: int = Field(ge=0)

    @property
    def parts(self) -> tuple[Part, ...]:
        """One part."""
        return (Part(name=self.name, column=self.name, family="count", step=1.0),)

    @property
    def scales(self) -> tuple[Scale | None, ...]:
        """Raw values themselves, whole numbers."""
        return (Scale(grain=1.0),)

    @property
    def action(self) -> str:
        """Return that counts are not transformed."""
        return "kept as counts"

    def canonical(self, cells: pa.Array) -> pa.Array:
        """Return the counts as float64."""
        return pa.array(floats(cells, self.name), from_pandas=True)

    def encode(self, cells: pa.Array, out: np.ndarray) -> Tally:
        """Check that the values are counts and copy them."""
        raw = floats(cells, self.name)
        refuse_not_counts(raw, self.name)
        out[:, 0] = raw
        return Tally(int(np.isnan(raw).sum()))

    def decode(self, values: np.ndarray, *, bounded: bool = False) -> pa.Array:
        """Round to whole numbers from 0."""
        raw = np.maximum(np.rint(values[:, 0].astype(np.float64)), 0)
        return restore(np.minimum(raw, self.high) if bounded else raw, self.dtype)

    def reaching(self, other: Self) -> Self:
        """Return the column with the range of `other`."""
        return self.model_copy(update={"high": other.high})

    def like(self, cells: pa.Array) -> Self:
        """Return the column with the type of other cells, if that type holds its values."""
        return _with_type(self, cells.type, 0, self.high)

    def asked(self, value: object) -> Asked:
        """Return a count as a condition."""
        number = _number(value, self.name, self.dtype)
        refuse_not_counts(np.array([number]), self.name)
        if number > self.high:
            raise self._not_seen(value, f"its counts go from 0 to {self.high:,}")
        return Asked(np.array([number], np.float32), restore(np.array([number]), self.dtype))


def _number(value: object, column: str, dtype: str) -> float:
    """Return a condition as a number that the type of the column can hold.

    Raises:
        DataError: E032 for a value that is no number, or that the type cannot hold; E030 for an
            infinite one.
        UsageError: E245 for a missing value.
    """
    kind, cells = storage(arrow_type(dtype)), plain(one_cell(value, column))
    if pa.types.is_boolean(cells.type) and not pa.types.is_boolean(kind):
        raise _wrong_kind(value, column, "a number")
    if pa.types.is_temporal(kind) != pa.types.is_temporal(cells.type):
        raise _wrong_kind(value, column, f"a {kind}" if pa.types.is_temporal(kind) else "a number")
    try:
        cells = cells.cast(kind) if pa.types.is_temporal(kind) else cells
        number = float(floats(cells, column)[0])
    except pa.ArrowException:
        raise _wrong_kind(value, column, f"a {kind}") from None
    except DataError as error:
        if error.code == "E030":
            raise DataError(
                "E030",
                f"the condition on column {snippet(column)} is infinite",
                fix="give a finite number",
                column=column,
            ) from None
        raise _wrong_kind(value, column, "a number") from None
    if np.isnan(number):
        raise no_value(column, value)
    exact = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    if exact and float(floats(restore(np.array([number]), dtype), column)[0]) != number:
        what = "a whole number" if pa.types.is_integer(kind) else "a value"
        raise _wrong_kind(value, column, f"{what} of the type {kind}")
    return number


def _wrong_kind(value: object, column: str, wanted: str) -> DataError:
    return DataError(
        "E032",
        f"the condition on column {snippet(column)} must be {wanted}, got {shown(value)}",
        fix=f"give {wanted}, or leave out the condition",
        column=column,
    )


def _with_type(column: C, kind: pa.DataType, low: float, high: float) -> C:
    """Return a column of whole numbers with an integer type that holds all of them."""
    if not pa.types.is_integer(kind) or pa.types.is_temporal(arrow_type(column.dtype)):
        return column
    limits = np.iinfo(kind.to_pandas_dtype())
    fits = limits.min <= low and high <= limits.max
    return column.model_copy(update={"dtype": str(kind)}) if fits else column


def refuse_not_counts(raw: np.ndarray, column: str) -> None:
    """Raise E035 if a value is negative or not a whole number."""
    with np.errstate(invalid="ignore"):
        wrong = (raw < 0) | (raw != np.rint(raw)) & ~np.isnan(raw)
    if wrong.any():
        first = row_of(wrong)
        raise BadValues.at(
            wrong,
            "not a count: negative or not whole",
            "E035",
            f"column {snippet(column)} is a count, but {int(wrong.sum()):,} of {len(raw):,} "
            f"values are negative or not whole numbers, the first {raw[first - 1]:g} in row "
            f"{first:,}",
            fix=f"--types {column}=real when fitting, or pass the raw counts",
            column=column,
        )
