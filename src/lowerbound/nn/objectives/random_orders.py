"""The objective of a chain of columns: its likelihood in a fixed order and in random orders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound.nn.distributions.chains import TOGETHER, Chain
from lowerbound.nn.objectives.elbo import Loss
from lowerbound.noise import Noise

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
            noise: source of the orders.
            context: None.
        """
        chain = self.model.get_submodule("likelihood")
        assert isinstance(chain, Chain), "the objective is that of a chain"
        rank = noise("orders", x.shape[1:], x)
        for column, (by, _) in chain.gates.items():  # directly after the column that decides
            rank[column] = rank[by] + 1e-6
        fixed = bool(torch.special.ndtr(noise("kind of order", torch.Size([1]), x)) < FIXED)
        order = chain.order if fixed else rank.argsort().tolist()
        loss = -self._nats(chain, x, order, noise).mean()
        return Loss(loss, {"elbo": -loss.detach()})

    def _nats(self, chain: Chain, x: Tensor, order: list[int], noise: Noise) -> Tensor:
        """Return log p of the rows, (B,) nats; of many columns, an estimate from some of them."""
        count, some = len(order), min(TOGETHER, len(order))
        places = count - some + 1
        uniform = torch.special.ndtr(noise("first column", torch.Size([1]), x))
        # Windows that wrap around the end would not be of one chunk: columns at both ends of the
        # order are in fewer windows, so each is weighted by how many it is in.
        start = min(int(uniform * places), places - 1)
        window = range(start, start + some)
        held = torch.tensor([min(p, places - 1) - max(0, p - some + 1) + 1 for p in window])
        nats = chain.log_prob_of_places(x, order, window)
        return (nats * (places / held.to(nats))).sum(1)
