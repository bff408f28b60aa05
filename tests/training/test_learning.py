"""From raw data to a model: every recipe, every objective, and densities of the raw values."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import sparse

from lowerbound import Model, Plan
from lowerbound.errors import DataError, UsageError
from lowerbound.tasks import draws
from lowerbound.training.fit import learn
from lowerbound.training.split import Split

QUICK = {"preset": "fast", "max_epochs": 3}


def rows(n=400, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "a": hidden + 0.3 * rng.normal(size=n),
            "b": -2 * hidden + 0.3 * rng.normal(size=n),
            "amount": np.exp(1 + hidden + 0.2 * rng.normal(size=n)),
            "label": np.where(hidden + 0.3 * rng.normal(size=n) > 0, "up", "down"),
            "place": rng.choice(["x", "y", "z"], n, p=[0.6, 0.3, 0.1]),
        }
    )
    frame.loc[::17, "b"] = np.nan
    frame.loc[::23, "place"] = None
    return frame


@pytest.mark.parametrize("recipe", ["gaussian", "beta", "sigma"])
@pytest.mark.parametrize("gaps", [False, True])
def test_recipes_of_numbers(recipe, gaps):
    frame = rows()[["a", "b", "amount"]]
    frame = frame if gaps else frame.dropna()
    trained = learn(frame, Plan(recipe=recipe, **QUICK))
    assert np.isfinite(trained.anomaly_score(frame)).all()
    report = trained.evaluate(frame, samples=16)
    assert report["elbo"] <= -report["iw_nll"] + 0.2
    assert trained.samples(5).table.column_names == ["a", "b", "amount"]


@pytest.mark.parametrize("likelihood", ["optimal", "shared", "feature", "element", "student"])
def test_sigma_likelihoods(likelihood):
    frame = rows()[["a", "amount"]]
    plan = Plan(recipe="sigma", settings={"likelihood": likelihood}, **QUICK)
    assert np.isfinite(learn(frame, plan).anomaly_score(frame)).all()


def test_recipes_of_numbers_say_so_when_a_column_is_text():
    with pytest.raises(DataError, match="label") as caught:
        learn(rows(), Plan(recipe="sigma", **QUICK))
    assert caught.value.code == "E071"


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_counts_from_a_sparse_matrix(likelihood):
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(1.0, 2.0, (300, 30))))
    trained = learn(counts, Plan(recipe="counts", settings={"likelihood": likelihood}, **QUICK))
    assert np.isfinite(trained.anomaly_score(counts)).all()
    drawn = trained.samples(50).table.to_pandas().to_numpy()
    assert drawn.min() >= 0
    assert 0.2 < drawn.sum(1).mean() / counts.sum(1).mean() < 5


def test_counts_refuse_what_is_no_count():
    values = np.log1p(np.random.default_rng(0).poisson(3.0, (50, 4)))
    with pytest.raises(DataError, match="log-normalised") as caught:
        learn(values, Plan(recipe="counts", **QUICK))
    assert caught.value.code == "E073"


SHORT = {"preset": "fast", "max_epochs": 8}
ALONE = {"chain": None}  # of tests that draw no rows


@pytest.fixture(scope="module")
def plain():
    """Scores by a model of default settings."""
    return learn(rows(), Plan(settings=ALONE, **SHORT)).anomaly_score(rows())


@pytest.mark.parametrize(
    "settings",
    [
        {"free_bits": 0.1},
        {"capacity": 2.0},
        {"iwae": 4},
        {"theta_prior": "normal:1.0"},
        {"theta_prior": "laplace:0.1"},
        {"likelihood": "laplace"},
        {"gaps": 0.2},
        {"hidden": [16]},
    ],
)
def test_settings_of_the_objective_and_the_model_take_effect(plain, settings):
    other = learn(rows(), Plan(settings=ALONE | settings, **SHORT)).anomaly_score(rows())
    assert np.isfinite(other).all()
    assert not np.allclose(plain, other)


def test_a_strong_prior_on_theta_shrinks_the_weights():
    def size(settings):
        model = learn(rows(), Plan(settings=ALONE | settings, preset="fast", max_epochs=60)).model
        vae = (p for name, p in model.named_parameters() if not name.startswith("rows."))
        return sum(p.square().sum().item() for p in vae)

    assert size({"theta_prior": "normal:0.01"}) < 0.7 * size({})


@pytest.mark.parametrize("text", ["normal", "cauchy:1", "normal:-1", "normal:x"])
def test_a_prior_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="theta_prior"):
        learn(rows(60), Plan(settings={"theta_prior": text}, **QUICK))


def test_latent_auto_keeps_what_is_in_use():
    frame = rows(300)[["a", "b", "amount"]]
    frame["twin"] = frame["a"]
    trained = learn(frame, Plan(preset="fast", latent="auto", max_epochs=40, settings=ALONE))
    wide = learn(frame, Plan(preset="fast", max_epochs=2, settings=ALONE))
    assert trained.latent <= wide.latent
    assert trained.latent == trained.facts["health"]["latent"]


@pytest.mark.parametrize(
    ("name", "transform"),
    [("a", "standard"), ("a", "quantile"), ("a", "blend"), ("amount", "blend")],
)
def test_the_density_of_raw_values_integrates_to_one(name, transform):
    frame = rows(600)[[name]]
    trained = learn(frame, Plan(transform=transform, settings=ALONE, **QUICK))
    low, high = frame[name].min(), frame[name].max()
    margin = 4 * (high - low)
    bottom = 1e-6 if name == "amount" else low - margin
    # The slope of the coding jumps at every quantile: the grid is fine where they are.
    inner, tail = np.linspace(low, high, 24_001), np.linspace(high, high + margin, 2001)
    grid = np.unique(np.concatenate([np.linspace(bottom, low, 2001), inner, tail]))
    log_p = trained.log_likelihood(pd.DataFrame({name: grid}), samples=32)
    mass = np.trapezoid(np.exp(log_p), grid)
    assert mass == pytest.approx(1.0, abs=0.02)


def test_a_change_of_unit_does_not_change_the_ranking():
    frame, other = rows()[["a", "b"]].dropna(), rows()[["a", "b"]].dropna()
    other["a"] = 1000 * other["a"] + 7
    plan = Plan(settings=ALONE, **QUICK)
    one = learn(frame, plan).anomaly_score(frame)
    two = learn(other, plan).anomaly_score(other)
    assert np.corrcoef(one.argsort().argsort(), two.argsort().argsort())[0, 1] > 0.99


def test_a_column_that_was_constant_and_changes_is_surprising():
    frame = rows(200)
    frame["site"] = "home"
    trained = learn(frame, Plan(**QUICK))
    moved = frame.assign(site="away")
    gain = trained.anomaly_score(moved) - trained.anomaly_score(frame)
    np.testing.assert_allclose(gain, np.log(202.0))


def test_unseen_categories_are_counted_scored_by_laplace_and_never_drawn():
    frame = rows(300)
    trained = learn(frame, Plan(**QUICK))
    new = frame.head(20).assign(place="moon")
    _, coded = trained.encode(new)
    assert coded.unseen == {"place": 20}
    gain = trained.anomaly_score(new) - trained.anomaly_score(frame.head(20).assign(place=None))
    assert np.median(gain) == pytest.approx(np.log(302.0), abs=2.0)
    assert set(trained.samples(3000).table["place"].to_pylist()) <= {"x", "y", "z"}


def test_saved_and_loaded_models_are_the_same(tmp_path):
    frame = rows()
    trained = learn(frame, Plan(**QUICK))
    trained.save(tmp_path / "m.vae")
    again = Model.load(tmp_path / "m.vae")
    assert (again.anomaly_score(frame) == trained.anomaly_score(frame)).all()
    assert again.alarm == trained.alarm
    assert again.samples(5, seed=1).table.equals(trained.samples(5, seed=1).table)


def test_imputation_leaves_what_was_observed_and_fills_the_rest():
    frame = rows()
    trained = learn(frame, Plan(**QUICK))
    filled = trained.impute(frame)
    for name in frame:
        seen = frame[name].notna()
        assert (filled[name][seen] == frame[name][seen]).all()
        assert filled[name].notna().all()
    copies = trained.impute(frame, draws=3)
    assert len(copies) == 3 * len(frame)
    assert copies.groupby("draw")["b"].sum().nunique() == 3


@pytest.mark.parametrize("settings", [{"chain": None}, {}], ids=["latents", "either"])
def test_a_filled_amount_is_its_mean_and_not_its_median(settings):
    amounts = np.random.default_rng(0).lognormal(3.0, 1.5, 600)
    table = pd.DataFrame({"amount": amounts, "other": np.random.default_rng(1).normal(size=600)})
    trained = learn(table, Plan(settings=settings, **QUICK))
    gaps = table.assign(amount=np.where(np.arange(600) < 20, np.nan, amounts))
    filled = trained.impute(gaps)["amount"][:20]
    assert filled.median() > 1.5 * np.median(amounts)  # the mean is three times the median
    assert filled.median() < 6 * np.median(amounts)


def test_a_number_on_an_atom_is_no_gap(monkeypatch):
    """Only rows with a missing cell cost anything."""
    rng = np.random.default_rng(0)
    gain = np.where(rng.random(400) < 0.6, 0.0, rng.normal(900, 90, 400))
    table = pa.table({"gain": gain, "age": rng.normal(40, 9, 400)})
    trained = learn(table, Plan(settings={"chain": None}, **QUICK))
    gaps = np.arange(400) % 100 == 0
    holes = table.set_column(1, "age", pa.array(table["age"].to_numpy(), mask=gaps))
    asked = []
    subset = draws.subset
    monkeypatch.setattr(draws, "subset", lambda rows, i: asked.append(i) or subset(rows, i))
    made = trained.impute(holes)
    assert [i.tolist() for i in asked] == [np.flatnonzero(gaps).tolist()]
    assert made["gain"].equals(table["gain"])
    assert np.isfinite(made["age"].to_numpy()).all()
    assert trained.impute(table).equals(table)
    assert len(trained.impute(holes, draws=2)) == 800
    assert len(asked) == 2


def wrapped(kind, storage):
    """Return a function that gives text that layout."""

    def give(cells):
        return pa.ExtensionArray.from_storage(kind, cells.cast(storage))

    return give


LAYOUTS = {
    "text": lambda cells: cells,
    "codes": pc.dictionary_encode,
    "view": lambda cells: cells.cast(pa.string_view()),
    "codes of views": lambda cells: pa.DictionaryArray.from_arrays(
        cells.dictionary_encode().indices,
        cells.dictionary_encode().dictionary.cast(pa.string_view()),
    ),
    "runs": pc.run_end_encode,
    "extension": wrapped(pa.json_(pa.string()), pa.string()),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_words_that_say_missing_are_filled(layout):
    """A dash is a number that is not there, and as a category an honest level."""
    rng = np.random.default_rng(0)
    place = rng.choice(["north", "south", "-", " ? ", "NA", ""], 300)
    number = np.where(rng.random(300) < 0.2, "-", rng.normal(9, 2, 300).round(2).astype(str))
    table = pa.table({"place": layout(pa.array(place)), "number": pa.array(number)})
    trained = learn(table, Plan(**QUICK))
    made = trained.impute(table)
    assert made.schema.types == table.schema.types
    found, gone = np.array(made["place"].to_pylist()), np.isin(place, [" ? ", "NA", ""])
    assert set(found[gone]) <= {"north", "south", "-"}
    assert (found[~gone] == place[~gone]).all()
    found, gone = np.array(made["number"].to_pylist()), number == "-"
    assert np.isfinite(found[gone].astype(float)).all()
    assert (found[~gone] == number[~gone]).all()


@pytest.mark.parametrize(
    ("n", "parts"),
    [
        (2, (1, 1, 1)),
        (9, (8, 8, 1)),
        (10, (7, 2, 1)),
        (100, (80, 10, 10)),
        (999, (801, 99, 99)),
        (5000, (4000, 500, 500)),
        (200_000, (186_000, 4000, 10_000)),
    ],
)
def test_calibration_rows_are_never_trained_or_stopped_on(n, parts):
    split = Split.of(n, 0)
    assert (len(split.train), len(split.valid), len(split.calibration)) == parts
    used = set(np.concatenate([split.train, split.valid]).tolist())
    assert sorted([*used, *split.calibration.tolist()]) == list(range(n))


def test_one_row_is_too_few():
    with pytest.raises(DataError):
        learn(rows(1), Plan(**QUICK))


@pytest.mark.parametrize(
    "bad",
    [
        {"preset": "quick"},
        {"recipe": "tabel"},
        {"transform": "log"},
        {"alarm_rate": 0},
        {"alarm_rate": 1.5},
        {"max_epochs": 0},
        {"time_limit": -1},
        {"latent": 0},
        {"latent": "many"},
        {"seed": -1},
    ],
)
def test_plans_that_cannot_work_are_refused_before_any_data_are_read(bad):
    with pytest.raises(UsageError) as caught:
        Plan(**bad)
    assert caught.value.fix


def test_no_statistic_of_a_column_comes_from_the_calibration_rows():
    frame = rows(300)[["a"]].assign(label="up", visits=0, day=pd.Timestamp("2024-03-04"))
    frame["label"] = np.array(["up", "down", "left"])[np.arange(300) % 3]
    frame["visits"] = np.arange(300) % 7
    frame["day"] += pd.to_timedelta(np.arange(300) % 50, unit="D")
    held = int(Split.of(300, 0).calibration[0])
    frame.loc[held, ["a", "label", "visits"]] = 50.0, "sideways", 99
    frame.loc[held, "day"] = pd.Timestamp("2024-12-24")
    trained = learn(frame, Plan(types={"visits": "count"}, **QUICK))
    a, label, *_ = trained.coding.schema.columns
    others = frame.drop(index=Split.of(300, 0).calibration.numpy())
    assert a.rows == 270
    assert a.mean == pytest.approx(others["a"].mean())
    assert "sideways" not in label.levels
    assert trained.anomaly_score(frame.iloc[[held]])[0] > 10  # as it will be in new rows
    # Draws and conditions may go wherever the data went.
    asked = {"a": 50.0, "visits": 99, "day": pd.Timestamp("2024-12-24")}
    assert trained.coding.asked(asked).cells["visits"].to_pylist() == [99]


def test_kinds_of_columns_are_those_of_all_rows():
    frame = rows(300)[["a", "b"]].assign(mark=0.0)
    frame.loc[int(Split.of(300, 0).calibration[0]), "mark"] = 1.0  # constant without this row
    trained = learn(frame, Plan(**QUICK))
    columns = trained.coding.schema.columns
    assert [column.kind for column in columns] == ["real", "real", "binary"]
    assert [column.rows for column in columns] == [270, 270, 300]
