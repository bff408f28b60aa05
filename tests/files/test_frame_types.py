"""Data frames: what comes back has the types, labels and index of what went in."""

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from estimators import quick
from lowerbound import VAE
from lowerbound.files import containers, frame_types
from lowerbound.files.read import read

N = 120
RNG = np.random.default_rng(0)
PLACES = RNG.integers(0, 3, N)
WORDS = np.array(["x", "y", "z"])[PLACES]
DAYS = pd.date_range("2024-03-25", periods=N, freq="7h")
GAPS = RNG.random(N) < 0.1


def labels(categories, ordered=False):
    """Return categories in use and others, of any type."""
    return pd.Series(pd.Categorical.from_codes(PLACES, categories, ordered=ordered))


PANDAS = {
    "int64": pd.Series(RNG.integers(0, 1000, N)),
    "uint8": pd.Series(RNG.integers(0, 255, N), dtype="uint8"),
    "float32": pd.Series(RNG.normal(size=N), dtype="float32"),
    "float16": pd.Series(RNG.normal(size=N), dtype="float16"),
    "float64": pd.Series(RNG.normal(size=N)),
    "bool": pd.Series(RNG.random(N) < 0.5),
    "Int64": pd.Series(RNG.integers(0, 1000, N), dtype="Int64"),
    "UInt8": pd.Series(RNG.integers(0, 255, N), dtype="UInt8"),
    "Float32": pd.Series(RNG.normal(size=N), dtype="Float32"),
    "boolean": pd.Series(RNG.random(N) < 0.5, dtype="boolean"),
    "string": pd.Series(WORDS, dtype="string"),
    "string[pyarrow]": pd.Series(WORDS, dtype="string[pyarrow]"),
    "int32[pyarrow]": pd.Series(RNG.integers(0, 50, N), dtype="int32[pyarrow]"),
    "date32[pyarrow]": pd.Series(DAYS.date, dtype="date32[pyarrow]"),
    "decimal[pyarrow]": pd.Series(
        [Decimal(int(i)) / 4 for i in RNG.integers(0, 99, N)],
        dtype=pd.ArrowDtype(pa.decimal128(9, 2)),
    ),
    "dictionary[pyarrow]": pd.Series(
        pd.arrays.ArrowExtensionArray(pa.array(WORDS.tolist()).dictionary_encode())
    ),
    "object of text": pd.Series(WORDS, dtype=object),
    "object of integers": pd.Series(RNG.integers(0, 99, N).tolist(), dtype=object),
    "object of booleans": pd.Series((RNG.random(N) < 0.5).tolist(), dtype=object),
    "object of decimals": pd.Series([Decimal(int(i)) / 4 for i in RNG.integers(0, 99, N)]),
    "object of dates": pd.Series(DAYS.date, dtype=object),
    "object of bytes": pd.Series([word.encode() for word in WORDS], dtype=object),
    "categories": labels(["b", "a", "c", "never"]),
    "ordered categories": labels(["low", "mid", "high", "never"], True),
    "categories of integers": labels([30, 20, 10, 40]),
    "ordered categories of integers": labels([3, 1, 2, 9], True),
    "categories of moments": labels(pd.to_datetime(["2024-01-01", "2023-05-05", "2020-02-02"])),
    "categories of booleans": pd.Series(pd.Categorical(RNG.random(N) < 0.5)),
    "binned": pd.Series(pd.cut(RNG.normal(size=N), 4)),
    "objects of intervals": pd.Series(list(pd.cut(RNG.normal(size=N), 4)), dtype=object),
    "objects of periods": pd.Series(list(pd.period_range("2020-01", periods=N)), dtype=object),
    "objects of moments": pd.Series(list(DAYS), dtype=object),
    "binned moments": pd.Series(pd.cut(DAYS, 3)),
    "binned durations": pd.Series(pd.cut(DAYS - DAYS[0], 3)),
    "binned zoned moments": pd.Series(pd.cut(DAYS.tz_localize("Asia/Tokyo"), 3)),
    "categories of dates": labels(np.array(DAYS[:12:4].date)),
    "intervals": pd.Series(pd.IntervalIndex.from_breaks([0, 0.5, 2, 3])[PLACES]),
    "periods": pd.Series(pd.period_range("2020-01", periods=N, freq="M")),
    "sparse": pd.Series(pd.arrays.SparseArray(RNG.poisson(0.3, N))),
    "sparse floats": pd.Series(pd.arrays.SparseArray(RNG.poisson(0.3, N) * 0.5, fill_value=0.0)),
    "naive": pd.Series(DAYS),
    "seconds": pd.Series(DAYS).astype("datetime64[s]"),
    "zoned": pd.Series(DAYS.tz_localize("Europe/Berlin", ambiguous=True)),
    "fixed offset": pd.Series(DAYS.tz_localize(dt.timezone(dt.timedelta(hours=2)))),
    "timedelta": pd.Series(pd.to_timedelta(RNG.integers(0, 100_000, N), unit="s")),
}
WHOLE = {"int64", "uint8", "bool", "sparse"}  # types without a value for missing


