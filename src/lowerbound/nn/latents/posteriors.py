"""Rules that make q(z | h, f, p), each with the equation of its paper."""

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
from lowerbound.nn.latents.flows import Flowed


class Proposal(NamedTuple):
    """A posterior, and what it adds to the loss that is not nats."""

    q: Distribution
    penalty: Tensor | float = 0.0


class Posterior(Protocol):
    """The rule of a level's posterior."""

    def __call__(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | h, f, p)."""
        ...


class Plain(nn.Module):
    """q(z | f) = N(mu(f), sigma(f)^2), whatever the state and the prior.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, eq. 9,
        https://arxiv.org/abs/1312.6114

    Args:
        net: f -> 2 numbers per latent.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.conditional = Conditional(net, LatentGaussian())

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | f)."""
        return Proposal(self.conditional(f))


class Informed(nn.Module):
    """q(z | h, f) = N(mu(h, f), sigma(h, f)^2): sees the state, but is not relative to the prior.

    The draws of coarser levels reach it through h, so that q(z_1, ..., z_L | x) is a product of
    q(z_l | z_<l, x). What `Residual` is compared with.

    References:
        Vahdat & Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, section 3.2,
        https://arxiv.org/abs/2007.03898

    Args:
        net: [h, f] (side by side on axis 1) -> 2 numbers per latent.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.conditional = Conditional(net, LatentGaussian())

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | h, f)."""
        return Proposal(self.conditional(torch.cat([h, f], 1)))


class Flow(nn.Module):
    """q(z | h, f, p) of another rule, made richer by maps that are conditional on f.

    References:
        Rezende & Mohamed, "Variational inference with normalizing flows", 2015, eq. 13; Kingma et
        al., "Improved variational inference with inverse autoregressive flow", 2016, eq. 5.

    Args:
        inner: the rule that makes the base distribution.
        maps: modules (z, f) -> (y, log|det dy/dz|), of `lowerbound.nn.latents.flows`.
    """

    def __init__(self, inner: nn.Module, maps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.inner, self.maps = inner, nn.ModuleList(maps)

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return the pushed-forward distribution, and the inner rule's penalty."""
        base, penalty = self.inner(h, f, p)
        return Proposal(Flowed(base, list(self.maps), f), penalty)


class Residual(nn.Module):
    """q(z | h, f, p) = N(mu_p + dmu, (sigma_p dsigma)^2): relative to the prior.

    Where the prior moves, the posterior moves with it; a net that gives 0 gives the prior. The KL
    is 0.5 (dmu^2 / sigma_p^2 + dsigma^2 - log dsigma^2 - 1) per element.

    References:
        Vahdat & Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, eq. 2-3,
        https://arxiv.org/abs/2007.03898

    Args:
        net: [h, f] (side by side on axis 1) -> 2 numbers per latent: dmu, then log dsigma.
        reach: of both, see `lowerbound.nn.distributions.families.LatentGaussian`.
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
    """q(z | f, p): what the data say and what the prior says, weighted by their precisions.

    With f -> N(mu_f, sigma_f^2) from below and p = N(mu_p, sigma_p^2) from above,
    sigma_q^-2 = sigma_f^-2 + sigma_p^-2 and mu_q = sigma_q^2 (mu_f sigma_f^-2 + mu_p sigma_p^-2).
    The KL is that against p, with the same mu_p and sigma_p.

    References:
        Sonderby, Raiko, Maaloe, Sonderby & Winther, "Ladder variational autoencoders", 2016,
        eq. 17-19, https://arxiv.org/abs/1602.02282

    Args:
        net: f -> 2 numbers per latent: mu_f, then log sigma_f.
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
        share = (above[1] / both).square()  # of the data: sigma_p^2 / (sigma_f^2 + sigma_p^2)
        return Proposal(normal(torch.lerp(above[0], below[0], share), below[1] * above[1] / both))


class Quantise(nn.Module):
    """q(z | h, f): all mass on the vector of a codebook that is nearest to the network's output.

    KL(q || p) = -log p(z), exactly: with a uniform prior over K codes log K nats per place.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        eq. 1-3, https://arxiv.org/abs/1711.00937

    Args:
        net: [h, f] (side by side on axis 1) -> the codebook's dimensions at every place.
        book: of the codes.
    """

    def __init__(self, net: nn.Module, book: Codebook) -> None:
        super().__init__()
        self.net, self.book = net, book

    def forward(self, h: Tensor, f: Tensor, p: Distribution) -> Proposal:
        """Return q(z | h, f), and the codebook's penalty, (B,), which is not nats."""
        return Proposal(*self.book(self.net(torch.cat([h, f], 1))))
