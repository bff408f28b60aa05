"""The demo: its table, its check of filled-in values, and its refusals. `test_process` runs it."""

from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from lowerbound.cli.commands import demo
from lowerbound.errors import ResourceError, UsageError


@pytest.fixture(scope="module")
def table():
    return demo.passengers()


def test_the_table_has_mixed_kinds_and_gaps(table):
    assert table.num_rows == 1309
    assert table["age"].null_count == 263
    assert [table[name].null_count for name in ("fare", "embarked", "sex")] == [1, 2, 0]
    assert set(table["class"].to_pylist()) == {"first", "second", "third"}
    assert table["survived"].to_pylist().count("yes") == 500
    assert table["name"][51].as_py() == "Carlsson, Mr. Frans Olof"
    assert (table["class"][51].as_py(), table["fare"][51].as_py()) == ("first", 5.0)


class Known:
    """A model that fills in the values of a table that it knows, shifted by `off` rows."""

    def __init__(self, table, off=0):
        self.table, self.off = table, off

    def impute(self, data):
        hidden = [name for name in data.column_names if data[name].null_count == data.num_rows]
        assert len(hidden) == 1
        return self.table.take(np.roll(np.arange(self.table.num_rows), self.off))


def test_hidden_values_are_compared_with_the_truth(table, monkeypatch):
    train, new = table.slice(0, 900), table.slice(900)
    monkeypatch.setattr(demo, "load", lambda path: Known(new))
    right = demo.fill_hidden("M.vae", train, new)
    assert [each.column for each in right] == [n for n in table.column_names if n != "name"]
    for each in right:
        assert each.model == (1.0 if each.measure == "share right" else 0.0), each.column
        assert each.constant != each.model
    monkeypatch.setattr(demo, "load", lambda path: Known(new, off=1))
    found = {each.column: each for each in demo.fill_hidden("M.vae", train, new)}
    sex = np.array(new["sex"].to_pylist())
    assert found["sex"].model == np.mean(sex == np.roll(sex, 1)) < 1
    commonest = max(("female", "male"), key=train["sex"].to_pylist().count)
    assert found["sex"].constant == np.mean(sex == commonest)
    ages = np.array([a for a in new["age"].to_pylist() if a is not None])
    median = np.median([a for a in train["age"].to_pylist() if a is not None])
    assert found["age"].constant == pytest.approx(np.abs(ages - median).mean())


@pytest.mark.parametrize("library", [None, ModuleSpec("sklearn", None, origin="/none/x.py")])
def test_a_scikit_learn_without_its_tests_is_named(monkeypatch, library):
    monkeypatch.setattr(demo, "find_spec", lambda name: library)
    with pytest.raises(ResourceError, match="scikit-learn") as caught:
        demo.passengers()
    assert caught.value.code == "E310"


def test_an_earlier_demo_is_not_replaced(tmp_path):
    (tmp_path / "new.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"new\.csv") as caught:
        demo.demo(out=str(tmp_path))
    assert caught.value.code == "E220"
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]
