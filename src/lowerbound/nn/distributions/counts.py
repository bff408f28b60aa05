"""Distributions over counts and codes in numerically stable forms.

They take logarithms where torch's take rates and probabilities, so that they are finite for every
finite parameter, and have a cdf where one exists. All log-probabilities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import singledispatch

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Size, Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Gamma, StudentT
from torch.distributions.utils import lazy_property

from lowerbound.errors import UsageError
from lowerbound.nn.distributions import zero_counts
from lowerbound.nn.distributions.base import ONE, Observed, Unchecked, log_support, sample
from lowerbound.nn.distributions.zero_counts import softplus
from lowerbound.nn.recording import is_recorded

_HALF_LOG_PI = 0.5 * math.log(math.pi)
_TABLE = 4096  # largest count in the table of factorials
PROPOSALS = 16  # draws of rates among which one is chosen by the total
LARGE_DISPERSION = 1e4  # above, Stirling's series is more exact than a difference of lgamma


def _array(x: Tensor) -> NDArray[np.float64]:
    """Return `x` as a float64 array for scipy, without its gradient."""
    return x.detach().double().cpu().numpy()


class BernoulliLogits(Bernoulli):
    """Bernoulli from logits, with the cdf and an unambiguous mode."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    @property
    def mode(self) -> Tensor:
        """1 where p > 1/2, else 0."""
        return (self.logits > 0).to(self.logits.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value)."""
        below_one = torch.where(value >= 0, 1 - self.probs, torch.zeros_like(self.probs))
        return torch.where(value >= 1, torch.ones_like(below_one), below_one)


class Codes(Categorical):
    """Categorical distribution over the codes 0 to K-1; codes are floats.

    Args:
        logits: (..., K).
        kept: fixed log-probability log p of code 0 and log(1 - p), both (...), where code 0
            stands for values not seen in training, which are scored and never drawn; log p is
            -inf where code 0 is a code like the others.
    """

    def __init__(self, logits: Tensor, kept: tuple[Tensor, Tensor] | None = None) -> None:
        # torch subtracts the log-sum directly, which loses digits of large logits; its initialiser
        # would normalise a second time at every step.
        self._drawn = self._param = logits.log_softmax(-1)
        self._kept = kept
        self._num_events = logits.shape[-1]
        Distribution.__init__(self, logits.shape[:-1], validate_args=False)

    @lazy_property
    def logits(self) -> Tensor:
        """The log-probability of every code, (..., K); log_prob does not need it."""
        if self._kept is None:
            return self._drawn
        rest = self._drawn + self._kept[1].unsqueeze(-1)
        return torch.cat([self._first(rest[..., 0]).unsqueeze(-1), rest[..., 1:]], -1)

    def _first(self, otherwise: Tensor) -> Tensor:
        assert self._kept is not None
        fixed = self._kept[0].to(otherwise)
        return torch.where(fixed > -torch.inf, fixed, otherwise)

    def sample(self, sample_shape: Size | Sequence[int] = ONE) -> Tensor:
        """Draw codes seen in training, with torch's global generator."""
        return sample(self, None, Size(sample_shape))

    def drawn(self, generator: torch.Generator | None, shape: Size) -> Tensor:
        """Draw codes seen in training, as floats: a reserved code 0 is never drawn."""
        seen = Categorical(logits=self._drawn.detach(), validate_args=False)
        rows = seen.probs.reshape(-1, self._num_events)
        codes = torch.multinomial(rows, shape.numel(), replacement=True, generator=generator)
        return codes.T.reshape(shape + self.batch_shape).to(rows.dtype)

    @property
    def mode(self) -> Tensor:
        """The most probable code seen in training."""
        return self._drawn.argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(code); a code outside 0..K-1 has probability zero."""
        index = value.long()
        safe = index.clamp(0, self._num_events - 1)
        chosen = self._drawn.expand(*safe.shape, -1).gather(-1, safe.unsqueeze(-1)).squeeze(-1)
        if self._kept is not None:
            rest = chosen + self._kept[1]
            chosen = torch.where(safe == 0, self._first(rest), rest)
        return chosen.masked_fill(safe != index, -torch.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(code <= value), which is meaningful for ordered codes."""
        codes = torch.arange(self.logits.shape[-1], device=value.device)
        return (self.probs * (codes <= value.unsqueeze(-1))).sum(-1)


