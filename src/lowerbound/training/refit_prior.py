"""Refit the prior to the trained encoder after training."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound import noise
from lowerbound.coding.rows import Batch, Rows, subset
from lowerbound.nn.latents.priors import Mixture
from lowerbound.nn.model import LatentModel
from lowerbound.nn.trace import Site, Trace, from_posterior
from lowerbound.recipes import Recipe
from lowerbound.tasks import metrics

ROWS = 10_000  # largest number of rows that the mixture is fitted to
MAX_VALUES = 320_000  # largest number of rows x latent dimensions: the time of EM grows with it
COMPONENTS = (1, 4, 20, 64)
ROWS_PER_COMPONENT = 20
DECIDING_ROWS = 1000  # held-out rows on which priors are compared
SAMPLES = 32  # importance samples per row in the comparison
EM_STEPS, EM_GAIN = 50, 1e-3  # most iterations of EM; they end at a smaller gain, nats per row
FLOOR = 1e-3  # added to the variances of the mixture's components
TILE = 4096  # draws evaluated together, to limit memory
GAIN = 0.01  # nats per row that a refitted prior must gain on held-out rows


def refit_prior(
    recipe: Recipe,
    fitted: tuple[LatentModel, dict[str, Any]],
    train: Rows,
    valid: Rows,
    seed: int,
    seconds: float = math.inf,
) -> tuple[LatentModel, dict[str, Any]]:
    """Replace the prior N(0, I) by a mixture fitted to the aggregate posterior, if it is better.

    For a fixed encoder and decoder, this maximises the ELBO over the prior. The mixture is kept
    only if it improves the held-out bound by `GAIN` nats per row; it is then the model's prior
    for all uses. In a hierarchy, the first level's prior is replaced. Recipes without the
    argument `components` are left alone: their posterior depends on the prior.

    Args:
        recipe: the recipe.
        fitted: the model and its recipe's arguments.
        train: rows that the mixture is fitted to.
        valid: held-out rows on which the priors are compared.
        seed: seed of the draws from the posterior and of the start of EM.
        seconds: time after which no mixture of more components is tried.

    Returns:
        The model with the better prior, and its arguments.
    """
    model, arguments = fitted
    if not refit_is_tried(recipe, arguments):
        return fitted
    began = time.monotonic()
    z = _aggregate(model, train, seed)
    draws = _draws(model, subset(valid, torch.arange(min(len(valid), DECIDING_ROWS))))
    best, best_nll, took = None, draws.nll(None), 0.0
    for components in COMPONENTS:
        if len(z) < ROWS_PER_COMPONENT * components:
            break
        if time.monotonic() - began + took * components > seconds:
            break
        start = time.monotonic()
        candidate = _mixture(components, z, seed)
        nll = draws.nll(candidate)
        took = (time.monotonic() - start) / components  # an upper bound for more components
        if nll < best_nll - GAIN:
            best, best_nll = candidate, nll
    if best is None:
        return fitted
    arguments = {**arguments, "components": len(best.logits)}
    return _with_prior(recipe, model, arguments, best, seed), arguments


def refit_is_tried(recipe: Recipe, arguments: Mapping[str, Any]) -> bool:
    """Return whether a recipe's prior can be refitted and was not trained with the model."""
    return "components" in recipe.parameters and arguments.get("prior", "standard") == "standard"


class _Draws(NamedTuple):
    """Importance samples of held-out rows; only their log p(z) depends on the prior.

    Attributes:
        z: (n x SAMPLES, d) latents of the first level.
        rest: (n, SAMPLES) log weights without the first level's log p(z), nats.
        usual: (n x SAMPLES,) log p(z) under the model's own prior, nats.
    """

    z: Tensor
    rest: Tensor
    usual: Tensor

    def nll(self, prior: Mixture | None) -> float:
        """Return the mean bound on -log p(x), nats, under `prior` (None: the model's own)."""
        log_p = self.usual
        if prior is not None:  # in tiles: all draws under 64 components would take 80 MB
            log_p = torch.cat([prior(z).log_prob(z) for z in self.z.split(TILE)])
        log_w = self.rest + log_p.double().view_as(self.rest)
        return (math.log(SAMPLES) - log_w.logsumexp(1)).mean().item()


def _first(trace: Trace) -> Site:
    return next(iter(trace.sites.values()))


