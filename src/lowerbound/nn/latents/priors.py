"""Priors p(z | h): modules from the state to a distribution over one level's latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from lowerbound.nn.distributions.base import (
    ONE,
    Normals,
    Unchecked,
    UnitNormal,
    draw,
    normal,
    sample,
    tempered,
)
from lowerbound.nn.distributions.scales import scale_of, soft_clip
from lowerbound.nn.networks.mlp import MLP


class StandardNormal(nn.Module):
    """p(z) = N(0, I).

    Args:
        shape: of one z.

    >>> StandardNormal(3)(torch.zeros(2, 0)).log_prob(torch.zeros(2, 3))  # -1.5 log(2 pi) nats
    tensor([-2.7568, -2.7568])
    """

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


class StandardNormalMap(nn.Module):
    """p(z) = N(0, I) of maps whose size is that of the state: (B, D, H, W) -> (B, C, H, W).

    Args:
        channels: C.

    >>> StandardNormalMap(3)(torch.zeros(2, 0, 4, 5)).mean.shape
    torch.Size([2, 3, 4, 5])
    """

    zero: Tensor
    one: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, h: Tensor) -> Independent:
        """Return N(0, I) for every row of h."""
        shape = h.shape[0], self.channels, *h.shape[2:]
        cells = UnitNormal(self.zero.expand(shape), self.one.expand(shape))
        return Independent(cells, len(shape) - 1, validate_args=False)


class LearnedNormal(nn.Module):
    """p(z) = N(mu, sigma^2) with learned mu and sigma, the same for every row.

    Args:
        shape: of one z.

    >>> LearnedNormal(3)(torch.zeros(2, 0)).mean.shape
    torch.Size([2, 3])
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(shape))
        self.raw_scale = nn.Parameter(torch.zeros(shape))

    def forward(self, h: Tensor) -> Independent:
        """Return the learned normal for every row of h."""
        shape = (h.shape[0], *self.loc.shape)
        return normal(self.loc.expand(shape), scale_of(self.raw_scale, 1e-4, 1e4).expand(shape))


class Mixture(nn.Module):
    """p(z) = sum_k w_k N(mu_k, diag sigma_k^2), fitted to the aggregate posterior after training.

    The best prior for a fixed encoder and decoder is the aggregate posterior E_x q(z | x); the
    mixture is a density estimate of it.

    References:
        Tomczak & Welling, "VAE with a VampPrior", 2018, eq. 5, https://arxiv.org/abs/1705.07120

    Args:
        components: K.
        latent: d, the size of z.

    >>> Mixture(5, 3)(torch.zeros(2, 0)).log_prob(torch.zeros(2, 3)).shape
    torch.Size([2])
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
    """Mixture of diagonal normals whose components are the same for every row.

    Args:
        logits: (K,) unnormalised log-weights, or (rows, K) where each row has its own.
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

        Because all rows share the components, log p of each is linear in z and z^2: one matrix
        product, where torch would form rows x K x d numbers. Its terms cancel, so that it is
        taken in float64.
        """
        logits, loc, scale = (t.double() for t in self.parameters)
        z, precision = value.double(), scale**-2
        each = -0.5 * loc.square() * precision - scale.log() - 0.5 * math.log(2 * math.pi)
        terms = torch.cat([-0.5 * precision, loc * precision, each.sum(1, keepdim=True)], 1)
        powers = torch.cat([z.square(), z, torch.ones_like(z[..., :1])], -1)
        log_p = (powers @ terms.T).to(value.dtype)
        return (log_p + logits.log_softmax(-1).to(value.dtype)).logsumexp(-1)


class Coupling(nn.Module):
    """Affine coupling layer: y_b = (z_b - m(z_a)) / s(z_a) and y_a = z_a for two halves a, b.

    References:
        Dinh, Sohl-Dickstein & Bengio, "Density estimation using real NVP", 2017, eq. 4-8,
        https://arxiv.org/abs/1605.08803

    Args:
        latent: d, at least 2.
        hidden: widths of the network's hidden layers.
        odd: whether the variables with odd numbers are the half that moves.
    """

    still: Tensor
    moving: Tensor
    places: Tensor

    def __init__(self, latent: int, hidden: Sequence[int], odd: bool) -> None:
        super().__init__()
        still, moving = (torch.arange(first, latent, 2) for first in (1 - int(odd), int(odd)))
        self.register_buffer("still", still, persistent=False)
        self.register_buffer("moving", moving, persistent=False)
        self.register_buffer("places", torch.cat([still, moving]).argsort(), persistent=False)
        self.net = MLP([len(still), *hidden, 2 * len(moving)])

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return z_a, z_b, and the shift and log-scale of z_b, float32 or better."""
        a, b = z.index_select(-1, self.still), z.index_select(-1, self.moving)
        m, raw = self.net(a).to(z.dtype).chunk(2, -1)
        return a, b, m, soft_clip(raw, -_FOLD, _FOLD)

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the variables of both halves in their original order."""
        return torch.cat([a, b], -1).index_select(-1, self.places)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dz| in nats, which the density needs."""
        a, b, m, log_s = self.split(z)
        return self.merge(a, (b - m) * (-log_s).exp()), -log_s.sum(-1)

    def back(self, y: Tensor) -> Tensor:
        """Return z from y, which sampling needs."""
        a, b, m, log_s = self.split(y)
        return self.merge(a, b * log_s.exp() + m)


