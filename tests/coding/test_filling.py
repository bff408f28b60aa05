"""Missing cells taken from what the model says: of whatever type the column has by now."""

import datetime as dt
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from lowerbound import Plan
from lowerbound.coding.filling import filled
from lowerbound.training.fit import learn

CELLS = [1, None, 0]
INTEGERS = [pa.int8(), pa.uint8(), pa.int64(), pa.uint64()]
FLOATS = [pa.float32(), pa.float64()]
MOMENTS = [pa.date32(), pa.timestamp("us"), pa.timestamp("ns", "UTC")]
OTHERS = [pa.bool_(), pa.string(), pa.time32("s"), pa.duration("s"), pa.decimal128(12, 2)]
KINDS = [*INTEGERS, *FLOATS, *MOMENTS, *OTHERS, pa.float16(), pa.decimal128(10, 0)]


def of(kind, cells):
    """Return cells of a type, by way of the one that Arrow can make it from."""
    if kind == pa.float16():
        return pa.array(cells, pa.float32()).cast(kind)
    wide = pa.types.is_timestamp(kind) or pa.types.is_duration(kind)
    return pa.array(cells, pa.int64() if wide else pa.int32()).cast(kind)


def fill(column, values):
    """Return the cells of the column, filled."""
    return filled(pa.table({"x": column}), pa.table({"x": values}))["x"]


@pytest.mark.parametrize(("kind", "seen"), list(product(KINDS, KINDS)), ids=str)
def test_a_column_of_any_type_is_filled_with_values_of_any_other(kind, seen):
    column, values = of(kind, CELLS), of(seen, [1, 1, 1])
    made = fill(column, values)
    assert made.null_count == 0
    if made.type == kind:
        assert made.filter(pa.array([True, False, True])).to_pylist() == [
            cell for cell in column.to_pylist() if cell is not None
        ]
    coded = fill(column.dictionary_encode(), values) if kind != pa.float16() else made
    assert coded.cast(made.type).equals(made)
    assert fill(pa.nulls(3), values).to_pylist() == values.to_pylist()


def test_a_narrow_column_widens_to_what_it_is_filled_with():
    big = 541_163_600_456
    assert fill(of(pa.int8(), CELLS), pa.array([big] * 3)).to_pylist() == [1, big, 0]
    assert fill(of(pa.int64(), CELLS), pa.array([4.75] * 3)).to_pylist() == [1, 4.75, 0]
    assert fill(of(pa.bool_(), CELLS), pa.array([7] * 3)).to_pylist() == [1, 7, 0]
    assert fill(of(pa.int64(), CELLS), pa.array(["x"] * 3)).to_pylist() == ["1", "x", "0"]
    cents = fill(of(pa.decimal128(12, 2), CELLS), pa.array([4.75] * 3))
    assert cents.to_pylist() == [1.0, 4.75, 0.0]


def test_a_column_that_can_hold_what_it_is_filled_with_keeps_its_type():
    assert fill(of(pa.float32(), CELLS), pa.array([0.1] * 3)).type == pa.float32()
    day = fill(of(pa.date32(), CELLS), pa.array([dt.datetime(2024, 7, 6, 13)] * 3))
    assert day.to_pylist()[1] == dt.date(2024, 7, 6)
    text = fill(pa.array(["1.5", "?", "-"]).dictionary_encode(), pa.array([4.75] * 3))
    assert text.type == pa.dictionary(pa.int32(), pa.string())
    assert text.to_pylist() == ["1.5", "4.75", "-"]


def test_what_training_saw_as_text_may_come_as_numbers():
    rng = np.random.default_rng(0)
    table = pa.table({"a": rng.normal(5, 1, 200), "c": pa.array(rng.choice(["1", "2", "x"], 200))})
    trained = learn(table, Plan(preset="fast", max_epochs=2))
    numbers = pa.array(rng.integers(1, 3, 200), mask=rng.random(200) < 0.2)
    made = trained.impute(table.set_column(1, "c", numbers))["c"]
    known = numbers.is_valid()
    assert made.filter(known).to_pylist() == numbers.filter(known).cast(pa.string()).to_pylist()
    assert set(made.to_pylist()) <= {"1", "2", "x"}
