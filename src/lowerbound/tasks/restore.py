"""Restoration of pictures of any size with a conditional model, tile by tile.

A restored picture is E[x | y], the mean over draws of z from p(z | y) for the given picture y. Its
uncertainty is the standard deviation of x given y, from the variance between and within draws.
The noise of a draw depends only on the seed and the position in the picture, and tiles overlap by
the receptive field of the network, so that adjacent tiles agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, singledispatch
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

from lowerbound import noise
from lowerbound.coding.rows import Batch, Rows, tiles
from lowerbound.nn.distributions import base
from lowerbound.nn.distributions.base import Observed
from lowerbound.nn.trace import Drawn, Trace
from lowerbound.tasks.finite import using

TILE = 256  # pixels of the given picture, in each direction, that are computed together
BORDER = 48  # pixels around a tile that the network also reads
ROWS = 16  # crops that are restored together
_WIDTHS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 6.0)  # of Gaussian filters, pixels
_MEDIANS = (3, 5)  # sides of median filters, pixels


class Restored(NamedTuple):
    """A restored picture, its uncertainty, and some of the draws.

    Attributes:
        mean: (C, H, W) E[x | y]; for classes, their probabilities.
        spread: (C, H, W) standard deviation of x given y, in units of x.
        draws: (keep, C, H, W) E[x | y, z] for some draws of z.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    draws: NDArray[np.float32]


@dataclass(frozen=True)
class PositionNoise:
    """Standard normal noise that depends on the position, so that overlapping tiles share it.

    Args:
        seed: seed of the noise.
        top: top edge of the tile, in pixels of the given picture.
        left: left edge of the tile, in pixels of the given picture.
        side: height and width of the tile, in pixels of the given picture.
    """

    seed: int
    top: int
    left: int
    side: int

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return the noise of this tile, (draws, channels, h, w)."""
        draws, channels, height, width = shape
        stride = self.side // height
        rows = torch.arange(height) + self.top // stride
        columns = torch.arange(width) + self.left // stride
        keys = (rows[:, None] * 2**31 + columns + noise.derive("placed", self.seed)).flatten()
        normals = noise.Keyed(keys)(name, Size([len(keys) * draws, channels]), like)
        # Contiguous, because kernels are faster on contiguous tensors.
        return normals.view(height, width, draws, channels).permute(2, 3, 0, 1).contiguous()


def _from_prior(normals: noise.Noise, name: str, p: Distribution, q: Distribution | None) -> Drawn:
    return Drawn(base.draw(p, partial(normals, name))[0], None)


@torch.no_grad()
def restore(  # noqa: PLR0913 - each is a choice of the caller
    model: nn.Module,
    given: Tensor,
    *,
    draws: int = 8,
    seed: int = 0,
    scale: int = 1,
    multiple: int = 16,
    keep: int = 0,
    tile: int = TILE,
    border: int = BORDER,
) -> Restored:
    """Restore one picture.

    The memory of the network depends on `tile` only; besides that, only the result grows with the
    picture.

    Args:
        model: a conditional model: ``forward(None, trace, context)``.
        given: (C, H, W) the given picture, of any size.
        draws: number of draws of z; the result is their mean.
        seed: seed of the draws.
        scale: factor by which the result is larger than the given picture.
        multiple: the height and width of a tile are rounded up to a multiple of this.
        keep: number of draws to return in addition to their mean.
        tile: height and width of a tile without its border, pixels.
        border: width of the border around a tile, pixels.
    """
    _, height, width = given.shape
    result: Restored | None = None
    with using(model) as device:
        for window in windows(given, tile, border, multiple):
            top, left, edge = window.top, window.left, window.edge
            side = window.values.shape[-1]
            placed = PositionNoise(seed, top - edge, left - edge, side)
            trace = Trace(partial(_from_prior, placed), 1, draws)
            each, variance = expected(model(None, trace, window.values.to(device)))
            result = result or _empty(keep, each.shape[1], height * scale, width * scale)
            _put(result, each.cpu(), variance.cpu(), (top * scale, left * scale), edge * scale)
    assert result is not None
    return result


class Window(NamedTuple):
    """A tile of a map, with a border around it.

    Attributes:
        values: (1, C, side, side), the tile and its border; beyond the map, it is mirrored.
        top: top edge of the tile in the map.
        left: left edge of the tile in the map.
        edge: width of the border.
    """

    values: Tensor
    top: int
    left: int
    edge: int


def windows(given: Tensor, tile: int, border: int, multiple: int) -> Iterator[Window]:
    """Yield tiles that cover a map, (C, H, W), row by row.

    Args:
        given: the map.
        tile: height and width of a tile without its border.
        border: width of the border around a tile.
        multiple: the sizes of tiles and borders are rounded up to a multiple of this.
    """
    _, height, width = given.shape
    step, edge = _rounded(tile, multiple), _rounded(border, multiple)
    side = min(step + 2 * edge, _rounded(max(height, width) + 2 * edge, multiple))
    around = (edge, side, edge, side)  # enough for every tile that begins inside the map
    padded = _mirrored(given, around)
    for top, left in _places(height, width, side - 2 * edge):
        values = padded[None, :, top : top + side, left : left + side]
        yield Window(values, top, left, edge)


def inside(
    made: Tensor, size: tuple[int, int], place: tuple[int, int], edge: int
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the index of a tile's values without border, and that of their place in the result.

    Args:
        made: (..., h, w) the results for one window.
        size: (H, W) of the whole result.
        place: (top, left) of the tile in the result.
        edge: width of the border in `made`.
    """
    top, left = place
    tall = min(made.shape[-2] - 2 * edge, size[0] - top)
    wide = min(made.shape[-1] - 2 * edge, size[1] - left)
    within = (..., slice(edge, edge + tall), slice(edge, edge + wide))
    return within, (..., slice(top, top + tall), slice(left, left + wide))