def _draws(model: LatentModel, rows: Rows) -> _Draws:
    keys = metrics.RowKeys(torch.arange(len(rows)))

    def work(batch: Batch) -> Tensor:
        trace = Trace(from_posterior(noise.Keyed(keys(batch))), len(batch.x), SAMPLES)
        px = model(batch.x, trace, batch.context)
        site = _first(trace)
        log_x = px.log_prob(batch.x.repeat_interleave(SAMPLES, 0))
        usual = site.p.log_prob(site.z)
        weights = torch.stack([usual, log_x + trace.log_ratio() - usual], 1)
        return torch.cat([weights, site.z], 1).view(len(batch.x), SAMPLES, -1)

    found = metrics.by_tiles(model, rows, work)
    return _Draws(found[..., 2:].flatten(0, 1), found[..., 1].double(), found[..., 0].flatten())


@torch.no_grad()
def _aggregate(model: LatentModel, rows: Rows, seed: int) -> NDArray[np.float64]:
    """Return one draw of the first level's z from q(z | x) for up to `ROWS` rows, (n, latent).

    Equal rows have draws of their own: repeated points would get a narrow component each.
    """
    keys = metrics.RowKeys(torch.arange(min(len(rows), ROWS)))

    def work(batch: Batch) -> Tensor:
        own = keys(batch) ^ noise.derive("prior", seed)
        trace = Trace(from_posterior(noise.Keyed(own)), len(batch.x))
        model(batch.x, trace, batch.context)
        return _first(trace).z

    some = subset(rows, torch.arange(min(len(rows), ROWS)))
    z = metrics.by_tiles(model, some, work).double().numpy()
    return z[: max(MAX_VALUES // z.shape[1], 1)]


@torch.no_grad()
def _mixture(components: int, z: NDArray[np.float64], seed: int) -> Mixture:
    """Fit a mixture of `components` diagonal normals to z by EM, started at k-means++ centres.

    The iterations are those of sklearn.mixture.GaussianMixture, whose import of scipy.stats would
    add a second and 75 MB to every fit. EM may stop before it converges: the held-out bound
    decides whether the mixture is used.
    """
    x = torch.from_numpy(z)
    squares, bound = x.square(), -math.inf
    loc, variance = x[_centres(components, x, seed)], x.new_full((components, x.shape[1]), FLOOR)
    weights = x.new_full((components,), 1 / components)
    for _ in range(EM_STEPS):
        # log N(x; loc, variance) by products of matrices: (n, K, d) would be 160 MB
        distance = squares @ (1 / variance).T - 2 * x @ (loc / variance).T
        distance += (loc.square() / variance + variance.log() + math.log(2 * math.pi)).sum(1)
        log_p = weights.log() - 0.5 * distance
        log_sum = log_p.logsumexp(1, keepdim=True)
        share = (log_p - log_sum).exp()
        counts = share.sum(0) + 10 * torch.finfo(x.dtype).eps
        weights, loc = counts / counts.sum(), share.T @ x / counts[:, None]
        variance = share.T @ squares / counts[:, None] - loc.square() + FLOOR
        before, bound = bound, log_sum.mean().item()
        if abs(bound - before) < EM_GAIN:
            break
    prior = Mixture(components, x.shape[1])
    prior.logits.copy_(weights.clamp(min=1e-12).log())
    prior.loc.copy_(loc)
    prior.log_scale.copy_(0.5 * variance.log())
    return prior.requires_grad_(False)


def _centres(count: int, x: Tensor, seed: int) -> list[int]:
    """Return `count` rows of x, (n, d), that lie far from each other: greedy k-means++.

    References:
        Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", 2007,
        https://dl.acm.org/doi/10.5555/1283383.1283494
    """
    draw = np.random.RandomState(seed % 2**32)  # as scikit-learn draws: it is the tests' oracle
    found = [int(draw.choice(len(x), p=np.full(len(x), 1 / len(x))))]
    nearest = (x - x[found[0]]).square().sum(1)
    for _ in range(1, count):
        wanted = torch.from_numpy(draw.uniform(size=2 + int(math.log(count)))) * nearest.sum()
        tried = torch.searchsorted(nearest.cumsum(0), wanted).clamp(max=len(x) - 1)
        left = torch.minimum(nearest, (x[tried][:, None] - x).square().sum(2))
        best = left.sum(1).argmin()
        nearest = left[best]
        found.append(int(tried[best]))
    return found


def _with_prior(
    recipe: Recipe, model: LatentModel, arguments: dict[str, Any], prior: Mixture, seed: int
) -> LatentModel:
    """Return a copy of `model` with another prior."""
    with noise.isolated(seed, "weights"):
        refitted = recipe.make(arguments)
    refitted.load_state_dict(model.state_dict(), strict=False)
    own = refitted.levels[0].prior
    assert isinstance(own, Mixture)
    own.load_state_dict(prior.state_dict())
    return refitted.eval()
