"""Deep hierarchical VAEs for images: groups of latents at several scales, coarse to fine.

Images are (B, channels, height, width); the range of values depends on the likelihood, see
`lowerbound.recipes.images`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lowerbound.errors import UsageError
from lowerbound.files.data import Whole
from lowerbound.nn.distributions.families import Conditional, LatentGaussian
from lowerbound.nn.latents.posteriors import Flow, Informed, Precision, Residual
from lowerbound.nn.latents.priors import StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.convolutions import (
    CropPadding,
    Downsampling,
    LearnedStart,
    PadToMultiple,
    Upsampling,
)
from lowerbound.nn.networks.mlp import Concat, MappedReader
from lowerbound.nn.networks.residual_cells import (
    Cell,
    CheckpointedSequential,
    MaskedShift,
    Tower,
    decoder_cell,
    encoder_cell,
    mirrored_cell,
)
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.images import channels_and_size, likelihood_of, positive
from lowerbound.recipes.record import SMALLEST_PICTURE, Recipe, Suggestion, of_pictures

_RULES: dict[str, Callable[[int, int], nn.Module]] = {
    "residual": lambda c, numbers: Residual(nn.Conv2d(2 * c, numbers, 3, 1, 1)),
    "informed": lambda c, numbers: Informed(nn.Conv2d(2 * c, numbers, 3, 1, 1)),
    "precision": lambda c, numbers: Precision(nn.Conv2d(c, numbers, 3, 1, 1)),
}


class _Parts:
    """Builder of the parts of a hierarchy at each scale.

    Args:
        width: channels at the size of the image; each halving doubles them.
        latent: channels of z.
        cells: number of residual cells per group and per halving.
        squeeze: whether cells end with squeeze-and-excitation.
        recompute: whether activations are recomputed in the backward pass, to save memory.
        cell: (channels, squeeze, double) -> a residual cell of the decoder.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the settings that all parts share
        self,
        width: int,
        latent: int,
        cells: int,
        squeeze: bool,
        recompute: bool,
        cell: Callable[[int, bool, bool], Cell],
    ) -> None:
        self.width, self.latent, self.cells, self.squeeze = width, latent, cells, squeeze
        self.stack = CheckpointedSequential if recompute else nn.Sequential
        self.cell = cell

    def channels(self, halvings: int) -> int:
        """Return the number of channels after `halvings` halvings of the image."""
        return self.width * 2**halvings

    def encode(self, halvings: int, halve: bool = False) -> nn.Sequential:
        """Return one step of the encoder tower at a scale, with a halving first if `halve`."""
        before = [encoder_cell(self.channels(halvings - 1), self.squeeze, True)] if halve else []
        cells = [encoder_cell(self.channels(halvings), self.squeeze) for _ in range(self.cells)]
        return self.stack(*before, *cells)

    def decode(self, halvings: int, double: bool = False) -> list[nn.Module]:
        """Return the decoder cells of a scale, with a doubling to the next one if `double`."""
        c = self.channels(halvings)
        after = [self.cell(c, self.squeeze, True)] if double else []
        return [*(self.cell(c, self.squeeze, False) for _ in range(self.cells)), *after]

    def advance(self, halvings: int, double: bool) -> nn.Module:
        """Return the network (h, z) -> next h, which also doubles the size if `double`."""
        c = self.channels(halvings)
        merged = nn.Conv2d(c + self.latent, c, 1)
        return Concat(self.stack(merged, *self.decode(halvings, double)))

    def posterior(self, halvings: int, rule: str, flows: int) -> nn.Module:
        """Return q(z | h, f, p), with `flows` pairs of masked maps."""
        c = self.channels(halvings)
        inner = _RULES[rule](c, 2 * self.latent)
        if not flows:
            return inner
        return Flow(inner, [MaskedShift(self.latent, c, way) for way in [False, True] * flows])

    def prior(self, halvings: int) -> nn.Module:
        """Return the prior p(z | h) of a group other than the first."""
        net = nn.Conv2d(self.channels(halvings), 2 * self.latent, 1)
        return Conditional(nn.Sequential(nn.ELU(), net), LatentGaussian())

    def levels(
        self, groups: Sequence[int], blocks: int, size: tuple[int, int], rule: str, flows: int = 0
    ) -> tuple[list[Level], list[nn.Module]]:
        """Return the levels, coarse to fine, and the steps of the encoder tower, fine to coarse.

        Args:
            groups: number of groups per scale, coarse to fine.
            blocks: number of halvings before the finest scale.
            size: (H, W) at the coarsest scale.
            rule: rule of the posterior: "residual", "informed" or "precision".
            flows: number of pairs of masked maps after the posterior.
        """
        levels: list[Level] = []
        steps: list[nn.Module] = []
        scales = len(groups)
        for scale, count in enumerate(groups):
            halvings = blocks + scales - 1 - scale
            for group in range(count):
                first, double = not levels, group == count - 1 and scale < scales - 1
                prior = StandardNormal(self.latent, *size) if first else self.prior(halvings)
                level = Level(
                    f"z{scale}.{group}",
                    prior,
                    self.posterior(halvings, rule, flows),
                    self.advance(halvings, double=double),
                )
                levels.append(level)
                steps.insert(0, self.encode(halvings, halve=double))
        return levels, steps

    def stem(
        self, reader: MappedReader, size: tuple[int, int], multiple: int, blocks: int
    ) -> nn.Module:
        """Return NVAE's network from the data to the first scale of the tower."""
        halved = [
            self.stack(*self.encode(i), encoder_cell(self.channels(i), self.squeeze, True))
            for i in range(blocks)
        ]
        first = nn.Conv2d(reader.width, self.width, 3, 1, 1)
        return nn.Sequential(reader, PadToMultiple(size, multiple), first, *halved)

    def head(self, numbers: int, size: tuple[int, int], multiple: int, blocks: int) -> nn.Module:
        """Return NVAE's network from the last state to the parameters of the likelihood."""
        narrow = partial(decoder_cell, expand=_EXPAND)
        doubled = [
            self.stack(
                narrow(self.channels(i), self.squeeze, True),
                *(narrow(self.channels(i - 1), self.squeeze) for _ in range(self.cells)),
            )
            for i in range(blocks, 0, -1)
        ]
        last = nn.Conv2d(self.width, numbers, 3, 1, 1)
        return nn.Sequential(*doubled, nn.ELU(), last, CropPadding(size, multiple))


