"""Base class of columns."""

from __future__ import annotations

import abc
from typing import Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

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


class Tally(NamedTuple):
    """Counts of unusual values of one column found while it was coded."""

    missing: int = 0
    unseen: int = 0
    clipped: int = 0
    note: str = ""


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

    def like(self, cells: pa.Array) -> Self:
        """Return the column with the type of other cells of it, if that type holds its values."""
        return self

    def log_jacobian(self, values: np.ndarray) -> np.ndarray:
        """Return log |d coded / d raw| (n, parts), nats; 0 where a part is discrete or missing."""
        return np.zeros(values.shape)
