"""A network that reads any subset of the columns of a row, once for each column to predict."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPREAD = 0.3  # standard deviation of the first vectors
OF_SQUARES = 0.2  # the same, of squares of numbers, as a share of it


class SeenValues(nn.Module):
    """Hidden states from the sum of one vector per seen column, which depends on its value.

    The sum is the same for any order of the columns, so one network serves every subset. What is
    particular to the column to predict are a scale and a shift of each hidden unit.

    References:
        Uria, Murray & Larochelle, "A deep and tractable density estimator", 2014 (one network for
        all orders of the columns), https://arxiv.org/abs/1310.1757; Perez et al., "FiLM: visual
        reasoning with a general conditioning layer", 2018, https://arxiv.org/abs/1709.07871

    Args:
        sizes: number of codes of each column.
        numbers: the columns that also have a number.
        width: of the vectors and of the hidden layers.

    >>> net = SeenValues([2, 3], [1], width=8)
    >>> each = net.vectors(torch.tensor([[1, 0]]), torch.zeros(1, 1), torch.ones(1, 2).bool())
    >>> net(each[:1], torch.tensor([1])).shape  # of column 1, given 0
    torch.Size([1, 1, 8])
    """

    first: Tensor

    def __init__(self, sizes: Sequence[int], numbers: Sequence[int], width: int) -> None:
        super().__init__()
        starts = [0, *accumulate(sizes)]
        count = len(sizes)
        self.codes = nn.Parameter(torch.empty(starts[-1], width).normal_(0.0, SPREAD))
        self.slopes = nn.Parameter(torch.empty(2, len(numbers), width).normal_(0.0, SPREAD))
        with torch.no_grad():  # first states are nearly linear in numbers, without noise of codes
            self.slopes[1] *= OF_SQUARES
            for column in numbers:
                self.codes[starts[column] : starts[column + 1]] = 0.0
        self.start = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.empty(count, width).normal_(1.0, 0.1))
        self.shift = nn.Parameter(torch.empty(count, width).normal_(0.0, SPREAD))
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.register_buffer("first", torch.tensor(starts[:-1]), persistent=False)
        self.register_buffer("numbers", torch.tensor(list(numbers)).long(), persistent=False)

    def vectors(self, codes: Tensor, numbers: Tensor, seen: Tensor) -> Tensor:
        """Return one vector per value, (C, B, width); 0 for values that are not seen.

        Args:
            codes: (B, C) int64.
            numbers: (B, N) the numbers of the columns that have one.
            seen: (B, C) bool.
        """
        none = len(self.codes)  # the index of a row of zeros
        table = F.pad(self.codes, (0, 0, 0, 1))
        found = F.embedding((codes + self.first).where(seen, none).T, table)
        if not numbers.shape[1]:
            return found
        # The numbers and slopes of all columns, 0 for those without: few values are moved.
        at = self.get_buffer("numbers")
        own = numbers * seen[:, at]
        x = numbers.new_zeros(codes.shape).index_add(1, at, own).T
        slopes = self.slopes.new_zeros(2, *self.scale.shape).index_add(1, at, self.slopes)
        return torch.baddbmm(found, torch.stack([x, x * x.abs()], -1), slopes.transpose(0, 1))

    def vector(self, column: int, codes: Tensor, place: int | None, numbers: Tensor) -> Tensor:
        """Return the vector (B, width) of the values of one column.

        Args:
            column: the index of the column.
            codes: (B,) int64.
            place: its place among the columns of numbers, or None.
            numbers: (B,) its numbers, if it has any.
        """
        found = self.codes[codes + self.first[column]]
        if place is None:
            return found
        x = numbers[:, None]
        return found + x * self.slopes[0, place] + x * x.abs() * self.slopes[1, place]

    def forward(self, total: Tensor, columns: Tensor) -> Tensor:
        """Return the hidden states for predicting columns, (P, B, width).

        Args:
            total: (P, B, width) sums of the vectors that are seen.
            columns: (P,) the columns to predict.
        """
        # The scale and shift of the norm, with those of each column: one pass over the states.
        scale = self.scale * self.norm.weight
        shift = torch.addcmul(self.shift, self.scale, self.norm.bias)
        h = F.layer_norm(total + self.start, self.norm.normalized_shape, eps=self.norm.eps)
        h = F.silu(torch.addcmul(shift[columns][:, None], h, scale[columns][:, None]))
        return h + self.outer(F.silu(self.inner(h)))