@sample.register
def _(d: Codes, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return d.drawn(generator, shape)


def ordered_logits(location: Tensor, cutpoints: Tensor) -> Tensor:
    """Return log p(code = k) of the proportional-odds model.

    p(code <= k) = sigmoid(cutpoint_k - location) (McCullagh, "Regression models for ordinal
    data", 1980). Differences of sigmoids are computed in the log domain, so that no probability
    underflows to zero.

    Args:
        location: (...,).
        cutpoints: (..., K-1), increasing.

    Returns:
        (..., K) log-probabilities that sum to one.
    """
    gap = cutpoints - location.unsqueeze(-1)
    upper = F.pad(F.logsigmoid(gap), (0, 1))  # log P(code <= k); the last is log 1
    lower = F.pad(F.logsigmoid(-gap), (1, 0))  # log P(code > k - 1); the first is log 1
    step = cutpoints.diff(dim=-1)
    # P(k) = sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)) for a < b.
    inner = torch.log(-torch.expm1(-step))
    return upper + lower + F.pad(inner, (1, 1))


class PoissonLog(Unchecked):
    """Poisson with log-rate `log_rate`; log p = x log rate - rate - log x!."""

    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), computed in float64 because its terms cancel."""
        x, log_rate = value.double(), self.log_rate.double()
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).to(self.log_rate.dtype)

    @property
    def mean(self) -> Tensor:
        """The rate."""
        return self.log_rate.exp()

    @property
    def mode(self) -> Tensor:
        """The largest most probable count."""
        return self.mean.floor()

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value)."""
        count = value.double().floor().clamp_min(0)
        inside = torch.special.gammaincc(count + 1, self.log_rate.double().exp())
        return torch.where(value < 0, 0.0, inside).to(self.log_rate.dtype)


@sample.register
@torch.no_grad()
def _(d: PoissonLog, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return torch.poisson(d.mean.expand(shape + d.batch_shape), generator=generator)


class NegativeBinomial(Unchecked):
    """Counts with mean exp(log_mean) and variance mean + mean^2 / exp(log_dispersion).

    Args:
        log_mean: log mu.
        log_dispersion: log theta, the inverse over-dispersion; large theta is Poisson.
    """

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor) -> None:
        self.log_mean, self.log_dispersion = log_mean, log_dispersion
        shape = torch.broadcast_shapes(log_mean.shape, log_dispersion.shape)
        super().__init__(shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value).

        Most counts are zero, and log p(0) = -theta log(1 + mu / theta) is one term without
        cancellation: float32 is enough for it. Only the others take lgamma and float64.
        """
        return zero_counts.log_p(value, _others(value), self.log_mean, self.log_dispersion)

    @property
    def mean(self) -> Tensor:
        """The mean count."""
        return self.log_mean.exp().expand(self.batch_shape)

    @property
    def mode(self) -> Tensor:
        """The most probable count: floor(mu (1 - 1 / theta)), at least 0."""
        return (self.mean * (1 - (-self.log_dispersion).exp())).clamp_min(0).floor()

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value), by the incomplete beta function (scipy; no gradient)."""
        k = _array(value.floor().clamp_min(0))
        log_mean, log_theta = _array(self.log_mean), _array(self.log_dispersion)
        below = scipy.special.betainc(
            np.exp(log_theta), k + 1, scipy.special.expit(log_theta - log_mean)
        )
        inside = torch.as_tensor(below, dtype=self.log_mean.dtype, device=value.device)
        return torch.where(value < 0, torch.zeros_like(inside), inside)


