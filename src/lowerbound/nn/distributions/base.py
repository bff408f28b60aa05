"""Operations on distributions, dispatched on their type, and joint distributions of parts.

All log-densities are in nats. Distributions are torch's own where torch has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import singledispatch

import torch
from torch import Size, Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
    register_kl,
)
from torch.distributions.constraints import Constraint

from lowerbound.errors import UsageError
from lowerbound.nn.recording import is_recorded
from lowerbound.noise import GivenGenerators

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

ONE = Size()  # the shape of a single draw

Normals = Callable[[Size, Tensor], Tensor]  # (shape, like) -> standard normals


class FastNormal(Normal):
    """Normal of torch in fewer operations, which dominate the time of small networks."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every element."""
        z = (value - self.loc) / self.scale
        return -_HALF_LOG_TWO_PI - torch.addcmul(self.scale.log(), z, z, value=0.5)


class UnitNormal(FastNormal):
    """N(0, 1) per element: the textbook prior."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every cell."""
        return -_HALF_LOG_TWO_PI - 0.5 * value.square()


@register_kl(FastNormal, FastNormal)
def _(q: FastNormal, p: FastNormal) -> Tensor:
    ratio, shift = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return torch.addcmul(0.5 * (shift.square() - 1) - ratio.log(), ratio, ratio, value=0.5)


@register_kl(FastNormal, UnitNormal)
def _(q: FastNormal, p: UnitNormal) -> Tensor:
    return torch.addcmul(0.5 * (q.loc.square() - 1) - q.scale.log(), q.scale, q.scale, value=0.5)


def normal(loc: Tensor, scale: Tensor) -> Independent:
    """Return the factorised normal whose event dimensions are all axes after the first."""
    return Independent(FastNormal(loc, scale), loc.dim() - 1, validate_args=False)


def elementwise(d: Distribution) -> Distribution:
    """Return the distribution of single elements, without the sum over event dimensions."""
    return d.base_dist if isinstance(d, Independent) else d


@singledispatch
def reparameterise(q: Distribution, noise: Tensor) -> Tensor:
    """Return the draw of `q` given by standard normal `noise`, differentiable in q.

    Raises:
        UsageError: E246 if no rule is registered for the type of `q`.
    """
    raise UsageError(
        "E246",
        f"a posterior of type {type(q).__name__} cannot be drawn by reparameterisation",
        fix="register a rule with lowerbound.nn.distributions.base.reparameterise.register",
    )


@reparameterise.register
def _(q: Normal, noise: Tensor) -> Tensor:
    return torch.addcmul(q.loc, q.scale, noise)


@reparameterise.register
def _(q: Independent, noise: Tensor) -> Tensor:
    return reparameterise(q.base_dist, noise)


@singledispatch
def draw(q: Distribution, normals: Normals) -> tuple[Tensor, Distribution]:
    """Draw from `q` by reparameterisation.

    Returns:
        The draw, and a distribution whose log_prob of this draw is log q: `q` itself, except
        where the density of q is known for draws only (`FlowDistribution`).
    """
    return reparameterise(q, normals(q.batch_shape + q.event_shape, q.mean)), q


