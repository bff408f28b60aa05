"""Columns that are not modelled: ids, free text, and constants."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from lowerbound.columns.arrow import arrow_type, levels, spell, storage
from lowerbound.columns.base import Column, Part, Tally
from lowerbound.columns.levels import Known


class Skipped(Column):
    """A column that is reported but not modelled: an id, free text, or one constant value."""

    kind: Literal["id", "text", "constant"]
    value: str | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """No parts."""
        return ()

    @property
    def action(self) -> str:
        """Return that the column is not modelled."""
        return "kept as it is" if self.kind == "constant" else "ignored"

    def encode(self, cells: pa.Array, out: np.ndarray) -> Tally:
        """Count missing values and, for a constant, the values that differ from it."""
        return Tally(missing=cells.null_count)

    def canonical(self, cells: pa.Array) -> pa.Array:
        """Return the values as they are."""
        return cells

    @property
    def held(self) -> bool:
        """True if the column has a constant value; one that was always missing has none."""
        return self.kind == "constant" and self.value is not None

    @cached_property
    def known(self) -> Known:
        """The constant, found in every spelling of it."""
        words = [] if self.value is None else [self.value]
        return Known(words, storage(arrow_type(self.dtype)))

    def changed(self, cells: pa.Array) -> np.ndarray:
        """Return a mask (n,) of values that differ from the constant; missing ones do not."""
        if not self.held:  # computing the levels of a million ids takes a second
            return np.zeros(len(cells), dtype=bool)
        codes, words = levels(cells, self.name)
        other = np.array([code < 0 for code in self.known.find(words, cells.type)] + [False])
        return other[codes]  # -1, missing, is the last: False

    def reaching(self, other: Skipped) -> Skipped:
        """Return `other`: a constant is constant in all rows."""
        return other

    def decode(self, values: np.ndarray, *, bounded: bool = False) -> pa.Array:
        """Repeat the constant."""
        known = self.value is not None
        codes = np.full(len(values), 0 if known else -1)
        return spell(codes, [self.value] if self.value is not None else [], self.dtype)
