"""Adversarial training added to another objective, for sharper pictures.

A pixelwise likelihood is highest at the mean of all plausible pictures, which is blurred. A
discriminator of patches tells such a mean from a real picture. The loss is then not an ELBO.
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
from lowerbound.nn.distributions.families import OptimalSigmaNormal
from lowerbound.nn.distributions.grey_levels import (
    ContinuousBernoulliLogits,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    GreyCodes,
)
from lowerbound.nn.networks.convolutions import Downsampling
from lowerbound.nn.objectives.elbo import Constant, Loss, Schedule
from lowerbound.noise import Noise

SMALLEST = 8  # least height and width in pixels: one halving leaves a grid of 4 x 4 patches
_PATCHES = 6  # least height and width of the grid after a further halving
_MOST_STAGES = 3  # halvings: with more, a patch of Isola et al. is wider than 70 pixels
_LEAK = 0.2  # slope of the leaky ReLUs below 0


class ShownPicture(NamedTuple):
    """The picture that a discriminator is shown for p(x | z).

    Attributes:
        picture: the mean of x, (B, C, H, W).
        location: the parameter that determines the mean, at which the gradients of the likelihood
            and of the discriminator are compared.
        highest: the largest value of a pixel: 1, or the last code.
    """

    picture: Tensor
    location: Tensor
    highest: float


@singledispatch
def seen(px: Distribution) -> ShownPicture:
    """Return the picture that a discriminator is shown for p(x | z).

    Raises:
        UsageError: E248 if no rule is registered for the type of `px`.
    """
    raise UsageError(
        "E248",
        f"the adversarial term is not defined for a p(x | z) of type {type(px).__name__}",
        fix="leave the adversarial term out, or register a rule with adversarial.seen.register",
    )


@seen.register
def _(px: Independent) -> ShownPicture:
    return seen(px.base_dist)


@seen.register
def _(px: Observed) -> ShownPicture:
    return seen(px.cells)


@seen.register
def _(px: Normal | OptimalSigmaNormal) -> ShownPicture:
    return ShownPicture(px.loc, px.loc, 1.0)


@seen.register
def _(px: BernoulliLogits) -> ShownPicture:
    return ShownPicture(px.probs, px.logits, 1.0)


@seen.register
def _(px: ContinuousBernoulliLogits) -> ShownPicture:
    return ShownPicture(px.mean, px.logits, 1.0)


@seen.register
def _(px: GreyCodes) -> ShownPicture:
    return ShownPicture(px.mean, px.logits, px.logits.shape[-1] - 1.0)


@seen.register
def _(px: DiscretizedLogistic) -> ShownPicture:
    # The mean where the ends are far; summing over the codes costs more than the networks do.
    return ShownPicture(px.loc.clamp(0, px.levels - 1), px.loc, px.levels - 1.0)


@seen.register
def _(px: DiscretizedLogisticMixture) -> ShownPicture:
    means: list[Tensor] = []
    for c in range(px.channels):  # a channel's location depends on the channels before it
        earlier = torch.stack(means, -3) if c else px.loc
        means.append(px.channel(c, earlier).loc.clamp(0, px.levels - 1))
    weights = px.log_weights.exp().unsqueeze(-3)
    return ShownPicture((weights * torch.stack(means, -3)).sum(-4), px.loc, px.levels - 1.0)


def stages(size: Sequence[int]) -> int:
    """Return the number of halvings of a discriminator for pictures of (H, W).

    >>> [stages((side, side)) for side in (8, 16, 28, 32, 64, 256)]
    [1, 1, 2, 2, 3, 3]
    """
    return max(1, min(_MOST_STAGES, (min(size) // _PATCHES).bit_length() - 1))


class Discriminator(nn.Sequential):
    """Patch discriminator: (B, C, H, W) -> (B, 1, h, w), above 0 for real pictures.

    Every convolution is divided by its largest singular value, which bounds the discriminator's
    gradients for any learning rate. A gradient penalty would need second derivatives and twice the
    time; batch normalisation would pass information between the pictures of a batch.

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
            layers += [spectral_norm(Downsampling(inputs, outputs)), nn.LeakyReLU(_LEAK)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))


def of_discriminator(real: Tensor, made: Tensor) -> Tensor:
    """Return the hinge loss of a discriminator: E max(0, 1 - D(x)) + E max(0, 1 + D(made)).

    References:
        Lim & Ye, "Geometric GAN", 2017, https://arxiv.org/abs/1705.02894; Miyato et al., 2018,
        eq. 16, https://arxiv.org/abs/1802.05957

    Args:
        real: D of real pictures, of any shape.
        made: D of generated pictures, of any shape.
    """
    return (1 - real).relu().mean() + (1 + made).relu().mean()


def of_generator(made: Tensor) -> Tensor:
    """Return the loss of a generator, -E D(made) (Miyato et al., 2018, eq. 17)."""
    return -made.mean()


