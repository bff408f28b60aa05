"""Columns of a few distinct values: binary, categorical, ordinal."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from lowerbound.columns.arrow import (
    arrow_type,
    is_words,
    levels,
    listed,
    snippet,
    spell,
    storage,
)
from lowerbound.columns.base import Column, Part, Tally
from lowerbound.columns.levels import Known
from lowerbound.errors import DataError, nearest

MOST_LEVELS = 1_000_000


class Category(Column):
    """Column of levels in a fixed order, as text; `Known` finds them in any spelling.

    Code 0 of a categorical column is a value not seen in training; its levels are 1, 2, ...
    Binary and ordinal columns have no such code: an unseen value is coded as missing and counted.
    """

    kind: Literal["binary", "categorical", "ordinal"]
    levels: tuple[str, ...] = Field(min_length=1, max_length=MOST_LEVELS)
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Category:
        if len(set(self.levels)) != len(self.levels) or len(self.counts) != len(self.levels):
            raise ValueError("levels must be distinct and each must have a count")
        if self.kind == "binary" and len(self.levels) > 2:
            raise ValueError("a binary column has two levels")
        return self

    @cached_property
    def known(self) -> Known:
        """The levels, found in every spelling of the same value."""
        return Known(self.levels, storage(arrow_type(self.dtype)))

    @property
    def parts(self) -> tuple[Part, ...]:
        """One part."""
        open_ended = self.kind == "categorical"
        size = 1 if self.kind == "binary" else len(self.levels) + open_ended
        part = Part(
            name=self.name, column=self.name, family=self.kind, size=size, unknown=open_ended
        )
        return (part,)

    @property
    def code_values(self) -> tuple[tuple[float | None, ...] | None, ...]:
        """The levels of a column of numbers."""
        kind = storage(arrow_type(self.dtype))
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return (None,)
        numbers = [float(level) for level in self.levels]
        unknown = [None] if self.kind == "categorical" else []
        return ((*unknown, *numbers),)

    @property
    def action(self) -> str:
        """Return the levels, or their number."""
        if len(self.levels) > 5:
            return f"{len(self.levels):,} levels"
        between = " < " if self.kind == "ordinal" else ", "
        return between.join(self.levels)

    def encode(self, cells: pa.Array, out: np.ndarray) -> Tally:
        """Write level codes; unseen values become unknown or missing, and are counted."""
        codes, words = levels(cells, self.name)
        found = np.array(self.known.find(words, cells.type) + [0])
        strange = found < 0
        offset = 1 if self.kind == "categorical" else 0
        table = np.where(strange, 0.0 if offset else np.nan, found + offset)
        table[-1] = np.nan  # of code -1, missing
        out[:, 0] = table[codes]
        new = np.flatnonzero(strange[codes])
        return Tally(int((codes < 0).sum()), unseen=len(new), rows=new)

    def canonical(self, cells: pa.Array) -> pa.Array:
        """Return the levels in the spelling of training; unseen ones as they are written."""
        codes, words = levels(cells, self.name)
        found = self.known.find(words, cells.type)
        spelled = [w if at < 0 else self.levels[at] for at, w in zip(found, words, strict=True)]
        indices = pa.array(codes, mask=codes < 0)
        return pa.array(spelled, pa.large_string()).take(indices)

    def like(self, cells: pa.Array) -> Self:
        """Return the column with the type, and the spellings of the levels, of other cells."""
        if storage(arrow_type(self.dtype)) == cells.type or not len(cells):
            return self
        if is_words(cells.type):
            words = cells.dictionary.to_pylist()
            spelled = dict(zip(self.known.find(words, cells.type), words, strict=True))
            found = tuple(spelled.get(code, word) for code, word in enumerate(self.levels))
            changed = {"levels": found, "dtype": "large_string"}
            return self.model_copy(update=changed) if len(set(found)) == len(found) else self
        every = range(len(self.levels))
        try:
            same = spell(np.array(every), list(self.levels), str(cells.type))
            words = levels(same, self.name).words
        except (pa.ArrowException, ValueError):
            return self
        if self.known.find(words, cells.type) != list(every):
            return self
        return self.model_copy(update={"dtype": str(cells.type)})

    def _not_seen(self, value: object, seen: str = "") -> DataError:
        known = listed(self.levels)
        near = nearest(str(value), self.levels)
        similar = f"; a similar one is {snippet(near)}" if near else ""
        return super()._not_seen(value, seen or f"its levels are {known}{similar}")

    def decode(self, values: np.ndarray, *, bounded: bool = False) -> pa.Array:
        """Return the words of level codes; the unknown level becomes missing."""
        offset = 1 if self.kind == "categorical" else 0
        codes = np.rint(np.nan_to_num(values[:, 0], nan=-1.0 + offset)).astype(np.int64) - offset
        codes = np.where(codes < len(self.levels), codes, -1)
        return spell(codes, list(self.levels), self.dtype)
