"""Draws of z for importance sampling: from q(z | x), and from a refined proposal where q is poor.

The encoder knows the posterior of a row with missing cells from training (`HiddenCells`), and so
only about. Where the effective sample size shows that it does not know it well, a normal is fitted
to the posterior of that row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from lowerbound import noise
from lowerbound.coding.rows import Batch
from lowerbound.nn.trace import Choose, Drawn, Trace, from_posterior, replay

WEAK = 0.5  # a share of effective samples below it is poor
STEPS = 60  # of the fit to one row
DRAWS = 8  # of z in each step
RATE = 0.1  # of the first step; the last is a tenth of it
WIDER = 1.2  # factor of the fitted scales: too narrow a proposal has large weights in its tails


class Weighted(NamedTuple):
    """Draws of z, and what they are worth.

    Attributes:
        px: p(x | z) at the draws, with batch shape (rows x samples,).
        z: the draws by name of the site, (rows x samples, ...).
        log_w: (rows, samples) log p(x, z) - log r(z), where r is the proposal, nats.
    """

    px: Distribution
    z: Mapping[str, Tensor]
    log_w: Tensor

    @property
    def weights(self) -> Tensor:
        """The normalised weights, (rows, samples), float64."""
        return self.log_w.double().softmax(1)


def weighted(model: nn.Module, batch: Batch, samples: int) -> Weighted:
    """Return draws of z given each row, with their importance weights.

    Rows with missing cells whose weights are uneven get a proposal of their own.

    Args:
        model: a module with ``forward(x, trace, context)``.
        batch: rows of data.
        samples: draws per row.
    """
    normals = noise.Keyed(noise.row_keys(*batch))
    found = _drawn(model, batch, from_posterior(normals), samples)
    poor = weak(batch, share(found.log_w))
    if not poor.any():
        return found
    other = _drawn(model, batch, proposing(refined(model, batch), normals), samples)
    better = poor & (share(other.log_w) > share(found.log_w))
    row = better.repeat_interleave(samples)
    z = {
        name: torch.where(row.view(-1, *[1] * (each.dim() - 1)), other.z[name], each)
        for name, each in found.z.items()
    }
    px = model(None, Trace(replay(z), len(batch.x), samples), batch.context)
    return Weighted(px, z, torch.where(better[:, None], other.log_w, found.log_w))


def share(log_w: Tensor) -> Tensor:
    """Return the share of effective samples, (rows,): 1 where all weights of a row are equal."""
    log_w = log_w.double()
    effective = (2 * log_w.logsumexp(1) - (2 * log_w).logsumexp(1)).exp()
    return (effective / log_w.shape[1]).nan_to_num(0.0)


def weak(batch: Batch, effective: Tensor) -> Tensor:
    """Return for which rows a proposal is worth refining, (rows,).

    Args:
        batch: the rows. Those without missing cells have the proposal that training is about.
        effective: their shares of effective samples.
    """
    if batch.x.dim() != 2:  # for pictures, a fit to each row would take minutes
        return torch.zeros_like(effective, dtype=torch.bool)
    return batch.x.isnan().any(1) & (effective < WEAK)


def _drawn(model: nn.Module, batch: Batch, choose: Choose, samples: int) -> Weighted:
    trace = Trace(choose, len(batch.x), samples)
    px = model(batch.x, trace, batch.context)
    log_p = px.log_prob(batch.x.repeat_interleave(samples, 0))
    log_w = (log_p + trace.log_ratio()).view(-1, samples)
    return Weighted(px, {name: site.z for name, site in trace.sites.items()}, log_w)


Fitted = Mapping[str, tuple[Tensor, Tensor]]  # location and scale of each site, (rows, ...)


def proposing(fitted: Fitted, normals: noise.Noise) -> Choose:
    """Return the rule that draws z from `refined` normals, with their density as the proposal's.

    Args:
        fitted: location and scale by name of the site.
        normals: source of standard normals.
    """

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        loc, scale = fitted[name]
        samples = p.batch_shape[0] // len(loc)
        loc, scale = (each.repeat_interleave(samples, 0) for each in (loc, scale))
        z = loc + scale * normals(name, loc.shape, loc)
        return Drawn(z, Independent(Normal(loc, scale, validate_args=False), loc.dim() - 1))

    return choose


def refined(model: nn.Module, batch: Batch) -> Fitted:
    """Fit a normal with independent dimensions to p(z | x) of every row, by its ELBO.

    All rows are fitted together, each on its own: the result of a row depends on that row alone.

    References:
        Kim, Wiseman, Miller, Sontag & Rush, "Semi-amortized variational autoencoders", 2018,
        https://arxiv.org/abs/1802.02550

    Args:
        model: a module with ``forward(x, trace, context)``, in evaluation mode, whose latents
            are continuous.
        batch: rows of data.

    Returns:
        Location and scale by name of the site, (rows, ...).
    """
    rows, keys = len(batch.x), noise.row_keys(*batch)
    start = _drawn(model, batch, from_posterior(noise.Keyed(keys ^ noise.derive("start"))), DRAWS)
    each = {name: z.unflatten(0, (rows, DRAWS)) for name, z in start.z.items()}
    fitted = {name: (z.mean(1), z.std(1).clamp_min(1e-3).log()) for name, z in each.items()}
    x = batch.x.repeat_interleave(DRAWS, 0)
    first, second = ([torch.zeros_like(v) for pair in fitted.values() for v in pair] for _ in "12")
    for step in range(STEPS):
        normals = noise.Keyed(keys, (step + 1) * DRAWS)
        with torch.enable_grad():
            leaves = {n: tuple(v.detach().requires_grad_() for v in p) for n, p in fitted.items()}
            trace = Trace(
                proposing({n: (m, s.exp()) for n, (m, s) in leaves.items()}, normals), rows, DRAWS
            )
            log_p = model(None, trace, batch.context).log_prob(x)
            # The entropy in closed form; its constant has no gradient.
            spread = sum(s.flatten(1).sum(1) for _, s in leaves.values())
            bound = (log_p + trace.log_prior()).view(rows, DRAWS).mean(1) + spread
            flat = [v for pair in leaves.values() for v in pair]
            slopes = torch.autograd.grad(bound.sum(), flat)
        rate = RATE * 0.1 ** (step / (STEPS - 1))
        moved = []
        for i, (value, slope) in enumerate(zip(flat, slopes, strict=True)):  # Adam, uphill
            slope = slope.nan_to_num(0.0)
            first[i] = 0.9 * first[i] + 0.1 * slope
            second[i] = 0.95 * second[i] + 0.05 * slope.square()
            mean = first[i] / (1 - 0.9 ** (step + 1))
            size = (second[i] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
            moved.append(value.detach() + rate * mean / size)
        fitted = dict(zip(fitted, zip(moved[::2], moved[1::2], strict=True), strict=True))
    return {name: (loc, WIDER * log_scale.exp()) for name, (loc, log_scale) in fitted.items()}
