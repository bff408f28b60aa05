"""Families, which turn the output of a network into a distribution, and `Conditional`.

A family takes numbers of shape (B, numbers, ...). The first axis after the batch holds the numbers
of every element, so that one family serves vectors (B, D) and images (B, C, H, W). It returns a
distribution with batch shape (B,) whose log_prob is summed over the elements, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace

from lowerbound.nn.distributions.base import FastNormal, Observed, Unchecked, is_density, normal
from lowerbound.nn.distributions.counts import (
    BernoulliLogits,
    Codes,
    NegativeBinomial,
    StudentTCdf,
    ordered_logits,
)
from lowerbound.nn.distributions.scales import SCALE_FLOOR, above, scale_of, soft_clip

LOG_COUNT_LIMIT = 18.4  # log 1e8: no count that float32 holds exactly has a larger mean
_DECAY = 4  # polynomial decay of a running sigma: about the last fifth of the batches count


class Family(nn.Module):
    """Base class of families: modules that turn the output of a network into a distribution.

    A subclass sets `width` and defines ``forward(numbers)``, with numbers of shape
    (B, width * features, ...), and returns a distribution with batch shape (B,).

    Attributes:
        width: numbers per element that the network must give.
        floor: least scale of the distribution, in the units of the data; 0 without one.

    >>> Gaussian().numbers(3)
    6
    """

    width: int = 1
    floor: float = 0.0

    def numbers(self, features: int) -> int:
        """Return the number of network outputs needed for `features` elements."""
        return self.width * features


class Conditional(nn.Module):
    """p(. | h), a network and a family: the form of encoder heads, priors and likelihoods.

    Args:
        net: module from h to the numbers of the family.
        family: module from these numbers to a distribution.

    >>> likelihood = Conditional(nn.Linear(2, 3), SharedSigma())
    >>> likelihood(torch.zeros(5, 2)).log_prob(torch.zeros(5, 3)).shape  # nats
    torch.Size([5])
    """

    def __init__(self, net: nn.Module, family: Family) -> None:
        super().__init__()
        self.net, self.family = net, family

    def forward(self, h: Tensor, *context: Tensor) -> Distribution:
        """Return p(. | h); the tensors `beside` are passed to the family unchanged."""
        numbers = self.net(h)
        # The one mixed-precision boundary: densities are float32 or better.
        wide = numbers if numbers.dtype == torch.float64 else numbers.float()
        return self.family(wide, *context)


def summed(cells: Distribution) -> Independent:
    """Return the joint of independent elements, whose first axis is the batch."""
    return Independent(cells, len(cells.batch_shape) - 1, validate_args=False)


class LatentGaussian(Family):
    """N(mu, sigma^2) per element with sigma in [1e-4, 1e4], the family of latents.

    Args:
        reach: bound of |mu| and |log sigma|, kept by a hyperbolic tangent; infinite by
            default. In networks without normalisation, one unusual batch can otherwise give a KL
            of 1e12 nats and end the fit.

    References:
        Vahdat & Kautz, "NVAE", 2020, https://arxiv.org/abs/2007.03898, whose code uses reach=5.

    >>> LatentGaussian()(torch.zeros(2, 6)).stddev
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """

    width = 2

    def __init__(self, reach: float = math.inf) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised normal of (B, D, ...) from (B, 2 D, ...): mu, then log sigma."""
        if self.reach < math.inf:
            numbers = self.reach * (numbers / self.reach).tanh()
        loc, raw = numbers.chunk(2, 1)
        return normal(loc, scale_of(raw, 1e-4, 1e4))


