"""The objective that settings ask for, and settings of which one would do nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from lowerbound import noise, recipes
from lowerbound.errors import UsageError
from lowerbound.nn.objectives import aggregate
from lowerbound.nn.objectives.elbo import Elbo, Iwae, Map, StickingTheLanding
from lowerbound.training.fit import learn
from lowerbound.training.objective import OBJECTIVE, objective_of
from lowerbound.training.plan import Plan, objective_settings

CHOICES = {
    "iwae": (4, Iwae),
    "tc": (6.0, aggregate.BetaTc),
    "mmd": (10.0, aggregate.InfoMmd),
    "path": (True, StickingTheLanding),
}


def rows(n=300):
    rng = np.random.default_rng(0)
    a = rng.normal(size=n)
    return pd.DataFrame({"a": a, "b": a + 0.3 * rng.normal(size=n), "c": rng.normal(size=n)})


def made(settings, recipe="gaussian", examples=50):
    weights = objective_settings(Plan(recipe=recipe, settings=settings), examples)
    return objective_of(recipes.gaussian(3, 2, [4]), weights, examples, 100)


@pytest.mark.parametrize("name", CHOICES)
def test_a_setting_chooses_its_objective(name):
    value, kind = CHOICES[name]
    objective = made({name: value})
    assert type(objective) is kind
    assert type(made({})) is Elbo
    assert type(made({name: OBJECTIVE[name]})) is Elbo
    mapped = made({name: value, "theta_prior": "normal:1.0"})
    assert type(mapped) is Map
    assert mapped.model is mapped.objective.model


def test_weights_arrive_and_are_warmed_up():
    tc = made({"tc": 6.0})
    assert [tuple(s(step) for s in tc.schedules) for step in (0, 10**6)] == [
        (0.0, 0.0, 0.0),
        (1.0, 6.0, 1.0),
    ]
    assert tc.examples == 50
    mmd = made({"mmd": 10.0, "beta": 0.0})
    assert (mmd.mmd(0), mmd.mmd(10**6), mmd.beta(10**6)) == (0.0, 10.0, 0.0)
    assert made({"path": True, "beta": 2.0}).beta(10**6) == 2.0


CONTRADICTIONS = [
    *[{a: CHOICES[a][0], b: CHOICES[b][0]} for a, b in itertools.combinations(CHOICES, 2)],
    *[{name: CHOICES[name][0], "free_bits": 0.5} for name in CHOICES],
    *[{name: CHOICES[name][0], "capacity": 3.0} for name in CHOICES],
    {"iwae": 4, "beta": 2.0},
    {"tc": 6.0, "beta": 2.0},
]


@pytest.mark.parametrize("settings", CONTRADICTIONS, ids="-".join)
def test_contradictions_are_refused_before_any_data_are_read(settings):
    with pytest.raises(UsageError) as caught:
        Plan(settings=settings)
    assert caught.value.code == "E236"
    for name in settings:
        assert name in caught.value.message
    assert caught.value.fix


def test_values_that_mean_not_used_contradict_nothing():
    Plan(settings={**OBJECTIVE, "tc": 6.0})
    Plan(settings={"mmd": 10.0, "beta": 0.5})
    Plan(settings={"path": True, "beta": 0.5})
    # The recipe's own weight of the rate is no choice of the user's.
    assert type(made({"tc": 6.0}, recipe="beta")) is aggregate.BetaTc


def test_large_tables_are_fitted_by_what_was_asked_for():
    large = 1_000_000
    assert objective_settings(Plan(), large)["iwae"] > 0
    assert objective_settings(Plan(settings={"theta_prior": "normal:1"}), large)["iwae"] > 0
    for name in ("beta", "free_bits", "capacity", "tc", "mmd", "path"):
        value = CHOICES.get(name, (0.5,))[0]
        assert objective_settings(Plan(settings={name: value}), large)["iwae"] == 0


@pytest.mark.parametrize("name", ["tc", "mmd", "path"])
def test_a_fit_by_it_learns(name):
    frame = rows()
    budget = {"preset": "fast", "max_epochs": 15, "latent": 2}
    plain = learn(frame, Plan(**budget)).score(frame)
    trained = learn(frame, Plan(settings={name: CHOICES[name][0]}, **budget))
    other = trained.score(frame)
    assert np.isfinite(other).all()
    assert not np.allclose(plain, other)
    assert abs(other.mean() - plain.mean()) < 1.0
    assert trained.facts["objective"][name] == CHOICES[name][0]


def test_the_importance_weighted_bound_of_a_model_of_given_pictures_has_the_plain_gradient():
    model = recipes.find("segment").make({"width": 4, "levels": 1})
    weights = {**OBJECTIVE, "iwae": 2}
    objective = objective_of(model, weights, examples=10, steps=100)
    assert isinstance(objective, Iwae)
    assert not objective.dreg
    y, x = torch.rand(3, 1, 16, 16), torch.randint(0, 2, (3, 1, 16, 16)).float()
    loss = objective(x, 0, noise.Stream(noise.generator("walk")), y)
    assert torch.isfinite(loss.value)
