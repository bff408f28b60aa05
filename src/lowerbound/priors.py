"""Priors p(z | h): modules from the state to a distribution over one level's latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from lowerbound.distributions import UnitNormal, normal
from lowerbound.scales import scale_of


class StandardNormal(nn.Module):
    """p(z) = N(0, I), z of the given shape."""

    zero: Tensor
    one: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("zero", torch.zeros(shape), persistent=False)
        self.register_buffer("one", torch.ones(shape), persistent=False)

    def forward(self, h: Tensor) -> Independent:
        """Return N(0, I) for every row of h."""
        shape = h.shape[0], *self.shape
        cells = UnitNormal(self.zero.expand(shape), self.one.expand(shape))
        return Independent(cells, len(self.shape), validate_args=False)


class Learned(nn.Module):
    """p(z) = N(mu, sigma^2) with learned mu and sigma, the same for every row."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(shape))
        self.raw_scale = nn.Parameter(torch.zeros(shape))

    def forward(self, h: Tensor) -> Independent:
        """Return the learned normal for every row of h."""
        shape = (h.shape[0], *self.loc.shape)
        return normal(self.loc.expand(shape), scale_of(self.raw_scale, 1e-4, 1e4).expand(shape))


class Mixture(nn.Module):
    """p(z) = sum_k w_k N(mu_k, diag sigma_k^2): fitted to the aggregate posterior after training.

    The best prior for a fixed encoder and decoder is the aggregate posterior E_x q(z | x)
    (Tomczak & Welling, "VAE with a VampPrior", 2018, eq. 5); a mixture is its density estimate.

    Args:
        components: K.
        latent: size of z.
    """

    def __init__(self, components: int, latent: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.zeros(components, latent))
        self.log_scale = nn.Parameter(torch.zeros(components, latent))

    def forward(self, h: Tensor) -> Distribution:
        """Return the mixture for every row of h."""
        return DiagonalMixture(
            self.logits, self.loc, scale_of(self.log_scale, 1e-4, 1e4), h.shape[0]
        )


class DiagonalMixture(MixtureSameFamily):
    """The same mixture of diagonal normals for every row.

    Args:
        logits: (K,) unnormalised log-weights.
        loc: (K, d).
        scale: (K, d).
        rows: the batch size.
    """

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, rows: int) -> None:
        k, d = loc.shape
        self.parameters = logits, loc, scale
        cells = Normal(loc.expand(rows, k, d), scale.expand(rows, k, d), validate_args=False)
        super().__init__(
            Categorical(logits=logits.expand(rows, k), validate_args=False),
            Independent(cells, 1, validate_args=False),
            validate_args=False,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of (..., d) values.

        As the components are the same for every row, the squares expand into two matrix products:
        torch's own way needs rows x K x d numbers, and took most of the time of a score. The
        products cancel, so they are taken in float64.
        """
        logits, loc, scale = (t.double() for t in self.parameters)
        z, precision = value.double(), scale**-2
        square = z.square() @ precision.T - 2 * z @ (loc * precision).T
        square = square + (loc.square() * precision).sum(1)
        constant = scale.log().sum(1) + 0.5 * loc.shape[1] * math.log(2 * math.pi)
        log_p = (logits.log_softmax(0) - constant - 0.5 * square).logsumexp(-1)
        return log_p.to(value.dtype)
