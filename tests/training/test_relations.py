"""Numbers that follow from others on all rows: which are found, and how rows keep to them."""

import numpy as np
import pandas as pd
import pytest

import lowerbound
from lowerbound.training import relations
from lowerbound.training.relations import at_most, formulas, related

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


def test_no_sum_is_looked_for_where_that_of_all_columns_fails(monkeypatch):
    x = np.random.default_rng(0).normal(size=(N, 9))
    x[:, 8] = x[:, :8].sum(1)
    x[0, 0] = np.nan
    looked, search = [], relations._both_ways
    monkeypatch.setattr(
        relations,
        "_both_ways",
        lambda raw, column, *rest: looked.append(column) or search(raw, column, *rest),
    )
    assert formulas(x[:, :8], np.zeros(8)) == {}
    assert not looked
    assert sorted(formulas(x, np.zeros(9))[8].columns) == list(range(8))
    assert 8 in looked


def test_rows_with_gaps_are_left_out_of_the_evidence():
    raw = amounts()[["price", "fee", "total"]].to_numpy()
    raw[np.random.default_rng(0).random(raw.shape) < 0.2] = np.nan
    assert set(formulas(raw, np.full(3, 0.01))) == {0, 1, 2}


def test_products_and_powers_are_found():
    rng = np.random.default_rng(0)
    price, pieces = np.round(rng.lognormal(3, 0.8, N), 2), 1.0 + rng.poisson(1.2, N)
    height, mass = np.round(rng.normal(1.7, 0.1, N), 2), np.round(rng.normal(75, 12, N), 1)
    raw = np.column_stack(
        [price, pieces, np.round(price * pieces, 2), height, mass, np.round(mass / height**2, 1)]
    )
    found = related(raw, np.array([0.01, 1, 0.01, 0.01, 0.1, 0.1]))
    assert {c: sorted(parts) for c, parts in found.follows.items()} == {2: [0, 1], 5: [3, 4]}
    total, index = found.formulas[2], found.formulas[5]
    assert total.form == index.form == "product"
    assert dict(zip(total.columns, total.weights, strict=True)) == {0: 1, 1: 1}
    assert dict(zip(index.columns, index.weights, strict=True)) == {4: 1, 3: -2}
    assert total.constant == index.constant == 1


def test_logarithms_and_their_inverse_are_found():
    rng = np.random.default_rng(0)
    amount, length = rng.lognormal(3, 1, N), rng.normal(size=N)
    raw = np.column_stack([amount, np.log10(amount), length, np.exp(0.5 * length - 2)])
    found = related(raw, np.zeros(4))
    assert {frozenset({c, *parts}) for c, parts in found.follows.items()} == {
        frozenset({0, 1}),
        frozenset({2, 3}),
    }
    for column, relation in found.formulas.items():
        assert np.allclose(relation.value(raw), raw[:, column], rtol=1e-5)


def test_each_of_several_formulas_has_a_column_that_follows():
    rng = np.random.default_rng(0)
    net, fee = np.round(rng.lognormal(4, 0.8, N), 2), rng.choice([0, 4.9, 9.9], N)
    tax = np.round(0.19 * net, 2)
    gross = np.round(net + tax + fee, 2)
    paid = np.where(rng.random(N) < 0.6, gross, np.round(gross * rng.random(N), 2))
    raw = np.column_stack([net, tax, fee, gross, paid, np.round(gross - paid, 2)])
    found = related(raw, np.array([0.01, 0.01, 0.1, 0.01, 0.01, 0.01]))
    assert len(found.follows) == 3
    assert found.follows[1] == [0]
    assert found.formulas[1].weights == [0.19]
    assert 2 not in found.follows  # a fee has three values only
    (share, within), *_ = found.others[0]
    assert (share.columns, within) == ([1], pytest.approx(0.005, rel=1e-3))