def with_gaps(name, column):
    return column if name in WHOLE else column.mask(GAPS)


def pandas_frame(gaps):
    columns = {name: with_gaps(name, c) if gaps else c for name, c in PANDAS.items()}
    return pd.DataFrame(columns).set_index(pd.Index([f"r{i}" for i in range(N)], name="key"))


POLARS = {
    "i64": pl.Series(RNG.integers(0, 1000, N)),
    "u8": pl.Series(RNG.integers(0, 255, N), dtype=pl.UInt8),
    "f32": pl.Series(RNG.normal(size=N), dtype=pl.Float32),
    "bool": pl.Series(RNG.random(N) < 0.5),
    "text": pl.Series(WORDS.tolist()),
    "categorical": pl.Series(WORDS.tolist(), dtype=pl.Categorical),
    "enum": pl.Series(WORDS.tolist(), dtype=pl.Enum(["z", "y", "x", "never"])),
    "binary": pl.Series([word.encode() for word in WORDS]),
    "date": pl.Series(DAYS.date.tolist()),
    "moment": pl.Series(DAYS.to_list(), dtype=pl.Datetime("ms")),
    "zoned": pl.Series(DAYS.to_list(), dtype=pl.Datetime("us")).dt.replace_time_zone("Asia/Tokyo"),
    "duration": pl.Series(pd.to_timedelta(RNG.integers(0, 999, N), unit="s").to_list()),
    "time": pl.Series([dt.time(int(h), 30) for h in RNG.integers(0, 24, N)]),
    "decimal": pl.Series([Decimal(int(i)) / 4 for i in RNG.integers(0, 99, N)]).cast(
        pl.Decimal(12, 3)
    ),
}


def polars_frame(gaps):
    hidden = pl.Series(GAPS & gaps)
    frame = pl.DataFrame(POLARS)
    return frame.with_columns(pl.when(~hidden).then(pl.col(name)).alias(name) for name in POLARS)


ARROW = {
    "int8": pa.array(RNG.integers(0, 99, N), pa.int8()),
    "uint64": pa.array(RNG.integers(0, 99, N), pa.uint64()),
    "half": pa.array(RNG.normal(size=N), pa.float32()).cast(pa.float16()),
    "string": pa.array(WORDS),
    "large_string": pa.array(WORDS, pa.large_string()),
    "string_view": pa.array(WORDS, pa.string_view()),
    "dictionary": pa.array(WORDS).dictionary_encode(),
    "dictionary of integers": pa.array(PLACES).dictionary_encode(),
    "run ends": pa.RunEndEncodedArray.from_arrays(np.arange(1, N + 1), PLACES),
    "binary": pa.array([word.encode() for word in WORDS]),
    "fixed binary": pa.array([word.encode() for word in WORDS], pa.binary(1)),
    "date32": pa.array(DAYS.date, pa.date32()),
    "date64": pa.array(DAYS.date, pa.date64()),
    "timestamp": pa.array(DAYS.to_list(), pa.timestamp("s")),
    "zoned": pa.array(DAYS.tz_localize("UTC").to_list(), pa.timestamp("ns", "Asia/Tokyo")),
    "time32": pa.array(RNG.integers(0, 86_400, N), pa.int32()).cast(pa.time32("s")),
    "time64": pa.array(RNG.integers(0, 86_400, N) * 1000).cast(pa.time64("us")),
    "duration": pa.array(RNG.integers(-500, 500, N)).cast(pa.duration("ms")),
    "decimal": pa.array([Decimal(int(i)) / 4 for i in RNG.integers(0, 99, N)]),
    "decimal256": pa.array([Decimal(int(i)) for i in PLACES]).cast(pa.decimal256(40, 2)),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array(PLACES % 2, pa.int8())),
}


