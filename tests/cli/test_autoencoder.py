"""encode and decode on the command line, on folders of ordinary pictures."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import commands
import zoo
from lowerbound import Model
from lowerbound.cli.main import main
from lowerbound.errors import UsageError
from lowerbound.files.pictures.image_file import decode
from lowerbound.training import split
from picture_files import shades

SIZES = [(40, 30), (64, 80), (33, 57), (50, 50)]
SMALL = ["--recipe", "autoencoder", "--time-limit", "1s", "--set", "width=4"]


def write(path, page):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(page).save(path)


def models(root):
    """Pictures, and two models of them."""
    for i, (height, width) in enumerate(SIZES * 3):
        write(root / f"photos/{'ab'[i % 2]}/{i}.png", shades(height, width, i))
        write(root / f"grey/{i}.png", shades(48, 64, i)[..., 0])
    for name, data, more in (
        ("colours", "photos", ["--set", "downscale=4"]),
        ("grey", "grey", ["--latent", "2"]),
    ):
        words = ["fit", str(root / data), *SMALL, *more, "-q"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(split, "HELD_CROPS", 16)
            assert main([*words, "--out", str(root / f"{name}.vae")]) == 0


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr(split, "HELD_CROPS", 16)


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


@pytest.fixture
def call(made, tmp_path, spoken):
    """Run a command beside the models; return its facts, or its error."""
    for entry in made.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return spoken


def test_pictures_go_to_the_disk_as_latents_and_come_back(call):
    facts = call("encode", "colours.vae", "photos", "--out", "latents")
    assert (facts["pictures"], facts["latent"], facts["downscale"]) == (12, 4, 4)
    assert facts["bits_per_pixel"] > 0
    assert facts["unreadable"] == []
    index = json.loads((call.folder / "latents/latents.json").read_text())
    model = Model.load("colours.vae")
    for i in range(12):
        height, width = (SIZES * 3)[i]
        name = f"{'ab'[i % 2]}/{i}"
        z = np.load(f"latents/{name}.npy")
        assert z.shape == (4, -(-height // 4), -(-width // 4))
        assert z.dtype == np.float32
        assert index["pictures"][f"{name}.npy"]["height"] == height
        page = decode(call.folder / f"photos/{name}.png")
        assert np.array_equal(model.latents_of(page), z)
    assert call("decode", "colours.vae", "latents", "--out", "pictures")["pictures"] == 12
    for i in range(12):
        name = f"{'ab'[i % 2]}/{i}"
        page = decode(call.folder / f"pictures/{name}.png")
        assert page.shape == (*(SIZES * 3)[i], 3)
        again = model.picture_of(np.load(f"latents/{name}.npy"), (SIZES * 3)[i])
        assert np.array_equal(again, page)
    evaluated = call("evaluate", "colours.vae", "photos")
    errors = [
        decode(call.folder / f"pictures/{'ab'[i % 2]}/{i}.png").astype(float)
        - decode(call.folder / f"photos/{'ab'[i % 2]}/{i}.png")
        for i in range(12)
    ]
    decibels = [-10 * np.log10(np.square(e / 255).mean()) for e in errors]
    assert evaluated["psnr"] == pytest.approx(np.mean(decibels), abs=1e-6)
    assert evaluated["psnr_lowest"] == pytest.approx(np.min(decibels), abs=1e-6)
    assert evaluated["bits_per_pixel"] == pytest.approx(facts["bits_per_pixel"])


def test_pictures_of_one_size_are_one_array(call):
    call("encode", "grey.vae", "grey", "--out", "latents.npy")
    z = np.load("latents.npy")
    assert z.shape == (12, 2, 6, 8)
    call("decode", "grey.vae", "latents.npy", "--out", "pictures")
    assert sorted(os.listdir("pictures")) == [f"{i:02d}.png" for i in range(12)]
    assert decode(call.folder / "pictures/00.png").shape == (48, 64, 1)
    np.save("one.npy", z[3])
    call("decode", "grey.vae", "one.npy", "--out", "single")
    first = decode(call.folder / "single/one.png")
    assert np.array_equal(first, decode(call.folder / "pictures/03.png"))
    told = call("encode", "colours.vae", "photos", "--out", "x.npy", code=3)
    assert told["code"] == "E086"
    assert not (call.folder / "x.npy").exists()


def test_sixteen_bits_come_back_as_sixteen(call):
    deep = np.rint(shades(48, 48)[..., 0] * (4095 / 255)).astype(np.uint16)
    write(call.folder / "deep/0.png", deep)
    write(call.folder / "flat/0.png", shades(48, 48)[..., 0])
    for name in ("deep", "flat"):
        call("encode", "grey.vae", name, "--out", f"{name}_latents")
        call("decode", "grey.vae", f"{name}_latents", "--out", f"{name}_made")
    page, flat = (decode(call.folder / f"{name}_made/0.png") for name in ("deep", "flat"))
    assert page.dtype == np.uint16
    assert np.abs(page / 4095 - flat / 255).max() < 0.01
    call("encode", "colours.vae", "deep", "--out", "coloured")
    call("decode", "colours.vae", "coloured", "--out", "coloured_made")
    coloured = decode(call.folder / "coloured_made/0.png")
    assert (coloured.dtype, coloured.shape) == (np.uint8, (48, 48, 3))


def test_what_is_known_of_such_a_model(call):
    told = call("info", "grey.vae")
    assert set(told["decoded"]) == {"psnr", "small_psnr", "bits_per_pixel"}
    assert any("bits per pixel" in line for line in told["health"]["lines"])
    assert commands.info("grey.vae").next == "lowerbound encode grey.vae PICTURES --out made"
    assert call("verify", "grey.vae")["intact"]


def test_a_fit_prints_the_quality(call, capsys):
    words = ["fit", "grey", *SMALL, "--out", "new.vae"]
    assert main(words) == 0
    spoken = capsys.readouterr()
    assert "bits per pixel" in " ".join(spoken.out.split())
    assert "latents 8 times smaller" in spoken.err


@pytest.mark.parametrize(
    "words",
    [
        ("score", "grey.vae", "grey", "--out", "s.csv"),
        ("embed", "grey.vae", "grey", "--out", "s.csv"),
        ("sample", "grey.vae", "--out", "s.csv"),
        ("denoise", "grey.vae", "grey", "--out", "s"),
        ("plot", "grey.vae", "samples", "--out", "s.png"),
        ("export", "grey.vae", "--onnx", "s.onnx"),
        ("evaluate", "grey.vae", "grey", "--samples", "3"),
        ("doctor", "grey.vae", "grey"),
        ("compare", "grey.vae", "grey"),
    ],
)
def test_it_does_nothing_else_and_says_so(call, words):
    told = call(*words, code=2)
    assert told["code"] in ("E236", "E246", "E247")
    assert "restore" not in told["message"]


def test_other_models_have_no_latents_on_disk(call):
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    call("fit", "x.npy", "--recipe", "sigma", "--max-epochs", "1", "--out", "t.vae")
    for words in (("encode", "t.vae", "grey"), ("decode", "t.vae", "x.npy")):
        told = call(*words, "--out", "made", code=2)
        assert told["code"] == "E247"
        assert "--recipe autoencoder" in told["hint"]
    with pytest.raises(UsageError, match="E247"):
        Model.load("t.vae").latents_of(shades())
    with pytest.raises(UsageError, match="E247"):
        Model.load("grey.vae").restore(shades())
    with pytest.raises(UsageError, match=r"\(H, W, 1\)"):
        Model.load("grey.vae").latents_of(shades())


def test_what_is_no_latents_of_the_model_is_refused(call):
    call("encode", "grey.vae", "grey", "--out", "latents")

    def refused(told_of, model="grey.vae", place="latents"):
        told = call("decode", model, place, "--out", "made", code=3)
        assert told["code"] == "E090"
        assert told_of in told["message"]
        assert not (call.folder / "made").exists()

    refused("another model", "colours.vae")
    whole = np.load("latents/0.npy")
    np.save("latents/0.npy", whole[:, :3])
    refused("48 x 64 pixels")
    np.save("latents/0.npy", whole)
    (call.folder / "latents/latents.json").write_text("{}")
    refused("damaged")
    (call.folder / "latents/latents.json").unlink()
    refused("shape (4, height, width)", "colours.vae")
    np.save("latents/0.npy", np.full((2, 3, 3), np.nan, np.float32))
    refused("NaN")
    refused("no .npy file", place="grey")
    np.save("none.npy", np.zeros((0, 2, 3, 3), np.float32))
    refused("contains no latents", place="none.npy")
    call("encode", "grey.vae", "grey/0.png", "--out", "one")
    (call.folder / "one/latents.json").unlink()
    call("decode", "grey.vae", "one", "--out", "made")  # of whole latents, without the index
    assert decode(call.folder / "made/0.png").shape == (48, 64, 1)


def test_unreadable_pictures_are_counted_as_everywhere(call):
    folder = call.folder / "some"
    write(folder / "0.png", shades(20, 20, 0))
    (folder / "1.png").write_bytes(b"no picture")
    told = call("encode", "colours.vae", "some", "--out", "latents", code=3)
    assert told["code"] == "E084"
    assert not (call.folder / "latents").exists()
    skip = ("--on-bad-file", "skip")
    wanted = call("inspect", "some")["unreadable"]
    assert [each["file"] for each in wanted] == ["1.png"]
    for words in (("encode", "--out", "latents"), ("evaluate",)):
        verb, *more = words
        assert call(verb, "colours.vae", "some", *more, *skip)["unreadable"] == wanted


def test_results_replace_nothing_unasked(call):
    call("encode", "grey.vae", "grey", "--out", "latents")
    assert call("encode", "grey.vae", "grey", "--out", "latents", code=2)["code"] == "E220"
    call("encode", "grey.vae", "grey", "--out", "latents", "--overwrite")
    assert call("encode", "grey.vae", "grey", "--out", "grey/z", code=2)["code"] == "E236"
    assert call("decode", "grey.vae", "latents", "--out", "latents/p", code=2)["code"] == "E236"
    assert call("fit", "grey", *SMALL, "--targets", "grey", "--out", "t.vae", code=2)
    other = call.folder / "other"
    other.mkdir()
    np.save(other / "mine.npy", np.zeros(3))
    told = call("encode", "grey.vae", "grey", "--out", "other", "--overwrite", code=2)
    assert told["code"] == "E221"


def test_both_halves_as_onnx_give_the_same(call):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    places = ("--onnx-encoder", "e.onnx", "--onnx-decoder", "d.onnx")
    facts = call("export", "colours.vae", *places)
    assert facts["encoder"]["largest_difference"] < 1e-4
    assert facts["decoder"]["largest_difference"] < 1e-4
    model = Model.load("colours.vae")
    page = shades(64, 80, 3)  # no tiles, and multiples of 4
    encoder, decoder = (runtime.InferenceSession(f"{half}.onnx") for half in "ed")
    x = np.moveaxis(page, -1, 0)[None].astype(np.float32) / 255
    mean, scale = encoder.run(None, {"pictures": x})
    assert mean.shape == scale.shape == (1, 4, 16, 20)
    (again,) = decoder.run(None, {"latents": mean})
    assert again.shape == (1, 3, 64, 80)
    document = json.loads(encoder.get_modelmeta().custom_metadata_map["lowerbound"])
    assert (document["half"], document["downscale"]) == ("encoder", 4)
    inner = model.latents_of(page)
    assert np.abs(inner - mean[0])[:, 6:-6, 6:-6].max() < 1e-3
    assert call("export", "colours.vae", *places, code=2)["code"] == "E220"
    told = call("export", "colours.vae", "--onnx-encoder", "x.bin", code=2)
    assert (told["code"], "--onnx-encoder" in told["message"]) == ("E222", True)
    for other in ("--onnx", "x.onnx"), ("--check", "photos"):
        assert call("export", "colours.vae", *places, *other, code=2)["code"] == "E236"
    assert "--onnx-encoder" in call("export", "colours.vae", "--onnx", "x.onnx", code=2)["hint"]
