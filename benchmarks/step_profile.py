"""Where does a training step go? Self time by kind of operation, from torch's profiler.

Run: OMP_NUM_THREADS=2 LOWERBOUND_DATA=... python benchmarks/step_profile.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import results_file

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from common import Work, dataset
from run_ours import dense_model
from workloads import WORKLOADS

from lowerbound.coding.rows import Dense
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.training.engine import loop
from lowerbound.training.engine.settings import Budget, Optimiser

CASES = {"mlp_128": 100, "tiny_256_t1": 200, "conv_28": 30}  # steps that are profiled
KINDS = {
    "products": ("mm", "addmm", "bmm"),
    "convolutions": ("convolution", "_convolution", "mkldnn_convolution", "convolution_backward"),
    "optimiser": ("_fused_adamw_", "linalg_vector_norm"),
}


def fit(name: str, steps: int) -> None:
    """Train one workload for so many steps, without a look at held-out rows but the last."""
    work = WORKLOADS[name]
    rows = steps * work.batch
    x = torch.from_numpy(dataset(Work(work.data, rows, work.batch, 1, 0)))
    loop.fit(
        Elbo(dense_model(work.data)),
        Dense(x[:rows]),
        Dense(x[rows : rows + 16]),
        budget=Budget(epochs=1),
        optimiser=Optimiser(batch_size=work.batch),
    )


def measured(name: str, steps: int) -> dict[str, float]:
    """Return the milliseconds of a step, and of its kinds of operations."""
    fit(name, 10)
    began = time.perf_counter()
    fit(name, steps)
    whole = (time.perf_counter() - began) / steps * 1e3
    with profile(activities=[ProfilerActivity.CPU]) as record:
        fit(name, steps)
    events = record.key_averages()
    found = {
        kind: sum(e.self_cpu_time_total for e in events if e.key.removeprefix("aten::") in names)
        for kind, names in KINDS.items()
    }
    calls = sum(e.count for e in events if e.key.startswith("aten::"))
    parts = {kind: round(us / steps / 1e3, 3) for kind, us in found.items()}
    return {"step_ms": round(whole, 3), **parts, "operations": round(calls / steps)}


def main() -> None:
    found = {}
    for name, steps in CASES.items():
        found[name] = measured(name, steps)
        print(name, found[name], flush=True)
    print(results_file.write("step_profile", unit="ms per step", steps=CASES, results=found))


if __name__ == "__main__":
    main()
