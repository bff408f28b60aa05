"""The shapes of data: tables, matrices, images and pairs of images, whole or streamed."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.columns.arrow import computable
from lowerbound.errors import DataError


class Native(Protocol):
    """Converts tables of results to the container that the data came in."""

    def wrap(self, table: pa.Table) -> Any:
        """Return the same rows and columns as a data frame, an array, ..."""
        ...

    def renamed(self, names: tuple[str, ...]) -> Native:
        """Return the same for tables whose columns have other names."""
        ...


class ArrowNative:
    """Returns Arrow tables, for data from Arrow tables and from files."""

    def wrap(self, table: pa.Table) -> pa.Table:
        """Return the table itself."""
        return table

    def renamed(self, names: tuple[str, ...]) -> ArrowNative:
        """Return the same: names are part of a table."""
        return self


LABEL = "label"  # the column of the classes of pictures
PART = 1 << 16  # rows that are processed together
PART_CELLS = 1 << 22  # values that are processed together: wide tables have fewer rows in a part


def part_rows(columns: int) -> int:
    """Return the number of rows in one part of a table, which depends on its width alone."""
    return min(PART, 1 << max(4, (PART_CELLS // max(columns, 1)).bit_length() - 1))


def _taken(table: pa.Table, rows: NDArray[np.integer]) -> pa.Table:
    """Return rows of a table whose columns may have types that `pyarrow` cannot take from."""
    index, columns = pa.array(rows), []
    for column in table.columns:
        try:
            columns.append(column.take(index))
        except pa.ArrowNotImplementedError:
            columns.append(computable(column).take(index))
    return pa.table(columns, names=table.column_names) if columns else table.take(index)


@dataclass(frozen=True, kw_only=True)
class Data(ABC):
    """Rows of one shape, in memory (`Whole`) or read part by part (`Stream`).

    Attributes:
        native: converts results to the container that the data came in.
        origin: the name of the data in messages.
        notes: lossless repairs that were made and must be reported.
        start: the index of the first row in the data that these rows are a part of.
        files: the file of each row, where each row has its own file.
        labels: the label of each row, such as the folder of its file.
        unreadable: the files that were left out, and why; None if the data are no picture files.
        layer: the layer of an AnnData that was asked for, or "".
    """

    native: Native = field(default_factory=ArrowNative)
    origin: str = "the table"
    notes: tuple[str, ...] = ()
    start: int = 0
    files: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] | None = None
    layer: str = ""

    examples: ClassVar[str] = "rows"  # the plural noun for what a model learns from

    @property
    @abstractmethod
    def rows(self) -> int:
        """The number of rows."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The label of each row, where the rows are pictures and all have one; else ()."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns; () for images."""
        return ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, where all rows are images of one size; else ()."""
        return ()

    @property
    def dimensions(self) -> str:
        """The unit of a row and its size, as printed after the number of rows."""
        return f"rows x {len(self.names):,} columns"

    @abstractmethod
    def first(self, rows: int | None) -> Whole:
        """Return the first `rows` rows; None means all."""

    @abstractmethod
    def parts(self) -> Iterator[Whole]:
        """Yield the rows in order, part by part."""

    @abstractmethod
    def whole(self) -> Whole:
        """Return all rows in memory.

        Raises:
            ResourceError: E303 where they do not fit.
        """

    def renamed(self, names: tuple[str, ...]) -> Self:
        """Return the same rows with other names for the columns."""
        assert len(names) == len(self.names), "a name for every column"
        return self

    def only(self, names: Collection[str]) -> Data:
        """Return the data without reading columns other than `names`, where that saves time."""
        return self

    def selected(self, names: Sequence[str]) -> Data:
        """Return the rows with these columns alone, in this order.

        Raises:
            DataError: E027 where the rows are images.
        """
        return self.whole().to_table().selected(names)


@dataclass(frozen=True, kw_only=True)
class Whole(Data):
    """Rows in memory.

    Attributes:
        total: the number of rows of the whole input, if it is known; reading may stop earlier.
    """

    total: int | None = None

    @property
    def holds_counts(self) -> bool:
        """True for a matrix of non-negative whole numbers only."""
        return False

    @property
    def dense_bytes(self) -> int:
        """The bytes that unpacking the rows into float64 columns takes; 0 if they are dense."""
        return 0

    @property
    def annotations(self) -> pa.Table:
        """The columns that identify or group rows: the columns of a table, labels of cells."""
        return pa.table({})

    def first(self, rows: int | None) -> Self:
        """Return the first `rows` rows; None means all."""
        return self if rows is None else self.cut(slice(0, rows))

    @abstractmethod
    def cut(self, rows: slice) -> Self:
        """Return consecutive rows, without a copy where that is possible."""

    def parts(self) -> Iterator[Self]:
        """Yield the rows in order, part by part; matrices and images are one part."""
        yield self

    def whole(self) -> Self:
        """Return the data itself."""
        return self

    @abstractmethod
    def to_table(self) -> Table:
        """Return the rows as a table.

        Raises:
            DataError: E027 where the rows are images.
        """


