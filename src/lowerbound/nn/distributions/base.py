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
from lowerbound.noise import Supplied

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

ONE = Size()  # the shape of a single draw

Normals = Callable[[Size, Tensor], Tensor]  # (shape, like) -> standard normals


class NormalCells(Normal):
    """torch's normal in fewer operations, which in small networks are what a step costs."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every cell."""
        z = (value - self.loc) / self.scale
        return -_HALF_LOG_TWO_PI - torch.addcmul(self.scale.log(), z, z, value=0.5)


class UnitNormal(NormalCells):
    """N(0, 1) per element: the textbook prior."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every cell."""
        return -_HALF_LOG_TWO_PI - 0.5 * value.square()


@register_kl(NormalCells, NormalCells)
def _(q: NormalCells, p: NormalCells) -> Tensor:
    ratio, shift = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return torch.addcmul(0.5 * (shift.square() - 1) - ratio.log(), ratio, ratio, value=0.5)


@register_kl(NormalCells, UnitNormal)
def _(q: NormalCells, p: UnitNormal) -> Tensor:
    return torch.addcmul(0.5 * (q.loc.square() - 1) - q.scale.log(), q.scale, q.scale, value=0.5)


def normal(loc: Tensor, scale: Tensor) -> Independent:
    """Return the factorised normal with event dimensions everything after the first axis."""
    return Independent(NormalCells(loc, scale), loc.dim() - 1, validate_args=False)


def elementwise(d: Distribution) -> Distribution:
    """Return the distribution of single elements, without the sum over event dimensions."""
    return d.base_dist if isinstance(d, Independent) else d


@singledispatch
def reparameterise(q: Distribution, noise: Tensor) -> Tensor:
    """Return the draw of `q` that standard normal `noise` stands for, differentiable in q.

    Raises:
        UsageError: E246 where no such map is known for the type of `q`.
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
        The draw, and a distribution whose log_prob of this very draw is log q: `q` itself, but
        where q's density is known on the way of a draw only (`Flowed`).
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
    with Supplied(lambda device: generator):
        return d.sample(shape)


@sample.register
@torch.no_grad()
def _(d: NormalCells, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    whole = shape + d.batch_shape
    return torch.normal(d.loc.expand(whole), d.scale.expand(whole), generator=generator)


@sample.register
def _(d: Independent, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return sample(d.base_dist, generator, shape)


@singledispatch
def stopped(q: Distribution) -> Distribution:
    """Return `q` with its parameters cut from the graph: what sticking-the-landing needs.

    Raises:
        UsageError: E246 where no rule is known for the type of `q`.
    """
    raise UsageError(
        "E246",
        f"the path-derivative gradient is not defined for a {type(q).__name__}",
        fix="use Iwae(..., dreg=False), or register a rule with distributions.stopped.register",
    )


@stopped.register
def _(q: Normal) -> Distribution:
    return NormalCells(q.loc.detach(), q.scale.detach())


@stopped.register
def _(q: Independent) -> Distribution:
    return Independent(stopped(q.base_dist), q.reinterpreted_batch_ndims, validate_args=False)


@singledispatch
def moments(p: Distribution) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every element of a factorised normal.

    Raises:
        UsageError: E246 where `p` is no such normal.
    """
    raise UsageError(
        "E246",
        f"a posterior that starts from its prior needs a normal one, not a {type(p).__name__}",
        fix="use posteriors.Plain at this level, or a normal prior",
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
        UsageError: E246 where the type of `p` has no scale to multiply.
    """
    raise UsageError(
        "E246",
        f"a prior of type {type(p).__name__} has no temperature",
        fix="sample at temperature 1",
    )


@tempered.register
def _(p: Normal, temperature: float) -> Distribution:
    return NormalCells(p.loc, p.scale * temperature)


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
    """Return `p` with only its `most` likeliest codes at every place of a grid.

    Raises:
        UsageError: E256 where `p` is not over codes.
    """
    raise UsageError(
        "E256",
        f"a prior of type {type(p).__name__} has no codes to keep the likeliest of",
        fix="leave --top-k out",
    )


@singledispatch
def centre(d: Distribution) -> Tensor:
    """Return the point that stands for `d`: its mean, or its mode where values are codes."""
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
    """Tell whether exp(log_prob) of `d` integrates to 1: what an importance weight needs."""
    return True


@singledispatch
def is_continuous(d: Distribution) -> bool:
    """Tell whether `d` has a density, along whose slope a draw can be moved."""
    return True


@singledispatch
def is_certain(q: Distribution) -> bool:
    """Tell whether all draws of `q` are the same."""
    return False


def exact_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q || p) in nats where a closed form is registered, else None."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """Return the closed-form KL of every latent dimension, shape of z, or None."""
    each = exact_kl(elementwise(q), elementwise(p))
    # Of some sites the KL is known as a whole only.
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
    """Columns side by side, each block of them with a distribution of its own; x: (B, C).

    Args:
        blocks: (columns, elementwise distribution of shape (B, len(columns))) pairs; together
            they name each of the C columns once.
        places: (C,) where each column stands among those of the blocks, if that is known.
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
        """Return the (B, C) log-density of every cell."""
        return self.gather([d.log_prob(value.index_select(-1, at)) for at, d in self.blocks])

    @property
    def mean(self) -> Tensor:
        """The mean of every cell; of columns whose values are codes, the mode."""
        return self.gather([centre(d) for _, d in self.blocks])

    @property
    def mode(self) -> Tensor:
        """The most probable value of every cell."""
        return self.gather([d.mode.to(torch.get_default_dtype()) for _, d in self.blocks])

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value) of every cell."""
        return self.gather([d.cdf(value[..., columns]) for columns, d in self.blocks])


@sample.register
def _(d: Blocks, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    draws = [sample(block, generator, shape) for _, block in d.blocks]
    return d.gather([x.to(torch.get_default_dtype()) for x in draws])


class Observed(Unchecked):
    """The joint of independent cells in which NaN is missing and costs nothing.

    log p(x) = sum over the observed cells of log p(x_c): the missing ones are integrated out
    exactly, because cells are independent given z.

    Args:
        cells: an elementwise distribution of shape (B, ...).
    """

    def __init__(self, cells: Distribution) -> None:
        self.cells = cells
        super().__init__(cells.batch_shape[:1], cells.batch_shape[1:], validate_args=False)

    def log_prob_cells(self, value: Tensor) -> Tensor:
        """Return log p of every cell (shape of value), 0 where it is missing."""
        # Most batches have no gaps; to ask costs less than to fill, but stalls an accelerator.
        # A graph that is exported cannot ask. One NaN makes the sum NaN.
        asks = value.device.type == "cpu" and not torch.compiler.is_exporting()
        if asks and not value.sum().isnan():
            return self.cells.log_prob(value)
        missing = value.isnan()
        # 1 lies in the support of every family, so that the unused branch has a finite gradient.
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
