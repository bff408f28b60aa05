"""What a column holds is told from its cells and its name, and can be overruled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lowerbound.columns.schema import infer
from lowerbound.files.read import read

RNG = np.random.default_rng(3)


def kind(cells, name="a", **options):
    other = pa.array(np.arange(len(cells)) * 1.5)
    schema = infer(pa.table({name: cells, "other": other}), **options)
    return schema.columns[0].kind


def column(cells, name="a", **options):
    return infer(pa.table({name: cells, "other": np.arange(len(cells)) * 1.5}), **options).columns[
        0
    ]


INTEGERS = {
    "ages": (RNG.integers(18, 90, 500), "real"),
    "years": (RNG.integers(1990, 2020, 500), "real"),
    "poisson": (RNG.poisson(0.8, 500), "count"),
    "overdispersed": (RNG.negative_binomial(0.5, 0.05, 500), "count"),
    "grades": (RNG.integers(1, 5, 500), "real"),
    "one or two": (RNG.integers(1, 3, 500), "binary"),
    "negative": (-RNG.poisson(0.8, 500), "real"),
    "sparse amounts": (np.where(RNG.random(500) < 0.9, 0, RNG.integers(1, 99_999, 500)), "real"),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name):
    values, wanted = INTEGERS[name]
    assert kind(values) == wanted


@pytest.mark.parametrize("name", ["poisson", "ages", "one or two"])
def test_integers_with_gaps_are_the_same_as_pandas_floats(name):
    values = INTEGERS[name][0].astype(float)
    values[::7] = np.nan
    assert kind(values) == INTEGERS[name][1]


def test_heavy_tails_are_positive_and_symmetric_ones_real():
    assert kind(np.exp(RNG.normal(size=500) * 1.5)) == "positive"
    assert kind(RNG.normal(10, 1, 500)) == "real"
    assert kind(np.exp(RNG.normal(size=500) * 1.5) - 1) == "real"


def test_zeros_of_a_heavy_tail_are_an_atom_however_few():
    values = np.exp(RNG.normal(size=500) * 1.5)
    values[:3] = 0
    found = column(values)
    assert (found.kind, found.atoms) == ("positive", (0.0,))
    assert column(values, exclude_atoms=True).kind == "real"


def test_rounded_numbers_have_no_atoms():
    assert column(np.round(RNG.normal(size=300), 1)).atoms == ()
    assert column(RNG.integers(0, 40, 300)).kind != "positive"


@pytest.mark.parametrize(
    "name", ["id", "ID", "user_id", "userId", "customerid", "row_number", "uuid"]
)
def test_names_of_ids(name):
    assert kind(RNG.permutation(500), name) == "id"
    assert kind(pa.array([f"k{i}" for i in range(500)]), name) == "id"


@pytest.mark.parametrize("name", ["paid", "covid", "width", "bid", "video", "humidity"])
def test_names_that_only_look_like_ids(name):
    assert kind(RNG.permutation(500), name) == "real"


def test_numbers_beyond_15_digits_are_ids():
    assert kind(RNG.integers(2**60, 2**62, 500)) == "id"
    assert kind(RNG.integers(2**60, 2**62, 500).astype(float)) == "real"


def test_an_id_of_few_values_is_a_category():
    assert kind(RNG.integers(0, 9, 500), "store_id") == "categorical"


def test_leading_zeros_stay_text():
    codes = pa.array([f"{i:05d}" for i in range(500)])
    assert kind(codes) == "id"
    zips = pa.array([f"0{i % 90:04d}" for i in range(500)])
    found = column(zips, "zip")
    assert (found.kind, found.levels[0]) == ("categorical", "00000")


def test_free_text_and_labels():
    words = ["slow", "fast", "late", "never", "again", "broken", "fine"]
    notes = [" ".join(RNG.choice(words, 6)) + f" {i}" for i in range(200)]
    assert kind(pa.array(notes)) == "text"
    assert kind(pa.array([f"merchant {i % 60}" for i in range(500)])) == "categorical"
    assert kind(pa.array([f"{RNG.integers(1e9):x}" for _ in range(500)])) == "id"


def test_a_rare_level_keeps_its_own_code():
    found = column(pa.array(["common"] * 300 + ["usual"] * 199 + ["rare"]))
    assert found.levels == ("common", "rare", "usual")
    assert "1 level" in found.notes[0]


def test_constant_and_empty_columns():
    found = column(pa.array([7] * 20))
    assert (found.kind, found.value) == ("constant", "7")
    assert column(pa.nulls(20)).kind == "constant"
    assert column(pa.array([np.nan] * 20)).kind == "constant"
    assert column(pa.array(["?", "", "NA", None] * 5)).kind == "constant"
    table = pa.table({"k": [7] * 20, "x": np.arange(20) * 1.5})
    schema = infer(table)
    assert schema.modelled == ("x",)
    assert schema.decode(schema.encode(table).values)["k"].to_pylist() == [7] * 20


def test_a_constant_with_gaps_says_so():
    (note,) = column(pa.array(["x", None] * 10)).notes
    assert "where it is not missing" in note


def test_numbers_as_text():
    found = column(pa.array([f"{v:.3f}" for v in RNG.normal(size=200)]))
    assert found.kind == "real"
    assert found.notes == ("numbers stored as text",)


def test_question_marks_are_missing():
    found = column(pa.array(["a", "b", " ?", "a", "b", "NA"] * 10))
    assert (found.kind, found.missing) == ("binary", 20)


def test_none_is_a_level_but_na_is_not():
    found = column(pa.array(["None", "-", "NA", "full"] * 10))
    assert set(found.levels) == {"None", "-", "full"}


def test_dates_in_text():
    assert kind(pa.array([f"2024-02-{d:02d}" for d in range(1, 29)])) == "datetime"
    assert kind(pa.array([f"2024-02-{d:02d}T10:{d:02d}:00Z" for d in range(1, 29)])) == "datetime"
    assert kind(pa.array([f"{d:02d}/01/2024 08:00" for d in range(1, 32)])) == "datetime"
    assert kind(pa.array([f"01/{d:02d}/2024" for d in range(1, 32)])) == "datetime"
    unclear = column(pa.array([f"{d:02d}/{m:02d}/2024" for d in range(1, 9) for m in range(1, 9)]))
    assert unclear.kind in ("id", "text")
    assert "cannot be told" in unclear.notes[0]


def test_a_pandas_category_is_a_category():
    frame = pd.DataFrame({"c": pd.Categorical(["x", "y", "z", "x"] * 9), "v": np.arange(36) * 1.1})
    assert infer(read(frame).table).columns[0].kind == "categorical"


# --- overruling ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted", ["real", "count", "categorical", "ordinal", "id", "text", "cat", "numeric"]
)
def test_a_kind_can_be_forced(wanted):
    found = kind(RNG.integers(0, 9, 50), types={"a": wanted})
    assert found == {"cat": "categorical", "numeric": "real"}.get(wanted, wanted)


def test_patterns_and_exact_names():
    table = pa.table({f"x{j}": RNG.poisson(1, 60) for j in range(4)})
    schema = infer(table, types={"x*": "real", "x2": "count"}, drop=["x0"])
    assert {c.name: c.kind for c in schema.columns} == {"x1": "real", "x2": "count", "x3": "real"}


def test_a_name_with_a_star_is_itself():
    table = pa.table({"a*": [1.5, 2.5, 9.1], "ab": [1.5, 2.5, 4.4]})
    assert [c.name for c in infer(table, drop=["a*"]).columns] == ["ab"]


def test_forcing_a_constant_column_leaves_it_constant():
    for wanted in ("real", "count", "categorical", "binary", "datetime"):
        assert kind(pa.nulls(9), types={"a": wanted}) == "constant"
    assert kind(pa.array([3.0] * 9), types={"a": "real"}) == "constant"


def test_types_may_be_dropped_with_their_column():
    table = pa.table({"v": [[1], [2]], "x": [1.5, 2.5]})
    assert infer(table, drop=["v"]).modelled == ("x",)


def test_describe():
    table = pa.table(
        {
            "amount": np.exp(RNG.normal(size=200) * 2),
            "city": pa.array([f"c{i % 40}" for i in range(200)]),
            "key": pa.array([f"k{i}" for i in range(200)]),
            "t": pa.array([f"2024-01-{i % 28 + 1:02d}" for i in range(200)]),
            "gap": pa.array([None if i % 4 == 0 else i * 0.7 for i in range(200)]),
        }
    )
    rows = infer(table).describe()
    assert [set(row) for row in rows] == [{"column", "kind", "done", "missing", "notes"}] * 5
    done = {row["column"]: row["done"] for row in rows}
    assert done == {
        "amount": "log, then standardised",
        "city": "40 levels",
        "key": "ignored",
        "t": "week, weekday",
        "gap": "standardised",
    }
    assert rows[4]["missing"] == 0.25
    assert rows[4]["notes"].startswith("25.0% missing")
