"""`score --by` on the command line: each way on a table, and what it refuses."""

import numpy as np
import pyarrow.csv as pv
import pytest

import commands
from lowerbound import Model
from lowerbound.tasks.scoring import WAYS


@pytest.fixture
def hierarchy(run, folder):
    """A model with two levels of latents, of the numbers of the table."""
    words = ["--recipe", "ladder", "--drop", "country", "--drop", "ts", "--drop", "is_new"]
    done = run("fit", "tx.csv", *words, "--max-epochs", "1", "-q", "--out", "ladder.vae")
    assert done.code == 0, done.err
    return "ladder.vae"


def column(path, name):
    return pv.read_csv(path)[name].to_numpy()


@pytest.mark.parametrize("by", WAYS)
def test_scores_are_those_of_the_model_whatever_is_scored(run, folder, hierarchy, by):
    facts = run("score", hierarchy, "tx.csv", "--by", by, "--out", "s.csv", "--json").facts
    way = Model.load(hierarchy).scoring(by)
    assert facts["by"] == by
    assert facts["threshold"] == way.alarm.threshold
    assert facts["expected_rate"] == way.alarm.rate
    scores, p = column("s.csv", "anomaly_score"), column("s.csv", "p_value")
    np.testing.assert_allclose(p, way.calibration.p_values(scores))
    flags = column("s.csv", "is_anomaly")
    assert np.array_equal(flags, scores > way.alarm.threshold)
    assert facts["flagged"] == flags.sum()
    assert facts["highest"][0]["anomaly_score"] == pytest.approx(scores.max())
    again = commands.score(hierarchy, "tx.csv", by=by)
    np.testing.assert_allclose(again.table["anomaly_score"].to_numpy(), scores)


def test_typicality_is_the_distance_from_the_usual_likelihood(run, folder):
    run("score", "tx.vae", "tx.csv", "--out", "s.csv")
    run("score", "tx.vae", "tx.csv", "--out", "t.csv", "--by", "typicality")
    usual = Model.load("tx.vae").calibration.scores.mean()
    away = abs(column("s.csv", "anomaly_score") - usual)
    np.testing.assert_allclose(column("t.csv", "anomaly_score"), away, rtol=1e-9, atol=1e-9)
    facts = run("score", "tx.vae", "tx.csv", "--out", "f.csv", "--by", "typicality", "--fdr",
                "20%", "--json").facts  # fmt: skip
    assert facts["false_discovery_rate"] == 0.2


def test_people_read_the_threshold_of_what_was_scored(run, folder):
    done = run("score", "tx.vae", "tx.csv", "--by", "typicality", "--out", "t.csv")
    threshold = Model.load("tx.vae").scoring("typicality").alarm.threshold
    assert f"above {threshold:.4g}" in done.out
    assert "--explain" not in done.out  # which would explain another number


def test_the_help_names_every_way(run):
    text = " ".join(run("score", "--help").out.replace("│", " ").split())
    told = text[text.index("--by WAY") : text.index("--explain N")]
    assert all(f" {by}" in told for by in WAYS)
    assert "[default: likelihood]" in told


@pytest.mark.parametrize(
    ("words", "code", "told", "hint"),
    [
        (["--by", "typical"], "E241", "got 'typical'", "--by typicality"),
        (["--by", "levels"], "E258", "one level", "--by typicality"),
        (["--by", "typicality", "--explain", "2"], "E236", "-log p", "by likelihood"),
        (["--by", "typicality", "--heatmaps", "heat"], "E246", "pictures", "--explain"),
    ],
)
def test_what_cannot_be_scored_is_one_error_and_no_file(run, folder, words, code, told, hint):
    before = sorted(folder.iterdir())
    done = run("score", "tx.vae", "tx.csv", *words, "--out", "s.csv", "--json")
    assert done.code == 2
    assert done.error["code"] == code
    assert told in done.error["message"]
    assert hint in done.error["hint"]
    assert sorted(folder.iterdir()) == before


def test_the_fix_is_the_whole_command(run, folder):
    done = run("score", "tx.vae", "tx.csv", "--by", "levels", "--out", "s.csv")
    assert "fix: lowerbound score tx.vae tx.csv --out s.csv --by typicality" in done.err
    assert run("score", "tx.vae", "tx.csv", "--out", "s.csv", "--by", "typicality").code == 0
