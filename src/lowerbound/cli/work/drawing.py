"""Grids of pictures as PNG and GIF files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import ResourceError, UsageError
from lowerbound.files.write import atomic_write

GAP = 2  # pixels between the pictures of a grid
LEAST = 56  # least side of a picture in pixels: smaller ones are enlarged, each pixel to a square
PAUSE = 80  # milliseconds per frame of a GIF
SUFFIXES = (".png", ".gif")

Grey = NDArray[np.uint8]


def shades(values: NDArray[np.floating], highest: float) -> Grey:
    """Return values, (n, C, H, W), as (n, H, W, 3) shades from 0 to 255."""
    scaled = np.clip(np.nan_to_num(values, nan=0.0) / highest, 0, 1) * 255
    pictures = np.moveaxis(np.rint(scaled).astype(np.uint8), 1, -1)
    if pictures.shape[-1] not in (1, 3):
        pictures = pictures[..., :1]
    return np.repeat(pictures, 3, -1) if pictures.shape[-1] == 1 else pictures


def thumbnail(page: NDArray[Any], side: int) -> Grey:
    """Return a picture as (side, side, 3) on white, reduced if it is larger.

    Args:
        page: (H, W, C) of 8 or 16 bits.
        side: of the thumbnail, in pixels.
    """
    shallow = page if page.dtype == np.uint8 else (page >> 8).astype(np.uint8)
    image = _pillow().fromarray(np.repeat(shallow, 3, -1) if shallow.shape[-1] == 1 else shallow)
    image.thumbnail((side, side))
    small = np.asarray(image)
    sheet = np.full((side, side, 3), 255, np.uint8)
    top, left = ((side - n) // 2 for n in small.shape[:2])
    sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def enlarged(page: Grey, side: int) -> Grey:
    """Return a picture with each pixel as a square, as large as fits into `side` pixels."""
    factor = max(1, side // max(page.shape[:2]))
    return page.repeat(factor, 0).repeat(factor, 1)


def grid(pictures: Grey, columns: int) -> Grey:
    """Arrange pictures, (n, H, W, 3), in rows of `columns`; the last row is filled with white."""
    n, height, width, _ = pictures.shape
    factor = max(1, -(-LEAST // max(height, width)))
    pictures = pictures.repeat(factor, 1).repeat(factor, 2)
    height, width = height * factor, width * factor
    rows = -(-n // columns)
    size = rows * (height + GAP) + GAP, columns * (width + GAP) + GAP
    sheet = np.full((*size, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top = GAP + (i // columns) * (height + GAP)
        left = GAP + (i % columns) * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def write(frames: Sequence[Grey], target: Path, *, overwrite: bool = False) -> Path:
    """Write one frame as PNG, or several as a GIF that plays forwards and backwards.

    Raises:
        ResourceError: E310 without Pillow, E301 or E302 if the disk cannot be written.
        UsageError: E220 if the file exists and `overwrite` is false.
    """
    images = _pillow()
    pages = [images.fromarray(frame) for frame in frames]

    def save(file: Any) -> None:
        if target.suffix.lower() == ".png":
            pages[0].save(file, "PNG")
            return
        there_and_back = [*pages, *pages[-2:0:-1]]
        first, *rest = there_and_back
        first.save(file, "GIF", save_all=True, append_images=rest, duration=PAUSE, loop=0)

    return atomic_write(target, save, overwrite=overwrite)


def check_target(out: str | None) -> Path:
    """Return the file to write.

    Raises:
        UsageError: E232 if none is given, E222 for a name that is not that of a picture.
    """
    if out is None:
        raise UsageError("E232", "plot needs --out: the file to write", fix="--out picture.png")
    target = Path(out)
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(
            "E222",
            f"{target.name} is not a picture file: it must end in {' or '.join(SUFFIXES)}",
            fix=f"--out {target.with_suffix('.png')}",
        )
    return target


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ImportError:
        raise ResourceError(
            "E310", "pictures need Pillow, which is not installed",
            fix="pip install 'lowerbound[plots]'",
        ) from None  # fmt: skip
