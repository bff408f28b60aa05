"""Fits that start from the weights of a saved model."""

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound
from lowerbound.cli.main import main
from lowerbound.errors import ModelFileError, UsageError
from lowerbound.recipes import find
from lowerbound.training.forecast import quicker
from picture_files import shades

SMALL = {"width": 8, "noise": "gaussian:20"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        Image.fromarray(shades(64, 64, number)[..., 0]).save(folder / f"{number}.png")
    return folder


def fitted(folder, **options):
    return lowerbound.fit(folder, preset="fast", max_epochs=1, time_limit=8, **options)


@pytest.fixture(scope="module")
def first(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "first.vae"
    model = fitted(photos, recipe="denoise", settings=SMALL, out=path)
    return str(path), model


def test_the_weights_recipe_and_settings_are_those_of_the_model(photos, first):
    path, model = first
    begun = []

    def stop(check):
        begun.append(check.step)
        return True

    # A learning rate of almost nothing: what is left of the weights is what they began with.
    again = fitted(photos, start=path, learning_rate=1e-12, callbacks=[stop])
    assert begun
    assert again.recipe.name == "denoise"
    assert again.facts["plan"]["settings"] == SMALL
    weights = dict(again.model.named_parameters())  # the variance is measured in every step
    for name, value in model.model.named_parameters():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)
    other = fitted(photos, recipe="denoise", settings=SMALL, learning_rate=1e-12, seed=1)
    weights = dict(other.model.named_parameters())
    differ = [
        (weights[name] - value).abs().max() for name, value in model.model.named_parameters()
    ]
    assert max(differ) > 0.01


def test_a_fit_from_a_model_is_saved_and_loaded(photos, first, tmp_path):
    path, _ = first
    made = fitted(photos, start=path, out=tmp_path / "second.vae")
    loaded = lowerbound.load(tmp_path / "second.vae")
    assert loaded.facts["plan"]["start"] == path
    for name, value in made.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)


def test_colour_pictures_are_read_in_the_channels_of_the_model(first, tmp_path):
    path, _ = first
    for number in range(4):
        Image.fromarray(shades(64, 64, number)).save(tmp_path / f"{number}.png")
    made = fitted(tmp_path, start=path)
    assert made.arguments["channels"] == 1
    out = tmp_path.with_suffix(".vae")
    words = ["fit", str(tmp_path), "--from", path, "--time-limit", "2s", "--out", str(out), "-q"]
    assert main(words) == 0
    assert lowerbound.load(out).arguments["channels"] == 1


def test_a_fit_of_too_few_steps_is_told_of_a_model_to_start_from():
    assert quicker(find("denoise")).endswith("--from photos-denoise")
    assert "--from" not in quicker(find("upscale"))


def test_what_does_not_fit_the_model_is_refused(photos, first):
    path, _ = first
    with pytest.raises(UsageError, match="of the recipe denoise") as error:
        fitted(photos, recipe="upscale", start=path)
    assert error.value.code == "E236"
    with pytest.raises(UsageError, match="other weights") as error:
        fitted(photos, start=path, settings={"width": 12})
    assert error.value.code == "E236"
    with pytest.raises(ModelFileError, match="no model"):
        fitted(photos, start="nowhere.vae")


def test_a_model_of_rows_gives_no_weights(tmp_path):
    rows = np.random.default_rng(0).normal(size=(80, 3))
    lowerbound.fit(rows, preset="fast", max_epochs=1).save(tmp_path / "rows.vae")
    with pytest.raises(UsageError, match="coding of its own columns") as error:
        lowerbound.fit(rows, start=str(tmp_path / "rows.vae"))
    assert error.value.code == "E236"
