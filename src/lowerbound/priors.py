"""Priors p(z | h): modules from the state to a distribution over one level's latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from lowerbound.distributions import normal
from lowerbound.families import scale_of


class StandardNormal(nn.Module):
    """p(z) = N(0, I), z of the given shape."""

    zero: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("zero", torch.zeros(shape), persistent=False)

    def forward(self, h: Tensor) -> Independent:
        """Return N(0, I) for every row of h."""
        loc = self.zero.expand(h.shape[0], *self.shape)
        return normal(loc, torch.ones_like(loc))


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
        rows, (k, d) = h.shape[0], self.loc.shape
        return MixtureSameFamily(
            Categorical(logits=self.logits.expand(rows, k), validate_args=False),
            Independent(
                Normal(
                    self.loc.expand(rows, k, d),
                    scale_of(self.log_scale, 1e-4, 1e4).expand(rows, k, d),
                    validate_args=False,
                ),
                1,
                validate_args=False,
            ),
            validate_args=False,
        )
