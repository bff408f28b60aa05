"""What any input becomes, and how results go back in the kind that came in."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Native(Protocol):
    """Gives a table back in the kind that the input had."""

    def wrap(self, table: pa.Table) -> Any:
        """Return the same rows and columns as a data frame, an array, ..."""
        ...


class ArrowNative:
    """Arrow in, Arrow out; files give Arrow tables too."""

    def wrap(self, table: pa.Table) -> pa.Table:
        """Return the table itself."""
        return table


PART = 1 << 16  # rows that are worked on together
PART_CELLS = 1 << 22  # cells of them: fewer rows of wide tables


def part_rows(columns: int) -> int:
    """Return how many rows of a table are worked on together: a function of its width alone."""
    return min(PART, 1 << max(4, (PART_CELLS // max(columns, 1)).bit_length() - 1))


@dataclass(frozen=True)
class Frame:
    """An input as named columns, as one sparse matrix, or as pictures.

    Attributes:
        table: named columns, or None.
        matrix: the sparse matrix, or None.
        names: the names of the columns; pictures have none.
        native: gives results back in the input's kind.
        origin: what to call the input in messages.
        notes: lossless repairs that were made and must be reported.
        total: the number of rows of the whole input if it is known; reading may stop earlier.
        typed: whether columns may be of different kinds. The columns of an array are numbers
            until the user says otherwise: nothing in it says that 0 and 1 are labels.
        pixels: pictures, (n, H, W), (n, H, W, C) or (n, C, H, W); NaN is missing; or None.
        files: the file of each row, where each has its own.
        labels: the folder of each of these files.
        pictures: pictures of any sizes, (H, W, C) each, for models that restore; or None.
        targets: what is to be made of each of them; None where that is made up.
        start: the number of the first row in the input that this is a part of.
        beside: what is known of each row and is no column of its own, as of annotated cells.
    """

    table: pa.Table | None
    matrix: Any  # csr_matrix | None: scipy is imported only where one is made
    names: tuple[str, ...]
    native: Native = field(default_factory=ArrowNative)
    origin: str = "the table"
    notes: tuple[str, ...] = ()
    total: int | None = None
    typed: bool = True
    pixels: NDArray[Any] | None = None
    files: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    pictures: Sequence[NDArray[Any]] | None = None
    targets: Sequence[NDArray[Any]] | None = None
    start: int = 0
    beside: pa.Table | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one example, where each is a picture and no row of columns."""
        return () if self.pixels is None else tuple(int(n) for n in self.pixels.shape[1:])

    def first(self, rows: int | None) -> Frame:
        """Return the first so many rows; None means all."""
        if rows is None:
            return self
        return replace(
            self,
            table=None if self.table is None else self.table.slice(0, rows),
            matrix=None if self.matrix is None else self.matrix[:rows],
            pixels=None if self.pixels is None else self.pixels[:rows],
            files=self.files[:rows],
            labels=self.labels[:rows],
            pictures=None if self.pictures is None else self.pictures[:rows],
            targets=None if self.targets is None else self.targets[:rows],
            beside=None if self.beside is None else self.beside.slice(0, rows),
        )

    def take(self, rows: NDArray[np.integer]) -> Frame:
        """Return the rows of these numbers, of a table or of a sparse matrix."""
        return replace(
            self,
            table=None if self.table is None else self.table.take(pa.array(rows)),
            matrix=None if self.matrix is None else self.matrix[rows],
            beside=None if self.beside is None else self.beside.take(pa.array(rows)),
        )

    def parts(self) -> Iterator[Frame]:
        """Yield the rows in order, part by part; pictures and sparse matrices are one part."""
        size = part_rows(len(self.names))
        if self.table is None or self.rows <= size:
            yield self
            return
        for start in range(0, self.rows, size):
            yield replace(
                self,
                table=self.table.slice(start, size),
                files=self.files[start : start + size],
                labels=self.labels[start : start + size],
                start=start,
            )

    def renamed(self, names: tuple[str, ...]) -> Self:
        """Return the same rows under other names of the columns."""
        table = None if self.table is None else self.table.rename_columns(list(names))
        return replace(self, table=table, names=names)

    def inference(self, types: Mapping[str, str], drop: Sequence[str]) -> dict[str, Any]:
        """Return the keyword arguments of `lowerbound.columns.schema.infer` for this input."""
        if self.typed or self.table is None:
            return {"types": types, "drop": drop}
        left = set(self.names).difference(types, drop)
        numbers = {
            name: "real"
            for name, column in zip(self.names, self.table.columns, strict=True)
            if name in left
            and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
        }
        # A pattern of the user's must still win: exact names go only where none matches.
        numbers = {n: k for n, k in numbers.items() if not any(fnmatch(n, t) for t in types)}
        return {"types": {**numbers, **types}, "drop": drop, "exclude_atoms": True}

    @property
    def rows(self) -> int:
        """Return the number of rows that were read."""
        if self.table is not None:
            return self.table.num_rows
        if self.pixels is not None:
            return len(self.pixels)
        if self.pictures is not None:
            return len(self.pictures)
        return 0 if self.matrix is None else int(self.matrix.shape[0])


def holds_counts(frame: Frame) -> bool:
    """Tell whether a sparse matrix holds nothing but whole numbers from 0."""
    if frame.matrix is None:
        return False
    values = frame.matrix.data
    return bool((values >= 0).all() and (values == np.floor(values)).all())


def together(frames: Sequence[Frame]) -> Frame:
    """Return the rows of tables, or of sparse matrices, under one another: what the first is."""
    first = frames[0]
    tables = [frame.table for frame in frames if frame.table is not None]
    matrices = [frame.matrix for frame in frames if frame.matrix is not None]
    known = [frame.beside for frame in frames if frame.beside is not None]
    return replace(
        first,
        table=pa.concat_tables(tables) if tables else None,
        matrix=importlib.import_module("scipy.sparse").vstack(matrices, "csr")
        if matrices
        else None,
        beside=pa.concat_tables(known) if known else None,
    )


def size(rows: int, columns: int) -> str:
    """Spell a shape for messages."""
    return f"{rows:,} row{'s' * (rows != 1)} x {columns:,} column{'s' * (columns != 1)}"
