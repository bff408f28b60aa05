"""Every use of a model of pictures on the command line: arrays in, arrays of pictures out."""

import numpy as np
import pyarrow.csv as pv
import pytest

import zoo
from lowerbound.cli.main import main

N, HEIGHT, WIDTH = 80, 6, 5


def models(folder):
    """A folder with pictures of two kinds of blobs, and small models of them."""
    rng = np.random.default_rng(0)
    blobs = np.zeros((2, HEIGHT, WIDTH))
    blobs[0, :, :2] = blobs[1, :3] = 1
    grey = 0.8 * blobs[rng.integers(0, 2, N)] + 0.1 * rng.random((N, HEIGHT, WIDTH))
    gaps = np.where(rng.random(grey.shape) < 0.1, np.nan, grey)
    colours = np.stack([(255 * grey).astype(np.uint8)] * 3, 1)
    np.savez(folder / "grey.npz", grey)
    np.savez(folder / "gaps.npz", gaps)
    np.savez(folder / "codes.npz", (255 * grey).astype(np.uint8))
    np.savez(folder / "colours.npz", colours)
    holes = colours.astype(float)
    holes[0, 0, 0, 0] = np.nan
    np.savez(folder / "holes.npz", holes)
    small = ["--set", "channels=[4]", "--latent", "2", "--preset", "fast", "--max-epochs", "1"]
    for name, more in [
        ("grey", []),
        ("gaps", []),
        ("codes", []),
        ("colours", ["--set", "likelihood=logistic_mixture"]),
    ]:
        words = ["fit", str(folder / f"{name}.npz"), "--recipe", "conv", *small, *more, "-q"]
        assert main([*words, "--out", str(folder / f"{name}.vae")]) == 0


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


def array(path):
    held = np.load(path)
    return held if path.suffix == ".npy" else held["X"]


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_hold_pictures_of_the_shape_that_was_given(call, suffix):
    for name, shape in [("grey", (HEIGHT, WIDTH)), ("colours", (3, HEIGHT, WIDTH))]:
        call("sample", f"{name}.vae", "-n", "7", out=f"{name}.{suffix}")
        drawn = array(call.folder / f"{name}.{suffix}")
        assert drawn.shape == (7, *shape)
        call("reconstruct", f"{name}.vae", f"{name}.npz", out=f"{name}-again.{suffix}")
        assert array(call.folder / f"{name}-again.{suffix}").shape == (N, *shape)
        assert drawn.dtype == (np.float64 if name == "grey" else np.uint8)
        path = str(call.folder / f"{name}.{suffix}")  # what comes out can go in again
        assert call("evaluate", f"{name}.vae", path, "--samples", "2")["rows"] == 7
    z = call("embed", "grey.vae", "grey.npz", out=f"z.{suffix}")
    assert z["latent"] == 2
    assert array(call.folder / f"z.{suffix}").shape == (N, 2)


