"""Measures of drawn rows against real ones: exact values, intervals that hold, and the report."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB

from lowerbound.columns.schema import infer
from lowerbound.errors import UsageError
from lowerbound.recipes import RECIPES
from lowerbound.tasks import compare
from lowerbound.tasks.compare import (
    aligned,
    auc,
    c2st,
    impossible,
    nearness,
    pair_errors,
    relabelled,
    shape_errors,
    utility,
)
from lowerbound.tasks.compare_report import Compared, report, table_coding


def rows(n, seed, shift=0.0):
    """Two dependent numbers, a category that depends on them, and a count."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) + shift
    kind = np.where(x + rng.normal(size=n) > 0.5, "high", rng.choice(["low", "middle"], n))
    y = x + 0.5 * rng.normal(size=n)
    return pa.table({"x": x, "y": y, "kind": kind, "count": rng.poisson(2, n)})


def numbers(n, seed):
    rng = np.random.default_rng(seed)
    return pa.table({"x": rng.normal(size=n), "y": rng.normal(size=n)})


def bayes(categorical):
    return GaussianNB()


# Whether a classifier can tell


def test_rows_of_one_distribution_cannot_be_told_apart():
    found = c2st(rows(700, 0), rows(600, 1))
    assert found.rows == 600
    assert found.score.low < 1 - 1e-3 < found.score.high
    assert found.auc.low < 0.5 < found.auc.high
    assert found.score.value > 0.85


def test_other_rows_are_told_apart():
    found = c2st(rows(600, 0), rows(600, 1, shift=1.5))
    assert found.auc.value > 0.8
    assert found.score.value == pytest.approx(2 * (1 - found.auc.value))
    assert found.score.high < 0.5
    changed = rows(600, 1).set_column(2, "kind", [["other"] * 600])
    assert c2st(rows(600, 0), changed).score.value < 0.01


def test_dependence_alone_is_told():
    real, drawn = rows(600, 0), rows(600, 1)
    apart = drawn.set_column(1, "y", [drawn["y"].to_numpy()[::-1]])
    assert c2st(real, apart).score.high < 0.7


def test_the_interval_of_the_auc_holds_its_value_under_equality():
    inside = [
        abs(each.value - 0.5) <= each.high - each.value
        for seed in range(100)
        for each in [
            c2st(numbers(80, (seed, 0)), numbers(80, (seed, 1)), classifier=bayes, seed=seed).auc
        ]
    ]
    assert sum(inside) >= binom.ppf(1e-4, 100, 0.92)


def test_any_classifier_can_be_the_judge():
    seen = []

    class Judge(GaussianNB):
        def fit(self, x, y):
            seen.append(x)
            return super().fit(np.nan_to_num(x), y)

        def predict_proba(self, x):
            return super().predict_proba(np.nan_to_num(x))

    def make(categorical):
        assert categorical.tolist() == [False, False, True, False]
        return Judge()

    found = c2st(rows(90, 0), rows(90, 1, shift=3.0), classifier=make)
    assert [len(x) for x in seen] == [120, 120, 120]
    assert set(np.concatenate(seen)[:, 2]) == {0.0, 1.0, 2.0}
    assert found.score.value < 0.3


def test_gaps_in_numbers_do_not_tell_but_those_in_categories_do():
    real = rows(600, 0)
    gaps = pa.array(np.where(np.arange(600) % 3 == 0, np.nan, real["x"].to_numpy()))
    assert c2st(real.set_column(0, "x", gaps), rows(600, 1)).auc.low < 0.5
    kinds = [None if i % 3 == 0 else kind for i, kind in enumerate(real["kind"].to_pylist())]
    told = c2st(real.set_column(2, "kind", [kinds]), rows(600, 1))
    assert told.auc.value == pytest.approx(2 / 3, abs=0.06)  # a third is known to be real


def test_numbers_without_any_value_are_left_out():
    real = rows(90, 0).set_column(0, "x", [pa.nulls(90, pa.float64())])
    few = pa.array([None] * 89 + [1.0], pa.float64())
    for gaps in (real, real.set_column(0, "x", few)):
        assert c2st(gaps, rows(90, 1)).auc.low < 0.5
        assert utility(gaps, rows(60, 1), "y").value.value > -1
        assert utility(rows(90, 1), gaps, "y").value.value > -1


