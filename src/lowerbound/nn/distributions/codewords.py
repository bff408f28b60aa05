"""Distributions over the vectors of a codebook: a chosen one, and one of many.

A grid of codes (B, *grid) stands for the vectors (B, d, *grid) that a codebook has for them. Both
distributions are over such vectors and discrete: their log-probabilities are masses, in nats per
row, summed over the grid.
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

CELLS = 1 << 24  # distances that are held at a time


def vectors_of(codes: Tensor, book: Tensor) -> Tensor:
    """Return the vectors of codes: (B, *grid), (K, d) -> (B, d, *grid)."""
    return F.embedding(codes, book).movedim(-1, 1)


@torch.no_grad()
def nearest(z: Tensor, book: Tensor) -> Tensor:
    """Return the code whose vector is nearest to each of z: (B, d, *grid), (K, d) -> (B, *grid).

    The squared distance without |z|^2, |e|^2 - 2 z e, both about the mean of the book so that
    little cancels. What it holds is bounded, whatever the size of the grid.
    """
    last = z.movedim(1, -1)
    rows = last.reshape(-1, last.shape[-1])
    with torch.autocast(z.device.type, enabled=False):
        middle = book.mean(0)
        moved = (book - middle).to(rows.dtype)
        square, turned = moved.square().sum(1), moved.T
        found = [
            torch.addmm(square, part - middle, turned, alpha=-2).argmin(1)
            for part in rows.split(max(1, CELLS // len(book)))
        ]
    return torch.cat(found).view(last.shape[:-1])


@torch.no_grad()
def _codes_of(vectors: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
    """Return the code of each vector, and whether there is one, (B, *grid) both.

    Two codes may lie closer together than distances are exact, as after a restart at places that
    are all alike; where the nearest is not the vector itself, all are compared with it bit by bit.
    """
    codes = nearest(vectors.double(), book)
    known = (vectors_of(codes, book) == vectors).all(1)
    rest = vectors.movedim(1, -1)[~known].split(max(1, CELLS // book.numel()))
    same = torch.cat([(part[:, None] == book).all(-1) for part in rest])
    codes[~known] = same.int().argmax(1)
    known[~known] = same.any(1)
    return codes, known


class Nearest(Unchecked):
    """q(z | x): all mass on the nearest vector of a codebook.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        eq. 1, https://arxiv.org/abs/1711.00937

    Args:
        near: (B, d, *grid) what the encoder said.
        vectors: (B, d, *grid) the codes' vectors, with the gradient that goes on to `near`.
        codes: (B, *grid).
        size: K, of the codebook.
    """

    def __init__(self, near: Tensor, vectors: Tensor, codes: Tensor, size: int) -> None:
        self.near, self.vectors, self.codes, self.size = near, vectors, codes, size
        super().__init__(vectors.shape[:1], vectors.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The vectors."""
        return self.vectors

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 for the vectors, minus infinity for all else; (B,) nats."""
        same = (value == self.vectors).flatten(1).all(1)
        return torch.zeros_like(same, dtype=value.dtype).masked_fill(~same, -torch.inf)

    def use(self) -> Tensor:
        """Return what share of a row's grid has each code, (B, K)."""
        counts = self.vectors.new_zeros(len(self.codes), self.size)
        flat = self.codes.flatten(1)
        return counts.scatter_add_(1, flat, torch.ones_like(flat).to(counts)) / flat.shape[1]


@sample.register
def _(d: Nearest, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return d.vectors.detach().expand(*shape, *d.vectors.shape)


@singledispatch
def units(q: Distribution, z: Tensor) -> Tensor:
    """Return what is told apart in a site's z of every row, (B, units): its dimensions."""
    return z.flatten(1)


@units.register
def _(q: Nearest, z: Tensor) -> Tensor:
    return q.size * q.use()  # how often each code is used, 1 being the mean


@singledispatch
def is_counted(q: Distribution) -> bool:
    """Tell whether units are used as often as their mean says; else as their variance does."""
    return False


@is_counted.register
def _(q: Nearest) -> bool:
    return True


@draw.register
def _(q: Nearest, normals: Normals) -> tuple[Tensor, Distribution]:
    return q.vectors, q


@stopped.register
def _(q: Nearest) -> Distribution:
    return q


@is_certain.register
def _(q: Nearest) -> bool:
    return True


def perplexity(use: Tensor) -> float:
    """Return exp of the entropy of codes' shares of use, (K,): how many are as good as in use.

    >>> round(perplexity(torch.tensor([0.5, 0.5, 0.0])), 6)
    2.0
    """
    share = use.double() / use.double().sum().clamp_min(1e-300)
    return math.exp(-torch.special.xlogy(share, share).sum().item())


class OnCodebook(Unchecked):
    """A distribution over grids of codes, as one over their vectors.

    Args:
        book: (K, d) the vectors.
        codes: over (B, *grid) codes, with batch shape (B,).
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


@register_kl(Nearest, OnCodebook)
def _(q: Nearest, p: OnCodebook) -> Tensor:
    # All mass of q is on one grid of codes: KL(q || p) = log 1 - log p(codes), exactly.
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


class AllAlike(Unchecked):
    """The uniform distribution over grids of codes: log p = -log K per place of the grid.

    Args:
        like: (B, ...) a tensor of the dtype and on the device of log-probabilities.
        grid: its shape.
        size: K.
    """

    def __init__(self, like: Tensor, grid: tuple[int, ...], size: int) -> None:
        self.like, self.size = like, size
        super().__init__(Size([len(like)]), Size(grid), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the same for all grids, (B,) nats."""
        each = -torch.tensor(float(self.size), dtype=torch.float64).log().item()
        return self.like.new_full(self.batch_shape, each * self.event_shape.numel())


@sample.register
def _(d: AllAlike, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    whole = shape + d.batch_shape + d.event_shape
    return torch.randint(d.size, whole, generator=generator, device=d.like.device)


@tempered.register
def _(p: AllAlike, temperature: float) -> Distribution:
    return p


class Straight(torch.autograd.Function):
    """e in the forward direction, to its last bit, with the gradient going to z.

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
