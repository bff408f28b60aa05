"""What can be read, what is repaired on the way, and that every repair is reported."""

from __future__ import annotations

import datetime as dt
import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from lowerbound.errors import DataError
from lowerbound.files.data import Matrix
from lowerbound.files.read import read
from text_tables import CSV, PLAIN


def put(tmp: Path, name: str, content: bytes | str) -> Path:
    path = tmp / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def columns(frame):
    return {name: frame.table[name].to_pylist() for name in frame.names}


@pytest.mark.parametrize("name", CSV)
def test_csv(name, tmp_path):
    content, wanted, note = CSV[name]
    path = put(tmp_path, "t.csv", content)
    for source, options in [(path, {}), (path, {"rows": 50})]:
        frame = read(source, **options)
        assert columns(frame) == wanted
        assert frame.origin == "t.csv"
        if note is None:
            assert frame.notes == ()
        else:
            assert any(note in line for line in frame.notes), frame.notes


@pytest.mark.parametrize(
    "name", ["commas", "semicolons", "latin-1", "leading zeros", "quoted lines"]
)
def test_gzip(name, tmp_path):
    content, wanted, _ = CSV[name]
    packed = gzip.compress(content if isinstance(content, bytes) else content.encode())
    assert columns(read(put(tmp_path, "t.csv.gz", packed))) == wanted
    assert columns(read(put(tmp_path, "twice.csv.gz", packed + bytes(512)))) == wanted


def test_gzip_of_several_members_and_without_the_suffix(tmp_path):
    packed = gzip.compress(b"a,b\n1,x\n") + gzip.compress(b"2,y\n")
    assert columns(read(put(tmp_path, "t.csv.gz", packed))) == PLAIN
    frame = read(put(tmp_path, "t.csv", packed))
    assert columns(frame) == PLAIN
    assert any("gzip" in note for note in frame.notes)


def test_tsv_and_other_suffixes(tmp_path):
    for name, content in [
        ("t.tsv", "a\tb\n1\tx\n2\ty\n"),
        ("t.txt", "a,b\n1,x\n2,y\n"),
        ("noname", "a,b\n1,x\n2,y\n"),
        ("T.CSV", "a,b\n1,x\n2,y\n"),
        ("with space ü.csv", "a,b\n1,x\n2,y\n"),
    ]:
        frame = read(put(tmp_path, name, content))
        assert columns(frame) == PLAIN
        assert frame.notes == ()


def test_commas_in_a_tsv_are_reported(tmp_path):
    (note,) = read(put(tmp_path, "t.tsv", "a,b\n1,x\n2,y\n")).notes
    assert "commas" in note


def test_first_rows_only(tmp_path):
    path = put(tmp_path, "t.csv", "a,b\n" + "".join(f"{i},w{i}\n" for i in range(1000)))
    frame = read(path, rows=10)
    assert frame.rows == 10
    assert frame.table["a"].to_pylist() == list(range(10))
    assert frame.total is None
    assert read(path).total == 1000
    packed = put(tmp_path, "t.csv.gz", gzip.compress(path.read_bytes()))
    assert read(packed, rows=10).table.equals(frame.table)
    quoted = put(tmp_path, "q.csv", "a,b\n" + "".join(f'{i},"x\ny"\n' for i in range(100)))
    assert read(quoted, rows=3).rows == 3


def test_csv_shards_and_lists(tmp_path):
    one = put(tmp_path, "d/p1.csv", "a,b\n1,x\n")
    two = put(tmp_path, "d/p2.csv", "b,a\ny,2.5\n")
    wanted = {"a": [1.0, 2.5], "b": ["x", "y"]}
    for source in (tmp_path / "d", str(tmp_path / "d" / "*.csv"), [one, two]):
        assert columns(read(source)) == wanted
    put(tmp_path, "d/README.txt", "about the data")
    put(tmp_path, "d/_SUCCESS", "")
    put(tmp_path, "d/.hidden.csv", "zzz")
    assert columns(read(tmp_path / "d")) == wanted


def test_a_shard_may_turn_codes_into_text(tmp_path):
    put(tmp_path, "d/p1.csv", "a\n1\n")
    put(tmp_path, "d/p2.csv", "a\nx\n")
    assert columns(read(tmp_path / "d")) == {"a": ["1", "x"]}