def test_categories_of_many_levels_are_read():
    rng = np.random.default_rng(0)
    real, drawn = (
        pa.table({"town": [f"t{i}" for i in rng.zipf(1.3, 500) % 2000]}) for _ in range(2)
    )
    assert len(set(real["town"].to_pylist() + drawn["town"].to_pylist())) > 255
    found = c2st(real, drawn).auc
    assert found.low < 0.5 < found.high  # also where levels are kept or not by the order of rows


# The area under a curve


def test_the_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 9, 70).astype(float), rng.integers(2, 12, 50).astype(float)
    found = auc(low, high)
    labels, scores = np.repeat([0, 1], [70, 50]), np.concatenate([low, high])
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert auc(high, low).value == pytest.approx(1 - found.value)


def test_the_error_of_the_auc_is_that_of_many_samples():
    rng = np.random.default_rng(0)
    found = [auc(rng.normal(size=60), rng.normal(1, 2, size=90)) for _ in range(400)]
    spread = np.std([each.value for each in found])
    told = np.mean([(each.high - each.low) / (2 * 1.959964) for each in found])
    assert told == pytest.approx(spread, rel=0.12)


# Columns and pairs of columns


def test_errors_of_columns_are_exact():
    real = pa.table({"n": [1.0, 2.0, 3.0, 4.0], "c": ["a", "a", "b", "b"]})
    drawn = pa.table({"n": [1.0, 1.5, 9.0, 9.0], "c": ["a", "b", "b", "d"]})
    assert shape_errors(real, drawn) == {"n": pytest.approx(0.5), "c": pytest.approx(0.25)}
    assert shape_errors(real, real) == {"n": 0.0, "c": 0.0}


def test_missing_numbers_are_left_out_and_missing_categories_are_a_level():
    real = pa.table({"n": [1.0, 2.0, None, np.nan], "c": ["a", "a", None, "?"]})
    drawn = pa.table({"n": [1.0, 2.0, 1.0, 2.0], "c": ["a", "a", "a", "a"]})
    assert shape_errors(real, drawn) == {"n": 0.0, "c": 0.5}
    empty = pa.table({"n": pa.array([None] * 4, pa.float64())})
    assert shape_errors(empty, drawn) == {}


def test_errors_of_two_numbers_are_half_the_difference_of_their_correlations():
    real, drawn = rows(200, 0), rows(300, 1, shift=4.0)
    found = pair_errors(real, drawn)
    wanted, got = (np.corrcoef(t["x"], t["y"])[0, 1] for t in (real, drawn))
    assert found["x", "y"] == pytest.approx(abs(wanted - got) / 2)
    assert len(found) == 6


def test_correlations_use_the_rows_where_both_are_known():
    real = rows(200, 0)
    x, y = real["x"].to_numpy().copy(), real["y"].to_numpy().copy()
    x[::3], y[::4] = np.nan, np.nan
    both = ~(np.isnan(x) | np.isnan(y))
    gaps = pa.table({"x": 1e200 * x, "y": 5 + 1e-200 * y})
    found = pair_errors(gaps, rows(200, 1).select(["x", "y"]))
    got = np.corrcoef(rows(200, 1)["x"], rows(200, 1)["y"])[0, 1]
    wanted = np.corrcoef(x[both], y[both])[0, 1]
    assert found == {}  # 5 + 1e-200 is 5
    scaled = pa.table({"x": 1e200 * x, "y": 1e-200 * y})
    found = pair_errors(scaled, rows(200, 1).select(["x", "y"]))
    assert found["x", "y"] == pytest.approx(abs(wanted - got) / 2)


def test_a_number_without_spread_has_no_correlation():
    real, flat = numbers(50, 0), pa.table({"x": np.full(50, 0.1), "y": numbers(50, 1)["y"]})
    assert pair_errors(flat, real) == {}
    wanted = abs(np.corrcoef(real["x"], real["y"])[0, 1]) / 2
    assert pair_errors(real, flat)["x", "y"] == pytest.approx(wanted)


