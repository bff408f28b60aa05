"""Fits with an adversarial term: what is kept, how they go on, what they say and are worth."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from lowerbound import Model, Plan, noise, recipes
from lowerbound.cli.main import main
from lowerbound.cli.plans import plan_from
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.files.pictures.columns import pixels_of
from lowerbound.nn.objectives.adversarial import Adversarial
from lowerbound.nn.objectives.elbo import Elbo, Ramp
from lowerbound.tasks.objective_settings import OBJECTIVE
from lowerbound.training.engine import loop
from lowerbound.training.engine.checkpoints import OnDisk
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.fit import learn
from lowerbound.training.objective import settled, warm_up
from lowerbound.training.plan import PRESETS

SMALL = {"likelihood": "shared", "channels": [4, 8]}


@cache
def digits():
    """Handwritten digits of 8 x 8, in [0, 1]."""
    return (load_digits().images / 16).astype(np.float32)


def quick(adversarial=0.4, **other):
    return Plan("conv", {**SMALL, "adversarial": adversarial}, latent=3, preset="fast", **other)


class Interrupt(Exception):
    """Stands for whatever ends a process."""


def fit(checkpoints=None, fail_after=None, settled=180):
    """Train a small model; return its objective too, which has the discriminator."""
    with noise.isolated("fit"):
        model = recipes.conv([1, 8, 8], 3, [4, 8], "shared")
    objective = Adversarial(Elbo(model), [1, 8, 8], Ramp(0.0, 0.5, 60))
    x, seen = torch.from_numpy(digits()[:300, None]), []

    def report(check, budget):
        seen.append(check)
        if len(seen) == fail_after:
            raise Interrupt

    history = loop.fit(
        objective,
        Dense(x[:240]),
        Dense(x[240:]),
        budget=Budget(epochs=100, steps=240, most=240, settled=settled),
        optimiser=Optimiser(batch_size=40, ema=0.9, learning_rate=3e-3),
        engine=Engine(),
        checkpoints=checkpoints,
        report=report,
    )
    return objective, history


def test_a_fit_that_is_broken_off_ends_as_if_it_never_was(tmp_path):
    undisturbed, history = fit()
    with pytest.raises(Interrupt):
        fit(OnDisk(tmp_path, every=0.0, share=1.0), fail_after=2)
    assert 100 < OnDisk(tmp_path).latest().values["step"] < 200
    resumed, again = fit(OnDisk(tmp_path))
    ours, theirs = undisturbed.state_dict(), resumed.state_dict()
    assert any(name.startswith("discriminator.") for name in ours)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert [c[:7] for c in history.checks] == [c[:7] for c in again.checks]
    assert again.best == history.best


def test_what_is_kept_is_from_after_the_warm_up_and_so_is_its_average():
    weights = {**OBJECTIVE, "adversarial": 0.3}
    for preset in PRESETS.values():
        ema, start = preset.optimiser.ema, settled(weights, 4000, preset.optimiser)
        assert ema ** (start - warm_up(4000)) <= 0.05
        assert settled(OBJECTIVE, 4000, preset.optimiser) == 0
    assert settled(weights, 40, Optimiser(ema=0.0)) == warm_up(40) == 10


def test_the_discriminator_is_not_saved_and_what_was_trained_is_said(tmp_path, capsys):
    np.save(tmp_path / "digits.npy", digits()[:500])
    words = ["fit", str(tmp_path / "digits.npy"), "--recipe", "conv", "--preset", "fast"]
    words += ["--set", "adversarial=0.4", "--set", "channels=[4,8]", "--latent", "3"]
    assert main([*words, "--out", str(tmp_path / "sharp.vae"), "--max-epochs", "12"]) == 0
    told = capsys.readouterr()
    said = " ".join((told.out + told.err).split())
    assert "ended at step 36, before the adversarial term had settled (step 308)" in said
    reservation = "a lower bound, but it is not what was maximised"
    assert "adversarial term of weight 0.4" in said
    assert reservation in said
    assert main(["info", str(tmp_path / "sharp.vae")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "an adversarial term weighted by 0.4" in said
    assert reservation in said
    assert reservation in (tmp_path / "sharp.vae" / "card.md").read_text("utf-8")
    trained = Model.load(tmp_path / "sharp.vae")
    assert trained.facts["objective"]["adversarial"] == 0.4
    plain = recipes.find("conv").make(trained.arguments)
    assert list(trained.model.state_dict()) == list(plain.state_dict())
    raw = (tmp_path / "sharp.vae" / "weights.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert len(header) >= len(plain.state_dict())
    assert not [name for name in header if "discriminator" in name]
    assert trained.facts["parameters"] == sum(p.numel() for p in plain.parameters())


def test_other_models_have_nothing_to_reserve(tmp_path, capsys):
    trained = learn(digits()[:200], Plan("conv", SMALL, latent=3, preset="fast", max_epochs=1))
    trained.save(tmp_path / "plain.vae")
    assert main(["info", str(tmp_path / "plain.vae")]) == 0
    assert "adversarial" not in capsys.readouterr().out
    assert "adversarial" not in (tmp_path / "plain.vae" / "card.md").read_text("utf-8")


def test_codes_are_learned_with_it_and_their_prior_without():
    settings = {"codes": 8, "dim": 3, "channels": 8, "blocks": 1, "halvings": 1}
    settings |= {"prior_channels": 8, "prior_layers": 2, "adversarial": 0.3}
    plan = Plan("vqvae", settings, preset="fast", max_epochs=7)  # two checks in each stage
    trained = learn(digits()[:300], plan)
    history = trained.facts["history"]
    assert history["best"] == len(history["checks"]) - 1  # too short to have settled
    assert trained.facts["priors_history"]["checks"]
    assert not [name for name in trained.model.state_dict() if "discriminator" in name]
    assert np.isfinite(trained.anomaly_score(digits()[:20])).all()


@pytest.mark.parametrize("recipe", ["table", "gaussian", "binary", "denoise", "segment"])
def test_where_there_are_no_pictures_to_look_at_it_is_refused_before_any_data_are_read(recipe):
    said = {"recipe": recipe, "settings": ["adversarial=0.3"]}
    for make in (lambda: Plan(recipe, {"adversarial": 0.3}), lambda: plan_from(said)):
        with pytest.raises(UsageError, match=f"'{recipe}'") as caught:
            make()
        assert caught.value.code == "E248"
        assert "--recipe conv" in caught.value.fix
    Plan(recipe, {"adversarial": 0.0})


def test_what_weighs_draws_is_refused():
    with pytest.raises(UsageError, match="adversarial") as caught:
        Plan("conv", {"iwae": 4, "adversarial": 0.3})
    assert caught.value.code == "E236"
    for weight in (1.0, 2.5):  # where nothing would hold the pictures to the data
        with pytest.raises(UsageError, match="between 0 and 1") as caught:
            plan_from({"recipe": "conv", "settings": [f"adversarial={weight}"]})
        assert caught.value.code == "E240"
    for other in ({"beta": 2.0}, {"free_bits": 0.1}, {"tc": 4.0}, {"path": True}, {"mmd": 1.0}):
        Plan("conv", {**other, "adversarial": 0.3})
    with pytest.raises(UsageError, match="8 x 8") as caught:
        learn(digits()[:50, :6, :7], quick(max_epochs=1))
    assert caught.value.code == "E248"


def edges(pictures):
    """Return the mean absolute Laplacian of pictures, (n, H, W): what blur takes away."""
    kernel = torch.tensor([[[[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]]])
    x = torch.from_numpy(np.array(pictures, np.float32))[:, None]
    return F.conv2d(x, kernel).abs().mean().item()


@pytest.mark.nightly  # of the quality of two longer fits
def test_reconstructions_are_sharper_with_it_and_no_worse():
    found = {}
    for weight in (0.0, 0.4):
        settings = {"likelihood": "shared", "channels": [16, 32], "adversarial": weight}
        plan = Plan("conv", settings, latent=4, preset="fast", max_epochs=40)
        trained = learn(digits(), plan)
        made = pixels_of(trained.reconstruct(digits()), trained.coding.shape)
        history = trained.facts["history"]
        step = history["checks"][history["best"]]["step"]
        found[weight] = edges(made), float(np.square(made - digits()).mean()), step
    real = edges(digits())
    (plain, plain_error, _), (sharp, sharp_error, step) = found[0.0], found[0.4]
    assert plain < 0.75 * real  # blurred
    assert sharp > 1.12 * plain
    assert sharp < 1.1 * real  # and not just noisy
    assert sharp_error < 1.15 * plain_error
    assert step >= 399
