"""Kill trainings with SIGKILL, resume them, and compare the end with an undisturbed one.

    python tests/kills.py memory 10 FOLDER      # data in memory, `training.fit`
    python tests/kills.py compiled 10 FOLDER    # the same by the compiled engine
    python tests/kills.py disk 10 FOLDER        # `lowerbound fit tx.parquet --out m.vae`
    python tests/kills.py stream 10 FOLDER      # the same where the file is not held
    python tests/kills.py stream 10 FOLDER 20   # fits of 20 epochs instead of 60
    python tests/kills.py pictures 10 FOLDER    # `lowerbound fit photos --recipe autoencoder`
    python tests/kills.py memory,disk 10 FOLDER # one after the other, with one import

Every second kill happens inside a commit, at a random system call that leaves a trace on the
disk; the others at a random moment of the run. Prints a JSON object for each kind, one a line.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from lowerbound import noise, recipes
from lowerbound.cli import main as cli
from lowerbound.coding import large, pairs
from lowerbound.coding.rows import Dense
from lowerbound.files import data
from lowerbound.files.read import walk
from lowerbound.files.stream import Stream
from lowerbound.nn.objectives.elbo import Elbo, Ramp
from lowerbound.training import split
from lowerbound.training.engine import loop, run_folder
from lowerbound.training.engine.checkpoints import OnDisk
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.settings import Budget, Optimiser

TRACED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


class Killable(OnDisk):
    """Commits as often as half of the time allows, tells what it committed, and may die of it."""

    die_at = None  # (commit, system call) of this process's life

    def __init__(self, root, every=0.0):
        super().__init__(root, every=0.0, share=0.5)
        self.commits = 0

    def commit(self, values, arrays):
        self.commits += 1
        if self.die_at is not None and self.commits == self.die_at[0]:
            die_at_call(self.die_at[1])
        super().commit(values, arrays)
        with open(self.root / "log", "a") as file:
            file.write(f"{values['step']}\n")


def die_at_call(number):
    """Die before or after the system call of this number, counted from now."""
    count = 0

    def step():
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    real = os.fsync

    def fsync(handle):
        step()
        real(handle)
        step()

    os.fsync = fsync
    sys.addaudithook(lambda event, _: step() if event in TRACED else None)


class Memory:
    """A fit of arrays in memory; the history belongs to its result."""

    engine = None

    def __init__(self, home, epochs):
        self.states, self.epochs = home / "states", epochs
        g = torch.Generator().manual_seed(1)
        self.x = torch.randn(800, 2, generator=g) @ torch.randn(2, 6, generator=g)
        self.x += 0.3 * torch.randn(800, 6, generator=g)

    def clear(self):
        shutil.rmtree(self.states, ignore_errors=True)
        self.states.mkdir()

    def run(self):
        with noise.isolated(3):
            model = recipes.sigma(6, 3, (16,), "optimal")
        history = loop.fit(
            Elbo(model, beta=Ramp(0, 1, 100)),
            Dense(self.x[:700]),
            Dense(self.x[700:]),
            budget=Budget(epochs=self.epochs, patience=50),
            optimiser=Optimiser(batch_size=64, learning_rate=3e-3, ema=0.9, decay=0.5),
            engine=self.engine,
            checkpoints=Killable(self.states),
        )
        digest = hashlib.sha256()
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        for check in history.checks:
            digest.update(repr(check[:7]).encode())  # without the times
        (self.states / "result").write_text(digest.hexdigest())

    def over(self):
        return False  # it may always run again

    def result(self):
        return (self.states / "result").read_text()


class Compiled(Memory):
    """The same fit, with its steps compiled."""

    engine = Engine(burst=3)


class Disk:
    """The command line on a Parquet file; the result is the bytes of the saved weights."""

    def __init__(self, home, epochs):
        self.home, self.out, self.states = home, home / "m.vae", home / "m.run" / "first"
        self.epochs = str(epochs)
        rng = np.random.default_rng(0)
        number = rng.normal(size=900)
        columns = {
            "amount": np.exp(number + rng.normal(size=900) / 3),
            "other": np.where(rng.random(900) < 0.1, np.nan, number),
            "kind": rng.choice(["a", "b", "c"], 900),
        }
        pq.write_table(pa.table(columns), home / "tx.parquet")

    def clear(self):
        for path in (self.out, self.states.parent):
            shutil.rmtree(path, ignore_errors=True)

    def run(self):
        words = ["fit", str(self.home / "tx.parquet"), "--out", str(self.out)]
        assert cli.main([*words, "--preset", "fast", "--max-epochs", self.epochs, "-q"]) == 0

    def over(self):
        """Whether the model is there and the run was cleared away: killed while it ended.

        `run.json` is removed last; without it, the model is one like any other.
        """
        return self.out.exists() and not (self.states.parent / "run.json").exists()

    def result(self):
        return hashlib.sha256((self.out / "weights.safetensors").read_bytes()).hexdigest()


class Streamed(Disk):
    """The same where the file is not held: its rows are shuffled into a scratch file."""

    def run(self):
        data.PART, large.HELD_VALUES = 256, 1000
        assert isinstance(walk(self.home / "tx.parquet"), Stream)
        super().run()


class OfPictures(Disk):
    """An autoencoder of a folder of pictures, whose crops and noise are drawn at every step."""

    def __init__(self, home, epochs):
        super().__init__(home, epochs)
        rng = np.random.default_rng(0)
        (home / "photos").mkdir()
        for i in range(8):
            pixels = rng.integers(0, 255, (40 + i, 50, 3), np.uint8)
            Image.fromarray(pixels).save(home / f"photos/{i}.png")

    def run(self):
        split.HELD_CROPS, pairs.EPOCH = 8, 160
        small = ["--recipe", "autoencoder", "--set", "width=2", "--set", "downscale=2"]
        words = ["fit", str(self.home / "photos"), "--out", str(self.out), *small, "-q"]
        assert cli.main([*words, "--max-epochs", self.epochs]) == 0


KINDS = {
    "memory": Memory,
    "compiled": Compiled,
    "disk": Disk,
    "stream": Streamed,
    "pictures": OfPictures,
}


def imported_once():
    """Import what every child would import."""
    for name in ("parser", "commands.fit", "work.fit"):
        import_module(f"lowerbound.cli.{name}")


def child(job, die_at=None):
    """Run `job` in a process of its own and return its number."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            Killable.die_at = die_at
            job.run()
            code = 0
        finally:
            os._exit(code)
    return process


