"""Pictures: what arrays of them become, and image models from data to samples."""

import json

import numpy as np
import pytest
import torch

from lowerbound import Plan, recipes
from lowerbound.cli.main import main
from lowerbound.coding.tables import restore, table_of
from lowerbound.errors import DataError, UsageError
from lowerbound.files.pictures.columns import pixels_of, spread
from lowerbound.files.read import read
from lowerbound.training.fit import learn

SOURCE = np.random.default_rng(0)


def discs(n=120, size=12, channels=()):
    """Bright discs at random places, 8 bits."""
    y, x = np.mgrid[:size, :size]
    centre = SOURCE.uniform(3, size - 3, (n, 2, 1, 1))
    away = np.hypot(y - centre[:, 0], x - centre[:, 1])
    grey = np.clip(255 * (1.2 - away / 4), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], *channels, -1) if channels else grey


def fitted(array, recipe="conv", **settings):
    coding = recipes.find(recipe).coding(settings)
    return coding.fit(read(array), types={}, drop=(), transform="blend")


GREY = discs()


@pytest.mark.parametrize(
    ("array", "settings", "kind", "likelihood", "scale"),
    [
        (GREY, {}, "codes", "logistic", 1.0),
        (GREY, {"likelihood": "shared"}, "grey", "shared", 255.0),
        (GREY / 255.0, {}, "grey", "shared", 1.0),
        (GREY > 99, {}, "bits", "bits", 1.0),
        ((GREY > 99).astype(float), {"likelihood": "optimal"}, "grey", "shared", 1.0),
    ],
)
def test_the_values_decide_unless_the_likelihood_does(array, settings, kind, likelihood, scale):
    coding = fitted(array, **settings)
    assert (coding.kind, coding.scale) == (kind, scale)
    assert coding.arguments() == {"shape": [1, 12, 12], "likelihood": likelihood, "missing": False}
    assert restore(json.loads(json.dumps(coding.document()))) == coding
    earlier = {k: v for k, v in coding.document().items() if k not in ("white", "all_frames")}
    assert restore(earlier).wanted().white == 65535  # as was white of all pictures of 16 bits


@pytest.mark.parametrize("layout", ["grey", "last", "first"])
@pytest.mark.parametrize("likelihood", [None, "shared"])
def test_there_and_back(layout, likelihood):
    array = GREY if layout == "grey" else discs(channels=(3,))
    array = np.moveaxis(array, -1, 1) if layout == "first" else array
    coding = fitted(array, likelihood=likelihood)
    coded = coding.encode(read(array))
    x = coded.rows.take(torch.arange(len(array))).x
    assert tuple(x.shape[1:]) == tuple(coding.arguments()["shape"])
    back = coding.decode(x.numpy())
    assert np.array_equal(pixels_of(back, array.shape[1:]), array)
    pixels = array[0].size
    expected = -pixels * np.log(255) if likelihood else 0.0
    assert np.allclose(coded.log_jacobian, expected)


def test_a_pixel_keeps_its_place():
    array = np.zeros((3, 4, 5, 3), np.uint8)
    array[1, 2, 3, 1] = 200
    coding = fitted(array)
    x = coding.encode(read(array)).rows.take(torch.arange(3)).x
    assert x[1, 1, 2, 3] == 200
    assert x.sum() == 200
    place = [group.column for group in coding.groups].index("p2_3_1")
    back = spread(coding.decode(x.numpy()), coding.shape)
    assert back.column(place).to_pylist() == [0, 200, 0]


@pytest.mark.parametrize(
    ("array", "settings", "code"),
    [
        (np.ones((4, 6)), {}, "E076"),
        (GREY.astype(float) - 9, {}, "E077"),
        (GREY.astype(float) * 2, {}, "E077"),
        (GREY / 200.0, {}, "E077"),
        (GREY / 255.0, {"likelihood": "logistic"}, "E077"),
        (GREY, {"likelihood": "bits"}, "E077"),
    ],
)
def test_what_is_no_picture_is_refused(array, settings, code):
    with pytest.raises(DataError) as refused:
        fitted(array, **settings)
    assert refused.value.code == code


