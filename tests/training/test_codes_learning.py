"""A model of codes from data to draws: two stages of one fit, what is frozen, and going on."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

import zoo
from lowerbound import Model, Plan, noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.files.pictures.columns import pixels_of
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.nn.trace import Trace, from_posterior, from_prior
from lowerbound.tasks import doctor, draws, gallery, metrics
from lowerbound.training import fit as learning
from lowerbound.training.engine import loop
from lowerbound.training.engine.checkpoints import OnDisk
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.fit import learn
from lowerbound.training.second_stage import TIME, FrozenElbo, unfrozen
from recipe_parts import RECIPES, recipe

SETTINGS = {
    "codes": 8,
    "dim": 3,
    "channels": 8,
    "blocks": 1,
    "halvings": 1,
    "prior_channels": 8,
    "prior_layers": 2,
}
PLAN = Plan("vqvae2", SETTINGS, preset="fast", max_epochs=32)  # of 8 steps
SHORT = replace(PLAN, max_epochs=13)  # 104 steps: two checks in each stage


def stripes(n=160, size=6):
    """Pictures of one of four kinds, with some noise: codes whose prior has much to learn."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    kinds = np.stack([y % 2, x % 2, (x + y) % 2, np.ones_like(x)]).astype(float)
    return np.clip(0.8 * kinds[rng.integers(0, 4, n)] + 0.1 * rng.random((n, size, size)), 0, 1)


DATA = stripes()


def both_stages():
    return learn(DATA, PLAN)


def a_few_steps_of_both():
    return learn(DATA, SHORT)


@pytest.fixture(scope="module")
def fitted():
    return zoo.trained(both_stages)


@pytest.fixture(scope="module")
def short():
    return zoo.trained(a_few_steps_of_both)


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(v, theirs[n]) for n, v in mine.items())


def walked(model, x):
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), len(x))
    with torch.no_grad():
        log_p = model(x, trace).log_prob(x)
    return log_p, trace


@pytest.mark.parametrize("name", ["vqvae ema_restart", "vqvae gradient", "vqvae2 of colours"])
def test_the_second_stage_leaves_all_but_the_prior_as_it_was_to_the_bit(name):
    first, sample = recipe(name), RECIPES[name]
    x = sample.data(64)[0]
    Elbo(first.train())(x, 0, noise.Keyed(noise.row_keys(x)))  # averages have begun
    first.eval()
    before, trace = walked(first, x)
    arguments = {**sample.arguments, "prior": "pixelcnn"}
    model = unfrozen(recipes.find(sample.recipe), first, arguments, 0)
    objective = FrozenElbo(model)
    told = []
    for parameter, p in model.named_parameters():
        assert p.requires_grad == (".prior." in parameter), parameter
    history = loop.fit(
        objective,
        Dense(x[:48]),
        Dense(x[48:]),
        budget=Budget(epochs=0, steps=60, patience=100),
        optimiser=Optimiser(batch_size=16, learning_rate=3e-3, ema=0.9),
        engine=Engine(threads=1),
        report=lambda check, budget: told.append(model.training),
    )
    assert told == [False]
    assert history.checks[-1].step == 60
    after, other = walked(model, x)
    assert torch.equal(before, after)
    for site, found in trace.sites.items():
        assert torch.equal(found.z, other.sites[site].z)
    theirs = model.state_dict()
    assert all(torch.equal(value, theirs[n]) for n, value in first.state_dict().items())
    fresh = unfrozen(recipes.find(sample.recipe), first, arguments, 0).state_dict()
    new = set(theirs) - set(first.state_dict())
    assert new
    assert all(not torch.equal(fresh[n], theirs[n]) for n in new if "head.1" in n)
    assert other.kl()[:48].mean() < trace.kl().mean()  # what the prior knows of the codes it saw


def test_the_objective_of_the_second_stage_is_the_elbo_and_stays_in_evaluation_mode():
    model = recipe("vqvae2")
    objective = FrozenElbo(model)
    assert not objective.train().training
    assert not any(module.training for module in objective.modules())
    x = RECIPES["vqvae2"].data(6)[0]
    keyed = noise.Keyed(noise.row_keys(x))
    ours, plain = objective(x, 0, keyed), Elbo(model)(x, 0, keyed)
    assert torch.equal(ours.value, plain.value)


