"""Cells to numbers and back: exact inverses, exact Jacobians, nothing lost on the way."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lowerbound.columns.arrow import arrow_type
from lowerbound.columns.base import LIMIT
from lowerbound.columns.schema import Schema, infer
from lowerbound.errors import DataError

RNG = np.random.default_rng(7)
N = 400
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def holes(values, share=0.1):
    """Make every tenth cell missing."""
    gone = np.arange(len(values)) % round(1 / share) == 3
    return pa.array([None if g else v for v, g in zip(values, gone, strict=True)])


def moments(step):
    start = dt.datetime(2023, 5, 17, 22, 10)
    return [start + step * int(k) for k in RNG.integers(0, 3000, N)]


# One column for every kind, with missing cells: constructor of a table, and the kind expected.
COLUMNS = {
    "real": (holes(RNG.normal(3, 2, N)), "real"),
    "real32": (holes(RNG.normal(3, 2, N).astype(np.float32)).cast(pa.float32()), "real"),
    "half": (pa.array(RNG.normal(size=N).astype(np.float16)), "real"),
    "year": (holes([int(v) for v in RNG.integers(1950, 2024, N)]), "real"),
    "small": (pa.array(RNG.integers(10, 99, N).astype(np.uint8)), "real"),
    "price": (
        pa.array([round(v, 2) for v in RNG.normal(50, 9, N)]).cast(pa.decimal128(8, 2)),
        "real",
    ),
    "wait": (pa.array(RNG.integers(1, 10**6, N)).cast(pa.duration("ms")), "real"),
    "income": (holes(np.exp(RNG.normal(9, 1.5, N))), "positive"),
    "gain": (
        pa.array(np.where(RNG.random(N) < 0.6, 0.0, np.exp(RNG.normal(7, 1.3, N)))),
        "positive",
    ),
    "visits": (holes([int(v) for v in RNG.negative_binomial(0.7, 0.2, N)]), "count"),
    "flag": (holes([bool(v) for v in RNG.integers(0, 2, N)]), "binary"),
    "sex": (holes([("f", "m")[v] for v in RNG.integers(0, 2, N)]), "binary"),
    "city": (holes([f"city {v}" for v in RNG.integers(0, 30, N)]), "categorical"),
    "code": (pa.array([f"{v:04d}" for v in RNG.integers(0, 90, N)]), "categorical"),
    "brand": (holes([f"b{v}" for v in RNG.integers(0, 9, N)]).dictionary_encode(), "categorical"),
    "day": (holes([d.date() for d in moments(dt.timedelta(days=1))]), "datetime"),
    "stamp": (holes(moments(dt.timedelta(hours=7))), "datetime"),
    "utc": (
        pa.array(moments(dt.timedelta(hours=1))).cast(pa.timestamp("ns", tz="UTC")),
        "datetime",
    ),
    "written": (pa.array([str(d.date()) for d in moments(dt.timedelta(days=3))]), "datetime"),
    "german": (pa.array([f"{d:%d.%m.%Y}" for d in moments(dt.timedelta(days=3))]), "datetime"),
}
TABLE = pa.table({name: cells for name, (cells, _) in COLUMNS.items()})


@pytest.fixture(scope="module", params=["standard", "quantile"])
def schema(request):
    return infer(TABLE, transform=request.param)


def test_every_kind_is_recognised(schema):
    found = {column.name: column.kind for column in schema.columns}
    assert found == {name: kind for name, (_, kind) in COLUMNS.items()}


def test_round_trip_of_every_kind(schema):
    coded = schema.encode(TABLE)
    assert coded.values.dtype == np.float32
    assert coded.values.shape == (N, len(schema.parts))
    assert not coded.unseen
    assert not coded.clipped
    back = schema.decode(coded.values)
    assert back.schema.types == TABLE.schema.types
    for name in TABLE.column_names:
        cells, again = TABLE[name].to_pylist(), back[name].to_pylist()
        if isinstance(next(c for c in cells if c is not None), float):
            assert [c is None for c in cells] == [c is None for c in again]
            pairs = [(c, a) for c, a in zip(cells, again, strict=True) if c is not None]
            np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=2e-5, atol=2e-5)
        elif name == "price":
            assert all(abs(c - a) <= 0.01 for c, a in zip(cells, again, strict=True))
        elif name == "wait":
            assert all(abs(c - a).total_seconds() < 1 for c, a in zip(cells, again, strict=True))
        else:
            assert again == cells, name


def test_missing_cells_stay_missing_in_all_parts(schema):
    coded = schema.encode(TABLE)
    for column in schema.columns:
        at = [j for j, part in enumerate(schema.parts) if part.column == column.name]
        gone = np.asarray(TABLE[column.name].is_null())
        assert np.isnan(coded.values[gone][:, at]).all()
        assert coded.missing.get(column.name, 0) == gone.sum() == column.missing
        main = coded.values[~gone][:, at]
        assert not np.isnan(main).all(axis=1).any()


def test_schema_survives_json(schema):
    again = Schema.model_validate_json(schema.model_dump_json())
    assert again == schema
    assert Schema.model_validate(schema.model_dump(mode="json")) == schema
    np.testing.assert_array_equal(again.encode(TABLE).values, schema.encode(TABLE).values)


def test_columns_may_be_reordered_and_others_added(schema):
    order = list(reversed(TABLE.column_names))
    other = TABLE.select(order).append_column("extra", pa.array(["?"] * N))
    np.testing.assert_array_equal(schema.encode(other).values, schema.encode(TABLE).values)


def test_a_row_is_coded_by_itself(schema):
    whole = schema.encode(TABLE).values
    pick = RNG.permutation(N)[:37]
    np.testing.assert_array_equal(schema.encode(TABLE.take(pick)).values, whole[pick])
    assert schema.encode(TABLE.slice(0, 0)).values.shape == (0, len(schema.parts))


def test_statistics_do_not_depend_on_the_order_of_rows():
    shuffled = infer(TABLE.take(RNG.permutation(N)))
    for mine, theirs in zip(infer(TABLE).columns, shuffled.columns, strict=True):
        assert mine.parts[1:] == theirs.parts[1:]
        a, b = mine.model_dump(), theirs.model_dump()
        assert {k: pytest.approx(v) if isinstance(v, float) else v for k, v in a.items()} == b


def test_log_jacobian_is_the_derivative(schema):
    """Compare with central differences of the float64 map itself."""
    for name in ("real", "year", "income", "gain"):
        column = next(c for c in schema.columns if c.name == name)
        raw = np.asarray([c for c in TABLE[name].to_pylist() if c], dtype=float)
        h = 1e-6 * np.maximum(np.abs(raw), 1)
        slope = (column._score(raw + h) - column._score(raw - h)) / (2 * h)
        codes = np.zeros((len(raw), len(column.parts)))
        codes[:, 0] = column._score(raw)
        got = column.log_jacobian(codes)
        near_knot = np.abs(column._score(raw + h) - 2 * codes[:, 0] + column._score(raw - h))
        smooth = near_knot < 1e-9
        assert smooth.mean() > 0.2 or column.quantiles
        np.testing.assert_allclose(got[smooth, 0], np.log(slope)[smooth], rtol=1e-4, atol=1e-4)
        assert (got[:, 1:] == 0).all()


def test_mixed_density_integrates_to_one(schema):
    """A standard normal on the continuous code, through the Jacobian, has mass 1 in raw units."""
    column = next(c for c in schema.columns if c.name == "gain")
    only = Schema(columns=[column])

    def codes(u):
        return np.stack([u, np.full_like(u, len(column.atoms))], axis=1)

    # The density jumps at knots, so no cell of the grid may straddle one.
    edges = np.union1d(
        np.linspace(-8, 8, 40_001), column.quantiles.scores if column.quantiles else []
    )
    middle = (edges[1:] + edges[:-1]) / 2
    width = np.diff(np.asarray(only.decode(codes(edges))["gain"]))
    log_p = -0.5 * middle**2 - 0.5 * math.log(2 * math.pi) + only.log_jacobian(codes(middle))[:, 0]
    assert np.sum(np.exp(log_p) * width) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_values_nearer_than_a_slope_can_tell_share_a_knot(end):
    table = pa.table({"a": [end, 2.2e-313, 0.0, 0.0, 0.0]})
    schema = infer(table, types={"a": "real"}, transform="quantile")
    codes = schema.encode(table).values
    assert np.isfinite(codes).all()
    assert np.isfinite(schema.log_jacobian(codes)).all()
    back = np.asarray(schema.decode(codes)["a"], dtype=float)
    np.testing.assert_allclose(back, table["a"].to_numpy(), atol=1e-6)  # codes are float32


@SLOW
@given(
    hnp.arrays(np.float64, st.integers(5, 60), elements=st.floats(-1e12, 1e12)),
    st.sampled_from(["standard", "quantile"]),
)
def test_any_reals_round_trip(values, transform):
    if len(np.unique(values)) < 3:
        return
    schema = infer(pa.table({"a": values}), types={"a": "real"}, transform=transform)
    codes = schema.encode(pa.table({"a": values})).values
    atoms = np.isin(values, schema.columns[0].atoms)
    assert (np.isfinite(codes[:, 0]) == ~atoms).all()
    assert np.isfinite(codes[:, 1:]).all()
    assert np.isfinite(schema.log_jacobian(codes)).all()
    back = np.asarray(schema.decode(codes)["a"], dtype=float)
    held = np.abs(codes[:, 0]) >= LIMIT
    reach = np.ptp(values) + np.abs(values).max() * 1e-6
    np.testing.assert_allclose(back[~held], values[~held], atol=1e-4 * reach + 1e-300)


@SLOW
@given(st.lists(st.integers(-(2**62), 2**62), min_size=3, max_size=40, unique=True))
def test_any_integers_keep_their_type(values):
    table = pa.table({"a": values})
    schema = infer(table, types={"a": "real"})
    coded = schema.encode(table)
    back = schema.decode(coded.values)
    if coded.clipped:
        return
    assert back["a"].type == pa.int64()
    reach = max(values) - min(values)
    for mine, theirs in zip(values, back["a"].to_pylist(), strict=True):
        assert abs(mine - theirs) <= 1e-5 * reach + 2e-7 * max(map(abs, values))


@SLOW
@given(st.lists(st.text(min_size=0, max_size=8), min_size=2, max_size=40))
def test_any_text_round_trips_as_categories(values):
    table = pa.table({"a": pa.array(values, pa.string())})
    schema = infer(
        table.append_column("b", pa.array(range(len(values)))), types={"a": "categorical"}
    )
    if "a" not in schema.modelled:
        return
    coded = schema.encode(table.append_column("b", pa.array(range(len(values)))))
    again = schema.decode(coded.values)["a"].to_pylist()
    gone = np.isnan(coded.values[:, 0])
    assert [a for a, g in zip(again, gone, strict=True) if not g] == [
        v for v, g in zip(values, gone, strict=True) if not g
    ]


@SLOW
@given(
    st.lists(
        st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1)), min_size=4, max_size=30
    ),
    st.sampled_from(["s", "ms", "us", "ns"]),
)
@example([*[dt.datetime(2000, 1, 1)] * 3, dt.datetime(1969, 1, 1, 0, 59, 59, 1000)], "ms")
def test_any_moment_keeps_week_weekday_and_hour(values, unit):
    cells = pa.array(values).cast(pa.timestamp(unit), safe=False)
    table = pa.table({"t": cells, "b": [float(k) for k in range(len(values))]})
    schema = infer(table, types={"t": "datetime"})
    if "t" not in schema.modelled:
        return
    again = schema.decode(schema.encode(table).values)["t"]
    assert again.type == cells.type
    # Not by a cast to seconds, which takes the time before 1970 to the second after.
    hour = [pc.floor_temporal(x, unit="hour").to_pylist() for x in (cells, again)]
    assert hour[0] == hour[1]


@SLOW
@given(st.lists(st.dates(dt.date(1, 1, 8), dt.date(9999, 12, 1)), min_size=3, max_size=30))
def test_dates_are_a_bijection(values):
    table = pa.table({"t": values, "b": [float(k) for k in range(len(values))]})
    schema = infer(table, types={"t": "datetime"})
    if "t" in schema.modelled:
        coded = schema.encode(table)
        assert schema.decode(coded.values)["t"].to_pylist() == values
        assert not coded.clipped


# --- datetime details ------------------------------------------------------------------------


def stamps(*texts):
    return pa.table({"t": [dt.datetime.fromisoformat(text) for text in texts]})


def test_parts_of_a_moment():
    table = stamps("2024-01-01T05:30", "2024-01-09T23:59:59", "2024-01-17T00:00")
    schema = infer(table)
    assert [(p.name, p.family, p.size) for p in schema.parts] == [
        ("t", "real", 1),
        ("t#weekday", "categorical", 7),
        ("t#hour", "categorical", 24),
    ]
    values = schema.encode(table).values
    assert values[:, 1].tolist() == [0, 1, 2]  # Monday, Tuesday, Wednesday
    assert values[:, 2].tolist() == [5, 23, 0]
    back = schema.decode(values)["t"].to_pylist()
    assert [b.minute for b in back] == [30, 30, 30]
    assert [b.hour for b in back] == [5, 23, 0]


def test_density_of_a_moment_is_per_second():
    table = stamps("2024-01-01T05:30", "2024-01-09T23:59:59", "2024-01-17T00:00")
    schema = infer(table)
    column = schema.columns[0]
    jacobian = schema.log_jacobian(schema.encode(table).values)
    np.testing.assert_allclose(jacobian[:, 0], -math.log(column.std) - math.log(3600))
    assert (jacobian[:, 1:] == 0).all()


def test_an_even_time_of_day_is_remembered():
    table = stamps("2024-01-01T06:15", "2024-01-09T06:15", "2024-02-17T06:15")
    schema = infer(table)
    assert [p.name for p in schema.parts] == ["t", "t#weekday"]
    assert schema.decode(schema.encode(table).values)["t"].to_pylist() == table["t"].to_pylist()
    late = schema.encode(stamps("2024-01-01T06:16"))
    assert late.clipped == {"t": 1}


def test_within_one_week_only_weekday_and_hour_are_modelled():
    table = stamps("2024-01-01T06:00", "2024-01-02T07:00", "2024-01-03T09:00")
    schema = infer(table)
    assert [p.name for p in schema.parts] == ["t#weekday", "t#hour"]
    assert schema.decode(schema.encode(table).values)["t"].to_pylist() == table["t"].to_pylist()


def test_text_dates_may_come_as_dates_later():
    words = pa.table({"t": ["2024-01-01", "2024-01-09", "2024-03-17"]})
    schema = infer(words)
    dates = pa.table({"t": words["t"].cast(pa.date32())})
    np.testing.assert_array_equal(schema.encode(words).values, schema.encode(dates).values)
    assert schema.decode(schema.encode(words).values).equals(words)


# --- atoms -----------------------------------------------------------------------------------


def test_atoms_have_a_part_of_their_own():
    values = np.concatenate([np.zeros(300), np.full(100, 40.0), RNG.normal(50, 9, 600)])
    table = pa.table({"h": pa.array(values, mask=np.arange(1000) == 999)})
    schema = infer(table)
    main, atom = schema.parts
    assert (atom.name, atom.family, atom.size) == ("h#atom", "categorical", 3)
    coded = schema.encode(table).values
    assert np.isnan(coded[:400, 0]).all()
    assert not np.isnan(coded[400:999, 0]).any()
    assert coded[:, 1].tolist()[:999] == [0.0] * 300 + [1.0] * 100 + [2.0] * 599
    assert np.isnan(coded[999]).all()
    back = np.asarray(schema.decode(coded)["h"], dtype=float)
    np.testing.assert_array_equal(back[:400], values[:400])
    np.testing.assert_allclose(back[400:999], values[400:999], rtol=1e-5)
    assert np.isnan(back[999])
    assert [p.name for p in infer(table, exclude_atoms=True).parts] == ["h"]


def test_a_decoded_row_between_atom_and_none_is_missing():
    values = np.concatenate([np.zeros(300), RNG.normal(50, 9, 700)])
    schema = infer(pa.table({"h": values}))
    assert schema.decode(np.array([[np.nan, 1.0], [1.0, np.nan]]))["h"].to_pylist() == [None, None]


def shares(values, of, n=4000):
    return np.random.default_rng(3).choice(values, n, p=of)


VISIBILITY = shares([10.0, 7.0, *(k / 2 for k in range(19))], [0.84, 0.05, *[0.11 / 19] * 19])


@pytest.mark.parametrize(
    ("values", "atoms"),
    [
        (VISIBILITY, (7.0, 10.0)),
        (shares([0.0, 5.0, 10.0], [0.01, 0.15, 0.84]), (0.0, 5.0, 10.0)),
        (shares([0.0, 5.0, 10.0], [0.58, 0.02, 0.40]), (0.0, 5.0, 10.0)),
        (shares([-1, *range(30)], [0.5, *[0.5 / 30] * 30]), (-1.0,)),
        # The second value has 4 % of all rows, and 89 % of those that are not 0.
        (shares([0, 5, *range(6, 66)], [0.955, 0.04, *[0.005 / 60] * 60]), (0.0, 5.0)),
        (shares([4.99, 9.99, 10.0, 0.0], [0.2, 0.2, 0.2, 0.4]), ()),  # none is uncommon
        (np.append(np.ones(3998), [7.0, 9.0]), (1.0,)),
        (np.random.default_rng(0).binomial(20, 0.5, 4000), ()),
        (np.random.default_rng(0).integers(1, 21, 4000), ()),
        (shares([1, 2, 3, 4, 5], [0.1, 0.2, 0.4, 0.2, 0.1]), ()),
        (np.round(np.random.default_rng(0).normal(50, 2, 4000)), ()),
    ],
)
@pytest.mark.parametrize("transform", ["standard", "blend"])
def test_values_that_are_commoner_than_their_neighbours_are_atoms(values, atoms, transform):
    schema = infer(pa.table({"v": values}), types={"v": "real"}, transform=transform)
    (column,) = schema.columns
    assert column.atoms == atoms
    assert column.complete == (len(atoms) == len(np.unique(values)))
    coded = schema.encode(pa.table({"v": values})).values
    back = schema.decode(coded)["v"].to_numpy()
    np.testing.assert_allclose(back, values, rtol=1e-5, atol=1e-6)
    assert np.nanmax(np.abs(coded[:, 0]), initial=0.0) < 20


def test_a_value_besides_complete_atoms_has_a_small_probability():
    schema = infer(pa.table({"v": shares([0.0, 5.0, 10.0], [0.01, 0.15, 0.84])}))
    main, atom = schema.parts
    assert (main.unknown, atom.unknown, atom.size) == (False, True, 4)
    coded = schema.encode(pa.table({"v": [0.0, 10.0, 6.0, None]})).values
    np.testing.assert_array_equal(coded[:, 1], [1.0, 3.0, 0.0, np.nan])
    assert np.isnan(coded[[0, 1, 3], 0]).all()
    assert abs(coded[2, 0]) < 1  # at the scale of the distinct values
    assert schema.decode(coded)["v"].to_pylist() == pytest.approx([0.0, 10.0, 6.0, None])
    with pytest.raises(DataError, match="its values are '0', '5', '10'"):
        schema.asked({"v": 6.0})


def test_atoms_are_found_in_another_precision():
    narrow = shares([0.1, 0.2], [0.9, 0.1]) + RNG.normal(size=4000) * (RNG.random(4000) < 0.2)
    schema = infer(pa.table({"v": narrow.astype(np.float32)}))
    assert np.float32(0.1) in np.float32(schema.columns[0].atoms)
    for value in (0.1, np.float32(0.1), float(np.float32(0.1)), "0.1"):
        codes = schema.encode(pa.table({"v": [value]})).values
        assert np.isnan(codes[0, 0])
        np.testing.assert_array_equal(
            codes, schema.encode(pa.table({"v": narrow[:1] * 0 + 0.1})).values
        )


# --- levels ----------------------------------------------------------------------------------


def test_unseen_levels_are_counted():
    table = pa.table({"c": ["a", "b", "c", "a", "b", "c"], "f": ["n", "y", "n", "y", "n", "y"]})
    schema = infer(table)
    assert [(p.family, p.size, p.unknown) for p in schema.parts] == [
        ("categorical", 4, True),
        ("binary", 1, False),
    ]
    coded = schema.encode(pa.table({"c": ["a", "z", None], "f": ["maybe", "y", None]}))
    assert coded.unseen == {"c": 1, "f": 1}
    assert len(coded.odd) in (1, 2)  # the rows of these values
    assert coded.missing == {"c": 1, "f": 1}
    np.testing.assert_array_equal(coded.values, [[1, np.nan], [0, 1], [np.nan, np.nan]])
    assert schema.decode(coded.values)["c"].to_pylist() == ["a", None, None]


def test_levels_are_the_same_as_numbers_and_as_text():
    schema = infer(pa.table({"k": [1, 2, 3, 1, 2, 3]}), types={"k": "categorical"})
    wanted = [[1], [3]]
    for column in ([1, 3], [1.0, 3.0], ["1", "3"], pa.array(["1", "3"]).dictionary_encode()):
        np.testing.assert_array_equal(schema.encode(pa.table({"k": column})).values, wanted)


def test_ordinals_keep_the_order_given():
    table = pa.table({"g": ["high", "low", "mid", "low"]})
    schema = infer(table, types={"g": "ordinal:low<mid<high<top"})
    (part,) = schema.parts
    assert (part.family, part.size) == ("ordinal", 4)
    assert schema.encode(table).values[:, 0].tolist() == [2, 0, 1, 0]
    assert schema.encode(pa.table({"g": ["?", "odd"]})).unseen == {"g": 1}


def test_ordered_dictionaries_are_ordinals():
    cells = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 1], pa.int8()), pa.array(["small", "medium", "big"]), ordered=True
    )
    schema = infer(pa.table({"s": cells}))
    assert schema.columns[0].kind == "ordinal"
    assert schema.columns[0].levels == ("small", "medium", "big")
    assert schema.decode(schema.encode(pa.table({"s": cells})).values)["s"].type == cells.type


# --- robustness ------------------------------------------------------------------------------


def test_one_absurd_cell_does_not_flatten_the_others():
    values = np.append(RNG.normal(size=1000), 1e12)
    schema = infer(pa.table({"a": values}))
    coded = schema.encode(pa.table({"a": values}))
    assert 0.1 < coded.values[:-1, 0].std() < 2
    assert coded.clipped == {"a": 1}
    assert coded.values[-1, 0] == LIMIT


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
@pytest.mark.parametrize("transform", ["standard", "quantile"])
def test_any_scale(scale, transform):
    values = RNG.normal(size=300) * scale
    schema = infer(pa.table({"a": values}), transform=transform)
    coded = schema.encode(pa.table({"a": values}))
    assert coded.values.std() == pytest.approx(1, abs=0.1)
    back = np.asarray(schema.decode(coded.values)["a"], dtype=float)
    np.testing.assert_allclose(back, values, atol=1e-5 * scale)
    assert np.isfinite(schema.log_jacobian(coded.values)).all()


def test_values_a_positive_column_cannot_take_are_clipped():
    schema = infer(pa.table({"a": np.exp(RNG.normal(size=400) * 2)}))
    assert schema.columns[0].kind == "positive"
    coded = schema.encode(pa.table({"a": [-1.0, 0.0, 1.0]}))
    assert coded.clipped == {"a": 2}
    assert coded.odd.tolist() == [0, 1]
    assert coded.values[:2, 0].tolist() == [-LIMIT, -LIMIT]
    assert np.isfinite(schema.log_jacobian(coded.values)).all()


def test_a_changed_unit_is_noticed():
    schema = infer(pa.table({"metres": RNG.normal(1.7, 0.1, 400)}))
    assert schema.encode(pa.table({"metres": [1.6, 1.8, 170.0]})).notes == ()
    (note,) = schema.encode(pa.table({"metres": [160.0, 180.0, 1.7]})).notes
    assert "'metres'" in note
    assert "unit" in note


def test_a_changed_type_is_repaired_when_nothing_is_lost():
    schema = infer(
        pa.table({"a": [1.5, 2.5, 7.0], "t": ["2024-01-01", "2024-02-05", "2024-03-09"]})
    )
    one = schema.encode(pa.table({"a": ["1.5", " +2.5 ", "NA"], "t": ["2024-01-01"] * 3}))
    two = schema.encode(pa.table({"a": [1.5, 2.5, None], "t": [dt.date(2024, 1, 1)] * 3}))
    np.testing.assert_array_equal(one.values, two.values)


def test_samples_can_be_held_within_the_range():
    table = pa.table({"a": RNG.integers(0, 100, 500), "c": RNG.poisson(0.5, 500) ** 2})
    schema = infer(table, types={"a": "real", "c": "count"})
    wild = np.array([[50.0, 1000], [-50, -3]])
    held = schema.decode(wild, bounded=True)
    assert held["a"].to_pylist() == [max(table["a"].to_pylist()), min(table["a"].to_pylist())]
    assert held["c"].to_pylist() == [max(table["c"].to_pylist()), 0]
    assert schema.decode(wild)["a"].to_pylist()[0] > 100


def test_integers_saturate_at_their_type():
    table = pa.table({"a": pa.array(RNG.integers(0, 255, 300), pa.uint8())})
    schema = infer(table)
    assert schema.decode(np.array([[1e4], [-1e4]]))["a"].to_pylist() == [255, 0]


def test_decode_refuses_another_width():
    with pytest.raises(ValueError, match=r"expected \(n, 1\)"):
        infer(pa.table({"a": [1.5, 2.5, 3.5]})).decode(np.zeros((2, 3)))


def test_whole_numbers_tell_their_spacing():
    schema = infer(pa.table({"a": RNG.integers(20, 90, 500), "b": RNG.normal(size=500)}))
    whole, real = schema.parts
    assert whole.step == pytest.approx(1 / schema.columns[0].std)
    assert real.step == 0


def test_schema_json_is_checked():
    good = infer(pa.table({"a": [1.5, 2.5, 3.5], "c": ["x", "y", "x"]})).model_dump(mode="json")
    assert Schema.model_validate(good)
    for place, key, value in [
        (0, "std", -1.0),
        (0, "std", float("nan")),
        (0, "mean", float("inf")),
        (0, "extra", 1),
        (0, "kind", "magic"),
        (1, "levels", ["x", "x"]),
        (1, "levels", ["x", "y", "z"]),
        (1, "name", "a"),
    ]:
        bad = {"columns": [dict(column) for column in good["columns"]]}
        bad["columns"][place][key] = value
        with pytest.raises(ValueError, match="validation error"):
            Schema.model_validate(bad)


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.uint64(),
        pa.float16(),
        pa.float64(),
        pa.bool_(),
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.date32(),
        pa.date64(),
        pa.timestamp("ns"),
        pa.timestamp("us", tz="Europe/Berlin"),
        pa.time32("s"),
        pa.time64("us"),
        pa.duration("ms"),
        pa.decimal128(10, 2),
        pa.decimal256(40, 3),
        pa.dictionary(pa.int8(), pa.string(), ordered=True),
        pa.dictionary(pa.int32(), pa.large_string()),
        pa.dictionary(pa.int32(), pa.timestamp("us", tz="UTC")),
        pa.null(),
    ],
    ids=str,
)
def test_types_are_read_back_from_text(kind):
    assert arrow_type(str(kind)) == kind
