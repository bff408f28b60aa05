"""What the verb export refuses; what it writes is in tests/tasks/test_exporting.py."""

import pytest


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