def test_another_size_or_range_is_refused_later():
    coding = fitted(GREY > 99)
    with pytest.raises(DataError, match=r"\[12, 12\]"):
        coding.encode(read(GREY[:, :10]))
    with pytest.raises(DataError, match="0 and 1"):
        coding.encode(read(GREY))


def test_an_archive_of_pictures_needs_no_special_name(tmp_path):
    np.savez(tmp_path / "faces.npz", images=GREY, labels=np.zeros(len(GREY)))
    assert read(tmp_path / "faces.npz").shape == (12, 12)
    np.savez(tmp_path / "two.npz", images=GREY, masks=GREY)
    with pytest.raises(DataError, match="images"):
        read(tmp_path / "two.npz")


def test_tables_do_not_take_pictures_nor_pictures_columns():
    with pytest.raises(DataError, match="Reshape your data"):
        table_of(read(GREY))
    maker = recipes.find("conv").coding({})
    with pytest.raises(UsageError):
        maker.fit(read(GREY), types={"p0_0": "real"}, drop=(), transform="blend")


@pytest.mark.parametrize("settings", [{}, {"likelihood": "shared"}], ids=["codes", "shares"])
def test_an_image_model_from_data_to_samples(settings):
    settings = {"channels": [4, 8], "latent": 3, **settings}
    plan = Plan(recipe="conv", settings=settings, preset="fast", max_epochs=2)
    trained = learn(GREY, plan)
    assert trained.latent == 3
    assert trained.embed(GREY).shape == (len(GREY), 3)
    assert np.isfinite(trained.anomaly_score(GREY[:9])).all()
    assert pixels_of(trained.samples(5).table, (12, 12)).shape == (5, 12, 12)
    assert trained.reconstruct(GREY[:4]).shape == GREY[:4].shape
    report = trained.evaluate(GREY[:20], samples=4)
    assert report["elbo"] <= -report["iw_nll"] + 3.0
    bits = -report["elbo"] / (12 * 12) / np.log(2)
    assert report["bits_per_dimension"] == pytest.approx(bits)
    with pytest.raises(UsageError, match="images"):
        trained.score_table(GREY[:5], explain=2)


def test_the_command_line_on_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "discs.npz", X=GREY)
    small = ["--set", "channels=[4,4]", "--latent", "2", "--preset", "fast"]
    words = ["fit", "discs.npz", "--recipe", "conv", "--max-epochs", "1", "-q", *small]
    assert main([*words, "--out", "d.vae"]) == 0
    assert main(["verify", "d.vae", "-q"]) == 0
    assert main(["info", "d.vae", "-q"]) == 0
    assert main(["score", "d.vae", "discs.npz", "--out", "s.csv", "-q"]) == 0
    assert main(["sample", "d.vae", "-n", "4", "--out", "s.npy", "-q"]) == 0
    assert np.load(tmp_path / "s.npy").shape == (4, 12, 12)
    assert main(["evaluate", "d.vae", "discs.npz"]) == 0
    assert "bits/dim" in capsys.readouterr().out


def test_nvae_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "discs.npy", GREY > 99)
    small = ["groups=[1,1]", "channels=4", "latent_channels=2", "blocks=0"]
    words = [word for each in small for word in ("--set", each)]
    fit = ["fit", "discs.npy", "--recipe", "nvae", "--preset", "fast", "--max-epochs", "1", "-q"]
    assert main([*fit, *words, "--out", "n.vae"]) == 0
    assert main(["score", "n.vae", "discs.npy", "--out", "s.csv", "-q"]) == 0
    assert main(["sample", "n.vae", "-n", "4", "--out", "s.npy", "-q"]) == 0
    assert main(["info", "n.vae", "-q"]) == 0
