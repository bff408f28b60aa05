"""Rows with a label that is known for some of them."""

from __future__ import annotations

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from lowerbound.nn.distributions.base import (
    ONE,
    Unchecked,
    centre,
    log_prob_cells,
    log_support,
    sample,
)
from lowerbound.nn.distributions.counts import log_rates


class Labelled(Unchecked):
    """The distribution p(x, y | z) = p(x | z) p(y | z) of a row x and its label y, if it has one.

    The probability of a row without a label is p(x | z): the sum over all labels.

    References:
        Kingma, Rezende, Mohamed & Welling, "Semi-supervised learning with deep generative
        models", 2014, https://arxiv.org/abs/1406.5298

    Args:
        rows: p(x | z), batch shape (B,).
        logits: (B, K) unnormalised log p(y | z).
        labels: (B, K) 1 for the label of the row and 0 for others; all 0 without a label.
    """

    def __init__(self, rows: Distribution, logits: Tensor, labels: Tensor) -> None:
        self.rows, self.logits, self.labels = rows, logits, labels
        super().__init__(rows.batch_shape, rows.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x, y) of every row, (B,) nats."""
        labels = (self.labels * self.logits.log_softmax(1)).sum(1)
        return self.rows.log_prob(value) + labels

    @property
    def mean(self) -> Tensor:
        """The mean of x."""
        return centre(self.rows)

    @property
    def mode(self) -> Tensor:
        """The mode of x."""
        return self.rows.mode


@sample.register
@torch.no_grad()
def _(d: Labelled, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    return sample(d.rows, generator, shape)


@log_rates.register
def _(d: Labelled) -> Tensor:
    return log_rates(d.rows)


@log_prob_cells.register
def _(d: Labelled, value: Tensor) -> Tensor:
    return log_prob_cells(d.rows, value)


@log_support.register
def _(d: Labelled) -> float:
    return log_support(d.rows)
