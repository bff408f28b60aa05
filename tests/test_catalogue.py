"""The catalogue of error codes: every code is raised, known and tested."""

import ast
import functools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

import lowerbound
from lowerbound.cli.progress import SILENT
from lowerbound.cli.work import fit as fitting
from lowerbound.errors import CATALOGUE, CheckFailed, DataError, ModelFileError, Stopped
from lowerbound.files.read import read
from lowerbound.files.text import tables
from lowerbound.recipes import find
from lowerbound.tasks.trained import restored
from lowerbound.training.engine.processes import gathered
from lowerbound.training.plan import Plan

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"\bE\d{3}\b")
ROWS = np.random.default_rng(0).normal(size=(60, 2))


@functools.cache
def constants(folder):
    """Return the texts of a folder's modules that are no docstrings."""
    found = set()
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.name == "catalogue.py":
            continue
        tree = ast.parse(path.read_text())
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in statements:
                found.add(str(node.value))
    return found


def raised():
    """Return the codes that the library and its reproductions raise: each a text of its own."""
    return {
        text
        for folder in ("src/lowerbound", "reproductions")
        for text in constants(folder)
        if CODE.fullmatch(text)
    }


def named_by_tests():
    return {code for text in constants("tests") for code in CODE.findall(text)}


def test_every_code_is_raised_somewhere():
    assert set(CATALOGUE) - raised() == set()


def test_every_code_that_is_raised_is_in_the_catalogue():
    assert raised() - set(CATALOGUE) == set()


def test_every_code_is_named_by_a_test():
    assert set(CATALOGUE) - named_by_tests() == set()


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_entries_are_sentences(code):
    entry = CATALOGUE[code]
    assert entry.title[0].islower() or entry.title[0] in "-."
    assert not entry.title.endswith(".")
    assert entry.explanation.endswith(".")


def test_titles_differ():
    titles = [entry.title for entry in CATALOGUE.values()]
    assert sorted(set(titles)) == sorted(titles)


def test_a_parser_error_of_another_kind_is_passed_on(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise pa.ArrowInvalid("CSV parser got out of sync with chunker")

    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    monkeypatch.setattr(tables.arrow_csv, "read_csv", fail)
    monkeypatch.setattr(tables.arrow_csv, "open_csv", fail)
    with pytest.raises(DataError, match="out of sync") as caught:
        read(tmp_path / "t.csv")
    assert caught.value.code == "E019"


def test_a_column_of_too_many_levels_is_refused(monkeypatch):
    monkeypatch.setattr("lowerbound.columns.kinds.MOST_LEVELS", 3)
    data = {"place": [f"town {i % 5}" for i in range(60)], "x": ROWS[:, 0]}
    with pytest.raises(DataError, match="5 levels; at most 3") as caught:
        lowerbound.fit(data, types={"place": "categorical"}, max_epochs=1)
    assert caught.value.code == "E039"


@pytest.fixture(scope="module")
def model():
    return lowerbound.fit(ROWS, "sigma", max_epochs=1, preset="fast", device="cpu")


def test_weights_of_another_network_are_refused(model):
    arrays = {name: value.numpy() for name, value in model.model.state_dict().items()}
    restored(model.documents(), arrays)
    arrays.popitem()
    with pytest.raises(ModelFileError, match="do not fit the recipe 'sigma'") as caught:
        restored(model.documents(), arrays)
    assert caught.value.code == "E140"


def test_a_dry_run_notices_scores_that_change(monkeypatch):
    scores = iter([np.zeros(16), np.ones(16)])
    changing = SimpleNamespace(score=lambda model, rows: next(scores))
    monkeypatch.setattr(fitting, "draws", changing)
    plan = Plan(find("sigma"), preset="fast", max_epochs=1, device="cpu")
    with pytest.raises(CheckFailed) as caught:
        fitting.rehearse(read(ROWS), plan, None, SILENT)
    assert caught.value.code == "E601"


def test_the_end_of_another_process_is_told_apart_from_other_failures():
    peer = RuntimeError("[gloo/pair.cc:525] Connection closed by peer [127.0.0.1]")
    with pytest.raises(Stopped, match="closed by peer") as caught, gathered(torch.device("cpu")):
        raise peer
    assert caught.value.code == "E501"
    with pytest.raises(RuntimeError, match="mat1"), gathered(torch.device("cpu")):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
