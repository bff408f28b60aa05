"""Distributions over the vectors of a codebook: a posterior on one, and priors over all.

A grid of codes (B, *grid) determines vectors (B, d, *grid) of the codebook. The distributions are
over such vectors and discrete: log_prob is the log of a probability, in nats per row, summed over
the grid.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution, register_kl

from lowerbound.nn.distributions.base import (
    ONE,
    Normals,
    Unchecked,
    draw,
    is_certain,
    is_continuous,
    sample,
    stopped,
    tempered,
    truncated,
)

MAX_DISTANCES = 1 << 24  # distances held in memory at a time


def vectors_of(codes: Tensor, book: Tensor) -> Tensor:
    """Return the vectors of codes: (B, *grid), (K, d) -> (B, d, *grid)."""
    return F.embedding(codes, book).movedim(-1, 1)


@torch.no_grad()
def nearest(z: Tensor, book: Tensor) -> Tensor:
    """Return the code of the nearest vector: (B, d, *grid), (K, d) -> (B, *grid).

    It minimises |e|^2 - 2 z e, both relative to the mean of the book, so that little cancels. The
    memory it needs is bounded for grids of any size.
    """
    last = z.movedim(1, -1)
    rows = last.reshape(-1, last.shape[-1])
    with torch.autocast(z.device.type, enabled=False):
        middle = book.mean(0)
        moved = (book - middle).to(rows.dtype)
        square, turned = moved.square().sum(1), moved.T
        found = [
            torch.addmm(square, part - middle, turned, alpha=-2).argmin(1)
            for part in rows.split(max(1, MAX_DISTANCES // len(book)))
        ]
    return torch.cat(found).view(last.shape[:-1])


@torch.no_grad()
def _codes_of(vectors: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
    """Return the code of each vector and whether it is in the book, (B, *grid) both.

    Two vectors may be closer than the rounding of distances, as after a restart at equal
    positions. If the nearest is not equal to the vector, all are compared with it exactly.
    """
    codes = nearest(vectors.double(), book)
    known = (vectors_of(codes, book) == vectors).all(1)
    rest = vectors.movedim(1, -1)[~known].split(max(1, MAX_DISTANCES // book.numel()))
    same = torch.cat([(part[:, None] == book).all(-1) for part in rest])
    codes[~known] = same.int().argmax(1)
    known[~known] = same.any(1)
    return codes, known


class NearestCode(Unchecked):
    """q(z | x) with all mass on the nearest vector of a codebook.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        eq. 1, https://arxiv.org/abs/1711.00937

    Args:
        near: (B, d, *grid) the encoder's output.
        vectors: (B, d, *grid) the vectors of the codes, whose gradient is passed to `near`.
        codes: (B, *grid).
        size: K, the size of the codebook.
    """

    def __init__(self, near: Tensor, vectors: Tensor, codes: Tensor, size: int) -> None:
        self.near, self.vectors, self.codes, self.size = near, vectors, codes, size
        super().__init__(vectors.shape[:1], vectors.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The vectors."""
        return self.vectors

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 for the vectors and minus infinity otherwise, (B,) nats."""
        same = (value == self.vectors).flatten(1).all(1)
        return torch.zeros_like(same, dtype=value.dtype).masked_fill(~same, -torch.inf)

    def use(self) -> Tensor:
        """Return the share of each code in a row's grid, (B, K)."""
        counts = self.vectors.new_zeros(len(self.codes), self.size)
        flat = self.codes.flatten(1)
        return counts.scatter_add_(1, flat, torch.ones_like(flat).to(counts)) / flat.shape[1]