def test_errors_of_pairs_of_categories_and_of_mixed_pairs_are_exact(monkeypatch):
    real = pa.table({"a": ["p", "p", "q", "q"], "b": ["u", "u", "v", "v"]})
    drawn = pa.table({"a": ["p", "p", "q", "q"], "b": ["u", "v", "v", "v"]})
    assert pair_errors(real, drawn) == {("a", "b"): 0.25}
    real = pa.table({"n": np.arange(100.0), "c": np.repeat(["a", "b"], 50)})
    drawn = pa.table({"n": np.arange(100.0), "c": np.tile(["a", "b"], 50)})
    expected = pair_errors(real, drawn)
    assert expected == {("n", "c"): pytest.approx(0.5, abs=0.02)}
    monkeypatch.setattr(compare, "_COUNTED", 1)  # counted as sparse
    assert pair_errors(real, drawn) == {key: pytest.approx(v) for key, v in expected.items()}


def test_many_columns_are_compared_in_some_of_their_pairs():
    table = pa.table({f"c{i}": np.random.default_rng(i).normal(size=40) for i in range(9)})
    found = [pair_errors(table, table, most=7, seed=seed) for seed in (0, 0, 1)]
    assert [len(each) for each in found] == [7, 7, 7]
    assert found[0].keys() == found[1].keys() != found[2].keys()
    assert set(found[0].values()) == {0.0}


def test_relabelled_rows_differ_by_chance_only():
    real, drawn = rows(400, 0), rows(300, 1, shift=3.0)
    one, other = relabelled(real, drawn)
    assert (one.num_rows, other.num_rows) == (400, 300)
    together = pa.concat_tables([one, other])
    assert sorted(together["x"].to_pylist()) == sorted(
        real["x"].to_pylist() + drawn["x"].to_pylist()
    )
    assert np.mean(list(shape_errors(one, other).values())) < 0.1
    assert np.mean(list(shape_errors(real, drawn).values())) > 0.3


# Combinations that do not occur


@pytest.mark.parametrize("counted", [1 << 20, 1])
def test_impossible_pairs_are_counted_exactly(counted, monkeypatch):
    monkeypatch.setattr(compare, "_COUNTED", counted)
    sex = ["f"] * 60 + ["m"] * 60
    kin = ["wife"] * 20 + ["child"] * 40 + ["child"] * 60
    real = pa.table({"sex": sex, "n": np.tile([1.0, 2.5, 7.0], 40), "kin": kin})
    drawn = pa.table(
        {
            "sex": ["m", "m", "f", "m", "f", "x"],
            "n": [1.0, 2.5, 7.0, 1.0, 3.0, 1.0],
            "kin": ["wife", "wife", "wife", "child", "child", "wife"],
        }
    )
    found = impossible(real, drawn)
    assert found.share.value == pytest.approx(2 / 6)
    (pair,) = found.pairs
    assert pair == (("sex", "kin"), ("m", "wife"), 2, pytest.approx(60 * 20 / 120))
    assert impossible(real, drawn, least=10.5).share.value == 0
    every = pa.concat_tables([real, drawn.slice(0, 1)])
    assert impossible(every, drawn).pairs == []


def test_values_of_few_valued_numbers_make_pairs_and_missing_ones_none():
    a = np.repeat([0.0, 1.0], 100)
    real = pa.table({"a": a, "b": 5 * a, "free": np.random.default_rng(0).normal(size=200)})
    drawn = pa.table({"a": [0.0, 1.0, 0.0], "b": [5.0, 5.0, 4.0], "free": [0.0, 0.0, 0.0]})
    found = impossible(real, drawn)
    assert found.share.value == pytest.approx(1 / 3)
    assert found.pairs == [(("a", "b"), ("0", "5"), 1, pytest.approx(50.0))]
    gaps = pa.table({"a": np.where(a == 0, np.nan, a), "b": 5 * a, "free": real["free"]})
    assert impossible(gaps, drawn).pairs == []


