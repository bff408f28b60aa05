"""Rules that make q(z | h, f, p), each with the equation of its paper."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.families import Conditional, LatentGaussian


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
