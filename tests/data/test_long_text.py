"""Text tables that are read by passes over blocks come out as those that are read whole."""

import numpy as np
import pyarrow as pa
import pytest

from lowerbound.errors import DataError, ResourceError
from lowerbound.files import memory
from lowerbound.files.data import Whole
from lowerbound.files.read import read, walk
from lowerbound.files.stream import Stream
from lowerbound.files.text import encoding, long, tables
from text_tables import CSV

OTHER_ENCODINGS = {"utf-16", "utf-16 without mark", "latin-1", "latin-1 header"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 64)
    monkeypatch.setattr(encoding, "_CHUNK", 32)  # twice as much is the block, at least
    monkeypatch.setattr(long, "are_long", lambda files: True)


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def walked(path):
    stream = walk(path)
    assert isinstance(stream, Stream)
    table = pa.concat_tables([part.table for part in stream.parts()])
    assert table.num_rows == stream.rows
    return table, stream.notes


def same(path):
    whole = read(path)
    table, notes = walked(path)
    assert table.schema.equals(whole.table.schema)
    assert table.equals(whole.table)
    assert notes == whole.notes


def refused(reader, path):
    try:
        reader(path)
    except DataError as error:
        return error.code, error.message
    return None


def same_or_refused(path):
    if error := refused(read, path):
        assert refused(walk, path) == error
    else:
        same(path)


@pytest.mark.parametrize("name", sorted(CSV.keys() - OTHER_ENCODINGS))
def test_whatever_is_read_whole(name, tmp_path):
    same(put(tmp_path, "t.csv", CSV[name][0]))


@pytest.mark.parametrize("name", sorted(OTHER_ENCODINGS))
def test_other_encodings_are_to_be_converted_first(name, tmp_path):
    with pytest.raises(ResourceError, match="iconv") as caught:
        walk(put(tmp_path, "t.csv", CSV[name][0]))
    assert caught.value.code == "E303"


# Cells that columns are made of: each kind comes after others, in any order.
KINDS = {
    "nothing": [""],
    "gaps": ["NA", "-", "null"],
    "whole": ["1", "23", "-4"],
    "halves": ["1.5", "2e3", "inf", "nan"],
    "truth": ["true", "false", "1", "0"],
    "days": ["2024-01-31", "1999-12-01"],
    "moments": ["2024-01-31 10:00:00", "2024-01-31"],
    "zoned": ["2024-01-31T10:00:00Z", "2024-01-31 10:00:00+02:00"],
    "fractions": ["2024-01-31 10:00:00.25"],
    "clock": ["10:00", "23:59:59"],
    "codes": ["007", "12"],
    "long": ["12345678901234567890", "9007199254740993"],
    "commas": ["1,5", "22,75"],
    "german": ["1.234,5", "17"],
    "money": ["$5", "$12.50"],
    "words": ["a", "b c", "é"],
}


@pytest.mark.parametrize("seed", range(40))
def test_a_column_is_what_all_of_its_cells_are(seed, tmp_path):
    rng = np.random.default_rng(seed)
    columns = []
    for _ in range(5):
        kinds = rng.choice(list(KINDS), rng.integers(1, 4))
        columns.append(
            [rng.choice(KINDS[kind]) for kind in kinds for _ in range(60 // len(kinds))]
        )
    lines = [";".join(f"c{j}" for j in range(5)), *map(";".join, zip(*columns, strict=True))]
    path = put(tmp_path, "t.csv", "\n".join(lines))
    same_or_refused(path)


MANY = "1,2\n" * 100
REFUSED = {
    "ragged": f"a,b\n{MANY}1,2,3\n{MANY}1\n",
    "open quote": f'a,b\n{MANY}1,"x\n{MANY}',
    "only a header": "a,b\n",
    "blank": "\n\n",
    "NUL": f"a,b\n{MANY}1,\0\n",
    "one name twice": f"a,a\n{MANY}",
    "one comma": "a;b\n" + "1,500;x\n" * 50,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_whole_is_refused(name, tmp_path):
    path = put(tmp_path, "t.csv", REFUSED[name])
    assert refused(read, path)
    same_or_refused(path)


def test_files_of_different_types_are_one_table(tmp_path):
    put(tmp_path, "t/day=1/a.csv", "id,x\n" + "\n".join(f"{i},{i}" for i in range(50)))
    put(tmp_path, "t/day=2/b.csv", "id,x\n" + "\n".join(f"a{i},{i / 2}" for i in range(50)))
    whole = read(tmp_path / "t").table
    assert whole.column_names == ["id", "x", "day"]
    assert [f.type for f in whole.schema] == [pa.string(), pa.float64(), pa.string()]
    same(tmp_path / "t")


def test_what_is_long_depends_on_the_memory_that_is_free(tmp_path, monkeypatch):
    monkeypatch.undo()
    path = put(tmp_path, "t.csv", "a,b\n" + "1,2\n" * 1000)
    assert isinstance(walk(path), Whole)
    monkeypatch.setattr(memory, "available", lambda: 4 * path.stat().st_size)
    assert isinstance(walk(path), Stream)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(b"")
    assert not long.are_long([path, packed])


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    table, _ = walked(put(tmp_path, "t.csv", "a,b\n" + "1,x\n" * 100))
    assert table.num_rows == 100
    assert len(list(long._blocks(tables.look(tmp_path / "t.csv"), {}))) > 3
    assert not list(scratch.iterdir())


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = pytest.importorskip("shutil")._ntuple_diskusage(10, 10, 0)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(ResourceError) as caught:
        walk(put(tmp_path, "t.csv", "a,b\n" + "1,x\n" * 100))
    assert caught.value.code == "E301"
