"""Images as the rows of a model: stored as given, coded batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.coding.rows import Batch


@dataclass(frozen=True)
class PixelRows:
    """Images that give float32 batches, (B, C, H, W), in the coded range.

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
