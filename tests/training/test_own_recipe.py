"""A recipe of the user's own: fitted, killed, resumed, saved, loaded with it, and scored."""

import multiprocessing
import os
import pickle
import signal
from itertools import count

import numpy as np
import pytest
import torch

import lowerbound
from lowerbound.errors import ModelFileError, UsageError
from lowerbound.nn.distributions.families import Conditional, SharedSigma
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.latents.priors import StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Concat, Empty, Single
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.recipes.record import of_numbers
from lowerbound.training.engine.checkpoints import OnDisk
from lowerbound.training.fit import run_path

ROWS = np.random.default_rng(0).normal(size=(300, 4)) @ np.diag([1.0, 2.0, 0.5, 1.0])


def linear(features, latent=2, width=8):
    """One level between a linear encoder and a linear decoder."""
    posterior = Plain(torch.nn.Linear(width, 2 * latent))
    decoder = torch.nn.Linear(latent, width)
    level = Level("z", StandardNormal(latent), posterior, Concat(decoder))
    likelihood = Conditional(torch.nn.Linear(width, features), SharedSigma())
    encoder = Single(torch.nn.Linear(features, width))
    return LatentModel(encoder, [level], likelihood, Empty())


def fitted(**more):
    return lowerbound.fit(ROWS, linear, **{"preset": "fast", "seed": 3, "device": "cpu", **more})


def _train_and_be_killed(out):
    """Train, and die by SIGKILL right after the first commit."""
    commit, steps = OnDisk.commit, count()
    OnDisk.due = lambda self: next(steps) == 50  # and not when the clock says so

    def last(self, values, arrays):
        commit(self, values, arrays)
        os.kill(os.getpid(), signal.SIGKILL)

    OnDisk.commit = last
    torch.set_num_threads(1)
    fitted(out=out, overwrite=True, max_epochs=40)


def _digest(path):
    return {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.suffix == ".safetensors"}


def test_killed_and_resumed_it_ends_in_the_same_bytes(tmp_path):
    torch.set_num_threads(1)
    whole = fitted(out=tmp_path / "whole.vae", max_epochs=40)
    out = tmp_path / "own.vae"
    process = multiprocessing.get_context("spawn").Process(
        target=_train_and_be_killed, args=(out,)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert list(run_path(out).glob("first/commit-*"))
    assert not out.exists()
    resumed = fitted(out=out, max_epochs=40)
    assert _digest(out) == _digest(tmp_path / "whole.vae")
    assert not run_path(out).exists()
    assert np.array_equal(resumed.anomaly_score(ROWS), whole.anomaly_score(ROWS))


def test_saved_loaded_and_used(tmp_path):
    model = fitted(out=tmp_path / "own.vae", max_epochs=1)
    with pytest.raises(ModelFileError, match="'linear'") as refused:
        lowerbound.load(tmp_path / "own.vae")
    assert refused.value.code == "E141"
    assert refused.value.exit_code == 4
    with pytest.raises(ModelFileError, match="was passed"):
        lowerbound.load(tmp_path / "own.vae", recipe="gaussian")
    again = lowerbound.load(tmp_path / "own.vae", recipe=linear)
    assert np.array_equal(again.anomaly_score(ROWS), model.anomaly_score(ROWS))
    assert np.array_equal(again.embed(ROWS), model.embed(ROWS))
    assert np.array_equal(again.sample(5, seed=1), model.sample(5, seed=1))
    sent = pickle.loads(pickle.dumps(model))
    assert np.array_equal(sent.embed(ROWS), model.embed(ROWS))
    assert model.score(ROWS[:3]).dtype.names[:3] == ("anomaly_score", "p_value", "is_anomaly")


def test_the_estimator_takes_it(tmp_path):
    vae = lowerbound.VAE(recipe=linear, preset="fast", max_epochs=1, latent=3).fit(ROWS)
    assert vae.transform(ROWS).shape == (300, 3)
    vae.save(tmp_path / "own.vae")
    again = lowerbound.VAE.load(tmp_path / "own.vae", recipe=linear)
    assert np.array_equal(again.transform(ROWS), vae.transform(ROWS))


def test_what_cannot_be_a_recipe_is_refused():
    def gaussian(features):
        return linear(features)

    def nothing(size):
        return linear(size)

    for function in (gaussian, nothing):
        with pytest.raises(UsageError) as refused:
            lowerbound.Plan(recipe=function)
        assert refused.value.code == "E259"
    gaps = np.where(ROWS > 2, np.nan, ROWS)
    with pytest.raises(UsageError, match="missing") as refused:
        lowerbound.fit(gaps, linear)
    assert refused.value.code == "E259"
    with pytest.raises(UsageError, match="'widht'"):
        lowerbound.fit(ROWS, linear, settings={"widht": 3}, max_epochs=1)


def test_an_objective_of_ones_own():
    steps = []

    class Counted(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner = Elbo(model)
            self.model = model

        def forward(self, *given, **more):
            steps.append(1)
            return self.inner(*given, **more)

    recipe = lowerbound.Recipe(build=linear, coding=of_numbers, minimise=Counted)
    model = lowerbound.fit(ROWS, recipe, preset="fast", max_epochs=2)
    assert steps
    assert np.isfinite(model.anomaly_score(ROWS)).all()
