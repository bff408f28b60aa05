"""Pictures of image models: grids, files, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from lowerbound import noise, recipes
from lowerbound.cli.main import main
from lowerbound.cli.work import drawing
from lowerbound.tasks import gallery


def models(folder):
    """A folder with pictures and small models of them."""
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", (rng.random((80, 8, 6)) < 0.4))
    np.save(folder / "flat.npy", (rng.random((80, 16)) < 0.4).astype(float))
    common = ["--preset", "fast", "--max-epochs", "1", "-q"]
    small = ["--set", "channels=[4]", "--latent", "2"]
    fit = ["fit", str(folder / "x.npy"), "--recipe", "conv", *small, *common]
    assert main([*fit, "--out", str(folder / "conv.vae")]) == 0
    deep = [w for s in ("groups=[1,1]", "channels=4", "latent_channels=1", "blocks=0")
            for w in ("--set", s)]  # fmt: skip
    fit = ["fit", str(folder / "x.npy"), "--recipe", "nvae", *deep, *common]
    assert main([*fit, "--out", str(folder / "nvae.vae")]) == 0
    fit = ["fit", str(folder / "flat.npy"), "--recipe", "binary", "--latent", "2", *common]
    assert main([*fit, "--out", str(folder / "binary.vae")]) == 0


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """The current folder, with the models in it."""
    for entry in made.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(here, *words):
    out = here / f"{words[1]}-{abs(hash(words))}.png"
    assert main(["plot", *words, "--out", str(out), "-q"]) == 0
    with Image.open(out) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("words", "rows", "columns"),
    [
        (["conv.vae", "samples", "-n", "3"], 3, 3),
        (["conv.vae", "reconstructions", "x.npy", "-n", "4"], 2, 4),
        (["conv.vae", "traversal", "-n", "3"], 2, 3),
        (["conv.vae", "interpolation", "x.npy", "-n", "5"], 1, 5),
        (["conv.vae", "manifold", "-n", "3"], 3, 3),
        (["nvae.vae", "levels", "-n", "3"], 2, 3),
        (["nvae.vae", "samples", "-n", "2", "--temperature", "0.5"], 2, 2),
        (["binary.vae", "samples", "-n", "2", "--shape", "4x4"], 2, 2),
    ],
)
def test_every_kind_is_a_grid_of_its_size(here, words, rows, columns):
    picture = drawn(here, *words)
    height, width = (4, 4) if words[0] == "binary.vae" else (8, 6)
    factor = -(-drawing.LEAST // max(height, width))
    gap = drawing.GAP
    assert picture.shape == (
        rows * (height * factor + gap) + gap,
        columns * (width * factor + gap) + gap,
        3,
    )
    assert (picture[:gap] == 255).all()  # the border is white
    assert picture[gap:-gap, gap:-gap].std() > 0


def test_the_originals_stand_above_their_reconstructions(here):
    picture = drawn(here, "conv.vae", "reconstructions", "x.npy", "-n", "4", "--seed", "3")
    x = np.load(here / "x.npy")
    chosen = torch.randperm(80, generator=noise.generator("plot", 3))[:4]
    first = picture[2 : 2 + 8 * 7, 2 : 2 + 6 * 7, 0][::7, ::7]
    assert np.array_equal(first > 127, x[chosen[0]])


def test_a_gif_moves(here):
    assert main(["plot", "conv.vae", "traversal", "-n", "4", "--out", "t.gif", "-q"]) == 0
    with Image.open(here / "t.gif") as image:
        assert image.n_frames == 6  # there and back
    assert main(["plot", "conv.vae", "traversal", "-n", "4", "--out", "t.gif", "-q"]) == 2
    again = ["plot", "conv.vae", "traversal", "-n", "4", "--out", "t.gif", "--overwrite", "-q"]
    assert main(again) == 0


def test_pictures_are_the_same_every_time(here):
    assert np.array_equal(
        drawn(here, "conv.vae", "samples", "-n", "2"),
        drawn(here, "conv.vae", "samples", "-n", "2", "--seed", "0"),
    )


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        (["conv.vae", "sample", "--out", "a.png"], "E241", "plot M.vae samples"),
        (["conv.vae", "samples"], "E232", "--out picture.png"),
        (["conv.vae", "samples", "--out", "a.jpg"], "E222", "a.png"),
        (["conv.vae", "samples", "--out", "a.gif"], "E222", "a.png"),
        (["conv.vae", "reconstructions", "--out", "a.png"], "E232", "DATA"),
        (["nvae.vae", "manifold", "--out", "a.png"], "E246", "--latent 2"),
        (["binary.vae", "samples", "--out", "a.png"], "E232", "--shape"),
        (["binary.vae", "samples", "--shape", "3x5", "--out", "a.png"], "E237", "product is 16"),
        (["conv.vae", "samples", "-n", "1", "--out", "a.png"], "E240", "-n 2"),
    ],
)
def test_what_is_refused(here, capsys, words, code, fix):
    assert main(["plot", *words, "--json"]) == 2
    told = json.loads(capsys.readouterr().err)["error"]
    assert told["code"] == code
    assert fix in told["hint"]
    assert not (here / "a.png").exists()


def test_a_traversal_moves_one_latent_at_a_time():
    with noise.isolated(0):
        model = recipes.binary(6, 3, [8])
    z = torch.zeros(3)
    values = gallery.traversal(model, z, [2, 0], 5)
    assert values.shape == (10, 6)
    assert torch.allclose(values[2], values[7])  # the middle of both ways: z itself
    assert not torch.allclose(values[0], values[5])


def test_levels_share_what_they_keep():
    with noise.isolated(0):
        model = recipes.ladder(6, [2, 1], [8, 4], likelihood="bernoulli").eval()
    names, values = gallery.levels(model, 4)
    assert names == ["z2", "z1"]
    coarse, fine = values.view(2, 4, 6)
    assert torch.allclose(fine, fine[:1].expand(4, 6))  # all levels are kept: nothing differs
    assert not torch.allclose(coarse, coarse[:1].expand(4, 6))
