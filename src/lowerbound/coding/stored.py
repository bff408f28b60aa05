"""Store coded rows in a scratch file: shuffled once, read block by block."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound import noise
from lowerbound.coding.rows import Batch
from lowerbound.files import scratch
from lowerbound.files.shares import dealt

BLOCK = 1 << 14  # rows that are read together
_KEPT = 4  # blocks in memory: a batch may reach into the next one, and checks look at the first

Rows = NDArray[np.float32]


class Stored:
    """Rows of numbers in a file, in random order.

    Made by `store`. Row i of the file is any of the rows with equal probability, so that the
    first thousand are a random sample, and a pass that visits blocks in random order, and the
    rows of a block in random order, has batches of rows that have nothing to do with each other.

    Args:
        file: float32 numbers, row by row.
        shape: (rows, columns).
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int]) -> None:
        self.file, self.shape = file, shape
        self._blocks: OrderedDict[int, Rows] = OrderedDict()
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process on this machine opens the same file."""
        return _elsewhere, (scratch.address(self.file), self.shape)

    @property
    def blocks(self) -> list[range]:
        """The rows that are read together."""
        n = len(self)
        return [range(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]

    def take(self, index: Tensor) -> Batch:
        """Return the rows at `index`, (len(index), columns)."""
        place = index.numpy()
        block = place // BLOCK
        x = np.empty((len(place), self.shape[1]), np.float32)
        for number in np.unique(block):
            here = block == number
            x[here] = self._block(int(number))[place[here] - number * BLOCK]
        return Batch(torch.from_numpy(x))

    def _block(self, number: int) -> Rows:
        known = self._blocks.pop(number, None)
        self._blocks[number] = self.read(number) if known is None else known
        if len(self._blocks) > _KEPT:
            self._blocks.popitem(last=False)
        return self._blocks[number]

    def read(self, number: int) -> Rows:
        """Read a block of rows."""
        rows = min(BLOCK, self.shape[0] - number * BLOCK)
        x = np.empty((rows, self.shape[1]), np.float32)
        whole(os.preadv, self.file, x, self._place(number * BLOCK))
        return x

    def write(self, row: int, x: Rows) -> None:
        """Write rows from `row` on."""
        whole(os.pwritev, self.file, np.ascontiguousarray(x), self._place(row))

    def _place(self, row: int) -> int:
        return row * self.shape[1] * np.dtype(np.float32).itemsize


def _elsewhere(at: scratch.Address, shape: tuple[int, int]) -> Stored:
    return Stored(scratch.reopened(at), shape)


def whole(move: Callable[..., int], file: BinaryIO, x: NDArray[np.generic], place: int) -> None:
    """Read or write all of `x` at a byte offset, repeating system calls that move less."""
    left = x.data.cast("B")
    while len(left):
        moved = move(file.fileno(), [left], place)
        if not moved:
            raise OSError(f"a scratch file ends at byte {place:,}")
        left, place = left[moved:], place + moved


def store(parts: Iterable[Rows], shape: tuple[int, int], seed: int) -> tuple[Stored, str]:
    """Write rows to a scratch file in random order; every order is equally likely.

    Each part's rows are dealt to blocks at random, as many to each as its free places promise
    (the multivariate hypergeometric law of drawing without replacement); full blocks are then
    shuffled. A part and a block are in memory, whatever the number of rows.

    Args:
        parts: the rows, (n, columns) each.
        shape: of all rows together.
        seed: of the order.

    Returns:
        The rows, and a digest of their values in the order in which they came.

    Raises:
        ResourceError: E301 where the disk has no room.
    """
    rows, columns = shape
    stored = Stored(scratch.file(max(1, rows * columns * 4)), shape)
    rng = np.random.default_rng(noise.derive(seed, "store"))
    free = np.full(-(-rows // BLOCK), BLOCK)
    free[-1] = rows - BLOCK * (len(free) - 1)
    begins = np.arange(len(free)) * BLOCK
    digest = hashlib.blake2b(digest_size=16)
    for x in parts:
        digest.update(np.ascontiguousarray(x).data)
        counts = dealt(rng, len(x), free)
        mixed = x[rng.permutation(len(x))]
        for block, piece in _cut(mixed, counts):
            stored.write(int(begins[block]), piece)
            begins[block] += len(piece)
        free -= counts
    assert not free.any(), "as many rows as were promised"
    for number in range(len(free)):
        block = stored.read(number)
        stored.write(number * BLOCK, block[rng.permutation(len(block))])
    return stored, digest.hexdigest()


def _cut(x: Rows, counts: NDArray[np.int64]) -> Iterator[tuple[int, Rows]]:
    ends = np.cumsum(counts)
    for block in np.flatnonzero(counts):
        yield int(block), x[ends[block] - counts[block] : ends[block]]
