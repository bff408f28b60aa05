"""Does any switch of the training engine cost held-out likelihood at equal epochs?

Each switch trains the same net from the same weights with the same batches and noise, on binarised
MNIST (`training.Engine` in all its forms, and a plain loop without any of it: torch's AdamW on the
parameters one by one, torch's clipping, no flat tensors). Compared is the ELBO on held-out rows.

Run: LOWERBOUND_DATA=... python benchmarks/switches.py [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import results_file

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from common import Work, dataset
from run_ours import dense_model

from lowerbound import noise
from lowerbound.coding.rows import Dense
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.tasks import metrics
from lowerbound.training.engine import kernels
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.loop import fit
from lowerbound.training.engine.settings import Budget, Optimiser

NETS = {"bits": (25_600, 1), "images28": (25_600, 1)}  # data: rows, epochs; one check, at the end
BATCH, RATE, CLIP = 128, 1e-3, 100.0
ON = {"plain loop", "torch", "1 thread", "channels last", "onednn"}  # on by default somewhere
SWITCHES = {
    "torch": Engine(threads=2),
    "1 thread": Engine(threads=1),
    "channels last": Engine(threads=2, channels_last=True),
    "onednn": Engine(threads=2, linear="onednn"),
    "bfloat16": Engine(threads=2, precision="bfloat16"),
}


def plain_loop(model: LatentModel, x: Tensor, epochs: int, seed: int) -> None:
    """Train with torch's parts alone, on the batches and the noise that `fit` uses."""
    objective = Elbo(model).train()
    optimiser = torch.optim.AdamW(objective.parameters(), lr=RATE, weight_decay=0.0)
    per_epoch, step = len(x) // BATCH, 0
    for epoch in range(epochs):
        source = noise.generator(seed, "order", epoch)
        order = torch.randperm(len(x), generator=source)
        for i in range(per_epoch):
            step += 1
            stream = noise.Stream(noise.generator(seed, "noise", step))
            loss = objective(x[order[i * BATCH : (i + 1) * BATCH]], step - 1, stream)
            optimiser.zero_grad()
            loss.value.backward()
            nn.utils.clip_grad_norm_(objective.parameters(), CLIP)
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1.0, step / 50)
            optimiser.step()
    model.eval()


def held_out_elbo(data: str, switch: str, seed: int) -> float:
    """Train once and return the ELBO on rows that were not trained on, nats."""
    rows, epochs = NETS[data]
    x = torch.from_numpy(dataset(Work(data=data, rows=rows, batch=BATCH, epochs=epochs, seed=0)))
    train, valid = x[:rows], x[rows:]
    with noise.isolated(seed, "weights"):
        model = dense_model(data)
    if switch == "plain loop":
        plain_loop(model, train, epochs, seed)
    else:
        fit(
            Elbo(model),
            Dense(train),
            Dense(valid[:64]),
            budget=Budget(epochs=epochs, patience=10**6),
            optimiser=Optimiser(batch_size=BATCH, learning_rate=RATE, clip=CLIP, ema=0.0),
            seed=seed,
            engine=SWITCHES[switch],
        )
    return metrics.elbo(model, Dense(valid)).elbo.mean().item()


def missing() -> set[str]:
    """Return the switches that this machine cannot show: bfloat16 is emulated without AVX-512."""
    there = {"onednn": kernels.available(), "bfloat16": torch.cpu._is_avx512_bf16_supported()}
    return {name for name, present in there.items() if not present}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    names = ["plain loop", *(n for n in SWITCHES if n not in missing())]
    results: dict[str, dict[str, dict]] = {}
    for data in NETS:
        base: list[float] = []
        for name in names:
            found = [held_out_elbo(data, name, seed) for seed in options.seeds]
            base = base or found
            gains = np.subtract(found, base)
            results.setdefault(data, {})[name] = {
                "elbo": found,
                "against_plain_loop": float(gains.mean()),
                "on_by_default": name in ON,
            }
            print(f"{data:10s} {name:14s} {np.mean(found):9.3f} {gains.mean():+.4f}", flush=True)
        spread = float(np.std(base, ddof=1)) if len(base) > 1 else None
        results[data]["plain loop"]["sd_over_seeds"] = spread
    nets = {d: dict(zip(("rows", "epochs"), n, strict=True)) for d, n in NETS.items()}
    document = {"unit": "nats per row", "nets": nets, "missing": sorted(missing())}
    path = results_file.write("switches", **document, results=results)
    print(path)


if __name__ == "__main__":
    main()
