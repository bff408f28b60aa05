"""Fits that start from the weights of another model."""

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound
from lowerbound.cli.main import main
from lowerbound.coding import pairs
from lowerbound.errors import UsageError
from lowerbound.training import split
from lowerbound.training.start import digest, start_of
from picture_files import shades

NAME = "photos-denoise"


@pytest.fixture(autouse=True)
def few_small_crops(monkeypatch):
    monkeypatch.setattr(split, "HELD_CROPS", 8)
    monkeypatch.setattr(pairs, "CROP", 32)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Eight photographs in colours."""
    (tmp_path / "photos").mkdir()
    for i in range(8):
        Image.fromarray(shades(72, 88, i)).save(tmp_path / f"photos/{i}.png")
    monkeypatch.chdir(tmp_path)
    return "photos"


@pytest.fixture
def small(photos, monkeypatch):
    """A small model, and passes of few crops."""
    monkeypatch.setattr(pairs, "EPOCH", 160)
    return lowerbound.fit(
        photos, "denoise", settings={"width": 4, "depth": 1}, time_limit=0.1, out="small.vae"
    )


def same(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def held_out(model):
    return model.facts["valid_elbo"]


def test_the_first_steps_are_near_the_weights_that_a_fit_starts_from(photos):
    start = start_of(NAME)
    model = lowerbound.fit(photos, from_=NAME, time_limit=0.1)
    assert model.arguments == start.arguments
    assert model.facts["from"] == digest(start)
    assert model.facts["history"]["checks"][-1]["step"] < 5
    still = lowerbound.fit(photos, from_=NAME, time_limit=0.1, learning_rate=1e-12)
    assert held_out(model) == pytest.approx(held_out(still), rel=0.05)
    anew = lowerbound.fit(photos, "denoise", settings={"width": 24}, time_limit=0.1)
    healthy = [each.facts["health"]["verdict"] == "healthy" for each in (still, model, anew)]
    assert healthy == [True, True, False]
    known = dict(start.model.named_parameters())
    for name, value in model.model.named_parameters():
        torch.testing.assert_close(value, known[name], rtol=0, atol=0.01)
    assert same(start.model, start_of(NAME).model)  # the start is left as it was


def test_it_is_saved_and_started_from_again(photos, small):
    words = ["fit", photos, "--from", "small.vae", "--time-limit", "0.1", "-q"]
    assert main([*words, "--out", "mine.vae"]) == 0
    mine = lowerbound.load("mine.vae")
    again = lowerbound.fit(photos, "denoise", from_="mine.vae", out="again.vae", time_limit=0.1)
    assert again.facts["from"] == digest(mine)
    assert same(again.model, lowerbound.load("again.vae").model)


def test_a_fit_that_is_broken_off_ends_as_if_it_never_was(photos, small):
    how = {"max_epochs": 20, "from_": small}
    undisturbed = lowerbound.fit(photos, **how)
    assert undisturbed.facts["history"]["checks"][-1]["step"] == 200
    first = lowerbound.fit(photos, **how, out="mine.vae", callbacks=[lambda check: True])
    assert first.facts["history"]["stopped"] == "interrupt"
    with pytest.raises(UsageError) as caught:  # the run is of another start
        lowerbound.fit(photos, **{**how, "from_": first}, out="mine.vae")
    assert caught.value.code == "E250"
    resumed = lowerbound.fit(photos, **how, out="mine.vae")
    assert resumed.facts["history"]["checks"][-1]["step"] == 200
    assert same(resumed.model, undisturbed.model)
    assert not same(resumed.model, small.model)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"recipe": "inpaint"}, "the recipe inpaint"),
        ({"settings": {"width": 8}}, "width=8"),
        ({"settings": {"likelihood": "shared"}}, "likelihood=shared"),
        ({"latent": 8}, "latent=8"),
    ],
)
def test_what_would_change_the_network_is_refused(photos, small, how, told):
    with pytest.raises(UsageError) as caught:
        lowerbound.fit(photos, from_="small.vae", **how)
    assert caught.value.code == "E236"
    assert told in str(caught.value)


def test_the_noise_may_change_and_equal_settings_are_allowed(photos, small):
    settings = {"noise": "gaussian:25", "width": 4}
    model = lowerbound.fit(photos, from_=small, settings=settings, time_limit=0.1)
    assert model.arguments == {**small.arguments, "noise": "gaussian:25"}


def test_commands_refuse_with_a_code_and_write_nothing(photos, small, tmp_path, capsys):
    words = ["fit", photos, "--from", "small.vae", "--out", "x.vae"]
    assert main([*words, "--set", "width=8"]) == 2
    assert "E236" in capsys.readouterr().err
    assert main(["fit", photos, "--from", "nowhere.vae", "--out", "x.vae"]) == 4
    assert "E101" in capsys.readouterr().err
    np.save("rows.npy", np.random.default_rng(0).normal(size=(60, 3)))
    assert main(["fit", "rows.npy", "--max-epochs", "1", "--out", "rows.vae", "-q"]) == 0
    assert main(["fit", photos, "--from", "rows.vae", "--out", "x.vae"]) == 2
    assert "E246" in capsys.readouterr().err
    assert not (tmp_path / "x.vae").exists()
    assert not (tmp_path / "x.run").exists()


def test_another_number_of_classes_is_refused(photos, small, tmp_path):
    for name, levels in (("two", 2), ("three", 3)):
        (tmp_path / name).mkdir()
        for i in range(8):
            mask = shades(72, 88, i)[..., 0] // (256 // levels + 1) * 50
            Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"{name}/{i}.png")
    settings = {"width": 4, "depth": 1}
    two = lowerbound.fit(photos, "segment", targets="two", settings=settings, time_limit=0.1)
    with pytest.raises(UsageError) as caught:
        lowerbound.fit(photos, from_=two, targets="three", time_limit=0.1)
    assert (caught.value.code, "classes=3" in str(caught.value)) == ("E236", True)
