"""The objective of a chain of columns: its likelihood in a fixed order and in random orders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.nn.distributions.chains import TOGETHER, Chain, Coded, Prepared
from lowerbound.nn.objectives.elbo import Loss
from lowerbound.nn.recording import at_steps
from lowerbound.noise import Noise, generator

FIXED = 0.65  # share of the steps that learn the fixed order


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
        count = len(chain.order)
        if count > TOGETHER:
            loss = -_windowed(chain, x, step).mean()
        else:
            loss = -_whole(chain, x, step).mean()
        return Loss(loss, {"elbo": -loss.detach()})


def _order(chain: Chain, source: torch.Generator) -> list[int]:
    """Return the fixed order, or a random one in which each gated column follows its gate."""
    if torch.rand((), generator=source) < FIXED:
        return chain.order
    rank = torch.rand(len(chain.order), generator=source, dtype=torch.float64)
    for column, (by, _) in chain.gates.items():
        rank[column] = rank[by] + 1e-9 * (1 + rank[column])
    return rank.argsort().tolist()


def _source(step: int) -> torch.Generator:
    """Return a generator for the step, so that processes that share a batch learn one order."""
    return generator("order of columns", step)


def _whole(chain: Chain, x: Tensor, step: int) -> Tensor:
    """Return log p of the rows, (B,) nats."""

    def flat(steps: list[int], x: Tensor) -> tuple[Tensor | None, ...]:
        ranks = [
            torch.tensor(_order(chain, _source(step)), device=x.device).argsort() for step in steps
        ]
        prepared = chain.prepared_in_orders(x, torch.stack(ranks))
        return (*prepared.rows, *prepared[1:])

    made: Any = at_steps(flat, step, x)
    rows = len(Coded._fields)
    prepared = Prepared(Coded(*made[:rows]), *made[rows:])
    return chain.log_prob_of_prepared(prepared, range(len(chain.order))).sum(1)


def _windowed(chain: Chain, x: Tensor, step: int) -> Tensor:
    """Return an estimate of log p of rows of many columns, (B,) nats, from a window of them."""
    source = _source(step)
    order, count = _order(chain, source), len(chain.order)
    places = count - TOGETHER + 1
    start = int(torch.randint(places, (), generator=source))
    window = range(start, start + TOGETHER)
    # Columns near the ends of the order are in fewer windows, and are weighted for it.
    held = torch.tensor([min(p, places - 1) - max(0, p - TOGETHER + 1) + 1 for p in window])
    nats = chain.log_prob_of_places(x, order, window)
    return (nats * (places / held.to(nats))).sum(1)
