"""Types of codings: coded rows, groups of coded columns, and the `Coding` protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.coding.augmentations import View
from lowerbound.coding.rows import Rows, subset
from lowerbound.columns.base import NO_ROWS
from lowerbound.files.data import Whole
from lowerbound.files.pictures.options import Wanted


@dataclass(frozen=True)
class Coded:
    """Coded rows for a model, with counts of unusual values found while coding.

    Attributes:
        rows: the coded rows.
        jacobian: computes `log_jacobian`, which most tasks have no need of.
        surcharge: (n,) nats that the score gains for columns that were constant in training and
            are not any more: log(rows + 2) each, by Laplace's rule of succession.
        unseen: values per column whose category is absent from the training rows.
        clipped: values per column that were clipped to the coded range.
        missing: missing values per column.
        notes: further notes for the user.
        view: the random change that training applies to `raw` at every step; None: no change.
        raw: the rows that `view` is applied to; `rows` are its results with a fixed seed.
        each: the number of rows per example; row i belongs to example i modulo their number.
        digest: a digest of the source of the rows, where it is cheaper than one of the rows.
        shuffled: whether the rows are in random order already.
        groups: the coded columns of each raw column, whose value is missing if all are NaN; None
            where rows have no columns.
        odd: the numbers of the rows, rising, that `unseen`, `clipped` and notes on values are
            about; only for rows of tables.
    """

    rows: Rows
    jacobian: Callable[[], NDArray[np.float64]]
    surcharge: NDArray[np.float64]
    unseen: Mapping[str, int] = field(default_factory=dict)
    clipped: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    view: View | None = None
    raw: Rows | None = None
    each: int = 1
    digest: str = ""
    shuffled: bool = False
    groups: Sequence[Sequence[int]] | None = None
    odd: NDArray[np.int64] = field(default_factory=lambda: NO_ROWS)

    @property
    def missing_share(self) -> float:
        """The share of missing values among those of all columns; 0 where rows have no columns."""
        values = len(self.rows) * len(self.groups or ())
        return sum(self.missing.values()) / values if values else 0.0

    @cached_property
    def log_jacobian(self) -> NDArray[np.float64]:
        """The log Jacobian, (n,) nats: log p(raw) - log p(coded)."""
        return self.jacobian()

    def part(self, index: Tensor) -> Coded:
        """Return the rows at `index` without the counts of unusual values."""
        i = index.numpy()
        return Coded(
            subset(self.rows, index),
            lambda: self.log_jacobian[i],
            self.surcharge[i],
            groups=self.groups,
        )


class Group(NamedTuple):
    """A raw column and the positions of its coded columns."""

    column: str
    parts: tuple[int, ...]


class Conditions(NamedTuple):
    """Values that samples are conditional on.

    Attributes:
        row: one coded row, NaN where it is open.
        cells: the values by column, (1,) each, in the columns' own types.
        notes: remarks for the user.
        context: of counts, the total and the codes of covariates, by name.
    """

    row: Tensor
    cells: Mapping[str, pa.Array]
    notes: Sequence[str] = ()
    context: Mapping[str, float] = MappingProxyType({})

    def imposed(self, table: pa.Table) -> pa.Table:
        """Return drawn rows with exactly the values that were asked, not decoded ones."""
        for name, cell in self.cells.items():
            same = pa.array(np.zeros(table.num_rows, np.int32))
            column = pa.concat_arrays([cell]).take(same)
            table = table.set_column(table.column_names.index(name), name, column)
        return table


class Coding(Protocol):
    """A conversion between raw rows and coded rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one raw example where each is a picture, else ()."""
        ...

    @property
    def groups(self) -> Sequence[Group]:
        """The raw columns that are modelled."""
        ...

    @property
    def gaps(self) -> bool:
        """Return whether a training value was missing."""
        ...

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the recipe that follow from the data."""
        ...

    def wanted(self) -> Wanted:
        """Return the options for reading picture files that `encode` needs."""
        ...

    def encode(self, frame: Whole) -> Coded:
        """Code the rows of `frame`."""
        ...

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Return raw columns for coded rows; `bounded` holds them to the range seen."""
        ...

    def means(self, values: NDArray[np.floating]) -> pa.Table:
        """Return raw columns for means of coded rows; those of counts are not whole."""
        ...

    def contexts(self, n: int, seed: int, given: Conditions | None = None) -> Tensor | None:
        """Return contexts of n rows to draw, as training had them; None without contexts."""
        ...

    def drawn(self, values: NDArray[np.floating], context: Tensor | None) -> pa.Table:
        """Return raw columns for drawn rows, held to the range seen, with their context."""
        ...

    def filled(self, frame: Whole, values: NDArray[np.floating]) -> pa.Table:
        """Return the rows of `frame` with missing values replaced by the decoded `values`."""
        ...

    def asked(self, where: Mapping[str, object]) -> Conditions:
        """Return values of columns, by name, as conditions of samples.

        Raises:
            LowerboundError: for a column that is not modelled, or a value it cannot have.
        """
        ...

    def document(self) -> dict[str, Any]:
        """Return plain JSON values that `restore` rebuilds the coding from."""
        ...


class WithoutContext:
    """The methods of codings whose models have no context."""

    def contexts(self, n: int, seed: int, given: Conditions | None = None) -> Tensor | None:
        """Return None: rows are drawn from p(x)."""
        return None

    def drawn(self: Coding, values: NDArray[np.floating], context: Tensor | None) -> pa.Table:
        """Return raw columns for drawn rows, held to the range seen."""
        return self.decode(values, bounded=True)

    def means(self: Coding, values: NDArray[np.floating]) -> pa.Table:
        """Return raw columns for means of coded rows."""
        return self.decode(values)


def table_of(frame: Whole) -> pa.Table:
    """Return the named columns of data; a sparse matrix becomes dense columns.

    Raises:
        DataError: E027 where the rows are images.
    """
    return frame.to_table().table
