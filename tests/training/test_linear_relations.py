"""Numbers that follow from others on all rows: which are found, and how rows keep to them."""

import numpy as np
import pandas as pd
import pytest

import lowerbound
from lowerbound.training.linear_relations import formulas

N = 400


def amounts(n=N, seed=0):
    rng = np.random.default_rng(seed)
    price = np.round(rng.lognormal(3, 0.6, n), 2)
    fee = np.round(rng.exponential(4, n), 2)
    grams = rng.integers(100, 9000, n)
    celsius = rng.integers(-20, 40, n).astype(float)
    return pd.DataFrame(
        {
            "price": price,
            "fee": fee,
            "total": np.round(price + fee, 2),
            "grams": grams,
            "kilos": grams / 1000,
            "celsius": celsius,
            "fahrenheit": np.round(32 + 1.8 * celsius, 1),
        }
    )


def whole(frame, tolerance=1e-9):
    """Whether all of the relations hold on all rows."""
    return (
        np.allclose(frame["total"], frame["price"] + frame["fee"], atol=0.001)
        and np.allclose(frame["kilos"] * 1000, frame["grams"], atol=0.01)
        and np.allclose(frame["fahrenheit"], 32 + 1.8 * frame["celsius"], atol=0.001)
    )


def test_sums_differences_and_units_are_found():
    frame = amounts()
    grains = np.array([0.01, 0.01, 0.01, 1.0, 0.001, 1.0, 0.1])
    found = formulas(frame.to_numpy(), grains)
    names = {
        frame.columns[c]: {frame.columns[i]: w for i, w in zip(r.columns, r.weights, strict=True)}
        for c, r in found.items()
    }
    assert names["total"] == pytest.approx({"price": 1.0, "fee": 1.0})
    assert names["fee"] == pytest.approx({"total": 1.0, "price": -1.0})
    assert names["grams"] == pytest.approx({"kilos": 1000.0})
    assert names["fahrenheit"] == pytest.approx({"celsius": 1.8})
    assert found[6].constant == pytest.approx(32)
    assert len(found) == 7


def test_what_holds_on_all_rows_but_one_is_no_formula():
    raw = amounts()[["price", "fee", "total"]].to_numpy()
    assert set(formulas(raw, np.full(3, 0.01))) == {0, 1, 2}
    raw[7, 2] += 0.01
    assert formulas(raw, np.full(3, 0.01)) == {}


def test_few_rows_or_unrelated_numbers_have_none():
    rng = np.random.default_rng(1)
    raw = np.round(rng.normal(size=(40, 6)), 1)
    assert formulas(raw, np.full(6, 0.1)) == {}
    exact = amounts(30)[["price", "fee", "total"]].to_numpy()
    assert formulas(exact, np.full(3, 0.01)) == {}  # of 30 rows


def test_rows_with_gaps_are_left_out_of_the_evidence():
    raw = amounts()[["price", "fee", "total"]].to_numpy()
    raw[np.random.default_rng(0).random(raw.shape) < 0.2] = np.nan
    assert set(formulas(raw, np.full(3, 0.01))) == {0, 1, 2}


@pytest.fixture(scope="module")
def model():
    return lowerbound.fit(amounts(), preset="fast", max_epochs=30)


@pytest.mark.parametrize("by", ["chain", "latents"])
def test_no_drawn_row_breaks_them(model, by):
    facts = dict(model.facts)
    model.facts["draws"] = by
    try:
        drawn = model.sample(1000)
        assert whole(drawn)
        assert drawn["price"].nunique() > 200
        given = model.sample(100, where={"celsius": 10.0})
        assert (given["fahrenheit"] == 50.0).all()
        assert whole(given)
    finally:
        model.facts = facts


@pytest.mark.parametrize("by", ["chain", "latents", "both"])
def test_gaps_are_filled_by_them(model, by):
    facts, fresh = dict(model.facts), amounts(60, seed=1)
    model.facts["completes"] = by
    try:
        gaps = fresh.copy()
        gaps.loc[::4, "total"] = np.nan
        gaps.loc[1::4, "fee"] = np.nan
        gaps["kilos"] = np.nan
        gaps["celsius"] = np.nan
        assert model.impute(gaps).equals(fresh)
        gaps.loc[2::4, ["fee", "total"]] = np.nan
        gaps["grams"] = np.nan
        for filled in (model.impute(gaps), model.impute(gaps, draws=3)):
            assert not filled.isna().any(axis=None)
            assert whole(filled)
    finally:
        model.facts = facts


def test_a_total_follows_from_parts_of_few_values():
    rng = np.random.default_rng(0)
    net, shipping = np.round(rng.lognormal(4, 0.8, 600), 2), rng.choice([0, 4.9, 9.9], 600)
    gross = np.round(net + shipping, 2)
    frame = pd.DataFrame({"gross": gross, "shipping": shipping, "net": net})
    model = lowerbound.fit(frame, preset="fast", max_epochs=20)
    drawn = model.sample(1000)
    assert np.allclose(drawn["gross"], drawn["net"] + drawn["shipping"], atol=0.001)
    assert np.isin(drawn["shipping"], [0.0, 4.9, 9.9]).mean() > 0.99
    assert not np.signbit(drawn["shipping"]).any()
