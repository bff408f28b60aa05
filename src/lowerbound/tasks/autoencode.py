"""Pictures of any size as maps of latents, and back, tile by tile.

The border of a tile is as wide as the networks reach, so that the maps do not depend on the tiles.
Beyond its edges, a picture or a map is mirrored.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.coding.crops import shares
from lowerbound.coding.rows import Rows, tiles
from lowerbound.errors import DataError, UsageError
from lowerbound.nn.distributions.base import moments
from lowerbound.nn.trace import Drawn, Trace, posterior_mean
from lowerbound.recipes.autoencoders import reach
from lowerbound.tasks.finite import finite, using
from lowerbound.tasks.restore import ROWS, TILE, expected, inside, windows
from lowerbound.tasks.state import TrainedState

Page = NDArray[Any]  # (H, W, C) of 8 or 16 bits


class Latents(NamedTuple):
    """q(z | x) of one picture: a normal distribution at each place.

    Attributes:
        mean: (latent, h, w) E[z | x].
        scale: (latent, h, w) the standard deviation of z given x.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @property
    def bits(self) -> float:
        """KL(q(z | x) || N(0, I)) of the whole picture, bits."""
        mean, variance = self.mean.astype(np.float64), np.square(self.scale.astype(np.float64))
        return float((mean**2 + variance - 1 - np.log(variance)).sum() / (2 * math.log(2)))


class Quality(NamedTuple):
    """The quality of pictures decoded from their latents.

    Attributes:
        psnr: peak signal-to-noise ratio of all pixels, dB.
        small_psnr: that of the pictures made as small as their latents, and bicubically enlarged.
        bits_per_pixel: KL(q(z | x) || p(z)), bits per pixel.
    """

    psnr: float
    small_psnr: float
    bits_per_pixel: float


class Sizes(NamedTuple):
    """The sizes that encoding and decoding need.

    Attributes:
        channels: of a picture.
        latent: channels of the latents.
        downscale: pixels per latent in each direction.
        reach: pixels on each side of a latent that it depends on.
    """

    channels: int
    latent: int
    downscale: int
    reach: int


def sizes_of(trained: TrainedState) -> Sizes:
    """Return the sizes of a model that encodes pictures.

    Raises:
        UsageError: E247 for another model.
    """
    if not trained.encodes:
        raise UsageError(
            "E247",
            f"a model of the recipe {trained.recipe.name!r} has no maps of latents",
            fix="lowerbound fit PICTURES --recipe autoencoder --out M.vae",
        )
    usual = {name: each.default for name, each in trained.recipe.parameters.items()}
    chosen = {**usual, **trained.arguments}
    channels, latent, downscale, depth = (
        int(chosen[name]) for name in ("channels", "latent", "downscale", "depth")
    )
    return Sizes(channels, latent, downscale, reach(depth, downscale))


