"""Nearest usual rows: under the threshold, with as few changed columns as suffice."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import lowerbound
from lowerbound.errors import UsageError


def table(rows, seed):
    """Two numbers that depend on each other, a category, a date, a constant and gaps."""
    rng = np.random.default_rng(seed)
    size = rng.normal(50, 10, rows)
    frame = pd.DataFrame(
        {
            "id": [f"k{i:05d}" for i in range(rows)],
            "size": size.round(1),
            "weight": (3 * size + rng.normal(0, 3, rows)).round(1),
            "colour": rng.choice(["red", "blue", "green"], rows, p=[0.6, 0.3, 0.1]),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 9000, rows), "h"),
            "visits": rng.poisson(3, rows),
            "source": "web",
        }
    )
    frame.loc[rng.random(rows) < 0.1, "visits"] = np.nan
    return frame


@pytest.fixture(scope="module")
def model():
    options = {"preset": "fast", "max_epochs": 25, "device": "cpu", "settings": {"chain": None}}
    return lowerbound.fit(table(1500, 0), alarm_rate="2%", **options)


@pytest.fixture(scope="module")
def unusual():
    frame = table(8, 1)
    frame.loc[0, "weight"] = 20.0  # of a size of about 50
    frame.loc[1, ["size", "visits"]] = [95.0, 40]
    frame.loc[2, "colour"] = "violet"
    frame.loc[3, "source"] = "shop"
    frame.loc[4, ["size", "weight", "visits"]] = [5.0, 400.0, 60]
    return frame


@pytest.fixture(scope="module")
def found(model, unusual):
    return model.counterfactual(unusual)


def names(text):
    return text.split(", ") if text else []


def test_the_score_comes_under_the_threshold(model, unusual, found):
    before, after = model.score(unusual), model.score(found[unusual.columns])
    assert (found["score_before"] == before["anomaly_score"]).all()
    assert (found["score_after"] == after["anomaly_score"]).all()
    assert before["is_anomaly"][:5].sum() >= 4
    assert not after["is_anomaly"].any()
    assert (found["changed"] == "")[~before["is_anomaly"]].all()
    assert (found["changed"] != "")[before["is_anomaly"]].all()


def test_values_that_are_not_named_are_equal(unusual, found):
    for column in unusual.columns:
        changed = found["changed"].map(lambda text, column=column: column in names(text))
        kept = unusual[column][~changed]
        pd.testing.assert_series_equal(found[column][~changed], kept, check_dtype=False)
        now, then = found[column][changed], unusual[column][changed]
        assert (now != then).all()
        assert not now.isna().any()


def test_what_was_put_in_is_what_is_changed(unusual, found):
    assert found["changed"][0] in ("weight", "size")
    assert found["changed"][3] in ("source", "")
    if found["changed"][3]:
        assert found["source"][3] == "web"


def test_no_single_column_suffices_where_two_are_named(model, unusual, found):
    """Every column alone takes many other values: of other rows, of draws, and a grid."""
    other = pd.concat([table(120, 5), model.samples(120, seed=9).table.to_pandas()])
    several = [i for i in range(len(found)) if len(names(found["changed"][i])) > 1]
    assert several, "a row of this table needs two changes"
    for i in several:
        for column in ("size", "weight", "colour", "when", "visits", "source"):
            tried = pd.concat([unusual.iloc[[i]]] * len(other), ignore_index=True)
            tried[column] = other[column].to_numpy()
            keep = tried[column].notna()
            assert model.score(tried[keep])["is_anomaly"].all(), (i, column)


def test_numbers_move_no_further_than_they_must(model, unusual, found):
    """Halfway between the given and the changed number, a row is still unusual."""
    moved = 0
    for i in range(len(found)):
        changed = names(found["changed"][i])
        if len(changed) == 1 and changed[0] in ("size", "weight"):
            half = found[unusual.columns].iloc[[i]].copy()
            half[changed[0]] = (unusual[changed[0]][i] + found[changed[0]][i]) / 2
            assert model.score(half)["is_anomaly"].all()
            moved += 1
    assert moved


def test_a_row_does_not_depend_on_the_others(model, unusual, found):
    alone = model.counterfactual(unusual.iloc[[1]].reset_index(drop=True))
    one = found.iloc[[1]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, one, check_dtype=False)


def test_the_result_is_of_the_type_of_the_data(model, unusual):
    rows = pa.Table.from_pandas(unusual, preserve_index=False)
    made = model.counterfactual(rows)
    assert isinstance(made, pa.Table)
    assert made.column_names == [*unusual.columns, "score_before", "score_after", "changed"]
    taken = rows.append_column("score_before", pa.array(range(len(rows))))
    assert "score_before of input" in model.counterfactual(taken).column_names


def test_other_models_are_refused():
    counts = np.random.default_rng(0).poisson(2, (60, 4))
    model = lowerbound.fit(counts, "counts", max_epochs=1, preset="fast", device="cpu")
    with pytest.raises(UsageError, match="models of tables only") as caught:
        model.counterfactual(counts)
    assert caught.value.code == "E246"
