"""How long does the score of one row take: the exported graph in ONNX Runtime, and torch?

The model is a default fit of 30 numbers (hidden 64 and 32, latent 8), on one thread; the graph
takes raw cells and also gives p-value and alarm. In every round each scorer scores the same row
many times, one scorer after the other; reported are the medians over rounds of each round's
median and 95th percentile. Run it on an idle machine: `uptime` should say less than 1.

Run: OMP_NUM_THREADS=1 python benchmarks/export_latency.py [--rounds 7] [--calls 3000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch

import results_file
from lowerbound import Model, Plan
from lowerbound.coding.rows import Dense
from lowerbound.tasks import draws
from lowerbound.tasks.onnx import SAMPLES
from lowerbound.tasks.onnx.checking import session
from lowerbound.tasks.onnx.graph import INPUT, OUTPUTS, export_onnx
from lowerbound.tasks.onnx.scorer import Scorer
from lowerbound.training.fit import learn

FEATURES, ROWS = 30, 20_000
NET = {"hidden": [64, 32]}
LATENT = 8
GOAL_US = 20.0
SLOW = 20  # a scorer in torch is called that many times less
ABOUT = (
    f"One row of {FEATURES} numbers, hidden 64-32, latent {LATENT}, one thread: microseconds from "
    "raw cells to score, p-value and alarm in ONNX Runtime (`run` takes and returns NumPy arrays, "
    "`bound` reuses buffers), and to the score in torch. All are importance-weighted with the "
    "number of draws given."
)


def table(seed: int = 0) -> pd.DataFrame:
    """Numbers that depend on six hidden ones, some of them heavy-tailed, in any unit."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(ROWS, 6)) @ rng.normal(size=(6, FEATURES))
    x = np.tanh(0.5 * hidden) + 0.3 * rng.normal(size=(ROWS, FEATURES))
    x[:, 20:25] = np.exp(1.5 * x[:, 20:25])
    x *= 10 ** rng.uniform(-2, 3, FEATURES)
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(FEATURES)])


def bound(path: Path, row: np.ndarray) -> Callable[[], Any]:
    """Return a call that scores the row in buffers that were bound once."""
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    runs = session(path.read_bytes())
    binding = runs.io_binding()
    binding.bind_ortvalue_input(INPUT, value(row))
    for name, kind in zip(OUTPUTS, (float, float, bool), strict=True):
        binding.bind_ortvalue_output(name, value(np.zeros(1, kind)))
    return lambda: runs.run_with_iobinding(binding)


def scorers(trained: Model, frame: pd.DataFrame, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what scores one row, by name."""
    row = frame.iloc[:1].to_numpy().copy()
    raw, coded = torch.from_numpy(row), trained.encode(frame.iloc[:1])[1]
    found: dict[str, Callable[[], Any]] = {}
    for samples in (8, SAMPLES, 32):
        made = export_onnx(
            trained, folder / f"{samples}.onnx", samples=samples, overwrite=True, check=frame
        )
        assert made.columns == tuple(frame.columns)
        runs = session(made.path.read_bytes())
        found[f"ONNX, run, {samples} draws"] = lambda runs=runs: runs.run(None, {INPUT: row})
        found[f"ONNX, bound, {samples} draws"] = bound(made.path, row)
    module = Scorer(trained, trained.coding.schema, SAMPLES, 0).eval()
    found[f"torch, the same module, {SAMPLES} draws"] = lambda: module(raw)
    dense = Dense(coded.rows.x)
    found[f"torch, `tasks.score`, {draws.SCORE_SAMPLES} draws"] = lambda: draws.score(
        trained.model, dense
    )
    return found


def microseconds(call: Callable[[], Any], calls: int) -> np.ndarray:
    """Return the time of each of so many calls."""
    for _ in range(max(3, calls // 20)):
        call()
    times = np.empty(calls)
    for i in range(calls):
        begin = time.perf_counter_ns()
        call()
        times[i] = time.perf_counter_ns() - begin
    return times / 1e3


@torch.no_grad()
def measure(
    named: dict[str, Callable[[], Any]], rounds: int, calls: int
) -> dict[str, dict[str, float]]:
    """Return p50 and p95 of every scorer, medians over rounds in which they take turns."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in named}
    for _ in range(rounds):
        for name, call in named.items():
            n = calls if name.startswith("ONNX") else max(10, calls // SLOW)
            seen[name].append(np.percentile(microseconds(call, n), [50, 95]))
    return {
        name: {
            "p50_us": median(float(each[0]) for each in values),
            "p95_us": median(float(each[1]) for each in values),
            "p50_lowest_us": min(float(each[0]) for each in values),
            "p50_highest_us": max(float(each[0]) for each in values),
        }
        for name, values in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=3000)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    frame, results = table(), {}
    with tempfile.TemporaryDirectory() as folder:
        for coding in ("blend", "standard"):
            plan = Plan(settings=NET, latent=LATENT, transform=coding, max_epochs=10)
            trained = learn(frame.iloc[:15_000], plan)
            named = scorers(trained, frame.iloc[15_000:], Path(folder))
            found = measure(named, chosen.rounds, chosen.calls)
            prior = trained.arguments.get("components", 0)
            kind = f"{coding} coding, {f'mixture of {prior}' if prior else 'normal'} prior"
            results |= {f"{name}; {kind}": each for name, each in found.items()}
    fastest = min(each["p50_us"] for each in results.values())
    results_file.write(
        "export_latency",
        about=ABOUT,
        onnxruntime=onnxruntime.__version__,
        load_at_start=load,
        rounds=chosen.rounds,
        calls=chosen.calls,
        goal={"p50_us": GOAL_US, "fastest_us": fastest, "met": fastest <= GOAL_US},
        scorers=results,
    )
    for name, each in results.items():
        print(f"{name:<75} p50 {each['p50_us']:9.1f}  p95 {each['p95_us']:9.1f} us")


if __name__ == "__main__":
    main()
