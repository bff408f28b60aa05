"""Distributions of pixels: codes 0 to 255 of an image file, and values in [0, 1].

Locations and scales are in codes, log-probabilities in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import ContinuousBernoulli
from torch.distributions.utils import broadcast_all

from lowerbound.nn.distributions.base import ONE, Unchecked, centre, sample, tempered
from lowerbound.nn.distributions.counts import Codes

SATURATED = 18  # logit whose sigmoid is 1 to eight digits
NARROW = 0.3  # logit below which the closed forms of the continuous Bernoulli approach 0 / 0


class DiscretizedLogistic(Unchecked):
    """Logistic distribution rounded to the codes 0 to levels - 1, per element.

    P(x) = F(x + 1/2) - F(x - 1/2) with F(t) = sigmoid((t - loc) / scale). The first code also has
    the mass below it and the last the mass above it, so that probabilities sum to 1.

    References:
        Kingma et al., "Improved variational inference with inverse autoregressive flow", 2016,
        eq. 17, https://arxiv.org/abs/1606.04934; the end codes: Salimans, Karpathy, Chen &
        Kingma, "PixelCNN++", 2017, eq. 2,
        https://arxiv.org/abs/1701.05517

    Args:
        loc: location of the logistic, in codes.
        scale: scale of the logistic, in codes, above 0.
        levels: number of codes.
    """

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P of every element.

        With a and b the edges of a bin, sigmoid(b) - sigmoid(a) is
        sigmoid(b) sigmoid(-a) (1 - e^(a - b)), which has no cancellation for any scale. Neighbours
        compute their common edge from the same number.
        """
        precision = 1 / self.scale
        first, last = value <= 0, value >= self.levels - 1
        upper = F.logsigmoid((value + 0.5 - self.loc) * precision)
        lower = F.logsigmoid((self.loc - (value - 0.5)) * precision)
        inside = (-torch.expm1(-precision)).log()
        return (
            upper.masked_fill(last, 0.0)
            + lower.masked_fill(first, 0.0)
            + inside.masked_fill(first | last, 0.0)
        )

    @property
    def mean(self) -> Tensor:
        """The mean code, to 1e-5 of a code."""
        return _mean(self.loc.double(), self.scale.double(), self.levels).to(self.loc)

    @property
    def mode(self) -> Tensor:
        """The most probable code: the nearest to the location, or one of the two ends."""
        best = self.loc.round().clamp(0, self.levels - 1)
        for end in (0.0, self.levels - 1.0):
            other = torch.full_like(best, end)
            best = torch.where(self.log_prob(other) > self.log_prob(best), other, best)
        return best

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        below = ((value.floor() + 0.5 - self.loc) / self.scale).sigmoid()
        return below.masked_fill(value < 0, 0.0).masked_fill(value >= self.levels - 1, 1.0)


