"""Drift: tests that are exact, false alarms at most as stated, and power where rows changed."""

import dataclasses
import functools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix

import lowerbound
from lowerbound.coding.rows import subset
from lowerbound.errors import ModelFileError, UsageError
from lowerbound.tasks import contents, drift
from lowerbound.tasks.calibration import Calibration
from lowerbound.tasks.trained import restored

LEVELS = list("abcdefgh")
SHARES = [0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02]


def rows(n, seed, **changed):
    """Rows of one distribution: numbers, an atom, gaps, categories, counts, dates, a constant."""
    rng = np.random.default_rng(seed)
    when = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 3 * 10**7, n), unit="s")
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "amount": np.exp(rng.normal(size=n)),
            "gain": np.where(rng.random(n) < 0.4, 0.0, np.exp(rng.normal(size=n))),
            "level": rng.choice(LEVELS, n, p=SHARES),
            "many": rng.zipf(1.6, n).clip(1, 400).astype(str) + "k",
            "count": rng.poisson(3, n),
            "gap": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "when": when,
            "flag": rng.random(n) < 0.3,
            "fixed": "web",
        }
    )
    return frame.assign(**{name: make(frame, rng) for name, make in changed.items()})


@functools.cache
def model():
    return lowerbound.fit(
        rows(3000, 0), preset="fast", max_epochs=1, settings={"chain": None, "proposal": False}
    )


def drifted(found):
    return [row["column"] for row in found["columns"] if row["drifted"]]


def redrawn(seed, scored, held=400):
    """The model with other held-out rows of the same distribution."""
    trained = model()
    coded = trained.encode(rows(held, seed))[1]
    own = drift.held_out(trained.coding, coded.rows)
    if not scored:
        return dataclasses.replace(trained, held_out=own)
    calibration = Calibration.of(trained.score_coded(coded))
    return dataclasses.replace(
        trained,
        held_out=own,
        calibration=calibration,
        alarm=calibration.alarm(0.05),
    )


def false_alarms(seeds, level, scored, n=150):
    """Return the share of pairs of samples of one distribution in which anything drifted."""
    wrong = 0
    for seed in seeds:
        trained = redrawn(2 * seed + 1, scored)
        frame, coded = trained.encode(rows(n + seed % 7 * 100, 2 * seed + 2))
        found = drift.report(trained, (frame, coded), level, scored=scored)
        every = [*found["columns"], found.get("scores", {}), found.get("alarms", {})]
        wrong += any(each.get("drifted") for each in every)
    return wrong / len(seeds)


def test_false_alarms_are_at_most_the_stated_level():
    # Of 200 pairs of samples, at most 2.4 standard deviations more than stated: 1 in 100 fails.
    assert false_alarms(range(200), 0.1, scored=False) <= 0.1 + 2.4 * math.sqrt(0.09 / 200)


@pytest.mark.nightly
def test_false_alarms_with_scores_are_at_most_the_stated_level():
    for level in (0.1, 0.01):
        margin = 2.4 * math.sqrt(level * (1 - level) / 200)
        assert false_alarms(range(200), level, scored=True) <= level + margin