def test_one_fit_learns_codes_and_then_their_prior(fitted, short):
    assert fitted.arguments["prior"] == "pixelcnn"
    facts = fitted.facts
    assert facts["history"]["stopped"] == facts["priors_history"]["stopped"] == "epochs"
    uniform = learn(DATA, replace(SHORT, settings={**SETTINGS, "prior": "uniform"}))
    assert uniform.arguments["prior"] == "uniform"
    assert "priors_history" not in uniform.facts
    mine, theirs = uniform.model.state_dict(), short.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    reports = [m.evaluate(DATA, samples=3) for m in (uniform, fitted, short)]
    assert [r["prior"] for r in reports] == ["uniform", "pixelcnn", "pixelcnn"]
    assert reports[0]["distortion"] == reports[2]["distortion"]
    assert np.isclose(reports[0]["rate"], (2 * 2 + 4 * 4) * np.log(8))
    assert reports[1]["rate"] < 0.6 * reports[0]["rate"]
    bits = -reports[1]["elbo"] / 36 / np.log(2)
    assert np.isclose(reports[1]["bits_per_dimension"], bits)


def test_a_saved_model_has_its_prior_again(fitted, tmp_path):
    loaded = Model.load(fitted.save(tmp_path / "codes.vae"))
    assert same(fitted.model, loaded.model)
    assert np.array_equal(loaded.anomaly_score(DATA[:5]), fitted.anomaly_score(DATA[:5]))
    one, other = (m.samples(6, seed=3, temperature=0.7, top_k=2).table for m in (fitted, loaded))
    assert one == other
    z = fitted.embed(DATA[:7])
    assert z.shape == (7, loaded.latent)
    shape = fitted.coding.shape
    again, direct = (
        pixels_of(loaded.decode_latents(z), shape),
        loaded.reconstruct(DATA[:7]),
    )
    assert np.allclose(again, direct, atol=1e-5)


class Interrupt(Exception):
    """Stands for whatever ends a process."""


def test_a_fit_that_is_broken_off_in_either_stage_ends_as_if_it_never_was(
    short, tmp_path, monkeypatch
):
    steps = count()  # on a busy machine the clock might allow no commit before the first check
    monkeypatch.setattr(OnDisk, "due", lambda self: next(steps) % 15 == 14)
    path, said = tmp_path / "m.run", []

    def broken_off(stage):
        """Break off at the first check of a stage; return the last commit."""

        def report(check, budget):
            second = any(line.startswith("priors") for line in said)
            if second == (stage == "priors") and check.step >= 100:
                raise Interrupt

        with RunFolder(path, every=0.0) as run, pytest.raises(Interrupt):
            learn(DATA, SHORT, run=run, report=report, say=said.append)
        return OnDisk(path / stage).latest()

    for stage, left in (("first", ["first"]), ("priors", ["first", "priors"])):
        kept = broken_off(stage)
        assert sorted(p.name for p in path.iterdir() if p.is_dir()) == left
        assert 0 < kept.values["step"] < 104
        assert any("book.count" in name for name in kept.tensors)  # averages are in the state
    begun = next(steps)
    with RunFolder(path, every=0.0) as run:
        resumed = learn(DATA, SHORT, run=run)
    assert same(short.model, resumed.model)
    assert next(steps) - begun < 104  # neither stage began again


def test_a_fit_that_is_stopped_in_its_first_stage_keeps_the_uniform_prior(monkeypatch):
    whole = learning.loop.fit

    def stopped(*given, **named):
        history = whole(*given, **named)
        history.stopped = "interrupt"
        return history

    monkeypatch.setattr(learning.loop, "fit", stopped)
    trained = learn(DATA, replace(PLAN, max_epochs=2))
    assert trained.arguments["prior"] == "uniform"
    assert "priors_history" not in trained.facts


def test_a_time_limit_is_shared_by_the_stages(monkeypatch):
    budgets, whole = [], learning.loop.fit

    def fit(*given, budget, **named):
        budgets.append(budget.seconds)
        return whole(*given, budget=budget, **named)

    monkeypatch.setattr(learning.loop, "fit", fit)
    learn(DATA, replace(PLAN, max_epochs=1, time_limit=100.0))
    first, second = budgets
    assert first == pytest.approx(100.0 * TIME, rel=0.4)  # less the work after training
    assert first < 100.0 * TIME
    assert first < second < 100.0


def test_a_fit_of_two_scales_has_few_places_unless_told(fitted):
    assert fitted.arguments["halvings"] == 1
    assert learning.resolve(Plan("vqvae2"), fitted.coding)["halvings"] == 3
    assert "halvings" not in learning.resolve(Plan("vqvae"), fitted.coding)
    # Of model files, whose arguments are all that they are built with, nothing changes.
    assert recipes.find("vqvae2").parameters["halvings"].default == 2


