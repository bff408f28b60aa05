"""Pictures as they are embedded in a page: PNG data addresses, sheets and heat maps."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WIDEST = 96  # pixels of an embedded picture; larger ones are reduced
_SMALLEST = 48  # smaller ones are enlarged by the browser
_STRONG = 0.98  # quantile of the excess that has the strongest colour
_GAP = 2  # pixels between the pictures of a strip


def address(pixels: NDArray[np.uint8]) -> str:
    """Return a picture, (H, W, C) of 8 bits, as a data address of a PNG."""
    packed = io.BytesIO()
    _image(pixels).save(packed, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def reduced(pixels: NDArray[np.uint8], widest: int = _WIDEST) -> NDArray[np.uint8]:
    """Return pictures, (n, H, W, C), that are at most `widest` pixels high and wide."""
    step = math.ceil(max(pixels.shape[1:3]) / widest)
    if step == 1:
        return pixels
    n, height, width, channels = pixels.shape
    cut = pixels[:, : height // step * step, : width // step * step].astype(np.float32)
    means = cut.reshape(n, height // step, step, width // step, step, channels).mean((2, 4))
    return np.rint(means).astype(np.uint8)


def sheet(pixels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Return pictures, (n, H, W, C), side by side in rows of `columns`, with gaps."""
    n, height, width, channels = pixels.shape
    rows = math.ceil(n / columns)
    shape = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels)
    page = np.full(shape, 255, np.uint8)
    for place, picture in enumerate(pixels):
        top, left = (height + _GAP) * (place // columns), (width + _GAP) * (place % columns)
        page[top : top + height, left : left + width] = picture
    return page


def tiles(pixels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Return pictures, (n, H, W, C), side by side in rows of `columns`, without gaps."""
    n, height, width, channels = pixels.shape
    page = np.zeros((math.ceil(n / columns) * height, columns * width, channels), np.uint8)
    for place, picture in enumerate(pixels):
        top, left = height * (place // columns), width * (place % columns)
        page[top : top + height, left : left + width] = picture
    return page


def heated(pixels: NDArray[np.uint8], excess: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return grey pictures with their unusual pixels in red, (n, H, W, 3).

    Args:
        pixels: (n, H, W, C) of 8 bits.
        excess: (n, H, W) nats above the expected value.
    """
    grey = pixels.astype(np.float32).mean(-1, keepdims=True)
    strong = max(float(np.quantile(excess, _STRONG)), 1e-6)
    heat = np.clip(excess / strong, 0, 1)[..., None]
    red = np.array([230.0, 30.0, 20.0], np.float32)
    return np.rint(grey * (0.75 - 0.6 * heat) + red * heat * 0.85).clip(0, 255).astype(np.uint8)
