"""Draw heat over pictures, to show their unusual parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lowerbound.cli.work.drawing import GAP, Grey

LEAST = 192  # least longer side in pixels: smaller pictures are enlarged, each pixel to a square
_SMOOTHING = 1 / 48  # share of the longer side to average over, because single pixels are noise
_FULL = 0.999  # the quantile over all pictures that gets the last colour
# From transparent over yellow and red to dark red; the last number is the opacity.
_AT = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
_COLOURS = np.array(
    [
        [255, 255, 255, 0.0],
        [255, 225, 80, 0.25],
        [255, 140, 20, 0.6],
        [225, 25, 25, 0.8],
        [110, 0, 30, 0.9],
    ]
)


def smoothed(excess: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the excess of pixels, (n, H, W) nats, averaged over neighbours, at least 0."""
    width = max(1.0, max(excess.shape[1:]) * _SMOOTHING)
    return np.stack([ndimage.gaussian_filter(each, width) for each in excess]).clip(min=0)


def draw(pictures: Grey, heat: NDArray[np.floating]) -> list[Grey]:
    """Draw each picture next to a copy with its heat; all pictures share one scale.

    Args:
        pictures: (n, H, W, C) of 8 bits, C being 1 or 3.
        heat: (n, H, W), at least 0, from `smoothed`.

    Returns:
        n arrays of (height, width, 3).
    """
    full = max(float(np.quantile(heat, _FULL)), 1e-9)
    return [_drawn(picture, each / full) for picture, each in zip(pictures, heat, strict=True)]


def _drawn(picture: Grey, heat: NDArray[np.floating]) -> Grey:
    colours = np.repeat(picture, 3, -1) if picture.shape[-1] == 1 else picture
    paint = np.stack([np.interp(heat, _AT, column) for column in _COLOURS.T], -1)
    cover = paint[..., 3:]
    # Half of the colour is removed, so that it is not taken for heat.
    faint = 0.5 * colours + 0.5 * colours.mean(-1, keepdims=True)
    over = (1 - cover) * faint + cover * paint[..., :3]
    factor = max(1, -(-LEAST // max(heat.shape)))
    both = [colours, np.rint(over).astype(np.uint8)]
    left, right = (side.repeat(factor, 0).repeat(factor, 1) for side in both)
    return np.concatenate([left, np.full((len(left), GAP * 2, 3), 255, np.uint8), right], 1)
