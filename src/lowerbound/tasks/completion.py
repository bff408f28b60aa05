"""Fill the gaps of coded rows: by the VAE, by its chain of columns, or by both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lowerbound.coding.rows import Dense, Rows
from lowerbound.columns.base import Scale
from lowerbound.nn.model import LatentModel
from lowerbound.tasks import draws

LATENTS, CHAIN, BOTH = "latents", "chain", "both"
VOTES = 32  # draws of each model, where the two disagree on a code


class Completion:
    """A way to fill gaps.

    Args:
        model: the VAE, with a chain unless `by` is "latents".
        by: "latents", "chain" or "both": the equal mixture of the two, whose draws are taken in
            turn. Two models err in different ways, so the mixture is often closer than either,
            and its spread is less often too small.
        groups: the coded columns of each raw column.
        scales: for each coded column, the map to raw values; None for codes.
    """

    def __init__(
        self,
        model: LatentModel,
        by: str,
        groups: Sequence[Sequence[int]] = (),
        scales: Sequence[Scale | None] = (),
    ) -> None:
        self.model, self.by = model, by
        self.groups, self.scales = groups, scales

    def point(self, rows: Rows) -> Tensor:
        """Return rows (n, ...) filled with the mean of raw values, and the likeliest codes."""
        if self.model.rows is None:
            return draws.impute(self.model, rows, groups=self.groups, scales=self.scales)
        x, gaps = self._gaps(rows)
        if not len(gaps):
            return x
        given = x[gaps]
        if self.by != CHAIN:
            filled = draws.impute(self.model, Dense(given), groups=self.groups, scales=self.scales)
        if self.by != LATENTS:
            by_chain = draws.complete(self.model.rows, given)
            filled = by_chain if self.by == CHAIN else self._mixed(given, filled, by_chain)
        x[gaps] = draws.dependent(self.model.rows, given, filled)
        return x

    def draws(self, rows: Rows, count: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """Return `count` completed copies of every row, (n, count, ...).

        Args:
            rows: the coded rows.
            count: copies of each row.
            seed: seed of the draws.
            start: index of the first row, if these are a part of a larger table.
        """
        where = {"seed": seed, "start": start}
        if self.model.rows is None:
            return draws.impute_draws(self.model, rows, count, groups=self.groups, **where)
        x, gaps = self._gaps(rows)
        drawn = x[:, None].repeat(1, count, *[1] * (x.dim() - 1))
        if not len(gaps):
            return drawn
        given = x[gaps]
        others = {CHAIN: 0, BOTH: (count + 1) // 2, LATENTS: count}[self.by]
        made = torch.empty_like(drawn[gaps])
        place = slice(None, None, 2) if self.by == BOTH else slice(None)
        if others:
            by_latents = draws.impute_draws(
                self.model, Dense(given), others, groups=self.groups, **where
            )
            repeated = given.repeat_interleave(others, 0)
            kept = draws.dependent(self.model.rows, repeated, by_latents.flatten(0, 1), **where)
            made[:, place] = kept.view_as(by_latents)
        if count > others:
            place = slice(1, None, 2) if self.by == BOTH else slice(None)
            made[:, place] = draws.complete_draws(self.model.rows, given, count - others, **where)
        drawn[gaps] = made
        return drawn

    def _gaps(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return all rows, their determined values filled, and the indices of those with gaps."""
        assert self.model.rows is not None, "the model has a chain"
        x = rows.take(torch.arange(len(rows))).x
        gaps = draws.has_gaps(x, self.groups).nonzero()[:, 0]
        return draws.determined(self.model.rows, x), gaps

    def _mixed(self, x: Tensor, by_latents: Tensor, by_chain: Tensor) -> Tensor:
        """Return the point of the mixture of the two models."""
        assert self.model.rows is not None, "the model has a chain"
        chain = draws.chain_of(self.model.rows)
        mixed = by_latents.clone()
        codes = torch.tensor([c for c in range(x.shape[1]) if c not in chain.place]).long()
        differ = (by_latents[:, codes] != by_chain[:, codes]).any(1).nonzero()[:, 0]
        if len(codes) and len(differ):
            votes = self.draws(Dense(x[differ]), 2 * VOTES)
            mixed[differ[:, None], codes] = votes[:, :, codes].mode(1).values
        for column in chain.place:
            scale = self.scales[column] if self.scales else None
            mean = (by_latents[:, column] + by_chain[:, column]) / 2
            if scale is not None and not scale.linear:
                pair = torch.stack([by_latents[:, column], by_chain[:, column]]).double()
                raw = scale.raw_of(pair.numpy()).mean(0)
                mean = torch.from_numpy(scale.coded_of(raw)).to(mean)
            gate = chain.gates.get(column)
            if gate is not None:  # the chain has a number only where it applies
                mean = torch.where(by_chain[:, gate[0]] == gate[1], mean, by_latents[:, column])
                mean = torch.where(mean.isnan(), by_chain[:, column], mean)
            mixed[:, column] = mean
        return torch.where(x.isnan(), mixed, x)
