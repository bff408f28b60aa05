"""Models inside the package: found by name, intact, small, and described."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

import lowerbound
from lowerbound import bundle
from lowerbound.bundle import shipped
from lowerbound.cli.main import main
from lowerbound.errors import ModelFileError
from lowerbound.files.pictures.image_file import decode
from picture_files import shades

NAME = "photos-denoise"
SIGMA = 25


def decibels(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", shipped.NAMES)
def test_each_is_intact_small_and_says_how_it_was_trained(name, folder):
    checked = bundle.verify(name)
    assert checked.path.name == f"{name}.vae"
    assert checked.bytes < 3e6
    saved = bundle.load(name)
    assert "## Training" in saved.documents["card.md"]
    assert "/work" not in str(saved.documents)
    assert name in shipped.__doc__


@pytest.mark.parametrize("size", [(64, 96), (57, 75)])
def test_it_removes_noise(folder, size):
    clean = shades(*size, 3)[..., 0]
    noise = np.random.default_rng(0).normal(0, SIGMA, clean.shape)
    noisy = np.rint(clean + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save("noisy.png")
    assert main(["denoise", NAME, "noisy.png", "--out", "clean", "-q"]) == 0
    made = decode(folder / "clean/noisy.png")[..., 0]
    assert decibels(made, clean) > decibels(noisy, clean) + 6


def test_commands_know_it_by_name(folder, capsys):
    assert main(["info", NAME]) == 0
    assert "recipe denoise" in capsys.readouterr().out
    assert main(["verify", NAME]) == 0


def test_a_path_of_that_name_comes_first(folder):
    (folder / NAME).mkdir()
    with pytest.raises(ModelFileError) as caught:
        lowerbound.load(NAME)
    assert caught.value.code == "E104"
    shutil.rmtree(folder / NAME)
    assert lowerbound.load(NAME).arguments["channels"] == 1


def test_a_misspelt_name_is_told(folder, capsys):
    assert main(["info", "photo-denoise"]) == 4
    told = capsys.readouterr().err
    assert "E101" in told
    assert f"fix: pass {NAME}" in told
    with pytest.raises(ModelFileError) as caught:
        lowerbound.load("M.vae")
    assert NAME not in str(caught.value)


def test_hard_links_are_allowed_in_the_package_alone(folder, monkeypatch):
    """Installers share files of packages by hard links."""
    copy = folder / f"{NAME}.vae"
    shutil.copytree(shipped.found(NAME), copy)
    os.link(copy / "card.md", folder / "link.md")
    with pytest.raises(ModelFileError) as caught:
        lowerbound.load(copy)
    assert caught.value.code == "E113"
    monkeypatch.setattr(shipped, "_HERE", folder)
    assert lowerbound.load(NAME).recipe.name == "denoise"
