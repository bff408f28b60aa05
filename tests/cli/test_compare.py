"""`compare` on the command line and in Python: what it prints, and what it refuses."""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest

import commands
import lowerbound
from lowerbound import Model
from lowerbound.errors import DataError
from lowerbound.files import data
from lowerbound.tasks import compare_report

MEASURES = ["c2st", "shape_error", "pair_error", "impossible"]
PRIVACY = ["dcr_share", "nearest_ratio", "membership_auc"]


@pytest.fixture
def real(folder):
    """The last 120 rows of the table; the others are in learned.csv."""
    names, *lines = (folder / "tx.csv").read_text("utf-8").splitlines()
    for name, some in (("learned.csv", lines[:-120]), ("real.csv", lines[-120:])):
        (folder / name).write_text("\n".join([names, *some]), "utf-8")
    return "real.csv"


def test_people_read_each_measure_with_its_meaning(run, real):
    done = run("compare", "tx.vae", real, "--learned", "learned.csv", "--target", "is_new")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    for name in [*MEASURES, "utility", "utility_real", *PRIVACY]:
        assert f"\n{name} " in done.out
    text = " ".join(done.out.split())
    assert "120 drawn rows and 120 real ones, 6 columns" in text
    assert "a classifier cannot tell drawn from real rows" in text
    assert "AUC of is_new predicted in real rows" in text
    assert "missing values in 1 column, and drawn rows have none" in text
    assert "worst columns error by chance" in text
    assert done.out.rstrip().endswith("lowerbound sample tx.vae -n 120 --out synthetic.csv")


def test_json_holds_what_python_returns(run, real):
    facts = run("compare", "tx.vae", real, "-n", "90", "--seed", str(2**40), "--json").facts
    model = Model.load("tx.vae")
    again = model.compare(pd.read_csv(real), n=90, seed=2**40)
    assert json.loads(json.dumps(again)) == {k: v for k, v in facts.items() if k != "seconds"}
    assert list(again["meanings"]) == MEASURES
    assert facts["rows"] == {"real": 120, "drawn": 90}
    assert all(low <= facts[k] <= high for k, (low, high) in facts["intervals"].items())
    told = commands.compare("tx.vae", real, n=90, seed=4)
    assert told.facts["shape_error"] != facts["shape_error"]


def test_columns_of_other_names_and_formats(run, folder, real):
    table = pv.read_csv(real)
    names = ["betrag" if name == "amount" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), "theirs.parquet")
    refused = run("compare", "tx.vae", "theirs.parquet", "--json")
    assert refused.error["code"] == "E031"
    words = ["--rename", "betrag=amount", "--json"]
    facts = run("compare", "tx.vae", "theirs.parquet", *words).facts
    assert facts["c2st"] == run("compare", "tx.vae", real, "--json").facts["c2st"]


def test_large_tables_are_sampled_whole_or_part_by_part(run, folder, real, monkeypatch):
    monkeypatch.setattr(compare_report, "_MOST_ROWS", 80)
    table = pv.read_csv(real)
    pq.write_table(table, "real.parquet", row_group_size=30)
    whole = run("compare", "tx.vae", "real.parquet", "--json").facts
    monkeypatch.setattr(data, "PART", 64)
    parts = run("compare", "tx.vae", "real.parquet", "--json").facts
    for facts in (whole, parts):
        assert facts["rows"] == {"real": 80, "drawn": 80}
        assert facts["notes"][0].startswith("80 of 120 rows of ")
        assert "real.parquet, drawn at random, are compared" in facts["notes"][0]
    assert run("compare", "tx.vae", real, "-n", "81", "--json").error["code"] == "E240"


@pytest.mark.parametrize(
    ("words", "code", "told", "hint"),
    [
        (["few.csv"], "E044", "has 29 rows", "more rows"),
        (["tx.csv", "--learned", "few.csv"], "E044", "few.csv", "more rows"),
        (["none.csv"], "E001", "none.csv", ""),
        (["tx.csv", "--target", "countri"], "E203", "'countri'", "--target country"),
        (["tx.csv", "--target", "country"], "E249", "has 4 levels; at most 3", "fewer levels"),
        (["tx.csv", "--target", "account"], "E203", "does not draw", "amount"),
        (["tx.csv", "-n", "29"], "E240", "between 30 and 20,000", "-n 30"),
        (["tx.csv", "-n", "20001"], "E240", "between 30 and 20,000", "-n 20000"),
        (["tx.csv", "--seed=-1"], "E240", "--seed", "--seed"),
        (["tx.csv", "--learned", "tx.csv"], "E236", "the same rows", "did not learn from"),
        (["gone.csv"], "E031", "'fee'", ""),
        (["tx.csv", "--learned", "gone.csv"], "E031", "'fee'", ""),
    ],
)
def test_what_cannot_be_compared_is_one_error(run, folder, words, code, told, hint, monkeypatch):
    monkeypatch.setattr(compare_report, "_TARGET_LEVELS", 3)
    lines = (folder / "tx.csv").read_text().splitlines()
    (folder / "few.csv").write_text("\n".join(lines[:30]))
    with open("tx.csv") as source, open("gone.csv", "w", newline="") as target:
        csv.writer(target).writerows(row[:2] + row[3:] for row in csv.reader(source))
    done = run("compare", "tx.vae", *words, "--json")
    assert done.code == (3 if code.startswith("E0") else 2)
    assert done.error["code"] == code
    assert told in done.error["message"]
    assert hint in done.error.get("hint", "")


def test_a_model_of_numbers_is_compared_from_arrays():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2)) @ [[1.0, 0.9], [0.0, 0.5]]
    model = lowerbound.fit(x[:60], "gaussian", preset="fast", max_epochs=1, device="cpu")
    found = model.compare(x[60:], learned=x[:60], target=model.coding.schema.modelled[1])
    assert found["utility_measure"] == "R2"
    assert found["rows"] == {"real": 60, "drawn": 60, "learned": 60}
    with pytest.raises(DataError) as caught:
        model.compare(x[:10])
    assert caught.value.code == "E044"
