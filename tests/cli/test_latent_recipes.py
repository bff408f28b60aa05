"""Flows and hierarchies through the command line: fit, verify and every use of the model."""

import numpy as np
import pyarrow.csv as pv
import pytest

N = 100


@pytest.fixture
def ring(folder):
    """Noisy points of a ring, one column that has nothing to do with it, and some gaps."""
    rng = np.random.default_rng(0)
    t = rng.uniform(0, 2 * np.pi, N)
    x = np.c_[np.cos(t), np.sin(t), np.cos(2 * t), rng.normal(size=N)] + 0.05
    x[rng.random(x.shape) < 0.03] = np.nan
    lines = [",".join("" if np.isnan(v) else f"{v:.4f}" for v in row) for row in x]
    (folder / "ring.csv").write_text("\n".join(["a,b,c,d", *lines]))
    return folder


FITS = {
    "ladder": (["--recipe", "ladder"], "3 + 1 latent"),
    "ladder by the importance-weighted bound": (
        ["--recipe", "ladder", "--set", "iwae=3"],
        "3 + 1 latent",
    ),
    "ladder of three levels": (
        ["--recipe", "ladder", "--set", "latents=[3,2,1]"],
        "3 + 2 + 1 latent",
    ),
    "iaf": (["--recipe", "iaf", "--latent", "2"], "2 latent"),
    "iaf by the importance-weighted bound": (
        ["--recipe", "iaf", "--set", "iwae=3", "--set", "flows=2"],
        "3 latent",
    ),
    "spline": (["--recipe", "iaf", "--set", "kind=spline", "--set", "likelihood=element"], "3 l"),
    "planar": (["--recipe", "iaf", "--set", "kind=planar", "--latent", "auto"], " latent"),
}


def fitted(name, run):
    words, size = FITS[name]
    options = ["--preset", "fast", "--max-epochs", "2", "--out", "m.vae"]
    assert run("fit", "ring.csv", *words, *options).code == 0
    told = run("info", "m.vae")
    assert told.code == 0
    assert size in told.out


@pytest.mark.parametrize("name", FITS)
def test_a_fit_gives_a_model_whose_scores_are_repeatable(name, ring, run):
    fitted(name, run)
    assert run("verify", "m.vae").code == 0
    for out in ("once.csv", "twice.csv"):
        assert run("score", "m.vae", "ring.csv", "--out", out).code == 0
    assert (ring / "once.csv").read_bytes() == (ring / "twice.csv").read_bytes()
    assert np.isfinite(pv.read_csv(ring / "once.csv")["anomaly_score"].to_numpy()).all()


@pytest.mark.parametrize("name", ["ladder", "iaf"])
def test_the_model_serves_every_use(name, ring, run):
    fitted(name, run)
    assert run("sample", "m.vae", "-n", "20", "--out", "drawn.csv").code == 0
    assert pv.read_csv(ring / "drawn.csv").shape == (20, 4)
    assert run("embed", "m.vae", "ring.csv", "--out", "z.csv").code == 0
    assert run("impute", "m.vae", "ring.csv", "--out", "full.csv").code == 0
    assert not any(c.null_count for c in pv.read_csv(ring / "full.csv").columns)
    facts = run("evaluate", "m.vae", "ring.csv", "--json").facts
    assert facts["elbo"] <= -facts["iw_nll"] + 0.2
    assert facts["latent"] == pv.read_csv(ring / "z.csv").shape[1] - 1
    assert run("doctor", "m.vae", "ring.csv").code in (0, 6)
    few = (ring / "ring.csv").read_text().splitlines()[:12]
    (ring / "few.csv").write_text("\n".join(few))
    assert run("score", "m.vae", "few.csv", "--explain", "1", "--out", "why.csv").code == 0
    assert pv.read_csv(ring / "why.csv").column_names[-1] == "top1_expected"


def test_settings_that_cannot_be_are_refused_before_any_data(folder, run):
    for words, told in [
        (
            ["--recipe", "ladder", "--set", "latents=[4]"],
            "at most one width per level",
        ),
        (["--recipe", "iaf", "--set", "kind=iff"], "iaf"),
        (["--recipe", "iaf", "--set", "flows=-1"], "whole number"),
    ]:
        done = run("fit", "tx.csv", *words)
        assert done.code != 0
        assert told in " ".join(done.err.split())


def test_bernoulli_means_tables_of_zeros_and_ones(ring, run):
    rng = np.random.default_rng(1)
    lines = [",".join(map(str, row)) for row in rng.integers(0, 2, (60, 4))]
    (ring / "bits.csv").write_text("\n".join(["a,b,c,d", *lines]))
    words = ["--set", "likelihood=bernoulli", "--preset", "fast", "--max-epochs", "1"]
    for recipe in ("ladder", "iaf"):
        done = run("fit", "bits.csv", "--recipe", recipe, *words, "--out", f"{recipe}.vae")
        assert done.code == 0
        assert run("sample", f"{recipe}.vae", "-n", "30", "--out", f"{recipe}.csv").code == 0
        drawn = pv.read_csv(ring / f"{recipe}.csv")
        assert {value for column in drawn.columns for value in column.to_pylist()} == {0, 1}
    refused = run("fit", "ring.csv", "--recipe", "ladder", *words, "--out", "m.vae")
    assert refused.code == 3


def test_the_doctor_tells_of_every_level(ring, run):
    fitted("ladder of three levels", run)
    for words in (["m.vae"], ["m.vae", "ring.csv"]):
        done = run("doctor", *words)
        assert done.code in (0, 6)
        assert "nats per row" in done.out
        for name, size in [("z3", 1), ("z2", 2), ("z1", 3)]:
            assert f"of {size}" in next(line for line in done.out.splitlines() if name in line[:9])
        levels = run("doctor", *words, "--json").facts["health"]["levels"]
        assert [level["name"] for level in levels] == ["z3", "z2", "z1"]
    assert "levels" not in run("doctor", "tx.vae").out  # there is one
