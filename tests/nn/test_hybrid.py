"""Half of the bound with z from the prior: what it is, that it is a bound, and who may have it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from lowerbound import noise, recipes
from lowerbound.errors import UsageError
from lowerbound.nn.objectives.elbo import Elbo, Iwae
from lowerbound.nn.objectives.hybrid import Hybrid
from lowerbound.training.objective import objective_of
from lowerbound.training.plan import Plan, objective_settings

ROWS = 40_000
X, Y = 1.3, 0.4


class Shifted(nn.Module):
    """z ~ N(y + b, 1), x ~ N(z, 1): log p(x | y) is that of N(y + b, 2), q the exact posterior."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, x, trace, context):
        mean = trace.expand(context + self.b)
        p = Independent(Normal(mean, 1.0), 1)
        q = Independent(Normal((mean + trace.expand(x)) / 2, math.sqrt(0.5)), 1)
        return Independent(Normal(trace.draw("z", p, q), 1.0), 1)


def loss(share, beta=1.0):
    model = Shifted()
    source = noise.Stream(noise.generator(0, "hybrid"))
    x, y = torch.full((ROWS, 1), X), torch.full((ROWS, 1), Y)
    found = Hybrid(model, share, beta=beta)(x, 0, source, y)
    found.value.backward()
    return found, model.b.grad.item()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_value_and_the_gradient_are_those_of_both_bounds(share):
    found, slope = loss(share)
    log_p = Normal(Y, math.sqrt(2)).log_prob(torch.tensor(X)).item()
    from_prior = -0.5 * math.log(2 * math.pi) - 0.5 * ((X - Y) ** 2 + 1)
    expected = -(1 - share) * log_p - share * from_prior
    assert found.value.item() == pytest.approx(expected, abs=0.03)
    assert found.terms["elbo"].item() == pytest.approx(log_p, abs=0.02)
    assert found.terms["prior"].item() == pytest.approx(-from_prior, abs=0.03)
    assert found.value.item() > -log_p  # two lower bounds make one
    wanted = -(1 - share) * (X - Y) / 2 - share * (X - Y)
    assert slope == pytest.approx(wanted, abs=0.03)


def test_beta_weighs_the_rate_alone():
    one, three = loss(0.5)[0], loss(0.5, beta=3.0)[0]
    added = three.value.item() - one.value.item()
    assert added == pytest.approx(0.5 * 2 * one.terms["rate"].item(), rel=1e-5)


def test_the_loss_is_the_mean_over_rows_whatever_the_batch():
    """Processes that share a batch, and its noise, come to the loss of the whole."""
    model = recipes.segment(width=4, depth=1).eval()
    x, y = torch.randint(2, (6, 1, 32, 32)).float(), torch.rand(6, 1, 32, 32)
    keys = noise.row_keys(x)

    def value(rows):
        return Hybrid(model, 0.5)(x[rows], 0, noise.Keyed(keys[rows]), y[rows]).value

    parts = torch.stack([value([i]) for i in range(6)])
    torch.testing.assert_close(value(list(range(6))), parts.mean())


def test_what_is_given_is_looked_at_once_for_both(monkeypatch):
    model, seen = recipes.segment(width=4, depth=1), []
    forward = model.start.forward
    monkeypatch.setattr(model.start, "forward", lambda c, n: seen.append(len(c)) or forward(c, n))
    x, y = torch.zeros(3, 1, 32, 32), torch.rand(3, 1, 32, 32)
    Hybrid(model, 0.5)(x, 0, noise.Stream(noise.generator(0)), y)
    assert seen == [3]


@pytest.mark.parametrize("share", [-0.5, 1.0, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UsageError) as caught:
        Hybrid(Shifted(), share)
    assert caught.value.code == "E240"


def test_segmenting_learns_by_it_unless_told_otherwise():
    def made(**settings):
        plan = Plan(recipe="segment", settings=settings)
        weights = objective_settings(plan)
        return objective_of(recipes.segment(width=4, depth=1), weights, 100, 100)

    assert made().share == 0.5
    assert made(prior_share=0.3).share == 0.3
    assert type(made(prior_share=0.0)) is Elbo
    assert type(made(free_bits=0.1)) is Elbo
    assert type(made(iwae=2)) is Iwae


@pytest.mark.parametrize(
    ("recipe", "settings", "code"),
    [
        ("table", {"prior_share": 0.5}, "E249"),
        ("conv", {"prior_share": 0.5}, "E249"),
        ("segment", {"prior_share": 0.5, "iwae": 4}, "E236"),
        ("segment", {"prior_share": 0.5, "free_bits": 0.1}, "E236"),
    ],
)
def test_where_it_has_no_place_it_is_refused(recipe, settings, code):
    with pytest.raises(UsageError) as caught:
        Plan(recipe=recipe, settings=settings)
    assert caught.value.code == code
    assert "prior_share=0.5" in caught.value.message