def test_a_difference_of_two_that_are_nearly_equal_is_found():
    rng = np.random.default_rng(0)
    start, length = rng.integers(0, 20_000, N).astype(float), rng.geometric(0.2, N).astype(float)
    raw = np.column_stack([start, rng.normal(size=N), start + length, length])
    found = related(raw, np.array([1.0, 0, 1, 1])).formulas[3]
    assert dict(zip(found.columns, found.weights, strict=True)) == {0: -1, 2: 1}


def test_numbers_that_are_rounded_down_are_found():
    rng = np.random.default_rng(0)
    hours, seconds = rng.integers(0, 5_000, (2, 2_000)).astype(float)
    seconds *= 40
    raw = np.column_stack([hours, hours // 24, seconds, np.ceil(seconds / 3_600)])
    found = related(raw, np.array([1.0, 1, 40, 1])).formulas
    assert (found[1].columns, found[1].weights) == ([0], [1 / 24])
    assert (found[3].columns, found[3].weights) == ([2], [1 / 3_600])
    assert (np.round(found[1].value(raw)) == raw[:, 1]).all()
    assert (np.round(found[3].value(raw)) == raw[:, 3]).all()
    raw[7, 1] += 1
    assert 1 not in formulas(raw, np.array([1.0, 1, 40, 1]))


def test_orders_of_columns_are_found_where_they_are_no_matter_of_chance():
    rng = np.random.default_rng(0)
    low = rng.normal(size=N)
    middle = low + np.where(rng.random(N) < 0.5, 0, rng.exponential(size=N))
    high, far = middle + rng.exponential(size=N), 100 + rng.normal(size=N)
    raw = np.column_stack([high, low, far, middle, low])
    pairs = [(1, 3), (3, 0), (4, 3)]  # low is below high through middle; far is above by chance
    assert at_most(raw) == pairs
    raw[rng.random(raw.shape) < 0.1] = np.nan
    assert at_most(raw) == pairs
    raw[5, 1], raw[5, 3] = 9.0, 8.0
    assert at_most(raw)[-1] == (4, 3)
    assert (1, 3) not in at_most(raw)


def test_a_sum_of_many_equal_parts_is_found():
    parts = np.random.default_rng(0).integers(0, 4, (N, 9)).astype(float)
    raw = np.column_stack([parts, parts.sum(1), np.round(parts.mean(1), 2)])
    found = related(raw, np.r_[np.ones(10), 0.01])
    assert sorted(found.follows[9]) == list(range(9))
    assert found.follows[10] == [9]


def test_halves_are_rounded_as_in_the_rows():
    cents = np.random.default_rng(0).integers(100, 9999, N)
    up = np.floor(cents / 2 + 0.5) / 100
    (relation,) = [
        r for c, r in related(np.column_stack([cents / 100, up]), [0.01, 0.01])[0].items() if c
    ]
    assert (np.round(relation.value(np.column_stack([cents / 100, up])), 2) == up).all()


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


def orders(n=700, seed=0):
    """Rows with prices by article, products, sums with zeros, and limits."""
    rng = np.random.default_rng(seed)
    price = np.round(np.random.default_rng(1).lognormal(3, 0.8, 90), 2)
    article, pieces = rng.integers(0, 90, n), 1 + rng.poisson(1.2, n)
    total = np.round(price[article] * pieces, 2)
    fee = np.where(rng.random(n) < 0.7, 0.0, np.round(rng.exponential(8, n), 2))
    paid = np.where(rng.random(n) < 0.5, 0.0, np.round(total * rng.random(n), 2))
    return pd.DataFrame(
        {
            "article": [f"a{i}" for i in article],
            "price": price[article],
            "pieces": pieces,
            "total": total,
            "fee": fee,
            "due": np.round(total + fee, 2),
            "paid": paid,
            "open": np.round(total + fee - paid, 2),
            "size": np.select([total < 20, total < 60], ["small", "middle"], "large"),
            "insured": (total >= 60).astype(int),
        }
    )


def broken(frame):
    """Return the number of rows that break each dependency of `orders`."""
    price = orders().drop_duplicates("article").set_index("article")["price"]
    size = np.select([frame.total < 20, frame.total < 60], ["small", "middle"], "large")
    wrong = {
        "price": frame.article.map(price) != frame.price,
        "total": (frame.price * frame.pieces - frame.total).abs() > 0.0051,
        "due": (frame.total + frame.fee - frame.due).abs() > 0.001,
        "open": (frame.due - frame.paid - frame.open).abs() > 0.001,
        "size": size != frame["size"],
        "insured": (frame.total >= 60) != frame.insured,
    }
    return {name: int(rows.sum()) for name, rows in wrong.items() if rows.any()}


@pytest.fixture(scope="module")
def shop():
    return lowerbound.fit(orders(), preset="fast", max_epochs=8)


@pytest.mark.parametrize("by", ["chain", "latents"])
def test_rows_drawn_keep_prices_products_sums_with_zeros_and_limits(shop, by, monkeypatch):
    monkeypatch.setitem(shop.facts, "draws", by)
    drawn = shop.sample(600)
    assert broken(drawn) == {}
    assert 0.5 < (drawn.fee == 0).mean() < 0.9
    given = shop.sample(200, where={"size": "large"})
    assert broken(given) == {}
    assert (given["size"] == "large").all()


@pytest.mark.parametrize("by", ["chain", "latents"])
def test_gaps_are_filled_in_keeping_with_what_is_given(shop, by, monkeypatch):
    monkeypatch.setitem(shop.facts, "completes", by)
    fresh = orders(300, seed=5)
    gaps = fresh.copy()
    for place, column in enumerate(["price", "total", "fee", "due", "paid", "open", "size"]):
        gaps.loc[gaps.index % 7 == place, column] = None
    filled = shop.impute(gaps)
    for column in ("total", "fee", "due", "paid", "open", "size", "insured"):
        assert (filled[column] == fresh[column]).all(), column
    gaps.loc[gaps.index % 2 == 0, ["price", "paid"]] = None
    gaps.loc[gaps.index % 3 == 0, ["pieces", "due", "fee"]] = None
    assert broken(shop.impute(gaps)) == {}


@pytest.fixture(scope="module")
def stays():
    """Dates and numbers that are at most others, or follow from the days between two."""
    rng = np.random.default_rng(0)
    begin = pd.Timestamp("2023-01-02") + pd.to_timedelta(rng.integers(0, 300, N), "D")
    days, age = rng.geometric(0.3, N) - 1, rng.integers(20, 90, N)
    end = begin + pd.to_timedelta(days, "D")
    frame = pd.DataFrame(
        {
            "begin": begin,
            "end": end,
            "days": days,
            "due": end + pd.Timedelta("30D"),
            "age": age,
            "month": begin.month,
            "since": np.floor(age * rng.beta(4, 2, N)).astype(int),
        }
    )
    return frame, lowerbound.fit(frame, preset="fast", max_epochs=2)


def broken_stays(d):
    return {
        "begin by end": (d.begin > d.end).mean(),
        "days": ((d.end - d.begin).dt.days != d.days).mean(),
        "due": ((d.due - d.end).dt.days != 30).mean(),
        "month": (d.begin.dt.month != d.month).mean(),
        "since by age": (d.since > d.age).mean(),
    }


@pytest.mark.parametrize("where", [{}, {"days": 3}, {"month": 5}, {"since": 60}])
def test_rows_drawn_keep_to_dates_and_orders_whatever_is_given(stays, where):
    assert not any(broken_stays(stays[1].sample(300, where=where)).values())


def test_gaps_are_filled_within_dates_and_orders(stays):
    frame, model = stays
    hidden = np.random.default_rng(1).random(frame.shape) < 0.1
    filled = model.impute(frame.astype(object).mask(hidden).infer_objects())
    assert not any(broken_stays(filled).values())
