"""Check and time a GPU in one call: parity with the CPU, speed, and the published experiments.

    LOWERBOUND_DATA=folder PYTHONPATH=. python benchmarks/gpu.py
    PYTHONPATH=. python benchmarks/gpu.py --device cpu --scale smoke --only parity

A table is fitted and scored on both devices; then each published experiment runs there with three
seeds, until the time is over. The experiments keep their states in --states: the same command
continues. Writes benchmarks/results/gpu.json and the results of the experiments.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import lowerbound
from reproductions import EXPERIMENTS
from reproductions.command import run
from results_file import write

# The cheap ones and those that no CPU reaches first: time may end.
ORDER = ("nvae-mnist", "static-mnist", "betatc-dsprites", "flows-frey", "vamp-mnist")
ORDER += ("nvae-lesions", "ladder-mnist", "iwae-mnist", "iaf-mnist", "sigma-mnist")


def table(rows: int = 4000, seed: int = 0) -> np.ndarray:
    """Return rows on a bent surface, the last 40 off it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 3))
    x = np.tanh(z @ rng.normal(size=(3, 12))) + 0.1 * rng.normal(size=(rows, 12))
    x[-40:] = rng.permuted(x[-40:], axis=0)
    return x


def parity(device: str) -> dict[str, Any]:
    """Fit a table on the CPU and on `device`, score it on both, and say how far apart they are."""
    x, fitted, seconds = table(), {}, {}
    for place in ("cpu", device):
        began = time.perf_counter()
        model = lowerbound.VAE(device=place, random_state=0).fit(x)
        seconds[place] = round(time.perf_counter() - began, 2)
        fitted[place] = {"mean_log_p": model.score(x), "scores": model.score_samples(x)}
    ours, theirs = fitted[device], fitted["cpu"]
    gap = abs(ours["mean_log_p"] - theirs["mean_log_p"])
    return {
        "fit_seconds": seconds,
        "mean_log_p": {place: found["mean_log_p"] for place, found in fitted.items()},
        "gap_share": gap / abs(theirs["mean_log_p"]),
        "rank_correlation": float(np.asarray(spearmanr(ours["scores"], theirs["scores"]))[0]),
        "holds": bool(gap <= 0.005 * abs(theirs["mean_log_p"])),
    }


def reproduce(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one experiment and say what came of it."""
    began = time.perf_counter()
    result = run(
        name,
        scale=options.scale,
        seeds=options.seeds,
        device=options.device,
        states=str(Path(options.states) / name),
    )
    checks = {check["claim"]: check["holds"] for check in result.facts["checks"]}
    return {"seconds": round(time.perf_counter() - began, 1), "checks": checks}


def main() -> None:
    """Run what is asked for, and keep what is done when the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", default="full")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1500.0, help="begin nothing after these")
    parser.add_argument("--states", default="gpu.states")
    parser.add_argument("--only", nargs="*", default=["parity", *ORDER])
    options = parser.parse_args()
    assert set(ORDER) == set(EXPERIMENTS), "an experiment has no place in the order"
    began = time.perf_counter()
    found: dict[str, Any] = {"device": options.device, "scale": options.scale}
    if options.device.startswith("cuda"):
        found["name"] = torch.cuda.get_device_name()
    for name in options.only:
        if time.perf_counter() - began > options.seconds:
            break
        found[name] = parity(options.device) if name == "parity" else reproduce(name, options)
        print(name, found[name], flush=True)
        write("gpu", **found)


if __name__ == "__main__":
    main()
