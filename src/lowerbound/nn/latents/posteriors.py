"""Posteriors q(z | h, f, p) of a level, each with the equation of its paper.

h is the state (B, ...), f the encoder's features (B, ...) and p the prior of the level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.nn.distributions.base import moments, normal
from lowerbound.nn.distributions.families import Conditional, LatentGaussian
from lowerbound.nn.latents.codebooks import Codebook
from lowerbound.nn.latents.flows import FlowDistribution


class Proposal(NamedTuple):
    """Posterior distribution and its penalty.

    Attributes:
        q: q(z | h, f, p), with batch shape (B,).
        penalty: (B,) addition to the loss that is not in nats, or 0.

    >>> Proposal(normal(torch.zeros(5, 3), torch.ones(5, 3))).penalty
    0.0
    """

    q: Distribution
    penalty: Tensor | float = 0.0


class Posterior(Protocol):
    """Protocol of the posteriors of a level."""

    def __call__(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | h, f, p)."""
        ...


class Plain(nn.Module):
    """q(z | f) = N(mu(f), sigma(f)^2), independent of the state and of the prior.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, eq. 9,
        https://arxiv.org/abs/1312.6114

    Args:
        net: f -> 2 numbers per latent: mu, then log sigma.

    >>> from lowerbound.nn import StandardNormal
    >>> h, f = torch.zeros(5, 0), torch.zeros(5, 8)
    >>> q, penalty = Plain(nn.Linear(8, 2 * 3))(h, f, StandardNormal(3)(h))
    >>> q.mean.shape, penalty
    (torch.Size([5, 3]), 0.0)
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.conditional = Conditional(net, LatentGaussian())

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | f)."""
        return Proposal(self.conditional(f))


class Informed(nn.Module):
    """q(z | h, f) = N(mu(h, f), sigma(h, f)^2), given the state and independent of the prior.

    The draws of coarser levels reach it through h, so that q(z_1, ..., z_L | x) is the product of
    q(z_l | z_<l, x). It is the baseline of `Residual` in the paper.

    References:
        Vahdat & Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, section 3.2,
        https://arxiv.org/abs/2007.03898

    Args:
        net: [h, f] (concatenated on axis 1) -> 2 numbers per latent: mu, then log sigma.

    >>> from lowerbound.nn import StandardNormal
    >>> h, f = torch.zeros(5, 2), torch.zeros(5, 8)
    >>> Informed(nn.Linear(10, 2 * 3))(h, f, StandardNormal(3)(h)).q.mean.shape
    torch.Size([5, 3])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.conditional = Conditional(net, LatentGaussian())

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | h, f)."""
        return Proposal(self.conditional(torch.cat([h, f], 1)))


