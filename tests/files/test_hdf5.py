"""Damaged .h5ad files: refused with exit code 3, and no loop, crash or full memory."""

import struct
from contextlib import suppress

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from lowerbound.cli.main import main
from lowerbound.errors import DataError
from lowerbound.files import hdf5
from lowerbound.files.read import read, walk

HEAP = b"GCOL\x01\0\0\0"


@pytest.fixture
def cells(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_SECONDS", 1)
    rng = np.random.default_rng(0)
    names = pd.DataFrame(index=[f"cell{i}" for i in range(20)])
    made = anndata.AnnData(rng.poisson(1, (20, 5)).astype(np.float32), obs=names)
    made.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def without_end(raw, path):
    """Let the free space at the end of a heap of text have no size: the library stays there."""
    start = raw.index(HEAP)
    at, end = start + 16, start + struct.unpack_from("<Q", raw, start + 8)[0]
    while at + 16 <= end:
        number, _, _, size = struct.unpack_from("<HHIQ", raw, at)
        if not number:
            struct.pack_into("<Q", raw, at + 8, 0)
            return
        at += 16 + -(-size // 8) * 8
    raise AssertionError("the heap is full")


def long_text(raw, path):
    """Let a name of a cell have 4 GB."""
    with h5py.File(path, "r") as file:
        at = file["obs/_index"].id.get_offset()
    struct.pack_into("<I", raw, at, 0xFFFF_FFF0)


def cut(raw, path):
    del raw[len(raw) // 2 :]


def other_bytes(raw, path):
    raw[96:400] = bytes(304)


@pytest.mark.parametrize("damage", [without_end, long_text, cut, other_bytes])
def test_damaged_files_are_refused(cells, capsys, damage):
    raw = bytearray(cells.read_bytes())
    damage(raw, cells)
    cells.write_bytes(raw)
    for reading in (read, walk):
        with pytest.raises(DataError) as error:
            reading(cells)
        assert error.value.code == "E025"
    assert main(["inspect", str(cells)]) == 3
    assert "E025" in capsys.readouterr().err


def test_intact_files_are_read_also_without_another_process(cells, monkeypatch):
    assert read(cells).rows == 20
    for value in (None, "/nowhere/python"):
        monkeypatch.setattr(hdf5.sys, "executable", value)
        hdf5._fatal.cache_clear()
        assert read(cells).rows == 20


@pytest.mark.nightly
def test_random_damage_ends_in_an_error_or_in_counts(cells, tmp_path):
    """300 damaged files: each is read, or refused as damaged; none ends this process."""
    whole, rng = cells.read_bytes(), np.random.default_rng(0)
    held = np.flatnonzero(np.frombuffer(whole, np.uint8))
    for k in range(300):
        raw = bytearray(whole)
        for at in rng.choice(held, 1 + 4 * (k % 2)):
            raw[at : at + 8] = rng.bytes(8)
        path = tmp_path / f"{k}.h5ad"
        path.write_bytes(raw)
        with suppress(DataError):
            assert read(path).rows <= 20
        path.unlink()
