"""Categorical columns of thousands of levels: a softmax over groups, then over one group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn
from torch.distributions import Independent

from lowerbound.nn.distributions.base import ONE, Unchecked, centre, log_support, sample
from lowerbound.nn.distributions.families import Family, summed
from lowerbound.noise import generator

RANK = 32  # numbers of a row that decide between the levels of a group
_NEVER = -1e9  # logit of a code that does not exist; finite, so that gradients are


class TreeCategories(Family):
    """One categorical column of many classes, as a tree of two levels.

    p(code) = p(group) p(code | group), with about sqrt(K) groups of consecutive codes. The network
    gives a logit for every group and `rank` numbers u; the logit of a code within its group is
    b_code + e_code . u, with learned b and e. The density is exact and sums to 1, and costs
    O(sqrt(K)) per row instead of O(K). Codes of sorted levels are adjacent, so that levels of
    similar spelling, such as postal codes, share a group.

    References:
        Goodman, "Classes for fast maximum entropy training", 2001,
        https://arxiv.org/abs/cs/0108006; Morin & Bengio, "Hierarchical probabilistic neural
        network language model", 2005.

    Args:
        size: number of classes K.
        reserved: probability of code 0 if it stands for values not seen in training (see
            `Categories`), or 0 if it is a class like the others.
        rank: length of u.

    >>> family = TreeCategories(1000)
    >>> family.numbers(1)  # 32 groups and u
    64
    >>> family(torch.zeros(2, 64)).log_prob(torch.tensor([[0.0], [999.0]])).exp()  # nats
    tensor([0.0010, 0.0010], grad_fn=<ExpBackward0>)
    """

    unused: Tensor

    def __init__(self, size: int, reserved: float = 0.0, rank: int = RANK) -> None:
        super().__init__()
        self.size, self.reserved, self.rank = size, reserved, rank
        each = math.ceil(math.sqrt(size))
        groups = math.ceil(size / each)
        # From a generator of its own: zeros would wait for u, and u for them. Half a unit is a
        # start near the frequencies that `start_from` sets.
        source = generator("level tree", size)
        self.levels = nn.Parameter(0.5 * torch.randn(groups, each, rank, generator=source))
        self.bias = nn.Parameter(torch.zeros(groups, each))
        codes = torch.arange(groups * each).view(groups, each)
        unused = (codes >= size) | ((codes == 0) & (reserved > 0))
        self.register_buffer("unused", unused, persistent=False)

    def numbers(self, features: int) -> int:
        """Return the number of network outputs: a logit for each group, and u."""
        return len(self.bias) + self.rank

    @torch.no_grad()
    def start_from(self, codes: Tensor) -> None:
        """Set the biases to the log-frequencies of codes, (n,); NaN is a missing code."""
        seen = codes[~codes.isnan()].long()
        counts = torch.bincount(seen, minlength=self.bias.numel()).view_as(self.bias)
        self.bias.copy_((counts + 0.5).log())

    def forward(self, numbers: Tensor) -> Independent:
        """Return the categorical column, (B, 1), from (B, groups + rank)."""
        groups, u = numbers.split([len(self.bias), self.rank], 1)
        bias = self.bias.masked_fill(self.unused, _NEVER)
        return summed(TreeCodes(groups + bias.logsumexp(1), u, (self.levels, bias), self))


class TreeCodes(Unchecked):
    """The distribution that `TreeCategories` returns; codes are floats, (B, 1).

    Args:
        groups: (B, G) logits of the groups.
        u: (B, rank) numbers that decide between the levels of a group.
        tree: levels (G, M, rank) and biases (G, M).
        family: the size, and the reserved probability of code 0.
    """

    def __init__(
        self, groups: Tensor, u: Tensor, tree: tuple[Tensor, Tensor], family: TreeCategories
    ) -> None:
        self._groups, self._u = groups.log_softmax(1), u
        self._levels, self._bias = tree
        self._size, self._kept = family.size, family.reserved
        # Not len(u): it would fix the number of rows of an exported graph.
        super().__init__(Size([u.shape[0], 1]), validate_args=False)

    def _within(self, group: Tensor) -> Tensor:
        """Return log p(code | group) of the codes of one group per row, (B, M)."""
        levels = self._levels.index_select(0, group)
        scores = torch.bmm(levels, self._u.unsqueeze(2)).squeeze(2)
        return (scores + self._bias.index_select(0, group)).log_softmax(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(code), shape of value; a code outside 0..K-1 has probability zero."""
        if value.dim() > 2:
            return torch.stack([self.log_prob(each) for each in value])
        index = value.long()
        safe = index.clamp(0, self._size - 1)
        group, place = safe // self._bias.shape[1], safe % self._bias.shape[1]
        group = group.expand(self._u.shape[0], 1)
        log_p = self._groups.gather(1, group)
        log_p = log_p + self._within(group.squeeze(1)).gather(1, place.expand_as(group))
        if self._kept:
            unseen = torch.full_like(log_p, math.log(self._kept))
            log_p = torch.where(safe == 0, unseen, log_p + math.log1p(-self._kept))
        return log_p.masked_fill(safe != index, -torch.inf)

    def drawn_probs(self, rows: slice = slice(None)) -> Tensor:
        """Return the probability of every code seen in training, (B, K), for some rows."""
        within = torch.einsum("bd,gmd->bgm", self._u[rows], self._levels) + self._bias
        every = (self._groups[rows].unsqueeze(2) + within.log_softmax(2)).exp()
        return every.flatten(1)[:, : self._size]

    def likeliest(self, weights: Tensor) -> Tensor:
        """Return the most probable code of mixtures of consecutive rows.

        Args:
            weights: (n, samples), summing to 1, of n x samples = B rows.

        Returns:
            (n, 1) codes seen in training.
        """
        each = weights.shape[1]
        mixed = (
            weights[i] @ self.drawn_probs(slice(i * each, (i + 1) * each))
            for i in range(len(weights))  # one mixture at a time: all codes of a row are large
        )
        return torch.stack([p.argmax() for p in mixed]).unsqueeze(1).to(weights.dtype)

    @property
    def mode(self) -> Tensor:
        """The most probable code seen in training, (B, 1)."""
        return self.likeliest(torch.ones_like(self._u[:, :1])).long()

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(code <= value), shape of value."""
        probs = self.drawn_probs()
        if self._kept:
            probs = torch.cat([torch.full_like(probs[:, :1], self._kept), probs[:, 1:]], 1)
            probs[:, 1:] *= 1 - self._kept
        codes = torch.arange(self._size, device=value.device)
        return (probs * (codes <= value)).sum(-1, keepdim=True)

    @torch.no_grad()
    def drawn(self, generator: torch.Generator | None, shape: Sequence[int]) -> Tensor:
        """Draw codes seen in training, floats ``shape + (B, 1)``; never a reserved code 0."""
        count = Size(shape).numel()
        draws = torch.multinomial(self._groups.exp(), count, replacement=True, generator=generator)
        made = []
        for group in draws.T:
            place = torch.multinomial(self._within(group).exp(), 1, generator=generator)
            made.append(group.unsqueeze(1) * self._bias.shape[1] + place)
        return torch.stack(made).reshape(*shape, *self.batch_shape).to(self._groups.dtype)


@sample.register
def _(d: TreeCodes, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return d.drawn(generator, shape)


@log_support.register
def _(d: TreeCodes) -> float:
    return math.log(d._size)


@centre.register
def _(d: TreeCodes) -> Tensor:
    return d.mode.to(d._u.dtype)