# --- Parquet ---------------------------------------------------------------------------------


def parquet(tmp, name, table, **options):
    path = tmp / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def test_parquet_types(tmp_path):
    table = pa.table(
        {
            "d": pa.array(["1.50", "2.25"]).cast(pa.decimal128(6, 2)),
            "k": pa.array(["x", None]).dictionary_encode(),
            "n": pa.nulls(2),
            "t": pa.array([dt.datetime(2024, 1, 1), None]),
            "big": pa.array([2**63 + 5, 1], pa.uint64()),
            "long": pa.array(["x" * 100_000, "y"]),
        }
    )
    frame = read(parquet(tmp_path, "t.parquet", table))
    assert frame.table.to_pylist() == table.to_pylist()
    assert frame.total == 2


def test_parquet_int96_and_one_large_row_group(tmp_path):
    table = pa.table({"t": pa.array([dt.datetime(2024, 1, 1)] * 50_000), "a": range(50_000)})
    path = parquet(
        tmp_path, "t.parquet", table, use_deprecated_int96_timestamps=True, row_group_size=50_000
    )
    frame = read(path, rows=7)
    assert frame.rows == 7
    assert frame.total == 50_000
    assert frame.table["t"][0].as_py() == dt.datetime(2024, 1, 1)


def test_parquet_shards_agree_after_promotion(tmp_path):
    parquet(tmp_path, "d/a-1.parquet", pa.table({"x": pa.array([1], pa.int32()), "y": ["u"]}))
    parquet(tmp_path, "d/a-2.parquet", pa.table({"y": pa.nulls(1, pa.string()), "x": [2.5]}))
    frame = read(tmp_path / "d")
    assert columns(frame) == {"x": [1.0, 2.5], "y": ["u", None]}
    assert read(tmp_path / "d", rows=1).rows == 1
    assert read(tmp_path / "d", rows=1).total == 2


def test_a_gap_is_accepted_when_the_files_were_chosen(tmp_path):
    for i in (1, 2, 4):
        parquet(tmp_path, f"d/p{i}.parquet", pa.table({"x": [i]}))
    frame = read(str(tmp_path / "d" / "p*.parquet"))
    assert frame.rows == 3
    assert "p3.parquet" in frame.notes[0]


def test_names_that_are_dates_have_no_gaps(tmp_path):
    for day in (20240103, 20240104, 20240131):
        parquet(tmp_path, f"d/{day}.parquet", pa.table({"x": [day]}))
    assert read(tmp_path / "d").rows == 3


def test_hive_partitions(tmp_path):
    for country in ("PE", "DE"):
        for year in (2023, 2024):
            path = f"d/country={country}/year={year}/part-0.parquet"
            parquet(tmp_path, path, pa.table({"x": [year * 1.0]}))
    frame = read(tmp_path / "d")
    assert frame.rows == 4
    assert sorted(zip(*columns(frame).values(), strict=True)) == [
        (2023.0, "DE", "2023"),
        (2023.0, "PE", "2023"),
        (2024.0, "DE", "2024"),
        (2024.0, "PE", "2024"),
    ]


def test_parquet_under_the_name_of_a_csv(tmp_path):
    frame = read(parquet(tmp_path, "t.csv", pa.table(PLAIN)))
    assert columns(frame) == PLAIN
    assert any("parquet" in note for note in frame.notes)


# --- arrays ----------------------------------------------------------------------------------


def test_arrays_become_columns():
    array = np.arange(12.0).reshape(4, 3)
    frame = read(array)
    assert frame.names == ("x0", "x1", "x2")
    assert columns(frame) == {f"x{j}": array[:, j].tolist() for j in range(3)}
    for other in (np.asfortranarray(array), np.repeat(array, 2, axis=0)[::2], array[::-1][::-1]):
        assert columns(read(other)) == columns(frame)
    locked = array.copy()
    locked.flags.writeable = False
    assert columns(read(locked)) == columns(frame)
    assert columns(read(array.astype(">f8"))) == columns(frame)


@pytest.mark.parametrize(
    "dtype", ["bool", "i1", "u8", "f2", "f4", "M8[s]", "m8[ms]", "U3", np.longdouble, object]
)
def test_array_types(dtype):
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    frame = read(array)
    assert frame.rows == 3
    back = frame.native.wrap(frame.table)
    assert back.shape == (3, 2)
    assert back[0, 1] == back[1, 0] == back[2, 0]


