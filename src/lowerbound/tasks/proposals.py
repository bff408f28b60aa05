"""Draws of z for importance sampling: from q(z | x), and from other proposals where q is poor.

- The encoder learns the posteriors of rows with missing cells (`HiddenCells`) approximately.
  Where the effective sample size of such a row is small, a normal is fitted to its posterior.
- Where a row can take few values only, rows repeat, and with them the Monte Carlo error of each.
  All rows are then scored by the same many draws from the prior, under which the probabilities
  of all values sum to one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from lowerbound import noise
from lowerbound.coding.rows import Batch
from lowerbound.nn.distributions.base import Unchecked, log_support
from lowerbound.nn.latents.importance import by_proposal
from lowerbound.nn.latents.priors import from_normals
from lowerbound.nn.trace import Choose, Drawn, Trace, from_posterior, from_prior

WEAK = 0.25  # a share of effective samples below it is poor
STEPS = 30  # of the fit to one row
DRAWS = 8  # of z in each step
RATE = 0.2  # of the first step; the last is a tenth of it
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


def weighted(model: nn.Module, batch: Batch, choose: Choose, samples: int) -> Weighted:
    """Return draws of z given each row, with their importance weights.

    Args:
        model: a module with ``forward(x, trace, context)``.
        batch: rows of data.
        choose: how z is drawn.
        samples: draws per row.
    """
    trace = Trace(choose, len(batch.x), samples)
    px = by_proposal(model)(batch.x, trace, batch.context)
    log_p = px.log_prob(batch.x.repeat_interleave(samples, 0))
    log_w = (log_p + trace.log_ratio()).view(-1, samples)
    return Weighted(px, {name: site.z for name, site in trace.sites.items()}, log_w)


def share(log_w: Tensor) -> Tensor:
    """Return the share of effective samples, (rows,): 1 where all weights of a row are equal."""
    log_w = log_w.double()
    effective = (2 * log_w.logsumexp(1) - (2 * log_w).logsumexp(1)).exp()
    return (effective / log_w.shape[1]).nan_to_num(0.0)


def weak(batch: Batch, effective: Tensor) -> Tensor:
    """Return for which rows q is a poor proposal, (rows,).

    Args:
        batch: the rows.
        effective: their shares of effective samples.
    """
    if batch.x.dim() != 2:  # for pictures, a fit to each row would take minutes
        return torch.zeros_like(effective, dtype=torch.bool)
    return effective < WEAK


def has_gaps(x: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Return which rows (n, columns) have a missing value, (n,).

    Args:
        x: coded rows.
        groups: the columns that code one value, such as a number and its atoms: the value is
            missing if all of them are NaN. Other columns are values of their own.
    """
    gone = x.isnan()
    for columns in groups:
        if len(columns) > 1:
            gone[:, columns] &= gone[:, columns].all(1, keepdim=True)
    return gone.any(1)


def preferred(refined: Tensor, usual: Tensor) -> Tensor:
    """Return for which rows, of those where q is poor, the refined proposal is taken, (rows,).

    A proposal that misses a part of the posterior has even weights elsewhere, so that its
    effective sample size flatters it. The refined one covers the prior, and may have fewer.

    Args:
        refined: shares of effective samples of the refined proposal.
        usual: those of q.
    """
    return refined > usual / 4


POOL = 1 << 15  # draws from the prior, for rows of few values
PART = 4096  # of them decoded together
FEW_VALUES = math.log(1024)  # values of a row, up to which they are scored by these draws
_SUPPORTS: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()  # log of their number


def takes_few_values(model: nn.Module, device: torch.device) -> bool:
    """Return whether a row of a model without context has one of few values.

    Args:
        model: a module with ``forward(x, trace, context)``.
        device: the device of its parameters.
    """
    # It follows from the sizes of the network, and a draw takes a sixth of the score of a row.
    if model not in _SUPPORTS:
        px = model(None, Trace(from_prior(noise.generator("one", device=device)), 1), None)
        _SUPPORTS[model] = log_support(px)
    return _SUPPORTS[model] <= FEW_VALUES


