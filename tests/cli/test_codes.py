"""Every use of a model of codes on the command line: pictures in, draws of a learned prior out."""

import numpy as np
import pytest

import zoo
from lowerbound.cli.main import main
from lowerbound.recipes import RECIPES
from lowerbound.training import fit as learning

N, HEIGHT, WIDTH = 80, 6, 5
SMALL = ["codes=8", "dim=3", "channels=4", "blocks=1", "halvings=1", "prior_channels=8"]
SMALL += ["prior_layers=1"]


def models(folder):
    """A folder with pictures, and a small model of either recipe."""
    rng = np.random.default_rng(0)
    blobs = np.zeros((2, HEIGHT, WIDTH))
    blobs[0, :, :2] = blobs[1, :3] = 1
    grey = 0.8 * blobs[rng.integers(0, 2, N)] + 0.1 * rng.random((N, HEIGHT, WIDTH))
    np.savez(folder / "grey.npz", grey)
    np.savez(folder / "colours.npz", np.stack([(255 * grey).astype(np.uint8)] * 3, -1))
    gaps = np.where(rng.random(grey.shape) < 0.1, np.nan, grey)
    np.savez(folder / "gaps.npz", gaps)
    flags = [word for setting in SMALL for word in ("--set", setting)]
    flags += ["--preset", "fast", "--max-epochs", "1", "-q"]
    for data, recipe in [("grey", "vqvae"), ("colours", "vqvae2")]:
        words = ["fit", str(folder / f"{data}.npz"), "--recipe", recipe, *flags]
        assert main([*words, "--out", str(folder / f"{recipe}.vae")]) == 0


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


DATA = {"vqvae": "grey.npz", "vqvae2": "colours.npz"}


@pytest.mark.parametrize("recipe", DATA)
def test_every_verb_works_on_codes(call, recipe):
    model, data = f"{recipe}.vae", DATA[recipe]
    shape = (HEIGHT, WIDTH) if recipe == "vqvae" else (HEIGHT, WIDTH, 3)
    told = call("info", model)
    assert told["arguments"]["prior"] == "pixelcnn"
    codes = 8 if recipe == "vqvae" else 16
    told = call("evaluate", model, data, "--samples", "3")
    assert told["prior"] == "pixelcnn"
    assert told["latent"] == codes
    bits = -told["elbo"] / np.prod(shape) / np.log(2)
    assert np.isclose(told["bits_per_dimension"], bits)
    assert np.isclose(told["iw_nll"], -told["elbo"], rtol=1e-5)  # a code has one draw
    assert call("score", model, data, out="scores.csv")["rows"] == N
    z = call("embed", model, data, out="z.npy")["latent"]
    assert z == (3 * 3 * 3 if recipe == "vqvae" else 3 * (2 * 2 + 4 * 4))
    call("reconstruct", model, data, out="again.npy")
    assert np.load(call.folder / "again.npy").shape == (N, *shape)
    call("sample", model, "-n", "5", "--temperature", "0.7", "--top-k", "2", out="x.npy")
    assert np.load(call.folder / "x.npy").shape == (5, *shape)
    assert call("doctor", model, data)["health"]["levels"][0]["perplexity"] >= 1


def test_gaps_are_filled_and_conditions_are_met(call):
    assert call("impute", "vqvae.vae", "gaps.npz", out="full.npy")["left"] == 0
    call("sample", "vqvae.vae", "-n", "4", "--where", "p2_2=0.5", out="given.npy")
    assert (np.load(call.folder / "given.npy")[:, 2, 2] == 0.5).all()


def test_what_is_said_is_about_codes(call, capsys):
    for words in (["info", "vqvae2.vae"], ["doctor", "vqvae2.vae", "colours.npz"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "codes" in out
        assert "latent dimensions" not in out
    assert main(["evaluate", "vqvae.vae", "grey.npz"]) == 0
    assert "with the prior pixelcnn" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["evaluate", "vqvae.vae", "grey.npz", "--ais"], "E255"),
        (["plot", "vqvae2.vae", "traversal", "--out", "no.png"], "E255"),
        (["plot", "vqvae2.vae", "manifold", "--out", "no.png"], "E246"),
        (["score", "vqvae.vae", "grey.npz", "--explain", "2"], "E246"),
        (["export", "vqvae.vae", "--onnx", "no.onnx"], "E246"),
        (["sample", "vqvae.vae", "--top-k", "2", "--where", "p0_0=1"], "E236"),
        (["fit", "grey.npz", "--recipe", "vqvae", "--set", "beta=2"], "E257"),
        (["fit", "grey.npz", "--recipe", "vqvae", "--set", "codes=1"], "E254"),
        (["fit", "grey.npz", "--recipe", "vqvae2", "--set", "levels=5"], "E240"),
        (["fit", "grey.npz", "--recipe", "vqvae", "--set", "codebook=emma"], "E241"),
        (["fit", "grey.npz", "--recipe", "vqvae", "--latent", "2"], "E242"),
    ],
)
def test_what_codes_cannot_do_is_one_error(call, words, code):
    out = {"score": "no.csv", "sample": "no.npy", "fit": "no.vae"}.get(words[0])
    error = call(*words, code=2, out=out)
    assert error["code"] == code
    assert error["hint"]


def test_other_models_have_no_likeliest_codes(call):
    fit = ["fit", "grey.npz", "--recipe", "conv", "--set", "channels=[4]", "--latent", "2"]
    conv = str(call.folder / "conv.vae")
    assert main([*fit, "--preset", "fast", "--max-epochs", "1", "-q", "--out", conv]) == 0
    assert call("sample", conv, "--top-k", "2", code=2, out="no.npy")["code"] == "E256"


def test_ctrl_c_in_the_second_stage_saves_and_the_same_command_goes_on(call, monkeypatch):
    """The model has the prior as far as it was learned, and the run stays to go on from."""
    whole, calls = learning.loop.fit, []

    def stopped(*given, **named):
        history = whole(*given, **named)
        calls.append(1)
        history.stopped = "interrupt" if len(calls) == 2 else history.stopped
        return history

    flags = [word for setting in SMALL for word in ("--set", setting)]
    words = ["fit", "grey.npz", "--recipe", "vqvae", *flags, "--preset", "fast"]
    words += ["--max-epochs", "1", "--out", str(call.folder / "broken.vae"), "--json"]
    with monkeypatch.context() as patched:
        patched.setattr(learning.loop, "fit", stopped)
        assert main(words) == 130
    assert (call.folder / "broken.run").is_dir()
    assert call("info", str(call.folder / "broken.vae"))["arguments"]["prior"] == "pixelcnn"
    told = call(*words[:-1])
    assert told["stopped"] == "epochs"
    assert not (call.folder / "broken.run").exists()


def test_a_dry_run_forecasts_both_stages(call):
    flags = [word for setting in SMALL for word in ("--set", setting)]
    told = call("fit", "grey.npz", "--recipe", "vqvae", *flags, "--dry-run", "--max-epochs", "50")
    batch = RECIPES["vqvae"].batch_size
    learned = 0.9 * N // batch * batch  # all but the held-out tenth, in whole batches
    rows = 2 * 50 * learned  # in as many passes of either stage
    assert np.isclose(told["longest_seconds"], rows / told["rows_per_second"], rtol=1e-6)
