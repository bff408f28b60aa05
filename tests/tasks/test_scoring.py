"""Ways of scoring: fair p-values whatever is measured, kept with the model, or refused."""

import copy
import pickle

import numpy as np
import pytest
from scipy import stats

from estimators import correlated, quick
from lowerbound import Model, Plan
from lowerbound.errors import UsageError
from lowerbound.recipes import find
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Calibration, discovery_cut
from lowerbound.tasks.measures import Scoring
from lowerbound.tasks.scoring import WAYS, levels_lacking
from lowerbound.tasks.trained import restored
from lowerbound.tasks.typicality import Typicality, level_ratio
from lowerbound.training.calibrate import LEVEL_ROWS
from lowerbound.training.fit import learn
from recipe_parts import HIERARCHIES_OF_CODES, RECIPES, RESTORING, TOWERS, recipe

ROWS = 12_000
FRESH = correlated(3_000, seed=2)


@pytest.fixture(scope="module")
def ladder():
    plan = Plan(recipe="ladder", preset="fast", max_epochs=2, alarm_rate=0.05)
    return learn(correlated(ROWS, seed=1), plan)


@pytest.fixture(scope="module")
def plain():
    return learn(
        correlated(300), Plan(preset="fast", max_epochs=1, latent=2, settings={"chain": None})
    )


def full_conformal(usual, new):
    """The p-value of a new score whose deviation is from the mean of all, its own included."""
    everything = np.append(usual, new)
    away = abs(everything - everything.mean())
    return (away >= away[-1] - 1e-12).mean()


def test_typicality_by_hand():
    usual = Typicality(Calibration.of(np.array([1.0, 2.0, 3.0, 6.0])))
    assert usual.calibration.scores == pytest.approx([0.0, 5 / 3, 10 / 3, 5.0])
    away = usual.deviation(np.array([3.0, 1.3, 4.7, -0.4, 6.4, 100.0, -100.0]))
    p = usual.calibration.p_values(away)
    assert p == pytest.approx([1.0, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2])


@pytest.mark.parametrize(
    ("work", "samples"), [(1e3, 32), (1e8, 32), (2e8, 16), (7.8e8, 4), (1e12, 2)]
)
def test_the_deeper_a_network_the_fewer_samples_of_a_score(work, samples):
    assert draws.samples_worth(work) == samples


def test_new_rows_are_scored_with_as_many_samples_as_held_out_ones(tmp_path, monkeypatch):
    rows = correlated(300)
    plan = Plan(recipe="ladder", preset="fast", max_epochs=1, time_limit=5.0)
    assert learn(rows, plan).importance_samples == draws.SCORE_SAMPLES
    monkeypatch.setattr(draws, "SCORE_WORK", 1.0)  # so that the ladder counts as deep
    deep = learn(rows, plan)
    deep.save(tmp_path / "deep.vae")
    monkeypatch.undo()
    kept = Model.load(tmp_path / "deep.vae")
    assert deep.importance_samples == kept.importance_samples == 2
    assert (kept.anomaly_score(rows) == kept.anomaly_score(rows, samples=2)).all()
    assert (kept.anomaly_score(rows) != kept.anomaly_score(rows, samples=32)).any()
    assert kept.scoring().measure.samples == kept.scoring("typicality").measure.samples == 2
    assert kept.scoring("levels").measure.samples == 1
    assert kept.evaluate(rows)["importance_samples"] == 8


@pytest.mark.parametrize("n", [2, 3, 9, 40])
def test_typicality_is_never_surer_than_full_conformal_prediction(n):
    rng = np.random.default_rng(n)
    for _ in range(50):
        scores = rng.gamma(2.0, 3.0, n)
        usual = Typicality(Calibration.of(scores))
        new = rng.gamma(2.0, 4.0, 20) - 2
        p = usual.calibration.p_values(usual.deviation(new))
        exact = np.array([full_conformal(scores, each) for each in new])
        assert (p >= exact - 1e-12).all()
        assert (p - exact).mean() < 1 / n


