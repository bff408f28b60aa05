"""The networks of the dense workloads in torch, for the sides that use it: the same on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from common import BERNOULLI, IMAGES, WIDTHS
from torch import nn


class Nets(NamedTuple):
    """The parts of a VAE without its heads.

    Attributes:
        encoder: x -> (B, features).
        features: what the heads of q(z | x) read.
        latent: size of z.
        decoder: z -> hidden.
        last: hidden -> logits or means, in the shape of x.
        bernoulli: whether x is binary; else the likelihood is Gaussian with unit variance.
    """

    encoder: nn.Module
    features: int
    latent: int
    decoder: nn.Module
    last: nn.Module
    bernoulli: bool


def nets_of(data: str) -> Nets:
    """Return fresh networks for the data of that name."""
    parts = _convolutions(*IMAGES[data]) if data in IMAGES else _linears(*WIDTHS[data])
    return Nets(*parts, data in BERNOULLI)


def _linears(features: int, *rest: int) -> tuple[nn.Module, int, int, nn.Module, nn.Module]:
    *hidden, latent = rest
    encoder = _relu_chain([features, *hidden])
    decoder = _relu_chain([latent, *hidden[::-1]])
    return encoder, hidden[-1], latent, decoder, nn.Linear(hidden[0], features)


def _relu_chain(sizes: Sequence[int]) -> nn.Sequential:
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return nn.Sequential(*(part for a, b in pairs for part in (nn.Linear(a, b), nn.ReLU())))


def _convolutions(
    shape: tuple[int, int, int], channels: tuple[int, ...], latent: int
) -> tuple[nn.Module, int, int, nn.Module, nn.Module]:
    """Convolutions of 4x4 with stride 2, a linear map to and from z, and the mirror of them."""
    side = shape[1] >> len(channels)
    inner = (channels[-1], side, side)
    features = channels[-1] * side * side
    down = [shape[0], *channels]
    encoder = [
        part
        for a, b in zip(down[:-1], down[1:], strict=True)
        for part in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())
    ]
    up = channels[::-1]
    decoder = [
        part
        for a, b in zip(up[:-1], up[1:], strict=True)
        for part in (nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU())
    ]
    return (
        nn.Sequential(*encoder, nn.Flatten()),
        features,
        latent,
        nn.Sequential(nn.Linear(latent, features), nn.ReLU(), nn.Unflatten(1, inner), *decoder),
        nn.ConvTranspose2d(channels[0], shape[0], 4, 2, 1),
    )