def ended(process):
    """Whether the process is over, and with what status."""
    found, status = os.waitpid(process, os.WNOHANG)
    return found != 0, status


def disturbed(job, draw, seconds, in_commit):
    """Run once; kill at a random moment or inside a commit; return whether it was killed."""
    die_at = (draw.randrange(1, 4), draw.randrange(1, 40)) if in_commit else None
    process = child(job, die_at)
    until = time.monotonic() + (3600 if in_commit else draw.uniform(0.0, seconds))
    while time.monotonic() < until:
        over, status = ended(process)
        if over:
            assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
            return os.WIFSIGNALED(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def newest(job):
    """Return the steps of the newest commit and of the last one that was told."""
    if not job.states.is_dir():  # finished and cleared away, or not begun
        return 0, 0
    told = job.states / "log"
    steps = told.read_text().split("\n")[:-1] if told.exists() else ["0"]
    latest = OnDisk(job.states).latest()
    return (0 if latest is None else latest.values["step"]), int(steps[-1])


def main(kinds, kills, home, epochs=60):
    imported_once()
    torch.set_num_threads(1)
    run_folder.OnDisk = Killable
    for kind in kinds.split(","):
        killed(kind, kills, home / kind, epochs)


def killed(kind, kills, home, epochs):
    """Kill trainings of one kind, and print what became of them."""
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    home.mkdir(parents=True, exist_ok=True)
    job = KINDS[kind](home, epochs)
    job.clear()
    began = time.monotonic()
    os.waitpid(child(job), 0)
    seconds, reference = time.monotonic() - began, job.result()
    draw, done = random.Random(kills), {"in commits": 0, "at random moments": 0}
    runs = identical = lost = 0
    while sum(done.values()) < kills:
        job.clear()
        runs += 1
        while True:
            if sum(done.values()) == kills:
                _, status = os.waitpid(child(job), 0)
                assert status == 0, status
                break
            in_commit = sum(done.values()) % 2 == 1
            if not disturbed(job, draw, seconds, in_commit):
                break
            done["in commits" if in_commit else "at random moments"] += 1
            step, told = newest(job)
            lost += step < told
            if job.over():
                break
        identical += job.result() == reference
    leftovers = [p.name for p in home.rglob(".*saving-*")]
    print(
        json.dumps(
            {
                "kind": kind,
                "kills": sum(done.values()),
                "killed": done,
                "runs": runs,
                "runs_with_identical_result": identical,
                "commits_lost": lost,
                "leftovers": leftovers,
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