def _mean(loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Return the mean code E[x] = sum over j from 1 to levels - 1 of sigmoid((loc - j + 1/2) / s).

    Up to a scale of 1, only terms near the location are summed; the others are 1 or 0. Above, it
    is the integral with corrections at both ends (Euler-Maclaurin, midpoint rule).
    """
    narrow, wide = scale.clamp_max(1.0), scale.clamp_min(1.0)
    middle = loc.clamp(0, levels).round()
    near = (middle - SATURATED - 1).clamp(0, levels - 1)
    for offset in range(-SATURATED, SATURATED + 1):
        code = middle + offset
        term = ((loc - code + 0.5) / narrow).sigmoid()
        near = near + term.masked_fill((code < 1) | (code > levels - 1), 0.0)
    ends = loc / wide, (loc - (levels - 1)) / wide
    slopes = [end.sigmoid() * (-end).sigmoid() for end in ends]
    bends = [slope * (1 - 6 * slope) for slope in slopes]
    far = (
        wide * (F.softplus(ends[0]) - F.softplus(ends[1]))
        + (slopes[1] - slopes[0]) / (24 * wide)
        - 7 * (bends[1] - bends[0]) / (5760 * wide**3)
    )
    return torch.where(scale > 1, far, near)


def _uniform(generator: torch.Generator | None, shape: Size, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)


@sample.register
@torch.no_grad()
def _(d: DiscretizedLogistic, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    drawn = d.loc + d.scale * _uniform(generator, shape + d.loc.shape, d.loc).logit()
    return drawn.round().clamp(0, d.levels - 1)


@tempered.register
def _(p: DiscretizedLogistic, temperature: float) -> DiscretizedLogistic:
    return DiscretizedLogistic(p.loc, p.scale * temperature, p.levels)


class DiscretizedLogisticMixture(Unchecked):
    """Mixture of discretised logistics per pixel, each channel conditional on earlier channels.

    p(x) = sum_k w_k prod_c P_kc(x_c), where the location of channel c of component k is
    loc_kc + sum over j < c of a_kcj x_j, as PixelCNN++ couples red, green and blue. The
    log-probability of an element is conditional on the earlier channels, so that elements sum to
    the log-probability of the pixel.

    References:
        Salimans, Karpathy, Chen & Kingma, "PixelCNN++", 2017, eq. 2-3,
        https://arxiv.org/abs/1701.05517

    Args:
        logits: (B, K, ...) unnormalised log-weights of a pixel's components.
        loc: (B, K, C, ...) in codes, for earlier channels in the middle of their range.
        scale: (B, K, C, ...) in codes.
        coupling: (B, K, C (C - 1) / 2, ...) the coefficients a of channel 1 on 0, 2 on 0, 2 on 1
            and so on.
        levels: number of codes.
    """

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor, levels: int = 256
    ) -> None:
        self.log_weights = logits.log_softmax(1)
        self.loc, self.scale, self.coupling, self.levels = loc, scale, coupling, levels
        self.channels, self._axis = loc.shape[2], 2 - loc.dim()  # the channels' axis, from the end
        super().__init__(loc[:, 0].shape, validate_args=False)

    def channel(self, c: int, earlier: Tensor) -> DiscretizedLogistic:
        """Return channel c of every component, (..., B, K, ...), given the earlier channels."""
        loc = self.loc.select(self._axis, c)
        if c:  # `earlier` is (..., B, 1 or K, c, ...)
            start = c * (c - 1) // 2
            weights = self.coupling.narrow(self._axis, start, c)
            loc = loc + (weights * (earlier - (self.levels - 1) / 2)).sum(self._axis)
        return DiscretizedLogistic(loc, self.scale.select(self._axis, c), self.levels)

    def _scan(self, value: Tensor, cdf: bool) -> Tensor:
        """Return log-probability or cdf of the elements, given the earlier channels."""
        x, weights, cells = value.unsqueeze(self._axis - 1), self.log_weights, []
        for c in range(self.channels):
            each = self.channel(c, x.narrow(self._axis, 0, c))
            here = x.select(self._axis, c)
            log_p = each.log_prob(here)
            if cdf:
                cells.append((weights.exp() * each.cdf(here)).sum(self._axis))
            else:
                cells.append((weights + log_p).logsumexp(self._axis))
            if c + 1 < self.channels:  # weights of the components given the channels so far
                weights = (weights + log_p).log_softmax(self._axis)
        return torch.stack(cells, self._axis)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P of every element given the earlier channels, in the shape of value."""
        return self._scan(value, cdf=False)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X_c <= value_c) of every element given the earlier channels."""
        return self._scan(value, cdf=True)

    def drawn(self, generator: torch.Generator | None, shape: Size) -> Tensor:
        """Draw a component, then its channels in order."""
        uniform = _uniform(generator, shape + self.log_weights.shape, self.loc)
        gumbel = -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()
        chosen = (self.log_weights + gumbel).argmax(self._axis, keepdim=True)
        channels: list[Tensor] = []
        for c in range(self.channels):
            earlier = torch.stack(channels, self._axis) if c else self.loc.new_empty(0)
            drawn = sample(self.channel(c, earlier), generator, ONE if c else shape)
            channels.append(drawn.take_along_dim(chosen, self._axis).expand_as(drawn))
        return torch.stack(channels, self._axis).select(self._axis - 1, 0)

    @property
    def mean(self) -> Tensor:
        """The mean code, with earlier channels at the mean of their component.

        It is exact up to the rounding of codes and the ends of their range.
        """
        means: list[Tensor] = []
        for c in range(self.channels):
            earlier = torch.stack(means, self._axis) if c else self.loc
            means.append(self.channel(c, earlier).mean)
        weights = self.log_weights.exp().unsqueeze(self._axis)
        return (weights * torch.stack(means, self._axis)).sum(self._axis - 1)

    @property
    def mode(self) -> Tensor:
        """The most probable code of every channel given the modes of the earlier ones."""
        weights, chosen = self.log_weights, self.loc.new_empty(0)
        modes: list[Tensor] = []
        for c in range(self.channels):
            each = self.channel(c, chosen)
            best = torch.zeros_like(weights.select(self._axis, 0))
            highest = torch.full_like(best, -torch.inf)
            for code in range(self.levels):
                log_p = each.log_prob(best.new_full((), float(code)))
                log_p = (weights + log_p).logsumexp(self._axis)
                better = log_p > highest
                highest = torch.where(better, log_p, highest)
                best = best.masked_fill(better, float(code))
            modes.append(best)
            weights = weights + each.log_prob(best.unsqueeze(self._axis))
            chosen = torch.stack(modes, self._axis).unsqueeze(self._axis - 1)
        return torch.stack(modes, self._axis)


@sample.register
@torch.no_grad()
def _(
    d: DiscretizedLogisticMixture, generator: torch.Generator | None, shape: Size = ONE
) -> Tensor:
    return d.drawn(generator, shape)


@tempered.register
def _(p: DiscretizedLogisticMixture, temperature: float) -> DiscretizedLogisticMixture:
    scale = p.scale * temperature  # of the components; their weights are unchanged
    return DiscretizedLogisticMixture(p.log_weights, p.loc, scale, p.coupling, p.levels)


class GreyCodes(Codes):
    """Categorical distribution over the codes 0 to K-1 of pixels, which have a mean."""

    @property
    def mean(self) -> Tensor:
        """The expected code, which may be fractional."""
        return self.probs @ torch.arange(float(self.logits.shape[-1])).to(self.probs)


@centre.register
def _(p: GreyCodes) -> Tensor:
    return p.mean


@tempered.register
def _(p: GreyCodes, temperature: float) -> GreyCodes:
    return GreyCodes(p.logits / temperature)


class ContinuousBernoulliLogits(ContinuousBernoulli):
    """Continuous Bernoulli of torch, computed from its logit, which is exact in float32.

    p(x) = C e^(eta x) sigmoid(-eta) on [0, 1] with C = eta / tanh(eta / 2). torch computes C from
    probabilities: their logarithms cancel near 1/2 (in float32 log C is off by up to 1.3e-5 nats
    per pixel, the mean by 3e-3, the variance by 1.7), and logits beyond 16 are clipped.

    References:
        Loaiza-Ganem & Cunningham, "The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders", 2019, eq. 6-8, https://arxiv.org/abs/1907.06845

    Args:
        logits: eta.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def _by_size(self, near: Tensor, far: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a series for small eta and a closed form otherwise, without NaN gradients."""
        small = self.logits.abs() < NARROW
        return torch.where(small, near, far(self.logits.masked_fill(small, 1.0)))

    def _cont_bern_log_norm(self) -> Tensor:
        """Return log C, even in eta and log 2 at 0."""
        s = self.logits.square()
        near = (s / 12 * (1 - s / 60 * (1 - s / 42))).log1p() + math.log(2)
        return self._by_size(near, lambda eta: eta.abs().log() - (eta.abs() / 2).tanh().log())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every element."""
        return value * self.logits - F.softplus(self.logits) + self._cont_bern_log_norm()

    @property
    def mean(self) -> Tensor:
        """1 / (1 - e^-eta) - 1 / eta."""
        s = self.logits.square()
        near = 0.5 + self.logits / 12 * (1 - s / 60 * (1 - s / 42))
        return self._by_size(near, lambda eta: -1 / (-eta).expm1() - 1 / eta)

    @property
    def variance(self) -> Tensor:
        """1 / eta^2 - 1 / (2 sinh(eta / 2))^2."""
        s = self.logits.square()
        near = 1 / 12 - s / 240 * (1 - s * 5 / 126)
        return self._by_size(near, lambda eta: eta**-2 - (2 * (eta / 2).sinh()) ** -2)

    @property
    def mode(self) -> Tensor:
        """The end of [0, 1] at which the density is highest."""
        return (self.logits > 0).to(self.logits.dtype)

    def _mirrored(self, value: Tensor, falling: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Apply a formula for eta < 0; for eta > 0, use that 1 - x has the logit -eta."""
        eta = -self.logits.abs().clamp_min(torch.finfo(self.logits.dtype).tiny)
        up = self.logits > 0
        found = falling(torch.where(up, 1 - value, value), eta)
        return torch.where(up, 1 - found, found)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        return self._mirrored(value.clamp(0, 1), lambda x, eta: (eta * x).expm1() / eta.expm1())

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of the probability `value`."""
        return self._mirrored(value, lambda u, eta: (u * eta.expm1()).log1p() / eta)