def test_large_unsigned_integers_are_kept():
    array = np.array([[2**64 - 1], [1]], dtype=np.uint64)
    assert columns(read(array)) == {"x0": [2**64 - 1, 1]}


def test_masked_cells_are_missing():
    array = np.ma.masked_array([[1.0, 2], [3, 4]], mask=[[True, False], [False, False]])
    assert columns(read(array)) == {"x0": [None, 3.0], "x1": [2.0, 4.0]}


def test_structured_arrays_have_names():
    array = np.array([(1, "u"), (2, "v")], dtype=[("a", "i4"), ("b", "U3")])
    assert columns(read(array)) == {"a": [1, 2], "b": ["u", "v"]}


def test_lists_and_dicts():
    assert columns(read([[1, "a"], [2, "b"]])) == {"x0": [1, 2], "x1": ["a", "b"]}
    assert columns(read({"a": [1, None], "b": ["x", "y"]})) == {"a": [1, None], "b": ["x", "y"]}


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(order, tmp_path):
    array = np.asarray(np.arange(6.0).reshape(3, 2), order=order)
    np.save(tmp_path / "t.npy", array)
    frame = read(tmp_path / "t.npy")
    assert columns(frame) == {"x0": [0, 2, 4], "x1": [1, 3, 5]}
    assert read(tmp_path / "t.npy", rows=2).rows == 2
    memory = np.load(tmp_path / "t.npy", mmap_mode="r")
    assert columns(read(memory)) == columns(frame)
    (tmp_path / "t.npy").rename(tmp_path / "t.csv")
    assert columns(read(tmp_path / "t.csv")) == columns(frame)


def test_npz(tmp_path):
    array = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "x.npz", X=array, y=np.zeros(3))
    frame = read(tmp_path / "x.npz")
    assert columns(frame) == {"x0": [0, 2, 4], "x1": [1, 3, 5]}
    assert "'y'" in frame.notes[0]
    np.savez_compressed(tmp_path / "named.npz", table=array, columns=np.array(["p", "q"]))
    assert read(tmp_path / "named.npz", rows=1).names == ("p", "q")
    assert read(tmp_path / "named.npz", rows=1).total == 3


# --- sparse ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "dia"])
def test_sparse_matrices_stay_sparse(form):
    dense = np.array([[0, 2, 0], [1, 0, 0]])
    for make in (sp.csr_matrix, sp.csr_array):
        frame = read(make(dense).asformat(form))
        assert isinstance(frame, Matrix)
        assert frame.matrix.format == "csr"
        np.testing.assert_array_equal(frame.matrix.toarray(), dense)
        assert frame.names == ("x0", "x1", "x2")
        assert frame.rows == 2


def test_sparse_entries_are_sorted_and_added_up():
    rows, cols, data = [0, 0, 0], [2, 1, 2], [1, 2, 3]
    frame = read(sp.coo_matrix((data, (rows, cols)), shape=(1, 3)))
    np.testing.assert_array_equal(frame.matrix.toarray(), [[0, 2, 4]])
    messy = sp.csr_matrix((np.array([1, 2]), np.array([2, 1]), np.array([0, 2])), shape=(1, 3))
    frame = read(messy)
    assert frame.matrix.indices.tolist() == [1, 2]
    assert messy.indices.tolist() == [2, 1], "the caller's matrix is left alone"
    twice = sp.csr_matrix((np.array([1, 2]), np.array([2, 2]), np.array([0, 2])), shape=(1, 3))
    assert "1 entries" in read(twice).notes[0]


def test_sparse_files(tmp_path):
    dense = np.array([[0, 2, 0], [1, 0, 0]])
    for form in ("csr", "csc"):
        sp.save_npz(tmp_path / f"{form}.npz", sp.csr_matrix(dense).asformat(form))
        frame = read(tmp_path / f"{form}.npz")
        np.testing.assert_array_equal(frame.matrix.toarray(), dense)
    assert read(tmp_path / "csr.npz", rows=1).rows == 1
    assert read(tmp_path / "csr.npz", rows=1).total == 2


# --- data frames: the same kind out ----------------------------------------------------------

RESULT = pa.table({"score": [0.5, 1.5], "label": ["u", "v"]})


