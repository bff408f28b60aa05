"""The mixture that is fitted to the aggregate posterior: scikit-learn's, without its import."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.training import refit_prior


@pytest.mark.parametrize(
    ("components", "rows", "latent", "seed"),
    [(1, 60, 3, 0), (4, 300, 2, 1), (20, 900, 8, 3), (64, 1400, 16, 2**40 + 3)],
)
def test_the_mixture_is_the_one_that_scikit_learn_fits(components, rows, latent, seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, latent))
    z += 3 * rng.integers(0, 2, (rows, latent)) * rng.random((rows, 1))
    oracle = GaussianMixture(
        components,
        covariance_type="diag",
        reg_covar=refit_prior.FLOOR,
        tol=refit_prior.EM_GAIN,
        max_iter=refit_prior.EM_STEPS,
        init_params="k-means++",
        random_state=seed % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        oracle.fit(z)
    prior = refit_prior._mixture(components, z, seed)
    np.testing.assert_allclose(prior.logits.softmax(0), oracle.weights_, atol=1e-6)
    np.testing.assert_allclose(prior.loc, oracle.means_, atol=1e-5)
    np.testing.assert_allclose((2 * prior.log_scale).exp(), oracle.covariances_, rtol=1e-4)


def test_a_component_on_equal_rows_keeps_a_scale():
    z = np.repeat([[0.0, 1.0], [5.0, 1.0]], 50, axis=0)
    prior = refit_prior._mixture(4, z, 0)
    assert all(values.isfinite().all() for values in prior.parameters())
    assert (prior.log_scale.exp() >= refit_prior.FLOOR**0.5 - 1e-6).all()


def test_equal_rows_have_draws_of_their_own():
    """Else the aggregate posterior of 4 distinct rows is 4 points, with narrow components."""
    with noise.isolated(0):
        model = recipes.sigma(2, 3, (8,), "shared").eval()
    rows = Dense(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(100, 1))
    z = refit_prior._aggregate(model, rows, 0)
    assert len(np.unique(z[:, 0])) == 400
    assert z[::4].std(0).min() > 0.1
    drawn = refit_prior._draws(model, rows)
    assert drawn.z[:, 0].unique().numel() > 390 * refit_prior.SAMPLES