@sample.register
@torch.no_grad()
def _(d: NegativeBinomial, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    # A Poisson whose rate is Gamma(theta, mu / theta).
    theta = d.log_dispersion.exp().expand(shape + d.batch_shape)
    shares = Gamma(theta, torch.ones_like(theta), validate_args=False)
    rate = sample(shares, generator) * (d.log_mean - d.log_dispersion).exp()
    return torch.poisson(rate.clamp_max(1e9), generator=generator)


def _log_gamma(theta: Tensor) -> Tensor:
    """Return lgamma(theta) in the range in which `_gamma_ratio` uses it."""
    return torch.lgamma(theta.clamp_max(LARGE_DISPERSION))


def _gamma_ratio(
    x: Tensor, theta: Tensor, log_theta: Tensor, log_gamma: Tensor | None = None
) -> Tensor:
    """Return lgamma(x + theta) - lgamma(theta) - x log theta, stable for every theta."""
    log_gamma = _log_gamma(theta) if log_gamma is None else log_gamma
    moderate = theta.clamp_max(LARGE_DISPERSION)
    direct = torch.lgamma(x + moderate) - log_gamma - x * log_theta
    if _never(theta >= LARGE_DISPERSION):
        return direct
    large = theta.clamp_min(LARGE_DISPERSION)
    total = x + large
    stirling = (total - 0.5) * torch.log1p(x / large) - x + 1 / (12 * total) - 1 / (12 * large)
    return torch.where(theta < LARGE_DISPERSION, direct, stirling)


def _never(cells: Tensor) -> bool:
    """Return True if no element is known to be true, so that a branch can be skipped.

    Always False on accelerators, where the test would stall, and in exported graphs.
    """
    asks = cells.device.type == "cpu" and not is_recorded()
    return asks and not cells.any()


def _counted(
    count: Tensor, log_mean: Tensor, log_theta: Tensor, log_gamma: Tensor | None = None
) -> Tensor:
    """Return log p of nonzero counts under the negative binomial, in float64.

    Written as A(x, theta) - log x! + x log mu - (x + theta) log(1 + mu / theta) with
    A = lgamma(x + theta) - lgamma(theta) - x log theta, so that large terms that cancel for large
    theta are never formed. `log_gamma` is `_log_gamma(theta)` if it is known already.
    """
    x, log_mean, log_theta = count.double(), log_mean.double(), log_theta.double()
    log_p = _gamma_ratio(x, log_theta.exp(), log_theta, log_gamma) - _log_factorial(x)
    log_p = log_p + x * (log_mean - softplus(log_mean - log_theta))
    return log_p + zero_counts.negative_binomial(log_mean, log_theta)


def _log_factorial(x: Tensor) -> Tensor:
    """Return log x!, from a table if all are small whole numbers, as is usual."""
    if is_recorded() or x.device.type != "cpu" or not x.numel():
        return torch.lgamma(x + 1)
    index = x.long()
    if index.max() > _TABLE or index.min() < 0 or not torch.equal(index.to(x.dtype), x):
        return torch.lgamma(x + 1)
    return torch.lgamma(torch.arange(1, _TABLE + 2, dtype=x.dtype))[index]


def _others(value: Tensor) -> zero_counts.Rule:
    """Return the rule that gives log p of the nonzero counts, in float64."""

    def log_p(
        at: Callable[[Tensor], Tensor], log_mean: Tensor, log_theta: Tensor, gate: Tensor | None
    ) -> Tensor:
        shared = log_theta.shape == value.shape[-1:]  # one per column, fewer than the counts
        log_gamma = at(_log_gamma(log_theta.double().exp())) if shared else None
        found = _counted(at(value), log_mean, at(log_theta), log_gamma)
        return found if gate is None else found - softplus(gate.double())

    return log_p


class ZeroInflated(Unchecked):
    """Zero with probability sigmoid(gate), otherwise a draw from `base`.

    References:
        Lambert, "Zero-inflated Poisson regression", 1992; Lopez et al., "Deep generative modeling
        for single-cell transcriptomics", 2018, eq. 7.
    """

    def __init__(self, base: NegativeBinomial, gate: Tensor) -> None:
        self.base, self.gate = base, gate
        super().__init__(base.batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value); the two sources of zeros are added in the log domain."""
        base, gate = self.base, self.gate
        return zero_counts.log_p(value, _others(value), base.log_mean, base.log_dispersion, gate)

    @property
    def mean(self) -> Tensor:
        """The mean count."""
        return torch.sigmoid(-self.gate) * self.base.mean

    @property
    def mode(self) -> Tensor:
        """The most probable count of the two candidates, zero and the base's mode."""
        peak = self.base.mode
        zero = torch.zeros_like(peak)
        return torch.where(self.log_prob(peak) > self.log_prob(zero), peak, zero)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value)."""
        closed = torch.sigmoid(self.gate)
        inside = closed + (1 - closed) * self.base.cdf(value)
        return torch.where(value < 0, torch.zeros_like(inside), inside)


@sample.register
@torch.no_grad()
def _(d: ZeroInflated, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return sample(d.base, generator, shape).masked_fill(_closed(d, generator, shape), 0.0)


def _closed(d: ZeroInflated, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    """Draw a mask of the zeros that are not draws from the base."""
    gate = torch.sigmoid(d.gate).expand(shape + d.batch_shape)
    uniform = torch.rand(gate.shape, generator=generator, dtype=gate.dtype, device=gate.device)
    return uniform < gate


COUNTS = 64  # values that a count is taken to have where the values of a row are counted


@log_support.register
def _(d: PoissonLog | NegativeBinomial | ZeroInflated) -> float:
    return d.batch_shape[1:].numel() * math.log(COUNTS)


class StudentTCdf(StudentT):
    """Student-t of torch, computed in float64, with a cdf (scipy; no gradient)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value); float32 would lose digits in the difference of lgamma."""
        df, scale = self.df.double(), self.scale.double()
        z = (value.double() - self.loc.double()) / scale
        constant = torch.lgamma(0.5 * (df + 1)) - torch.lgamma(0.5 * df) - 0.5 * df.log()
        kernel = -0.5 * (df + 1) * torch.log1p(z.square() / df)
        return (constant - _HALF_LOG_PI - scale.log() + kernel).to(self.loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value)."""
        z = (_array(value) - _array(self.loc)) / _array(self.scale)
        below = scipy.special.stdtr(_array(self.df), z)
        return torch.as_tensor(below, dtype=value.dtype, device=value.device)


