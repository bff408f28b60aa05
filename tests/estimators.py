"""Estimators that fit in a blink, and rows for them."""

import numpy as np

from lowerbound import VAE


def quick(**choices):
    """Return an estimator that fits in a tenth of a second."""
    return VAE(**{"preset": "fast", "max_epochs": 3, "latent": 2, **choices})


def correlated(n, seed=0, columns=4):
    """Return rows of one factor and noise: something to learn, and nothing degenerate."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) * np.linspace(1, 2, columns) + rng.normal(size=(n, columns))
