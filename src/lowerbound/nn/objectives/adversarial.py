"""An adversarial term beside another objective: sharper pictures, which are no longer an ELBO's.

A pixelwise likelihood pays for the mean of all that a picture may be, which is blurred; a
discriminator that looks at patches tells such a mean from a real picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.utils.parametrizations import spectral_norm

from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import Observed
from lowerbound.nn.distributions.counts import BernoulliLogits
from lowerbound.nn.distributions.families import Profiled
from lowerbound.nn.distributions.grey_levels import (
    ContinuousBernoulliLogits,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    GreyCodes,
)
from lowerbound.nn.networks.convolutions import Halving
from lowerbound.nn.objectives.elbo import Constant, Loss, Schedule
from lowerbound.noise import Noise

SMALLEST = 8  # pixels of a side: one halving leaves a grid of 4 x 4 patches
_PATCHES = 6  # of a side, that a further halving must leave
_MOST_STAGES = 3  # halvings: with more, a patch of Isola et al. is wider than 70 pixels
_LEAK = 0.2  # slope of the leaky ReLUs below 0


class Seen(NamedTuple):
    """What a discriminator sees of p(x | z).

    Attributes:
        picture: the mean of x, (B, C, H, W).
        location: the parameter that moves the mean: there the forces of the likelihood and of
            the discriminator are compared.
        highest: the largest value that a cell of x has: 1, or the last code.
    """

    picture: Tensor
    location: Tensor
    highest: float


@singledispatch
def seen(px: Distribution) -> Seen:
    """Return what a discriminator sees of p(x | z).

    Raises:
        UsageError: E248 where no rule is known for the type of `px`.
    """
    raise UsageError(
        "E248",
        f"no discriminator can look at a p(x | z) of type {type(px).__name__}",
        fix="leave the adversarial term out, or register a rule with adversarial.seen.register",
    )


@seen.register
def _(px: Independent) -> Seen:
    return seen(px.base_dist)


@seen.register
def _(px: Observed) -> Seen:
    return seen(px.cells)


@seen.register
def _(px: Normal | Profiled) -> Seen:
    return Seen(px.loc, px.loc, 1.0)


@seen.register
def _(px: BernoulliLogits) -> Seen:
    return Seen(px.probs, px.logits, 1.0)


@seen.register
def _(px: ContinuousBernoulliLogits) -> Seen:
    return Seen(px.mean, px.logits, 1.0)


@seen.register
def _(px: GreyCodes) -> Seen:
    return Seen(px.mean, px.logits, px.logits.shape[-1] - 1.0)


@seen.register
def _(px: DiscretizedLogistic) -> Seen:
    # The mean where the ends are far; summing over the codes costs more than the networks do.
    return Seen(px.loc.clamp(0, px.levels - 1), px.loc, px.levels - 1.0)


@seen.register
def _(px: DiscretizedLogisticMixture) -> Seen:
    means: list[Tensor] = []
    for c in range(px.channels):  # a channel's location depends on the channels before it
        earlier = torch.stack(means, -3) if c else px.loc
        means.append(px.channel(c, earlier).loc.clamp(0, px.levels - 1))
    weights = px.log_weights.exp().unsqueeze(-3)
    return Seen((weights * torch.stack(means, -3)).sum(-4), px.loc, px.levels - 1.0)


def stages(size: Sequence[int]) -> int:
    """Return how often a discriminator halves pictures of (H, W).

    >>> [stages((side, side)) for side in (8, 16, 28, 32, 64, 256)]
    [1, 1, 2, 2, 3, 3]
    """
    return max(1, min(_MOST_STAGES, (min(size) // _PATCHES).bit_length() - 1))


class Discriminator(nn.Sequential):
    """Tells patches of real pictures from made ones: (B, C, H, W) -> (B, 1, h, w), real above 0.

    Every convolution is divided by its largest singular value. That keeps the discriminator's
    slopes bounded at every step, whatever the learning rate and the momentum, which here are the
    model's; a penalty on the slopes would need a second derivative, twice the time of a step, and
    normalisation over the batch would let pictures of one batch tell of each other.

    References:
        Isola, Zhu, Zhou & Efros, "Image-to-image translation with conditional adversarial
        networks", 2017, section 3.2.2, https://arxiv.org/abs/1611.07004; Miyato, Kataoka, Koyama
        & Yoshida, "Spectral normalization for generative adversarial networks", 2018,
        https://arxiv.org/abs/1802.05957

    Args:
        channels: C.
        size: (H, W), each at least 8.
        width: channels after the first halving; every further one doubles them.
    """

    def __init__(self, channels: int, size: Sequence[int], width: int = 16) -> None:
        widths = [channels, *(width << i for i in range(stages(size)))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [spectral_norm(Halving(inputs, outputs)), nn.LeakyReLU(_LEAK)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))


def of_discriminator(real: Tensor, made: Tensor) -> Tensor:
    """Return the hinge loss of a discriminator: E max(0, 1 - D(x)) + E max(0, 1 + D(made)).

    References:
        Lim & Ye, "Geometric GAN", 2017, https://arxiv.org/abs/1705.02894; Miyato et al., 2018,
        eq. 16.

    Args:
        real: D of real pictures, of any shape.
        made: D of made ones.
    """
    return (1 - real).relu().mean() + (1 + made).relu().mean()


def of_generator(made: Tensor) -> Tensor:
    """Return the generator's loss, -E D(made): Miyato et al., 2018, eq. 17."""
    return -made.mean()


