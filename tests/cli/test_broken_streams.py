"""Closed, full and unread streams, and outputs in places that hold something else."""

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lowerbound.cli import streams

SRC = str(Path(__file__).parents[2] / "src")
CLI = f"{shlex.quote(sys.executable)} -m lowerbound"
FIT = "fit tx.csv --preset fast --max-epochs 1 --out m.vae"


def shell(line, limit=None):
    """Run a line of bash, in which LB is the command; return its exit code and outputs."""
    env = {**os.environ, "PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}
    set_limit = None if limit is None else lambda: resource.setrlimit(*limit)
    return subprocess.run(
        ["bash", "-c", line.replace("LB", CLI)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=set_limit,
    )


@pytest.mark.parametrize(
    "how", ["{ LB %s 2>&1; echo $? > code; } | head -1", "LB %s >&- 2>&- <&-"]
)
def test_a_fit_ends_with_a_model_whatever_becomes_of_its_streams(folder, run, how):
    done = shell(how % FIT)
    code = (folder / "code").read_text() if (folder / "code").exists() else done.returncode
    assert int(code) == 0
    assert run("verify", "m.vae").code == 0
    assert not (folder / "m.run").exists()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("LB info tx.vae > /dev/full", 5),
        ("LB info tx.vae >&-", 5),
        ("LB --help > /dev/full", 5),
        ("LB info tx.vae 2> /dev/full", 0),
        ("LB info tx.vae 2>&-", 0),
        ("LB info none.vae 2> /dev/full", 4),
        ("LB info none.vae >&- 2>&-", 4),
    ],
)
def test_a_result_that_is_nowhere_is_no_success(folder, line, code):
    done = shell(line)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_result_in_a_file_need_not_be_printed(folder, run, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        ran = run("score", "tx.vae", "tx.csv", "--out", "o.csv")
    assert ran.code == 0
    assert "could not be printed: No space left on device; it is in" in ran.err
    assert (folder / "o.csv").exists()


def test_a_stream_that_fails_is_given_up():
    with open("/dev/full", "w") as full:
        stream = streams.Tolerant(full)
        stream.write("x" * 100_000)
        stream.flush()
        stream.write("y")
        assert not stream.isatty()
    closed = streams.Tolerant(None)
    closed.write("x")
    closed.flush()
    assert closed.encoding


def test_out_of_addresses(folder):
    done = shell("LB info tx.vae", (resource.RLIMIT_AS, (100 << 20, 100 << 20)))
    assert done.returncode == 5, done.stderr
    assert "E303" in done.stderr


# Places that hold something else.


@pytest.mark.parametrize(
    "words",
    [
        ["score", "tx.vae", "tx.csv", "--out", "tx.vae/o.csv"],
        ["score", "tx.vae", "tx.csv", "--out", "link/o.csv"],
        ["embed", "tx.vae", "tx.csv", "--out", "tx.vae/new/o.npy"],
        ["impute", "tx.vae", "tx.csv", "--out", "tx.vae/o.csv"],
        ["reconstruct", "tx.vae", "tx.csv", "--out", "tx.vae/o.csv"],
        ["sample", "tx.vae", "--out", "tx.vae/o.csv"],
        ["plot", "tx.vae", "samples", "--out", "tx.vae/o.png"],
        ["export", "tx.vae", "--onnx", "tx.vae/o.onnx"],
        ["demo", "--out", "tx.vae/demo"],
        ["fit", "tx.csv", "--out", "tx.vae/m.vae"],
        ["tune", "tx.csv", "--out", "tx.vae/m.vae"],
        ["score", "tx.vae", "tx.csv", "--out", "tx.run/o.csv"],
        ["fit", "tx.csv", "--out", "tx.run/m.vae"],
        ["score", "tx.vae", "shards", "--out", "shards/o.csv"],
        ["score", "tx.vae", "shards/*.csv", "--out", "shards/o.csv"],
        ["score", "tx.vae", "shards", "--out", "o.csv", "--heatmaps", "tx.vae/heat"],
        ["fit", "shards", "--out", "shards/m.vae"],
        ["score", "tx.vae", "tx.csv", "--out", "tx.csv", "--overwrite"],
    ],
    ids=" ".join,
)
def test_an_output_among_the_files_of_something_else_is_refused(folder, run, words):
    (folder / "link").symlink_to(folder / "tx.vae")
    (folder / "tx.run").mkdir()
    (folder / "tx.run" / "run.json").write_text("{}")
    (folder / "shards").mkdir()
    (folder / "shards" / "a.csv").write_bytes((folder / "tx.csv").read_bytes())
    before = sorted(folder.rglob("*"))
    ran = run(*words, "--json")
    assert (ran.code, ran.error["code"]) == (2, "E236")
    assert sorted(folder.rglob("*")) == before
    assert run("verify", "tx.vae").code == 0


def test_control_characters_are_spelled_out(folder, run):
    hostile = "\x1b]0;x\x07\u202e\x9b2J"
    text = (folder / "tx.csv").read_text().replace("country", hostile, 1)
    (folder / "t.csv").write_text(text)
    for words in (["inspect", "t.csv"], ["inspect", "t.csv", "--json"], ["score", hostile, "x"]):
        ran = run(*words)
        assert not set(ran.out + ran.err) & set("\x1b\x07\u202e\x9b"), words
