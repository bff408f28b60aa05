"""Posterior predictive checks of counts: statistics of genes in drawn and in counted cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lowerbound import noise
from lowerbound.coding.rows import Rows, tile_of, tiles
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import sample
from lowerbound.nn.trace import Trace, replay
from lowerbound.tasks.expression import posterior_draws
from lowerbound.tasks.finite import using
from lowerbound.tasks.metrics import ONCE, TILE

STATISTICS = ("zeros", "mean", "variance")


class Checked(NamedTuple):
    """One statistic of every gene, over cells, (genes,) each.

    Attributes:
        observed: of the counts.
        replicated: of drawn counts, the mean over replicates.
        sd: its standard deviation over replicates.
    """

    observed: NDArray[np.float64]
    replicated: NDArray[np.float64]
    sd: NDArray[np.float64]


@torch.no_grad()
def predictive_checks(
    model: nn.Module, rows: Rows, *, draws: int = 10, seed: int = 0
) -> dict[str, Checked]:
    """Compare counts with replicates: counts that the model draws for the same cells.

    A replicate has for each cell a draw of z from its posterior and counts from p(x | z) with the
    cell's own total and covariates. A statistic that the replicates do not have shows a part of
    the data that the likelihood does not describe, such as too many zeros.

    References:
        Gelman, Meng & Stern, "Posterior predictive assessment of model fitness via realized
        discrepancies", 1996.

    Args:
        model: a module with ``forward(x, trace, context)``, of counts.
        rows: the cells.
        draws: number of replicates.
        seed: of the draws.

    Returns:
        By name: "zeros", the share of cells without a count; "mean" and "variance" of the counts.

    Raises:
        UsageError: E240 for fewer than two replicates.
    """
    if draws < 2:
        raise UsageError("E240", f"draws must be at least 2, got {draws}", fix="draws=10")
    own, made = _Moments(1), _Moments(draws)
    with using(model) as device:
        source = noise.generator("replicates", seed, device=device)
        for batch, real in tiles(rows, tile_of(rows, TILE, ONCE)):
            given = batch.to(device)
            own.add(0, batch.x[:real])
            for number, z in enumerate(posterior_draws(model, given, draws, seed)):
                px = model(None, Trace(replay(z), len(batch.x)), given.context)
                made.add(number, sample(px, source)[:real].cpu())
    ours, theirs = own.statistics(), made.statistics()
    return {
        name: Checked(ours[name][0], theirs[name].mean(0), theirs[name].std(0, ddof=1))
        for name in STATISTICS
    }


class _Moments:
    """Sums over cells for each of several replicates."""

    def __init__(self, replicates: int) -> None:
        self.rows = np.zeros(replicates)
        self.sums: list[NDArray[np.float64] | None] = [None] * replicates

    def add(self, replicate: int, x: torch.Tensor) -> None:
        """Add cells, (B, genes), to a replicate."""
        wide = x.double()
        some = torch.stack([(wide == 0).double().sum(0), wide.sum(0), wide.square().sum(0)])
        before = self.sums[replicate]
        self.sums[replicate] = some.numpy() if before is None else before + some.numpy()
        self.rows[replicate] += len(x)

    def statistics(self) -> dict[str, NDArray[np.float64]]:
        """Return (replicates, genes) by name."""
        sums = np.stack([each for each in self.sums if each is not None])
        zeros, mean, squares = (sums / self.rows[:, None, None]).transpose(1, 0, 2)
        more = self.rows[:, None] / np.maximum(self.rows[:, None] - 1, 1)
        return {
            "zeros": zeros,
            "mean": mean,
            "variance": (squares - mean**2).clip(0) * more,
        }
