"""scikit-learn's own checks of an estimator: all of them, none expected to fail."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from lowerbound import VAE


@parametrize_with_checks([VAE(preset="fast", max_epochs=5)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.nightly
@parametrize_with_checks(
    [
        VAE(),
        VAE(recipe="sigma", max_epochs=5),
        VAE(recipe="beta", max_epochs=5),
        VAE(scaling="quantile", latent="auto", max_epochs=5),
    ]
)
def test_scikit_learn_checks_of_other_choices(estimator, check):
    check(estimator)
