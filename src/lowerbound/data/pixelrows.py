"""Pictures as rows of a model: held as they were given, coded a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data.batches import Batch

_CHUNK = 2**22  # pixels looked at in one piece


@dataclass(frozen=True)
class PixelRows:
    """Pictures, whose batches are float32 (B, C, H, W) of the coded range.

    Args:
        pixels: (n, H, W), (n, H, W, C) or (n, C, H, W) of any type of numbers; NaN is missing.
        shape: (C, H, W) of a coded picture.
        last: whether the channels of `pixels` come last.
        scale: raw values are coded ones times this.
    """

    pixels: NDArray[Any]
    shape: tuple[int, int, int]
    last: bool
    scale: float

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pixels)

    def take(self, index: Tensor) -> Batch:
        """Return the pictures at `index`."""
        x = self.pixels[index.numpy()]
        if x.ndim == 4 and self.last:
            x = np.moveaxis(x, -1, 1)
        x = np.ascontiguousarray(x, np.float32).reshape(len(x), *self.shape)
        if self.scale != 1.0:
            x /= np.float32(self.scale)
        return Batch(torch.from_numpy(x))


class Range(NamedTuple):
    """What the values of pictures are.

    Attributes:
        low: the smallest, 0 where it is above.
        high: the largest, 0 where it is below.
        whole: whether all are whole numbers.
        missing: the number of NaN.
    """

    low: float
    high: float
    whole: bool
    missing: int


def chunks(pixels: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Yield the pictures in pieces of bounded size, (some, cells) float32."""
    rows = max(1, _CHUNK // max(1, pixels[:1].size))
    for start in range(0, len(pixels), rows):
        piece = pixels[start : start + rows]
        yield piece.reshape(len(piece), -1).astype(np.float32)


def range_of(pixels: NDArray[Any]) -> Range:
    """Look at all pictures, a piece at a time."""
    if pixels.dtype.kind in "bu":  # whole numbers from 0 without gaps: no need for floats
        return Range(0.0, float(pixels.max(initial=0)), True, 0)
    low, high, whole, missing = 0.0, 0.0, True, 0
    for piece in chunks(pixels):
        seen = piece[~np.isnan(piece)]
        missing += piece.size - seen.size
        low, high = min(low, float(seen.min(initial=0))), max(high, float(seen.max(initial=0)))
        whole = whole and bool((np.rint(seen) == seen).all())
    return Range(low, high, whole, missing)


def seen_per_row(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many cells of each picture are not missing, (n,)."""
    cells = pixels[:1].size
    if pixels.dtype.kind != "f":
        return np.full(len(pixels), cells)
    return np.concatenate([(~np.isnan(piece)).sum(1) for piece in chunks(pixels)])