@pytest.mark.parametrize(
    ("column", "change", "size", "word"),
    [
        ("x", lambda f, rng: f.x + 0.6, 0.24, "<="),
        ("x", lambda f, rng: f.x * 2, 0.16, "<="),
        ("amount", lambda f, rng: f.amount * 1.6, 0.18, "<="),
        ("gain", lambda f, rng: np.where(rng.random(len(f)) < 0.5, 0.0, f.gain), 0.30, "= 0"),
        ("level", lambda f, rng: np.where(rng.random(len(f)) < 0.15, "h", f.level), 0.15, "= h"),
        ("level", lambda f, rng: np.where(rng.random(len(f)) < 0.1, "new", f.level), 0.1, "not"),
        ("many", lambda f, rng: f.many + "x", 0.98, "not seen in training"),
        ("count", lambda f, rng: f["count"] + 1, 0.22, "<="),
        ("gap", lambda f, rng: np.where(rng.random(len(f)) < 0.4, np.nan, f.gap), 0.32, "missing"),
        ("gap", lambda f, rng: f.gap.fillna(0.0), 0.2, "missing"),
        ("when", lambda f, rng: f.when + pd.Timedelta(days=90), 0.25, "time"),
        ("flag", lambda f, rng: rng.random(len(f)) < 0.5, 0.2, "="),
        ("fixed", lambda f, rng: "app", 1.0, "not 'web'"),
    ],
)
def test_a_changed_column_is_found_and_only_it(column, change, size, word):
    found = model().drift(rows(1500, 5, **{column: change}))
    assert drifted(found) == [column]
    first = found["columns"][0]
    assert first["drift"] == pytest.approx(size, abs=0.075)
    assert first["adjusted_p_value"] < 1e-4
    assert word in first["told"]


def test_rows_like_those_of_training_drift_nowhere():
    found = model().drift(rows(1500, 5))
    assert not drifted(found)
    assert not found["scores"]["drifted"]
    assert not found["alarms"]["drifted"]
    assert found["held_out"] == 300
    assert {row["column"] for row in found["columns"]} == {*rows(1, 0).columns}
    assert all(abs(row["nats"]) < 1 for row in found["columns"] if row["nats"] is not None)


def test_a_column_that_moves_costs_nats():
    moved = model().drift(rows(1500, 5, x=lambda f, rng: f.x + 3))
    first = moved["columns"][0]
    assert first["column"] == "x"
    assert first["nats"] > 1
    assert moved["scores"]["drifted"]
    assert moved["scores"]["mean"] > moved["scores"]["held_out_mean"] + 1
    assert moved["alarms"]["drifted"]
    assert moved["alarms"]["share"] > 5 * moved["alarms"]["expected"]


def test_ignored_columns_are_not_tested():
    later = rows(1500, 5, when=lambda f, rng: f.when + pd.Timedelta(days=900))
    assert "when" in drifted(model().drift(later))
    found = model().drift(later, ignore=["when"])
    assert "when" not in [row["column"] for row in found["columns"]]
    with pytest.raises(UsageError, match="E203"):
        model().drift(later, ignore=["wen"])


def test_the_order_of_columns_and_rows_does_not_matter():
    frame = rows(300, 8)
    shuffled = frame[frame.columns[::-1]].sample(frac=1, random_state=0)
    one, other = model().drift(frame), model().drift(shuffled)
    tests = [
        {row["column"]: (row["p_value"], row["drift"]) for row in each["columns"]}
        for each in (one, other)
    ]
    assert tests[0] == tests[1]


def test_saved_models_give_the_same_drift(tmp_path):
    path = model().save(tmp_path / "m.vae")
    assert lowerbound.load(path).drift(rows(200, 3)) == model().drift(rows(200, 3))


def test_shares_are_tested_exactly():
    for a, m, b, n in [(0, 20, 7, 30), (5, 100, 30, 200), (3, 3, 0, 4), (50, 1000, 90, 900)]:
        law = stats.hypergeom(m + n, a + b, n)
        wanted = min(1.0, 2 * min(law.sf(b - 1), law.cdf(b)))
        assert drift.shares_test((a, m), (b, n), "").p_value == pytest.approx(wanted, rel=1e-6)
    assert drift.shares_test((0, 0), (3, 9), "").p_value == 1.0


def test_order_is_tested_exactly_for_few_rows_and_never_too_boldly_for_many():
    rng = np.random.default_rng(0)
    for m, n in [(20, 35), (100, 100), (300, 2000), (40, 9)]:
        x, y = rng.normal(size=m), rng.normal(0.4, size=n)
        knots = np.sort(np.concatenate([x, y]))
        both = tuple(
            np.bincount(np.searchsorted(knots, z), minlength=len(knots) + 1) for z in (x, y)
        )
        found = drift.order_test(both, str)
        exact = stats.ks_2samp(x, y, method="exact")
        assert found.difference == pytest.approx(exact.statistic)
        assert exact.pvalue * (1 - 1e-9) <= found.p_value <= 1.3 * exact.pvalue + 1e-12