def test_pandas_keeps_its_index():
    frame = pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None]}, index=[70, 80])
    got = read(frame)
    assert columns(got) == {"a": [1.5, None], "b": ["x", None]}
    assert got.origin == "the DataFrame (2 rows x 2 columns)"
    back = got.native.wrap(RESULT)
    assert type(back) is pd.DataFrame
    assert back.index.tolist() == [70, 80]
    assert back["score"].tolist() == [0.5, 1.5]
    assert got.native.wrap(RESULT.slice(0, 1)).index.tolist() == [0]


def test_pandas_types():
    frame = pd.DataFrame(
        {
            "i": pd.array([1, None], dtype="Int64"),
            "c": pd.Categorical(["x", None]),
            "t": pd.to_datetime(["2024-01-01", None]),
            "o": [True, None],
            "m": np.array([1, 2], dtype=object),
        }
    )
    got = read(frame).table
    assert got["i"].to_pylist() == [1, None]
    assert got["c"].to_pylist() == ["x", None]
    assert got["t"].to_pylist() == [dt.datetime(2024, 1, 1), None]
    assert got["o"].to_pylist() == [True, None]
    assert got["m"].type == pa.int64()
    assert read(pd.DataFrame(np.eye(2))).names == ("0", "1")


def test_polars_eager_and_lazy():
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    for source in (frame, frame.lazy()):
        got = read(source)
        assert columns(got) == {"a": [1, 2], "b": ["x", None]}
        back = got.native.wrap(RESULT)
        assert type(back) is pl.DataFrame
        assert back["score"].to_list() == [0.5, 1.5]


def test_arrow():
    for source in (pa.table(PLAIN), pa.RecordBatch.from_pydict(PLAIN)):
        got = read(source)
        assert columns(got) == PLAIN
        assert got.native.wrap(RESULT) is RESULT


def test_arrays_and_files_give_arrays_and_tables(tmp_path):
    back = read(np.eye(2)).native.wrap(RESULT.select(["score"]))
    np.testing.assert_array_equal(back, [[0.5], [1.5]])
    assert read(np.eye(2)).native.wrap(pa.table({"a": [1, None]})).dtype == float
    assert read(put(tmp_path, "t.csv", "a,b\n1,2\n")).native.wrap(RESULT) is RESULT
    assert sp.issparse(read(sp.csr_matrix(np.eye(2))).native.wrap(RESULT.select(["score"])))


# --- manners ---------------------------------------------------------------------------------


def test_import_is_light():
    code = (
        "import sys; import lowerbound.files.read, lowerbound.columns.schema;"
        "import lowerbound.files.write;"
        "heavy = {'torch', 'pandas', 'polars', 'narwhals', 'sklearn'} & set(sys.modules);"
        "heavy |= {m for m in sys.modules if m.startswith('scipy')};"
        "print(sorted(heavy))"
    )
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    start = time.perf_counter()
    with pytest.raises(DataError):
        read(tmp_path / "pipe.csv")
    assert time.perf_counter() - start < 1


def test_input_files_are_left_alone(tmp_path):
    path = put(tmp_path, "t.csv", "a;b\n1,5;x\n")
    path.chmod(0o444)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    read(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert os.listdir(tmp_path) == ["t.csv"]


def test_reading_is_quick(tmp_path):
    rng = np.random.default_rng(0)
    table = pa.table({f"v{j}": rng.normal(size=40_000) for j in range(30)})
    import pyarrow.csv

    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    start = time.process_time()
    frame = read(tmp_path / "t.csv")
    assert frame.table.equals(table)
    assert time.process_time() - start < 2


def test_many_shards_need_few_open_files(tmp_path):
    import resource

    for i in range(80):
        parquet(tmp_path, f"d/p{i}.parquet", pa.table({"x": [i]}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        assert read(tmp_path / "d").rows == 80
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_repeated_text_keeps_its_type(tmp_path, monkeypatch):
    from lowerbound.files import parquet as module

    monkeypatch.setattr(module, "_HARMLESS", 0)
    for kind in (pa.string(), pa.large_string()):
        table = pa.table({"s": pa.array(["long text"] * 100 + [None], kind), "x": range(101)})
        frame = read(parquet(tmp_path, "t.parquet", table))
        assert frame.table.schema.types == table.schema.types
        assert frame.table.equals(table)