class Flow(nn.Module):
    """Posterior of another rule, transformed by a normalizing flow that is conditional on f.

    References:
        Rezende & Mohamed, "Variational inference with normalizing flows", 2015, eq. 13,
        https://arxiv.org/abs/1505.05770; Kingma et al., "Improved variational inference with
        inverse autoregressive flow", 2016, eq. 5, https://arxiv.org/abs/1606.04934

    Args:
        inner: the posterior that gives the base distribution.
        maps: modules (z, f) -> (y, log|det dy/dz|), such as `Autoregressive` or `Spline`.

    >>> from lowerbound.nn import Autoregressive, StandardNormal
    >>> h, f = torch.zeros(5, 0), torch.zeros(5, 8)
    >>> flow = Flow(Plain(nn.Linear(8, 6)), [Autoregressive(3, 8), Autoregressive(3, 8)])
    >>> flow(h, f, StandardNormal(3)(h)).q.rsample().shape
    torch.Size([5, 3])
    """

    def __init__(self, inner: nn.Module, maps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.inner, self.maps = inner, nn.ModuleList(maps)

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return the transformed distribution and the penalty of the inner posterior."""
        base, penalty = self.inner(h, f, p)
        return Proposal(FlowDistribution(base, list(self.maps), f), penalty)


class Residual(nn.Module):
    """q(z | h, f, p) = N(mu_p + dmu, (sigma_p dsigma)^2), relative to the prior.

    When the prior moves, the posterior moves with it; a net that returns 0 gives the prior. The KL
    is 0.5 (dmu^2 / sigma_p^2 + dsigma^2 - log dsigma^2 - 1) per element.

    References:
        Vahdat & Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, eq. 2-3,
        https://arxiv.org/abs/2007.03898

    Args:
        net: [h, f] (concatenated on axis 1) -> 2 numbers per latent: dmu, then log dsigma.
        reach: bound of both, see `lowerbound.nn.LatentGaussian`.

    >>> from lowerbound.nn import LearnedNormal
    >>> h, f = torch.zeros(5, 2), torch.zeros(5, 8)
    >>> Residual(nn.Linear(10, 2 * 3))(h, f, LearnedNormal(3)(h)).q.mean.shape
    torch.Size([5, 3])
    """

    def __init__(self, net: nn.Module, reach: float = math.inf) -> None:
        super().__init__()
        self.conditional = Conditional(net, LatentGaussian(reach))

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | h, f, p).

        Raises:
            UsageError: E246 where the prior is not normal.
        """
        loc, scale = moments(p)
        shift, stretch = moments(self.conditional(torch.cat([h, f], 1)))
        return Proposal(normal(loc + shift, scale * stretch))


class Precision(nn.Module):
    """q(z | f, p), the precision-weighted combination of the data's estimate and the prior.

    With N(mu_f, sigma_f^2) from the features and p = N(mu_p, sigma_p^2),
    sigma_q^-2 = sigma_f^-2 + sigma_p^-2 and mu_q = sigma_q^2 (mu_f sigma_f^-2 + mu_p sigma_p^-2).

    References:
        Sonderby, Raiko, Maaloe, Sonderby & Winther, "Ladder variational autoencoders", 2016,
        eq. 17-19, https://arxiv.org/abs/1602.02282

    Args:
        net: f -> 2 numbers per latent: mu_f, then log sigma_f.

    >>> from lowerbound.nn import LearnedNormal
    >>> h, f = torch.zeros(5, 2), torch.zeros(5, 8)
    >>> Precision(nn.Linear(8, 2 * 3))(h, f, LearnedNormal(3)(h)).q.mean.shape
    torch.Size([5, 3])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.conditional = Conditional(net, LatentGaussian())

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | f, p).

        Raises:
            UsageError: E246 where the prior is not normal.
        """
        below, above = moments(self.conditional(f)), moments(p)
        both = torch.hypot(below[1], above[1])
        share = (above[1] / both).square()  # sigma_p^2 / (sigma_f^2 + sigma_p^2)
        return Proposal(normal(torch.lerp(above[0], below[0], share), below[1] * above[1] / both))


class Quantise(nn.Module):
    """q(z | h, f), all mass on the codebook vector that is nearest to the network's output.

    KL(q || p) = -log p(z), exactly: log K nats per position with a uniform prior over K codes.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        eq. 1-3, https://arxiv.org/abs/1711.00937

    Args:
        net: [h, f] (concatenated on axis 1) -> (B, d, *grid), d being the codebook's dimension.
        book: the codebook.

    >>> from lowerbound.nn import EmaCodebook, UniformCodes
    >>> book = EmaCodebook(16, dim=4)
    >>> h, f = torch.zeros(5, 0, 6, 6), torch.zeros(5, 8, 6, 6)
    >>> q, penalty = Quantise(nn.Conv2d(8, 4, 1), book)(h, f, UniformCodes(book, 6, 6)(h))
    >>> q.codes.shape, penalty.shape
    (torch.Size([5, 6, 6]), torch.Size([5]))
    """

    def __init__(self, net: nn.Module, book: Codebook) -> None:
        super().__init__()
        self.net, self.book = net, book

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | h, f) and the codebook's penalty, (B,), which is not in nats."""
        return Proposal(*self.book(self.net(torch.cat([h, f], 1))))
