"""What a step costs in one and in two processes, and what that means for a billion rows.

    python benchmarks/scaling.py

Two nets over 30 columns, a small and a large one, take steps of equal batches in one process and
in two (gloo), by turns, one thread each; one process also takes half and a quarter of the batch,
which tells a step's fixed cost from that of its rows. `score` and `embed` run on a Parquet file.
From these, times of a pass over up to 1e9 rows are projected for up to 64 processes, here and,
under the assumptions that the JSON lists, on GPUs. Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import results_file
from larger_than_memory import made
from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.training.engine.processes import gathered
from peak_memory import measured

COLUMNS, LATENT, ROUNDS, STEPS = 30, 8, 5, 30
NETS = {"small": ((64, 64), 512), "large": ((1024, 1024), 4096)}  # hidden layers, batch
ROWS, PROCESSES = (10**6, 10**8, 10**9), (1, 2, 8, 64)
SCORED = 2_000_000
ASSUMED = {
    "gpu_flops_per_second": 3e14,  # what a large matrix product gets of an H100 in bfloat16
    "gpu_seconds_per_step": 2e-3,  # launches of some hundred kernels, forward and backward
    "bytes_per_second": 2.5e10,  # of one GPU to the next one of a ring, across machines
    "seconds_per_message": 2e-5,
}


def steps(net: str, share: int) -> float:
    """Return the median seconds of a step of a share of the batch, in however many processes."""
    hidden, batch = NETS[net]
    with gathered(torch.device("cpu")) as team, noise.isolated(0):
        rows = batch // share
        objective = Elbo(recipes.sigma(COLUMNS, LATENT, hidden, "shared"))
        wrapped = team.wrapped(objective)
        optimiser = torch.optim.AdamW(objective.parameters(), 1e-3)
        data = Dense(torch.randn(rows * 4, COLUMNS))
        drawn = team.noise(noise.Stream(noise.generator("scaling")))
        times = []
        for number in range(STEPS + 5):
            index = torch.arange(number * rows, (number + 1) * rows) % len(data)
            began = time.perf_counter()
            optimiser.zero_grad()
            wrapped(data.take(team.share(index)).x, number, drawn, None).value.backward()
            optimiser.step()
            times.append(time.perf_counter() - began)
    return statistics.median(times[5:])


def started(net: str, share: int, processes: int) -> float:
    """Run `steps` in processes of their own."""
    words = [__file__, "--steps", net, str(share)]
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *(several if processes > 1 else []), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def costs(net: str, times: dict[str, float]) -> dict[str, float]:
    """Return what a step costs: fixed, for each row, and for the sum of gradients of two."""
    _, batch = NETS[net]
    sizes = [batch / share for share in (1, 2, 4)]
    per_row, fixed = np.polyfit(sizes, [times[f"1/{share}"] for share in (1, 2, 4)], 1)
    fixed = max(float(fixed), 0.0)
    together = times["two"] - fixed - per_row * batch / 2
    hidden = NETS[net][0]
    parameters = sum(
        p.numel() for p in recipes.sigma(COLUMNS, LATENT, hidden, "shared").parameters()
    )
    return {
        "parameters": parameters,
        "flops_per_row": 6.0 * parameters,  # a product and a sum per weight, three times
        "seconds_fixed": fixed,
        "seconds_per_row": float(per_row),
        "seconds_together": max(float(together), 0.0),
        "times_as_fast_with_two": times["1/1"] / times["two"],
    }


def projected(net: str, cost: dict[str, float], rows: int, processes: int) -> dict[str, float]:
    """Return hours of a pass on cores like these, and on GPUs as `ASSUMED`.

    A step is fixed + batch / n * row + sum of gradients; the last is a ring: 2 (n - 1) / n of the
    bytes over the link, and 2 (n - 1) messages (Patarasuk & Yuan, "Bandwidth optimal all-reduce
    algorithms for clusters of workstations", 2009). Here two processes measured it.
    """
    batch, n = NETS[net][1], processes
    many = rows / batch / 3600
    ring = 2 * (n - 1) / n
    here = cost["seconds_fixed"] + cost["seconds_per_row"] * batch / n
    here += cost["seconds_together"] * ring  # between two of them ring is 1
    a = ASSUMED
    gpu = a["gpu_seconds_per_step"] + cost["flops_per_row"] * batch / n / a["gpu_flops_per_second"]
    gpu += ring * 4 * cost["parameters"] / a["bytes_per_second"]
    gpu += 2 * (n - 1) * a["seconds_per_message"]
    return {"cores_hours": many * here, "gpu_hours": many * gpu}


def worked(folder: Path, rows: int) -> dict[str, float]:
    """Return the rows a second of score and embed, by one process, start-up included."""
    data, model = made(folder, rows, "groups"), str(folder / "model.vae")
    measured(["fit", str(data), "--preset", "fast", "--resume", "never", "--out", model], rows)
    found = {}
    for verb in ("score", "embed"):
        words = [verb, model, str(data), "--out", str(folder / f"{verb}.parquet")]
        found[verb] = measured(words, rows)["rows_per_second"]
    return found


def main() -> None:
    """Measure, project and write; or take steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help="a round, to see that it works")
    options = parser.parse_args()
    if options.steps:
        net, share = options.steps
        seconds = steps(net, int(share))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(seconds))
        return
    torch.set_num_threads(1)
    kinds = {"1/1": (1, 1), "1/2": (2, 1), "1/4": (4, 1), "two": (1, 2)}
    times: dict[str, dict[str, list[float]]] = {net: {k: [] for k in kinds} for net in NETS}
    for _ in range(1 if options.smoke else ROUNDS):
        for net in NETS:
            for kind, (share, processes) in kinds.items():
                times[net][kind].append(started(net, share, processes))
    middle = {n: {k: statistics.median(t) for k, t in each.items()} for n, each in times.items()}
    found: dict[str, Any] = {net: costs(net, middle[net]) for net in NETS}
    table = [
        {"net": net, "rows": rows, "processes": n, **projected(net, found[net], rows, n)}
        for net in NETS
        for rows in ROWS
        for n in PROCESSES
    ]
    with tempfile.TemporaryDirectory() as folder:
        rates = worked(Path(folder), 300_000 if options.smoke else SCORED)
    results_file.write(
        "scaling" + ".smoke" * options.smoke,
        nets={net: {"hidden": hidden, "batch": batch} for net, (hidden, batch) in NETS.items()},
        seconds_per_step=times,
        costs=found,
        rows_per_second=rates,
        assumed=ASSUMED,
        projected=table,
    )


if __name__ == "__main__":
    main()