def test_a_table_of_cells_is_as_good_as_an_array(call):
    call("reconstruct", "grey.vae", "grey.npz", out="again.csv")
    call("reconstruct", "grey.vae", "grey.npz", out="again.npy")
    table = pv.read_csv(call.folder / "again.csv")
    assert table.column_names[:3] == ["row", "p0_0", "p0_1"]
    for name in ("again.csv", "again.npy"):
        call("score", "grey.vae", str(call.folder / name), out=f"{name}.scores.csv")
    one, other = (
        pv.read_csv(call.folder / f"{name}.scores.csv")["anomaly_score"].to_numpy()
        for name in ("again.csv", "again.npy")
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_missing_pixels_are_filled_and_the_others_stay(call):
    told = call("impute", "gaps.vae", "gaps.npz", out="full.npz")
    x, full = np.load("gaps.npz")["arr_0"], array(call.folder / "full.npz")
    assert told["filled"] == np.isnan(x).sum() > 0
    assert told["left"] == 0
    seen = ~np.isnan(x)
    assert np.array_equal(full[seen], x[seen])
    assert full[~seen].min() >= 0
    assert full[~seen].max() <= 1
    call("impute", "gaps.vae", "gaps.npz", "--draws", "3", out="three.npy")
    three = array(call.folder / "three.npy")
    assert three.shape == (3, N, HEIGHT, WIDTH)
    assert all(np.array_equal(each[seen], x[seen]) for each in three)
    assert (three[:, ~seen].std(0) > 0).any()
    call("impute", "gaps.vae", "gaps.npz", "--draws", "3", out="three.csv")
    table = pv.read_csv(call.folder / "three.csv")
    assert table.shape == (3 * N, HEIGHT * WIDTH + 1)
    np.testing.assert_allclose(table["p0_0"].to_numpy(), three[:, :, 0, 0].ravel())
    call("impute", "grey.vae", "gaps.npz", out="other.npy")  # a model that met no gaps fills too
    assert np.isfinite(array(call.folder / "other.npy")).all()


def test_samples_have_the_pixels_that_are_given(call):
    told = call("sample", "grey.vae", "-n", "9", "--where", "p0_0=1", "--where", "p5_4=0.25",
                out="given.npy")  # fmt: skip
    drawn = array(call.folder / "given.npy")
    assert drawn.shape == (9, HEIGHT, WIDTH)
    assert (drawn[:, 0, 0] == 1).all()
    assert (drawn[:, 5, 4] == 0.25).all()
    assert drawn[:, 1, 1].std() > 0
    assert told["effective_samples"] > 1
    call("sample", "codes.vae", "-n", "4", "--where", "p2_2=200", out="codes.npy")
    assert (array(call.folder / "codes.npy")[:, 2, 2] == 200).all()


def test_the_other_verbs_tell_of_pictures(call):
    assert call("inspect", "gaps.npz")["shape"] == [HEIGHT, WIDTH]
    assert call("inspect", "gaps.npz")["missing"] > 0
    (column,) = call("info", "grey.vae")["columns"]
    assert column["holds"] == "6 x 5, values p0_0 to p5_4"
    assert call("verify", "grey.vae")
    assert call("doctor", "grey.vae", "grey.npz")["rows"] == N
    assert call("score", "grey.vae", "gaps.npz", out="scores.csv")["rows"] == N


@pytest.mark.parametrize(
    ("words", "code", "exit_code", "told"),
    [
        (["score", "grey.vae", "grey.npz", "--explain", "2"], "E246", 2, "images"),
        (["compare", "grey.vae", "grey.npz"], "E246", 2, "a model of pictures"),
        (["export", "grey.vae", "--onnx", "no.onnx"], "E246", 2, "it models pictures"),
        (["sample", "grey.vae", "--where", "p9_9=1"], "E243", 2, "p9_9"),
        (["sample", "grey.vae", "--where", "p0_0=7"], "E077", 3, "numbers from 0 to 1"),
        (
            ["sample", "colours.vae", "--where", "p0_0_0=7"],
            "E246",
            2,
            "with missing values",
        ),
        (["impute", "colours.vae", "holes.npz"], "E246", 2, "with missing values"),
        (["score", "colours.vae", "holes.npz"], "E246", 2, "with missing values"),
        (["score", "grey.vae", "colours.npz"], "E076", 3, "the model's are [6, 5]"),
        (["fit", "grey.npz", "--recipe", "table"], "E027", 3, "3 dimensions"),
    ],
)
def test_what_is_not_for_pictures_says_so(call, words, code, exit_code, told):
    error = call(
        *words, code=exit_code, out=None if words[0] in ("export", "compare") else "no.csv"
    )
    assert error["code"] == code
    assert told in error["message"]
    assert error["hint"]


def test_what_comes_next_can_be_done(call, capsys):
    scores = str(call.folder / "scores.csv")
    for words in (["score", "grey.vae", "grey.npz", "--out", scores], ["info", "grey.vae"]):
        assert main(words) == 0
        assert "--explain" not in capsys.readouterr().out