def test_typicality_keeps_its_word_with_few_rows():
    """Ranks of the deviations as they are would not: the mean is that of the held-out rows."""
    rng, fair, careless = np.random.default_rng(0), [], []
    for _ in range(20_000):
        usual = Typicality(Calibration.of(rng.normal(size=9)))
        away = usual.deviation(rng.normal(size=1))
        fair.append(usual.calibration.p_values(away)[0] <= 0.1)
        plain = Calibration.of(usual.deviation(usual.held_out.scores))
        careless.append(plain.p_values(away)[0] <= 0.1)
    error = np.sqrt(0.1 * 0.9 / 20_000)
    assert np.mean(fair) <= 0.1 + 3 * error
    assert np.mean(careless) > 0.1 + 3 * error


@pytest.mark.parametrize("by", WAYS)
def test_p_values_of_fresh_rows_are_uniform_and_alarms_as_rare_as_said(ladder, by):
    way = ladder.scoring(by)
    table = ladder.score_table(FRESH, by=by)[0]
    scores, p = (table[name].to_numpy() for name in ("anomaly_score", "p_value"))
    held_out = way.calibration.scores
    assert stats.ks_2samp(held_out, scores).pvalue > 0.01
    slack = 3 * np.sqrt(0.05 * 0.95 / len(FRESH))
    assert stats.kstest(p, "uniform").statistic < 1.63 / np.sqrt(len(held_out)) + slack
    flagged = table["is_anomaly"].to_numpy()
    assert np.array_equal(flagged, scores > way.alarm.threshold)
    assert way.alarm.low - slack < flagged.mean() < way.alarm.high + slack
    assert way.alarm.low < 0.05 < way.alarm.high
    assert (np.diff(p[scores.argsort()]) <= 0).all()


def test_each_way_measures_what_it_says(ladder):
    nats, rows = ladder.anomaly_score(FRESH[:40]), ladder.encode(FRESH[:40])[1].rows
    measured = {by: ladder.score_table(FRESH[:40], by=by)[0]["anomaly_score"] for by in WAYS}
    assert np.array_equal(measured["likelihood"], nats)
    assert np.array_equal(ladder.score_table(FRESH[:40])[0]["anomaly_score"], nats)
    assert measured["typicality"].to_numpy() == pytest.approx(
        abs(nats - ladder.calibration.scores.mean())
    )
    assert np.array_equal(measured["levels"], level_ratio(ladder.model, rows, 1).numpy())


def test_a_row_that_is_too_likely_stands_out_by_typicality_only():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 12))
    trained = learn(x, Plan(preset="fast", max_epochs=2, latent=2))
    middle = np.zeros((1, 12))
    p = {
        by: trained.score_table(middle, by=by)[0]["p_value"][0].as_py()
        for by in WAYS
        if by != "levels"
    }
    assert p["likelihood"] > 0.95
    assert p["typicality"] < 0.05


def test_false_discoveries_are_counted_by_the_way_s_own_p_values(ladder):
    x = np.concatenate([FRESH[:200], FRESH[:40] + 8])
    for by in WAYS:
        table = ladder.score_table(x, by=by, false_discovery_rate=0.2)[0]
        p = table["p_value"].to_numpy()
        assert np.array_equal(table["is_anomaly"].to_numpy(), p <= discovery_cut(p, 0.2))


def test_calibrating_the_levels_looks_at_few_rows(ladder):
    assert len(ladder.calibration.scores) == ROWS // 10 > LEVEL_ROWS
    assert len(ladder.scoring("levels").calibration.scores) == LEVEL_ROWS


def test_a_saved_model_scores_as_before_in_every_way(ladder, tmp_path):
    loaded = Model.load(ladder.save(tmp_path / "m.vae"))
    for other in (loaded, pickle.loads(pickle.dumps(ladder))):
        for by in WAYS:
            mine, theirs = (m.score_table(FRESH[:20], by=by)[0] for m in (ladder, other))
            assert mine.equals(theirs)
            assert ladder.scoring(by).alarm == other.scoring(by).alarm


