"""Kill one of two processes that train together; compare the end with an undisturbed fit.

    python tests/rank_kills.py 10 FOLDER
    python tests/rank_kills.py 1 FOLDER 20   # fits of 20 epochs instead of 60

torchrun's agent starts `lowerbound fit tx.parquet` twice, and again after every death. Each kill
comes at a random moment after the processes have gone on from a commit, so that all of them hit
training. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from functools import partialmethod
from importlib import import_module
from pathlib import Path

from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from kills import Disk, Killable, imported_once
from lowerbound.cli import main as cli
from lowerbound.training.engine import run_folder
from lowerbound.training.engine.checkpoints import OnDisk

PROCESSES = 2
ROUND = 5  # kills of one fit at most
PATIENCE = 2  # seconds in which a process may end by itself after another's death


def worker(words):
    """Be one of the processes: the command line, with commits as often as may be."""
    run_folder.OnDisk = Killable
    assert cli.main(words) == 0


def agent(job, kills):
    """Be torchrun: start the processes, and again after every death."""
    words = ["fit", str(job.home / "tx.parquet"), "--out", str(job.out), "--preset", "fast"]
    words += ["--max-epochs", job.epochs, "-q"]
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=PROCESSES,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=f"kills-{os.getpid()}",
        max_restarts=kills,
        monitor_interval=0.1,
        start_method="fork",  # from this process, which has imported everything
    )
    # A process that waits for a dead one hears no SIGTERM, and torchrun would wait 30 seconds.
    LocalElasticAgent._shutdown = partialmethod(LocalElasticAgent._shutdown, timeout=PATIENCE)
    elastic_launch(config, worker)(words)


def started(job, kills):
    """Start torchrun's agent in a process of its own, and return its number."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            with open(job.home / "log", "w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            agent(job, kills)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def over(process):
    """Whether the agent has ended; it must have ended well."""
    found, status = os.waitpid(process, os.WNOHANG)
    assert status == 0, status
    return found != 0


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
    process, hit, lost, ended = started(job, kills), 0, 0, False
    while hit < kills and not ended:
        wanted = len(committed(job)) + draw.randrange(1, 30)
        while not (ended := over(process)) and len(committed(job)) < wanted:
            time.sleep(0.005)
        told, alive = committed(job), [] if ended else children(process)
        if not alive or job.over():
            break  # it ended before the next kill
        os.kill(draw.choice(alive), signal.SIGKILL)
        hit += 1
        latest = newest(job, alive)
        lost += latest is not None and latest.values["step"] < max(told, default=0)
        time.sleep(1.0)  # until the others have noticed
    while not ended:
        ended = over(process)
        time.sleep(0.01)
    return hit, lost


def main(kills, home, epochs=60):
    imported_once()
    import_module("torch._dynamo")  # DistributedDataParallel does: 2 s of every child
    home.mkdir(exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    os.environ["OMP_NUM_THREADS"] = "1"
    job, draw, began = Disk(home, epochs), random.Random(kills), time.monotonic()
    job.clear()
    _, status = os.waitpid(started(job, 0), 0)
    assert status == 0, (home / "log").read_text()[-2000:]
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
    main(int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
