"""The doctor's verdicts: on healthy models, and on models made ill on purpose."""

import copy
import functools

import pytest
import torch

from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.tasks import doctor
from lowerbound.training.engine import loop
from lowerbound.training.engine.settings import Budget, Optimiser


def plane(n=1500, d=8, rank=2, seed=0):
    """Rows near a plane of `rank` dimensions."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(rank, d, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, rank, generator=g) @ w + 0.3 * torch.randn(n, d, generator=g)


def fitted(x, *, beta=1.0, latent=5, likelihood="shared", held=None, epochs=30):
    with noise.isolated(0):
        model = recipes.sigma(x.shape[1], latent, (32,), likelihood)
    held = plane(300, x.shape[1], seed=1) if held is None else held
    loop.fit(
        Elbo(model, beta=beta),
        Dense(x),
        Dense(held),
        budget=Budget(epochs=epochs, patience=1000),
        optimiser=Optimiser(batch_size=64, learning_rate=5e-3),
    )
    return model


@functools.cache
def fitted_once():
    return fitted(plane())


def healthy():
    """Return a model that nobody else has: tests make it ill."""
    return copy.deepcopy(fitted_once())


def test_a_model_of_a_plane_is_healthy_and_finds_its_dimension():
    x = plane()
    health = doctor.examine(healthy(), Dense(x), Dense(plane(300, seed=1)))
    assert health.verdict == "healthy"
    assert health.active == 2
    assert health.latent == 5
    assert health.lines[0].startswith("OK: 2 of 5")
    assert health.spread == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("cause", ["beta", "independent columns"])
def test_collapse_is_named(cause):
    source = noise.generator("independent columns")
    x = (
        plane() if cause == "beta" else torch.randn(6000, 8, generator=source)
    )  # no chance patterns
    held = plane(300, seed=1) if cause == "beta" else torch.randn(300, 8, generator=source)
    beta, epochs = (200.0, 30) if cause == "beta" else (1.0, 8)
    model = fitted(x, beta=beta, held=held, epochs=epochs)
    health = doctor.examine(model, Dense(x), Dense(held))
    assert health.verdict == "collapsed"
    assert "free_bits" in health.lines[0]


def test_all_latents_in_use_asks_for_more():
    x = plane(rank=4)
    held = plane(300, rank=4, seed=1)
    health = doctor.examine(fitted(x, latent=2, held=held), Dense(x), Dense(held))
    assert health.verdict == "warning"
    assert any("--latent 4" in line for line in health.lines)


def test_over_fitting_is_seen_in_the_gap():
    x, other = plane(40), plane(300, seed=5) * 1.5
    health = doctor.examine(fitted(x, likelihood="element"), Dense(x), Dense(other))
    assert any("overfits" in line for line in health.lines)


def test_a_sigma_that_is_too_small_is_seen():
    x = plane()
    model = healthy()
    with torch.no_grad():
        model.likelihood.family.family.log_sigma.sub_(1.5)
    health = doctor.examine(model, Dense(x), Dense(plane(300, seed=1)))
    assert any("too narrow" in line for line in health.lines)


def residuals(z, scale=1.0, repeated=0.0):
    """Residuals of standard deviation `scale` in each of the columns of z."""
    width = z.shape[1]
    return doctor.Residuals(z, torch.full((width,), scale), torch.full((width,), repeated))


def student(df, n=400, width=5):
    """Draws of Student's t with a standard deviation of 1."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, width, generator=g)
    squares = torch.randn(df, n, width, generator=g).square().sum(0)
    return x * (df / squares).sqrt() / (df / (df - 2)) ** 0.5


BOTH = ("floor", "likelihood")


def test_a_floor_is_not_called_heavy_tails():
    z = 0.2 * student(3)
    (line,) = doctor._misfit(residuals(z, scale=0.16), 0.15, BOTH)
    assert "smallest sigma, 0.15" in line
    assert "--set floor=0.0" in line
    assert "tails" not in line
    assert "student" not in line
    (line,) = doctor._misfit(residuals(z, 0.16), 0.15, ("likelihood",))
    assert "--set floor" not in line


def test_repeated_values_are_not_called_heavy_tails():
    z = student(3) * (torch.rand(400, 5, generator=torch.Generator().manual_seed(1)) < 0.3)
    for scale in (1.0, 0.16):
        (line,) = doctor._misfit(residuals(z, scale, repeated=0.7), 0.15, BOTH)
        assert "--types NAME=ordinal" in line
        assert "tails" not in line
        assert "--set floor" not in line


def test_one_sigma_of_unlike_columns_is_named():
    z = student(200) * torch.tensor([0.1, 0.1, 0.2, 1.0, 2.0])
    (line,) = doctor._misfit(residuals(z), 0.01, BOTH)
    assert "One sigma serves all columns" in line
    assert "--set likelihood=feature" in line
    (line,) = doctor._misfit(residuals(z), 0.01, ())
    assert "--recipe sigma --set likelihood=feature" in line


def test_heavy_tails_are_named_only_if_a_student_likelihood_gains():
    scale = torch.linspace(0.9, 1.1, 5)
    heavy = residuals(student(3) * 0.9)._replace(scale=scale)
    (line,) = doctor._misfit(heavy, 0.01, BOTH)
    assert "heavy tails" in line
    assert "--set likelihood=student" in line
    assert "likelihood=student" not in doctor._misfit(heavy, 0.01, ())[0]
    light = residuals(student(200) * 0.5)._replace(scale=scale)
    (line,) = doctor._misfit(light, 0.01, BOTH)
    assert "tails" not in line
    assert "Longer training" in line


