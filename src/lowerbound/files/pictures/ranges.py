"""Find the range of the values of images, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2**22  # pixels looked at in one piece


class Range(NamedTuple):
    """The range of the values of images.

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
    """Return the range of all images, computed piece by piece."""
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
    """Return the number of values of each image that are not missing, (n,)."""
    cells = pixels[:1].size
    if pixels.dtype.kind != "f":
        return np.full(len(pixels), cells)
    return np.concatenate([(~np.isnan(piece)).sum(1) for piece in chunks(pixels)])