def test_a_pair_is_expected_from_the_rows_where_both_are_known():
    a = np.repeat([0.0, 1.0], 100)
    b = np.where(np.arange(200) % 2, np.nan, a)
    found = impossible(pa.table({"a": a, "b": b}), pa.table({"a": [0.0], "b": [1.0]}))
    assert found.pairs[0].expected == pytest.approx(25.0)


# Usefulness


def test_a_predictor_learns_from_drawn_rows():
    real, test, useless = rows(500, 0), rows(300, 1), rows(500, 2)
    shuffled = np.random.default_rng(0).permutation(useless["kind"].to_pylist())
    useless = useless.set_column(2, "kind", [shuffled])
    good, bad = (utility(train, test, "kind") for train in (real, useless))
    assert good.measure == "accuracy"
    assert good.rows == 500
    assert good.value.low > bad.value.value
    number = utility(real, test, "y")
    assert number.measure == "R2"
    assert 0.5 < number.value.low < number.value.value < number.value.high < 0.9


def test_two_levels_are_measured_by_the_auc():
    real, test = (
        t.set_column(2, "kind", [[k if k == "high" else "other" for k in t["kind"].to_pylist()]])
        for t in (rows(400, 0), rows(300, 1))
    )
    found = utility(real, test, "kind")
    assert found.measure == "AUC"
    assert 0.65 < found.value.low < found.value.value < 0.95
    again = utility(real.take([*range(399, -1, -1)]), test, "kind", learner=bayes_of_numbers)
    assert again.value.value == pytest.approx(found.value.value, abs=0.1)
    constant = real.set_column(2, "kind", [["high"] * 400])
    assert utility(constant, test, "kind").value.value == 0.5


def bayes_of_numbers(categorical):
    assert not categorical.any()  # the target is no feature
    return GaussianNB()


def test_rows_without_the_target_are_left_out():
    train, test = rows(200, 0), rows(100, 1)
    gaps = pa.array([None if i < 50 else k for i, k in enumerate(train["kind"].to_pylist())])
    assert utility(train.set_column(2, "kind", gaps), test, "kind").rows == 150
    flat = test.set_column(2, "kind", [["high"] * 100])
    with pytest.raises(UsageError, match="all test rows have one value") as caught:
        utility(train, flat, "kind")
    assert caught.value.code == "E249"


# Privacy


def test_copies_of_learned_rows_are_nearer_to_them():
    learned, other = rows(300, 0), rows(300, 1)
    copies = nearness(learned, learned, other)
    assert copies.dcr_share.value > 0.99
    assert copies.nearest_ratio == 0.0
    assert copies.held_out_ratio > 0.3
    noisy = learned.set_column(0, "x", [learned["x"].to_numpy() + 1e-3])
    assert nearness(noisy, learned, other).dcr_share.low > 0.9


def test_new_rows_are_as_near_to_both_and_the_interval_holds():
    found = [
        nearness(numbers(100, (seed, 0)), numbers(60, (seed, 1)), numbers(60, (seed, 2)))
        for seed in range(100)
    ]
    inside = sum(each.dcr_share.low <= 0.5 <= each.dcr_share.high for each in found)
    assert inside >= binom.ppf(1e-4, 100, 0.92)
    ratios = [each.nearest_ratio - each.held_out_ratio for each in found]
    assert abs(np.mean(ratios)) < 0.03


def test_ties_count_half():
    table = pa.table({"c": ["a", "b"] * 20})
    found = nearness(table, table, table)
    assert found.dcr_share == (0.5, 0.5, 0.5)
    assert found.nearest_ratio == 1.0


def test_distances_are_those_of_gower():
    learned = pa.table({"n": [0.0, 10.0], "c": ["a", "b"]})
    other = pa.table({"n": [5.0, 20.0], "c": ["a", "a"]})
    known, _ = compare._scaled(aligned(learned, other))
    new = compare._scaled(aligned(learned, other, pa.table({"n": [9.0, None], "c": ["a", "b"]})))[
        2
    ]
    near, second, at = compare._two_nearest(new, known)
    assert near.tolist() == pytest.approx([9 / 20, 2.5 / 20])
    assert second.tolist() == pytest.approx([1 + 1 / 20, 1 + 7.5 / 20])
    assert at.tolist() == [0, 1]


