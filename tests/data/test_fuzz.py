"""Damaged files give one of our errors or a table, never anything else."""

from __future__ import annotations

import gzip
import io
import random

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from lowerbound.columns.schema import infer
from lowerbound.errors import DataError
from lowerbound.files.data import Table
from lowerbound.files.read import read

RNG = np.random.default_rng(5)
TOKENS = [b'"', b"\0", b",", b"\n", b"\r", b";", b"\xff", b"\xef\xbb\xbf", b"1e999", b"nan", b"-"]
TOKENS += [b"\t", b"'", b"00", b"%", b"$", "€".encode(), b"2024-13-45", b"9" * 23, b" ", b"inf"]


def text() -> bytes:
    rows = (f'{i},w{i % 7},{i * 0.37},2024-01-{i % 28 + 1:02d},"{i % 5},25"' for i in range(60))
    return ("a,b,c,d,e\n" + "\n".join(rows) + "\n").encode()


def saved(save, **arrays) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def arrow(compression: str | None) -> bytes:
    buffer, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression=compression)
    words = pa.array([None if i % 7 == 0 else f"w{i % 5}" for i in range(60)])
    table = pa.table({"a": RNG.normal(size=60), "b": words, "c": words.dictionary_encode()})
    with pa.ipc.new_file(buffer, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=40)
    return buffer.getvalue()


SEEDS = {
    "t.csv": text(),
    "t.csv.gz": gzip.compress(text()),
    "t.npy": saved(lambda buffer: np.save(buffer, RNG.normal(size=(30, 3)))),
    "t.npz": saved(np.savez_compressed, X=RNG.normal(size=(30, 3)), y=np.zeros(3)),
    "t.arrow": arrow(None),
    "t.feather": arrow("zstd"),
    "s.npz": saved(lambda b: sp.save_npz(b, sp.random(30, 20, 0.2, format="csr", rng=RNG))),
}


def damage(content: bytes, dice: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 5, 30])):
        at, how = dice.randrange(len(out) + 1), dice.random()
        if how < 0.35 and out:
            out[at - 1] ^= 1 << dice.randrange(8)
        elif how < 0.6:
            out[at:at] = dice.choice(TOKENS)
        elif how < 0.75:
            del out[at : at + dice.randrange(1, 40)]
        elif how < 0.85:
            del out[at:]
        else:
            start = dice.randrange(len(out) + 1)
            out[at:at] = out[start : start + dice.randrange(60)]
    return bytes(out)


def check(name, path, tries, seed):
    dice = random.Random(seed)
    read_well, refusals = 0, []
    for _ in range(tries):
        path.write_bytes(damage(SEEDS[name], dice))
        try:
            frame = read(path, rows=dice.choice([None, None, 5]))
            read_well += 1
            if isinstance(frame, Table):
                schema = infer(frame.table)
                codes = schema.encode(frame.table).values
                schema.decode(codes)
                assert np.isfinite(schema.log_jacobian(codes)).all()
        except DataError as error:
            refusals.append(error)
    assert all(error.fix and len(str(error)) < 900 for error in refusals)
    assert len(refusals) > tries // 20
    assert read_well > 0


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files(name, tmp_path):
    check(name, tmp_path / name, tries=60, seed=1)


@pytest.mark.nightly
@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files_at_length(name, tmp_path):
    check(name, tmp_path / name, tries=4000, seed=2)
