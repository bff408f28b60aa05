"""Outputs are complete or absent, never replaced by accident, and read back as they were."""

from __future__ import annotations

import datetime as dt
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lowerbound.errors import ResourceError, UsageError
from lowerbound.files.read import read
from lowerbound.files.write import atomic_write, check_output, write_table, write_tables

NUMBERS = pa.table({"a": [1.5, None, 3.25], "b": [1.0, 2.0, 3.0]})
MIXED = pa.table(
    {
        "a": [1.5, None, 3.25],
        "n": [1, 2, 3],
        "code": ["007", "x,y", 'q"z'],
        "t": [dt.datetime(2024, 1, 1, 10), None, dt.datetime(2024, 1, 3)],
        "k": pa.array(["u", "v", None]).dictionary_encode(),
    }
)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet"])
def test_any_table_reads_back(suffix, tmp_path):
    path = write_table(MIXED, tmp_path / f"out{suffix}")
    assert path == tmp_path / f"out{suffix}"
    assert read(path).table.to_pylist() == MIXED.to_pylist()
    assert read(path).notes == ()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_numbers_read_back_from_arrays(suffix, tmp_path):
    table = read(write_table(NUMBERS, tmp_path / f"out{suffix}")).table
    got = np.stack([table.column(j).to_numpy() for j in range(2)], axis=1)
    np.testing.assert_array_equal(got, [[1.5, 1], [np.nan, 2], [3.25, 3]])
    assert table.column_names == (["a", "b"] if suffix == ".npz" else ["x0", "x1"])


def test_equal_tables_are_equal_files(tmp_path):
    for suffix in (".csv.gz", ".parquet", ".npy", ".csv"):
        one = write_table(NUMBERS, tmp_path / f"one{suffix}").read_bytes()
        assert write_table(NUMBERS, tmp_path / f"two{suffix}").read_bytes() == one


def test_overwrite_replaces_and_keeps_permissions(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("precious")
    path.chmod(0o640)
    with pytest.raises(UsageError):
        write_table(NUMBERS, path)
    assert path.read_text() == "precious"
    write_table(NUMBERS, path, overwrite=True)
    assert read(path).rows == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["out.csv"]


def test_new_files_have_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_table(NUMBERS, tmp_path / "out.csv")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_table(NUMBERS, tmp_path / "link.csv", overwrite=True)
    assert (tmp_path / "link.csv").is_symlink()
    assert read(tmp_path / "real.csv").rows == 3


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError])
def test_a_failing_writer_leaves_nothing(failure, tmp_path):
    def fail(file):
        file.write(b"half")
        raise failure

    for name, content in (("old.bin", b"precious"), ("new.bin", None)):
        path = tmp_path / name
        if content:
            path.write_bytes(content)
        with pytest.raises(BaseException):  # noqa: B017, PT011 whatever it was
            atomic_write(path, fail, overwrite=True)
        assert (path.read_bytes() if path.exists() else None) == content
    assert os.listdir(tmp_path) == ["old.bin"]


def test_a_name_taken_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "out.bin"

    def late(file):
        file.write(b"mine")
        path.write_bytes(b"theirs")

    with pytest.raises(UsageError) as caught:
        atomic_write(path, late)
    assert caught.value.code == "E220"
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_without_hard_links_it_still_works(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert write_table(NUMBERS, tmp_path / "out.csv").exists()
    assert os.listdir(tmp_path) == ["out.csv"]


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "out.bin"
    blobs = [bytes([k]) * 200_000 for k in (1, 2)]
    atomic_write(path, lambda file: file.write(blobs[0]))
    seen, stop = set(), threading.Event()

    def watch():
        while not stop.is_set():
            seen.add(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for k in range(40):
        atomic_write(path, lambda file, blob=blobs[k % 2]: file.write(blob), overwrite=True)
    stop.set()
    watcher.join()
    assert seen <= set(blobs)


def test_killed_while_writing(tmp_path):
    """After a kill the old content is there, whatever the writer had got done."""
    path = tmp_path / "out.bin"
    path.write_bytes(b"precious")
    code = (
        "import sys, time; from lowerbound.files.write import atomic_write\n"
        "def slow(file):\n"
        "    for _ in range(10_000): file.write(b'x' * 1000); file.flush(); time.sleep(0.001)\n"
        f"print('ready', flush=True); atomic_write({str(path)!r}, slow, overwrite=True)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout.readline().strip() == b"ready"
        time.sleep(0.1)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert path.read_bytes() == b"precious"


def test_check_output_says_early_what_would_fail(tmp_path):
    assert check_output(tmp_path / "out.csv") == tmp_path / "out.csv"
    (tmp_path / "out.csv").write_text("x")
    with pytest.raises(UsageError):
        check_output(tmp_path / "out.csv")
    assert check_output(tmp_path / "out.csv", overwrite=True) == tmp_path / "out.csv"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_parts_are_written_as_one_table_would_be(tmp_path):
    whole = pa.table({"x": np.arange(7.0), "n": np.arange(7), "w": list("abcdefg")})
    for suffix in (".csv", ".tsv.gz", ".parquet"):
        parts = write_tables((whole.slice(i, 3) for i in (0, 3, 6)), tmp_path / f"parts{suffix}")
        one = write_table(whole, tmp_path / f"one{suffix}")
        if suffix == ".parquet":
            assert pq.read_table(parts).equals(pq.read_table(one))
        else:
            assert parts.read_bytes() == one.read_bytes()
    numbers = whole.select(["x", "n"])
    write_tables((numbers.slice(i, 3) for i in (0, 3, 6)), tmp_path / "parts.npy")
    write_table(numbers, tmp_path / "one.npy")
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()


def test_an_array_in_parts_holds_numbers_of_one_kind(tmp_path):
    parts = [pa.table({"n": [1, 2]}), pa.table({"n": [3, None]})]
    with pytest.raises(UsageError) as refusal:
        write_tables(parts, tmp_path / "n.npy")
    assert refusal.value.code == "E224"
    assert "from row 2 on" in refusal.value.message
    assert not list(tmp_path.iterdir())


def test_an_error_between_parts_leaves_nothing(tmp_path):
    def parts():
        yield pa.table({"n": [1]})
        raise OSError("the source is gone")

    for suffix in (".csv", ".parquet", ".npy"):
        with pytest.raises((OSError, ResourceError)):
            write_tables(parts(), tmp_path / f"n{suffix}")
    assert not list(tmp_path.iterdir())