def arrow_table(gaps):
    gone = pa.array(np.where(GAPS & gaps, None, np.arange(N)), pa.int64())
    return pa.table({name: column.take(gone) for name, column in _takeable().items()})


def _takeable():
    """Return columns in types that Arrow indexes; the others are tested without gaps."""
    left_out = ("half", "run ends", "string_view", "bool8")
    return {name: column for name, column in ARROW.items() if name not in left_out}


FRAMES = {"pandas": pandas_frame, "polars": polars_frame, "arrow": arrow_table}


def types(frame):
    """Return the type of each column; categories with their order and unused levels."""
    if isinstance(frame, pa.Table):
        return {name: str(frame.schema.field(name).type) for name in frame.column_names}
    return dict(zip(frame.columns, frame.dtypes, strict=True))


def gaps(column):
    """Return the number of missing values of a column of any library."""
    if isinstance(column, pa.ChunkedArray):
        return column.null_count
    return column.null_count() if isinstance(column, pl.Series) else int(column.isna().sum())


def observed(frame, name):
    """Return the values of a column that are not missing in the frame with gaps, as text."""
    column = frame[name]
    values = column.to_pylist() if isinstance(frame, pa.Table) else list(column)
    whole = isinstance(frame, pd.DataFrame) and name in WHOLE
    return [str(v) for v, gone in zip(values, GAPS, strict=True) if whole or not gone]


@pytest.fixture(scope="module", params=list(FRAMES))
def case(request):
    frame = FRAMES[request.param](True)
    return frame, quick(max_epochs=1).fit(frame)


class TestTypes:
    def test_impute_keeps_them_and_every_observed_value(self, case):
        frame, vae = case
        filled = vae.impute(frame)
        assert type(filled) is type(frame)
        assert types(filled) == types(frame)
        for name in types(frame):
            assert observed(filled, name) == observed(frame, name), name
        assert not any(gaps(filled[name]) for name in types(frame))

    def test_reconstruct_sample_and_invert_keep_them(self, case):
        frame, vae = case
        for made in (vae.sample(20), vae.trained_.sample(5)):
            assert type(made) is type(frame)
            assert types(made) == types(frame)
        counts = {c.name for c in vae.trained_.coding.schema.columns if c.kind == "count"}
        assert counts == ({"sparse"} if isinstance(frame, pd.DataFrame) else set())
        means = types(frame) | dict.fromkeys(counts, np.dtype(float))  # which are not whole
        for made in (vae.reconstruct(frame), vae.inverse_transform(np.zeros((3, vae.latent_)))):
            assert type(made) is type(frame)
            assert types(made) == means

    def test_draws_keep_them(self, case):
        frame, vae = case
        drawn = vae.impute(frame, draws=2)
        assert {name: types(drawn)[name] for name in types(frame)} == types(frame)

    def test_a_saved_model_keeps_them(self, case, tmp_path):
        frame, vae = case
        again = VAE.load(vae.save(tmp_path / "m.vae"))
        assert types(again.sample(5)) == types(frame)
        assert types(again.impute(frame)) == types(frame)


