"""Rows that a model can take batches of: a tensor, or a sparse matrix, dense by the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


CELLS = 1 << 17  # cells of rows that are computed together: fewer rows of large pictures


class Batch(NamedTuple):
    """Rows of data and what they are conditional on."""

    x: Tensor
    context: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        context = None if self.context is None else self.context.to(device)
        return Batch(self.x.to(device), context)


class Rows(Protocol):
    """What training and tasks know of a data set that fits in memory."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def take(self, index: Tensor) -> Batch:
        """Return the rows at `index`, (len(index), ...)."""
        ...


@dataclass(frozen=True)
class Dense:
    """Rows held as one tensor.

    Args:
        x: (n, ...) float tensor.
        context: (n, ...) or None.
    """

    x: Tensor
    context: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    def take(self, index: Tensor) -> Batch:
        """Return the rows at `index`."""
        context = None if self.context is None else self.context.index_select(0, index)
        return Batch(self.x.index_select(0, index), context)


@dataclass(frozen=True)
class Sparse:
    """Rows held as a scipy CSR matrix; only the rows of a batch are ever dense.

    Args:
        matrix: (n, features).
        context: (n, ...) or None.
    """

    matrix: csr_matrix
    context: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.matrix.indptr) - 1

    def take(self, index: Tensor) -> Batch:
        """Return the rows at `index` as a dense float32 tensor."""
        dense = self.matrix[index.numpy()].toarray().astype("float32", copy=False)
        context = None if self.context is None else self.context.index_select(0, index)
        return Batch(torch.from_numpy(dense), context)


def subset(rows: Rows, index: Tensor) -> Rows:
    """Return the rows at `index` as rows of their own, without a copy of the data."""
    return _Subset(rows, index)


@dataclass(frozen=True)
class _Subset:
    rows: Rows
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: Tensor) -> Batch:
        return self.rows.take(self.index.index_select(0, index))


def fingerprint(rows: Rows, chunk: int = 8192) -> str:
    """Return a digest of the values of all rows, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(rows), chunk):
        for part in rows.take(torch.arange(start, min(start + chunk, len(rows)))):
            if part is not None:
                digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def tile_of(rows: Rows, most: int) -> int:
    """Return how many of such rows are computed together: a function of their shape alone."""
    cells = rows.take(torch.zeros(1, dtype=torch.long)).x.numel()
    return min(most, 1 << max(2, (CELLS // cells).bit_length() - 1))


def tiles(rows: Rows, size: int) -> Iterator[tuple[Batch, int]]:
    """Yield (batch of exactly `size` rows, how many of them are real), in order.

    The last tile repeats its last row. Matrix products of one shape round in one way, so a row's
    numbers come out bit-equal however many rows stand beside it.
    """
    for start in range(0, len(rows), size):
        index = torch.arange(start, start + size).clamp_max(len(rows) - 1)
        yield rows.take(index), min(size, len(rows) - start)