def force(weight: float) -> float:
    """Return the weight of an adversarial term, as a share of the likelihood's force.

    At 1 nothing would hold the pictures to the data any more: fits ran away within 200 steps.

    Raises:
        UsageError: E240 for a number that is not between 0 and 1.
    """
    if not 0 < weight < 1:
        raise UsageError(
            "E240",
            f"adversarial must be between 0 and 1 (times the likelihood's force), got {weight}",
            fix="adversarial=0.3",
        )
    return float(weight)


class Adversarial(nn.Module):
    """Lets a discriminator pull at the means of p(x | z) of another objective's walk.

    The discriminator learns by its hinge loss; the model is moved by the wrapped objective and by
    w lambda (-E D(mean)), with lambda = |d value / d m| / |d E D / d m| of the batch, m being the
    location of p(x | z): w = 0.3 lets the discriminator pull at the pixels with three tenths of
    the likelihood's own force, whatever the likelihood, its sigma and the size of the pictures.
    (Esser et al. compare at the last layer's weights; at its output there is nothing to choose,
    and no network to go back through.)

    What is minimised is then no bound, and no one function either: the discriminator loses what
    the model gains. So the value is that of the wrapped objective, and only gradients are added:
    the discriminator's to its own parameters, which are part of this module and not of the model,
    and the generator's to the model's. The plain ELBO among the terms is still a lower bound.

    References:
        Larsen, Sonderby, Larochelle & Winther, "Autoencoding beyond pixels using a learned
        similarity metric", 2016; Esser, Rombach & Ommer, "Taming transformers for high-resolution
        image synthesis", 2021, eq. 6-7, https://arxiv.org/abs/2012.09841

    Args:
        objective: the objective that is wrapped; one draw for each row.
        shape: (C, H, W) of a picture.
        weight: w, a number between 0 and 1 (see `force`) or a schedule of the step.

    Raises:
        UsageError: E240 for a number that is not between them, E248 where x is no picture of at
            least 8 x 8 pixels.
    """

    def __init__(
        self, objective: nn.Module, shape: Sequence[int], weight: float | Schedule
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            what = " x ".join(map(str, shape))
            raise UsageError(
                "E248",
                f"a discriminator looks at pictures of at least {SMALLEST} x {SMALLEST} pixels, "
                f"and a row of this model is {what}",
                fix="leave adversarial out, or give larger pictures and --recipe conv",
            )
        self.objective = objective
        self.weight: Schedule = weight if callable(weight) else Constant(force(weight))
        with noise.isolated("discriminator"):
            made = Discriminator(shape[0], shape[1:])
        self.discriminator = made.to(next(objective.parameters()))

    @property
    def model(self) -> nn.Module:
        """The model of the wrapped objective."""
        return self.objective.get_submodule("model")

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the wrapped loss; its gradient has the adversaries' added, its value has not.

        `terms` gain "adversarial", the generator's loss, and "discriminator", its own.

        Args:
            x: (B, C, H, W); missing pixels (NaN) are shown as the model has them.
            step: number of the optimiser step, for the schedules.
            noise: where the posterior's draws come from.
            context: (B, ...) or None.

        Raises:
            UsageError: E248 for an objective that draws several times for each row, since such
                objectives weigh the gradient through each draw, or a p(x | z) without a mean.
        """
        with _watched(self.model) as walks:
            value, terms = self.objective(x, step, noise, context)
        (px,) = walks
        made = seen(px)
        if len(made.picture) != len(x):
            raise UsageError(
                "E248",
                "the objective draws several times for each row and weighs the draws, which "
                "would weigh the discriminator's gradient too",
                fix="wrap Elbo instead of Iwae",
            )
        # Cut from the model: its gradient is handed over below, and from x, which has none.
        picture = made.picture.detach().requires_grad_()
        with torch.autocast(x.device.type, enabled=False):
            real = self._told(torch.where(x.isnan(), picture.detach(), x), made.highest)
            drawn = self._told(picture, made.highest)
            generator, own = of_generator(drawn), of_discriminator(real, drawn)
        told = {"adversarial": generator.detach(), "discriminator": own.detach()}
        if not torch.is_grad_enabled():
            return Loss(value, {**terms, **told})
        (slope,) = torch.autograd.grad(generator, picture, retain_graph=True)
        added = own + self.weight(step) * _pull(value, made, slope)
        return Loss(value + (added - added.detach()), {**terms, **told})

    def _told(self, picture: Tensor, highest: float) -> Tensor:
        """Return what the discriminator says of pictures with values from 0 to `highest`."""
        return self.discriminator(picture * (2 / highest) - 1)


def _pull(value: Tensor, made: Seen, slope: Tensor) -> Tensor:
    """Return a number whose gradient at the location is along `slope`, as long as that of `value`.

    Args:
        value: what the likelihood is part of; nothing else in it depends on the location.
        made: what was seen.
        slope: the gradient of the generator's loss at the picture, no part of the graph.
    """
    (ours,) = torch.autograd.grad(value, made.location, retain_graph=True)
    (theirs,) = torch.autograd.grad(made.picture, made.location, slope, retain_graph=True)
    least = torch.finfo(theirs.dtype).tiny
    return ours.norm() / theirs.norm().clamp_min(least) * (made.picture * slope).sum()


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Distribution]]:
    """Collect what `model` returns inside the block: the objective walks it, and walks it once."""
    walks: list[Distribution] = []

    def note(module: nn.Module, given: tuple[object, ...], px: Distribution) -> None:
        walks.append(px)

    hook = model.register_forward_hook(note)
    try:
        yield walks
    finally:
        hook.remove()
