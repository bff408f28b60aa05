"""Rates of counts by posterior draws: normalised expression, at any batch and depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.coding.context import Context
from lowerbound.coding.rows import Batch, Rows, tile_of
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.counts import log_rates
from lowerbound.nn.trace import Trace, from_posterior, replay
from lowerbound.tasks.finite import using
from lowerbound.tasks.metrics import ONCE, TILE, by_tiles
from lowerbound.tasks.parts import by_parts


class Rates(NamedTuple):
    """The rates of the genes of cells.

    Attributes:
        mean: (n, genes) the mean over draws from the posterior.
        sd: (n, genes) the standard deviation over these draws.
    """

    mean: Tensor
    sd: Tensor


@dataclass(frozen=True)
class At:
    """The covariates and the library size at which rates are decoded.

    Args:
        covariates: the covariates of the model.
        given: codes of covariates that all rows get in place of their own, by name.
        library: the total that rates add up to, over all genes of the model; None for the own
            total of each row.
        genes: positions of the genes that are returned; None for all.
    """

    covariates: Context = field(default_factory=Context)
    given: Mapping[str, float] = field(default_factory=dict)
    library: float | None = None
    genes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the library size.

        Raises:
            UsageError: E240 unless it is above 0 and finite.
        """
        if self.library is not None and not 0 < self.library < math.inf:
            raise UsageError(
                "E240",
                f"library must be above 0 and finite, got {self.library}",
                fix="library=1e4",
            )

    def context(self, own: Tensor) -> Tensor:
        """Return the contexts to decode at, for the own contexts of rows, (n, 1 + width)."""
        made = self.covariates.imposed(own[:, 1:], self.given)
        library = own[:, :1]
        if self.library is not None:
            library = torch.full_like(library, math.log(self.library))
        return torch.cat([library, made], 1)

    def rates(self, px: Distribution, context: Tensor) -> Tensor:
        """Return the rates of the chosen genes, which add up to the library size of a context."""
        shares = log_rates(px).log_softmax(1)
        return self.chosen(shares + context[:, :1]).exp()

    def chosen(self, rates: Tensor) -> Tensor:
        """Return the rates of the chosen genes."""
        return rates if self.genes is None else rates[:, list(self.genes)]


def expression(model: nn.Module, rows: Rows, at: At, *, draws: int = 25, seed: int = 0) -> Rates:
    """Return the rates of every row: mean and standard deviation over draws of q(z | x).

    Each row is encoded with its own context, and its draws are decoded at the context of `at`:
    another batch gives what the same cell would show there. Extra zeros of a zero-inflated
    likelihood are left out. The draws of a row depend on the row and the seed alone.

    References:
        Lopez et al., "Deep generative modeling for single-cell transcriptomics", 2018,
        https://doi.org/10.1038/s41592-018-0229-2

    Args:
        model: a module with ``forward(x, trace, context)``, of counts.
        rows: the cells.
        at: where the draws are decoded.
        draws: draws of z per row.
        seed: seed of the draws.

    Raises:
        UsageError: E240 for fewer than one draw.
    """
    if draws < 1:
        raise UsageError(
            "E240", f"draws must be a positive integer, got {draws}", fix="--draws 25"
        )

    def work(batch: Batch) -> Tensor:
        context = at.context(_context(batch))
        mean = squares = torch.zeros((), device=batch.x.device)
        for number, z in enumerate(posterior_draws(model, batch, draws, seed), 1):
            px = model(None, Trace(replay(z), len(batch.x)), context)
            rate = at.rates(px, context)
            # Welford, "Note on a method for calculating corrected sums of squares", 1962.
            change = rate - mean
            mean = mean + change / number
            squares = squares + change * (rate - mean)
        return torch.stack([mean, (squares / max(draws - 1, 1)).clamp_min(0).sqrt()], 1)

    def of_part(part: Rows, first: int) -> Tensor:
        return by_tiles(model, part, work, TILE, ONCE)

    with using(model) as device:
        found = by_parts(rows, tile_of(rows, TILE, ONCE), of_part, device)
    return Rates(found[:, 0], found[:, 1])


@torch.no_grad()
def posterior_draws(
    model: nn.Module, batch: Batch, draws: int, seed: int
) -> list[dict[str, Tensor]]:
    """Return draws of z from q(z | x), by the name of the site, (B, ...) each.

    Args:
        model: a module with ``forward(x, trace, context)``.
        batch: rows, on the model's device.
        draws: draws per row.
        seed: seed of the draws, which depend on it and on the values of the row.
    """
    keys = noise.row_keys(*batch) ^ noise.derive("posterior draws", seed)
    trace = Trace(from_posterior(noise.Keyed(keys)), len(batch.x), draws, decode=False)
    model(batch.x, trace, batch.context)
    sites = {n: s.z.unflatten(0, (len(batch.x), draws)) for n, s in trace.sites.items()}
    return [{name: z[:, number] for name, z in sites.items()} for number in range(draws)]


def _context(batch: Batch) -> Tensor:
    assert batch.context is not None, "counts have a context"
    return batch.context
