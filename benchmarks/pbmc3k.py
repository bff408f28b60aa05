"""2,700 blood cells from an .h5ad file: likelihoods compared, and scvi-tools' SCVI beside ours.

    LOWERBOUND_DATA=folder python benchmarks/pbmc3k.py --scvi .peers/scvi/bin/python

The raw counts of the genes that at least three cells show are written to .h5ad files, nine cells
in ten to learn from. For every seed and likelihood the sides run one after the other, each in a
process of its own with one thread, for equally many steps of equal batches: `lowerbound fit` with
the recipe counts, and SCVI with the same layers. What is compared is the ELBO of the held-out
cells, nats per cell given its library size, and the seconds of training. Then the held-out cells
are embedded into a copy of their file. Every run is stored when it is done; the same command goes
on after the last one. Writes benchmarks/results/pbmc3k.json.
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
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from scipy import sparse

import results_file
from lowerbound import Model, Plan
from lowerbound.cli.commands.embed import embed
from lowerbound.files.read import read
from lowerbound.tasks import metrics
from lowerbound.training import plan
from lowerbound.training.engine.settings import Budget
from lowerbound.training.fit import learn

HIDDEN, LATENT, BATCH, RATE = 128, 10, 128, 1e-3
LEAST_CELLS = 3  # that show a gene
SIDES, LIKELIHOODS = ("ours", "scvi"), ("nb", "zinb")
NEAR, FASTER = 0.005, 2.0  # of its ELBO that ours may be below SCVI's, and as fast it is to be
NEVER = 10**6  # checks without a gain before stopping early
OTHERS = Path(__file__).parent / "peers/run_pbmc3k.py"


def cells() -> anndata.AnnData:
    """Return the raw counts."""
    folder = Path(os.environ["LOWERBOUND_DATA"]) / "bio_pbmc3k"
    with np.load(folder / "pbmc3k_counts.npz") as file:
        parts = file["data"], file["indices"].astype(np.int32), file["indptr"]
        counts = sparse.csr_matrix(parts, shape=tuple(file["shape"]), dtype=np.float32)
        genes = np.asarray(file["gene_symbol"], str)
    shown = np.asarray((counts > 0).sum(0)).ravel() >= LEAST_CELLS
    made = anndata.AnnData(counts[:, shown])
    made.var_names = genes[shown]
    made.var_names_make_unique()
    return made


def split(whole: anndata.AnnData, folder: Path) -> dict[str, int]:
    """Write train.h5ad and test.h5ad."""
    order = np.random.default_rng(0).permutation(whole.n_obs)
    held = len(order) // 10
    for name, rows in {"test": order[:held], "train": order[held:]}.items():
        whole[np.sort(rows)].copy().write_h5ad(folder / f"{name}.h5ad")
    return {"genes": whole.n_vars, "train": len(order) - held, "test": held}


def ours(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Fit a file, measure the other one, and embed it; in a process of its own."""
    preset = plan.PRESETS["balanced"]
    optimiser = replace(preset.optimiser, batch_size=BATCH, learning_rate=RATE)
    # Of the rows that are given, learn holds out a fifth; with so many more passes over the
    # others the number of steps is that of the other side, which trains on all.
    steps = wanted["epochs"] * (wanted["train"] // BATCH)
    learned = wanted["train"] * 8 // 10
    budget = Budget(epochs=-(-steps // (learned // BATCH)), patience=NEVER)
    plan.PRESETS["balanced"] = preset._replace(budget=budget, optimiser=optimiser)
    settings = {"hidden": [HIDDEN], "likelihood": wanted["likelihood"]}
    began = time.perf_counter()
    chosen = Plan(recipe="counts", settings=settings, latent=LATENT, seed=wanted["seed"])
    trained = learn(str(folder / "train.h5ad"), chosen)
    whole = time.perf_counter() - began
    test = str(folder / "test.h5ad")
    coded = trained.coding.encode(read(test))
    bound = metrics.elbo(trained.model, coded.rows, samples=4)
    last = trained.facts["history"]["checks"][-1]
    return {
        "seconds": last["seconds"],
        "whole_seconds": whole,
        "steps": last["step"],
        "elbo": bound.elbo.mean().item(),
        "iw_nll": -trained.log_likelihood(test).mean(),
        "cells": len(coded.rows),
        "embedded": embedded(trained, folder),
    }


def embedded(trained: Model, folder: Path) -> bool:
    """Tell whether `embed` writes the embedding of the cells into a copy of their file."""
    out = folder / "embedded.h5ad"
    embed(trained, str(folder / "test.h5ad"), out=out, overwrite=True)
    z = anndata.read_h5ad(out).obsm["X_lowerbound"]
    return bool(np.array_equal(z, trained.embed(str(folder / "test.h5ad"))))


def other(python: str, folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Run a side in a process of its own, one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    files = [str(folder / "train.h5ad"), str(folder / "test.h5ad")]
    script = [str(OTHERS), *files] if python != sys.executable else [__file__, "--ours", *files]
    command = [python, *script, json.dumps(wanted)]
    environment = {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians of both sides, and what is asked of them."""
    found = {}
    for likelihood in LIKELIHOODS:
        here = [run for run in runs if run["likelihood"] == likelihood]
        if {run["side"] for run in here} != set(SIDES):
            continue
        (mine, theirs), times = (
            [statistics.median(run[what] for run in here if run["side"] == s) for s in SIDES]
            for what in ("elbo", "seconds")
        )
        found[likelihood] = {
            "elbo": mine,
            "scvi_elbo": theirs,
            "better_by_share": (mine - theirs) / abs(theirs),
            "seconds": times[0],
            "scvi_seconds": times[1],
            "times_as_fast": times[1] / times[0],
        }
    return found


def main() -> None:
    """Compare both sides, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scvi", default=".peers/scvi/bin/python", help="its interpreter")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours(Path(options.ours[0]).parent, json.loads(options.ours[2]))))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sizes = split(cells(), folder)
        shared = {"hidden": HIDDEN, "latent": LATENT, "batch": BATCH, "learning_rate": RATE}
        setting = {**shared, **sizes, "epochs": options.epochs}
        results = results_file.earlier("pbmc3k", setting)
        for seed, likelihood in product(range(options.seeds), LIKELIHOODS):
            asked = {"likelihood": likelihood, "seed": seed}
            for side, python in (("ours", sys.executable), ("scvi", options.scvi)):
                name = f"{side} {likelihood} {seed}"
                if name not in results:
                    told = other(python, folder, {**setting, **asked})
                    results[name] = {"side": side, **asked, **told}
                    write(setting, results)
                print(json.dumps(results[name]), flush=True)


def write(setting: dict[str, Any], results: dict[str, Any]) -> None:
    """Store what there is; sums and bars of likelihoods that both sides have met."""
    found = summary(list(results.values()))
    bars = {
        f"{what}, {name}": bool(met)
        for name, of in found.items()
        for what, met in (
            (f"ELBO within {NEAR:.1%} of SCVI", of["better_by_share"] >= -NEAR),
            (f"at least {FASTER:g} times as fast", of["times_as_fast"] >= FASTER),
        )
    }
    results_file.write("pbmc3k", setting=setting, bars=bars, summary=found, results=results)


if __name__ == "__main__":
    main()
