"""Which codebook is used in full, and which gives the best pictures, at equal steps?

One small VQ-VAE on Fashion-MNIST, its border repeated up to 32 x 32, with each kind of codebook:
learned by the loss ("gradient"), moving averages ("ema"), the same with a start at k-means and
restarts of dead codes ("ema_restart"), finite scalar quantisation ("fsq") and one linear map of
frozen vectors ("simvq"). The law to be reproduced: usage(gradient) < usage(ema_restart) ~
usage(fsq) ~ usage(simvq) = 100 %, and PSNR(ema) >= PSNR(gradient) + 0.3 dB. Nothing was tuned on
the test pictures; which weights are kept, the last 10,000 training pictures decide.

An arm that is in the results already is not run again.

Run: LOWERBOUND_DATA=... python benchmarks/codes.py [--seeds 0] [--steps 1500]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import results_file
from lowerbound import noise, recipes
from lowerbound.coding.rows import Batch, Dense
from lowerbound.nn.distributions.codewords import perplexity
from lowerbound.nn.latents.codebooks import KINDS
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.nn.trace import Trace, posterior_mean
from lowerbound.tasks import draws
from lowerbound.tasks.metrics import by_tiles
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.loop import fit
from lowerbound.training.engine.settings import Budget, Optimiser
from reproductions.datasets import DATASETS

ARGUMENTS: dict[str, Any] = {
    "shape": [1, 32, 32],
    "codes": 512,
    "dim": 16,
    "channels": 32,
    "blocks": 1,
    "halvings": 2,
    "likelihood": "shared",
    "prior": "uniform",
}
OPTIMISER = Optimiser(batch_size=64, learning_rate=1e-3, clip=5.0 * 32, ema=0.0)
FULL, GAIN = 0.99, 0.3  # bars: share of codes in use; dB of moving averages over the gradient


def pictures(part: np.ndarray) -> Dense:
    """Return grey levels in [0, 1], the border repeated up to 32 x 32."""
    x = torch.from_numpy(part.copy()).float()[:, None] / 255
    return Dense(F.pad(x, (2, 2, 2, 2), mode="replicate"))


def arm(kind: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one model and measure it on the test pictures."""
    parts = DATASETS["fashion-mnist"](seed)
    train, valid, test = (pictures(p) for p in (parts.train, parts.valid, parts.test))
    with noise.isolated(seed, "weights"):
        model = recipes.find("vqvae").make({**ARGUMENTS, "codebook": kind})
    begun = time.perf_counter()
    history = fit(
        Elbo(model),
        train,
        valid,
        budget=Budget(epochs=0, steps=steps, patience=10**6),
        optimiser=OPTIMISER,
        seed=seed,
        engine=Engine(threads=1),
    )
    seconds = time.perf_counter() - begun

    def share(batch: Batch) -> torch.Tensor:
        trace = Trace(posterior_mean, len(batch.x))
        model(batch.x, trace)
        return trace.sites["z0"].q.use()

    error = (draws.reconstruct(model, test) - test.x).square().flatten(1).mean(1)
    use = by_tiles(model, test, share).double().sum(0)
    return {
        "codes": len(use),
        "usage": (use > 0).double().mean().item(),
        "perplexity": perplexity(use),
        "psnr": (-10 * error.log10()).mean().item(),
        "psnr_of_mean_error": -10 * error.mean().log10().item(),
        "steps": history.checks[-1].step,
        "kept_step": history.checks[history.best].step,
        "seconds": seconds,
    }


def bars(results: dict[str, dict[str, dict[str, Any]]], seeds: list[str]) -> dict[str, bool]:
    """Tell which bars hold, in the mean over the seeds."""

    def mean(kind: str, what: str) -> float:
        return float(np.mean([results[kind][seed][what] for seed in seeds]))

    full = {
        f"usage of {kind}": mean(kind, "usage") >= FULL for kind in ("ema_restart", "fsq", "simvq")
    }
    gains = {
        f"{kind} over gradient": mean(kind, "psnr") - mean("gradient", "psnr") >= GAIN
        for kind in ("ema", "ema_restart")
    }
    return {**full, **gains}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"steps": options.steps, "arguments": ARGUMENTS, "optimiser": repr(OPTIMISER)}
    path, results = results_file.RESULTS / "codes.json", {}
    if path.exists():
        earlier = json.loads(path.read_text())
        results = earlier["results"] if earlier["setting"] == setting else {}
    for seed in map(str, options.seeds):
        for kind in options.kinds:
            if seed not in results.setdefault(kind, {}):
                results[kind][seed] = arm(kind, int(seed), options.steps)
            found = results[kind][seed]
            print(
                f"{kind:12s} seed {seed}: {found['usage']:7.2%} in use, perplexity "
                f"{found['perplexity']:6.1f}, {found['psnr']:.2f} dB, {found['seconds']:.0f} s",
                flush=True,
            )
            every = [
                s for s in next(iter(results.values())) if all(s in r for r in results.values())
            ]
            complete = set(results) == set(KINDS) and bool(every)
            results_file.write(
                "codes",
                setting=setting,
                seeds=every,
                bars=bars(results, every) if complete else {},
                results=results,
            )
    print(path)


if __name__ == "__main__":
    main()
