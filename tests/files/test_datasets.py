"""Datasets of pyarrow, filtered or not, are tables that are read part by part."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import commands
from lowerbound import VAE
from lowerbound.errors import DataError, UsageError
from lowerbound.files import data
from lowerbound.files.data import Data, Whole
from lowerbound.files.read import read, walk
from lowerbound.files.stream import Stream

ROWS = 300


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(data, "PART", 64)


def rows(n: int = ROWS, start: int = 0) -> pa.Table:
    rng = np.random.default_rng(start)
    number = np.arange(start, start + n)
    z = rng.normal(size=n)
    return pa.table({"n": number, "x": z, "y": z + 0.3 * rng.normal(size=n), "x.y": -z})


@pytest.fixture
def dataset(tmp_path):
    for number, country in enumerate(["FR", "PE"]):
        (tmp_path / f"country={country}").mkdir()
        pq.write_table(rows(ROWS, ROWS * number), tmp_path / f"country={country}" / "p.parquet")
    return ds.dataset(tmp_path, partitioning="hive")


def joined(given: Data) -> pa.Table:
    return pa.concat_tables([part.table for part in given.parts()])


def test_rows_come_in_order_and_whatever_passes_the_filter(dataset):
    stream = walk(dataset)
    assert isinstance(stream, Stream)
    assert [part.rows for part in stream.parts()] == [64] * 9 + [24]
    assert joined(stream).equals(dataset.to_table().combine_chunks())
    assert stream.bytes > 0
    some = dataset.filter((ds.field("country") == "PE") & (ds.field("x") > 0))
    stream = walk(some)
    assert isinstance(stream, Stream)
    x = rows(ROWS, ROWS)["x"].to_numpy()
    assert stream.rows == np.sum(x > 0) > 100
    assert joined(stream)["n"].to_pylist() == (ROWS + np.flatnonzero(x > 0)).tolist()
    assert joined(stream).equals(read(some).table)
    few = walk(dataset.filter(ds.field("n") < 40))
    assert isinstance(few, Whole)
    assert few.rows == few.total == 40


@pytest.mark.parametrize("chosen", [["x"], ["x.y", "country"]])
def test_columns_that_nobody_asks_for_are_passed_over(dataset, chosen):
    less = walk(dataset.filter(ds.field("n") > 9)).only(chosen)
    table = dataset.to_table(filter=ds.field("n") > 9)
    assert joined(less).equals(table.select([n for n in table.column_names if n in chosen]))


def test_a_fit_and_scores_are_those_of_the_table(dataset, tmp_path):
    some = dataset.filter(ds.field("n") < 500)
    table = some.to_table()
    how = {"preset": "fast", "max_epochs": 2, "drop": "n", "seed": 1}
    one, other = (commands.fit(data, **how).model for data in (some, table))
    assert commands.score(one, some).table.equals(commands.score(other, table).table)
    estimator = VAE(preset="fast", max_epochs=2, random_state=1).fit(some)
    assert len(estimator.transform(some)) == table.num_rows
    out = tmp_path / "scores.parquet"
    commands.score(one, some, out=out)
    assert pq.read_table(out)["anomaly_score"].to_pylist() == list(one.anomaly_score(some))


def test_ray_takes_files_and_no_dataset(dataset):
    for verb in (
        lambda: commands.fit(dataset, out="m.vae", ray=True),
        lambda: commands.score("m.vae", dataset, out="scores/", ray=True),
    ):
        with pytest.raises(UsageError, match="got a FileSystemDataset") as refusal:
            verb()
        assert refusal.value.code == "E236"


def test_what_is_no_table_is_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="has no rows") as refusal:
        walk(dataset.filter(ds.field("n") < 0))
    assert refusal.value.code == "E013"
    path = next(tmp_path.rglob("*.parquet"))
    raw = bytearray(path.read_bytes())
    raw[4:300] = bytes(296)  # the header of a page
    path.write_bytes(raw)
    with pytest.raises(DataError, match="FileSystemDataset cannot be read") as refusal:
        joined(walk(dataset))
    assert refusal.value.code == "E020"
    path.unlink()
    with pytest.raises(DataError, match="cannot be read") as refusal:
        joined(walk(dataset))
    assert refusal.value.code == "E020"
    twice = pa.table([pa.array([1, 2]), pa.array([1, 2])], ["a", "a"])
    with pytest.raises(DataError, match="same name: 'a'") as refusal:
        walk(ds.dataset(twice))
    assert refusal.value.code == "E012"
