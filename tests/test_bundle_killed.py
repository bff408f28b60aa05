"""Killed while saving: the old model or the new one is there, whole; the next save clears up."""

import json
import os

import pytest

import bundles
from bundles import run
from lowerbound.files import publish as folder

KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import bundles
from lowerbound import bundle
from lowerbound.files import publish as folder
from lowerbound.errors import ModelFileError

home, exchange, there, kills = Path(sys.argv[1]), *map(int, sys.argv[2:])
target = home / "M.vae"
if not exchange:
    folder._exchange = lambda one, other: False

def marks():
    documents = bundle.load(target).documents
    return {documents[name]["mark"] for name in ("config.json", "metrics.json")}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def save_and_die_at(boundary):
    # Before and after every system call that leaves a trace on the disk.
    count = 0
    def step(*_):
        nonlocal count
        count += 1
        if count == boundary:
            die()
    real = os.fsync
    def fsync(handle):
        step()
        real(handle)
        step()
    os.fsync = fsync
    traced = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
    sys.addaudithook(lambda event, _: step() if event in traced else None)
    bundles.make(target, "new", 1, overwrite=True)

def save_for_ever():
    bundles.make(target, "new", 1, overwrite=True)
    while True:
        for mark in ("old", "new"):
            bundles.make(target, mark, 0, overwrite=True)

def child(job, *arguments):
    process = os.fork()
    if not process:
        job(*arguments)
        os._exit(0)
    return process

states, boundary = [], 0
draw = random.Random(exchange + there)
while True:
    if there and not target.exists():
        bundles.make(target, "old")
    boundary += 1
    if kills:
        process = child(save_for_ever)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
    else:
        process = child(save_and_die_at, boundary)
    ended = os.waitpid(process, 0)[1]
    if target.exists():
        (state,) = marks()
    else:
        aside = folder.moved_aside(target, os.listdir(home))
        state = "aside" if aside else "absent"
        if aside:
            assert bundle.load(aside).documents["config.json"]["mark"]
            try:
                bundle.load(target)
            except ModelFileError as error:
                assert error.code == "E101" and error.fix == f"mv {aside} {target}"
    states.append(state)
    # The next save succeeds and clears away what was left.
    for left in home.iterdir():
        os.utime(left, (0, 0))
    bundles.make(target, "old", overwrite=True)
    for left in home.iterdir():
        os.utime(left, (0, 0))
    folder.sweep(target)
    assert os.listdir(home) == ["M.vae"], os.listdir(home)
    if not there:
        os.rename(target, home / "gone")
        os.system(f"rm -r '{home}/gone'")
    if (not kills and os.WIFEXITED(ended)) or boundary == kills:
        break
print(json.dumps(states))
"""


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("there", [False, True])
def test_killed_at_every_boundary(tmp_path, exchange, there):
    states = json.loads(run(KILLED, tmp_path, int(exchange), int(there), 0))
    assert len(states) > 30
    assert states[0] == ("old" if there else "absent")
    assert states[-1] == "new"
    # Old until one moment, new from then on; without an exchange aside for that moment.
    expected = {"new"} | ({"old"} if there else {"absent"})
    if there and not exchange:
        expected.add("aside")
    assert set(states) == expected
    assert sum(a != b for a, b in zip(states, states[1:], strict=False)) == len(expected) - 1


@pytest.mark.parametrize("kills", [25, pytest.param(1000, marks=pytest.mark.nightly)])
def test_killed_at_random_times(tmp_path, kills):
    states = json.loads(run(KILLED, tmp_path, 1, 1, kills))
    assert len(states) == kills
    assert set(states) <= {"old", "new"}


def test_another_process_that_is_saving_is_left_alone(tmp_path):
    target = tmp_path / "M.vae"
    with folder.publish(target) as stage:
        (stage / "file").touch()
        os.utime(stage, (0, 0))
        folder.sweep(target)
        assert (stage / "file").exists()
    assert os.listdir(tmp_path) == ["M.vae"]


def test_leftovers_of_other_models_are_left_alone(tmp_path):
    other = tmp_path / ".M.vae2.0123.saving-abc"
    other.mkdir()
    os.utime(other, (0, 0))
    bundles.make(tmp_path / "M.vae")
    assert other.exists()
