"""The objective of a chain of columns: its likelihood in a fixed order and in random orders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound.nn.distributions.chains import TOGETHER, Chain
from lowerbound.nn.objectives.elbo import Loss
from lowerbound.noise import Noise, generator

FIXED = 0.7  # share of the steps that learn the fixed order


class RandomOrders(nn.Module):
    """Negative log-likelihood in nats per row, exact for the order of each step.

    Rows are drawn in the fixed order, so most steps learn it. The other steps learn a random order
    each, so that values can be drawn given any others.

    References:
        Uria, Murray & Larochelle, "A deep and tractable density estimator", 2014, eq. 7,
        https://arxiv.org/abs/1310.1757

    Args:
        model: a model without latents whose likelihood is a `Chain`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch.

        Args:
            x: (B, C) coded rows, NaN where missing.
            step: number of the optimiser step.
            noise: not used: there are no latents.
            context: None.
        """
        chain = self.model.get_submodule("likelihood")
        assert isinstance(chain, Chain), "the objective is that of a chain"
        # By the step alone, so that processes that share a batch learn the same order.
        source = generator("order of columns", step)
        order = chain.order if torch.rand((), generator=source) < FIXED else _any(chain, source)
        loss = -_nats(chain, x, order, source).mean()
        return Loss(loss, {"elbo": -loss.detach()})


def _any(chain: Chain, source: torch.Generator) -> list[int]:
    """Return a random order in which each gated column follows the one that decides on it."""
    rank = torch.rand(len(chain.order), generator=source, dtype=torch.float64)
    for column, (by, _) in chain.gates.items():
        rank[column] = rank[by] + 1e-9 * (1 + rank[column])
    return rank.argsort().tolist()


def _nats(chain: Chain, x: Tensor, order: list[int], source: torch.Generator) -> Tensor:
    """Return log p of the rows, (B,) nats; of many columns, an estimate from a window of them."""
    count, some = len(order), min(TOGETHER, len(order))
    places = count - some + 1
    start = int(torch.randint(places, (), generator=source))
    window = range(start, start + some)
    # Columns near the ends of the order are in fewer windows, and are weighted for it.
    held = torch.tensor([min(p, places - 1) - max(0, p - some + 1) + 1 for p in window])
    nats = chain.log_prob_of_places(x, order, window)
    return (nats * (places / held.to(nats))).sum(1)
