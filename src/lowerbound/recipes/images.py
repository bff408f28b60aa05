"""A VAE for images: one level of latents between two convolutional networks.

Images are (B, channels, height, width). Values are integers from 0 to 255 for the likelihoods
"logistic", "logistic_mixture" and "softmax", 0 or 1 for "bits", and in [0, 1] for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from lowerbound.errors import UsageError
from lowerbound.nn.distributions import families
from lowerbound.nn.distributions.families import Conditional, Family
from lowerbound.nn.distributions.pixels import ContinuousBits, LogisticMixture, Logistics, Softmax
from lowerbound.nn.distributions.table_rows import WithMissing
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.latents.priors import Mixture, StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.convolutions import Decoder, Encoder, Upsampling
from lowerbound.nn.networks.mlp import (
    NONLINEARITIES,
    Concat,
    Empty,
    FilledReader,
    MappedReader,
    Single,
)
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.latent_parts import with_flows
from lowerbound.recipes.record import SMALLEST_PICTURE, Recipe, of_pictures

LIKELIHOODS: dict[str, Callable[[int], Family]] = {
    "bits": lambda channels: families.Bits(),
    "continuous_bernoulli": lambda channels: ContinuousBits(),
    "gaussian": lambda channels: families.FixedSigma(),
    "shared": lambda channels: families.SharedSigma(),
    "optimal": lambda channels: families.OptimalSigma(),
    "element": lambda channels: families.Gaussian(),
    "logistic": lambda channels: Logistics(),
    "logistic_mixture": LogisticMixture,
    "softmax": lambda channels: Softmax(),
}
_CODES = {"logistic", "logistic_mixture", "softmax"}  # their values are 0 to 255, not in [0, 1]


def likelihood_of(name: str, channels: int, missing: bool) -> tuple[Family, MappedReader]:
    """Return the family of a likelihood, and a reader that maps its values to [-1, 1].

    Args:
        name: name of the likelihood, see `conv`.
        channels: channels of the image.
        missing: whether the reader adds indicators of missing pixels.

    Raises:
        UsageError: E241 for an unknown name, E246 if the likelihood cannot have missing values.
    """
    family = choice("likelihood", name, LIKELIHOODS)(channels)
    scale = torch.full((), 2 / 255 if name in _CODES else 2.0)
    reader = MappedReader(scale, 1.0, False, FilledReader(channels, missing))
    if name == "optimal":  # it must see missing values to exclude them from its mean
        return family, reader
    if name == "logistic_mixture" and channels > 1:
        if missing:
            raise UsageError(
                "E246",
                "likelihood='logistic_mixture' cannot be used for pictures with missing values: "
                "each channel depends on the channels before it",
                fix='likelihood="logistic"',
            )
        return family, reader
    return WithMissing(family), reader


def channels_and_size(shape: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """Return the channels and the size (height, width) of an image.

    Raises:
        UsageError: E240 if `shape` is not three positive numbers.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(
            "E240",
            f"shape must be (channels, height, width), each at least 1, got {list(shape)}",
            fix="shape=[1, 28, 28]",
        )
    channels, height, width = shape
    return channels, (height, width)


def positive(**sizes: int | Sequence[int]) -> None:
    """Check that each size, or each number in a list of sizes, is at least 1.

    Raises:
        UsageError: E240 if one is not, or if a list is empty.
    """
    for name, size in sizes.items():
        numbers = [size] if isinstance(size, int) else list(size)
        if min(numbers, default=0) < 1:
            raise UsageError(
                "E240", f"{name} must be at least 1, got {size}", fix=f"increase {name}"
            )


def conv(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    shape: Sequence[int],
    latent: int = 64,
    channels: Sequence[int] = (32, 64, 128),
    likelihood: str = "bits",
    missing: bool = False,
    components: int = 0,
    layers: str = "silu",
    flows: int = 0,
    flow_hidden: Sequence[int] = (320,),
    kind: str = "iaf",
) -> LatentModel:
    """A VAE for images: one level of latents between a convolutional network and its transpose.

    Args:
        shape: (channels, height, width) of an image, of any size.
        latent: size of z.
        channels: channels of the encoder's layers, each of which halves the image; the decoder
            mirrors them.
        likelihood: "bits" for 0 and 1; "continuous_bernoulli", "gaussian" (unit variance),
            "shared", "optimal" or "element" (sigma as in `sigma`) for values in [0, 1];
            "logistic", "logistic_mixture" or "softmax" (any probabilities) for codes 0 to 255.
        missing: give the encoder indicators of missing pixels.
        components: components of a mixture prior fitted after training; 0 is N(0, I).
        layers: nonlinearity of the two networks: "silu", "relu", "tanh" or "gated".
        flows: number of flow maps of the posterior, as in `iaf`; 0 is a diagonal normal.
        flow_hidden: widths of the hidden layers of each map's masked network.
        kind: kind of the maps: "iaf", "spline" or "planar".
    """
    colours, size = channels_and_size(shape)
    channels = list(channels)
    positive(latent=latent, channels=channels, **{"flows + 1": flows + 1})
    family, reader = likelihood_of(likelihood, colours, missing)
    after = choice("layers", layers, NONLINEARITIES)
    encoder = Encoder(reader.width, size, channels, after)
    level = Level(
        "z",
        Mixture(components, latent) if components else StandardNormal(latent),
        with_flows(
            Plain(nn.Linear(encoder.features, 2 * latent)),
            latent,
            encoder.features,
            kind,
            flows,
            flow_hidden,
        ),
        Concat(Decoder(latent, size, channels, after)),
    )
    head = Upsampling(channels[0], family.numbers(colours), size)
    return LatentModel(
        Single(nn.Sequential(reader, encoder)), [level], Conditional(head, family), Empty()
    )


CONV = Recipe(conv, of_pictures, example=SMALLEST_PICTURE)