_EXPAND = 3  # channel expansion in NVAE's cells after the last level; between levels it is 6


def nvae(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    shape: Sequence[int],
    groups: Sequence[int] = (3, 6),
    channels: int = 32,
    latent_channels: int = 20,
    cells: int = 1,
    blocks: int = 1,
    likelihood: str = "bits",
    missing: bool = False,
    squeeze_excite: bool = True,
    residual: bool = True,
    flows: int = 0,
    weight_normalised: bool = False,
    checkpointing: bool = False,
) -> LatentModel:
    """The NVAE: groups of latents at several scales, each conditional on all earlier groups.

    The first group's prior is N(0, I); that of each other group is a normal given the state.
    Levels are named "z<scale>.<group>", starting from "z0.0" at the coarsest scale.

    References:
        Vahdat & Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020,
        https://arxiv.org/abs/2007.03898

    Args:
        shape: (channels, height, width) of an image, of any size: internally, its border is
            repeated up to a size that can be halved; the likelihood covers the image only.
        groups: number of groups of latents at each scale, coarse to fine; each scale has half the
            size of the next one.
        channels: channels of the networks at the size of the image; each halving doubles them.
        latent_channels: channels of one group of latents.
        cells: residual cells per group, in the encoder and in the decoder.
        blocks: number of halvings before the finest scale.
        likelihood: as in `conv`.
        missing: give the encoder indicators of missing pixels.
        squeeze_excite: end each residual cell with squeeze-and-excitation.
        residual: parametrise the posterior relative to the prior (eq. 2).
        flows: number of pairs of masked maps after each group's posterior (section 3.4).
        weight_normalised: use weight normalisation (Salimans & Kingma, 2016).
        checkpointing: recompute activations in the backward pass: less memory, more time.
    """
    colours, size = channels_and_size(shape)
    groups = list(groups)
    positive(groups=groups, channels=channels, latent_channels=latent_channels, cells=cells)
    positive(**{"blocks + 1": blocks + 1, "flows + 1": flows + 1})
    family, reader = likelihood_of(likelihood, colours, missing)
    parts = _Parts(channels, latent_channels, cells, squeeze_excite, checkpointing, decoder_cell)
    deepest = blocks + len(groups) - 1
    multiple = 2**deepest
    small = _coarsest(size, multiple)
    rule = "residual" if residual else "informed"
    levels, steps = parts.levels(groups, blocks, small, rule, flows)
    head = parts.head(family.numbers(colours), size, multiple, blocks)
    model = LatentModel(
        Tower(parts.stem(reader, size, multiple, blocks), steps),
        levels,
        Conditional(head, family),
        LearnedStart(parts.channels(deepest), *small),
    )
    if weight_normalised:
        _normalise(model)
    return model


