"""Sprites: binary 64 x 64 images of one shape each, one for every combination of five factors.

Drawn by code, after dSprites (Matthey et al., "dSprites: disentanglement testing sprites dataset",
2017): the same factors, sizes and order, but not the same pixels. Two differences are deliberate:
all 40 orientations differ (in dSprites the first and the last are the same angle), and positions
are whole pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.coding.rows import Batch

SIDE = 64
SHAPES = ("square", "ellipse", "heart")
FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
_SCALES = np.linspace(0.5, 1.0, FACTORS["scale"])
_RADIUS = 14.0  # radius in pixels of the circle around a shape of scale 1
_MARGIN = 16  # least position of a centre in pixels, so that shapes stay in the image
# A canvas has its shape in the middle; every position is a window of the canvas.
_CANVAS = SIDE + FACTORS["x"] - 1

Inside = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]


def _square(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.68


def _ellipse(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (u / 0.96) ** 2 + (v / 0.54) ** 2 <= 1.0


def _heart(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    a, b = u / 0.76, 0.1 - v / 0.76  # v grows downwards, towards the tip
    return (a**2 + b**2 - 1) ** 3 - a**2 * b**3 <= 0


_INSIDE: dict[str, Inside] = dict(zip(SHAPES, (_square, _ellipse, _heart), strict=True))


class Sprites:
    """All 737,280 images as rows, drawn on access: x is (n, 1, 64, 64) of 0 and 1.

    Row number = ((((shape * 6 + scale) * 40 + orientation) * 32 + x) * 32 + y), as in dSprites.

    >>> sprites = Sprites()
    >>> len(sprites)
    737280
    >>> sprites.factors(torch.tensor([737279])).tolist()
    [[2, 5, 39, 31, 31]]
    >>> sprites.take(torch.tensor([0])).x.shape
    torch.Size([1, 1, 64, 64])
    """

    names = tuple(FACTORS)
    sizes = tuple(FACTORS.values())

    def __len__(self) -> int:
        """Return the number of images."""
        return prod(self.sizes)

    def factors(self, index: Tensor) -> Tensor:
        """Return the factors of rows, (n,) -> (n, 5) int64."""
        parts = np.unravel_index(index.numpy(), self.sizes)
        return torch.from_numpy(np.stack(parts, 1).astype(np.int64))

    def index(self, factors: Tensor) -> Tensor:
        """Return the row numbers of factors, (n, 5) -> (n,) int64."""
        rows = np.ravel_multi_index(tuple(factors.numpy().T), self.sizes)
        return torch.from_numpy(np.asarray(rows, np.int64))

    def take(self, index: Tensor) -> Batch:
        """Return the images at `index`, float32."""
        shape, scale, orientation, x, y = self.factors(index).numpy().T
        template = (shape * self.sizes[1] + scale) * self.sizes[2] + orientation
        # A shape moves right when its window moves left.
        images = self._windows[template, self.sizes[4] - 1 - y, self.sizes[3] - 1 - x]
        return Batch(torch.from_numpy(images).float().unsqueeze(1))

    @cached_property
    def _windows(self) -> NDArray[np.uint8]:
        """Return all images as views of the 720 shapes, (720, 32, 32, 64, 64)."""
        return np.lib.stride_tricks.sliding_window_view(_templates(), (SIDE, SIDE), (1, 2))


def _templates() -> NDArray[np.uint8]:
    """Return every shape in every scale and orientation, in the middle of a canvas of 95 x 95."""
    # The window at offset 31 has its centre of the shape at pixel 16, that at offset 0 at 47.
    middle = _MARGIN + FACTORS["x"] - 1
    at = np.arange(_CANVAS) - middle
    down, right = np.meshgrid(at, at, indexing="ij")
    angles = 2 * np.pi * np.arange(FACTORS["orientation"]) / FACTORS["orientation"]
    masks = []
    for shape in SHAPES:
        for scale in _SCALES:
            for angle in angles:
                c, s = np.cos(angle) / (_RADIUS * scale), np.sin(angle) / (_RADIUS * scale)
                masks.append(_INSIDE[shape](c * right + s * down, c * down - s * right))
    return np.stack(masks).astype(np.uint8)