@dataclass(frozen=True, kw_only=True)
class Columnar(Whole):
    """Rows of named columns: the base of `Table` and `Matrix`."""

    @abstractmethod
    def take(self, rows: NDArray[np.integer]) -> Self:
        """Return the rows at these indices."""

    @abstractmethod
    def joined(self, others: Sequence[Self]) -> Self:
        """Return these rows followed by those of `others`."""

    def compact(self) -> Self:
        """Return the same rows with each column in one block of memory."""
        return self


@dataclass(frozen=True)
class Table(Columnar):
    """A table of named columns of any types.

    Attributes:
        table: the columns.
        typed: whether columns may be of different kinds. The columns of an array are real numbers
            until the user declares otherwise: nothing in an array marks 0 and 1 as labels.
    """

    table: pa.Table
    typed: bool = field(default=True, kw_only=True)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.table.num_rows

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.table.column_names)

    @property
    def annotations(self) -> pa.Table:
        """The columns."""
        return self.table

    def cut(self, rows: slice) -> Self:
        """Return consecutive rows, without a copy."""
        start, stop, _ = rows.indices(self.rows)
        return replace(
            self,
            table=self.table.slice(start, stop - start),
            files=self.files[rows],
            labels=self.labels[rows],
            start=self.start + start,
        )

    def parts(self) -> Iterator[Self]:
        """Yield the rows in order, part by part."""
        size = part_rows(len(self.names))
        if self.rows <= size:
            yield self
            return
        for start in range(0, self.rows, size):
            yield self.cut(slice(start, start + size))

    def take(self, rows: NDArray[np.integer]) -> Self:
        """Return the rows at these indices; run ends and views are decoded."""
        return replace(self, table=_taken(self.table, rows))

    def joined(self, others: Sequence[Self]) -> Self:
        """Return these rows followed by those of `others`."""
        return replace(self, table=pa.concat_tables([self.table, *(o.table for o in others)]))

    def selected(self, names: Sequence[str]) -> Self:
        """Return the rows with these columns alone."""
        return replace(self, table=self.table.select(list(names)))

    def compact(self) -> Self:
        """Return the same rows with each column in one block of memory."""
        return replace(self, table=self.table.combine_chunks())

    def renamed(self, names: tuple[str, ...]) -> Self:
        """Return the same rows with other names for the columns."""
        table = self.table.rename_columns(list(names))
        return replace(self, table=table, native=self.native.renamed(names))

    def to_table(self) -> Table:
        """Return the table itself."""
        return self

    def inference(self, types: Mapping[str, str], drop: Sequence[str]) -> dict[str, Any]:
        """Return the keyword arguments of `lowerbound.columns.schema.infer` for this table."""
        if self.typed:
            return {"types": types, "drop": drop}
        left = set(self.names).difference(types, drop)
        numbers = {
            name: "real"
            for name, column in zip(self.names, self.table.columns, strict=True)
            if name in left
            and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
        }
        # A pattern that the user gave must win: exact names are added only where none matches.
        numbers = {n: k for n, k in numbers.items() if not any(fnmatch(n, t) for t in types)}
        return {"types": {**numbers, **types}, "drop": drop, "exclude_atoms": True}


