"""Kill one of two processes that train together; compare the end with an undisturbed fit.

    python tests/rank_kills.py 10 FOLDER
    python tests/rank_kills.py 1 FOLDER 20   # fits of 20 epochs instead of 60

torchrun starts `lowerbound fit tx.parquet` twice, and again after every death. Each kill comes at
a random moment after the processes have gone on from a commit, so that all of them hit training.
Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from kills import Disk, Killable
from lowerbound.cli import main as cli
from lowerbound.training.engine import run_folder
from lowerbound.training.engine.checkpoints import OnDisk

PROCESSES = 2
ROUND = 5  # kills of one fit at most


def worker(words):
    """Be one of the processes: the command line, with commits as often as may be."""
    run_folder.OnDisk = Killable
    sys.exit(cli.main(words))


def started(job, kills):
    """Start the processes."""
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    words += [f"--max-restarts={kills}", __file__, "worker", "fit", str(job.home / "tx.parquet")]
    words += ["--out", str(job.out), "--preset", "fast", "--max-epochs", job.epochs, "-q"]
    with open(job.home / "log", "w") as log:
        return subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)


def children(parent):
    """Return the numbers of the processes that another one has started."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(number) for number in found]


def committed(job):
    """Return the steps that were committed, in order."""
    told = job.states / "log"
    return [int(line) for line in told.read_text().split()] if told.exists() else []


def newest(job, alive):
    """Return the newest commit, from a copy: a folder's user clears away what others write there.

    The first process may live, and be about to commit: it stands still meanwhile.
    """
    send(alive, signal.SIGSTOP)
    try:
        if not job.states.is_dir():
            return None
        copy = job.home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(job.states, copy)
    finally:
        send(alive, signal.SIGCONT)
    return OnDisk(copy).latest()


def send(processes, what):
    """Send a signal to those that are there."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, what)


def disturbed(job, draw, kills):
    """Run once, and kill a process so many times; return how many kills hit, and what was lost."""
    agent, hit, lost = started(job, kills), 0, 0
    while hit < kills and agent.poll() is None:
        before = len(committed(job))
        while agent.poll() is None and len(committed(job)) < before + draw.randrange(1, 30):
            time.sleep(0.005)
        told, alive = committed(job), children(agent.pid) if agent.poll() is None else []
        if not alive or job.over():
            break  # it ended before the next kill
        os.kill(draw.choice(alive), signal.SIGKILL)
        hit += 1
        latest = newest(job, alive)
        lost += latest is not None and latest.values["step"] < max(told, default=0)
        time.sleep(1.0)  # until the others have noticed
    assert agent.wait() == 0, (job.home / "log").read_text()[-2000:]
    return hit, lost


def main(kills, home, epochs=60):
    home.mkdir(exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    os.environ["OMP_NUM_THREADS"] = "1"
    job, draw, began = Disk(home, epochs), random.Random(kills), time.monotonic()
    job.clear()
    assert started(job, 0).wait() == 0, (home / "log").read_text()[-2000:]
    reference = job.result()
    runs = identical = done = lost = 0
    while done < kills:
        job.clear()
        hit, gone = disturbed(job, draw, min(ROUND, kills - done))
        done, lost, runs = done + hit, lost + gone, runs + 1
        identical += job.result() == reference
    result = {
        "kind": "ranks",
        "kills": done,
        "killed": {"in commits": 0, "at random moments": done},
        "runs": runs,
        "runs_with_identical_result": identical,
        "commits_lost": lost,
        "leftovers": [p.name for p in home.rglob(".*saving-*")],
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker(sys.argv[2:])
    main(int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