class PriorDraws:
    """Many draws of z from the prior, by which rows that take few values are scored.

    Args:
        model: a module with ``forward(x, trace, context)``, in evaluation mode, without context.
        device: the device of its parameters.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        choose = from_prior(noise.generator("prior draws", device=device))
        self.parts = [model(None, Trace(choose, PART), None) for _ in range(POOL // PART)]

    @classmethod
    def suit(cls, model: nn.Module, row: Batch, device: torch.device) -> PriorDraws | None:
        """Return the draws if rows take few values and no context is given, or None.

        Args:
            model: as above.
            row: one row or more.
            device: the device of the model's parameters.
        """
        if row.context is not None or row.x.dim() != 2:
            return None
        return cls(model, device) if takes_few_values(model, device) else None

    def sums(self, x: Tensor) -> Tensor:
        """Return the log-sums of w and of w^2 of rows (n, columns), (n, 2), where w = p(x | z)."""
        values, place = torch.unique(x.nan_to_num(MISSING), dim=0, return_inverse=True)
        values = values.masked_fill(values == MISSING, torch.nan)
        found = []
        for row in values:
            each = [px.log_prob(row.expand(PART, -1)).double() for px in self.parts]
            log_w = torch.cat(each)
            found.append(torch.stack([log_w.logsumexp(0), (2 * log_w).logsumexp(0)]))
        return torch.stack(found)[place]


MISSING = -1.0  # in place of NaN where rows are compared; no code and no count is negative

Fitted = Mapping[str, tuple[Tensor, Tensor]]  # location and scale of each site, (rows, ...)


def proposing(fitted: Fitted, normals: noise.Noise) -> Choose:
    """Return the rule that draws half of z from `refined` normals and half from the prior.

    The prior covers what a single normal misses, such as several modes; the density of the
    mixture is that of the proposal.

    References:
        Hesterberg, "Weighted average importance sampling and defensive mixture distributions",
        1995, https://doi.org/10.1080/00401706.1995.10484303

    Args:
        fitted: location and scale by name of the site.
        normals: source of standard normals.
    """

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        own, z = _normal(fitted, name, p, normals)
        other = from_normals(p, partial(normals, f"{name} of the prior"))
        first = normals(f"{name} by the normal", torch.Size([len(z), 1]), z)[:, 0] > 0
        z = torch.where(first.view(-1, *[1] * (z.dim() - 1)), z, other)
        return Drawn(z, _Halves(own, p))

    return choose


def _of_normals(fitted: Fitted, normals: noise.Noise) -> Choose:
    """Return the rule that draws from the normals alone."""

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        own, z = _normal(fitted, name, p, normals)
        return Drawn(z, own)

    return choose


def _normal(
    fitted: Fitted, name: str, p: Distribution, normals: noise.Noise
) -> tuple[Distribution, Tensor]:
    """Return the fitted normal of a site for every draw, and draws from it."""
    loc, scale = fitted[name]
    samples = p.batch_shape[0] // len(loc)
    loc, scale = (each.repeat_interleave(samples, 0) for each in (loc, scale))
    z = loc + scale * normals(name, loc.shape, loc)
    return Independent(Normal(loc, scale, validate_args=False), loc.dim() - 1), z


class _Halves(Unchecked):
    """The mixture of two distributions with equal weights."""

    def __init__(self, one: Distribution, other: Distribution) -> None:
        self.one, self.other = one, other
        super().__init__(one.batch_shape, one.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every row, (B,) nats."""
        both = torch.logaddexp(self.one.log_prob(value), self.other.log_prob(value))
        return both - math.log(2)


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
    first = from_posterior(noise.Keyed(keys ^ noise.derive("start")))
    start = weighted(model, batch, first, DRAWS)
    each = {name: z.unflatten(0, (rows, DRAWS)) for name, z in start.z.items()}
    fitted = {name: (z.mean(1), z.std(1).clamp_min(1e-3).log()) for name, z in each.items()}
    x = batch.x.repeat_interleave(DRAWS, 0)
    first, second = ([torch.zeros_like(v) for pair in fitted.values() for v in pair] for _ in "12")
    for step in range(STEPS):
        normals = noise.Keyed(keys, (step + 1) * DRAWS)
        with torch.enable_grad():
            leaves = {n: tuple(v.detach().requires_grad_() for v in p) for n, p in fitted.items()}
            shown = {n: (m, s.exp()) for n, (m, s) in leaves.items()}
            trace = Trace(_of_normals(shown, normals), rows, DRAWS)
            log_p = model(None, trace, batch.context).log_prob(x)
            # The entropy in closed form; its constant has no gradient.
            spread = sum(s.flatten(1).sum(1) for _, s in leaves.values())
            bound = (log_p + trace.log_prior()).view(rows, DRAWS).mean(1) + spread
            flat = [v for pair in leaves.values() for v in pair]
            slopes = torch.autograd.grad(bound.sum(), flat)
        rate = RATE * 0.1 ** (step / (STEPS - 1))
        moved = []
        for i, (value, slope) in enumerate(zip(flat, slopes, strict=True)):  # Adam, uphill
            up = slope.nan_to_num(0.0)
            first[i] = 0.9 * first[i] + 0.1 * up
            second[i] = 0.95 * second[i] + 0.05 * up.square()
            mean = first[i] / (1 - 0.9 ** (step + 1))
            size = (second[i] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
            moved.append(value.detach() + rate * mean / size)
        fitted = dict(zip(fitted, zip(moved[::2], moved[1::2], strict=True), strict=True))
    return {name: (loc, WIDER * log_scale.exp()) for name, (loc, log_scale) in fitted.items()}