@dataclass(frozen=True)
class Matrix(Columnar):
    """A sparse matrix of numbers, one column for each feature.

    Attributes:
        matrix: (n, features) in CSR format.
        columns: the names of the features.
        obs: values of each row that are not features, as in `AnnData.obs`.
    """

    matrix: Any  # csr_matrix: scipy is imported only where one is made
    columns: tuple[str, ...]
    obs: pa.Table | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.matrix.shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features."""
        return self.columns

    @property
    def holds_counts(self) -> bool:
        """True if the matrix holds non-negative whole numbers only."""
        values = self.matrix.data
        return bool((values >= 0).all() and (values == np.floor(values)).all())

    @property
    def dense_bytes(self) -> int:
        """The bytes that the matrix takes as float64 columns."""
        return self.rows * len(self.columns) * 8

    @property
    def annotations(self) -> pa.Table:
        """Values of each row that are not features."""
        return pa.table({}) if self.obs is None else self.obs

    def cut(self, rows: slice) -> Self:
        """Return consecutive rows."""
        start, stop, _ = rows.indices(self.rows)
        obs = None if self.obs is None else self.obs.slice(start, stop - start)
        return replace(self, matrix=self.matrix[rows], obs=obs, start=self.start + start)

    def take(self, rows: NDArray[np.integer]) -> Self:
        """Return the rows at these indices."""
        obs = None if self.obs is None else _taken(self.obs, rows)
        return replace(self, matrix=self.matrix[rows], obs=obs)

    def joined(self, others: Sequence[Self]) -> Self:
        """Return these rows followed by those of `others`."""
        everything = (self, *others)
        known = [each.obs for each in everything if each.obs is not None]
        stack = importlib.import_module("scipy.sparse").vstack
        return replace(
            self,
            matrix=stack([each.matrix for each in everything], "csr"),
            obs=pa.concat_tables(known) if known else None,
        )

    def renamed(self, names: tuple[str, ...]) -> Self:
        """Return the same rows with other names for the features."""
        return replace(self, columns=names)

    def selected(self, names: Sequence[str]) -> Self:
        """Return the rows with these features alone."""
        place = {name: i for i, name in enumerate(self.columns)}
        at = [place[name] for name in names]
        return replace(self, matrix=self.matrix[:, at].tocsr(), columns=tuple(names))

    def to_table(self) -> Table:
        """Return the matrix as dense columns of real numbers."""
        dense = self.matrix.toarray()
        return Table(
            pa.table({name: dense[:, i] for i, name in enumerate(self.columns)}),
            typed=False,
            native=self.native,
            origin=self.origin,
            notes=self.notes,
            start=self.start,
            total=self.total,
        )


@dataclass(frozen=True)
class Images(Whole):
    """Images of one size in one array.

    Attributes:
        pixels: (n, H, W), (n, H, W, C) or (n, C, H, W); NaN is missing.
        white: the value of white in files of 16 bits that were rounded to 8; None without any.
        all_frames: whether each frame or page of a file is an image of its own.
    """

    pixels: NDArray[Any]
    white: int | None = field(default=None, kw_only=True)
    all_frames: bool = field(default=False, kw_only=True)

    @property
    def classes(self) -> tuple[str, ...]:
        """The label of each image, such as its folder, where all have one; else ()."""
        return self.labels if all(self.labels) else ()

    @property
    def annotations(self) -> pa.Table:
        """The class of each image as the column `LABEL`, where each has one."""
        return pa.table({LABEL: pa.array(self.classes)}) if self.classes else pa.table({})

    @property
    def rows(self) -> int:
        """The number of images."""
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return tuple(int(n) for n in self.pixels.shape[1:])

    @property
    def dimensions(self) -> str:
        """The size of the images, as printed after their number."""
        return f"pictures of {' x '.join(map(str, self.shape))}"

    def cut(self, rows: slice) -> Self:
        """Return consecutive images, without a copy."""
        return replace(
            self,
            pixels=self.pixels[rows],
            files=self.files[rows],
            labels=self.labels[rows],
            start=self.start + rows.indices(self.rows)[0],
        )

    def to_table(self) -> Table:
        """Refuse: images have no columns.

        Raises:
            DataError: E027.
        """
        raise DataError(
            "E027",
            f"{self.origin} has {len(self.shape) + 1} dimensions; a table has 2. Reshape your "
            "data",
            fix="array.reshape(len(array), -1) makes each example one row; --recipe conv models "
            "pictures",
            shape=[self.rows, *self.shape],
        )


@dataclass(frozen=True)
class ImagePairs(Whole):
    """Images of any sizes, and the target that a model must make from each, if that is given.

    Attributes:
        pictures: (H, W, C) each.
        targets: the target of each image; None where it is derived from the image.
        white: as of `Images`.
        all_frames: as of `Images`.
    """

    pictures: Sequence[NDArray[Any]]
    targets: Sequence[NDArray[Any]] | None = None
    white: int | None = field(default=None, kw_only=True)
    all_frames: bool = field(default=False, kw_only=True)

    examples: ClassVar[str] = "crops"

    @property
    def rows(self) -> int:
        """The number of images."""
        return len(self.pictures)

    @property
    def dimensions(self) -> str:
        """The kind of the images, as printed after their number."""
        return "pictures" + ("" if self.targets is None else " and the target of each")

    def cut(self, rows: slice) -> Self:
        """Return consecutive images and their targets."""
        return replace(
            self,
            pictures=self.pictures[rows],
            targets=None if self.targets is None else self.targets[rows],
            files=self.files[rows],
            labels=self.labels[rows],
            start=self.start + rows.indices(self.rows)[0],
        )

    def to_table(self) -> Table:
        """Refuse: images have no columns.

        Raises:
            DataError: E027.
        """
        raise DataError(
            "E027",
            f"{self.origin} holds pictures of any sizes; a table has rows and columns",
            fix="give a table, or a recipe that restores pictures",
            shape=[self.rows],
        )


def size(rows: int, columns: int) -> str:
    """Return a shape as text for messages."""
    return f"{rows:,} row{'s' * (rows != 1)} x {columns:,} column{'s' * (columns != 1)}"
