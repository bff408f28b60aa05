"""VAEs with several levels of latents for columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.families import Conditional, LatentGaussian
from lowerbound.nn.latents.posteriors import Plain, Precision
from lowerbound.nn.latents.priors import Mixture, StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Empty, FilledReader
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.record import Recipe, of_numbers
from lowerbound.recipes.vectors import numbers

# Initial standard deviation of the batch-normalised log sigmas. The paper's variances,
# softplus(1 + a normalised number), give about 0.29. With 1, the loss of a ladder of five levels
# is 8 nats higher after 15 passes over MNIST.
SPREAD = 0.25


class BottomUp(nn.Module):
    """The encoder (x, context) -> [d_L, ..., d_1], coarse to fine; d_i = net_i(d_i-1), d_0 = x."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return the features of every level, in the order of the levels."""
        features = []
        for net in self.nets:
            x = net(x)
            features.append(x)
        return features[::-1]


class MarkovUpdate(nn.Module):
    """The update (h, z) -> net(z), which makes the levels a Markov chain."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Return the next state."""
        return self.net(z)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that uses the running moments for a training batch of one row.

    In evaluation mode it always uses them, so that the result for a row does not depend on the
    other rows.
    """

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return (B, width)."""
        if not self.training or len(x) > 1:
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def stack(sizes: Sequence[int], batch_norm: bool) -> nn.Sequential:
    """Return linear layers, each followed by a leaky ReLU, (B, sizes[0]) -> (B, sizes[-1]).

    Args:
        sizes: widths from input to output.
        batch_norm: normalise the inputs of the ReLUs over the batch.
    """
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers.append(nn.Linear(wide, narrow, bias=not batch_norm))
        layers += [BatchNorm(narrow)] if batch_norm else []
        layers.append(nn.LeakyReLU())
    return nn.Sequential(*layers)


def head(wide: int, size: int, batch_norm: bool) -> nn.Module:
    """Return the network (B, wide) -> (B, 2 size) of a level's means and log sigmas.

    Args:
        wide: number of inputs.
        size: number of latents of the level.
        batch_norm: normalise the outputs over the batch in training.
    """
    if not batch_norm:
        return nn.Linear(wide, 2 * size)
    norm = BatchNorm(2 * size)
    with torch.no_grad():
        norm.weight[size:] = SPREAD
    return nn.Sequential(nn.Linear(wide, 2 * size, bias=False), norm)


def halved(latent: int, levels: int) -> list[int]:
    """Return the sizes of `levels` levels: `latent`, then half of the previous, at least 1."""
    return [max(1, latent >> i) for i in range(levels)]


def ladder(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    features: int,
    latents: Sequence[int] = (),
    hidden: Sequence[int] = (128, 128),
    likelihood: str = "feature",
    batch_norm: bool = True,
    missing: bool = False,
    components: int = 0,
    posterior: str = "precision",
    batch_norm_heads: bool = False,
) -> LatentModel:
    """The ladder VAE: a hierarchy whose posterior combines the encoder with the prior.

    p(x, z) = p(z_L) p(z_L-1 | z_L) ... p(z_1 | z_2) p(x | z_1). The encoder's features d_1 to d_L
    are deterministic. The posterior q(z_i | z_i+1, x) is the precision-weighted product of the
    prior p(z_i | z_i+1) and a normal computed from d_i.

    References:
        Sonderby, Raiko, Maaloe, Sonderby & Winther, "Ladder variational autoencoders", 2016,
        https://arxiv.org/abs/1602.02282

    Args:
        features: number of (standardised) columns.
        latents: sizes of z_1, ..., z_L, from fine to coarse; by default 16, halved at each further
            level, with one level per width in `hidden`.
        hidden: widths of each level's networks (two layers each), from fine to coarse; the last
            one is repeated for further levels. The decoder mirrors them.
        likelihood: as in `sigma`, or "bernoulli" if all numbers are 0 or 1.
        batch_norm: normalise the hidden layers over the batch in training.
        missing: give the encoder indicators of missing values.
        components: components of a mixture prior of z_L fitted after training; 0 is N(0, I).
        posterior: "precision", or "plain" for the paper's baseline, a hierarchy in which
            q(z_i | x) is computed from d_i alone.
        batch_norm_heads: also normalise the means and log sigmas of all levels, as in the paper's
            experiments. The prior means then differ between the rows of a batch from the first
            step, which keeps the coarser levels in use.

    Raises:
        UsageError: E237 for more widths than levels.
    """
    latents = list(latents) or halved(16, len(hidden))
    if len(hidden) > len(latents):
        raise UsageError(
            "E237",
            f"hidden must have at most one width per level of latents ({len(latents)}), got "
            f"{len(hidden)}",
            fix=f"hidden={list(hidden[: len(latents)])}, or more latents",
        )
    widths = [*hidden, *[hidden[-1]] * (len(latents) - len(hidden))]
    reader, family = FilledReader(features, missing), numbers(likelihood, features)
    nets = [stack([a, b, b], batch_norm) for a, b in pairwise([reader.width, *widths])]
    nets[0] = nn.Sequential(reader, *nets[0])
    return LatentModel(
        BottomUp(nets),
        _levels(latents, widths, (batch_norm, batch_norm_heads), components, posterior),
        Conditional(nn.Linear(widths[0], family.numbers(features)), family),
        Empty(),
    )


def _levels(
    latents: Sequence[int],
    widths: Sequence[int],
    batch_norm: tuple[bool, bool],
    components: int,
    posterior: str,
) -> list[Level]:
    """Return the levels z_L, ..., z_1; the network of z_i computes the state that z_i-1 uses."""
    hidden, heads = batch_norm
    top, levels = len(latents) - 1, []
    rule = choice("posterior", posterior, {"precision": Precision, "plain": Plain})
    for i in range(top, -1, -1):
        size, seen = latents[i], head(widths[i], latents[i], heads)
        if i < top:
            net = head(widths[i + 1], size, heads)
            prior, merged = Conditional(net, LatentGaussian()), rule(seen)
        else:
            prior = Mixture(components, size) if components else StandardNormal(size)
            merged = Plain(seen)
        onward = MarkovUpdate(stack([size, widths[i], widths[i]], hidden))
        levels.append(Level(f"z{i + 1}", prior, merged, onward))
    return levels


LADDER = Recipe(ladder, of_numbers, searched=True)
