"""Crops of images of any sizes, as the training rows of models that work on any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound import noise
from lowerbound.coding.augmentations import View
from lowerbound.coding.rows import Batch, Rows

_FULL = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


def shares(pixels: NDArray, white: float | None = None) -> NDArray[np.float32]:
    """Scale pixels of 8 or 16 bits to [0, 1]; return other pixels as they are.

    Args:
        pixels: numbers of any type.
        white: the value that becomes 1, as higher ones do; None is the highest of the type.
    """
    if white is not None:
        return np.minimum(pixels.astype(np.float32) / np.float32(white), np.float32(1.0))
    return pixels.astype(np.float32) / np.float32(_FULL.get(pixels.dtype, 1.0))


@dataclass(frozen=True)
class Crops:
    """Square crops at positions that depend on the row's number and the seed alone.

    A picture smaller than a crop is mirrored at its borders.

    Args:
        pictures: (H, W, C) arrays of any sizes.
        size: of a crop, pixels.
        each: crops per picture; row i is of the picture i modulo their number.
        grid: places are multiples of it: the scale of a larger copy of the same pictures.
        seed: of the places.
    """

    pictures: Sequence[NDArray]
    size: int
    each: int
    grid: int = 1
    seed: int = 0

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.pictures) * self.each

    def take(self, index: Tensor) -> Batch:
        """Return the crops at `index`, (len(index), C, size, size), in [0, 1]."""
        places = noise.uniforms(index, 2, "crops", self.seed).numpy()
        which = (index % len(self.pictures)).tolist()
        crops = [self._crop(i, place) for i, place in zip(which, places, strict=True)]
        return Batch(torch.from_numpy(np.stack(crops)))

    def _crop(self, i: int, place: NDArray[np.float64]) -> NDArray[np.float32]:
        picture, grid = filled_out(self.pictures[i], self.size), self.grid
        free = [(n - self.size) // grid + 1 for n in picture.shape[:2]]
        top, left = (int(u * n) * grid for u, n in zip(place, free, strict=True))
        crop = picture[top : top + self.size, left : left + self.size]
        return np.moveaxis(shares(crop), -1, 0)


def filled_out(picture: NDArray, size: int) -> NDArray:
    """Mirror a picture at its borders until it is at least `size` high and wide."""
    while min(picture.shape[:2]) < size:
        missing = [min(max(0, size - n), max(n - 1, 0)) for n in picture.shape[:2]]
        mode = "reflect" if max(missing) else "edge"  # a single pixel has nothing to mirror
        wanted = missing if max(missing) else [max(0, size - n) for n in picture.shape[:2]]
        picture = np.pad(picture, [(0, wanted[0]), (0, wanted[1]), (0, 0)], mode)
    return picture


@dataclass(frozen=True)
class Paired:
    """Crops of targets and of input images at the same positions.

    Args:
        wanted: crops of the targets, such as masks.
        given: crops of the input images.
    """

    wanted: Crops
    given: Crops

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.wanted)

    def take(self, index: Tensor) -> Batch:
        """Return the pairs at `index`."""
        return Batch(self.wanted.take(index).x, self.given.take(index).x)


@dataclass(frozen=True)
class AugmentedRows:
    """Rows changed by a view, whose randomness depends on the row's number alone.

    Args:
        rows: the rows.
        view: the change that is applied to them.
        seed: of the view.
    """

    rows: Rows
    view: View
    seed: int = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def take(self, index: Tensor) -> Batch:
        """Return the rows at `index`."""
        whole = self.rows.take(index)
        shown = [
            self.view(_row(whole, i), noise.generator(self.seed, "seen", int(number)))
            for i, number in enumerate(index)
        ]
        contexts = [each.context for each in shown if each.context is not None]
        context = torch.cat(contexts) if contexts else None
        return Batch(torch.cat([each.x for each in shown]), context)


def _row(batch: Batch, i: int) -> Batch:
    context = None if batch.context is None else batch.context[i : i + 1]
    return Batch(batch.x[i : i + 1], context)