def test_residuals_that_are_too_large_do_not_ask_for_a_student():
    (line,) = doctor._misfit(residuals(student(3) * 4), 0.01, BOTH)
    assert "too narrow" in line
    assert "student" not in line


def test_a_student_likelihood_of_its_own_data_has_a_spread_of_one():
    x = student(3, n=4000, width=3)
    with noise.isolated(0):
        model = recipes.table(["real"] * 3, [1] * 3, latent=2, hidden=(8,), likelihood="student")
    family = model.likelihood.family.members["real"]
    net = model.likelihood.net
    with torch.no_grad():  # mean 0, df 3, and the scale of these draws
        family.raw_df.zero_()
        for weights in net.parameters():
            weights.zero_()
        list(net.parameters())[-1][3:] = -0.5 * torch.tensor(3.0).log()
    assert doctor.examine(model, Dense(x), Dense(x)).spread == pytest.approx(1.0, abs=0.05)


def test_a_model_without_numbers_has_no_spread():
    x = torch.randint(0, 2, (400, 6), generator=noise.generator("bits")).float()
    with noise.isolated(0):
        model = recipes.table(["binary"] * 6, [1] * 6, latent=2, hidden=(8,))
    assert doctor.examine(model, Dense(x), Dense(x)).spread is None


@functools.cache
def trained_ladder():
    with noise.isolated(0):
        model = recipes.ladder(8, [3, 2], [32, 16], likelihood="shared")
    loop.fit(
        Elbo(model, free_bits=0.2),
        Dense(plane()),
        Dense(plane(300, seed=1)),
        budget=Budget(epochs=20, patience=1000),
        optimiser=Optimiser(batch_size=64, learning_rate=5e-3),
    )
    return model


def ladder():
    """Return a trained ladder of two levels that nobody else has."""
    return copy.deepcopy(trained_ladder())


def test_every_level_of_a_hierarchy_is_measured_and_a_collapsed_one_is_named():
    x, held = plane(), plane(300, seed=1)
    model = ladder()
    health = doctor.examine(model, Dense(x), Dense(held))
    assert [(level.name, level.latent) for level in health.levels] == [("z2", 2), ("z1", 3)]
    assert sum(level.rate for level in health.levels) == pytest.approx(health.rate, rel=1e-5)
    assert sum(level.active for level in health.levels) == health.active
    assert min(level.rate for level in health.levels) > doctor.COLLAPSED_RATE
    assert not any("the level" in line for line in health.lines)
    with torch.no_grad():  # the data tell nothing of the deepest level: its posterior is the prior
        head = model.levels[0].posterior.conditional.net
        head.weight.zero_()
        head.bias.zero_()
    health = doctor.examine(model, Dense(x), Dense(held))
    deepest, last = health.levels
    assert deepest.rate < 0.01
    assert deepest.active == 0
    assert last.rate > 1
    assert health.verdict == "warning"
    assert health.lines[0].startswith("WARNING: the level z2 (0.00 nats) has collapsed")
    assert health.as_dict()["levels"][0]["name"] == "z2"


def test_a_level_that_repeats_its_prior_has_collapsed_though_its_units_move():
    x, held = plane(), plane(300, seed=1)
    model = ladder()
    with torch.no_grad():
        head = model.levels[1].posterior.conditional.net
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0] * 3 + [20.0] * 3))
    health = doctor.examine(model, Dense(x), Dense(held))
    assert health.levels[1].active > 0
    assert health.levels[1].rate < 0.01
    assert "z1 (0.00 nats)" in health.lines[0]


def test_one_level_has_no_levels_to_compare():
    x = plane(400)
    with noise.isolated(0):
        model = recipes.gaussian(x.shape[1], latent=2, hidden=(8,))
    health = doctor.examine(model, Dense(x), Dense(x))
    (only,) = health.levels
    assert only.rate == pytest.approx(health.rate, rel=1e-5)
    assert only.latent == health.latent == 2


def test_worse_than_guessing_is_too_little_learned():
    x = (torch.rand(200, 6, generator=noise.generator("guessing")) < 0.5).float()
    with noise.isolated(0):
        model = recipes.binary(6, latent=2, hidden=(8,))
    with torch.no_grad():  # which takes little more than 1 bit for each
        for weights in model.likelihood.parameters():
            weights.zero_()
    lines = doctor.examine(model, Dense(x), Dense(x), values=2).lines
    assert lines[0].startswith("WARNING: too little learned: a held-out value takes 1.0")
    for values in (4, None):
        lines = doctor.examine(model, Dense(x), Dense(x), values).lines
        assert not any("guessing" in line for line in lines)


def test_always_saying_the_commonest_class_is_what_masks_must_beat():
    x = plane(400)
    with noise.isolated(0):
        model = recipes.gaussian(x.shape[1], latent=2, hidden=(8,))
    health = doctor.examine(model, Dense(x), Dense(x))
    told = doctor.of_restoring(health, "60.8% right", "no better than the commonest class")
    assert told.verdict == "warning"
    assert "no better than the commonest class" in told.lines[0]