def test_alarms_have_a_beta_binomial_law():
    held = Calibration.of(np.arange(200.0))
    threshold = held.alarm(0.05).threshold
    k = int((held.scores > threshold).sum()) + 1
    law = stats.betabinom(500, k, 201 - k)
    for flagged in (1, 20, 60, 500):
        found = drift.alarms_test(held, threshold, flagged, 500)
        assert found == pytest.approx(law.sf(flagged - 1), rel=1e-5, abs=1e-11)
    assert drift.alarms_test(held, threshold, 0, 500) == 1.0
    assert drift.alarms_test(Calibration.of(np.array([])), 1.0, 3, 5) == 1.0


def test_holm_corrects_for_the_number_of_tests():
    found = drift.holm([0.01, 0.04, 0.03, 0.005])
    assert found.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert drift.holm([]).tolist() == []


def test_held_out_distributions_keep_counts_and_stay_small():
    coding = model().coding
    coded = coding.encode(model().encode(rows(5000, 1))[0])
    held = drift.held_out(coding, subset(coded.rows, torch.arange(4000)))
    assert held.rows == 4000
    part = held.columns["x"].parts[0]
    assert len(part.values) <= drift.MOST_KNOTS
    assert sum(part.counts) == 4000
    assert sum(held.columns["gap"].parts[0].counts) + held.columns["gap"].missing == 4000


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held["columns"]["x"]["parts"].pop(),
        lambda held: held["columns"]["x"]["parts"][0]["counts"].pop(),
        lambda held: held["columns"]["x"]["parts"][0]["values"].reverse(),
        lambda held: held.update(rows=3),
        lambda held: held["columns"].update(other={"missing": 0, "parts": []}),
        lambda held: held["columns"]["x"].update(missing=-1),
    ],
)
def test_altered_distributions_are_refused(change):
    documents = model().documents()
    change(documents["calibration.json"]["held_out"])
    weights = {name: t.numpy() for name, t in model().model.state_dict().items()}
    with pytest.raises(ModelFileError, match="E116"):
        restored(documents, weights)


def test_models_of_earlier_versions_are_tested_by_their_scores(tmp_path):
    documents = model().documents()
    del documents["calibration.json"]["held_out"]
    contents.check(documents)
    weights = {name: t.numpy() for name, t in model().model.state_dict().items()}
    found = restored(documents, weights).drift(rows(500, 5))
    assert [row["column"] for row in found["columns"]] == ["fixed"]
    assert any("fit it again" in note for note in found["notes"])
    assert not found["scores"]["drifted"]


def test_counts_are_tested_gene_by_gene():
    rng = np.random.default_rng(0)
    x = rng.poisson(2, size=(600, 12)).astype(float)
    trained = lowerbound.fit(
        csr_matrix(x), "counts", preset="fast", max_epochs=1, settings={"proposal": False}
    )
    assert trained.check(csr_matrix(x)).passed
    x[:, 3] *= 3
    found = trained.drift(csr_matrix(x))
    assert drifted(found) == ["x3"]
    assert found["columns"][0]["told"].startswith("<= ")
    report = trained.check(csr_matrix(x[:, :5]))
    assert [(p.check, p.code) for p in report.problems] == [("schema", "E031")]


def test_pictures_are_tested_by_their_scores():
    pictures = np.random.default_rng(0).integers(0, 255, size=(80, 8, 8)).astype(np.uint8)
    trained = lowerbound.fit(pictures, "conv", preset="fast", max_epochs=1)
    report = trained.check(pictures)
    assert report.passed
    assert report.drift["columns"] == []
    assert report.drift["alarms"]["rows"] == 80
    wrong = trained.check(pictures[:, :4])
    assert [(p.check, p.code) for p in wrong.problems] == [("schema", "E076")]
