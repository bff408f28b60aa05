"""An autoencoder of pictures of any size, whose latents are maps.

Pictures are (B, channels, H, W) in [0, 1]. Encoder and decoder are convolutions without
normalisation, so that a large picture can be encoded and decoded in tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import nn

from lowerbound.coding.augmentations import OnlySize
from lowerbound.coding.pairs import Autoencoding, PairsFor
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.families import Conditional
from lowerbound.nn.latents.posteriors import Residual
from lowerbound.nn.latents.priors import StandardNormalMap
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.convolutions import SizedImageState
from lowerbound.nn.networks.mlp import Concat, Single
from lowerbound.nn.networks.unet import blocks
from lowerbound.recipes.images import positive
from lowerbound.recipes.record import Recipe
from lowerbound.recipes.restoration import REACH, of_shares

DOWNSCALE = 8
_DOWNSCALES = (2, 4, 8, 16)
# A small weight of the KL, as in latent diffusion. The likelihood learns its sigma, so that the
# weight need not follow the error. Not measured against weight 1.
_BETA = 0.1


def reach(depth: int, downscale: int) -> int:
    """Return the pixels on each side of a latent that it depends on, or that depend on it.

    Convolutions of 3 x 3 reach one step of their scale: one of 2 pixels, one of `downscale`, and
    two for each residual block of the scales 2, 4, ..., `downscale`.

    >>> reach(depth=1, downscale=8)
    38
    """
    return 2 + downscale + 4 * depth * (downscale - 1)


def autoencoder(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    channels: int = 3,
    downscale: int = DOWNSCALE,
    latent: int = 4,
    width: int = 32,
    depth: int = 1,
    likelihood: str = "optimal",
) -> LatentModel:
    """A VAE of pictures of any size with maps of latents, the first stage of latent diffusion.

    The latents are (B, latent, H / downscale, W / downscale), a priori N(0, I). The context is
    (B, 0, H / downscale, W / downscale): only its size matters.

    References:
        Rombach, Blattmann, Lorenz, Esser & Ommer, "High-resolution image synthesis with latent
        diffusion models", 2022, section 3.1, https://arxiv.org/abs/2112.10752

    Args:
        channels: 1 for grey, 3 for colour.
        downscale: pixels per latent in each direction: 2, 4, 8 or 16.
        latent: channels of the latents.
        width: channels of the networks at half the size of the picture; they double with every
            further halving.
        depth: residual blocks per scale, in the encoder and in the decoder.
        likelihood: "optimal", "shared" or "element" (sigma), as in `conv`.

    Raises:
        UsageError: E240 for sizes out of range.
    """
    if downscale not in _DOWNSCALES:
        raise UsageError(
            "E240",
            f"downscale must be one of {', '.join(map(str, _DOWNSCALES))}, got {downscale}",
            fix=f"--set downscale={DOWNSCALE}",
        )
    positive(channels=channels, latent=latent, width=width, depth=depth)
    family, reader = of_shares(likelihood, channels, False)
    widths = [width << scale for scale in range(_DOWNSCALES.index(downscale) + 1)]
    down: list[nn.Module] = [
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * reader.width, width, 3, 1, 1),
        blocks(width, depth),
    ]
    up: list[nn.Module] = [
        nn.Conv2d(latent, widths[-1], 3, 1, 1),
        blocks(widths[-1], depth),
    ]
    for fine, coarse in pairwise(widths):
        down += [nn.Conv2d(fine, coarse, 2, 2), blocks(coarse, depth)]
    for coarse, fine in pairwise(widths[::-1]):
        up += [nn.ConvTranspose2d(coarse, fine, 2, 2), blocks(fine, depth)]
    last = nn.Conv2d(width, 4 * family.numbers(channels), 3, 1, 1)
    level = Level(
        "z",
        StandardNormalMap(latent),
        Residual(nn.Conv2d(widths[-1], 2 * latent, 3, 1, 1), REACH),
        Concat(nn.Sequential(*up)),
    )
    return LatentModel(
        Single(nn.Sequential(reader, *down)),
        [level],
        Conditional(nn.Sequential(last, nn.PixelShuffle(2)), family),
        SizedImageState(),
    )


def _downscale_of(settings: Mapping[str, Any]) -> int:
    return int(settings.get("downscale", DOWNSCALE))


_TASK = Autoencoding(
    "encode",
    lambda settings: OnlySize(_downscale_of(settings)),
    lambda settings: f"latents {_downscale_of(settings)} times smaller",
)
AUTOENCODER = Recipe(
    autoencoder,
    lambda settings: PairsFor(_TASK, settings),
    example={"channels": 1},
    objective={"beta": _BETA},
    batch_size=16,
    restoration=_TASK,
    from_data=frozenset({"channels"}),
    explains=False,
)
