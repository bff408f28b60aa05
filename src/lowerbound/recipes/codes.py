"""Vector-quantised VAEs for images, with one or more levels of discrete codes.

Images are (B, channels, height, width); the range of values depends on the likelihood, see
`lowerbound.recipes.images`. A fit has two stages: it trains encoder, codebooks and decoder under
a uniform prior, and then a prior over the codes with everything else frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.families import Conditional
from lowerbound.nn.latents.code_priors import PRIORS, PixelCodes, UniformCodes
from lowerbound.nn.latents.codebooks import KINDS, Codebook
from lowerbound.nn.latents.posteriors import Quantise
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.convolutions import (
    CropPadding,
    Downsampling,
    EmptyImageState,
    PadToMultiple,
    PlainResidualBlock,
    Upsampling,
)
from lowerbound.nn.networks.mlp import Concat
from lowerbound.nn.networks.pixelcnn import PixelCNN
from lowerbound.nn.networks.residual_cells import Tower
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.images import channels_and_size, likelihood_of, positive
from lowerbound.recipes.record import SMALLEST_PICTURE, Recipe, of_pictures

HEADS = 4  # attention heads of the coarsest level's prior


class _Parts:
    """Builder of the parts of a model of codes.

    Args:
        channels: channels of the networks.
        blocks: number of residual blocks after each change of size.
        book: kind, size and dimension of a level's codebook.
        prior: "uniform" or "pixelcnn".
        layers: number of layers of a PixelCNN.
        width: channels of a PixelCNN.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the settings that all parts share
        self,
        channels: int,
        blocks: int,
        book: tuple[str, int, int],
        prior: str,
        layers: int,
        width: int,
    ) -> None:
        self.channels, self.blocks, self.book = channels, blocks, book
        self.prior, self.layers, self.width = prior, layers, width

    def refine(self) -> list[nn.Module]:
        """Return the residual blocks of one scale."""
        hidden = max(1, self.channels // 2)
        return [PlainResidualBlock(self.channels, hidden) for _ in range(self.blocks)]

    def halve(self, inputs: int) -> list[nn.Module]:
        """Return layers that halve the size."""
        return [Downsampling(inputs, self.channels), nn.SiLU()]

    def double(self, outputs: int, size: tuple[int, int]) -> list[nn.Module]:
        """Return layers that double the size, to `size`."""
        return [nn.SiLU(), Upsampling(self.channels, outputs, size)]

    def level(
        self, name: str, grid: tuple[int, int], first: bool, onward: tuple[int, int] | None
    ) -> Level:
        """Return a level.

        Args:
            name: name of the level.
            grid: (H, W) of its codes.
            first: whether it is the first level, with an empty state.
            onward: the grid of the next level; None for the last level.
        """
        c, state = self.channels, 0 if first else self.channels
        kind, size, dim = self.book
        book: Codebook = KINDS[kind](size, dim)
        advance = [nn.Conv2d(state + book.dim, c, 3, 1, 1), *self.refine()]
        if onward is not None:
            advance += self.double(c, onward)
        return Level(
            name,
            self.prior_of(book, grid, state, HEADS if first else 0),
            Quantise(nn.Conv2d(state + c, book.dim, 1), book),
            Concat(nn.Sequential(*advance)),
        )

    def prior_of(self, book: Codebook, grid: tuple[int, int], state: int, heads: int) -> nn.Module:
        """Return the prior of a level; a PixelCNN has attention if `heads` is not 0."""
        if self.prior == "uniform":
            return UniformCodes(book, *grid)
        net = PixelCNN(book.size, grid, self.width, self.layers, state, heads)
        return PixelCodes(book, net)


def _coded(  # noqa: PLR0913 - the arguments that the two recipes share
    shape: Sequence[int],
    levels: int,
    *,
    codes: int,
    dim: int,
    channels: int,
    blocks: int,
    halvings: int,
    codebook: str,
    likelihood: str,
    missing: bool,
    prior: str,
    prior_channels: int,
    prior_layers: int,
) -> LatentModel:
    """Compose the model of `vqvae` or `vqvae2`; the arguments are theirs."""
    colours, size = channels_and_size(shape)
    positive(channels=channels, halvings=halvings, prior_layers=prior_layers)
    positive(**{"blocks + 1": blocks + 1, "dim": dim})
    choice("codebook", codebook, KINDS)
    choice("prior", prior, PRIORS)
    if prior_channels < HEADS or prior_channels % HEADS:
        raise UsageError(
            "E240",
            f"prior_channels must be a positive multiple of {HEADS}, got {prior_channels}",
            fix=f"prior_channels={16 * HEADS}",
        )
    family, reader = likelihood_of(likelihood, colours, missing)
    parts = _Parts(channels, blocks, (codebook, codes, dim), prior, prior_layers, prior_channels)
    multiple = 2 ** (halvings + levels - 1)
    enlarged = PadToMultiple(size, multiple)
    height, width = enlarged.size
    sizes = [(height >> n, width >> n) for n in range(halvings + levels)]
    stem = [m for n in range(halvings) for m in parts.halve(channels if n else reader.width)]
    steps = [nn.Sequential(*parts.refine())]
    steps += [nn.Sequential(*parts.halve(channels), *parts.refine()) for _ in range(levels - 1)]
    grids = sizes[halvings:][::-1]
    made = [
        parts.level(f"z{i}", grid, i == 0, onward)
        for i, (grid, onward) in enumerate(pairwise([*grids, None]))
        if grid is not None
    ]
    last = [family.numbers(colours), *[channels] * (halvings - 1)][::-1]
    wider = sizes[:halvings][::-1]
    head = [m for out, to in zip(last, wider, strict=True) for m in parts.double(out, to)]
    return LatentModel(
        Tower(nn.Sequential(reader, enlarged, *stem), steps),
        made,
        Conditional(nn.Sequential(*head, CropPadding(size, multiple)), family),
        EmptyImageState(*grids[0]),
    )


def vqvae(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    shape: Sequence[int],
    codes: int = 512,
    dim: int = 16,
    channels: int = 64,
    blocks: int = 2,
    halvings: int = 2,
    codebook: str = "ema_restart",
    likelihood: str = "shared",
    missing: bool = False,
    prior: str = "pixelcnn",
    prior_channels: int = 64,
    prior_layers: int = 6,
) -> LatentModel:
    """The VQ-VAE: a grid of discrete codes between two convolutional networks.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        https://arxiv.org/abs/1711.00937

    Args:
        shape: (channels, height, width) of an image, of any size, as in `nvae`.
        codes: number of codes K in the codebook; for "fsq", an upper limit.
        dim: dimension of a code vector; "fsq" chooses its own, about one per factor 8 of codes.
        channels: channels of the networks.
        blocks: residual blocks at each scale, in the encoder and in the decoder.
        halvings: number of halvings from the image to the grid of codes.
        codebook: "ema_restart" (moving averages initialised by k-means, with restarts of unused
            codes), "ema" (moving averages only), "gradient" (trained by the loss), "simvq" or
            "fsq".
        likelihood: as in `conv`.
        missing: give the encoder indicators of missing pixels.
        prior: prior of the codes: "uniform", or "pixelcnn", which is trained in a second stage.
        prior_channels: channels of the PixelCNN, a multiple of 4.
        prior_layers: number of layers of the PixelCNN.
    """
    return _coded(
        shape,
        1,
        codes=codes,
        dim=dim,
        channels=channels,
        blocks=blocks,
        halvings=halvings,
        codebook=codebook,
        likelihood=likelihood,
        missing=missing,
        prior=prior,
        prior_channels=prior_channels,
        prior_layers=prior_layers,
    )


def vqvae2(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    shape: Sequence[int],
    levels: int = 2,
    codes: int = 512,
    dim: int = 16,
    channels: int = 64,
    blocks: int = 2,
    halvings: int = 2,
    codebook: str = "ema_restart",
    likelihood: str = "shared",
    missing: bool = False,
    prior: str = "pixelcnn",
    prior_channels: int = 64,
    prior_layers: int = 6,
) -> LatentModel:
    """The VQ-VAE-2: grids of codes at two or three scales, each conditional on the coarser ones.

    Levels are named "z0" (coarsest), "z1", ... The codes of a finer level are computed from the
    encoder's features and the coarser codes; its prior is conditional on the coarser codes.

    References:
        Razavi, van den Oord & Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2",
        2019, algorithms 1 and 2, https://arxiv.org/abs/1906.00446

    Args:
        shape: (channels, height, width) of an image, of any size, as in `nvae`.
        levels: number of levels, 2 or 3.
        codes: as in `vqvae`, for each level.
        dim: as in `vqvae`.
        channels: as in `vqvae`.
        blocks: as in `vqvae`.
        halvings: number of halvings from the image to the finest grid; each coarser grid has half
            the size. The default in a fit is 3: priors are learned better on small grids.
        codebook: as in `vqvae`; each level has its own.
        likelihood: as in `conv`.
        missing: give the encoder indicators of missing pixels.
        prior: as in `vqvae`; the PixelCNN of the coarsest level attends to all preceding codes.
        prior_channels: channels of each PixelCNN, a multiple of 4.
        prior_layers: number of layers of each PixelCNN.

    Raises:
        UsageError: E240 if `levels` is not 2 or 3.
    """
    if levels not in (2, 3):
        raise UsageError("E240", f"levels must be 2 or 3, got {levels}", fix="levels=2")
    return _coded(
        shape,
        levels,
        codes=codes,
        dim=dim,
        channels=channels,
        blocks=blocks,
        halvings=halvings,
        codebook=codebook,
        likelihood=likelihood,
        missing=missing,
        prior=prior,
        prior_channels=prior_channels,
        prior_layers=prior_layers,
    )


# The codes are trained first; then, with everything else frozen, the PixelCNN priors. The batch is
# small because a step of a PixelCNN on 128 pictures takes a second on one core.
VQVAE = Recipe(
    vqvae,
    of_pictures,
    example=SMALLEST_PICTURE,
    batch_size=16,
    first_stage={"prior": "uniform"},
)
# Three halvings by default in a fit, because a PixelCNN is learned better on small grids: pictures
# sampled with grids of 4 x 4 and 2 x 2 codes look more like digits than those with four times as
# many codes, and reconstructions are nearly as good.
VQVAE2 = Recipe(
    vqvae2,
    of_pictures,
    example=SMALLEST_PICTURE,
    arguments={"halvings": 3},
    batch_size=16,
    first_stage={"prior": "uniform"},
)
