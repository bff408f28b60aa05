"""Of files that are read part by part, columns that nobody asks for are not read."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lowerbound.errors import DataError
from lowerbound.files import data
from lowerbound.files.read import walk
from lowerbound.files.stream import Stream
from lowerbound.files.text import long

ROWS = 300


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(data, "PART", 64)


def rows(n: int = ROWS, start: int = 0) -> pa.Table:
    number = np.arange(start, start + n)
    words = pa.array([None if i % 7 == 0 else f"w{i % 5}" for i in number], pa.string())
    nested = pa.array([{"b": int(i), "c": 1.5} for i in number])
    columns = {"number": number, "a": nested, "a.b": number / 2, "word": words}
    return pa.table({**columns, "word.": words})


def joined(stream: Stream) -> pa.Table:
    return pa.concat_tables([part.table for part in stream.parts()])


def opened(path) -> Stream:
    stream = walk(path)
    assert isinstance(stream, Stream)
    return stream


CHOICES = [["a"], ["a.b"], ["word"], ["word.", "number"], ["a.b", "a", "nothing"]]


@pytest.mark.parametrize("chosen", CHOICES)
@pytest.mark.parametrize("kind", ["parquet", "arrow", "packed"])
def test_chosen_columns_are_those_of_the_whole(tmp_path, kind, chosen):
    path = tmp_path / ("t.parquet" if kind == "parquet" else "t.arrow")
    if kind == "parquet":
        pq.write_table(rows(), path, row_group_size=100)
    else:
        packing = pa.ipc.IpcWriteOptions(compression="zstd" if kind == "packed" else None)
        with pa.ipc.new_file(path, rows().schema, options=packing) as writer:
            writer.write_table(rows(), max_chunksize=100)
    stream = opened(path)
    less = stream.only(chosen)
    kept = [name for name in rows().column_names if name in chosen]
    assert less.names == tuple(kept)
    assert joined(less).equals(rows().select(kept))
    assert [p.rows for p in less.parts()] == [p.rows for p in stream.parts()]
    assert (less.rows, less.origin) == (stream.rows, stream.origin)
    assert less.bytes < stream.bytes
    assert joined(less.only(kept[:1])).column_names == kept  # once is enough


def test_columns_are_chosen_by_the_names_that_they_were_given(tmp_path):
    pq.write_table(rows(), tmp_path / "t.parquet")
    stream = opened(tmp_path / "t.parquet").renamed(("n", "a", "number", "w", "v"))
    less = stream.only(["number", "w"])
    assert joined(less).equals(rows().select(["a.b", "word"]).rename_columns(["number", "w"]))


def test_text_keeps_its_types(tmp_path, monkeypatch):
    monkeypatch.setattr(long, "are_long", lambda files: True)
    lines = [f"{i},{i / 2},w{i},00{i}" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(["n,half,word,code", *lines]) + "\n")
    stream = opened(tmp_path / "t.csv")
    assert joined(stream.only(["half", "code"])).equals(joined(stream).select(["half", "code"]))


@pytest.mark.parametrize("chosen", [["country"], ["country", "word"], ["number"]])
def test_folders_that_name_partitions_and_mixed_types(tmp_path, chosen):
    for number, country in enumerate(["FR", "PE"]):
        (tmp_path / f"country={country}").mkdir()
        table = rows(70, 70 * number).select(["number", "word"])
        if number:
            table = table.select(["word", "number"])
            table = table.set_column(1, "number", table["number"].cast(pa.float64()))
        pq.write_table(table, tmp_path / f"country={country}" / "part.parquet")
    stream = opened(tmp_path)
    less, kept = stream.only(chosen), [name for name in stream.names if name in chosen]
    assert joined(less).equals(joined(stream).select(kept))
    assert [joined(piece).num_rows for piece in less.pieces] == [70, 70]
    assert {piece.names for piece in less.pieces} == {tuple(kept)}
    assert [piece.start for piece in less.pieces] == [0, 70]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_damage_in_a_column_that_is_not_asked_for_is_not_met(tmp_path, suffix):
    word, path = b"a word that is found again", tmp_path / f"t.{suffix}"
    table = pa.table({"x": np.arange(ROWS), "text": [word.decode()] * ROWS})
    if suffix == "parquet":
        pq.write_table(table, path, compression="none", use_dictionary=False)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(word, b"\xff" * len(word)))  # text that is none
    stream = opened(path)
    with pytest.raises(DataError) as refusal:
        joined(stream)
    assert refusal.value.code == "E020"
    assert joined(stream.only(["x"])).equals(table.select(["x"]))


def test_what_cannot_be_read_by_columns_stays_whole(tmp_path):
    np.save(tmp_path / "t.npy", np.arange(1200.0).reshape(ROWS, 4))
    stream = opened(tmp_path / "t.npy")
    assert stream.only(["x1"]) is stream
    pq.write_table(rows(), tmp_path / "t.parquet")
    stream = opened(tmp_path / "t.parquet")
    assert stream.only(["nothing"]) is stream
    assert stream.only(stream.names) is stream
    assert replace(stream, narrowed=None).only(["a"]).names == stream.names
