"""Trainings killed with SIGKILL go on from their last commit and end in the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
RESULT = TESTS.parent / "benchmarks" / "results" / "kills.json"


def killed(kind, kills, home):
    done = subprocess.run(
        [sys.executable, str(TESTS / "kills.py"), kind, str(kills), str(home)],
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
    return json.loads(done.stdout)


def check(found, kills):
    assert found["kills"] == kills
    assert found["killed"]["in commits"] == kills // 2
    assert found["runs_with_identical_result"] == found["runs"] >= 1
    assert found["commits_lost"] == 0
    assert found["leftovers"] == []


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_ten_kills(tmp_path, kind):
    check(killed(kind, 10, tmp_path), 10)


@pytest.mark.nightly
def test_two_hundred_kills(tmp_path):
    found = [killed(kind, 100, tmp_path / kind) for kind in ("memory", "disk")]
    RESULT.write_text(json.dumps({"command": "make nightly", "runs": found}, indent=1) + "\n")
    for each in found:
        check(each, 100)
