"""Covariates of rows: what a model is conditional on, such as the experiment of a cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.columns.arrow import (
    MISSING_TEXT,
    Levels,
    computable,
    declared,
    floats,
    levels,
    listed,
    plain,
    spell,
)
from lowerbound.columns.base import one_cell
from lowerbound.columns.categories import Category
from lowerbound.columns.levels import Known
from lowerbound.columns.numbers import Numeric
from lowerbound.errors import DataError, UsageError, nearest
from lowerbound.files.data import Whole

BATCH, COVARIATE = "batch", "covariate"  # the kinds of columns that declare them
LABEL = "label"  # the kind of a column of labels
_FEW_LEVELS = 50  # that a factor of few rows may have


class CodedCovariate(NamedTuple):
    """A covariate of some rows as numbers.

    Attributes:
        values: (n, width).
        unseen: the number of rows whose level training has not seen, or that have none.
        missing: the number of rows without a number.
        clipped: the number of rows whose number was moved to the range of training.
    """

    values: Tensor
    unseen: int = 0
    missing: int = 0
    clipped: int = 0


@dataclass(frozen=True)
class Factor:
    """A covariate of levels, coded as one number for each level: 1 for its own, 0 for others.

    A row of a level that training has not seen, or without one, is a little of each level, as
    much as there were rows of it: the mean over the levels.

    Args:
        name: the column.
        levels: the values, with the number of training rows of each.
        dtype: the Arrow type of the column, as text.
    """

    name: str
    levels: Mapping[str, int]
    dtype: str = "string"

    @classmethod
    def of(cls, name: str, columns: Sequence[tuple[str, Counter[str]]]) -> Factor:
        """Return the factor of what `look` has found in the parts of a column.

        Raises:
            DataError: E033 where no row has a value, or most have one of their own.
        """
        counts: Counter[str] = Counter()
        for _, some in columns:
            counts.update(some)
        known = {word: counts[word] for word in sorted(filter(_is_value, counts)) if counts[word]}
        if not known:
            raise _without_values(name, BATCH)
        rows = sum(known.values())
        if len(known) > max(_FEW_LEVELS, rows / 2):
            raise DataError(
                "E033",
                f"column {name!r} cannot be a batch or labels: {rows:,} rows have {len(known):,} "
                "different values",
                fix=f"--covariate {name} takes numbers as they are; or choose another column",
                column=name,
            )
        return cls(name, known, columns[-1][0])

    @staticmethod
    def look(column: pa.ChunkedArray, name: str) -> tuple[str, Counter[str]]:
        """Return the type of one part of a column, and the number of rows of each value."""
        codes, words = levels_of(column, name)
        rows = np.bincount(codes[codes >= 0], minlength=len(words)).tolist()
        return str(declared(column.type)), Counter(dict(zip(words, rows, strict=True)))

    @property
    def width(self) -> int:
        """The number of levels."""
        return len(self.levels)

    @property
    def usual(self) -> Tensor:
        """The share of each level among training rows, (width,)."""
        rows = torch.tensor(list(self.levels.values()), dtype=torch.float32)
        return rows / rows.sum()

    def encode(self, column: pa.ChunkedArray) -> CodedCovariate:
        """Return the share of each level in each row."""
        codes = self.codes(column)
        rows = torch.cat([torch.eye(self.width), self.usual[None]])
        return CodedCovariate(rows[codes], unseen=int((codes < 0).sum()))

    def codes(self, column: pa.ChunkedArray) -> Tensor:
        """Return the index of the level of each row, (n,); -1 for unknown and missing ones."""
        known = Known(list(self.levels), pa.string())
        places, words = levels_of(column, self.name)
        return torch.tensor([*known.find(words, pa.string()), -1])[torch.tensor(places)]

    def decode(self, values: Tensor) -> pa.Array:
        """Return the level of each row, in the type of the column."""
        return spell(values.argmax(1).numpy(), list(self.levels), self.dtype)

    def asked(self, value: object) -> tuple[float, pa.Array]:
        """Return the index of a level and its cell.

        Raises:
            LowerboundError: E074 for a level that training has not seen, E245 for a missing one.
        """
        column = Category(
            name=self.name,
            kind="categorical",
            dtype=self.dtype,
            levels=tuple(self.levels),
            counts=tuple(self.levels.values()),
        )
        found = column.asked(value)
        return float(found.codes[0]) - 1, found.cell

    def coded(self, code: float) -> Tensor:
        """Return the numbers of a level, (width,)."""
        return torch.eye(self.width)[int(code)]

    def document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"kind": BATCH, "name": self.name, "levels": dict(self.levels), "dtype": self.dtype}


@dataclass(frozen=True)
class Measure:
    """A covariate of numbers, coded by its distance from the mean in standard deviations.

    A row without a number has the mean; a number outside the range of training is moved to it.

    Args:
        name: the column.
        mean: over the training rows.
        scale: the standard deviation over the training rows, 1 where all are equal.
        low: the smallest number of training.
        high: the largest.
    """

    name: str
    mean: float
    scale: float
    low: float
    high: float

    width = 1

    @classmethod
    def of(cls, name: str, columns: Sequence[NDArray[np.float64]]) -> Measure:
        """Return the covariate of what `look` has found in the parts of a column.

        Raises:
            DataError: E033 where no row has a number.
        """
        values = np.concatenate(columns)
        values = values[~np.isnan(values)]
        if not len(values):
            raise _without_values(name, COVARIATE)
        scale = float(values.std()) or 1.0
        return cls(name, float(values.mean()), scale, float(values.min()), float(values.max()))

    @staticmethod
    def look(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
        """Return the numbers of one part of a column, NaN where missing.

        Raises:
            DataError: E032 where a value is no number, E030 where it is infinite.
        """
        try:
            return floats(plain(column), name)
        except DataError as error:
            raise DataError(
                error.code,
                f"column {name!r} cannot be a covariate of numbers: {error.message}",
                fix=f"--batch {name} takes its values as levels",
                column=name,
            ) from error

    def encode(self, column: pa.ChunkedArray) -> CodedCovariate:
        """Return the standardised number of each row."""
        values = self.look(column, self.name)
        gone = np.isnan(values)
        held = np.clip(values, self.low, self.high)
        moved = int((held[~gone] != values[~gone]).sum())
        coded = np.where(gone, 0.0, (held - self.mean) / self.scale).astype(np.float32)
        return CodedCovariate(torch.from_numpy(coded)[:, None], 0, int(gone.sum()), moved)

    def decode(self, values: Tensor) -> pa.Array:
        """Return the number of each row."""
        return pa.array(values[:, 0].double().numpy() * self.scale + self.mean)

    def asked(self, value: object) -> tuple[float, pa.Array]:
        """Return the coded number and its cell.

        Raises:
            LowerboundError: E074 beyond the range of training, E245 for a missing value, E032 for
                one that is no number.
        """
        column = Numeric(
            name=self.name,
            kind="real",
            dtype="double",
            mean=self.mean,
            std=self.scale,
            low=self.low,
            high=self.high,
        )
        column.asked(value)  # refuses it, or rounds it to 32 bits
        number = float(floats(plain(one_cell(value, self.name)), self.name)[0])
        return (number - self.mean) / self.scale, pa.array([number])

    def coded(self, code: float) -> Tensor:
        """Return the coded number, (1,)."""
        return torch.tensor([code], dtype=torch.float32)

    def document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        numbers = {"mean": self.mean, "scale": self.scale, "low": self.low, "high": self.high}
        return {"kind": COVARIATE, "name": self.name, **numbers}


Covariate = Factor | Measure
_KINDS: dict[str, type[Factor] | type[Measure]] = {BATCH: Factor, COVARIATE: Measure}
_LOOKED = {**_KINDS, LABEL: Factor}


class CodedContext(NamedTuple):
    """The covariates of some rows.

    Attributes:
        values: (n, width).
        unseen: the number of rows by covariate of levels not seen in training, if any.
        missing: the number of rows by covariate without a number, if any.
        clipped: the number of rows by covariate whose number was moved, if any.
    """

    values: Tensor
    unseen: Mapping[str, int]
    missing: Mapping[str, int]
    clipped: Mapping[str, int]


@dataclass(frozen=True)
class Context:
    """The covariates that a model is conditional on.

    Args:
        covariates: factors and measures, in the order of the context's numbers.
    """

    covariates: tuple[Covariate, ...] = ()

    @classmethod
    def seen(cls, kinds: Mapping[str, str], parts: Iterable[Whole]) -> Context:
        """Return the covariates of rows.

        Args:
            kinds: "batch", "label" (also a factor) or "covariate" by the name of a column.
            parts: the rows, which are not looked at where there is no covariate.

        Raises:
            DataError: E031 for a missing column, E033 for one without values, E032 for text among
                numbers.
        """
        looked: dict[str, list[Any]] = {name: [] for name in kinds}
        for part in parts if kinds else ():
            for name, kind in kinds.items():
                looked[name].append(_LOOKED[kind].look(annotation(part, name), name))
        made = [_LOOKED[kind].of(name, looked[name]) for name, kind in kinds.items()]
        return cls(tuple(made))

    @classmethod
    def restored(cls, documents: Iterable[Mapping[str, Any]]) -> Context:
        """Rebuild the covariates from their documents."""
        made = []
        for document in documents:
            values = {name: value for name, value in document.items() if name != "kind"}
            made.append(_KINDS[document["kind"]](**values))
        return cls(tuple(made))

    def documents(self) -> list[dict[str, Any]]:
        """Return plain JSON values, which `restored` reads."""
        return [each.document() for each in self.covariates]

    @property
    def width(self) -> int:
        """The numbers that code a row."""
        return sum(each.width for each in self.covariates)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(each.name for each in self.covariates)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The covariates of levels."""
        return tuple(each for each in self.covariates if isinstance(each, Factor))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The covariates of numbers."""
        return tuple(each for each in self.covariates if isinstance(each, Measure))

    def spans(self) -> Iterator[tuple[Covariate, slice]]:
        """Yield each covariate and the place of its numbers."""
        start = 0
        for each in self.covariates:
            yield each, slice(start, start + each.width)
            start += each.width

    def encode(self, frame: Whole, others: Sequence[str] = ()) -> CodedContext:
        """Return the covariates of rows as numbers.

        Args:
            frame: the rows.
            others: columns that are not proposed in place of a missing one, such as genes.

        Raises:
            DataError: E031 for a missing column, E032 for text among numbers.
        """
        found = {each.name: each.encode(annotation(frame, each.name, others))
                 for each in self.covariates}  # fmt: skip
        values = [torch.zeros(frame.rows, 0), *(each.values for each in found.values())]
        return CodedContext(
            torch.cat(values, 1),
            {name: each.unseen for name, each in found.items() if each.unseen},
            {name: each.missing for name, each in found.items() if each.missing},
            {name: each.clipped for name, each in found.items() if each.clipped},
        )

    def decode(self, values: Tensor) -> dict[str, pa.Array]:
        """Return the columns of coded rows, (n, width), by name."""
        return {each.name: each.decode(values[:, span]) for each, span in self.spans()}

    def asked(self, name: str, value: object) -> tuple[float, pa.Array]:
        """Return the code of a value of a covariate, and its cell; see `Factor.asked`."""
        return next(each for each in self.covariates if each.name == name).asked(value)

    def imposed(self, values: Tensor, given: Mapping[str, float]) -> Tensor:
        """Return coded rows, (n, width), with the codes that `asked` gave in place of their own.

        Args:
            values: (n, width).
            given: codes by the name of the covariate.
        """
        made = values.clone()
        for each, span in self.spans():
            if each.name in given:
                made[:, span] = each.coded(given[each.name])
        return made

    def named(self, at: object) -> dict[str, object]:
        """Return values by the name of their covariate.

        Args:
            at: a mapping of values by name, or one value of the only covariate of levels; None
                for none.

        Raises:
            UsageError: E243 for a name that is no covariate, E279 for a value where the model has
                no covariate of levels, or several.
        """
        if at is None:
            return {}
        if isinstance(at, Mapping):
            for name in at:
                if name not in self.names:
                    near = nearest(str(name), self.names)
                    raise UsageError(
                        "E243",
                        f"the model is not conditional on {name!r}; it is on "
                        f"{listed(self.names) or 'nothing'}",
                        fix=f"did you mean {near!r}?" if near else "leave it out",
                    )
            return {str(name): value for name, value in at.items()}
        factors = [each.name for each in self.factors]
        if len(factors) == 1:
            return {factors[0]: at}
        raise UsageError(
            "E279",
            f"the batch {at!r} needs the name of its column: the model has "
            + (f"the batches {listed(factors)}" if factors else "no batches"),
            fix=f"--batch {factors[0]}={at}" if factors else "fit a model with --batch COLUMN",
        )


def split_kinds(types: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the declared kinds that are of covariates, and the others."""
    own = {name: kind for name, kind in types.items() if kind in _KINDS}
    return own, {name: kind for name, kind in types.items() if kind not in _KINDS}


