"""Use of each latent dimension: active units and their rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.coding.rows import Batch, Rows
from lowerbound.nn.distributions.base import kl_per_dimension
from lowerbound.nn.distributions.codewords import is_counted, units
from lowerbound.nn.trace import Trace, posterior_mean
from lowerbound.tasks.metrics import ONCE, by_tiles

ACTIVE = 0.01  # variance of E[z | x] above which a dimension is in use


class LatentUse(NamedTuple):
    """Use of each latent dimension, with the dimensions of all sites concatenated.

    For a site of codes, each code is a unit; its activity is its use relative to the mean use.

    Attributes:
        activity: (d,) variance over the data of E[z | x]; for codes, the relative use.
        rate: (d,) mean KL, nats; NaN if the KL has no closed form per dimension.
        mean: (d,) mean over the data of E[z | x]; for codes, the relative use.
        counted: (d,) bool, True for codes.
        rows: number of rows measured.
    """

    activity: Tensor
    rate: Tensor
    mean: Tensor
    counted: Tensor
    rows: int

    @property
    def active(self) -> Tensor:
        """(d,) bool, True for dimensions whose activity is above the threshold."""
        return self.activity > ACTIVE


def latent_use(model: nn.Module, rows: Rows) -> LatentUse:
    """Measure active units: A_u = Var_x(E[u | x]) > 0.01.

    References:
        Burda, Grosse & Salakhutdinov, 2016, section 5.
    """
    sites: dict[str, tuple[Distribution, int]] = {}

    def work(batch: Batch) -> Tensor:
        trace = Trace(posterior_mean, len(batch.x), decode=False)
        model(batch.x, trace, batch.context)
        seen, rates = [], []
        for name, site in trace.sites.items():
            assert site.q is not None
            each = kl_per_dimension(site.q, site.p)
            seen.append(units(site.q, site.z))
            sites[name] = site.q, seen[-1].shape[1]
            missing = torch.full_like(seen[-1], torch.nan)
            rates.append(missing if each is None else each.flatten(1))
        if not seen:  # a model without latents
            return batch.x.new_zeros(len(batch.x), 0, 2).double()
        return torch.stack([torch.cat(seen, 1), torch.cat(rates, 1)], 2).double()

    seen, rates = by_tiles(model, rows, work, flat=ONCE).unbind(2)
    each = [torch.full((size,), is_counted(q)) for q, size in sites.values()]
    counted = torch.cat([torch.zeros(0, dtype=torch.bool), *each])
    mean = seen.mean(0)
    activity = mean if not len(mean) else torch.where(counted, mean, seen.var(0, correction=0))
    return LatentUse(activity, rates.mean(0), mean, counted, len(seen))


def together(parts: Sequence[LatentUse]) -> LatentUse:
    """Return the use over all rows, given the use over each part of them."""
    rows = torch.tensor([part.rows for part in parts], dtype=torch.float64)
    share = (rows / rows.sum())[:, None]

    def averaged(values: list[Tensor]) -> Tensor:
        return (share * torch.stack(values)).sum(0)

    mean, first = averaged([part.mean for part in parts]), parts[0]
    # Law of total variance: the mean variance within parts plus the variance of their means.
    spread = averaged([part.activity + (part.mean - mean).square() for part in parts])
    activity = torch.where(first.counted, averaged([part.activity for part in parts]), spread)
    rate = averaged([part.rate for part in parts])
    return LatentUse(activity, rate, mean, first.counted, int(rows.sum()))
