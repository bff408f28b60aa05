"""Use models for a long time in one process, and report its memory, files and threads.

    python tests/soak.py loads 500 FOLDER      # load one model and score with it, 500 times
    python tests/soak.py fits 200 FOLDER       # fit, save and delete 200 small models
    python tests/soak.py threads 600 FOLDER    # 8 threads use models for 600 seconds

Prints one JSON object: samples of memory (MB), open files and threads over the run, and the number
of results that differ from those of a single thread.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lowerbound
from estimators import correlated, quick

POINTS = 40  # samples over a run
THREADS = 8


def resident() -> float:
    """Return the anonymous memory of this process in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def state() -> dict[str, Any]:
    """Return memory, open files and threads of this process."""
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    return {"memory": resident(), "files": files, "threads": threading.active_count()}


def mixed(n: int) -> dict[str, np.ndarray]:
    """Return a table with columns of several kinds and gaps."""
    rng = np.random.default_rng(1)
    size = rng.normal(size=n)
    size[::9] = np.nan
    return {
        "size": size,
        "colour": rng.choice(["red", "green", "blue"], n),
        "parts": rng.poisson(3, n) * rng.integers(0, 4, n),
        "price": np.exp(rng.normal(size=n)),
    }


KINDS: tuple[tuple[str, Any], ...] = (
    ("table", mixed(300)),
    ("sigma", correlated(200)),
    ("counts", np.random.default_rng(2).poisson(2.0, (200, 5)).astype(float)),
    ("ladder", correlated(200)),
)


def estimator(recipe: str) -> Any:
    """Return an estimator of one short pass."""
    return quick(recipe=recipe, max_epochs=1, device="cpu", latent=None)


def scores(model: Any, data: Any) -> bytes:
    """Return the bytes of the scores of some rows."""
    return np.asarray(model.anomaly_score(data)).tobytes()


def saved(folder: Path) -> list[tuple[Path, Any]]:
    """Fit and save one model of each kind; return paths and data."""
    made = []
    for recipe, data in KINDS:
        path = folder / f"{recipe}.vae"
        estimator(recipe).fit(data).save(path)
        made.append((path, data))
    return made


def loads(count: int, folder: Path) -> Iterator[int]:
    """Load a model and score with it; yield the number of wrong results so far."""
    models = saved(folder)
    right = [scores(lowerbound.load(path), data) for path, data in models]
    wrong = 0
    for turn in range(count):
        path, data = models[turn % len(models)]
        wrong += scores(lowerbound.load(path), data) != right[turn % len(models)]
        yield wrong


def fits(count: int, folder: Path) -> Iterator[int]:
    """Fit, save and delete models; yield the number of models that differ from the first."""
    first: dict[str, bytes] = {}
    wrong = 0
    for turn in range(count):
        recipe, data = KINDS[turn % len(KINDS)]
        path = folder / f"{recipe}.vae"
        estimator(recipe).fit(data).save(path)
        weights = (path / "weights.safetensors").read_bytes()
        wrong += first.setdefault(recipe, weights) != weights
        shutil.rmtree(path)
        yield wrong


def tasks(path: Path, data: Any) -> list[Callable[[Any], bytes]]:
    """Return uses of a model as functions from a loaded model to bytes."""
    return [
        lambda model: scores(model, data),
        lambda model: np.asarray(model.embed(data)).tobytes(),
        lambda model: str(model.sample(20, seed=3)).encode(),
        lambda model: str(model.impute(data)).encode(),
        lambda model: scores(lowerbound.load(path), data),
    ]


def threaded(seconds: int, folder: Path) -> Iterator[int]:
    """Use shared models in several threads, one of which fits; yield the wrong results so far."""
    work = []
    for path, data in saved(folder):
        shared = lowerbound.load(path)
        for task in tasks(path, data):
            work.append((shared, task, task(shared)))
    recipe, data = KINDS[0]
    scored = np.asarray(estimator(recipe).fit(data).score_samples(data)).tobytes()
    end, wrong, done = time.monotonic() + seconds, [], []

    def use(start: int) -> None:
        turn = start
        while time.monotonic() < end:
            shared, task, right = work[turn % len(work)]
            try:
                if task(shared) != right:
                    wrong.append(turn)
            except Exception as error:  # reported as a wrong result
                wrong.append(repr(error))
            done.append(turn)
            turn += THREADS + 1

    def learn() -> None:
        while time.monotonic() < end:
            found = estimator(recipe).fit(data).score_samples(data)
            if np.asarray(found).tobytes() != scored:
                wrong.append("fit")

    workers = [threading.Thread(target=use, args=(i,)) for i in range(THREADS - 1)]
    workers.append(threading.Thread(target=learn))
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(max(0.1, seconds / (2 * POINTS)))
        yield len(wrong)
    if wrong:
        print(wrong[:5], file=sys.stderr)


RUNS = {"loads": loads, "fits": fits, "threads": threaded}


def soaked(kind: str, amount: int, folder: Path) -> dict[str, Any]:
    """Run one kind of soak and return its samples."""
    samples, wrong, began = [], [0], time.monotonic()
    every = max(1, amount // POINTS) if kind != "threads" else 1
    for turn, count in enumerate(RUNS[kind](amount, folder)):
        wrong.append(count)
        if turn % every == 0:
            samples.append(state())
    samples.append(state())
    seconds = time.monotonic() - began
    return {
        "kind": kind,
        "amount": amount,
        "wrong": wrong[-1],
        "seconds": round(seconds, 1),
        **{key: [round(each[key], 1) for each in samples] for key in samples[0]},
    }


if __name__ == "__main__":
    print(json.dumps(soaked(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
