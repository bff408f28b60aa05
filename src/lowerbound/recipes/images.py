"""Models of images: one level between two convolutional networks, and the deep hierarchy of NVAE.

Images are (B, channels, height, width): codes 0 to 255 for likelihoods of codes, 0 and 1 for
bits, and values in [0, 1] for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.utils.parametrizations import weight_norm

from lowerbound import families
from lowerbound.convolutions import (
    Cropped,
    Decoder,
    Doubling,
    Encoder,
    Enlarged,
    LearnedStart,
)
from lowerbound.errors import UsageError
from lowerbound.families import Conditional, Family, LatentGaussian
from lowerbound.joints import WithMissing
from lowerbound.model import LatentModel, Level
from lowerbound.networks import Concat, Empty, Filled, Mapped, Single
from lowerbound.pixels import ContinuousBits, LogisticMixture, Logistics
from lowerbound.posteriors import Flow, Plain, Proposal, Residual
from lowerbound.priors import Mixture, StandardNormal
from lowerbound.recipes.choosing import choice
from lowerbound.residual_cells import (
    MaskedShift,
    Recomputed,
    Tower,
    decoder_cell,
    encoder_cell,
)

_LIKELIHOODS: dict[str, Callable[[int], Family]] = {
    "bits": lambda channels: families.Bits(),
    "continuous_bernoulli": lambda channels: ContinuousBits(),
    "gaussian": lambda channels: families.FixedSigma(),
    "shared": lambda channels: families.SharedSigma(),
    "optimal": lambda channels: families.OptimalSigma(),
    "element": lambda channels: families.Gaussian(),
    "logistic": lambda channels: Logistics(),
    "logistic_mixture": LogisticMixture,
}
_CODES = {"logistic", "logistic_mixture"}  # their values are 0 to 255, not in [0, 1]
_EXPAND = 3  # of the cells after the last level; those between levels are twice as wide


def _likelihood(name: str, channels: int, missing: bool) -> tuple[Family, Mapped]:
    """Return the family of a likelihood, and what gives its values to a network as [-1, 1]."""
    family = choice("likelihood", name, _LIKELIHOODS)(channels)
    scale = torch.full((), 2 / 255 if name in _CODES else 2.0)
    reader = Mapped(scale, 1.0, False, Filled(channels, missing))
    if name == "optimal":  # which must see the gaps to leave them out of its mean
        return family, reader
    if name == "logistic_mixture" and channels > 1:
        if missing:
            raise UsageError(
                "E246",
                "a mixture whose channels see each other cannot leave a missing channel out",
                fix='likelihood="logistic"',
            )
        return family, reader
    return WithMissing(family), reader


def _image(shape: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """Return the channels and the size (height, width) of an image."""
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(
            "E240",
            f"shape is {list(shape)}, but an image has channels, height and width",
            fix="shape=[1, 28, 28]",
        )
    channels, height, width = shape
    return channels, (height, width)


def _positive(**sizes: int | Sequence[int]) -> None:
    """Refuse sizes below 1 and lists of none."""
    for name, size in sizes.items():
        numbers = [size] if isinstance(size, int) else list(size)
        if min(numbers, default=0) < 1:
            raise UsageError(
                "E240", f"{name} is {size}, but at least 1 is needed", fix=f"a larger {name}"
            )


def conv(
    shape: Sequence[int],
    latent: int = 64,
    channels: Sequence[int] = (32, 64, 128),
    likelihood: str = "bits",
    missing: bool = False,
    components: int = 0,
) -> LatentModel:
    """Images on one level of latents, between a convolutional network and its transpose.

    Args:
        shape: (channels, height, width) of an image, of any size.
        latent: size of z.
        channels: of the encoder's layers, each of which halves the image; the decoder mirrors
            them.
        likelihood: "bits" for 0 and 1; "continuous_bernoulli", "gaussian" (unit variance),
            "shared", "optimal" or "element" (sigma as in `sigma`) for values in [0, 1];
            "logistic" or "logistic_mixture" for codes 0 to 255.
        missing: give the encoder indicators of missing pixels.
        components: of a mixture prior fitted after training; 0 is N(0, I).
    """
    colours, size = _image(shape)
    channels = list(channels)
    _positive(latent=latent, channels=channels)
    family, reader = _likelihood(likelihood, colours, missing)
    encoder = Encoder(reader.width, size, channels)
    level = Level(
        "z",
        Mixture(components, latent) if components else StandardNormal(latent),
        Plain(nn.Linear(encoder.features, 2 * latent)),
        Concat(Decoder(latent, size, channels)),
    )
    head = Doubling(channels[0], family.numbers(colours), size)
    return LatentModel(
        Single(nn.Sequential(reader, encoder)), [level], Conditional(head, family), Empty()
    )


class Informed(nn.Module):
    """q(z | h, f) = N(mu(h, f), sigma(h, f)^2): sees the state, but is not relative to the prior.

    Args:
        net: [h, f] (side by side on axis 1) -> 2 numbers per latent.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.conditional = Conditional(net, LatentGaussian())

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | h, f)."""
        return Proposal(self.conditional(torch.cat([h, f], 1)))


class _Parts:
    """The parts of an NVAE at each of its scales, coarse to fine.

    Args:
        width: channels at the size of the image; each halving doubles them.
        latent: channels of z.
        cells: per group and per halving.
        squeeze: cells end with squeeze-and-excitation.
        recompute: trade time for memory.
    """

    def __init__(
        self, width: int, latent: int, cells: int, squeeze: bool, recompute: bool
    ) -> None:
        self.width, self.latent, self.cells, self.squeeze = width, latent, cells, squeeze
        self.stack = Recomputed if recompute else nn.Sequential

    def channels(self, halvings: int) -> int:
        """Return the channels of an image that was halved so often."""
        return self.width * 2**halvings

    def encode(self, halvings: int, halve: bool = False) -> nn.Sequential:
        """Return one step of the tower at a scale, after a halving to get there."""
        before = [encoder_cell(self.channels(halvings - 1), self.squeeze, True)] if halve else []
        cells = [encoder_cell(self.channels(halvings), self.squeeze) for _ in range(self.cells)]
        return self.stack(*before, *cells)

    def advance(self, halvings: int, double: bool) -> nn.Module:
        """Return how z moves the state on, after the last group of a scale to the next one."""
        c = self.channels(halvings)
        after = [decoder_cell(c, self.squeeze, True)] if double else []
        cells = [decoder_cell(c, self.squeeze) for _ in range(self.cells)]
        return Concat(self.stack(nn.Conv2d(c + self.latent, c, 1), *cells, *after))

    def posterior(self, halvings: int, residual: bool, flows: int) -> nn.Module:
        """Return q(z | h, f, p), with `flows` pairs of masked maps."""
        c = self.channels(halvings)
        rule = Residual if residual else Informed
        inner = rule(nn.Conv2d(2 * c, 2 * self.latent, 3, 1, 1))
        if not flows:
            return inner
        return Flow(inner, [MaskedShift(self.latent, c, way) for way in [False, True] * flows])

    def prior(self, halvings: int) -> nn.Module:
        """Return p(z | h) of any group but the first."""
        net = nn.Conv2d(self.channels(halvings), 2 * self.latent, 1)
        return Conditional(nn.Sequential(nn.ELU(), net), LatentGaussian())

    def stem(self, reader: Mapped, size: tuple[int, int], multiple: int, blocks: int) -> nn.Module:
        """Return the network from the data to the first scale of the tower."""
        halved = [
            self.stack(*self.encode(i), encoder_cell(self.channels(i), self.squeeze, True))
            for i in range(blocks)
        ]
        first = nn.Conv2d(reader.width, self.width, 3, 1, 1)
        return nn.Sequential(reader, Enlarged(size, multiple), first, *halved)

    def head(self, numbers: int, size: tuple[int, int], multiple: int, blocks: int) -> nn.Module:
        """Return the network from the last state to the numbers of the likelihood."""
        doubled = [
            self.stack(
                decoder_cell(self.channels(i), self.squeeze, True, _EXPAND),
                *(
                    decoder_cell(self.channels(i - 1), self.squeeze, expand=_EXPAND)
                    for _ in range(self.cells)
                ),
            )
            for i in range(blocks, 0, -1)
        ]
        last = nn.Conv2d(self.width, numbers, 3, 1, 1)
        return nn.Sequential(*doubled, nn.ELU(), last, Cropped(size, multiple))


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
    """The NVAE: groups of latents at several scales, each seen through all coarser ones.

    The first group's prior is N(0, I); that of every other is normal given the state. Levels are
    named "z<scale>.<group>", from "z0.0" at the coarsest scale.

    References:
        Vahdat & Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020,
        https://arxiv.org/abs/2007.03898

    Args:
        shape: (channels, height, width) of an image, of any size: inside, its border is repeated
            up to a size that can be halved often enough; the likelihood is of the image alone.
        groups: of latents at every scale, coarse to fine; a scale is half the next one's size.
        channels: of the networks at the size of the image; each halving doubles them.
        latent_channels: of one group of latents.
        cells: residual cells per group, of the encoder and of the decoder.
        blocks: halvings before the finest scale.
        likelihood: as in `conv`.
        missing: give the encoder indicators of missing pixels.
        squeeze_excite: end each cell with squeeze-and-excitation.
        residual: make the posterior relative to the prior (eq. 2).
        flows: pairs of masked maps that enrich each group's posterior (section 3.4).
        weight_normalised: learn length and direction of kernels apart (Salimans & Kingma, 2016).
        checkpointing: compute activations again instead of keeping them: less memory, more time.
    """
    colours, size = _image(shape)
    groups = list(groups)
    _positive(groups=groups, channels=channels, latent_channels=latent_channels, cells=cells)
    _positive(**{"blocks + 1": blocks + 1, "flows + 1": flows + 1})
    family, reader = _likelihood(likelihood, colours, missing)
    parts = _Parts(channels, latent_channels, cells, squeeze_excite, checkpointing)
    scales = len(groups)
    deepest = blocks + scales - 1
    multiple = 2**deepest
    height, width = ((n + multiple - 1) // multiple for n in size)
    levels, steps = _levels(parts, groups, blocks, (height, width), residual, flows)
    head = parts.head(family.numbers(colours), size, multiple, blocks)
    model = LatentModel(
        Tower(parts.stem(reader, size, multiple, blocks), steps),
        levels,
        Conditional(head, family),
        LearnedStart(parts.channels(deepest), height, width),
    )
    if weight_normalised:
        _normalise(model)
    return model


def _levels(
    parts: _Parts,
    groups: Sequence[int],
    blocks: int,
    size: tuple[int, int],
    residual: bool,
    flows: int,
) -> tuple[list[Level], list[nn.Module]]:
    """Return the levels, coarse to fine, and the steps of the tower, which runs the other way."""
    levels: list[Level] = []
    steps: list[nn.Module] = []
    scales = len(groups)
    for scale, count in enumerate(groups):
        halvings = blocks + scales - 1 - scale
        for group in range(count):
            first, double = not levels, group == count - 1 and scale < scales - 1
            prior = StandardNormal(parts.latent, *size) if first else parts.prior(halvings)
            level = Level(
                f"z{scale}.{group}",
                prior,
                parts.posterior(halvings, residual, flows),
                parts.advance(halvings, double=double),
            )
            levels.append(level)
            steps.insert(0, parts.encode(halvings, halve=double))
    return levels, steps


def _normalise(model: nn.Module) -> None:
    """Give every kernel a length and a direction, but for those that are normalised anyway."""
    kernels = [m for m in model.modules() if type(m) is nn.Conv2d and m.bias is not None]
    for kernel in kernels:
        weight_norm(kernel)