EDGES = pd.IntervalIndex.from_breaks([0, 1, 2, 5])
INTERVALS = {
    "type": (EDGES[PLACES], "ordinal"),
    "objects": (list(EDGES[PLACES]), "ordinal"),
    "objects and None": ([None, *EDGES[PLACES][1:]], "ordinal"),
    "binned": (pd.cut(RNG.normal(size=N), 4), "ordinal"),
    "binned, without order": (pd.cut(RNG.normal(size=N), 4).as_unordered(), "categorical"),
    "quantiles": (pd.qcut(RNG.normal(size=N), 5), "ordinal"),
    "open ends": (pd.cut(RNG.normal(size=N), [-np.inf, -1, 0, np.inf], right=False), "ordinal"),
    "overlapping": (pd.IntervalIndex.from_tuples([(0, 2), (1, 3), (0, 1)])[PLACES], "categorical"),
    "both sides": ([pd.Interval(0, 1, "left"), pd.Interval(1, 2)] * (N // 2), "binary"),
    "all distinct": (list(pd.interval_range(0, N)), "text"),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_intervals_are_ordered_categories(name, tmp_path):
    values, kind = INTERVALS[name]
    frame = pd.DataFrame({"a": pd.Series(values), "b": RNG.normal(size=N)})
    if isinstance(values, list):
        frame["a"] = pd.Series(values, dtype=object)
    vae = quick(max_epochs=1).fit(frame)
    column = vae.trained_.coding.schema.columns[0]
    assert column.kind == kind
    if kind == "ordinal":
        assert list(column.levels) == [str(each) for each in sorted(set(frame["a"].dropna()))]
    again = VAE.load(vae.save(tmp_path / "m.vae"))
    holed = frame.assign(a=frame["a"].mask(GAPS))  # intervals of whole numbers become objects
    kept = vae.impute(holed)["a"]
    assert kept[~GAPS & frame["a"].notna()].tolist() == (
        frame["a"][~GAPS & frame["a"].notna()].tolist()
    )
    if kind == "text":  # which is not modelled
        return
    for made in (vae.sample(20), again.sample(20), vae.reconstruct(frame), kept.to_frame()):
        wanted = holed["a"] if made.equals(kept.to_frame()) else frame["a"]
        assert made["a"].dtype == wanted.dtype
        assert set(made["a"]) <= set(frame["a"])


def test_intervals_are_found_in_other_types():
    frame = pd.DataFrame({"a": EDGES[PLACES], "b": RNG.normal(size=N)})
    vae = quick(max_epochs=1).fit(frame)
    for other in (
        frame["a"].astype("interval[float64]"),
        frame["a"].astype("category"),
        frame["a"].astype(object),
        frame["a"].astype(str),
        frame["a"].astype("interval[float64]").astype(str),
    ):
        np.testing.assert_array_equal(
            vae.anomaly_score(frame.assign(a=other)), vae.anomaly_score(frame)
        )


@pytest.mark.parametrize(
    "kind", [pa.decimal128(5, 2), pa.binary(3), pa.dictionary(pa.int8(), pa.string())]
)
def test_arrow_types_of_pandas_with_parameters_survive_saving(kind):
    dtype = pd.ArrowDtype(kind)
    assert frame_types.dtype_of(frame_types.described(dtype)) == dtype


def test_frames_without_gaps_come_back_as_they_were():
    frame = pandas_frame(False)
    vae = quick(max_epochs=1).fit(frame)
    pd.testing.assert_frame_equal(vae.impute(frame), frame)


@pytest.mark.parametrize("name", ["half", "run ends", "string_view", "bool8"])
def test_layouts_of_arrow_come_back(name):
    table = pa.table({"a": ARROW[name], "b": RNG.normal(size=N)})
    vae = quick(max_epochs=1).fit(table)
    assert types(vae.impute(table)) == types(table)
    assert vae.impute(table)["a"].to_pylist() == table["a"].to_pylist()


LABELS = {
    "integers": pd.Index([10, 20, 30]),
    "positions": pd.RangeIndex(3),
    "mixed": pd.Index([1, "b", 2.5], dtype=object),
    "alike": pd.Index([1, "1", 1.5], dtype=object),
    "tuples": pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", 1)], names=["one", "two"]),
    "moments": pd.Index(pd.to_datetime(["2024-01-01", "2024-01-02", "2024-03-01"]), name="day"),
    "periods": pd.period_range("2024-01", periods=3, freq="M"),
    "named text": pd.Index(["a", "b", "c"], name="letters"),
}


class TestLabels:
    @pytest.mark.parametrize("name", list(LABELS))
    def test_of_columns(self, name, tmp_path):
        values = RNG.normal(size=(N, 3)) * [1, 5, 9] + [0, 50, -50]
        frame = pd.DataFrame(values, columns=LABELS[name])
        frame.iloc[0, 0] = np.nan
        vae = quick(max_epochs=1).fit(frame)
        again = VAE.load(vae.save(tmp_path / "m.vae"))
        for made in (vae.impute(frame), vae.reconstruct(frame), vae.sample(3), again.sample(3)):
            pd.testing.assert_index_equal(made.columns, frame.columns)
        drawn = vae.impute(frame, draws=2).columns
        assert drawn[:3].tolist() == frame.columns.tolist()
        assert str(drawn[3][0] if isinstance(drawn, pd.MultiIndex) else drawn[3]) == "draw"
        turned = frame.iloc[:, [2, 0, 1]]
        np.testing.assert_array_equal(vae.anomaly_score(turned), vae.anomaly_score(frame))
        if name != "named text":  # where scikit-learn warns
            found = vae.anomaly_score(frame.to_numpy())
            np.testing.assert_array_equal(found, vae.anomaly_score(frame))

    @pytest.mark.parametrize(
        "index",
        [
            pd.MultiIndex.from_product([range(N // 2), ["a", "b"]], names=["i", None]),
            pd.Index([0] * N),
            DAYS,
            pd.Index(np.arange(N)[::-1] * 2.5, name="x"),
        ],
        ids=["levels", "equal", "moments", "falling"],
    )
    def test_of_rows(self, index):
        frame = pd.DataFrame({"a": RNG.normal(size=N), "b": WORDS}, index=index)
        vae = quick(max_epochs=1).fit(frame)
        for made in (vae.impute(frame), vae.score_table(frame), vae.explain(frame, 1)):
            pd.testing.assert_index_equal(made.index, frame.index)
        drawn = vae.impute(frame, draws=3).index
        pd.testing.assert_index_equal(drawn[:N], frame.index)
        pd.testing.assert_index_equal(drawn[2 * N :], frame.index)

    def test_kinds_and_dropped_columns_are_given_by_label(self):
        frame = pd.DataFrame({10: WORDS, 20: RNG.normal(size=N), 30: RNG.integers(0, 3, N)})
        vae = quick(max_epochs=1, types={30: "categorical"}, drop=[10]).fit(frame)
        kinds = {c.name: c.kind for c in vae.trained_.coding.schema.columns}
        assert kinds == {"20": "real", "30": "categorical"}
        assert vae.sample(5, where={30: 2})[30].eq(2).all()


def test_a_value_beyond_the_categories_adds_one():
    train = pd.DataFrame({"a": pd.Categorical(list("pq") * 60), "b": RNG.normal(size=N)})
    vae = quick(max_epochs=1).fit(train)
    frame = train.assign(a=pd.Categorical(["r", None] * 60))
    filled = vae.impute(frame)["a"]
    assert filled.cat.categories[0] == "r"
    assert set(filled[1::2]) <= set("pq")


@pytest.mark.parametrize(
    "damage",
    [
        {"types": {"a": "no such type", "b": {"categories": 3}}},
        {"types": 7, "labels": {"labels": [1], "names": [None]}},
        {"labels": {"labels": ["x", "y"], "of": "datetime64[ns]", "names": [None]}},
    ],
)
def test_a_damaged_description_gives_plain_columns(damage):
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    made = containers.wrap(containers.Seen(["a", "b"], True, "pandas", damage), table)
    assert made.to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}


def test_descriptions_are_plain_json():
    for make in (pandas_frame, polars_frame):
        facts = containers.noted(read(make(True)).native, True)
        assert json.loads(json.dumps(facts)) == facts
