"""The objective that settings ask for, and settings of which one would do nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import benchmark_modules
from lowerbound import noise, recipes
from lowerbound.errors import UsageError
from lowerbound.nn.objectives import aggregate
from lowerbound.nn.objectives.elbo import Elbo, Iwae, Map, StickingTheLanding
from lowerbound.tasks.objective_settings import (
    OBJECTIVE,
    SETTINGS,
    complete,
    help_text,
    reservations,
    spell,
    trained_by,
)
from lowerbound.training.fit import learn
from lowerbound.training.objective import objective_of
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
    weights = objective_settings(Plan(recipe=recipe, settings=settings))
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
    for name, value in settings.items():
        assert spell(name, value) in caught.value.message
    assert "cannot be combined: " in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"beta": 2.0, "iwae": 8}, "iwae replaces the objective that beta weights"),
        ({"tc": 6.0, "iwae": 8}, "both replace the ELBO"),
        ({"free_bits": 0.5, "capacity": 5.0}, "both change the rate"),
    ],
)
def test_a_contradiction_comes_with_its_reason(settings, reason):
    with pytest.raises(UsageError, match=f"cannot be combined: {reason}\n"):
        Plan(settings=settings)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: each.name)
def test_every_setting_changes_the_objective_and_is_described(setting):
    values = {**OBJECTIVE, setting.name: setting.example}
    model = recipes.conv((1, 16, 16), latent=2, channels=[4])

    def described(weights):
        made = objective_of(model, weights, 50, 100)
        if type(made) is not Elbo:
            return type(made)
        return made.beta(10**6), made.free_bits, made.capacity, made.balance

    assert described(values) != described(OBJECTIVE)
    assert trained_by(values) != trained_by({}) == "the ELBO"
    assert setting.meaning in help_text()
    assert set(setting.excludes) <= OBJECTIVE.keys()


def test_what_a_model_was_trained_by_is_told_by_its_settings():
    assert trained_by({"beta": 2.0, "free_bits": 0.5}) == "the ELBO, beta 2, free_bits 0.5"
    said = trained_by({**OBJECTIVE, "iwae": 8, "beta": 4.0, "theta_prior": "normal:1.0"})
    assert said == "the importance-weighted bound, 8 samples, weights with the prior normal:1.0"
    assert trained_by({"prior_share": 0.5, "beta": 2}) == (
        "the ELBO, 50% of it with z from the prior, beta 2"
    )
    assert reservations(None) == reservations(OBJECTIVE) == []
    assert len(reservations({"adversarial": 0.3})) == 1


def test_values_of_a_recipe_give_way_to_chosen_ones():
    nvae = {"balance": True, "spectral": 0.01}
    assert complete(nvae, {}) == {**OBJECTIVE, **nvae}
    assert complete(nvae, {"free_bits": 0.1})["balance"] is False
    assert complete(nvae, {"iwae": 8}) == {**OBJECTIVE, "iwae": 8, "spectral": 0.01}
    assert complete({"beta": 4.0}, {"path": True})["beta"] == 4.0
    assert complete({"prior_share": 0.5}, {"prior_share": 0.0})["prior_share"] == 0.0


def test_values_that_mean_not_used_contradict_nothing():
    Plan(settings={**OBJECTIVE, "tc": 6.0})
    Plan(settings={"mmd": 10.0, "beta": 0.5})
    Plan(settings={"path": True, "beta": 0.5})
    # The recipe's own weight of the rate is no choice of the user's.
    assert type(made({"tc": 6.0}, recipe="beta")) is aggregate.BetaTc


def test_tables_with_many_missing_values_are_fitted_by_the_importance_weighted_bound():
    for preset in ("fast", "balanced"):
        assert objective_settings(Plan(preset=preset), 0.5)["iwae"] > 0
        assert objective_settings(Plan(preset=preset), 0.05)["iwae"] == 0
    assert objective_settings(Plan(settings={"iwae": 0}), 0.5)["iwae"] == 0
    assert objective_settings(Plan(settings={"beta": 2.0}), 0.5)["iwae"] == 0
    assert objective_settings(Plan(settings={"theta_prior": "normal:1"}), 0.5)["iwae"] > 0
    assert objective_settings(Plan(recipe="sigma"), 0.5)["iwae"] == 0


def test_the_share_of_missing_values_of_a_fit_decides_its_bound():
    frame = rows(60)
    frame.loc[frame.index % 2 == 0, ["a", "b"]] = np.nan
    plan = Plan(preset="fast", max_epochs=1, latent=1)
    trained = learn(frame, plan)
    assert trained.encode(frame)[1].missing_share == pytest.approx(1 / 3)
    assert trained.facts["objective"]["iwae"] > 0
    assert learn(rows(60), plan).facts["objective"]["iwae"] == 0


def test_a_table_of_categories_alone_is_fitted_by_the_importance_weighted_bound():
    level = np.random.default_rng(0).integers(0, 3, 60)
    names = np.array(["red", "green", "blue"])
    frame = pd.DataFrame({"one": names[level], "other": names[(level + 1) % 3]})
    plan = Plan(preset="fast", max_epochs=1, latent=1, settings={"iwae": 2})
    assert np.isfinite(learn(frame, plan).anomaly_score(frame)).all()


@pytest.mark.nightly
@pytest.mark.parametrize("recipe", ["table", "table of counts"])
def test_models_of_rows_with_half_of_the_values_missing_keep_the_dependence(recipe):
    found = benchmark_modules.loaded("rows_with_gaps").measure(recipe, "fast", 0.5, 0)
    assert abs(found["slope error"]) < 0.05
    for draws in (60, 240):
        exact = found[f"coverage of {draws} exact draws"]
        assert found[f"coverage of {draws} draws"] == pytest.approx(exact, abs=0.035)
    assert abs(found["score error, mean"]) < 0.05
    assert found["contribution error, mean"] < 0.1


@pytest.mark.parametrize("name", ["tc", "mmd", "path"])
def test_a_fit_by_it_learns(name):
    frame = rows()
    budget = {"preset": "fast", "max_epochs": 15, "latent": 2}
    plain = learn(frame, Plan(**budget)).anomaly_score(frame)
    trained = learn(frame, Plan(settings={name: CHOICES[name][0]}, **budget))
    other = trained.anomaly_score(frame)
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