# The report


def report_of(drawn_seed=2, target="kind", **changes):
    tables = {"real": rows(200, 0), "drawn": rows(200, drawn_seed), "learned": rows(250, 1)}
    scores = np.arange(50.0), np.arange(50.0) + 1000
    return report(Compared(**{**tables, **changes}, scores=scores, notes=("read",)), target)


def test_every_measure_has_a_meaning_and_plain_values():
    found = json.loads(json.dumps(report_of(), allow_nan=False))
    measures = ["c2st", "shape_error", "pair_error", "impossible", "utility", "utility_real"]
    measures += ["dcr_share", "nearest_ratio", "membership_auc"]
    assert list(found["meanings"]) == measures
    assert all(isinstance(found[name], float) for name in measures)
    assert found["membership_auc"] == 1.0
    assert found["rows"] == {"real": 200, "drawn": 200, "learned": 250}
    assert set(found["intervals"]) == set(measures) - {
        "shape_error",
        "pair_error",
        "nearest_ratio",
    }
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high
    assert found["by_chance"]["shape_error"] == pytest.approx(found["shape_error"], abs=0.06)
    assert [len(found["worst"][key]) for key in ("columns", "pairs", "impossible")] == [4, 5, 0]
    assert found["notes"][0] == "read"
    assert "missing" not in str(found["notes"])


def test_gaps_and_learned_rows_among_the_real_ones_are_told():
    real = rows(200, 0).set_column(0, "x", [[None] * 7 + rows(193, 0)["x"].to_pylist()])
    found = report_of(real=real, target=None)
    assert "7 missing values in 1 column" in found["notes"][1]
    assert "utility" not in found
    mixed = pa.concat_tables([rows(250, 1).slice(0, 100), rows(100, 0)])
    assert any("are also learned rows" in note for note in report_of(real=mixed)["notes"])


def test_one_column_has_no_pairs():
    real, drawn = (numbers(60, seed).select(["x"]) for seed in (0, 1))
    found = report(Compared(real, drawn))
    assert list(found["meanings"]) == ["c2st", "shape_error", "impossible"]


@pytest.mark.parametrize(
    ("coding", "restoration", "code"),
    [
        (SimpleNamespace(shape=(8, 8, 1)), None, "E246"),
        (SimpleNamespace(shape=()), None, "E246"),
        (SimpleNamespace(shape=(8, 8, 1)), RECIPES["denoise"].restoration, "E247"),
    ],
)
def test_models_of_other_things_are_refused(coding, restoration, code):
    recipe = SimpleNamespace(name="denoise", restoration=restoration)
    with pytest.raises(UsageError) as caught:
        table_coding(SimpleNamespace(coding=coding, recipe=recipe, command="denoise"))
    assert caught.value.code == code
    assert caught.value.fix


# Values that two tables share


def test_columns_are_read_the_same_however_they_are_written():
    when = np.datetime64("2024-01-01", "s") + np.arange(60) * np.timedelta64(5, "h")
    table = pa.table(
        {
            "n": np.linspace(0.5, 9.5, 60),
            "count": np.random.default_rng(0).poisson(3, 60),
            "code": [f"{i % 3}" for i in range(60)],
            "when": when,
            "flag": [bool(i % 2) for i in range(60)],
        }
    )
    schema = infer(table, types={"code": "categorical"})
    other = pa.table(
        {
            "flag": [str(i % 2) for i in range(60)],
            "when": [str(moment) for moment in when],
            "code": [i % 3 if i else 7 for i in range(60)],
            "count": table["count"].cast(pa.float32()),
            "n": [f"{value:.17g}" for value in table["n"].to_pylist()],
        }
    )
    one, same = schema.canonical(table), schema.canonical(other)
    assert one.schema == same.schema
    assert one["code"].to_pylist()[1:] == same["code"].to_pylist()[1:]
    assert same["code"][0].as_py() == "7"
    for name in ("n", "count", "when", "flag"):
        assert one[name].equals(same[name]), name
