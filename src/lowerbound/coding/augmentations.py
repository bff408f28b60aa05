"""Random changes to the rows of a batch, drawn anew at every training step.

Pictures are (B, C, H, W) in [0, 1]. A degradation makes pairs for models that restore: the batch
that comes out holds what is wanted, and as its context what is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound.coding.rows import Batch

View = Callable[[Batch, torch.Generator], Batch]

_CODES = 255.0


def binarised(batch: Batch, source: torch.Generator) -> Batch:
    """Draw every pixel from a Bernoulli distribution with its grey level as the probability.

    References:
        Salakhutdinov & Murray, "On the quantitative analysis of deep belief networks", 2008:
        the dynamic binarisation of MNIST.
    """
    # One uniform draw and a comparison: a seventh of the time of torch.bernoulli.
    uniform = torch.rand(batch.x.shape, generator=source)
    return Batch((uniform < batch.x).to(batch.x.dtype), batch.context)


def turned(batch: Batch, source: torch.Generator) -> Batch:
    """Mirror each picture at random, and turn all of the batch or none by a right angle.

    What is wanted and what is given are turned alike; pictures must be square.
    """
    flips = torch.rand(len(batch.x), 2, generator=source) < 0.5
    transposed = bool(torch.rand((), generator=source) < 0.5)

    def turn(x: Tensor) -> Tensor:
        for axis, chosen in zip((2, 3), flips.unbind(1), strict=True):
            x = torch.where(chosen.view(-1, 1, 1, 1), x.flip(axis), x)
        return x.transpose(2, 3).contiguous() if transposed else x

    return Batch(turn(batch.x), None if batch.context is None else turn(batch.context))


@dataclass(frozen=True)
class Composed:
    """Two views, applied one after the other."""

    first: View
    second: View

    def __call__(self, batch: Batch, source: torch.Generator) -> Batch:
        """Return the result of the second view applied to that of the first."""
        return self.second(self.first(batch, source), source)


@dataclass(frozen=True)
class GaussianNoise:
    """Pairs of an image and the same image with Gaussian noise of random strength.

    Args:
        low: smallest standard deviation, in codes of 8 bits.
        high: largest.
        stored: whether what is given has been through a file of 8 bits: rounded, and cut at its
            ends. Published comparisons leave the noise as it is.
    """

    low: float
    high: float
    stored: bool = True

    def __call__(self, batch: Batch, source: torch.Generator) -> Batch:
        """Return the pairs."""
        x = batch.x
        strength = torch.rand(len(x), 1, 1, 1, generator=source)
        sigma = (self.low + (self.high - self.low) * strength) / _CODES
        given = x + sigma * torch.randn(x.shape, generator=source)
        return Batch(x, stored(given) if self.stored else given)


@dataclass(frozen=True)
class PoissonNoise:
    """Pairs of an image and the same image with Poisson noise, as from few photons.

    Args:
        low: smallest number of photons of a white pixel.
        high: largest.
    """

    low: float
    high: float

    def __call__(self, batch: Batch, source: torch.Generator) -> Batch:
        """Return the pairs."""
        x = batch.x
        share = torch.rand(len(x), 1, 1, 1, generator=source)
        peak = self.low * (self.high / self.low) ** share
        return Batch(x, stored(torch.poisson(x * peak, generator=source) / peak))


@dataclass(frozen=True)
class SaltAndPepperNoise:
    """Pairs of an image and the same image with some pixels set to black or white.

    Args:
        low: smallest share of pixels.
        high: largest.
    """

    low: float
    high: float

    def __call__(self, batch: Batch, source: torch.Generator) -> Batch:
        """Return the pairs."""
        x = batch.x
        share = self.low + (self.high - self.low) * torch.rand(len(x), 1, 1, 1, generator=source)
        place = torch.rand(len(x), 1, *x.shape[2:], generator=source)
        colour = (torch.rand(place.shape, generator=source) < 0.5).to(x.dtype)
        return Batch(x, torch.where(place < share, colour, x))


@dataclass(frozen=True)
class Downscaled:
    """Pairs of an image and a smaller copy (bicubic, antialiased, as by MATLAB and pillow).

    Args:
        scale: how many times smaller in each direction; the size must be a multiple of it.
        is_stored: whether the input is rounded to 8 bits, as by a file.
    """

    scale: int
    is_stored: bool = True

    def __call__(self, batch: Batch, source: torch.Generator) -> Batch:
        """Return the pairs."""
        small = shrunk(batch.x, self.scale)
        return Batch(batch.x, stored(small) if self.is_stored else small)


def shrunk(x: Tensor, scale: int) -> Tensor:
    """Return pictures `scale` times smaller: bicubic (a = -0.5) with antialiasing."""
    size = [n // scale for n in x.shape[2:]]
    return F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)


def stored(x: Tensor) -> Tensor:
    """Round values in [0, 1] to the 256 levels of an 8-bit file."""
    return (x.clamp(0, 1) * _CODES).round() / _CODES


@dataclass(frozen=True)
class OnlySize:
    """Pairs of an image and nothing but its size, for models of images of any size.

    Args:
        step: how many pixels are one step of the size; it must be a multiple of this.
    """

    step: int

    def __call__(self, batch: Batch, source: torch.Generator) -> Batch:
        """Return the pairs; given are (B, 0, H / step, W / step), which hold no number."""
        rows, _, height, width = batch.x.shape
        return Batch(batch.x, batch.x.new_zeros(rows, 0, height // self.step, width // self.step))


@dataclass(frozen=True)
class RandomHoles:
    """Pairs of the pixels in random holes of an image, and the image with these holes.

    Holes are rectangles and strokes, a few for each row. Wanted pixels outside of them are NaN.

    Args:
        most: the largest share of the picture's side that a hole takes.
        count: holes at most.
    """

    most: float = 0.5
    count: int = 4

    def __call__(self, batch: Batch, source: torch.Generator) -> Batch:
        """Return the pairs; given are (B, C + 1, H, W), the last channel 1 in a hole."""
        hole = self.holes(len(batch.x), (batch.x.shape[2], batch.x.shape[3]), source)
        return with_holes(batch.x, hole)

    def holes(self, rows: int, size: tuple[int, int], source: torch.Generator) -> Tensor:
        """Draw a mask of holes, (rows, 1, H, W) of bool."""
        height, width = size
        drawn = torch.rand(rows, self.count, 5, generator=source)
        y, x, tall, wide, present = drawn.unbind(2)
        # Every second hole is a stroke: long in one direction, a twentieth in the other.
        thin = torch.arange(self.count) % 2 == 1
        across = present < 0.5
        tall, wide = tall * self.most, wide * self.most
        tall = torch.where(thin & across, 0.05, tall)
        wide = torch.where(thin & ~across, 0.05, wide)
        rows_at = (torch.arange(height) + 0.5) / height
        columns_at = (torch.arange(width) + 0.5) / width
        inside_rows = (rows_at - y[..., None]).abs() < tall[..., None] / 2
        inside_columns = (columns_at - x[..., None]).abs() < wide[..., None] / 2
        there = torch.arange(self.count) <= present[:, :1] * self.count
        hole = inside_rows[..., None] & inside_columns[..., None, :] & there[..., None, None]
        return hole.any(1, keepdim=True)


def with_holes(x: Tensor, hole: Tensor) -> Batch:
    """Return the targets, NaN outside the holes, and the images with the holes marked.

    Args:
        x: (B, C, H, W).
        hole: (B, 1, H, W) of bool.
    """
    given = torch.cat([x.masked_fill(hole, 0.0), hole.to(x.dtype)], 1)
    return Batch(x.masked_fill(~hole, torch.nan), given)
