"""Trainings killed with SIGKILL go on from their last commit and end in the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
RESULT = TESTS.parent / "benchmarks" / "results" / "kills.json"


def killed(kind, kills, home, epochs=60):
    program = ["rank_kills.py"] if kind == "ranks" else ["kills.py", kind]
    words = [*program[1:], str(kills), str(home), str(epochs)]
    done = subprocess.run(
        [sys.executable, str(TESTS / program[0]), *words],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found, kills):
    assert sum(found["killed"].values()) == found["kills"] == kills
    if found["kind"] != "ranks":
        assert found["killed"]["in commits"] == kills // 2
    assert found["runs_with_identical_result"] == found["runs"] >= 1
    assert found["commits_lost"] == 0
    assert found["leftovers"] == []


def test_four_kills(tmp_path):
    """Of each kind, by one process: its start is most of the time. Nightly a hundred of each."""
    found = killed("memory,compiled,disk,stream", 4, tmp_path, epochs=6)
    assert [each["kind"] for each in found] == ["memory", "compiled", "disk", "stream"]
    for each in found:
        check(each, 4)


def test_two_kills_of_a_fit_of_crops(tmp_path):
    (found,) = killed("pictures", 2, tmp_path, epochs=4)
    check(found, 2)


def test_one_kill_of_one_of_two_processes(tmp_path):
    (found,) = killed("ranks", 1, tmp_path, epochs=6)
    check(found, 1)


MANY = {"memory": 100, "compiled": 100, "disk": 100, "stream": 100, "ranks": 20}  # kills


@pytest.mark.nightly
@pytest.mark.parametrize("kind", MANY)
def test_many_kills(tmp_path, kind):
    (found,) = killed(kind, MANY[kind], tmp_path)
    before = json.loads(RESULT.read_text())["runs"]
    runs = {each["kind"]: each for each in [*before, found]}
    inorder = [runs[each] for each in MANY if each in runs]
    RESULT.write_text(json.dumps({"command": "make nightly", "runs": inorder}, indent=1) + "\n")
    check(found, MANY[kind])
