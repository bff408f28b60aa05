"""Store counts in a scratch file: the nonzero entries, row by row."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.coding.rows import Batch, Sparse
from lowerbound.coding.stored import whole
from lowerbound.files import scratch

_WORD = 4  # bytes of a column's number, and of a value


class StoredSparse:
    """Sparse rows in a scratch file, in their original order.

    A row is its columns' numbers (int32) and then their values (float32): one read each.

    Args:
        file: the rows.
        starts: (n + 1,) entries before each row.
        features: how many columns there are.
        context: (n, ...) or None.
    """

    def __init__(
        self, file: BinaryIO, starts: NDArray[np.int64], features: int, context: Tensor | None
    ) -> None:
        self.file, self.starts, self.features, self.context = file, starts, features, context
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.starts) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process on this machine opens the same file."""
        return _elsewhere, (scratch.address(self.file), self.starts, self.features, self.context)

    def take(self, index: Tensor) -> Batch:
        """Return the rows at `index`, (len(index), features)."""
        x = np.zeros((len(index), self.features), np.float32)
        for dense, row in zip(x, index.tolist(), strict=True):
            first, last = (int(n) for n in self.starts[row : row + 2])
            words = np.empty((2, last - first), np.int32)
            if words.size:
                whole(os.preadv, self.file, words, 2 * _WORD * first)
                dense[words[0]] = words[1].view(np.float32)
        context = None if self.context is None else self.context.index_select(0, index)
        return Batch(torch.from_numpy(x), context)


def _elsewhere(at: scratch.Address, *rest: Any) -> StoredSparse:
    return StoredSparse(scratch.reopened(at), *rest)


def store(parts: Iterable[Sparse], shape: tuple[int, int]) -> tuple[StoredSparse, str]:
    """Write sparse rows to a scratch file.

    Args:
        parts: the rows, in order; one of them is in memory.
        shape: of all rows together.

    Returns:
        The rows, and a digest of their values.

    Raises:
        ResourceError: E301 where the disk has no room.
    """
    rows, features = shape
    digest, counts = hashlib.blake2b(digest_size=16), [np.zeros(1, np.int64)]
    contexts: list[Tensor] = []
    file, reserved, place = None, 0, 0
    for part in parts:
        words, lengths = _words(part)
        if file is None:
            # As many entries a row as in the first part: room that is reserved, and may grow.
            reserved = words.nbytes * -(-rows // len(part))
            file = scratch.file(max(1, reserved))
        with scratch.refusals(max(reserved, place + words.nbytes)):
            whole(os.pwritev, file, words, place)
        place += words.nbytes
        counts.append(lengths)
        contexts += [] if part.context is None else [part.context]
        for array in (lengths, words):
            digest.update(array.data)
    assert file is not None, "there are rows"
    starts = np.cumsum(np.concatenate(counts))
    assert len(starts) == rows + 1, "as many rows as were promised"
    context = torch.cat(contexts) if contexts else None
    return StoredSparse(file, starts, features, context), digest.hexdigest()


def _words(part: Sparse) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return rows in the layout of the file, and the number of entries of each."""
    starts = part.matrix.indptr.astype(np.int64)
    lengths = np.diff(starts)
    # Entry i of a row goes as far behind the row's first word as i, its value one row further.
    columns = np.arange(starts[-1]) + np.repeat(starts[:-1], lengths)
    words = np.empty(2 * int(starts[-1]), np.int32)
    words[columns] = part.matrix.indices
    words[columns + np.repeat(lengths, lengths)] = part.matrix.data.astype(np.float32).view("i4")
    return words, lengths
