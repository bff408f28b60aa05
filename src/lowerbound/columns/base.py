"""Base class of columns."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from lowerbound.columns.arrow import plain, snippet
from lowerbound.errors import DataError, UsageError

Kind = Literal[
    "real",
    "positive",
    "count",
    "binary",
    "categorical",
    "ordinal",
    "datetime",
    "id",
    "text",
    "constant",
]
Family = Literal["real", "count", "binary", "categorical", "ordinal"]

# Coded reals are clipped to this many standard deviations, so that their squares stay finite in
# float32; clipped rows are counted.
LIMIT = 1e4


class Part(BaseModel):
    """One coded number per row, an input of the model.

    Attributes:
        name: unique in a schema, such as ``amount``, ``amount#atom`` or ``ts#hour``.
        column: the raw column that it belongs to.
        family: the family of distributions that fits it.
        size: the number of categories, or 1.
        unknown: whether code 0 stands for values not seen in training; it is never sampled.
        step: the spacing of whole numbers in coded units, 0 for a continuous part. A density
            of a column of whole numbers times this is (nearly) their probability.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    column: str
    family: Family
    size: int = Field(default=1, ge=1)
    unknown: bool = False
    step: float = Field(default=0.0, ge=0)


class Scale(NamedTuple):
    """The map between the coded and the raw values of a part that is a number.

    It is linear between knots, and beyond the outermost two.

    Attributes:
        coded: rising knots, two or more.
        raw: raw values at the knots, rising.
        log: whether the raw value is the exponential of the mapped one.
        grain: raw values are multiples of this; 0 if any number is possible.
    """

    coded: tuple[float, ...] = (-1.0, 1.0)
    raw: tuple[float, ...] = (-1.0, 1.0)
    log: bool = False
    grain: float = 0.0

    @property
    def linear(self) -> bool:
        """True if the map is linear: the code of a mean is then the mean of the codes."""
        return not self.log and len(self.raw) == 2

    def raw_of(self, codes: np.ndarray) -> np.ndarray:
        """Return the raw values of codes, not rounded."""
        found = _between_knots(codes, self.coded, self.raw)
        return np.exp(np.minimum(found, 700.0)) if self.log else found

    def coded_of(self, raw: np.ndarray) -> np.ndarray:
        """Return the codes of raw values."""
        found = np.log(np.maximum(raw, 1e-300)) if self.log else raw
        return _between_knots(found, self.raw, self.coded)


def _between_knots(x: np.ndarray, xs: Sequence[float], ys: Sequence[float]) -> np.ndarray:
    """Interpolate linearly between rising knots, and beyond the outermost two."""
    at = np.searchsorted(xs, x).clip(1, len(xs) - 1)
    x0, x1 = np.take(xs, at - 1), np.take(xs, at)
    y0, y1 = np.take(ys, at - 1), np.take(ys, at)
    return y0 + (x - x0) * (y1 - y0) / np.maximum(x1 - x0, 1e-300)


NO_ROWS = np.zeros(0, np.int64)


class Tally(NamedTuple):
    """Counts of unusual values of one column found while it was coded.

    Attributes:
        missing: values that are missing.
        unseen: values that training has not seen.
        clipped: values beyond the range of the coding.
        note: a remark for the user.
        rows: the rows that `unseen`, `clipped` and `note` are about.
    """

    missing: int = 0
    unseen: int = 0
    clipped: int = 0
    note: str = ""
    rows: np.ndarray = NO_ROWS


class Asked(NamedTuple):
    """A value of one column that samples are conditional on.

    Attributes:
        codes: (parts,), NaN for a part that the value leaves open.
        cell: the value in the column's own type, (1,).
        note: a remark for the user.
    """

    codes: np.ndarray
    cell: pa.Array
    note: str = ""


def one_cell(value: object, column: str) -> pa.ChunkedArray:
    """Return a value as a column of one row.

    Raises:
        UsageError: E245 for a missing value, and for several.
    """
    if isinstance(value, list | tuple | dict | set | np.ndarray):
        raise UsageError(
            "E245",
            f"the condition on column {snippet(column)} must be one value, got {shown(value)}",
            fix="draw once for each value",
        )
    given: Any = np.asarray([value]) if isinstance(value, np.generic) else [value]
    try:
        cells = pa.array(given, from_pandas=True)  # NaN, NaT and NA are null, too
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        cells = pa.array([str(value)])
    if cells.null_count:
        raise no_value(column, value)
    return pa.chunked_array([cells])