@sample.register
def _(d: NearestCode, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return d.vectors.detach().expand(*shape, *d.vectors.shape)


@singledispatch
def units(q: Distribution, z: Tensor) -> Tensor:
    """Return the units of z whose use is reported, (B, units): by default its dimensions."""
    return z.flatten(1)


@units.register
def _(q: NearestCode, z: Tensor) -> Tensor:
    return q.size * q.use()  # frequency of each code relative to the mean


@singledispatch
def is_counted(q: Distribution) -> bool:
    """Return whether the use of a unit is its mean; otherwise it is its variance."""
    return False


@is_counted.register
def _(q: NearestCode) -> bool:
    return True


@draw.register
def _(q: NearestCode, normals: Normals) -> tuple[Tensor, Distribution]:
    return q.vectors, q


@stopped.register
def _(q: NearestCode) -> Distribution:
    return q


@is_certain.register
def _(q: NearestCode) -> bool:
    return True


def perplexity(use: Tensor) -> float:
    """Return the effective number of codes in use: exp of the entropy of `use`, (K,).

    >>> round(perplexity(torch.tensor([0.5, 0.5, 0.0])), 6)
    2.0
    """
    share = use.double() / use.double().sum().clamp_min(1e-300)
    return math.exp(-torch.special.xlogy(share, share).sum().item())


class OnCodebook(Unchecked):
    """Distribution over vectors given by a distribution over grids of codes.

    Args:
        book: (K, d) the vectors.
        codes: distribution over codes, with batch shape (B,) and the event shape of the grid.
    """

    def __init__(self, book: Tensor, codes: Distribution) -> None:
        self.book, self.codes = book, codes
        event = (book.shape[1], *codes.event_shape)
        super().__init__(codes.batch_shape, Size(event), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of vectors, (B,) nats; minus infinity off the codebook."""
        codes, known = _codes_of(value, self.book)
        return self.codes.log_prob(codes).masked_fill(~known.flatten(1).all(1), -torch.inf)


@sample.register
@torch.no_grad()
def _(d: OnCodebook, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return F.embedding(sample(d.codes, generator, shape), d.book).movedim(-1, len(shape) + 1)


@register_kl(NearestCode, OnCodebook)
def _(q: NearestCode, p: OnCodebook) -> Tensor:
    # q has all mass on one grid of codes: KL(q || p) = log 1 - log p(codes), exactly.
    return -p.codes.log_prob(q.codes)


@tempered.register
def _(p: OnCodebook, temperature: float) -> Distribution:
    return OnCodebook(p.book, tempered(p.codes, temperature))


@truncated.register
def _(p: OnCodebook, most: int) -> Distribution:
    return OnCodebook(p.book, truncated(p.codes, most))


@is_continuous.register
def _(p: OnCodebook) -> bool:
    return False


class UniformCodeGrid(Unchecked):
    """Uniform distribution over grids of codes: log p = -log K per position.

    Args:
        like: (B, ...) a tensor with the dtype and device of log-probabilities.
        grid: shape of the grid.
        size: K.
    """

    def __init__(self, like: Tensor, grid: tuple[int, ...], size: int) -> None:
        self.like, self.size = like, size
        super().__init__(Size([len(like)]), Size(grid), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p, which is the same for all grids, (B,) nats."""
        each = -torch.tensor(float(self.size), dtype=torch.float64).log().item()
        return self.like.new_full(self.batch_shape, each * self.event_shape.numel())


@sample.register
def _(d: UniformCodeGrid, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    whole = shape + d.batch_shape + d.event_shape
    return torch.randint(d.size, whole, generator=generator, device=d.like.device)


@tempered.register
def _(p: UniformCodeGrid, temperature: float) -> Distribution:
    return p


class StraightThrough(torch.autograd.Function):
    """Straight-through estimator: returns e exactly, and passes the gradient to z.

    References:
        Bengio, Leonard & Courville, "Estimating or propagating gradients through stochastic
        neurons", 2013, https://arxiv.org/abs/1308.3432
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, e: Tensor) -> Tensor:  # noqa: D102 - as torch has it
        return e.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:  # noqa: D102 - as torch has it
        return grad[0], None