def _rounded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _places(height: int, width: int, step: int) -> Iterator[tuple[int, int]]:
    for top in range(0, height, step):
        for left in range(0, width, step):
            yield top, left


def _mirrored(given: Tensor, around: tuple[int, int, int, int]) -> Tensor:
    """Pad a picture by reflection, repeatedly if the padding is larger than the picture."""
    left, right, top, bottom = around
    rows = _reflected(given.shape[1], top, bottom)
    columns = _reflected(given.shape[2], left, right)
    return given[:, rows][:, :, columns]


def _reflected(size: int, before: int, behind: int) -> Tensor:
    """Return the source index of each position of a reflected axis: 2 1 0 1 2 3 2 1 ..."""
    period = max(2 * (size - 1), 1)
    place = torch.arange(-before, size + behind) % period
    return torch.minimum(place, period - place).clamp_max(size - 1)


def _empty(draws: int, channels: int, height: int, width: int) -> Restored:
    shape = channels, height, width
    zeros = [np.zeros(s, np.float32) for s in (shape, shape, (draws, *shape))]
    return Restored(*zeros)


def _put(
    result: Restored, each: Tensor, variance: Tensor, place: tuple[int, int], edge: int
) -> None:
    """Write a tile without its border into the result."""
    _, height, width = result.mean.shape
    within, here = inside(each, (height, width), place, edge)
    draws = each[within]
    between = draws.var(0, correction=0)
    result.mean[here] = draws.mean(0).numpy()
    result.spread[here] = (between + variance[within].mean(0)).sqrt().numpy()
    result.draws[here] = draws[: len(result.draws)].numpy()


def restored_rows(model: nn.Module, rows: Rows, draws: int = 4) -> Iterator[tuple[Tensor, Batch]]:
    """Yield E[x | y], (b, C, H, W), and the rows themselves, a few rows at a time."""
    with using(model), torch.no_grad():
        for batch, real in tiles(rows, ROWS):
            assert batch.context is not None
            choose = partial(_from_prior, PositionNoise(0, 0, 0, batch.context.shape[2]))
            px = model(None, Trace(choose, len(batch.x), draws), batch.context)
            mean = expected(px)[0].unflatten(0, (-1, draws)).mean(1)
            yield mean[:real], Batch(batch.x[:real], batch.context[:real])


