"""The doctor's verdicts: on healthy models, and on models made ill on purpose."""

import pytest
import torch

from lowerbound import doctor, noise, objectives, recipes, training
from lowerbound.data.batches import Dense


def plane(n=1500, d=8, rank=2, seed=0):
    """Rows near a plane of `rank` dimensions."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(rank, d, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, rank, generator=g) @ w + 0.3 * torch.randn(n, d, generator=g)


def fitted(x, *, beta=1.0, latent=5, likelihood="shared", held=None, epochs=30):
    with noise.isolated(0):
        model = recipes.sigma(x.shape[1], latent, (32,), likelihood)
    held = plane(300, x.shape[1], seed=1) if held is None else held
    training.fit(
        objectives.Elbo(model, beta=beta),
        Dense(x),
        Dense(held),
        budget=training.Budget(epochs=epochs, patience=1000),
        optimiser=training.Optimiser(batch_size=64, learning_rate=5e-3),
    )
    return model


def test_a_model_of_a_plane_is_healthy_and_finds_its_dimension():
    x = plane()
    health = doctor.examine(fitted(x), Dense(x), Dense(plane(300, seed=1)))
    assert health.verdict == "healthy"
    assert health.active == 2
    assert health.latent == 5
    assert health.lines[0].startswith("OK: 2 of 5")
    assert health.spread == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("cause", ["beta", "independent columns"])
def test_collapse_is_named(cause):
    source = noise.generator("independent columns")
    x = plane() if cause == "beta" else torch.randn(1500, 8, generator=source)
    held = plane(300, seed=1) if cause == "beta" else torch.randn(300, 8, generator=source)
    health = doctor.examine(
        fitted(x, beta=200.0 if cause == "beta" else 1.0, held=held), Dense(x), Dense(held)
    )
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
    assert any("over-fits" in line for line in health.lines)


def test_a_sigma_that_is_too_small_is_seen():
    x = plane()
    model = fitted(x)
    with torch.no_grad():
        model.likelihood.family.family.log_sigma.sub_(1.5)
    health = doctor.examine(model, Dense(x), Dense(plane(300, seed=1)))
    assert any("too sure" in line for line in health.lines)


def test_a_model_without_numbers_has_no_spread():
    x = torch.randint(0, 2, (400, 6), generator=noise.generator("bits")).float()
    with noise.isolated(0):
        model = recipes.table(["binary"] * 6, [1] * 6, latent=2, hidden=(8,))
    assert doctor.examine(model, Dense(x), Dense(x)).spread is None
