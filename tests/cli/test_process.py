"""What only a process of its own can show: start-up, signals, pipes, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lowerbound.cli.main import main

SRC = str(Path(__file__).parents[2] / "src")
CLI = [sys.executable, "-m", "lowerbound"]


def environment(**more):
    return {**os.environ, "PYTHONPATH": SRC, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **more}


def process(*words, **more):
    return subprocess.run(
        [*CLI, *words],
        env=environment(**more),
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        check=False,
    )


def imported(*words):
    """Return the modules that a command imported, and the seconds of processor time it took."""
    code = (
        "import sys, time, lowerbound.cli.main as c\n"
        "code = c.main(sys.argv[1:])\n"
        "print(code, time.process_time(), *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    status, seconds, *modules = done.stderr.split()
    assert status == "0"
    return set(modules), float(seconds)


def test_help_comes_at_once():
    modules, seconds = imported("--help")
    assert not {"torch", "rich", "cyclopts", "pyarrow", "numpy"} & modules
    assert min(seconds, imported("--help")[1], imported("--help")[1]) < 0.25


def test_torch_is_not_imported(folder):
    """By one process that runs all of these: the first that imports it is told."""
    code = (
        "import sys, lowerbound.cli.main as c\n"
        "for words in sys.argv[1:]:\n"
        "    assert c.main(words.split()) == 0, words\n"
        "    assert 'torch' not in sys.modules, words"
    )
    words = ("inspect tx.csv", "verify tx.vae", "info tx.vae", "error E001")
    helps = ("fit --help", "score --help", "doctor --help")
    done = subprocess.run(
        [sys.executable, "-c", code, *words, *helps],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_score_waits_for_no_statistics(folder):
    """scikit-learn and scipy.stats are 75 MB and more than a second of every start."""
    modules, _ = imported("score", "tx.vae", "tx.csv", "--out", "scores.csv", "--overwrite")
    assert "torch" in modules
    assert not {"sklearn", "scipy.stats"} & modules


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview(run, words):
    done = run(*words)
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for word in ("usage: lowerbound", "fit PATH", "score M.vae PATH", "--json"):
        assert word in done.out


def test_help_of_a_command_begins_with_examples(run):
    done = run("score", "--help")
    assert done.out.startswith("Examples\n  lowerbound score fraud.vae")
    assert max(len(line.rstrip()) for line in done.out.splitlines()) <= 80
    assert run("help", "score").out == done.out


def test_the_lines_of_a_help_break_where_the_terminal_ends(run):
    told = run("fit", "--help").out
    for whole in (
        "After Ctrl-C or a crash, the \nsame command continues, and ends",
        "a folder of   │\n│          such files or of pictures, or",
        "default there), nvae, vqvae or vqvae2 for pictures:",
    ):
        assert whole in told


def test_version():
    done = process("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("lowerbound ")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["fitt"], 2), (["inspect", "none.csv"], 3), (["verify", "none.vae"], 4),
     (["demo", "--out", "no/where"], 5)],
)  # fmt: skip
def test_exit_codes(folder, words, code):
    done = process(*words)
    assert done.returncode == code
    assert done.stderr.startswith("error[E")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "more",
    [{"COLUMNS": "garbage", "NO_COLOR": "1", "TERM": "dumb", "LANG": "C", "LC_ALL": "C"},
     {"PYTHONIOENCODING": "ascii", "COLUMNS": "20", "HOME": "/nowhere", "TMPDIR": "/nowhere"}],
    ids=str,
)  # fmt: skip
def test_odd_environments(folder, more):
    done = process("inspect", "tx.csv", **more)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_a_name_that_is_no_text(folder):
    name = os.fsdecode(b"tx\xe9.csv")
    (folder / "tx.csv").rename(folder / name)
    done = process("inspect", name, PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0, done.stderr
    assert "tx\\xe9.csv: 260 rows" in done.stdout


def test_reader_that_stops_reading(folder):
    child = subprocess.Popen(
        [*CLI, "error"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(60) == 0
    assert err == b""


WORDS = ["fit", "tx.csv", "--preset", "fast", "--max-epochs", "6", "--out"]


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The weights of a fit that nobody stopped."""
    words, out = [WORDS[0], str(made / "tx.csv"), *WORDS[2:]], tmp_path_factory.mktemp("whole")
    assert main([*words, str(out / "n.vae"), "-q"]) == 0
    return (out / "n.vae" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_stopped_fit_keeps_its_best(whole, folder, run, number, code):
    # The signal comes from within, at the first look at the held-out rows: no guess at timing.
    text = (
        "import os, sys\n"
        "from lowerbound.training.engine import loop\n"
        "check = loop._Trainer._check\n"
        "def counted(self):\n"
        "    found = check(self)\n"
        "    if len(self.history.checks) == 1:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    return found\n"
        "loop._Trainer._check = counted\n"
        "from lowerbound.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, *WORDS, "m.vae"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "stopped by you; this is the best model so far" in " ".join(done.stdout.split())
    told = "next:  lowerbound fit tx.csv --preset fast --max-epochs 6 --out m.vae\n"
    assert done.stdout.endswith(told)
    assert "Traceback" not in done.stderr
    assert run("verify", "m.vae").code == 0
    assert (folder / "m.run").is_dir()
    # The same command goes on, and ends as a fit that nobody stopped.
    again = run(*WORDS, "m.vae")
    assert again.code == 0, again.err
    assert "continuing the run in m.run" in again.err
    assert not (folder / "m.run").exists()
    assert (folder / "m.vae" / "weights.safetensors").read_bytes() == whole
    # Now that it is finished, it is a model like any other.
    assert run(*WORDS, "m.vae").code == 2


def test_a_fit_stopped_before_it_learned_writes_nothing(folder):
    child = subprocess.Popen(
        [*CLI, "fit", "tx.csv", "--preset", "best", "--out", "m.vae"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1.0)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=120)
    assert child.returncode in (143, -signal.SIGTERM)
    assert out == ""
    assert "Traceback" not in err
    assert sorted(path.name for path in folder.iterdir()) == ["tx.csv", "tx.vae"]


@pytest.mark.nightly
def test_demo(tmp_path):
    begun = time.monotonic()
    done = process("demo", "--out", str(tmp_path / "demo"), "--json")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 60
    made = {path.name for path in (tmp_path / "demo").iterdir()}
    assert made >= {"titanic.vae", "scores.csv", "filled.csv", "embedding.csv", "samples.csv"}
    filled = {each["column"]: each for each in json.loads(done.stdout)["filled"]}
    for column in ("class", "survived", "sex"):
        assert filled[column]["model"] > filled[column]["constant"] + 0.05
    for column in ("age", "sibsp", "parch", "fare"):
        assert filled[column]["model"] < filled[column]["constant"]
