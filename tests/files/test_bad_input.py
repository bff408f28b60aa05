"""Every bad table, path and output gives one error that says what, where and how to repair it."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from lowerbound.columns.schema import infer
from lowerbound.errors import CATALOGUE, LowerboundError
from lowerbound.files import memory
from lowerbound.files.read import read
from lowerbound.files.text import encoding
from lowerbound.files.text.tables import read_table
from lowerbound.files.write import atomic_write, check_output, write_table

EXITS = {"0": 3, "2": 2, "3": 5}


class Case(NamedTuple):
    build: Callable
    code: str
    mentions: tuple[str, ...]


CASES: dict[str, Case] = {}


def case(code: str, *mentions: str):
    """Register a function that builds an input; `read` gets it unless it is to be called."""

    def register(build):
        name = build.__name__.strip("_")
        assert name not in CASES
        CASES[name] = Case(build, code, mentions)
        return build

    return register


def put(tmp: Path, name: str, content: bytes | str) -> str:
    path = tmp / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(tmp: Path, name: str, table: pa.Table | dict, **options) -> str:
    path = tmp / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return str(path)


def fit(table, **options):
    """Infer a schema from any input, as a thunk."""
    return lambda: infer(read(table).table, **options)


# --- paths -----------------------------------------------------------------------------------


@case("E001", "'", "sales.cvs", "sales.csv")
def near_name(tmp, monkeypatch):
    put(tmp, "sales.csv", "a\n1\n")
    return str(tmp / "sales.cvs")


@case("E001", "nowhere", "does not exist")
def missing_folder(tmp, monkeypatch):
    return str(tmp / "nowhere" / "a.csv")


@case("E001", "a.csv/b.csv")
def file_as_folder(tmp, monkeypatch):
    return put(tmp, "a.csv", "a\n1\n") + "/b.csv"


@case("E001", "link.csv")
def dangling_link(tmp, monkeypatch):
    (tmp / "link.csv").symlink_to(tmp / "gone.csv")
    return str(tmp / "link.csv")


@case("E007", "contains no table")
def empty_folder(tmp, monkeypatch):
    (tmp / "data").mkdir()
    return tmp / "data"


@case("E007", "contains no table", "notes")
def folder_of_other_things(tmp, monkeypatch):
    put(tmp, "notes/README.md", "hello")
    return tmp / "notes"


@case("E004", "empty.csv", "0 bytes")
def empty_file(tmp, monkeypatch):
    return put(tmp, "empty.csv", "")


@case("E003", "secret.csv", "chmod u+r")
def unreadable(tmp, monkeypatch):
    path = put(tmp, "secret.csv", "a\n1\n")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read mode 000
    return path


@case("E002", "pipe", "FIFO")
def fifo(tmp, monkeypatch):
    os.mkfifo(tmp / "pipe.csv")
    return str(tmp / "pipe.csv")


@case("E002", "FIFO")
def fifo_in_a_folder(tmp, monkeypatch):
    put(tmp, "shards/part-0.csv", "a\n1\n")
    os.mkfifo(tmp / "shards" / "part-1.csv")
    return str(tmp / "shards")


@case("E002", "/dev/zero", "device")
def device(tmp, monkeypatch):
    return "/dev/zero"


@case("E002", "socket")
def unix_socket(tmp, monkeypatch):
    monkeypatch.chdir(tmp)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.csv")
    return "s.csv"


@case("E003", "loop.csv", "loop")
def link_loop(tmp, monkeypatch):
    (tmp / "loop.csv").symlink_to(tmp / "loop.csv")
    return str(tmp / "loop.csv")


@case("E003", "NUL")
def nul_in_name(tmp, monkeypatch):
    return "a\0b.csv"


@case("E003", "empty")
def empty_name(tmp, monkeypatch):
    return ""


@case("E003", "name too long")
def long_name(tmp, monkeypatch):
    return str(tmp / ("x" * 5000))


@case("E007", "matches no file", "*.parquet")
def glob_without_match(tmp, monkeypatch):
    return str(tmp / "*.parquet")


@case("E008", "1 parquet", "1 text", "*.csv")
def mixed_extensions(tmp, monkeypatch):
    put(tmp, "d/a.csv", "a\n1\n")
    parquet(tmp, "d/b.parquet", {"a": [1]})
    return tmp / "d"


@case("E006", "https://example.org/x.csv", "curl")
def address(tmp, monkeypatch):
    return "https://example.org/x.csv"


@case("E006", "s3://")
def bucket(tmp, monkeypatch):
    return "s3://bucket/x.parquet"


@case("E009", "disappeared", "gone.csv")
def disappears(tmp, monkeypatch):
    return lambda: read_table(tmp / "gone.csv")


@case("E005", "book.xlsx", "Excel", "CSV")
def workbook(tmp, monkeypatch):
    return put(tmp, "book.xlsx", b"PK\x03\x04rest")


@case("E005", "t.pkl", "pickle", "run code")
def pickled(tmp, monkeypatch):
    return put(tmp, "t.pkl", pickle.dumps({"a": [1]}))


@case("E005", "t.csv", "pickle")
def pickle_in_disguise(tmp, monkeypatch):
    return put(tmp, "t.csv", pickle.dumps({"a": [1]}))


@case("E005", "t.csv", "PDF")
def pdf_in_disguise(tmp, monkeypatch):
    return put(tmp, "t.csv", b"%PDF-1.7 ...")


@case("E005", "t.json", "JSON")
def json_file(tmp, monkeypatch):
    return put(tmp, "t.json", '[{"a": 1}]')


@case("E005", "t.csv.zst", "zstd")
def unknown_compression(tmp, monkeypatch):
    return put(tmp, "t.csv.zst", b"\x28\xb5\x2f\xfd....")


@case("E008", "2 array files")
def two_arrays(tmp, monkeypatch):
    for name in "ab":
        np.save(tmp / f"{name}.npy", np.eye(2))
    return str(tmp / "*.npy")


# --- CSV -------------------------------------------------------------------------------------


@case("E010", "line 3", "1 values", "2", "'3'", "sed -n 3p")
def row_too_short(tmp, monkeypatch):
    return put(tmp, "t.csv", "a,b\n1,2\n3\n4,5\n")


@case("E010", "line 4", "3 values", "'4,5,6'", "2 lines have this error")
def rows_too_long(tmp, monkeypatch):
    return put(tmp, "t.csv", "a,b\n1,2\n\n4,5,6\n7,8,9\n")


@case("E010", "line 60,002", "'7,7,7'")
def late_ragged_row(tmp, monkeypatch):
    return put(tmp, "t.csv", "a,b\n" + "1.5,2.5\n" * 60_000 + "7,7,7\n")


@case("E010", "line 3", "…'")
def long_ragged_row_is_cut(tmp, monkeypatch):
    return put(tmp, "t.csv", "a,b\n1,2\n" + "x," * 500 + "\n")


@case("E011", "line 3", "never closed", '"two')
def open_quote(tmp, monkeypatch):
    return put(tmp, "t.csv", 'a,b\n1,"one"\n2,"two\n3,three\n')


@case("E011", "line 2", "never closed")
def open_quote_in_one_column(tmp, monkeypatch):
    return put(tmp, "t.csv", 'a\n"1\n2\n3\n')


@case("E012", "'a'", "line 1", "values 1, 3")
def duplicate_header(tmp, monkeypatch):
    return put(tmp, "t.csv", "a,b,a\n1,2,3\n")


@case("E013", "t.csv", "no rows", "'a', 'b'")
def header_only(tmp, monkeypatch):
    return put(tmp, "t.csv", "a,b\n")


@case("E013", "t.csv", "no rows")
def header_without_line_end(tmp, monkeypatch):
    return put(tmp, "t.csv", "a,b")


@case("E004", "blank lines")
def blank_lines(tmp, monkeypatch):
    return put(tmp, "t.csv", "\n\n  \n")


@case("E014", "NUL", "line 3")
def nul_bytes(tmp, monkeypatch):
    return put(tmp, "t.csv", b"a,b\n1,2\n3,x\0y\n")


@case("E014", "not text", "line 2")
def not_text(tmp, monkeypatch):
    return put(tmp, "t.csv", b"a,b\n1,\x81\xff\n")


@case("E015", "line 2", "16 MB")
def endless_line(tmp, monkeypatch):
    return put(tmp, "t.csv", b"a,b\n" + b"x" * (20 * 2**20) + b",1\n")


@case("E015", "100,001 columns")
def too_many_columns(tmp, monkeypatch):
    names = ",".join(f"c{j}" for j in range(100_001))
    return put(tmp, "t.csv", names + "\n" + names + "\n")


@case("E016", "t.csv.gz", "ends in the middle")
def gz_truncated(tmp, monkeypatch):
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 10_000)
    return put(tmp, "t.csv.gz", packed[:-20])


@case("E016", "t.csv.gz")
def gz_damaged(tmp, monkeypatch):
    packed = bytearray(gzip.compress(os.urandom(1000).hex().encode()))
    packed[500] ^= 0x10
    return put(tmp, "t.csv.gz", bytes(packed))


@case("E005", "t.csv.gz", "zstd")
def gz_that_is_none(tmp, monkeypatch):
    return put(tmp, "t.csv.gz", b"\x28\xb5\x2f\xfd....")


@case("E017", "t.csv.gz", "gunzip -k")
def gz_bomb(tmp, monkeypatch):
    monkeypatch.setattr(encoding, "RATIO_FROM", 2**20)
    return put(tmp, "t.csv.gz", gzip.compress(b"a\n" + b"1\n" * 2**22))


@case("E018", "'price'", "1,234", "1.234")
def ambiguous_thousands(tmp, monkeypatch):
    return put(tmp, "t.csv", 'price,b\n"1,234",1\n"5,678",2\n')


@case("E022", "b.csv", "lacks 'y'", "a.csv")
def csv_shards_differ(tmp, monkeypatch):
    put(tmp, "d/a.csv", "x,y\n1,2\n")
    put(tmp, "d/b.csv", "x\n1\n")
    return tmp / "d"


@case("E030", "'b'", "1 infinite", "row 2")
def csv_infinity(tmp, monkeypatch):
    return fit(put(tmp, "t.csv", "a,b\n1,2\n2,inf\n3,5\n"))


@case("E030", "'b'", "row 1")
def csv_overflow(tmp, monkeypatch):
    return fit(put(tmp, "t.csv", "a,b\n1,1e400\n2,4\n3,5\n"))


@case("E034", "'b'", "'oops'", "row 31", "--types b=categorical")
def nearly_numbers(tmp, monkeypatch):
    rows = [f"{i},{i}.5" for i in range(30)] + ["30,oops"] + [f"{i},{i}.5" for i in range(31, 60)]
    return fit(put(tmp, "t.csv", "a,b\n" + "\n".join(rows) + "\n"))


@case("E038", "1 row")
def one_row(tmp, monkeypatch):
    return fit(put(tmp, "t.csv", "a,b\n1,2\n"))


@case("E037", "'a' (constant), 'b' (constant)")
def all_constant(tmp, monkeypatch):
    return fit(put(tmp, "t.csv", "a,b\n1,\n1,\n"))


@case("E041", "'d'", "01/02/2024", "2024-01-31")
def ambiguous_dates(tmp, monkeypatch):
    rows = "".join(f"{i},0{i}/02/2024\n" for i in range(1, 9))
    return fit(put(tmp, "t.csv", "a,d\n" + rows), types={"d": "datetime"})


@case("E032", "'d'", "row 3", "'soon'")
def forced_dates(tmp, monkeypatch):
    table = pa.table({"d": ["2024-01-01", "2024-01-02", "soon"]})
    return fit(table, types={"d": "datetime"})


# --- Parquet and Arrow -----------------------------------------------------------------------


@case("E020", "t.parquet", "damaged")
def parquet_truncated(tmp, monkeypatch):
    whole = Path(parquet(tmp, "w.parquet", {"a": list(range(1000))})).read_bytes()
    (tmp / "w.parquet").unlink()
    return put(tmp, "t.parquet", whole[:-30])


@case("E020", "t.parquet", "begins like text", "'a,b·1,2·'", ".csv")
def parquet_that_is_csv(tmp, monkeypatch):
    return put(tmp, "t.parquet", "a,b\n1,2\n")


@case("E020", "t.parquet", "zip")
def parquet_that_is_zip(tmp, monkeypatch):
    return put(tmp, "t.parquet", b"PK\x03\x04....")


@case("E020", "t.parquet", "damaged")
def parquet_corrupt_page(tmp, monkeypatch):
    path = parquet(tmp, "t.parquet", {"a": np.arange(5000) * 7.1}, compression="zstd")
    content = bytearray(Path(path).read_bytes())
    content[40:400] = bytes(360)
    return put(tmp, "t.parquet", bytes(content))


@case("E020", "t.parquet", "damaged")
def parquet_corrupt_footer(tmp, monkeypatch):
    content = bytearray(Path(parquet(tmp, "t.parquet", {"a": [1, 2]})).read_bytes())
    content[-8:-4] = struct.pack("<I", 2**31)
    return put(tmp, "t.parquet", bytes(content))


@case("E021", "encrypted")
def parquet_encrypted(tmp, monkeypatch):
    return put(tmp, "t.parquet", b"PARE" + bytes(100) + b"PARE")


@case("E022", "p2.parquet", "lacks 'b'", "has 'c'", "p1.parquet")
def shards_of_other_columns(tmp, monkeypatch):
    parquet(tmp, "d/p1.parquet", {"a": [1], "b": [2]})
    parquet(tmp, "d/p2.parquet", {"a": [1], "c": [2]})
    return tmp / "d"


@case("E022", "p2.parquet", "'a' as string", "int64")
def shards_of_other_types(tmp, monkeypatch):
    parquet(tmp, "d/p1.parquet", {"a": [1]})
    parquet(tmp, "d/p2.parquet", {"a": ["x"]})
    return tmp / "d"


@case("E020", "p2.parquet")
def one_damaged_shard(tmp, monkeypatch):
    parquet(tmp, "d/p1.parquet", {"a": [1]})
    put(tmp, "d/p2.parquet", b"PAR1 short")
    return tmp / "d"


@case("E303", "t.parquet", "GB of memory")
def parquet_promising_too_much(tmp, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    return parquet(tmp, "t.parquet", {"a": np.zeros(10_000)})


@case("E303", "t.parquet", "GB of memory", "the column s")
def parquet_dictionary_bomb(tmp, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), ["x" * 10**6])
    return parquet(tmp, "t.parquet", {"s": once}, store_schema=False)  # of plain text: 2 GB


@case("E303", "t.csv", "GB of memory")
def csv_too_large(tmp, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    return put(tmp, "t.csv", "a,b\n" + "1,2\n" * 1000)


@case("E020", "t.parquet", "damaged", "UTF8")
def parquet_text_that_is_none(tmp, monkeypatch):
    path = parquet(tmp, "t.parquet", {"s": ["abcdefgh", "ijkl"]}, compression="none")
    content = Path(path).read_bytes().replace(b"abcdefgh", b"abc\xffefgh", 1)
    return put(tmp, "t.parquet", content)


@case("E013", "no rows")
def parquet_without_rows(tmp, monkeypatch):
    return parquet(tmp, "t.parquet", pa.table({"a": pa.array([], pa.int64())}))


@case("E013", "no columns")
def parquet_without_columns(tmp, monkeypatch):
    return parquet(tmp, "t.parquet", pa.table({"a": [1, 2]}).select([]))


@case("E012", "'a'")
def parquet_duplicate_names(tmp, monkeypatch):
    columns = [pa.array([1]), pa.array([2])]
    return parquet(tmp, "t.parquet", pa.Table.from_arrays(columns, names=["a", "a"]))


@case("E024", "part-2.parquet", "2 files", "*.parquet")
def missing_shard(tmp, monkeypatch):
    parquet(tmp, "d/part-1.parquet", {"a": [1]})
    parquet(tmp, "d/part-3.parquet", {"a": [1]})
    return tmp / "d"


@case("E024", "part-00002-of-00003.parquet")
def missing_last_shard(tmp, monkeypatch):
    for i in range(2):
        parquet(tmp, f"d/part-{i:05d}-of-00003.parquet", {"a": [1]})
    return tmp / "d"


@case("E024", "b.parquet.part", "unfinished")
def unfinished_download(tmp, monkeypatch):
    parquet(tmp, "d/a.parquet", {"a": [1]})
    put(tmp, "d/b.parquet.part", b"PAR1...")
    return tmp / "d"


@case("E023", "'v'", "list", "--drop v")
def nested_list(tmp, monkeypatch):
    return fit(parquet(tmp, "t.parquet", {"a": [1, 2], "v": [[1], [2, 3]]}))


@case("E023", "'v'", "struct")
def nested_struct(tmp, monkeypatch):
    return fit(pa.table({"v": [{"x": 1}, {"x": 2}]}))


@case("E023", "'v'", "map")
def nested_map(tmp, monkeypatch):
    cells = pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64()))
    return fit(pa.table({"v": cells}))


@case("E037", "'v' (constant)")
def raw_bytes(tmp, monkeypatch):
    return fit(pa.table({"v": [b"\xff\x00", b"\xff\x00"]}))


# --- arrays, frames, sparse ------------------------------------------------------------------


@case("E030", "'x1'", "2 infinite values", "row 2")
def infinite_array(tmp, monkeypatch):
    return fit(np.array([[1.0, 2], [3, np.inf], [5, -np.inf], [1, 2.5]]))


@case("E029", "'b'", "row 1", "'1'", "int", "row 3", "'x'", "str")
def mixed_objects(tmp, monkeypatch):
    return pd.DataFrame({"a": [1, 2, 3], "b": [1, None, "x"]})


@case("E029", "'x1'", "row 2")
def mixed_object_array(tmp, monkeypatch):
    return np.array([[1, 2.5], [3, "x"]], dtype=object)


@case("E040", "complex")
def complex_array(tmp, monkeypatch):
    return np.array([[1 + 2j], [2]])


@case("E201", "int")
def a_number(tmp, monkeypatch):
    return 3


@case("E027", "1 dimension", "reshape(-1, 1)", "Reshape your data")
def one_dimension(tmp, monkeypatch):
    return np.arange(5)


@case("E027", "1 dimension")
def a_series(tmp, monkeypatch):
    return pd.Series([1, 2])


@case("E027", "5 dimensions", "reshape(len(array), -1)")
def five_dimensions(tmp, monkeypatch):
    return np.zeros((2, 3, 4, 1, 1))


@case("E027", "3 dimensions", "reshape(len(array), -1)")
def pictures_of_no_numbers(tmp, monkeypatch):
    return np.full((2, 3, 4), "a")


@case("E013", "0 rows")
def no_rows(tmp, monkeypatch):
    return np.zeros((0, 3))


@case("E013", "0 columns")
def no_columns(tmp, monkeypatch):
    return np.zeros((3, 0))


@case("E013", "no rows")
def frame_without_rows(tmp, monkeypatch):
    return pl.DataFrame({"a": []})


@case("E043", "'x0'", "row 2", "64-bit")
def extended_precision(tmp, monkeypatch):
    if np.finfo(np.longdouble).max == np.finfo(np.float64).max:
        pytest.skip("this machine has no wider floats")
    return np.array([[1], [np.longdouble("1e4000")]], dtype=np.longdouble)


@case("E012", "'a'", "2 times")
def frame_duplicate_names(tmp, monkeypatch):
    return pd.DataFrame([[1, 2]], columns=["a", "a"])


@case("E201", "object", "data frame")
def no_table(tmp, monkeypatch):
    return object()


@case("E201", "NoneType")
def nothing(tmp, monkeypatch):
    return None


@case("E029", "rectangular")
def ragged_list(tmp, monkeypatch):
    return [[1, 2], [3]]


@case("E029", "different lengths", "'b': 1")
def ragged_dict(tmp, monkeypatch):
    return {"a": [1, 2], "b": [1]}


@case("E206", "0 rows")
def no_rows_wanted(tmp, monkeypatch):
    return lambda: read(np.eye(2), rows=0)


@case("E025", "t.npy", "damaged")
def npy_truncated(tmp, monkeypatch):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((100, 10)))
    return put(tmp, "t.npy", buffer.getvalue()[:-8])


@case("E025", "t.npy", "first bytes")
def npy_garbage(tmp, monkeypatch):
    return put(tmp, "t.npy", b"garbage that is no array")


@case("E025", "t.npy", "dimension")
def npy_of_too_many_dimensions(tmp, monkeypatch):
    head = str({"descr": "|u1", "fortran_order": False, "shape": (1,) * 100}).encode()
    return put(tmp, "t.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + b"0")


@case("E013", "t.npy", "nothing to read")
def npy_without_pictures(tmp, monkeypatch):
    np.save(tmp / "t.npy", np.zeros((0, 28, 28)))
    return str(tmp / "t.npy")


@case("E025", "t.npy", "needs")
def npy_of_impossible_shape(tmp, monkeypatch):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 9), }"
    header += b" " * (117 - len(header)) + b"\n"
    return put(tmp, "t.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


@case("E026", "t.npy", "run code")
def npy_of_objects(tmp, monkeypatch):
    np.save(tmp / "t.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    return str(tmp / "t.npy")


@case("E026", "run code")
def npz_of_objects(tmp, monkeypatch):
    np.savez(tmp / "t.npz", X=np.array([[{}]], dtype=object))
    return str(tmp / "t.npz")


@case("E028", "2 two-dimensional", "a (2-D)", "savez(path, X=table)")
def npz_ambiguous(tmp, monkeypatch):
    np.savez(tmp / "t.npz", a=np.eye(2), b=np.eye(3))
    return str(tmp / "t.npz")


@case("E028", "2 picture arrays", "images (3-D)")
def npz_of_images_and_masks(tmp, monkeypatch):
    np.savez(tmp / "t.npz", images=np.zeros((2, 3, 3)), masks=np.zeros((2, 3, 3)))
    return str(tmp / "t.npz")


@case("E025", "t.npz", "without any array")
def npz_without_arrays(tmp, monkeypatch):
    with zipfile.ZipFile(tmp / "t.npz", "w") as archive:
        archive.writestr("hello.txt", "hello")
    return str(tmp / "t.npz")


@case("E025", "t.npz", "damaged")
def npz_flipped(tmp, monkeypatch):
    np.savez_compressed(tmp / "t.npz", X=np.random.default_rng(0).normal(size=(50, 3)))
    content = bytearray((tmp / "t.npz").read_bytes())
    content[600] ^= 0xFF
    return put(tmp, "t.npz", bytes(content))


@case("E025", "t.npz", "can't decode byte")
def npz_of_unreadable_names(tmp, monkeypatch):
    np.savez(tmp / "t.npz", **{"X\u00e9": np.eye(3)})
    content = (tmp / "t.npz").read_bytes().replace("X\u00e9".encode(), b"X\x80\x80")
    return put(tmp, "t.npz", content)


@case("E025", "t.npz", "damaged")
def npz_truncated(tmp, monkeypatch):
    np.savez(tmp / "t.npz", X=np.eye(9))
    return put(tmp, "t.npz", (tmp / "t.npz").read_bytes()[:-40])


@case("E042", "damaged")
def npz_sparse_out_of_range(tmp, monkeypatch):
    arrays = {"data": [1.0], "indices": [7], "indptr": [0, 1], "shape": [1, 3]}
    np.savez(tmp / "t.npz", **arrays)
    return str(tmp / "t.npz")


@case("E042", "'coo'", "tocsr")
def npz_sparse_coo(tmp, monkeypatch):
    matrix = sp.csr_matrix(np.eye(3))
    arrays = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    np.savez(tmp / "t.npz", format=b"coo", shape=[3, 3], **arrays)
    return str(tmp / "t.npz")


@case("E030", "1 infinite or NaN", "column 1")
def sparse_nan(tmp, monkeypatch):
    return sp.csr_matrix([[0.0, np.nan], [1, 0]])


@case("E042", "damaged")
def sparse_damaged(tmp, monkeypatch):
    matrix = sp.csr_matrix(np.eye(3))
    matrix.indices[0] = 9
    return matrix


@case("E040", "complex")
def sparse_complex(tmp, monkeypatch):
    return sp.csr_matrix(np.eye(2) * 1j)


@case("E035", "'x0'", "1 of 3", "-1", "row 2")
def negative_counts(tmp, monkeypatch):
    return fit(np.array([[1, 0], [-1, 1], [2, 4]]), types={"x0": "count"})


@case("E035", "0.5", "row 3")
def broken_counts(tmp, monkeypatch):
    return fit(np.array([[1, 0], [3, 1], [0.5, 4]]), types={"x*": "count"})


# --- kinds, and tables at predict time -------------------------------------------------------


@case("E033", "'a'", "binary", "3 levels")
def binary_of_three(tmp, monkeypatch):
    return fit(pa.table({"a": ["x", "y", "z"]}), types={"a": "binary"})


@case("E033", "'a'", "positive", "row 2", "-2")
def positive_below_zero(tmp, monkeypatch):
    return fit(pa.table({"a": [1.5, -2, 3]}), types={"a": "positive"})


@case("E033", "'a'", "constant")
def constant_that_varies(tmp, monkeypatch):
    return fit(pa.table({"a": ["x", "y", "y"]}), types={"a": "constant"})


@case("E032", "'a'", "row 2", "'x'", "1 of 3 rows")
def text_as_real(tmp, monkeypatch):
    return fit(pa.table({"a": ["1", "x", "3"]}), types={"a": "real"})


@case("E033", "'g'", "'top'", "row 3", "order given")
def level_outside_the_order(tmp, monkeypatch):
    return fit(pa.table({"g": ["low", "mid", "top"]}), types={"g": "ordinal:low<mid"})


@case("E205", "'g'", "ordinal:")
def ordinal_without_order(tmp, monkeypatch):
    return fit(pa.table({"g": ["low", "mid", "top"]}), types={"g": "ordinal"})


@case("E205", "'low<<mid'")
def ordinal_of_bad_order(tmp, monkeypatch):
    return fit(pa.table({"g": ["low", "mid", "top"]}), types={"g": "ordinal:low<<mid"})


@case("E202", "'categorial'", "categorical")
def kind_misspelt(tmp, monkeypatch):
    return fit(pa.table({"a": [1, 2]}), types={"a": "categorial"})


@case("E203", "--types", "'amonut'", "'amount'")
def types_of_unknown_column(tmp, monkeypatch):
    return fit(pa.table({"amount": [1, 2]}), types={"amonut": "real"})


@case("E203", "--drop", "'q*'", "'amount'")
def drop_of_unknown_column(tmp, monkeypatch):
    return fit(pa.table({"amount": [1, 2]}), drop=["q*"])


@case("E037", "every column was dropped")
def everything_dropped(tmp, monkeypatch):
    return fit(pa.table({"a": [1, 2]}), drop=["a"])


@case("E012", "'a'")
def arrow_duplicate_names(tmp, monkeypatch):
    return pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])


def trained():
    return infer(pa.table({"amount": [1.5, 2.5, 4.0], "merchant": ["a", "b", "a"]}))


@case("E031", "'merchant'", "jan.csv", "Merchant", "--rename Merchant=merchant")
def column_missing(tmp, monkeypatch):
    table = pa.table({"amount": [1.0], "Merchant": ["a"]})
    return lambda: trained().encode(table, "jan.csv")


@case("E031", "2 columns", "'amount', 'merchant'")
def columns_missing(tmp, monkeypatch):
    return lambda: trained().encode(pa.table({"q": [1.0]}))


@case("E012", "'amount'")
def column_ambiguous(tmp, monkeypatch):
    columns = [pa.array([1.0]), pa.array([2.0]), pa.array(["a"])]
    table = pa.Table.from_arrays(columns, names=["amount", "amount", "merchant"])
    return lambda: trained().encode(table)


@case("E032", "'amount'", "row 1", "'a lot'")
def type_changed(tmp, monkeypatch):
    table = pa.table({"amount": ["a lot", "2"], "merchant": ["a", "b"]})
    return lambda: trained().encode(table)


@case("E030", "'amount'", "row 1")
def infinite_at_predict_time(tmp, monkeypatch):
    return lambda: trained().encode(pa.table({"amount": [np.inf], "merchant": ["a"]}))


@case("E040", "'amount'", "list")
def nested_at_predict_time(tmp, monkeypatch):
    return lambda: trained().encode(pa.table({"amount": [[1.0]], "merchant": ["a"]}))


@case("E023", "'merchant'", "list")
def nested_levels_at_predict_time(tmp, monkeypatch):
    return lambda: trained().encode(pa.table({"amount": [1.0], "merchant": [["a"]]}))


# --- output ----------------------------------------------------------------------------------

TABLE = pa.table({"a": [1.5, None], "b": ["x", "y"]})


@case("E220", "out.csv", "--overwrite")
def output_exists(tmp, monkeypatch):
    path = put(tmp, "out.csv", "precious")
    return lambda: write_table(TABLE, path)


@case("E222", "'.xlsx'", ".parquet", ".npz")
def output_suffix(tmp, monkeypatch):
    return lambda: write_table(TABLE, tmp / "out.xlsx")


@case("E222", "did you mean .parquet?")
def output_suffix_misspelt(tmp, monkeypatch):
    return lambda: check_output(tmp / "out.parqet")


@case("E302", "nowhere", "mkdir -p")
def output_without_folder(tmp, monkeypatch):
    return lambda: write_table(TABLE, tmp / "nowhere" / "out.csv")


@case("E302", "nowhere", "mkdir -p")
def output_without_folder_known_early(tmp, monkeypatch):
    return lambda: check_output(tmp / "nowhere" / "out.csv")


@case("E223", "folder", "out.parquet")
def output_is_a_folder(tmp, monkeypatch):
    (tmp / "out.csv").mkdir()
    return lambda: write_table(TABLE, tmp / "out.csv", overwrite=True)


@case("E223", "device")
def output_is_a_device(tmp, monkeypatch):
    return lambda: atomic_write("/dev/null", lambda file: None, overwrite=True)


@case("E223", "not the path")
def output_with_nul(tmp, monkeypatch):
    return lambda: write_table(TABLE, "out\0.csv")


@case("E302", "name too long", "shorter")
def output_name_too_long(tmp, monkeypatch):
    return lambda: write_table(TABLE, tmp / ("x" * 300 + ".csv"))


@case("E302", "closed", "chmod u+w")
def output_folder_closed(tmp, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    (tmp / "closed").mkdir()
    monkeypatch.setattr("tempfile.mkstemp", refuse)  # root may write anywhere
    return lambda: write_table(TABLE, tmp / "closed" / "out.csv")


@case("E301", "disk full", "MB", "out.csv")
def disk_full_while_writing(tmp, monkeypatch):
    def fill(file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    path = put(tmp, "out.csv", "precious")
    return lambda: atomic_write(path, fill, overwrite=True)


@case("E301", "disk full", "need 1,000,000,000,000.0 MB")
def disk_too_small(tmp, monkeypatch):
    return lambda: atomic_write(tmp / "out.bin", lambda file: None, need=10**18)


@case("E224", "'b' is string", ".csv or .parquet")
def text_in_an_array_file(tmp, monkeypatch):
    return lambda: write_table(TABLE, tmp / "out.npy")


@case("E224", "'v'", "list", ".parquet")
def lists_in_a_text_file(tmp, monkeypatch):
    return lambda: write_table(pa.table({"v": [[1, 2]]}), tmp / "out.csv")


# --- the law ---------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if not p.is_symlink() and p.is_file())
    return {str(p): p.read_bytes() for p in files}


@pytest.mark.parametrize("name", sorted(CASES))
def test_bad_input(name, tmp_path, monkeypatch):
    build, code, mentions = CASES[name]
    data = build(tmp_path, monkeypatch)
    before = contents(tmp_path)
    with pytest.raises(LowerboundError) as caught:
        data() if callable(data) else read(data)
    error, text = caught.value, str(caught.value)
    assert error.code == code, text
    assert error.exit_code == EXITS[code[1]]
    for words in mentions:
        assert words in text, f"{words!r} is not in {text!r}"
    assert error.fix, text
    assert len(text.splitlines()) <= 12
    assert len(text) < 700
    assert CATALOGUE[code].explanation
    assert pickle.loads(pickle.dumps(error)).code == code
    assert contents(tmp_path) == before, "bad input must leave no trace"


def test_there_are_many_cases():
    assert len(CASES) >= 100