def shown(value: object) -> str:
    """Return a value of a condition for a message: text in quotes, numbers as they are."""
    return snippet(value) if isinstance(value, str) else snippet(value)[1:-1]


def no_value(column: str, value: object) -> UsageError:
    """Return the error for a condition that is a missing value."""
    return UsageError(
        "E245",
        f"the condition on column {snippet(column)} must be a value, got {shown(value)}",
        fix="leave out the condition: columns without one are drawn",
    )


class Days(NamedTuple):
    """A date as a sum of its parts: days since 1970-01-01.

    Attributes:
        parts: the parts that are added, by their place in the column.
        weights: the days of one unit of each part.
        constant: days that are added.
    """

    parts: tuple[int, ...]
    weights: tuple[float, ...]
    constant: float


class Column(BaseModel, abc.ABC):
    """One raw column: its kind, its type and its coding.

    Attributes:
        name: the raw column's name.
        kind: what the column holds.
        dtype: its Arrow type, as text.
        rows: the number of rows that the statistics were taken from.
        missing: the number of them that were missing.
        notes: remarks for the user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    kind: Kind
    dtype: str
    rows: int = Field(default=0, ge=0)
    missing: int = Field(default=0, ge=0)
    notes: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The coded numbers of this column, in order."""

    @property
    def scales(self) -> tuple[Scale | None, ...]:
        """The map of each part to raw values, None for codes."""
        return tuple(Scale() if p.family in ("real", "count") else None for p in self.parts)

    @property
    def code_values(self) -> tuple[tuple[float | None, ...] | None, ...]:
        """For each part of codes that stand for numbers, the number of each code; else None."""
        return (None,) * len(self.parts)

    @property
    def days(self) -> Days | None:
        """The weighted sum of the parts that gives the days of a date; None for other columns."""
        return None

    @property
    @abc.abstractmethod
    def action(self) -> str:
        """A short description of the coding, for tables."""

    @abc.abstractmethod
    def encode(self, cells: pa.Array, out: np.ndarray) -> Tally:
        """Write the codes of the values `cells`, (n,), into `out`, (n, parts); NaN if missing."""

    @abc.abstractmethod
    def decode(self, values: np.ndarray, *, bounded: bool = False) -> pa.Array:
        """Return raw values (n,) from codes (n, parts).

        Args:
            values: codes, NaN where missing.
            bounded: clip real numbers to the range seen at fit time.
        """

    @abc.abstractmethod
    def canonical(self, cells: pa.Array) -> pa.Array:
        """Return the values `cells`, (n,), in one type and spelling, whatever table they are from.

        Numbers are float64, dates seconds since 1970, levels text; missing values are null.
        """

    def like(self, cells: pa.Array) -> Self:
        """Return the column with the type of other cells of it, if that type holds its values."""
        return self

    def reaching(self, other: Self) -> Self:
        """Return the column with the range of `other`, the same column fitted to more rows.

        Draws and conditions keep to the range; codes do not depend on it.
        """
        return self

    def log_jacobian(self, values: np.ndarray) -> np.ndarray:
        """Return log |d coded / d raw| (n, parts), nats; 0 where a part is discrete or missing."""
        return np.zeros(values.shape)

    def asked(self, value: object) -> Asked:
        """Return one value as a condition of samples.

        Args:
            value: a value of the column in any spelling, such as 3, 3.0 or "3".

        Raises:
            DataError: E032 for a value of another kind, E030 for an infinite one, E074 for one
                that training has not seen: an unknown level, or beyond the range.
            UsageError: E245 for a missing value, and for several.
        """
        codes = np.empty((1, len(self.parts)), dtype=np.float32)
        tally = self.encode(plain(one_cell(value, self.name)), codes)
        if tally.unseen or tally.clipped:
            raise self._not_seen(value)
        if tally.missing:
            raise no_value(self.name, value)
        return Asked(codes[0], self.decode(codes))

    def _not_seen(self, value: object, seen: str = "") -> DataError:
        """Return E074 for a value that training has not seen; `seen` tells what it has seen."""
        return DataError(
            "E074",
            f"the training data did not contain the value {shown(value)} in column "
            f"{snippet(self.name)}" + (f": {seen}" if seen else ""),
            fix="lowerbound info M.vae lists the columns and their levels",
            column=self.name,
        )