def annotation(frame: Whole, name: str, others: Sequence[str] = ()) -> pa.ChunkedArray:
    """Return an annotation of the rows.

    Args:
        frame: the rows.
        name: of the annotation: a column of a table, or of `obs` of cells.
        others: names that are not proposed in its place, such as genes.

    Raises:
        DataError: E031 where it is missing.
    """
    table = frame.annotations
    if name in table.column_names:
        return table[name]
    near = nearest(name, [each for each in table.column_names if each not in {*others}])
    raise DataError(
        "E031",
        f"column {name!r} is missing from {frame.origin}"
        + (f"; found a similar name: {near!r}" if near else ""),
        # Columns that are not features, such as those of obs, cannot be renamed by a flag.
        fix=f"--rename {near}={name}" if near in frame.names else f"add the column {name!r}",
    )


def levels_of(column: pa.ChunkedArray, name: str) -> Levels:
    """Return the values of a column as text, and the code of each row."""
    column = computable(column)
    if pa.types.is_dictionary(column.type):
        kind = column.type.value_type
        parts = [chunk.dictionary_decode() for chunk in column.chunks]
        column = computable(pa.chunked_array(parts, kind))
    return levels(pa.concat_arrays(column.chunks or [pa.array([], column.type)]), name)


def _is_value(word: str | None) -> bool:
    """Return whether a text is the name of a level: not one of the words for missing values."""
    return word is not None and word.strip() not in MISSING_TEXT


def _without_values(name: str, kind: str) -> DataError:
    return DataError(
        "E033",
        f"column {name!r} cannot be the {kind}: no row has a value",
        fix="choose another column, or leave it out",
        column=name,
    )