def commonest(rows: Rows) -> float:
    """Return the share of the most frequent class among the labelled pixels of pairs."""
    labels = torch.cat([batch.x[:real].flatten() for batch, real in tiles(rows, ROWS)])
    counts = labels[~labels.isnan()].long().bincount()
    return (counts.max() / counts.sum()).item() if len(counts) else 1.0


def decibels(model: nn.Module, rows: Rows) -> tuple[float, float]:
    """Return the peak signal-to-noise ratio of pairs in [0, 1], dB: as given, and restored.

    The squared error is averaged over the pixels of all pairs. The given picture is enlarged to
    the size of the target; NaN pixels are left out.
    """
    squares, pixels = torch.zeros(2, dtype=torch.float64), 0
    for mean, (x, given) in restored_rows(model, rows):
        assert given is not None
        seen = F.interpolate(given[:, : x.shape[1]], x.shape[2:], mode="bicubic")
        squares += torch.stack([(guess - x).double().square().nansum() for guess in (seen, mean)])
        pixels += int((~x.isnan()).sum())
    before, after = (-10 * (squares / pixels).log10()).tolist()
    return before, after


def filtered_decibels(rows: Rows) -> float:
    """Return the best peak signal-to-noise ratio that a classical filter reaches, dB.

    The filters are Gaussian ones of several widths and medians of 3 x 3 and 5 x 5 pixels; the one
    that suits these pairs best counts. Pixels that the given picture marks as unknown, such as
    those of holes, are left out of the Gaussian means.
    """
    squares, pixels = torch.zeros(len(_WIDTHS) + len(_MEDIANS), dtype=torch.float64), 0
    for batch, real in tiles(rows, ROWS):
        x, given = batch.x[:real], batch.context
        assert given is not None
        guesses = [torch.from_numpy(each) for each in _filtered(given[:real], x)]
        squares += torch.stack([(guess - x).double().square().nansum() for guess in guesses])
        pixels += int((~x.isnan()).sum())
    return (-10 * (squares.min() / pixels).log10()).item()


def _filtered(given: Tensor, x: Tensor) -> Iterator[NDArray[np.float32]]:
    """Yield the given pictures, at the size of x, after each classical filter."""
    ndimage = import_module("scipy.ndimage")
    large = F.interpolate(given, x.shape[2:], mode="bicubic").numpy()
    seen, marks = large[:, : x.shape[1]], large[:, x.shape[1] :]
    known = (1 - marks[:, :1]).clip(0, 1) if marks.shape[1] else np.ones_like(seen[:, :1])
    for width in _WIDTHS:
        sigma = (0, 0, width, width)
        weight = ndimage.gaussian_filter(known, sigma)
        yield ndimage.gaussian_filter(seen * known, sigma) / np.maximum(weight, 1e-6)
    for side in _MEDIANS:
        yield ndimage.median_filter(seen, (1, 1, side, side))


def accuracy(model: nn.Module, rows: Rows) -> float:
    """Return the share of labelled pixels whose likeliest class is right."""
    right = labelled = 0
    for mean, (x, _) in restored_rows(model, rows):
        right += int((mean.argmax(1, keepdim=True) == x).sum())  # NaN is equal to nothing
        labelled += int((~x.isnan()).sum())
    return right / labelled if labelled else float("nan")


@singledispatch
def expected(px: Distribution) -> tuple[Tensor, Tensor]:
    """Return the mean and variance of a likelihood at each pixel, (B, C, H, W) each.

    For classes, these are the probability of each class and the variance of its indicator.
    """
    return px.mean, px.variance


@expected.register
def _(px: Independent) -> tuple[Tensor, Tensor]:
    return expected(px.base_dist)


@expected.register
def _(px: Observed) -> tuple[Tensor, Tensor]:
    return expected(px.cells)


@expected.register
def _(px: Categorical) -> tuple[Tensor, Tensor]:
    probabilities = px.probs.squeeze(1).movedim(-1, 1)
    return probabilities, probabilities * (1 - probabilities)