@singledispatch
def log_rates(d: Distribution) -> Tensor:
    """Return the log of the mean count of every element, extra zeros left out, (B, G).

    Raises:
        UsageError: E246 if no rule is registered for the type of `d`.
    """
    raise UsageError(
        "E246",
        f"a likelihood of the type {type(d).__name__} has no rates of counts",
        fix="register a rule with lowerbound.nn.distributions.counts.log_rates.register",
    )


@log_rates.register
def _(d: Observed) -> Tensor:
    return log_rates(d.cells)


@log_rates.register
def _(d: PoissonLog) -> Tensor:
    return d.log_rate


@log_rates.register
def _(d: NegativeBinomial) -> Tensor:
    return d.log_mean.expand(d.batch_shape)


@log_rates.register
def _(d: ZeroInflated) -> Tensor:
    return log_rates(d.base)


@singledispatch
def rates(d: Distribution, generator: torch.Generator | None) -> Tensor:
    """Draw the Poisson rates that the counts of `d` have.

    Raises:
        UsageError: E246 if no rule is registered for the type of `d`.
    """
    raise UsageError(
        "E246",
        f"counts of the type {type(d).__name__} cannot be drawn with a given total",
        fix="register a rule with lowerbound.nn.distributions.counts.rates.register",
    )


@rates.register
def _(d: PoissonLog, generator: torch.Generator | None) -> Tensor:
    return d.mean


@rates.register
@torch.no_grad()
def _(d: NegativeBinomial, generator: torch.Generator | None) -> Tensor:
    # A negative binomial is a Poisson whose rate is Gamma(theta, mu / theta).
    theta = d.log_dispersion.exp().expand(d.batch_shape)
    shares = Gamma(theta, torch.ones_like(theta), validate_args=False)
    return sample(shares, generator) * (d.log_mean - d.log_dispersion).exp()


@rates.register
@torch.no_grad()
def _(d: ZeroInflated, generator: torch.Generator | None) -> Tensor:
    return rates(d.base, generator).masked_fill(_closed(d, generator), 0.0)


@torch.no_grad()
def sample_of_total(
    d: Distribution, totals: Tensor, generator: torch.Generator, given: Tensor | None = None
) -> Tensor:
    """Draw counts whose sum is given.

    Counts that are Poisson given their rates are multinomial given their sum. The rates given
    the sum are chosen among `PROPOSALS` draws by the probability of the sum.

    Args:
        d: counts, (B, G) elements.
        totals: (B,) whole numbers.
        generator: the source of randomness.
        given: (G,) counts that are known, NaN for those to draw; None to draw all.

    Returns:
        (B, G) counts; those to draw share what the known ones leave of the total.
    """
    open_ = torch.ones(d.batch_shape[-1], dtype=torch.bool) if given is None else given.isnan()
    open_ = open_.to(totals.device)
    left = totals.double() - (0.0 if given is None else given.nansum().double())
    left = left.clamp_min(0.0)
    chosen, best = None, torch.full_like(left, -torch.inf)
    for _ in range(PROPOSALS):
        # A row of zero rates has room for its total, too.
        rate = rates(d, generator).double().clamp_min(1e-30) * open_
        size = rate.sum(1)
        uniform = torch.rand(size.shape, generator=generator, dtype=size.dtype, device=size.device)
        # The largest of log weight plus Gumbel noise is a draw by the weights.
        key = torch.special.xlogy(left, size) - size - (-uniform.log()).log()
        better = key > best
        best = torch.where(better, key, best)
        chosen = rate if chosen is None else torch.where(better[:, None], rate, chosen)
    assert chosen is not None, "there are proposals"
    drawn = _multinomial(chosen, left, generator).to(torch.get_default_dtype())
    return drawn if given is None else torch.where(open_, drawn, given.to(drawn))


def _multinomial(rates: Tensor, totals: Tensor, generator: torch.Generator) -> Tensor:
    """Draw (B, G) counts of given sums with probabilities that are proportional to `rates`.

    The counts of a row with a rate that is infinite or NaN are NaN.
    """
    after = rates.flip(1).cumsum(1).flip(1)
    shares = (rates / after.clamp_min(1e-300)).clamp(0.0, 1.0)
    # Otherwise only the shares up to that rate would be NaN, and torch.binomial never returns for
    # a number of trials that is NaN, unless the probability is NaN, too.
    shares = shares + 0.0 * after[:, :1]
    counts, left = torch.empty_like(rates), totals.clone()
    for place in range(rates.shape[1]):
        counts[:, place] = torch.binomial(left, shares[:, place].contiguous(), generator)
        left = left - counts[:, place]
    return counts