def changed(trained, change):
    """The model whose documents are those of `trained` after a change of its calibration."""
    documents = copy.deepcopy(trained.documents())
    change(documents["calibration.json"])
    return restored(documents, {n: t.numpy() for n, t in trained.model.state_dict().items()})


def test_a_model_of_an_earlier_version_lacks_only_the_levels(ladder):
    earlier = changed(ladder, lambda held: held.pop("further"))
    for by in ("likelihood", "typicality"):
        table = earlier.score_table(FRESH[:9], by=by)[0]
        assert table.equals(ladder.score_table(FRESH[:9], by=by)[0])
    with pytest.raises(UsageError, match="earlier version") as refused:
        earlier.score_table(FRESH[:9], by="levels")
    assert refused.value.code == "E258"
    assert refused.value.fix.endswith("lowerbound fit DATA --out M.vae")


def test_what_earlier_versions_read_is_where_it_was(ladder, plain):
    assert {"scores", "alarm"} < ladder.documents()["calibration.json"].keys()
    held = plain.documents()["calibration.json"]
    assert held["scores"] == plain.calibration.scores.tolist()
    assert held["alarm"] == plain.alarm._asdict()
    assert held["further"] == {}


def test_what_a_later_version_adds_is_left_alone(ladder):
    later = changed(ladder, lambda held: held["further"].update(auras={"hue": "green"}))
    assert later.further.keys() == {"levels"}


def test_levels_are_measured_as_they_were_calibrated(ladder):
    """Whatever k and how many draws a later version takes by default."""
    held = ladder.documents()["calibration.json"]["further"]["levels"]
    assert held["measure"] == {"k": 1, "samples": 8}
    other = changed(ladder, lambda h: h["further"]["levels"]["measure"].update(samples=2))
    rows = ladder.encode(FRESH[:9])[1].rows
    found = other.score_table(FRESH[:9], by="levels")[0]["anomaly_score"]
    assert np.array_equal(found, level_ratio(ladder.model, rows, 1, 2).numpy())


@pytest.mark.parametrize(
    ("asked", "code", "told", "fix"),
    [
        ({"by": "typicalty"}, "E241", "likelihood, typicality, levels", "--by typicality"),
        ({"by": "levels"}, "E258", "one level of latents", "--by typicality"),
        ({"by": "typicality", "explain": 2}, "E236", "--explain", "by likelihood"),
    ],
)
def test_what_cannot_be_is_refused(plain, asked, code, told, fix):
    with pytest.raises(UsageError) as refused:
        plain.score_table(FRESH[:9], **asked)
    assert refused.value.code == code
    assert told in refused.value.message
    assert fix in refused.value.fix


def test_only_hierarchies_that_are_no_codes_have_levels_to_compare():
    refusals = {n: levels_lacking(find(RECIPES[n].recipe), recipe(n)) for n in RECIPES}
    able = {name for name, refused in refusals.items() if refused is None}
    assert {"ladder", "ladder without batch norm", "ladder of plain posteriors"} <= able
    assert able >= TOWERS
    for name in HIERARCHIES_OF_CODES:
        assert "codes" in refusals[name].message
    for name in RESTORING:
        assert (
            refusals[name].fix == f"lowerbound {RECIPES[name].recipe} M.vae PICTURES --out FOLDER"
        )
    assert all(len(recipe(name).levels) > 1 for name in able)


def test_the_estimator_has_them_too():
    vae = quick(recipe="ladder", latent=None, alarm_rate=0.1).fit(correlated(400))
    for by in WAYS:
        table = vae.score_table(FRESH[:30], by=by)
        assert table.dtype.names == ("anomaly_score", "p_value", "is_anomaly")
        assert isinstance(vae.trained_.scoring(by), Scoring)
    assert not np.array_equal(
        vae.score_table(FRESH[:30], by="levels")["anomaly_score"], vae.anomaly_score(FRESH[:30])
    )