def conv_ladder(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    shape: Sequence[int],
    groups: Sequence[int] = (2, 1),
    channels: int = 32,
    latent_channels: int = 8,
    cells: int = 1,
    posterior: str = "precision",
    likelihood: str = "bits",
    missing: bool = False,
    squeeze_excite: bool = False,
    checkpointing: bool = False,
    blocks: int = 1,
) -> LatentModel:
    """The ladder VAE for images, with convolutional residual cells.

    Strided convolutions lead from the image to the finest scale, and their transposes back, so
    that no residual cell works at full size: a step costs a fraction of an NVAE's.

    References:
        Sonderby, Raiko, Maaloe, Sonderby & Winther, "Ladder variational autoencoders", 2016,
        https://arxiv.org/abs/1602.02282

    Args:
        shape: (channels, height, width) of an image, of any size, as in `nvae`.
        groups: number of groups of latents at each scale, coarse to fine; each scale has half the
            size of the next one.
        channels: channels of the networks at the finest scale; each halving doubles them.
        latent_channels: channels of one group of latents.
        cells: residual cells per group, in the encoder and in the decoder.
        posterior: "precision" (eq. 17-19 of the paper), "residual" as in NVAE, or "informed",
            with moments from a network of the state and the encoder's features.
        likelihood: as in `conv`.
        missing: give the encoder indicators of missing pixels.
        squeeze_excite: end each residual cell with squeeze-and-excitation.
        checkpointing: recompute activations in the backward pass: less memory, more time.
        blocks: number of halvings before the finest scale; large images need more than one.

    Raises:
        UsageError: E240 for a size below 1 or an odd number of channels.
    """
    colours, size = channels_and_size(shape)
    groups = list(groups)
    positive(groups=groups, channels=channels, latent_channels=latent_channels, cells=cells)
    positive(blocks=blocks)
    choice("posterior", posterior, _RULES)
    family, reader = likelihood_of(likelihood, colours, missing)
    multiple = 2 ** (len(groups) + blocks - 1)
    small = _coarsest(size, multiple)
    if channels % 2:
        raise UsageError("E240", f"channels must be even, got {channels}", fix="channels=32")
    # _Parts counts halvings from the scale just above the finest one, whatever `blocks` is.
    parts = _Parts(
        channels // 2, latent_channels, cells, squeeze_excite, checkpointing, mirrored_cell
    )
    levels, steps = parts.levels(groups, 1, small, posterior)
    enlarged = PadToMultiple(size, multiple)
    stem = nn.Sequential(reader, enlarged, *_halved(reader.width, channels, blocks))
    head = nn.Sequential(
        *parts.decode(1),
        *_doubled(channels, family.numbers(colours), enlarged.size, blocks),
        CropPadding(size, multiple),
    )
    start = LearnedStart(parts.channels(len(groups)), *small)
    return LatentModel(Tower(stem, steps), levels, Conditional(head, family), start)


def _halved(inputs: int, channels: int, times: int) -> list[nn.Module]:
    """Return the layers from an image to the finest scale."""
    layers: list[nn.Module] = []
    for i in range(times):
        layers += [Downsampling(channels if i else inputs, channels), nn.SiLU()]
    return layers


def _doubled(channels: int, outputs: int, size: tuple[int, int], times: int) -> list[nn.Module]:
    """Return the layers from the finest scale to `outputs` numbers per pixel of the image."""
    layers: list[nn.Module] = []
    for i in reversed(range(times)):
        reached = size[0] // 2**i, size[1] // 2**i
        layers += [nn.SiLU(), Upsampling(channels, channels if i else outputs, reached)]
    return layers


def _coarsest(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the height and width of an image at the coarsest scale, rounded up."""
    height, width = ((n + multiple - 1) // multiple for n in size)
    return height, width


def _normalise(model: nn.Module) -> None:
    """Apply weight normalisation to convolutions with a bias; batch norm follows the others."""
    kernels = [m for m in model.modules() if type(m) is nn.Conv2d and m.bias is not None]
    for kernel in kernels:
        weight_norm(kernel)


NVAE = Recipe(
    nvae,
    of_pictures,
    example=SMALLEST_PICTURE,
    objective={"balance": True, "spectral": 0.01},
    batch_size=16,  # many layers: a step on 128 small pictures takes 15 seconds on one core
)

FINEST = 32  # largest side of the finest grid of latents, for training in minutes on a CPU
USUAL_SECONDS = 300.0  # time limit of a fit to pictures without a chosen preset or limit


def _suits(frame: Whole, chosen: Mapping[str, object]) -> Suggestion | None:
    """Suggest a ladder VAE for pictures, with a number of scales that depends on their size.

    On photographs of 128 x 128, it reached a higher bound in equal time than one level of latents
    (benchmarks/results/picture_choice.json). At any size, the finest scale has at most about
    `FINEST` x `FINEST` latents per channel, so that the cost of a step varies little; the coarsest
    scale is at least four pixels wide.
    """
    if not frame.shape:
        return None
    sides = sorted(n for n in frame.shape if n > 4) or [1]
    blocks = max(1, math.ceil(math.log2(math.sqrt(math.prod(sides[-2:])) / FINEST)))
    scales = max(1, (sides[0] // 4).bit_length() - blocks)
    settings: dict[str, Any] = {"groups": [1] * min(3, scales), "channels": 16}
    if blocks > 1:
        settings["blocks"] = blocks
    plan: dict[str, Any] = {"settings": settings}
    if all(chosen.get(name) is None for name in ("preset", "max_epochs", "time_limit")):
        plan["time_limit"] = USUAL_SECONDS
    return Suggestion(plan, "pictures of this size")


CONV_LADDER = Recipe(
    conv_ladder,
    of_pictures,
    example=SMALLEST_PICTURE,
    objective={"balance": True},
    suits=_suits,
)