@torch.no_grad()
def encode(model: nn.Module, picture: Tensor, sizes: Sizes, tile: int = TILE) -> Latents:
    """Encode one picture.

    The memory of the network depends on `tile` only.

    Args:
        model: the model.
        picture: (channels, H, W) in [0, 1], of any size.
        sizes: of the model.
        tile: height and width of a tile without its border, pixels.

    Returns:
        Maps of (latent, ceil(H / downscale), ceil(W / downscale)).
    """
    step = sizes.downscale
    height, width = (-(-n // step) for n in picture.shape[1:])
    found = [np.empty((sizes.latent, height, width), np.float32) for _ in Latents._fields]
    with using(model) as device:
        for window in windows(picture, tile, sizes.reach, step):
            x = window.values.to(device)
            maps = moments(posterior(model, x, step))
            place = window.top // step, window.left // step
            within, here = inside(maps[0], (height, width), place, window.edge // step)
            for target, made in zip(found, maps, strict=True):
                target[here] = made[0][within].cpu().numpy()
    return Latents(*found)


def posterior(model: nn.Module, x: Tensor, step: int) -> Distribution:
    """Return q(z | x) of pictures whose height and width are multiples of `step`."""
    trace = Trace(posterior_mean, x.shape[0], decode=False)
    model(x, trace, size_of(x, step))
    (site,) = trace.sites.values()
    assert site.q is not None, "the model has seen the picture"
    return site.q


def size_of(x: Tensor, step: int) -> Tensor:
    """Return the context of pictures: a tensor without numbers, of the size of their latents."""
    rows, _, height, width = x.shape
    return x.new_zeros(rows, 0, height // step, width // step)


@torch.no_grad()
def decode(model: nn.Module, z: Tensor, sizes: Sizes, tile: int = TILE) -> NDArray[np.float32]:
    """Decode one map of latents: E[x | z].

    Args:
        model: the model.
        z: (latent, h, w).
        sizes: of the model.
        tile: height and width of a tile without its border, pixels.

    Returns:
        (channels, h downscale, w downscale).
    """
    step = sizes.downscale
    height, width = (n * step for n in z.shape[1:])
    picture = np.empty((sizes.channels, height, width), np.float32)
    with using(model) as device:
        for window in windows(z, -(-tile // step), -(-sizes.reach // step), 1):
            made = decoded(model, window.values.to(device))
            place = window.top * step, window.left * step
            within, here = inside(made, (height, width), place, window.edge * step)
            picture[here] = made[0][within].cpu().numpy()
    return picture


def decoded(model: nn.Module, z: Tensor) -> Tensor:
    """Return E[x | z] of maps, (B, latent, h, w), without tiles."""

    def replay(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        return Drawn(z, None)

    return expected(model(None, Trace(replay, z.shape[0]), size_of(z, 1)))[0]


def encode_page(trained: TrainedState, page: Page, white: int | None = None) -> Latents:
    """Encode one picture, (H, W, C) of 8 or 16 bits.

    Args:
        trained: the model.
        page: the picture, with the channels of the model.
        white: the value of white of 16 bits; None is that of the training pictures.
    """
    top = white_of(trained, page.dtype, white)
    x = torch.from_numpy(np.moveaxis(shares(page, top), -1, 0).copy())
    found = encode(trained.model, x, sizes_of(trained))
    finite(found.mean, "latents")
    return found


def white_of(trained: TrainedState, kind: np.dtype[Any], white: int | None) -> int:
    """Return the value of white in pixels of 8 or 16 bits."""
    if kind == np.uint8:
        return int(np.iinfo(np.uint8).max)
    return white or trained.coding.wanted().white or int(np.iinfo(np.uint16).max)


def decode_page(
    trained: TrainedState,
    z: NDArray[Any],
    size: tuple[int, int] | None = None,
    white: int | None = None,
) -> Page:
    """Decode one map of latents.

    Args:
        trained: the model.
        z: (latent, h, w).
        size: (height, width) of the picture; None is that of all pixels of the latents.
        white: the value of white for grey pictures of 16 bits; None makes 8 bits.

    Returns:
        (H, W, C) of uint8, or of uint16 if `white` is given.

    Raises:
        DataError: E090 for an array that does not hold latents of this model.
    """
    sizes = sizes_of(trained)
    if z.ndim != 3 or z.shape[0] != sizes.latent or not z.size or z.dtype.kind != "f":
        raise DataError(
            "E090",
            f"latents of this model are floats of shape ({sizes.latent}, height, width), got "
            f"{z.dtype} of shape {list(z.shape)}",
            fix="lowerbound encode M.vae PICTURES --out LATENTS",
        )
    if not np.isfinite(z).all():
        raise DataError(
            "E090",
            "some of the latents are infinite or NaN",
            fix="lowerbound encode M.vae PICTURES --out LATENTS",
        )
    x = decode(trained.model, torch.from_numpy(z.astype(np.float32)), sizes)
    finite(x, "pictures")
    height, width = size or x.shape[1:]
    kind, top = (np.uint8, 255) if white is None else (np.uint16, white)
    shown = np.moveaxis(x[:, :height, :width], 0, -1)
    return np.rint(shown.clip(0, 1) * top).astype(kind)


def quality(model: nn.Module, rows: Rows) -> Quality:
    """Measure decoded crops, from the posterior means of their latents."""
    squares, pixels, nats = torch.zeros(2, dtype=torch.float64), 0, 0.0
    with using(model), torch.no_grad():
        for batch, real in tiles(rows, ROWS):
            assert batch.context is not None
            trace = Trace(posterior_mean, len(batch.x))
            mean = expected(model(batch.x, trace, batch.context))[0].clamp(0, 1)
            nats += trace.kl()[:real].double().sum().item()
            x = batch.x[:real]
            small = F.interpolate(x, size=batch.context.shape[2:], mode="bicubic", antialias=True)
            again = F.interpolate(small, size=x.shape[2:], mode="bicubic").clamp(0, 1)
            guesses = mean[:real], again
            squares += torch.stack([(guess - x).double().square().sum() for guess in guesses])
            pixels += x.numel()
    after, enlarged = (-10 * (squares / pixels).log10()).tolist()
    places = pixels / rows.take(torch.zeros(1, dtype=torch.long)).x.shape[1]
    return Quality(after, enlarged, nats / math.log(2) / places)
