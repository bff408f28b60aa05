"""The prior, fitted once more after training: the best one for the encoder that was learned."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from lowerbound import metrics, noise, recipes
from lowerbound.data.batches import Batch, Rows, subset
from lowerbound.model import LatentModel
from lowerbound.priors import Mixture
from lowerbound.trace import Trace, from_posterior

ROWS = 10_000  # rows that the mixture is fitted to
COMPONENTS = (1, 4, 20, 64)
ROWS_PER_COMPONENT = 20
SAMPLES = 32  # importance samples of the comparison
GAIN = 0.01  # nats per row that a refitted prior must gain on held-out rows


def refit_prior(
    recipe: str,
    fitted: tuple[LatentModel, dict[str, Any]],
    train: Rows,
    valid: Rows,
    seed: int,
) -> tuple[LatentModel, dict[str, Any]]:
    """Replace N(0, I) by a mixture fitted to the aggregate posterior, where that is better.

    For a fixed encoder and decoder, this is the maximisation of the ELBO over the prior; it is
    kept only where the held-out likelihood rises, and then it is the model's prior for all uses.

    Args:
        recipe: name of the recipe.
        fitted: the model and its recipe's arguments.
        train: rows that the mixture is fitted to.
        valid: rows that decide.
        seed: of the draws from the posterior and of the mixture's start.

    Returns:
        The model with the better prior, and its arguments.
    """
    model, arguments = fitted
    z = _aggregate(model, train, seed)
    best, best_nll = fitted, -metrics.log_likelihood(model, valid, SAMPLES).mean
    for components in COMPONENTS:
        if len(z) < ROWS_PER_COMPONENT * components:
            break
        resolved = {**arguments, "components": components}
        candidate = _with_mixture(recipe, model, resolved, z, seed)
        nll = -metrics.log_likelihood(candidate, valid, SAMPLES).mean
        if nll < best_nll - GAIN:
            best, best_nll = (candidate, resolved), nll
    return best


@torch.no_grad()
def _aggregate(model: LatentModel, rows: Rows, seed: int) -> NDArray[np.float64]:
    """Return one draw of z from q(z | x) for up to `ROWS` rows, (n, latent)."""

    def work(batch: Batch) -> Tensor:
        keys = noise.row_keys(*batch) ^ noise.derive("prior", seed)
        trace = Trace(from_posterior(noise.Keyed(keys)), len(batch.x))
        model(batch.x, trace, batch.context)
        (site,) = trace.sites.values()
        return site.z

    some = subset(rows, torch.arange(min(len(rows), ROWS)))
    return metrics.by_tiles(model, some, work).double().numpy()


def _with_mixture(
    recipe: str, model: LatentModel, arguments: dict[str, Any], z: NDArray[np.float64], seed: int
) -> LatentModel:
    """Return a copy of `model` whose prior is a mixture fitted to z."""
    mixture = GaussianMixture(
        arguments["components"],
        covariance_type="diag",
        reg_covar=1e-3,
        max_iter=50,
        init_params="k-means++",
        random_state=seed % 2**32,
    )
    # The caller's settings of scikit-learn must not reach in here.
    with warnings.catch_warnings(), config_context(array_api_dispatch=False):
        # EM may stop before it converges: the result is judged by held-out likelihood anyway.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(z)
    with noise.isolated(seed, "weights"):
        refitted = recipes.build(recipe, arguments)
    refitted.load_state_dict(model.state_dict(), strict=False)
    prior = refitted.levels[0].prior
    assert isinstance(prior, Mixture)
    with torch.no_grad():
        weights, covariances = np.asarray(mixture.weights_), np.asarray(mixture.covariances_)
        prior.logits.copy_(torch.from_numpy(np.log(np.maximum(weights, 1e-12))))
        prior.loc.copy_(torch.from_numpy(np.asarray(mixture.means_)))
        prior.log_scale.copy_(torch.from_numpy(0.5 * np.log(covariances)))
    return refitted.eval()
