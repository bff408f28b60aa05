"""Fits of tables with a chain of columns: what is drawn and completed holds together."""

import numpy as np
import pandas as pd
import pytest

import lowerbound
from lowerbound.coding.tables import TableCoding
from lowerbound.training.plan import Plan
from lowerbound.training.row_stage import _determines, _Label, _rare, settings

N = 300
TOWNS = {"york": 1, "bath": 2, "hull": 2}  # the region is determined by the town


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    town = rng.choice(list(TOWNS), N)
    price = np.round(rng.lognormal(2, 0.5, N), 2)
    return pd.DataFrame(
        {
            "town": town,
            "region": pd.Series(town).map(TOWNS).astype("category"),
            "price": price,
            "paid": np.where(rng.random(N) < 0.4, price, np.round(price * 0.5, 2)),
            "seats": 5 * rng.integers(1, 40, N),
            "fee": np.where(rng.random(N) < 0.5, 0.0, rng.normal(3, 1, N)),
        }
    )


@pytest.fixture(scope="module")
def model(frame):
    return lowerbound.fit(frame, preset="fast", max_epochs=60)


def test_drawn_rows_keep_dependencies_grids_and_decimals(frame, model):
    drawn = model.sample(2000)
    assert (drawn["town"].map(TOWNS) == drawn["region"].astype(int)).all()
    assert (drawn["seats"] % 5 == 0).all()
    for column in ("price", "paid"):
        assert np.array_equal(drawn[column], np.round(drawn[column], 2))
    assert 0.2 < (drawn["fee"] == 0).mean() < 0.8
    assert list(drawn.columns) == list(frame.columns)
    assert drawn.dtypes.equals(frame.dtypes)


def test_conditions_are_met_and_draws_depend_on_the_seed_alone(model):
    drawn = model.sample(200, where={"region": 1, "seats": 50}, seed=3)
    assert (drawn["town"] == "york").all()
    assert (drawn["seats"] == 50).all()
    assert drawn.equals(model.sample(200, where={"region": 1, "seats": 50}, seed=3))
    assert not drawn.equals(model.sample(200, where={"region": 1, "seats": 50}, seed=4))


def test_a_gap_that_another_value_determines_is_filled_by_it(frame, model):
    gaps = frame.copy()
    gaps["region"] = gaps["region"].where(np.arange(N) % 2 == 0)
    filled = model.impute(gaps)
    assert (filled["region"].astype(int) == frame["region"].astype(int)).all()
    every = model.impute(gaps, draws=2)
    assert (every["town"].map(TOWNS) == every["region"].astype(int)).all()


def test_the_chain_completes_rows_and_keeps_what_is_given(frame, model):
    facts = dict(model.facts)
    model.facts["completes"] = "chain"
    try:
        gaps = frame.copy()
        gaps.loc[::3, ["price", "fee"]] = np.nan
        filled, every = model.impute(gaps), model.impute(gaps, draws=2)
    finally:
        model.facts = facts
    assert not filled.isna().any(axis=None)
    assert filled.loc[1::3, "price"].equals(frame.loc[1::3, "price"])
    assert len(every) == 2 * N
    assert not every.isna().any(axis=None)


def test_its_likelihood_is_reported_and_a_saved_model_draws_the_same(frame, model, tmp_path):
    assert model.evaluate(frame)["chain_nll"] < model.evaluate(frame)["iw_nll"]
    again = lowerbound.load(model.save(tmp_path / "m.vae"))
    assert again.sample(50, seed=1).equals(model.sample(50, seed=1))


def test_a_fit_without_a_chain_draws_from_the_vae(frame, model):
    plain = lowerbound.fit(frame, preset="fast", max_epochs=60, settings={"chain": None})
    assert plain.model.rows is None
    assert "chain_nll" not in plain.evaluate(frame)
    assert len(plain.sample(5)) == 5
    # The chain is trained after the VAE, which it leaves as it is.
    assert np.array_equal(plain.anomaly_score(frame), model.anomaly_score(frame))
    assert np.array_equal(plain.embed(frame), model.embed(frame))


@pytest.mark.parametrize("rows", [2, 3, 12])
def test_tiny_tables_fit(rows):
    tiny = pd.DataFrame(
        {"a": np.arange(rows) * 1.5, "b": ["x", "y"] * (rows // 2) + ["x"][: rows % 2]}
    )
    assert len(lowerbound.fit(tiny, preset="fast", max_epochs=2).sample(3)) == 3


def test_a_dependency_needs_more_than_chance():
    assert _determines(np.array([[30, 0], [0, 30]]))
    assert not _determines(np.array([[29, 1], [0, 30]]))
    assert not _determines(np.array([[1, 0], [0, 1]]))  # two rows
    assert not _determines(np.array([[500, 0]]))  # one value of the other column


def test_pairs_far_rarer_than_chance_start_rare():
    codes = np.repeat([0, 1], 500)
    other = np.where(codes == 0, 0, np.arange(1000) % 2)
    pairs, tables = _rare([_Label(codes, 2, True), _Label(other, 2, True)], [], [])
    assert [(p["seen"], p["column"]) for p in pairs] == [(0, 1), (1, 0)]
    assert tables[0][0, 1] == pytest.approx(np.log(0.5 / 125))
    assert np.count_nonzero(tables[0]) == 1
    assert np.array_equal(tables[1], tables[0].T)


class _Columns(TableCoding):
    """A coding of 20 columns, of which only the number matters."""

    def __init__(self):
        pass

    def arguments(self):
        return {"sizes": [1] * 20}


def test_small_tables_take_few_small_steps_and_larger_ones_lower_rates():
    every = [settings(Plan(), _Columns(), n, None) for n in (500, 2_000, 20_000, 300_000)]
    batches = [optimiser.batch_size for _, optimiser in every]
    assert batches == [64, 64, 256, 256]
    rows = (500, 2_000, 20_000, 300_000)
    steps = [
        b.total(max(1, n // size)) for (b, _), n, size in zip(every, rows, batches, strict=True)
    ]
    assert steps == [150, 186, 1560, 3750]
    small, middle, usual, large = (optimiser.learning_rate for _, optimiser in every)
    assert small < middle
    assert usual == large < middle
    first = settings(Plan(learning_rate=0.5), _Columns(), 500, None)[1]
    assert first.learning_rate == 0.5