@singledispatch
def sample(d: Distribution, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    """Draw from `d` with a generator, without gradients.

    A distribution for which no rule is registered draws by its own method ``sample``, whose
    random functions then use `generator`.

    Args:
        d: the distribution.
        generator: the source of randomness, on the device of `d`; None for torch's global one.
        shape: of independent draws.

    Returns:
        ``shape + d.batch_shape + d.event_shape`` values, exact in law.
    """
    if generator is None:
        return d.sample(shape)
    with GivenGenerators(lambda device: generator):
        return d.sample(shape)


@sample.register
@torch.no_grad()
def _(d: FastNormal, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    whole = shape + d.batch_shape
    return torch.normal(d.loc.expand(whole), d.scale.expand(whole), generator=generator)


@sample.register
def _(d: Independent, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return sample(d.base_dist, generator, shape)


@singledispatch
def stopped(q: Distribution) -> Distribution:
    """Return `q` with detached parameters, for path-derivative gradients.

    Raises:
        UsageError: E246 if no rule is registered for the type of `q`.
    """
    raise UsageError(
        "E246",
        f"the path-derivative gradient is not defined for a {type(q).__name__}",
        fix="use Iwae(..., dreg=False), or register a rule with base.stopped.register",
    )


@stopped.register
def _(q: Normal) -> Distribution:
    return FastNormal(q.loc.detach(), q.scale.detach())


@stopped.register
def _(q: Independent) -> Distribution:
    return Independent(stopped(q.base_dist), q.reinterpreted_batch_ndims, validate_args=False)


@singledispatch
def moments(p: Distribution) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every element of a factorised normal.

    Raises:
        UsageError: E246 if `p` is not such a normal.
    """
    raise UsageError(
        "E246",
        f"a posterior relative to the prior needs a normal prior, got {type(p).__name__}",
        fix="use the posterior Plain at this level, or a normal prior",
    )


@moments.register
def _(p: Normal) -> tuple[Tensor, Tensor]:
    return p.loc, p.scale


@moments.register
def _(p: Independent) -> tuple[Tensor, Tensor]:
    return moments(p.base_dist)


@singledispatch
def tempered(p: Distribution, temperature: float) -> Distribution:
    """Return `p` narrowed (below 1) or widened (above 1) about its centre.

    Raises:
        UsageError: E246 if no rule is registered for the type of `p`.
    """
    raise UsageError(
        "E246",
        f"a prior of type {type(p).__name__} has no temperature",
        fix="sample at temperature 1",
    )


@tempered.register
def _(p: Normal, temperature: float) -> Distribution:
    return FastNormal(p.loc, p.scale * temperature)


@tempered.register
def _(p: Independent, temperature: float) -> Distribution:
    inner = tempered(p.base_dist, temperature)
    return Independent(inner, p.reinterpreted_batch_ndims, validate_args=False)


@tempered.register
def _(p: MixtureSameFamily, temperature: float) -> Distribution:
    inner = tempered(p.component_distribution, temperature)
    return MixtureSameFamily(p.mixture_distribution, inner, validate_args=False)


@singledispatch
def truncated(p: Distribution, most: int) -> Distribution:
    """Return `p` with only the `most` most probable codes at every position of a grid.

    Raises:
        UsageError: E256 if `p` is not over codes.
    """
    raise UsageError(
        "E256",
        f"top_k needs a prior over codes, got {type(p).__name__}",
        fix="leave --top-k out",
    )


@singledispatch
def centre(d: Distribution) -> Tensor:
    """Return the mean of `d`, or its mode where values are codes."""
    return d.mean


@centre.register
def _(d: Independent) -> Tensor:
    return centre(d.base_dist)


@centre.register
def _(d: Categorical) -> Tensor:
    return d.mode.to(d.logits.dtype)


@centre.register
def _(d: Bernoulli) -> Tensor:
    return (d.logits > 0).to(d.logits.dtype)


@singledispatch
def is_density(d: Distribution) -> bool:
    """Return whether exp(log_prob) of `d` integrates to 1, as importance weights need."""
    return True


@singledispatch
def is_continuous(d: Distribution) -> bool:
    """Return whether `d` has a density with a gradient by its value."""
    return True


@singledispatch
def log_support(d: Distribution) -> float:
    """Return the log of the number of values that one draw of `d` takes; inf if uncountable.

    A count, which has no largest value, is taken as one of 64.
    """
    return math.inf


@log_support.register
def _(d: Bernoulli) -> float:
    return d.batch_shape[1:].numel() * math.log(2)


@log_support.register
def _(d: Categorical) -> float:
    return d.batch_shape[1:].numel() * math.log(d.logits.shape[-1])


@log_support.register
def _(d: Independent) -> float:
    return log_support(d.base_dist)


@singledispatch
def is_certain(q: Distribution) -> bool:
    """Return whether all draws of `q` are equal."""
    return False


def exact_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q || p) in nats if a closed form is registered, else None."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """Return the closed-form KL of every latent dimension, shape of z, or None."""
    each = exact_kl(elementwise(q), elementwise(p))
    # For some pairs only the total KL is known.
    return each if each is None or each.shape == q.batch_shape + q.event_shape else None


class Unchecked(Distribution):
    """A distribution whose parameters are not checked: families keep them in range.

    A rule registered with `sample` also serves as the method of that name.
    """

    @property
    def arg_constraints(self) -> dict[str, Constraint]:
        """Nothing: a check of every parameter at every step would cost more than log_prob."""
        return {}

    def sample(self, sample_shape: Size | Sequence[int] = ONE) -> Tensor:
        """Draw with torch's global generator, as all distributions of torch do."""
        if sample.dispatch(type(self)) is sample.dispatch(object):
            return super().sample(Size(sample_shape))
        return sample(self, None, Size(sample_shape))


class Blocks(Unchecked):
    """Joint distribution of blocks of columns; x: (B, C).

    Args:
        blocks: pairs (columns, elementwise distribution of shape (B, len(columns))), in which
            each of the C columns occurs once.
        places: (C,) position of each column in the concatenated blocks; computed if None.
    """

    def __init__(
        self, blocks: Sequence[tuple[Tensor, Distribution]], places: Tensor | None = None
    ) -> None:
        self.blocks = tuple(blocks)
        if places is None:
            places = torch.cat([columns for columns, _ in self.blocks]).argsort()
        self._places = places
        rows = self.blocks[0][1].batch_shape[0]
        super().__init__(torch.Size([rows, len(places)]), validate_args=False)

    def gather(self, pieces: Sequence[Tensor]) -> Tensor:
        """Return the pieces of the blocks, (..., n_i) each, as columns in their own order."""
        return torch.cat(list(pieces), -1).index_select(-1, self._places)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every element, (B, C) nats."""
        return self.gather([d.log_prob(value.index_select(-1, at)) for at, d in self.blocks])

    @property
    def mean(self) -> Tensor:
        """The mean of every element, or the mode where values are codes."""
        return self.gather([centre(d) for _, d in self.blocks])

    @property
    def mode(self) -> Tensor:
        """The most probable value of every cell."""
        return self.gather([d.mode.to(torch.get_default_dtype()) for _, d in self.blocks])

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value) of every cell."""
        return self.gather([d.cdf(value[..., columns]) for columns, d in self.blocks])


@log_support.register
def _(d: Blocks) -> float:
    return sum(log_support(block) for _, block in d.blocks)


@sample.register
def _(d: Blocks, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    draws = [sample(block, generator, shape) for _, block in d.blocks]
    return d.gather([x.to(torch.get_default_dtype()) for x in draws])


class Observed(Unchecked):
    """Joint of independent elements in which NaN is missing and adds 0 nats.

    log p(x) is the sum of log p(x_c) over the observed elements. Missing ones are integrated out
    exactly, because elements are independent given z.

    Args:
        cells: an elementwise distribution of shape (B, ...).
    """

    def __init__(self, cells: Distribution) -> None:
        self.cells = cells
        super().__init__(cells.batch_shape[:1], cells.batch_shape[1:], validate_args=False)

    def log_prob_cells(self, value: Tensor) -> Tensor:
        """Return log p of every cell (shape of value), 0 where it is missing."""
        # Most batches have no missing values, and the test is cheaper than filling; but it stalls
        # an accelerator, and exported graphs cannot branch. One NaN makes the sum NaN.
        asks = value.device.type == "cpu" and not is_recorded()
        if asks and not value.sum().isnan():
            return self.cells.log_prob(value)
        missing = value.isnan()
        # 1 is in the support of every family, so that the unused branch has a finite gradient.
        filled = value.masked_fill(missing, 1.0)
        return self.cells.log_prob(filled).masked_fill(missing, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every row, (B,) nats."""
        return self.log_prob_cells(value).flatten(1).sum(1)

    @property
    def mean(self) -> Tensor:
        """The mean of every cell (the mode of codes)."""
        return centre(self.cells)

    @property
    def mode(self) -> Tensor:
        """The most probable value of every cell."""
        return self.cells.mode

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value) of every cell."""
        return self.cells.cdf(value)


@log_support.register
def _(d: Observed) -> float:
    return log_support(d.cells)


@sample.register
def _(d: Observed, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return sample(d.cells, generator, shape)


@singledispatch
def log_prob_cells(d: Distribution, value: Tensor) -> Tensor:
    """Return log p of every cell of `value` before any sum, shape of `value`, nats."""
    return d.log_prob(value)


@log_prob_cells.register
def _(d: Independent, value: Tensor) -> Tensor:
    return d.base_dist.log_prob(value)


@log_prob_cells.register
def _(d: Observed, value: Tensor) -> Tensor:
    return d.log_prob_cells(value)
