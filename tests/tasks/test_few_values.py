"""Tables of few distinct rows: probabilities sum to one, and means over rows are honest."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from lowerbound import VAE
from lowerbound.coding.rows import Dense
from lowerbound.nn.distributions.base import log_support
from lowerbound.nn.distributions.families import Bits, Gaussian, NegativeBinomialFamily
from lowerbound.nn.distributions.table_rows import Table
from lowerbound.tasks import metrics

KINDS = {
    "one bit": lambda rng, n: {"x": rng.random(n) < 0.05},
    "three bits": lambda rng, n: {name: rng.random(n) < 0.3 for name in "xyz"},
    "levels and a bit": lambda rng, n: {
        "level": rng.choice(list("abcde"), n, p=[0.5, 0.3, 0.1, 0.07, 0.03]),
        "bit": rng.random(n) < 0.3,
    },
}
LEVELS = {"one bit": [2], "three bits": [2, 2, 2], "levels and a bit": [6, 2]}  # one is unseen


@pytest.mark.parametrize("kind", KINDS)
def test_scores_sum_to_one_and_their_mean_is_that_of_all_rows(kind):
    rng = np.random.default_rng(0)
    vae = VAE(preset="fast", max_epochs=8, device="cpu", random_state=1)
    vae.fit(pa.table(KINDS[kind](rng, 3000)))
    model, sizes = vae.trained_.model, LEVELS[kind]
    every = torch.cartesian_prod(*(torch.arange(float(size)) for size in sizes))
    every = every.reshape(-1, len(sizes))
    mass = metrics.log_likelihood(model, Dense(every), 32).log_p.exp()
    assert float(mass.sum()) == pytest.approx(1, abs=0.01)
    table = pa.table(KINDS[kind](rng, 5000))
    found = vae.trained_.evaluate(table)
    assert abs(found["iw_nll"] + vae.score(table)) < 1e-6
    entropy = -vae.score(pa.table(KINDS[kind](rng, 5000)))
    assert abs(found["iw_nll"] - entropy) < 5 * found["iw_nll_standard_error"]


def test_equal_rows_have_errors_of_their_own_in_a_mean_over_rows():
    rng = np.random.default_rng(0)
    vae = VAE(preset="fast", max_epochs=8, device="cpu", random_state=0)
    vae.fit(rng.normal(size=(500, 2)))
    rows = Dense(torch.zeros(300, 2))
    model = vae.trained_.model
    assert metrics.log_likelihood(model, rows, 4).log_p.unique().numel() == 1
    numbered = metrics.log_likelihood(model, rows, 4, start=0).log_p
    assert numbered.unique().numel() > 290
    later = metrics.log_likelihood(model, Dense(torch.zeros(100, 2)), 4, start=200).log_p
    assert torch.equal(later, numbered[200:])


def test_the_number_of_values_of_a_row():
    numbers = torch.zeros(2, 6)
    assert log_support(Bits()(numbers)) == pytest.approx(6 * math.log(2))
    assert log_support(NegativeBinomialFamily()(numbers)) == pytest.approx(3 * math.log(64))
    assert log_support(Gaussian()(numbers)) == math.inf
    family = Table(["binary", "categorical"], [2, 3])
    both = log_support(family(torch.zeros(2, family.numbers(2))))
    assert both == pytest.approx(math.log(6))
    family = Table(["binary", "real"], [2, 1])
    assert log_support(family(torch.zeros(2, family.numbers(2)))) == math.inf
