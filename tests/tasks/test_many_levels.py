"""Columns of thousands of levels: every use of a model with a two-step softmax."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lowerbound import Model, Plan
from lowerbound.nn.distributions.level_trees import TreeCategories
from lowerbound.training.fit import learn

LEVELS = 60


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    shop = rng.integers(0, LEVELS, 3000)
    table = pa.table(
        {
            "shop": [f"s{i:02d}" for i in shop],
            "town": [f"t{i % 4}" for i in shop],
            "paid": np.sin(shop) + 0.1 * rng.normal(size=3000),
        }
    )
    plan = Plan(preset="fast", max_epochs=20, settings={"tree_above": 20})
    return table, learn(table, plan)


def test_a_tree_replaces_one_softmax_above_the_limit(trained):
    _, model = trained
    trees = [m for m in model.model.modules() if isinstance(m, TreeCategories)]
    assert [tree.size for tree in trees] == [LEVELS + 1]


def test_the_probabilities_of_all_levels_sum_to_one(trained):
    table, model = trained
    row = table.slice(0, 1).to_pylist()[0]
    every = [{**row, "shop": f"s{i:02d}"} for i in range(LEVELS)] + [{**row, "shop": "new"}]
    nats = model.log_likelihood(pa.Table.from_pylist([*every, {**row, "shop": None}]), 600)
    total = np.logaddexp.reduce(nats[:-1])
    assert total == pytest.approx(nats[-1], abs=0.3)


def test_rows_are_drawn_filled_and_explained(trained):
    table, model = trained
    drawn = model.sample(2000)
    shares = np.bincount([int(s[1:]) for s in drawn["shop"].to_pylist()], minlength=LEVELS) / 2000
    assert shares.min() > 0.2 / LEVELS
    assert shares.max() < 3 / LEVELS
    towns = [f"t{int(s[1:]) % 4}" for s in drawn["shop"].to_pylist()]
    assert np.mean(np.array(towns) == np.array(drawn["town"].to_pylist())) > 0.45
    some = table.slice(0, 40)
    gone = some.set_column(0, "shop", pa.nulls(40, pa.string()))
    filled = model.impute(gone)["shop"].to_pylist()
    pairs = zip(filled, some["town"].to_pylist(), strict=True)
    assert np.mean([int(shop[1:]) % 4 == int(town[1:]) for shop, town in pairs]) > 0.45
    odd = some.slice(0, 1).to_pylist()[0] | {"town": "t0", "shop": "s01"}
    told = model.score(pa.Table.from_pylist([odd]), explain=1).to_pylist()[0]
    assert told["top1_column"] in {"shop", "town"}


def test_a_saved_model_scores_alike(trained, tmp_path):
    table, model = trained
    copy = Model.load(model.save(tmp_path / "m.vae"))
    some = table.slice(0, 50)
    np.testing.assert_array_equal(copy.anomaly_score(some), model.anomaly_score(some))
