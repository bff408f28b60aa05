"""One value in many spellings: a level, an atom or a constant is found in each of them."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from lowerbound.columns.levels import Known, joined
from lowerbound.columns.schema import infer
from lowerbound.errors import DataError
from lowerbound.tasks.onnx.inputs import matrix

N = 40
RNG = np.random.default_rng(4)
PLACES = RNG.integers(0, 2, N)
NOISE = RNG.normal(size=N)

DAYS = [dt.date(2024, 1, 31), dt.date(1969, 12, 1)]
MOMENTS = [dt.datetime(2024, 1, 31, 8, 5, 0, 250_000), dt.datetime(1969, 12, 1)]
ZONED = [moment.replace(tzinfo=dt.UTC) for moment in MOMENTS]
ABROAD = [moment.astimezone(dt.timezone(dt.timedelta(hours=2))) for moment in ZONED]
TIMES = [dt.time(8, 0), dt.time(20, 30, 15)]
SPANS = [dt.timedelta(hours=2), dt.timedelta(days=-1, seconds=5)]
BIG = [2**24 + 1, 2**40 + 1]

# Two values, in every type and notation that means the same ones.
SAME = {
    "truth": [
        pa.array([True, False]),
        pa.array([1, 0], pa.int8()),
        pa.array([1.0, -0.0]),
        pa.array([1, 0], pa.float32()),
        pa.array(["1", "0"]),
        pa.array(["true", "false"]),
        pa.array(["TRUE", "FALSE"]),
        pa.array(["True ", " False"]),
        pa.array(["yes", "no"]),
        pa.array(["Y", "N"]),
        pa.array(["1.0", "0.0"]),
        pa.array([Decimal("1.00"), Decimal("0.00")]),
        pa.array(["true", "false"]).dictionary_encode(),
        pa.array([b"True", b"False"]),
    ],
    "whole": [
        pa.array([7, 12]),
        pa.array([7, 12], pa.uint8()),
        pa.array([7.0, 12.0]),
        pa.array([7, 12], pa.float32()),
        pa.array([7, 12], pa.float32()).cast(pa.float16()),
        pa.array(["7", "12"]),
        pa.array([" 7", "12 "], pa.large_string()),
        pa.array(["7.0", "12.00"], pa.string_view()),
        pa.array(["+7", "1.2e1"]),
        pa.array([Decimal("7"), Decimal("12")], pa.decimal128(9, 3)),
        pa.array([7, 12]).dictionary_encode(),
        pa.array([b"7", b"12"]),
    ],
    "large whole": [
        pa.array(BIG),
        pa.array(BIG, pa.float64()),
        pa.array([str(big) for big in BIG]),
        pa.array([f"{big}.0" for big in BIG]),
        pa.array([Decimal(big) for big in BIG]),
    ],
    "fractions": [
        pa.array([0.1, 2.5]),
        pa.array([0.1, 2.5], pa.float32()),
        pa.array([0.1, 2.5], pa.float32()).cast(pa.float64()),
        pa.array(["0.1", "2.50"]),
        pa.array([".1", "25e-1"]),
        pa.array([Decimal("0.10"), Decimal("2.50")]),
    ],
    "text": [
        pa.array(["rome", "oslo"]),
        pa.array(["rome ", "  oslo"], pa.large_string()),
        pa.array(["rome", "oslo"], pa.string_view()),
        pa.array(["rome", "oslo"]).dictionary_encode(),
        pa.array([b"rome", b"oslo"]),
        pa.array([b"rome", b"oslo"], pa.binary(4)),
    ],
    "days": [
        pa.array(DAYS),
        pa.array(DAYS, pa.date64()),
        pa.array(DAYS).cast(pa.timestamp("s")),
        pa.array(DAYS).cast(pa.timestamp("ns")),
        pa.array(["2024-01-31", "1969-12-01"]),
        pa.array(["2024-01-31T00:00:00Z", "1969-12-01 00:00"]),
        pa.array(["31.01.2024", "01.12.1969"]),
    ],
    "moments": [
        pa.array(MOMENTS, pa.timestamp("ms")),
        pa.array(MOMENTS, pa.timestamp("ns")),
        pa.array(ZONED, pa.timestamp("us", "UTC")),
        pa.array(ZONED, pa.timestamp("us", "Asia/Tokyo")),
        pa.array([moment.isoformat() for moment in MOMENTS]),
        pa.array([moment.isoformat(" ") for moment in ABROAD]),
    ],
    "times": [
        pa.array(TIMES),
        pa.array(TIMES, pa.time32("s")),
        pa.array(TIMES, pa.time64("ns")),
        pa.array(["08:00", "20:30:15"]),
        pa.array(["8:00:00", "20:30:15.000"]),
    ],
    "durations": [
        pa.array(SPANS, pa.duration("s")),
        pa.array(SPANS, pa.duration("ms")),
        pa.array(SPANS, pa.duration("ns")),
        pa.array(["0 days 02:00:00", "-1 days +00:00:05"]),
    ],
}


def taken(cells, places):
    """Return a column of two values."""
    values = cells.to_pylist()
    if cells.type == pa.float16():
        return pa.array([values[i] for i in places], pa.float32()).cast(pa.float16())
    if pa.types.is_dictionary(cells.type):
        return pa.array([values[i] for i in places], cells.type.value_type).dictionary_encode()
    if pa.types.is_temporal(cells.type):  # nanoseconds are lost in Python
        return cells.take(pa.array(places))
    return pa.array([values[i] for i in places], cells.type)


def table(cells, places=PLACES):
    return pa.table({"a": taken(cells, places), "b": NOISE[: len(places)]})


@pytest.mark.parametrize("name", list(SAME))
def test_levels_are_found_in_every_spelling(name):
    tables = [table(cells) for cells in SAME[name]]
    for types in ({"a": "categorical"}, {}):  # by the kind inferred, too
        for fitted in tables:
            schema = infer(fitted, types=types)
            want, cells = schema.encode(fitted).values, matrix(schema, fitted)
            for given in tables:
                coded = schema.encode(given)
                np.testing.assert_array_equal(coded.values, want, str(given["a"][:2]))
                assert not coded.unseen
                np.testing.assert_array_equal(matrix(schema, given), cells)


@pytest.mark.parametrize("name", list(SAME))
def test_constants_are_found_in_every_spelling(name):
    places = np.r_[1, np.zeros(N - 1, dtype=int)]
    tables = [table(cells, places) for cells in SAME[name]]
    for cells in SAME[name]:
        schema = infer(table(cells, np.zeros(N, dtype=int)))
        assert schema.columns[0].kind == "constant"
        for given in tables:
            changed = schema.changed_constants(given)["a"]
            assert np.flatnonzero(changed).tolist() == [0], str(given["a"][:2])


def test_spellings_that_two_levels_share_are_none_of_them():
    known = Known(["1.1", "1.10", "x"], pa.string())
    assert known.find(["1.1", "1.10", "1.100", " x"], pa.string()) == [0, 1, -1, 2]
    codes = Known(["007", "12"], pa.string())
    assert codes.find(["7", "007", "012"], pa.string()) == [-1, 0, -1]
    assert codes.find(["7", "12"], pa.int64()) == [0, 1]
    points = Known(["N", "E", "S"], pa.string())
    assert points.find(["no", "false", "n"], pa.string()) == [-1, -1, -1]
    close = Known([str(2**53), str(2**53 + 1)], pa.int64())
    assert close.find([str(2**53 + 1)], pa.int64()) == [1]
    assert close.find(["9.007199254740992e+15"], pa.float64()) == [0]


@pytest.mark.parametrize("word", ["1e29", "-" + "9" * 31, "1e-35", "0." + "1" * 33, "1e39"])
def test_numbers_of_more_digits_than_a_decimal_divides_are_levels_like_others(word):
    known = Known(["a", "2", word], pa.string())
    assert known.find([word, f" {word}", "2.0"], pa.string()) == [2, 2, 1]
    assert Known(["a", "2"], pa.string()).find([word], pa.float64()) == [-1]
    if "." not in word:
        assert known.find([str(float(word))], pa.float64()) == [2]


@pytest.mark.parametrize("word", ["2024-02-30", "24:61", "1_000", "0x10", "inf", "1e400", "", "."])
def test_text_that_only_looks_like_a_value_is_a_text(word):
    known = Known(["1", "2024-02-28", "08:00", word], pa.string())
    assert known.find([word, f" {word} "], pa.string()) == [3, 3]
    assert known.find(["16", "5"], pa.int64()) == [-1, -1]


def test_durations_are_compared_with_their_unit():
    seconds = pa.array([1000, 2000] * 20).cast(pa.duration("s"))
    schema = infer(pa.table({"a": seconds, "b": NOISE}))
    other = pa.array([1000, 2000] * 20).cast(pa.duration("ms"))
    assert schema.encode(pa.table({"a": other, "b": NOISE})).unseen == {"a": N}


def test_negative_zero_never_ends_a_fit():
    for cells in (
        pa.array(RNG.choice([0.0, -0.0, 1.0], N)),
        pa.array(RNG.choice([0.0, -0.0, 1.0], N), pa.float32()),
        pa.array(RNG.choice(["0", "-0", "1"], N)),
        pa.array(RNG.choice(["0.0", "-0.0", "1.0"], N)),
    ):
        (binary, _) = infer(pa.table({"a": cells, "b": NOISE})).columns
        assert binary.kind == "binary"
        assert not any(level.startswith("-") for level in binary.levels)
    for cells in (pa.array([0.0, -0.0] * 20), pa.array(["-0", "0"] * 20)):
        constant = infer(pa.table({"a": cells, "b": NOISE})).columns[0]
        assert (constant.kind, constant.value) == ("constant", "0")
    numbers = infer(pa.table({"a": np.where(PLACES, NOISE, -0.0), "b": NOISE}))
    signs = [numbers.encode(pa.table({"a": [z], "b": [1.0]})).values for z in (0.0, -0.0)]
    assert signs[0].tobytes() == signs[1].tobytes()


def test_spellings_of_one_text_are_joined():
    cells = pa.array(["a", "a ", "b", "a", None, "-0", " b"]).cast(pa.large_string())
    assert joined(cells.dictionary_encode()).to_pylist() == ["a", "a", "b", "a", None, "-0", "b"]
    alone = pa.array(["a ", "b"]).dictionary_encode()
    assert joined(alone) is alone


@pytest.mark.parametrize("fitted", [pa.float64(), pa.float32(), pa.decimal128(9, 3)])
@pytest.mark.parametrize("given", [pa.float64(), pa.float32(), pa.decimal128(9, 3), pa.string()])
def test_atoms_are_found_in_every_type(fitted, given):
    values = RNG.permutation(np.r_[np.full(400, 0.1), np.arange(1, 201) / 8])
    numbers = pa.array([Decimal(str(value)) for value in values])
    schema = infer(pa.table({"a": numbers.cast(fitted)}))
    assert len(schema.columns[0].atoms) == 1
    want = schema.encode(pa.table({"a": numbers.cast(fitted)})).values[:, 1]
    other = pa.table({"a": numbers.cast(given)})
    np.testing.assert_array_equal(schema.encode(other).values[:, 1], want)
    widened = pa.table({"a": numbers.cast(pa.float32()).cast(pa.float64())})
    np.testing.assert_array_equal(schema.encode(widened).values[:, 1], want)
    assert np.isnan(schema.encode(other).values[want == 0, 0]).all()


@pytest.mark.parametrize("make", [pa.time32, pa.time64, pa.duration])
def test_times_and_durations_are_numbers_in_the_unit_of_training(make):
    ticks = pa.array(RNG.integers(0, 86_400, 300))
    base = (
        ticks.cast(pa.int32()).cast(pa.time32("s"))
        if make != pa.duration
        else ticks.cast(pa.duration("s"))
    )
    units = {pa.time32: ["s", "ms"], pa.time64: ["us", "ns"], pa.duration: ["s", "ms", "us", "ns"]}
    schema = infer(pa.table({"a": base}))
    want = schema.encode(pa.table({"a": base})).values
    assert schema.columns[0].kind == "real"
    for unit in units[make]:
        other = pa.table({"a": base.cast(make(unit))})
        np.testing.assert_array_equal(schema.encode(other).values, want)
        back = infer(other)
        assert back.decode(back.encode(other).values)["a"].to_pylist() == other["a"].to_pylist()
    if make != pa.duration:
        words = pa.table({"a": [value.isoformat() for value in base.to_pylist()]})
        np.testing.assert_array_equal(schema.encode(words).values, want)


def test_drawn_times_are_those_of_a_day():
    schema = infer(
        pa.table({"a": pa.array(RNG.integers(0, 1440, 300) * 60).cast(pa.duration("s"))})
    )
    drawn = schema.decode(np.array([[-3.0], [0.1], [9.0]]))["a"].to_pylist()
    assert all(value.total_seconds() % 60 == 0 for value in drawn)
    times = pa.array(RNG.integers(0, 1440, 300) * 60, pa.int32()).cast(pa.time32("s"))
    drawn = infer(pa.table({"a": times})).decode(np.array([[-30.0], [0.1], [90.0]]))["a"]
    assert all(value.second == 0 for value in drawn.to_pylist()[1:2])


def test_orders_are_given_in_any_spelling():
    cells = pa.array([1.0, 2.0, 10.0] * 14)
    (ordinal,) = infer(pa.table({"a": cells}), types={"a": "ordinal:10.0<2<1"}).columns
    assert ordinal.levels == ("10", "2", "1")
    (truth,) = infer(pa.table({"a": [True, False] * 20}), types={"a": "ordinal:No<Yes"}).columns
    assert truth.levels == ("false", "true")


@pytest.mark.parametrize("scale", [1e-308, 1e-320])
@pytest.mark.parametrize("transform", ["blend", "standard", "quantile"])
def test_numbers_at_the_lower_limit_of_floats_are_refused(scale, transform):
    with pytest.raises(DataError, match="E043") as caught:
        infer(pa.table({"a": NOISE * scale}), transform=transform)
    assert "rescale" in str(caught.value)