_FOLD = 4.0  # bound of the log-scale of one coupling


class Coupled(Unchecked):
    """Distribution of z = f^-1(e), e ~ base, for maps that are cheap in both directions.

    Args:
        base: distribution of e, with batch shape (rows,) and event shape (d,).
        steps: the maps from z to e, each with `forward` and `back`.
    """

    def __init__(self, base: Distribution, steps: Sequence[Coupling]) -> None:
        self.base, self.steps = base, tuple(steps)
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of (..., d) values, nats."""
        e, total = value, value.new_zeros(())
        for step in self.steps:
            e, log_det = step(e)
            total = total + log_det
        return self.base.log_prob(e) + total


@sample.register
@torch.no_grad()
def _(p: Coupled, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    z = sample(p.base, generator, shape)
    for step in reversed(p.steps):
        z = step.back(z)
    return z


@tempered.register
def _(p: Coupled, temperature: float) -> Distribution:
    # As in Glow, section 6: the temperature scales the base.
    return Coupled(tempered(p.base, temperature), p.steps)


class FlowPrior(nn.Module):
    """p(z) by coupling layers over a learned normal; log_prob and sample take one pass each.

    A temperature multiplies the scale of the base normal (Kingma & Dhariwal, "Glow", 2018,
    section 6). With one latent there are no couplings, only that normal.

    References:
        Dinh, Sohl-Dickstein & Bengio, "Density estimation using real NVP", 2017,
        https://arxiv.org/abs/1605.08803; Chen et al., "Variational lossy autoencoder", 2017,
        section 3.2 (flows as priors), https://arxiv.org/abs/1611.02731

    Args:
        latent: d, the size of z.
        steps: number of couplings.
        hidden: widths of the hidden layers of each coupling.

    >>> p = FlowPrior(4)(torch.zeros(2, 0))
    >>> p.log_prob(p.sample()).shape  # nats
    torch.Size([2])
    """

    def __init__(self, latent: int, steps: int = 4, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.base = LearnedNormal(latent)
        count = steps if latent > 1 else 0
        self.steps = nn.ModuleList(Coupling(latent, hidden, i % 2 == 1) for i in range(count))

    def forward(self, h: Tensor) -> Distribution:
        """Return the flow for every row of h."""
        return Coupled(self.base(h), list(self.steps))  # pyright: ignore[reportArgumentType]


@singledispatch
def from_normals(p: Distribution, normals: Normals) -> Tensor:
    """Return one draw of every row of a prior, made of given standard normals, without a graph.

    Args:
        p: the prior, (rows,) of z.
        normals: (shape, like) -> standard normals.
    """
    return draw(p, normals)[0].detach()


@from_normals.register
@torch.no_grad()
def _(p: Coupled, normals: Normals) -> Tensor:
    z = from_normals(p.base, normals)
    for step in reversed(p.steps):
        z = step.back(z)
    return z


@from_normals.register
@torch.no_grad()
def _(p: DiagonalMixture, normals: Normals) -> Tensor:
    _, loc, scale = p.parameters
    weights = p.mixture_distribution.probs  # (rows, K)
    uniform = torch.special.ndtr(normals(Size([len(weights), 1]), loc))
    chosen = (weights.cumsum(-1) < uniform).sum(-1).clamp_max(len(loc) - 1)
    return loc[chosen] + scale[chosen] * normals(Size([len(weights), loc.shape[1]]), loc)