class FixedSigma(Family):
    """N(mu, sigma^2) with one given sigma; the textbook Gaussian VAE has sigma = 1.

    Args:
        sigma: the standard deviation, in the units of the data.

    >>> FixedSigma()(torch.zeros(1, 2)).log_prob(torch.zeros(1, 2))  # -log(2 pi)
    tensor([-1.8379])
    """

    sigma: Tensor

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.tensor(float(sigma)))

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised normal."""
        return normal(numbers, self.sigma.expand_as(numbers))


class SharedSigma(Family):
    """N(mu, sigma^2) with one learned sigma for all elements.

    References:
        Rybkin, Daniilidis & Levine, "Simple and effective VAE training with calibrated decoders",
        2021, section 3.2, https://arxiv.org/abs/2006.13202

    Args:
        floor: least sigma, in the units of the data.

    >>> [name for name, _ in SharedSigma().named_parameters()]
    ['log_sigma']
    """

    def __init__(self, floor: float = SCALE_FLOOR) -> None:
        super().__init__()
        self.floor = floor
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised normal."""
        return normal(numbers, scale_of(self.log_sigma, self.floor).expand_as(numbers))


class FeatureSigma(Family):
    """N(mu, sigma_d^2) with one learned sigma per feature, or per channel of an image.

    Args:
        features: D, the number of features or channels.
        floor: least sigma, in the units of the data.

    >>> FeatureSigma(3)(torch.zeros(2, 3, 4, 4)).event_shape
    torch.Size([3, 4, 4])
    """

    def __init__(self, features: int, floor: float = SCALE_FLOOR) -> None:
        super().__init__()
        self.floor = floor
        self.log_sigma = nn.Parameter(torch.zeros(features))

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised normal."""
        shape = (1, -1, *[1] * (numbers.dim() - 2))
        return normal(numbers, scale_of(self.log_sigma, self.floor).view(shape).expand_as(numbers))


class OptimalSigma(Family):
    """N(mu, sigma*^2) with the analytic optimum sigma*^2 = mean of (x - mu)^2.

    During training, sigma* is that of the batch. In evaluation it is a running mean over training
    batches, because a sigma computed from the x that is scored would not give a density. The mean
    covers about the last fifth of the batches, at most 1 / momentum of them, so that the large
    errors of the first steps do not remain in it.

    References:
        Rybkin, Daniilidis & Levine, 2021, section 3.3 (the paper's eq. 5 lacks a square root).
        The window: Shamir & Zhang, "Stochastic gradient descent for non-smooth optimization",
        2013, section 4 (polynomial-decay averaging), https://arxiv.org/abs/1212.1824

    Args:
        floor: least sigma, in the units of the data.
        momentum: least weight of a batch in the running mean.

    >>> family = OptimalSigma()
    >>> family(torch.zeros(1, 2)).log_prob(torch.tensor([[3.0, 4.0]])).shape
    torch.Size([1])
    >>> family.variance  # the mean of 9 and 16
    tensor(12.5000)
    """

    variance: Tensor
    batches: Tensor

    def __init__(self, floor: float = SCALE_FLOOR, momentum: float = 0.01) -> None:
        super().__init__()
        self.floor, self.momentum = floor, momentum
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, numbers: Tensor) -> Distribution:
        """Return the NaN-aware normal; during training, its profile over sigma."""
        if self.training:
            return OptimalSigmaNormal(numbers, self)
        scale = self.variance.sqrt().clamp_min(self.floor).expand_as(numbers)
        # NaN-aware, as the distribution used in training is.
        return Observed(FastNormal(numbers, scale))

    @torch.no_grad()
    def observe(self, variance: Tensor) -> None:
        """Move the running variance towards that of a training batch."""
        self.batches += 1
        recent = (1 + _DECAY) / (self.batches + _DECAY)
        weight = recent.clamp_min(self.momentum).to(self.variance)
        self.variance += weight * (variance.detach() - self.variance)


class OptimalSigmaNormal(Unchecked):
    """Normal whose sigma is the optimal one for the value given to log_prob.

    This is not a density, so that only `OptimalSigma` in training mode returns it.
    """

    def __init__(self, loc: Tensor, family: OptimalSigma) -> None:
        self.loc, self.family = loc, family
        super().__init__(loc.shape[:1], loc.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-likelihood under sigma*, (B,) nats, and update the family's sigma."""
        seen = ~value.isnan()
        error = torch.where(seen, value - self.loc, torch.zeros_like(self.loc))
        variance = error.square().sum() / seen.sum().clamp_min(1)
        # A batch without any observed value has no sigma. One value that is not finite would stay
        # in the running mean for ever, although the loop skips such a step.
        known = seen.any() & variance.isfinite()
        self.family.observe(torch.where(known, variance, self.family.variance))
        # Clamped before the root, whose gradient at zero is infinite.
        scale = variance.clamp_min(self.family.floor**2).sqrt()
        cells = FastNormal(torch.zeros_like(error), scale).log_prob(error)
        return (cells * seen).flatten(1).sum(1)


@is_density.register
def _(d: OptimalSigmaNormal) -> bool:
    return False


class Gaussian(Family):
    """N(mu, sigma^2) with mu and sigma of every element from the network.

    Args:
        floor: least sigma, in the units of the data.

    >>> Gaussian()(torch.zeros(2, 6)).event_shape
    torch.Size([3])
    """

    width = 2

    def __init__(self, floor: float = SCALE_FLOOR) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised normal of (B, D, ...) from (B, 2 D, ...): mu, then raw sigma."""
        loc, raw = numbers.chunk(2, 1)
        return normal(loc, above(raw, self.floor))


class Student(Family):
    """Student-t with location and scale from the network and one learned degree of freedom.

    References:
        Takahashi et al., "Student-t variational autoencoder for robust density estimation", 2018,
        https://doi.org/10.24963/ijcai.2018/374

    Args:
        floor: least scale, in the units of the data.

    >>> Student()(torch.zeros(2, 6)).event_shape
    torch.Size([3])
    """

    width = 2

    def __init__(self, floor: float = SCALE_FLOOR) -> None:
        super().__init__()
        self.floor = floor
        self.raw_df = nn.Parameter(torch.tensor(2.0))

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised Student-t; df is above 2, so that the variance exists."""
        loc, raw = numbers.chunk(2, 1)
        df = 2.0 + scale_of(self.raw_df, 1e-2, 1e3)
        return summed(StudentTCdf(df, loc, scale_of(raw, self.floor), validate_args=False))


class LaplaceFamily(Family):
    """Laplace with location and scale of every element from the network.

    Args:
        floor: least scale, in the units of the data.

    >>> LaplaceFamily()(torch.zeros(2, 6)).event_shape
    torch.Size([3])
    """

    width = 2

    def __init__(self, floor: float = SCALE_FLOOR) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised Laplace."""
        loc, raw = numbers.chunk(2, 1)
        return summed(Laplace(loc, scale_of(raw, self.floor), validate_args=False))


class Bits(Family):
    """Bernoulli from logits, for values that are exactly 0 or 1.

    >>> Bits()(torch.zeros(1, 3)).log_prob(torch.ones(1, 3))  # 3 log 0.5
    tensor([-2.0794])
    """

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised Bernoulli."""
        return summed(BernoulliLogits(numbers))


class Categories(Family):
    """One categorical distribution per column; columns may differ in their number of classes.

    Args:
        sizes: number of classes of each column.
        reserved: for each column, the fixed probability of code 0 if code 0 stands for values not
            seen in training, or 0 if it is a class like the others. Empty: none is reserved.
        starts: index of the first number of each column; by default they are contiguous.

    >>> p = Categories([2, 4])(torch.zeros(1, 6))
    >>> p.log_prob(torch.tensor([[1.0, 3.0]]))  # log(1/2) + log(1/4)
    tensor([-2.0794])
    """

    place: Tensor
    unused: Tensor
    fixed: Tensor
    others: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        reserved: Sequence[float] = (),
        starts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        kept = torch.tensor(list(reserved) or [0.0] * len(sizes))
        place = torch.zeros(len(sizes), max(self.sizes), dtype=torch.long)
        starts = [0, *accumulate(self.sizes)][:-1] if starts is None else starts
        for row, (start, size) in enumerate(zip(starts, self.sizes, strict=True)):
            place[row, :size] = torch.arange(start, start + size)
        unused = torch.arange(place.shape[1]) >= torch.tensor(self.sizes)[:, None]
        unused[:, 0] |= kept > 0
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("unused", unused, persistent=False)
        self.register_buffer("fixed", kept.log(), persistent=False)
        self.register_buffer("others", torch.log1p(-kept), persistent=False)
        self.start, self.reserves = starts[0], bool((kept > 0).any())

    def numbers(self, features: int) -> int:
        """Return the number of network outputs: one per class of every column."""
        return sum(self.sizes)

    def forward(self, numbers: Tensor) -> Independent:
        """Return the independent categoricals; missing classes are padded with probability 0."""
        # With thousands of classes, each copy takes as long as the softmax.
        if len(self.sizes) == 1:
            own = numbers.narrow(1, self.start, self.sizes[0])
            logits = own.masked_fill(self.unused, -1e9).unsqueeze(1)
        else:
            picked = numbers.index_select(1, self.place.view(-1))
            picked.masked_fill_(self.unused.view(-1), -1e9)
            logits = picked.unflatten(1, self.place.shape)
        kept = (self.fixed.to(logits), self.others.to(logits)) if self.reserves else None
        return summed(Codes(logits, kept))


class Ordinals(Family):
    """One ordinal distribution per column: a location from the network and learned cutpoints.

    P(grade <= k) = sigmoid(cut_k - location).

    References:
        McCullagh, "Regression models for ordinal data", 1980 (the proportional odds model).

    Args:
        sizes: number of grades of each column.

    >>> Ordinals([2, 5])(torch.zeros(1, 2)).log_prob(torch.tensor([[1.0, 4.0]])).shape
    torch.Size([1])
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.first = nn.Parameter(torch.tensor([-0.5 * (s - 2) for s in self.sizes]))
        self.steps = nn.Parameter(torch.zeros(len(self.sizes), max(0, max(self.sizes) - 2)))

    def forward(self, numbers: Tensor) -> Independent:
        """Return the independent ordered categoricals; `numbers` are (B, columns)."""
        steps = scale_of(self.steps, 1e-3, 1e3)
        cuts = self.first.unsqueeze(-1) + F.pad(steps, (1, 0)).cumsum(-1)
        sizes = torch.tensor(self.sizes, device=numbers.device)
        grades = torch.arange(cuts.shape[1], device=numbers.device)
        # The grades that a shorter column lacks are put beyond every location.
        cuts = torch.where(grades < (sizes - 1).unsqueeze(-1), cuts, (1e6 + grades).to(cuts))
        location = soft_clip(numbers, -1e4, 1e4)
        return summed(Codes(ordered_logits(location, cuts).clamp_min(-1e9)))


class NegativeBinomialFamily(Family):
    """Negative binomial with log-mean and log-dispersion of every element from the network.

    >>> NegativeBinomialFamily()(torch.zeros(2, 6)).mean[0]
    tensor([1., 1., 1.])
    """

    width = 2

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised negative binomial."""
        return summed(negative_binomial(*numbers.chunk(2, 1)))


def negative_binomial(log_mean: Tensor, log_dispersion: Tensor) -> NegativeBinomial:
    """Return the negative binomial with both numbers bounded to the range of float32."""
    mean = soft_clip(log_mean, -LOG_COUNT_LIMIT, LOG_COUNT_LIMIT)
    return NegativeBinomial(mean, dispersion(log_dispersion))


def dispersion(raw: Tensor) -> Tensor:
    """Return a log-dispersion bounded to [-18.4, 27.6], above which it is a Poisson."""
    return soft_clip(raw, -LOG_COUNT_LIMIT, 27.6)
