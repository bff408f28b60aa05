"""Scores of rows from elsewhere: exact where a hierarchy is linear, sound in every other one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from lowerbound import noise
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import normal
from lowerbound.nn.trace import Trace
from lowerbound.noise import row_keys
from lowerbound.tasks.calibration import Calibration
from lowerbound.tasks.metrics import log_weights
from lowerbound.tasks.typicality import Typicality, level_bound, level_ratio, lowest_from_prior
from recipe_parts import HIERARCHIES_OF_CODES, RECIPES, TOWERS, recipe

A, T, W, S = 0.9, 0.7, 1.3, 0.5
HIERARCHIES = ["ladder", *sorted(TOWERS), *sorted(HIERARCHIES_OF_CODES)]


class Chain(nn.Module):
    """z2 ~ N(0, 1), z1 = A z2 + T e, x = W z1 + S e; q is the exact posterior."""

    between = W**2 * T**2 + S**2  # the variance of x given z2
    top = 1 / (1 + (W * A) ** 2 / between)  # that of z2 given x
    low = 1 / (1 / T**2 + W**2 / S**2)  # that of z1 given z2 and x

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(W, dtype=torch.float64))

    def middle(self, x: Tensor) -> Tensor:
        """E[z2 | x]."""
        return self.top * W * A * x / self.between

    def forward(self, x, trace, context=None):
        nothing = torch.zeros(trace.batch, 1, dtype=torch.float64)
        q = None if x is None else self.about(trace.expand(self.middle(x)), self.top)
        z2 = trace.draw("z2", self.about(nothing, 1.0), q)
        if x is not None:
            q = self.about(self.low * (A * z2 / T**2 + W * trace.expand(x) / S**2), self.low)
        z1 = trace.draw("z1", self.about(A * z2, T**2), q)
        return self.about(self.weight * z1, S**2)

    @staticmethod
    def about(mean: Tensor, variance: float) -> torch.distributions.Distribution:
        return normal(mean, torch.full_like(mean, math.sqrt(variance)))

    def log_p(self, x: Tensor) -> Tensor:
        scale = math.sqrt(W**2 * A**2 + self.between)
        return Normal(0.0, scale).log_prob(x[:, 0])

    def ratio(self, x: Tensor) -> Tensor:
        """E[KL(p(z1 | z2) || p(z1 | z2, x))] over the true z2 given x."""
        slope, offset = A * (1 - self.low / T**2), self.low * W * x[:, 0] / S**2
        square = (slope * self.middle(x)[:, 0] - offset).square() + slope**2 * self.top
        return 0.5 * math.log(self.low / T**2) + (T**2 + square) / (2 * self.low) - 0.5


CHAIN = Chain()
X = torch.linspace(-3.0, 6.0, 7, dtype=torch.float64)[:, None]


def rows_of(name, n=5):
    return Dense(*RECIPES[name].data(n))


def test_with_nothing_from_the_prior_the_bound_is_log_p():
    torch.testing.assert_close(level_bound(CHAIN, Dense(X), 0), CHAIN.log_p(X))


def test_the_ratio_is_the_divergence_in_the_lowest_levels():
    exact = CHAIN.ratio(X)
    assert exact.max() > 4 * exact.min() > 0
    found = level_ratio(CHAIN, Dense(X), 1, samples=10_000)
    torch.testing.assert_close(found, exact, rtol=0.04, atol=0.02)


def test_a_site_from_its_prior_weighs_nothing():
    choose = lowest_from_prior(noise.Keyed(row_keys(X)), ["z1"], noise.generator("codes"))
    trace = Trace(choose, len(X), 3)
    CHAIN(X, trace)
    torch.testing.assert_close(trace.log_ratio(), trace.sites["z2"].log_ratio())
    assert not trace.sites["z1"].log_ratio().any()


@pytest.mark.parametrize("name", HIERARCHIES)
def test_with_no_level_from_its_prior_the_ratio_is_zero_and_the_bound_the_usual_one(name):
    model, rows = recipe(name), rows_of(name)
    assert not level_ratio(model, rows, 0).any()
    with torch.no_grad():
        log_w = log_weights(model.eval(), rows.take(torch.arange(5)), 3).double()
    torch.testing.assert_close(level_bound(model, rows, 0, 3), log_w.mean(1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", HIERARCHIES)
def test_a_row_has_its_score_whatever_stands_beside_it(name):
    model, rows = recipe(name), rows_of(name)
    state = torch.get_rng_state()
    model.train()
    whole = level_ratio(model, rows, 1, samples=2)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert whole.isfinite().all()
    some = torch.tensor([3, 1])
    assert torch.equal(level_ratio(model, Dense(*rows.take(some)), 1, samples=2), whole[some])


def test_numbers_of_levels_and_draws_that_cannot_be():
    for model, rows, k, samples in [
        (CHAIN, Dense(X), 2, 8),
        (CHAIN, Dense(X), -1, 8),
        (recipe("conv bits"), rows_of("conv bits"), 1, 8),
        (CHAIN, Dense(X), 1, 0),
    ]:
        with pytest.raises(UsageError) as refused:
            level_ratio(model, rows, k, samples)
        assert refused.value.code == "E240"


SCORES = np.random.default_rng(0).gamma(3.0, 2.0, 999)
USUAL = Typicality(Calibration.of(SCORES))


def test_the_unusually_likely_are_as_unusual_as_the_unlikely():
    assert USUAL.entropy == pytest.approx(SCORES.mean())
    away = np.array([-40.0, 0.0, 40.0])
    assert USUAL.deviation(USUAL.entropy + away) == pytest.approx(abs(away))
    p = USUAL.p_values(np.array([-1e9, np.median(SCORES), 1e9]))
    assert p == pytest.approx([0.002, 1.0, 0.002])


def test_p_values_of_usual_rows_are_uniform():
    p = USUAL.p_values(np.random.default_rng(1).gamma(3.0, 2.0, 20_000))
    for alpha in (0.02, 0.1, 0.5):
        assert (p <= alpha).mean() == pytest.approx(alpha, abs=0.25 * alpha)


def test_p_values_see_only_the_order():
    new = np.linspace(0.5, 20.0, 50)
    bent = Typicality(Calibration.of(np.exp(0.2 * SCORES)))
    turned = Typicality(Calibration.of(-SCORES))
    assert np.array_equal(bent.p_values(np.exp(0.2 * new)), USUAL.p_values(new))
    assert np.array_equal(turned.p_values(-new), USUAL.p_values(new))
