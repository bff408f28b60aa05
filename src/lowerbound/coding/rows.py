"""Rows that batches are taken from: a tensor, or a sparse matrix made dense by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


TILE_VALUES = 1 << 17  # cells of rows that are computed together: fewer rows of large pictures


class Batch(NamedTuple):
    """Rows of data and the context that they are conditional on."""

    x: Tensor
    context: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        context = None if self.context is None else self.context.to(device)
        return Batch(self.x.to(device), context)


class Rows(Protocol):
    """Rows that batches can be taken from, the interface of training and tasks."""

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
        absent: the features that no row has, which are NaN.
    """

    matrix: csr_matrix
    context: Tensor | None = None
    absent: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.matrix.indptr) - 1

    def take(self, index: Tensor) -> Batch:
        """Return the rows at `index` as a dense float32 tensor."""
        dense = self.matrix[index.numpy()].toarray().astype("float32", copy=False)
        if self.absent:
            dense[:, list(self.absent)] = float("nan")
        context = None if self.context is None else self.context.index_select(0, index)
        return Batch(torch.from_numpy(dense), context)


def subset(rows: Rows, index: Tensor | range) -> Rows:
    """Return the rows at `index` as rows of their own, without a copy of the data."""
    return _Span(rows, index) if isinstance(index, range) else _Subset(rows, index)


@dataclass(frozen=True)
class _Subset:
    rows: Rows
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: Tensor) -> Batch:
        return self.rows.take(self.index.index_select(0, index))


@dataclass(frozen=True)
class _Span:
    """Consecutive rows, stored as a range instead of a list of indices."""

    rows: Rows
    span: range

    def __len__(self) -> int:
        return len(self.span)

    def take(self, index: Tensor) -> Batch:
        return self.rows.take(index + self.span.start)

    @property
    def blocks(self) -> list[range]:
        """The parts of the blocks within the span, counted from its first row."""
        first, last = self.span.start, self.span.stop
        found = (
            range(max(b.start, first) - first, min(b.stop, last) - first)
            for b in blocks_of(self.rows)
        )
        return [block for block in found if len(block)]


def blocks_of(rows: Rows) -> Sequence[range]:
    """Return the ranges of rows that should be read together: one range for rows in memory."""
    return getattr(rows, "blocks", [range(len(rows))])


def visits(rows: Rows, source: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of all rows in random order, block by block."""
    blocks = blocks_of(rows)
    order = [0] if len(blocks) == 1 else torch.randperm(len(blocks), generator=source).tolist()
    for number in order:
        block = blocks[number]
        yield torch.randperm(len(block), generator=source) + block.start


def batched(pieces: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Yield full batches of indices, which may span several pieces."""
    waiting = torch.empty(0, dtype=torch.long)
    for piece in pieces:
        waiting = torch.cat([waiting, piece]) if len(waiting) else piece
        whole = len(waiting) // size
        for i in range(whole):
            yield waiting[i * size : (i + 1) * size]
        waiting = waiting[whole * size :]


def fingerprint(rows: Rows, chunk: int = 8192) -> str:
    """Return a digest of the values of all rows, in order, reading at most `chunk` at a time."""
    digest, chunk = hashlib.blake2b(digest_size=16), tile_of(rows, chunk)
    for start in range(0, len(rows), chunk):
        for part in rows.take(torch.arange(start, min(start + chunk, len(rows)))):
            if part is not None:
                digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def tile_of(rows: Rows, most: int, flat: int = 0) -> int:
    """Return the number of rows to compute together, which depends on their shape alone.

    Args:
        rows: the rows.
        most: of them.
        flat: the values that flat rows may have together, if more than `TILE_VALUES`.
    """
    x = rows.take(torch.zeros(1, dtype=torch.long)).x
    cells = max(TILE_VALUES, flat) if x.dim() == 2 else TILE_VALUES
    return min(most, 1 << max(2, (cells // x.numel()).bit_length() - 1))


def tiles(rows: Rows, size: int) -> Iterator[tuple[Batch, int]]:
    """Yield (batch of exactly `size` rows, number of real rows in it), in order.

    The last tile repeats its last row. Matrix products of one shape round in one way, so a row's
    results are bit-equal for any number of other rows.
    """
    for start in range(0, len(rows), size):
        index = torch.arange(start, start + size).clamp_max(len(rows) - 1)
        yield rows.take(index), min(size, len(rows) - start)
