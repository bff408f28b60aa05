"""Counts whose library size is a latent number that is integrated out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.nn.distributions.base import (
    ONE,
    Observed,
    Unchecked,
    centre,
    log_prob_cells,
    log_support,
    sample,
)
from lowerbound.nn.distributions.counts import log_rates, rates
from lowerbound.nn.distributions.families import soft_clip
from lowerbound.nn.distributions.table_rows import LibraryCounts

NODES = 7  # of the quadrature; a smooth density of one number takes few
_STEPS = 6  # of Newton's method towards the mode
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_WIDEST = 3.0  # limit on the absolute value of the logarithm of the prior's scale


class IntegratedLibrary(Unchecked):
    """Counts of a row, with a log-normal library size that is integrated out.

    p(x) = integral of p(l) prod_g p(x_g | exp(l) share_g) dl, with p(l) = N(loc, scale^2). The
    integral is by Gauss-Hermite quadrature around the mode of its integrand given x, whose width
    is that of its curvature: the integrand is close to a normal density there, and few nodes are
    exact to about 1e-3 nats.

    References:
        Lopez et al., "Deep generative modeling for single-cell transcriptomics", 2018 (log-normal
        library size), https://doi.org/10.1038/s41592-018-0229-2; Liu & Pierce, "A note on
        Gauss-Hermite quadrature", 1994 (adaptive nodes).

    Args:
        counts: the distribution of the elements, (B, G), for a log library size, (B, 1).
        loc: (B, 1) mean of the log library size.
        log_scale: (B, 1) log of its standard deviation.
    """

    def __init__(
        self, counts: Callable[[Tensor], Distribution], loc: Tensor, log_scale: Tensor
    ) -> None:
        self.counts, self.loc, self.log_scale = counts, loc, log_scale
        self.usual = counts(loc)
        super().__init__(loc.shape[:1], self.usual.batch_shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every row, (B,) nats; a missing element adds nothing."""
        at, width = self._nodes(value)
        points, weights = np.polynomial.hermite.hermgauss(NODES)
        found = []
        for point, weight in zip(points.tolist(), weights.tolist(), strict=True):
            library = at + math.sqrt(2.0) * width * point
            log_p = Observed(self.counts(library)).log_prob(value)
            found.append(log_p + self._log_prior(library) + math.log(weight) + point**2)
        total = torch.stack(found, 1).double().logsumexp(1)
        return (total + (math.sqrt(2.0) * width[:, 0].double()).log()).to(self.loc.dtype)

    def _log_prior(self, library: Tensor) -> Tensor:
        far = (library - self.loc) * (-self.log_scale).exp()
        return (-0.5 * far.square() - self.log_scale - _HALF_LOG_TWO_PI)[:, 0]

    @torch.no_grad()
    def _nodes(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mode of the integrand and its width, (B, 1), by Newton's method."""
        value, seen = value.nan_to_num(0.0), ~value.isnan()
        precision = (-2 * self.log_scale).exp()
        usual = self._means(self.loc).masked_fill(~seen, 0.0).sum(1, keepdim=True)
        total = value.sum(1, keepdim=True)
        gain = (total.clamp_min(0.5) / usual.clamp_min(1e-9)).log()
        at, information = self.loc + gain * total / (total + precision), precision
        for _ in range(_STEPS):
            mean, inverse = self._means(at), self._inverse_dispersion()
            # The score and the information of log mu, of a negative binomial.
            weight = self._open(value, mean, inverse).masked_fill(~seen, 0.0)
            damped = 1 / (1 + mean * inverse)
            score = (weight * damped * (value - mean)).sum(1, keepdim=True)
            bent = weight * mean * (1 + value * inverse) * damped.square()
            information = bent.sum(1, keepdim=True) + precision
            step = (score - precision * (at - self.loc)) / information
            at = at + step.clamp(-1.0, 1.0)
        return at, information.rsqrt()

    def _open(self, value: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
        """Return the probability that a count is no extra zero, given its value."""
        gate = getattr(self.usual, "gate", None)
        if gate is None:
            return torch.ones_like(mean)
        spread = inverse.clamp_min(1e-9)
        log_zero = -torch.log1p(mean * spread) / spread
        return torch.where(value > 0, torch.ones_like(mean), torch.sigmoid(log_zero - gate))

    def _means(self, library: Tensor) -> Tensor:
        return log_rates(self.counts(library)).exp()

    def _inverse_dispersion(self) -> Tensor:
        base = getattr(self.usual, "base", self.usual)
        log_dispersion = getattr(base, "log_dispersion", None)
        return torch.zeros(()) if log_dispersion is None else (-log_dispersion).exp()

    def drawn(self, generator: torch.Generator | None) -> Distribution:
        """Return the distribution of the elements at a drawn library size."""
        normals = torch.randn(self.loc.shape, generator=generator, dtype=self.loc.dtype,
                              device=self.loc.device)  # fmt: skip
        return self.counts(self.loc + self.log_scale.exp() * normals)

    @property
    def mean(self) -> Tensor:
        """The mean of every element, over library sizes, too."""
        return centre(self.counts(self.loc + 0.5 * (2 * self.log_scale).exp()))

    @property
    def mode(self) -> Tensor:
        """The most probable counts at the median library size."""
        return self.usual.mode


@sample.register
@torch.no_grad()
def _(d: IntegratedLibrary, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    drawn = [sample(d.drawn(generator), generator) for _ in range(shape.numel())]
    return torch.stack(drawn).view(shape + d.batch_shape + d.event_shape)


@log_rates.register
def _(d: IntegratedLibrary) -> Tensor:
    return log_rates(d.usual)


@rates.register
def _(d: IntegratedLibrary, generator: torch.Generator | None) -> Tensor:
    return rates(d.drawn(generator), generator)


@log_prob_cells.register
def _(d: IntegratedLibrary, value: Tensor) -> Tensor:
    # Given the likeliest library size of the row: the elements are dependent.
    return Observed(d.counts(d._nodes(value)[0])).log_prob_cells(value)


@log_support.register
def _(d: IntegratedLibrary) -> float:
    return log_support(d.usual)


class LearnedLibraryCounts(LibraryCounts):
    """Counts whose mean is a share of a library size that is learned, log-normal per batch.

    The library size is integrated out, so that p(x | z, covariates) is a density of the counts
    and of their total. See `IntegratedLibrary`.

    Args:
        features: G, the number of genes.
        member: "poisson", "nb" or "zinb"; dispersion is one learned number per gene.
        covariates: numbers of the covariates, on which mean and scale of the log library size
            depend linearly.

    >>> family = LearnedLibraryCounts(4, "nb", 2)
    >>> family(torch.zeros(1, 4), torch.tensor([[1.0, 0.0]])).log_prob(torch.ones(1, 4)).shape
    torch.Size([1])
    """

    def __init__(self, features: int, member: str = "nb", covariates: int = 0) -> None:
        super().__init__(features, member)
        self.weight = nn.Parameter(torch.zeros(2, covariates))
        self.bias = nn.Parameter(torch.zeros(2))

    def start_from(self, first: Callable[[int], Tensor]) -> None:
        """Begin with the mean and the spread of log totals of rows.

        Args:
            first: n -> the first n rows of the training data, (n, features), or all if fewer.
        """
        logs = first(_ROWS).nansum(1).clamp_min(1.0).log()
        spread = logs.std(correction=0).clamp_min(0.05)
        with torch.no_grad():
            self.bias.copy_(torch.stack([logs.mean(), spread.log()]))

    def forward(self, numbers: Tensor, log_library: Tensor | None = None) -> IntegratedLibrary:
        """Return the counts, with the covariates (B, covariates) in place of a library size."""
        covariates = numbers.new_zeros(len(numbers), 0) if log_library is None else log_library
        # Products of matrices would run in bfloat16 under autocast.
        numbered = (covariates.float()[:, None] * self.weight).sum(2) + self.bias
        loc, log_scale = numbered.split(1, 1)
        shares, *gates = numbers.split(self.features, 1)
        log_shares = shares.log_softmax(1)

        def counts(library: Tensor) -> Distribution:
            return self.counts(log_shares + library, gates)

        return IntegratedLibrary(counts, loc, soft_clip(log_scale, -_WIDEST, _WIDEST))


_ROWS = 10_000  # from which the library sizes are taken at the beginning
