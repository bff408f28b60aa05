"""What any input becomes, and how results go back in the kind that came in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa


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


@dataclass(frozen=True)
class Frame:
    """An input as named columns, or as one sparse matrix.

    Attributes:
        table: named columns, or None when the input is sparse.
        matrix: the sparse matrix, or None.
        names: the names of the columns.
        native: gives results back in the input's kind.
        origin: what to call the input in messages.
        notes: lossless repairs that were made and must be reported.
        total: the number of rows of the whole input if it is known; reading may stop earlier.
    """

    table: pa.Table | None
    matrix: Any  # csr_matrix | None: scipy is imported only where one is made
    names: tuple[str, ...]
    native: Native = field(default_factory=ArrowNative)
    origin: str = "the table"
    notes: tuple[str, ...] = ()
    total: int | None = None

    @property
    def rows(self) -> int:
        """Return the number of rows that were read."""
        if self.table is not None:
            return self.table.num_rows
        return 0 if self.matrix is None else int(self.matrix.shape[0])


def size(rows: int, columns: int) -> str:
    """Spell a shape for messages."""
    return f"{rows:,} row{'s' * (rows != 1)} x {columns:,} column{'s' * (columns != 1)}"
