"""The objective of a chain of columns: its likelihood in a fixed order and in random orders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound.nn.distributions.chains import Chain
from lowerbound.nn.objectives.elbo import Loss
from lowerbound.noise import Noise

FIXED = 0.7  # share of the rows of a batch that are learned in the fixed order


class RandomOrders(nn.Module):
    """Negative log-likelihood in nats per row, exact for the order of each row.

    Rows are drawn in the fixed order, so most rows of a batch are learned in it. The others are
    learned in one random order per step, so that values can be drawn given any others.

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
        random = rank.argsort().tolist()
        some = max(1, round(FIXED * len(x)))
        fixed = chain.log_prob(x[:some])
        nats = torch.cat([fixed, chain.log_prob_in_order(x[some:], random)])
        loss = -nats.mean()
        return Loss(loss, {"elbo": -loss.detach()})
