"""The verb export: what it prints, what it writes, and what it refuses."""

import numpy as np
import onnxruntime
import pytest

import commands


def test_what_it_writes_finds_and_says(made, tmp_path):
    path = tmp_path / "tx.onnx"
    result = commands.export(
        str(made / "tx.vae"),
        onnx=str(path),
        check=str(made / "tx.csv"),
        samples=8,
        allow_collapsed=True,
    )
    assert result.path == path
    assert result.facts["bytes"] == path.stat().st_size
    assert result.facts["columns"] == [
        "amount", "fee", "country", "ts", "is_new", "visits", "channel",
    ]  # fmt: skip
    assert result.facts["parity"]["rows"] == 260
    assert result.facts["parity"]["holds"]
    said = " ".join(result.lines)
    assert "parity on 260 given rows" in said
    assert "8 draws per row" in said
    session = onnxruntime.InferenceSession(str(path))
    score, p_value, flagged = session.run(None, {"cells": np.full((2, 7), np.nan)})
    assert np.isfinite(score).all()
    assert ((p_value > 0) & (p_value <= 1)).all()
    assert flagged.dtype == bool


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        ([], "E232", "--onnx model.onnx"),
        (["--onnx", "tx.bin"], "E222", "--onnx tx.onnx"),
        (["--onnx", "old.onnx"], "E220", "--overwrite"),
        (["--onnx", "none/a.onnx"], "E302", "mkdir"),
        (["--onnx", "a.onnx", "--samples", "0"], "E240", "--samples 1"),
        (["--onnx", "a.onnx", "--check", "nothing.csv"], "E001", ""),
    ],
)
def test_what_it_refuses(run, folder, words, code, fix):
    (folder / "old.onnx").write_bytes(b"an earlier file")
    before = sorted(folder.iterdir())
    done = run("export", "tx.vae", *words, "--json")
    assert done.error["code"] == code
    assert fix in done.error["hint"]
    assert sorted(folder.iterdir()) == before
    assert (folder / "old.onnx").read_bytes() == b"an earlier file"
