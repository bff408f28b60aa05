"""Parquet files that are read part by part hold the rows that reading them whole finds."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from pyarrow import feather

from lowerbound.errors import DataError
from lowerbound.files import data, parquet
from lowerbound.files.data import Data, Whole, part_rows
from lowerbound.files.read import read, walk
from lowerbound.files.stream import Stream, regrouped

ROWS = 1000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(data, "PART", 64)


def rows(n: int, start: int = 0) -> pa.Table:
    number = np.arange(start, start + n)
    words = pa.array([None if i % 7 == 0 else f"w{i % 5}" for i in number], pa.string())
    return pa.table({"number": number, "half": number / 2, "word": words})


def joined(given: Data) -> pa.Table:
    return pa.concat_tables([part.table for part in given.parts()])


@pytest.mark.parametrize("group", [1, 50, 64, 333, ROWS])
def test_parts_do_not_depend_on_row_groups(tmp_path, group):
    path = tmp_path / "t.parquet"
    pq.write_table(rows(ROWS), path, row_group_size=group)
    stream = walk(path)
    assert isinstance(stream, Stream)
    parts = list(stream.parts())
    assert [part.rows for part in parts] == [64] * 15 + [40]
    assert [part.start for part in parts] == list(range(0, ROWS, 64))
    assert joined(stream).equals(read(path).table)
    assert joined(stream).equals(rows(ROWS))  # and once more: every walk begins anew


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("batch", [50, ROWS])
def test_arrow_files_are_read_part_by_part(tmp_path, batch, compression):
    path = tmp_path / "t.arrow"
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, rows(0).schema, options=options) as writer:
        writer.write_table(rows(ROWS), max_chunksize=batch)
    stream = walk(path)
    assert isinstance(stream, Stream)
    assert [part.rows for part in stream.parts()] == [64] * 15 + [40]
    assert joined(stream).equals(rows(ROWS))
    assert read(path).table.equals(rows(ROWS))
    assert read(path, rows=120).table.equals(rows(120))
    assert read(path, rows=120).total == ROWS


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", "?"])
def test_arrays_in_files_are_read_part_by_part(tmp_path, dtype, order):
    array = np.asarray(np.arange(3 * ROWS).reshape(-1, 3) % 250, dtype, order=order)
    np.save(tmp_path / "x.npy", array)
    stream, whole = walk(tmp_path / "x.npy"), read(tmp_path / "x.npy")
    assert isinstance(stream, Stream)
    assert joined(stream).equals(whole.table)
    for part in stream.parts():
        assert (part.native, part.typed, part.origin) == (whole.native, False, whole.origin)
    assert (stream.native.wrap(stream.first(5).table) == array[:5]).all()
    cut = (tmp_path / "x.npy").read_bytes()[:-9]
    (tmp_path / "x.npy").write_bytes(cut)
    with pytest.raises(DataError) as refusal:
        walk(tmp_path / "x.npy")
    assert refusal.value.code == "E025"
    np.save(tmp_path / "y.npy", np.zeros((100, 8, 8)))
    assert isinstance(walk(tmp_path / "y.npy"), Whole)  # pictures


def test_zarr_stores_are_read_part_by_part(tmp_path):
    array = np.arange(3.0 * ROWS).reshape(-1, 3)
    for version in (2, 3):
        path = tmp_path / f"{version}.zarr"
        zarr.create_array(str(path), data=array, chunks=(70, 2), zarr_format=version)
        stream, whole = walk(path), read(path)
        assert isinstance(stream, Stream)
        assert [part.rows for part in stream.parts()] == [64] * 15 + [40]
        assert joined(stream).equals(whole.table)
        assert (whole.native.wrap(whole.table) == array).all()
        assert read(path, rows=3).rows == 3
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    group.create_array("one", data=array)
    assert joined(walk(tmp_path / "g.zarr")).equals(whole.table)
    group.create_array("two", data=array[:100])
    with pytest.raises(DataError, match="2 arrays") as refusal:
        read(tmp_path / "g.zarr")
    assert refusal.value.code == "E028"
    assert read(tmp_path / "g.zarr" / "two").rows == 100
    group.create_array("X", data=array[:50])
    assert read(tmp_path / "g.zarr").rows == 50
    (tmp_path / "3.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(DataError) as refusal:
        read(tmp_path / "3.zarr")
    assert refusal.value.code == "E025"


def test_a_folder_of_arrow_files_is_one_table(tmp_path):
    for number in range(3):
        feather.write_feather(rows(70, 70 * number), tmp_path / f"part-{number}.feather")
    assert joined(walk(tmp_path)).equals(rows(210))
    (tmp_path / "part-1.feather").write_bytes((tmp_path / "part-1.feather").read_bytes()[:400])
    with pytest.raises(DataError, match=r"part-1\.feather") as refusal:
        joined(walk(tmp_path))
    assert refusal.value.code == "E020"


def test_shards_of_mixed_types_and_partitions_are_one_table(tmp_path):
    for number, country in enumerate(["FR", "PE", "DE"]):
        folder = tmp_path / f"country={country}"
        folder.mkdir()
        table = rows(70, 70 * number)
        if number == 1:  # whole numbers where the others have fractions, and another order
            table = table.set_column(1, "half", table["half"].cast(pa.int64(), safe=False))
            table = table.select(["word", "half", "number"])
        pq.write_table(table, folder / f"part-{number}.parquet")
    stream, whole = walk(tmp_path), read(tmp_path)
    assert isinstance(stream, Stream)
    assert stream.rows == whole.rows == 210
    assert joined(stream).equals(whole.table)
    assert {part.table.schema for part in stream.parts()} == {whole.table.schema}


def test_few_rows_and_other_kinds_are_held(tmp_path):
    pq.write_table(rows(64), tmp_path / "few.parquet")
    assert isinstance(walk(tmp_path / "few.parquet"), Whole)
    assert isinstance(walk(rows(ROWS)), Whole)
    assert joined(walk(rows(ROWS))).equals(rows(ROWS))


def test_damage_is_told_when_it_is_met(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(rows(ROWS), path, row_group_size=100, compression="none")
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 200] = bytes(200)
    path.write_bytes(raw)
    with pytest.raises(DataError) as refusal:
        joined(walk(path))
    assert refusal.value.code == "E020"
    assert "t.parquet" in refusal.value.message


def test_a_part_of_a_wide_table_has_fewer_rows(monkeypatch):
    monkeypatch.setattr(data, "PART", 1 << 16)
    assert [part_rows(n) for n in (0, 1, 64, 65, 5000, 10**7)] == [65536] * 3 + [32768, 512, 16]


def test_regrouping_keeps_every_row():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(0, 30, 12)
        starts = np.cumsum([0, *sizes[:-1]])
        tables = [rows(int(n), int(s)) for n, s in zip(sizes, starts, strict=True)]
        found = list(regrouped(tables, 8))
        assert all(table.num_rows == 8 for table in found[:-1])
        if found:
            assert pa.concat_tables(found).equals(pa.concat_tables(tables))


def test_a_part_that_was_worked_on_is_let_go():
    def tables():
        for _ in range(6):
            yield pa.table({"a": np.zeros(1000)}).take(pa.array(range(1000)))

    before, held = pa.total_allocated_bytes(), []
    for part in regrouped(tables(), 1000):
        held.append(pa.total_allocated_bytes() - before)
        del part
    assert max(held) < 2 * 1000 * 8, "this part and none before it"


@pytest.mark.parametrize("rows", [1100, 5000])
def test_long_dictionaries_of_short_words_are_given_up(tmp_path, monkeypatch, rows):
    """Arrow keeps a dictionary until the row group ends, which may hold millions of ids."""
    monkeypatch.setattr(parquet, "_DISTINCT", 1000)
    monkeypatch.setattr(parquet, "_HARMLESS", 2000)  # bytes: of 100 rows with 19 letters or less
    number = np.arange(rows)
    long = [f"{'long' * 10} {i}" for i in number]
    words = {"id": [f"t{i}" for i in number], "word": [f"w{i % 5}" for i in number], "long": long}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(words), path, row_group_size=rows)
    asked, paged = [], parquet._paged
    monkeypatch.setattr(parquet, "_paged", lambda *how: asked.append(how[1]) or paged(*how))
    (shard,) = parquet.open_all([path])
    parts = list(shard.parts(100))
    assert [len(part) for part in parts] == [100] * (rows // 100)
    assert pa.concat_tables(parts).equals(pq.read_table(path))
    assert asked == [["id", "word", "long"], ["word", "long"]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_dictionaries_are_given_up_whatever_the_text_and_its_name(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(parquet, "_DISTINCT", 1000)
    monkeypatch.setattr(parquet, "_HARMLESS", 2000)
    words = [f"t{i}" for i in range(1500)]
    path = tmp_path / "t.parquet"
    columns = [pa.array(words, kind), pa.array(words[::-1], kind)]
    pq.write_table(pa.table(columns, names=["a.b", "a.b"]), path)
    (shard,) = parquet.open_all([path])
    read = pa.concat_tables(shard.parts(100))
    assert read.column(0).to_pylist() == words
    assert read.column(1).to_pylist() == words[::-1]
    assert read.schema.types == [kind, kind]
