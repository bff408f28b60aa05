"""What the verb export refuses; what it writes is in tests/tasks/test_exporting.py."""

import json
import re

import pytest

from servers import Server


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        ([], "E232", "--onnx model.onnx"),
        (["--onnx", "tx.bin"], "E222", "--onnx tx.onnx"),
        (["--onnx", "old.onnx"], "E220", "--overwrite"),
        (["--onnx", "none/a.onnx"], "E302", "mkdir"),
        (["--onnx", "a.onnx", "--samples", "0"], "E240", "--samples 1"),
        (["--onnx", "a.onnx", "--check", "nothing.csv"], "E001", ""),
        (["--docker", "svc", "--onnx", "a.onnx"], "E236", "leave out --onnx"),
        (["--docker", "old.onnx"], "E223", "another"),
        (["--docker", "tx.vae/svc"], "E236", "--out"),
        (["--docker", "none/svc"], "E302", "mkdir"),
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


def test_the_folder_of_an_image(run, folder):
    """Its server starts with the entry of the Dockerfile, and needs the token."""
    done = run("export", "tx.vae", "--docker", "svc", "--json")
    assert done.code == 0
    text = (folder / "svc" / "Dockerfile").read_text()
    assert "\nUSER 65532" in text
    assert "HEALTHCHECK" in text
    entry = json.loads(re.search(r"ENTRYPOINT (\[.*\])", text)[1])
    assert entry[:2] == ["lowerbound", "serve"]
    image_model = str(folder / "svc" / "model.vae")
    words = [image_model if word == "/model.vae" else word for word in entry[2:]]
    told = run("serve", *words, "--json")
    assert (told.code, told.error["code"]) == (2, "E260")
    (folder / "token").write_text("a" * 32)
    words = words[1 : words.index("--port")]
    with Server(image_model, *words, LOWERBOUND_TOKEN_FILE=str(folder / "token")) as server:
        assert server.get("/readyz").status == 200
        assert server.get("/v1/model").status == 401
    again = run("export", "tx.vae", "--docker", "svc", "--json")
    assert again.error["code"] == "E220"
    assert run("export", "tx.vae", "--docker", "svc", "--overwrite").code == 0
    (folder / "other").mkdir()
    (folder / "other" / "notes.md").write_text("mine")
    kept = run("export", "tx.vae", "--docker", "other", "--overwrite", "--json")
    assert kept.error["code"] == "E221"
    assert (folder / "other" / "notes.md").read_text() == "mine"