def test_the_doctor_counts_codes(fitted):
    health = doctor.examine(fitted.model, *(fitted.encode(DATA)[1].rows for _ in range(2)))
    assert [level.name for level in health.levels] == ["z0", "z1"]
    assert [level.latent for level in health.levels] == [8, 8]
    rows = fitted.encode(DATA)[1].rows
    x = rows.take(torch.arange(len(rows))).x
    _, trace = walked(fitted.model, x)
    for level, site in zip(health.levels, trace.sites.values(), strict=True):
        share = torch.bincount(site.q.codes.flatten(), minlength=8).double()
        share /= share.sum()
        entropy = -torch.special.xlogy(share, share).sum()
        assert np.isclose(level.perplexity, entropy.exp(), rtol=1e-4)
        assert level.active == (share * 8 > 0.01).sum()
        assert np.isclose(level.rate, site.kl().mean().item(), rtol=1e-4)
    assert "codes in use at z0, perplexity" in health.lines[-1]
    assert "latent" not in " ".join(health.lines)


@pytest.mark.parametrize(
    ("active", "gap", "verdict", "said"),
    [
        ((8, 7), 0.0, "healthy", "OK: 8 of 8 codes in use at z0"),
        ((8, 3), 0.0, "warning", "only 3 of 8 codes are in use at z1"),
        ((8, 8), 50.0, "warning", "overfits"),
        ((1, 1), 0.0, "collapsed", "the same codes"),
    ],
)
def test_verdicts_on_codebooks(active, gap, verdict, said):
    levels = [doctor.LevelUse(f"z{i}", 9.0, n, 8, float(n)) for i, n in enumerate(active)]
    worst, lines = doctor._verdict_of_codes(levels, 18.0, gap, -100.0)
    assert worst == verdict
    assert said in lines[0]


@pytest.mark.parametrize(
    "name", ["beta", "free_bits", "iwae", "tc", "path", "capacity", "balance"]
)
def test_what_would_weigh_a_constant_is_refused(name):
    with pytest.raises(UsageError, match=name) as caught:
        Plan("vqvae", {name: 2})
    assert caught.value.code == "E257"
    Plan("vqvae", {"theta_prior": "normal:1.0", "spectral": 0.1})


def test_draws_are_of_what_they_were_asked_for(fitted):
    model = fitted.model
    wild, tame, top = (
        draws.sample(model, 200, seed=1, **how) for how in ({}, {"temperature": 0.2}, {"top_k": 1})
    )
    assert wild.shape == tame.shape == (200, 1, 6, 6)
    with torch.no_grad():
        trace = Trace(from_prior(noise.generator("top"), top_k=1), 20)
        model(None, trace)
    for site in trace.sites.values():  # one likeliest code at every place: all draws are alike
        assert (site.z == site.z[:1]).all()
    spread = [x.std(0).mean() for x in (wild, tame, top)]
    assert spread[0] > spread[1] > spread[2]
    with pytest.raises(UsageError) as caught:
        draws.sample(recipe("conv bits"), 3, top_k=2)
    assert caught.value.code == "E256"


def test_a_traversal_is_of_continuous_latents(fitted):
    z = draws.embed(fitted.model, fitted.encode(DATA[:2])[1].rows)
    with pytest.raises(UsageError, match="are codes") as caught:
        gallery.traversal(fitted.model, z[0], [0], 3)
    assert caught.value.code == "E255"
    ends = torch.from_numpy(DATA[:2]).float()[:, None]
    assert gallery.interpolation(fitted.model, ends, 4).shape == (4, 1, 6, 6)
    names, rows = gallery.levels(fitted.model, 3)
    assert names == ["z0", "z1"]
    assert len(rows) == 6


def test_gaps_are_filled_from_the_other_pixels(fitted):
    gaps = DATA[:6].copy()
    gaps[:, 2, 3] = np.nan
    full = fitted.impute(gaps)
    assert not np.isnan(full).any()
    assert np.allclose(full[:, 0, 0], gaps[:, 0, 0])
    drawn = fitted.impute(gaps, draws=2)
    assert drawn.shape == (2, *gaps.shape)
    assert metrics.elbo(fitted.model, fitted.encode(gaps)[1].rows).elbo.isfinite().all()