def force(weight: float) -> float:
    """Return the weight of an adversarial term, relative to the likelihood's gradient.

    At 1 the likelihood no longer holds the pictures to the data, and fits diverge in 200 steps.

    Raises:
        UsageError: E240 for a number that is not between 0 and 1.
    """
    if not 0 < weight < 1:
        raise UsageError(
            "E240",
            f"adversarial must be between 0 and 1, got {weight}: it is relative to the "
            "likelihood's gradient",
            fix="adversarial=0.3",
        )
    return float(weight)


class Adversarial(nn.Module):
    """Adversarial training of the mean of p(x | z), added to another objective.

    The discriminator learns by its hinge loss. The model learns by the wrapped objective and by
    w lambda (-E D(mean)), with lambda = |d value / d m| / |d E D / d m| over the batch, m being
    the location of p(x | z). With w = 0.3 the discriminator's gradient at the pixels is 0.3 of the
    likelihood's, for any likelihood, sigma and picture size. (Esser et al. compare gradients at
    the weights of the last layer; comparing at its output needs no backward pass through it.)

    The value returned is that of the wrapped objective, because the two losses oppose each other
    and no single function is minimised. Only gradients are added: the discriminator's to its own
    parameters, which belong to this module and not to the model, and the generator's to the
    model's. The "elbo" among the terms is still a lower bound.

    References:
        Larsen, Sonderby, Larochelle & Winther, "Autoencoding beyond pixels using a learned
        similarity metric", 2016, https://arxiv.org/abs/1512.09300; Esser, Rombach & Ommer,
        "Taming transformers for high-resolution image synthesis", 2021, eq. 6-7, https://arxiv.org/abs/2012.09841

    Args:
        objective: the wrapped objective, with one draw per row.
        shape: (C, H, W) of a picture.
        weight: w, a number between 0 and 1 (see `force`) or a schedule of the step.

    Raises:
        UsageError: E240 for a weight that is not between 0 and 1; E248 if `shape` is not that of
            a picture of at least 8 x 8 pixels.

    >>> from lowerbound import recipes
    >>> from lowerbound.nn import Elbo
    >>> from lowerbound.noise import Stream, generator
    >>> loss = Adversarial(Elbo(recipes.conv([1, 8, 8])), [1, 8, 8], 0.3)
    >>> terms = loss(torch.zeros(4, 1, 8, 8), 0, Stream(generator("example"))).terms
    >>> "adversarial" in terms, "discriminator" in terms
    (True, True)
    """

    def __init__(
        self, objective: nn.Module, shape: Sequence[int], weight: float | Schedule
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            what = " x ".join(map(str, shape))
            raise UsageError(
                "E248",
                f"adversarial needs pictures of at least {SMALLEST} x {SMALLEST} pixels, "
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
        """Return the wrapped loss, with the adversarial gradients added to its gradient only.

        The terms include "adversarial", the generator's loss, and "discriminator", its own.

        Args:
            x: (B, C, H, W); the discriminator is shown the model's mean at missing pixels (NaN).
            step: number of the optimiser step, for the schedules.
            noise: source of the posterior's draws.
            context: (B, ...) or None.

        Raises:
            UsageError: E248 for an objective with several draws per row, because such objectives
                weight the gradient through each draw, or for a p(x | z) without a mean.
        """
        with _watched(self.model) as walks:
            value, terms = self.objective(x, step, noise, context)
        (px,) = walks
        made = seen(px)
        if len(made.picture) != len(x):
            raise UsageError(
                "E248",
                "adversarial needs an objective with one draw per row: weights of several draws "
                "would also weight the discriminator's gradient",
                fix="wrap Elbo instead of Iwae",
            )
        # Detached from the model, whose gradient is added below.
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
        """Return the discriminator's output for pictures with values from 0 to `highest`."""
        return self.discriminator(picture * (2 / highest) - 1)


def _pull(value: Tensor, made: ShownPicture, slope: Tensor) -> Tensor:
    """Return a scalar whose gradient at the location follows `slope` with the norm of `value`'s.

    Args:
        value: loss that depends on the location through the likelihood only.
        made: the picture and its location.
        slope: gradient of the generator's loss at the picture, detached.
    """
    (ours,) = torch.autograd.grad(value, made.location, retain_graph=True)
    (theirs,) = torch.autograd.grad(made.picture, made.location, slope, retain_graph=True)
    least = torch.finfo(theirs.dtype).tiny
    return ours.norm() / theirs.norm().clamp_min(least) * (made.picture * slope).sum()


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Distribution]]:
    """Collect the distributions that `model` returns inside the block."""
    walks: list[Distribution] = []

    def note(module: nn.Module, given: tuple[object, ...], px: Distribution) -> None:
        walks.append(px)

    hook = model.register_forward_hook(note)
    try:
        yield walks
    finally:
        hook.remove()
