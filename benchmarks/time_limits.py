"""Does a time limit hold, from the start of the command to the saved model?

`fit --time-limit 60s` runs as a command on data of every kind, in a process of its own, and its
wall-clock time is compared with the limit: a table, a table that is read part by part, pictures, a
recipe that restores pictures, cells, a model of codes in two stages, a table with --latent auto,
and a search with `tune`. A fit is also killed after half of its time and started again.

The bar: at most 5 % above the limit. Fits may end earlier, where nothing is gained any more.

    LOWERBOUND_DATA=... python benchmarks/time_limits.py [--limit 60] [--cases table pictures ...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import results_file

OVER = 0.05  # share of the limit that a command may take in addition


def numbers(rows: int, columns: int) -> pa.Table:
    """Return rows of a factor model, with a category."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, 4))
    x = z @ rng.normal(size=(4, columns)) + 0.3 * rng.normal(size=(rows, columns))
    kind = np.array(["a", "b", "c"])[rng.integers(0, 3, rows)]
    return pa.table({**{f"v{j}": x[:, j] for j in range(columns)}, "kind": kind})


def table(folder: Path, rows: int = 200_000, columns: int = 12) -> Path:
    """Write a table."""
    path = folder / f"{rows}.parquet"
    pq.write_table(numbers(rows, columns), path, row_group_size=100_000)
    return path


def photos(data: Path) -> Path:
    """Return the folder of photographs."""
    return data / "denoise_train400_bsd68_set12" / "Train400"


def fashion(folder: Path) -> Path:
    """Write pictures of 28 x 28 pixels, which look like clouds."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (4000, 7, 7))
    np.save(folder / "pictures.npy", np.kron(small, np.ones((1, 4, 4))).astype(np.uint8))
    return folder / "pictures.npy"


def counts(folder: Path) -> Path:
    """Write cells: counts of 2,000 genes."""
    import anndata  # noqa: PLC0415 - an optional dependency
    from scipy.sparse import csr_matrix  # noqa: PLC0415

    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 1.0, (5, 2000))[rng.integers(0, 5, 6000)]
    cells = anndata.AnnData(csr_matrix(rng.poisson(rates).astype(np.float32)))
    cells.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


Words = Callable[[Path, Path], list[Any]]  # (scratch folder, data sets) -> words of the command

CASES: dict[str, Words] = {
    "table": lambda folder, data: ["fit", table(folder)],
    "streamed": lambda folder, data: ["fit", table(folder, 1_500_000)],
    "auto": lambda folder, data: ["fit", table(folder), "--latent", "auto"],
    "pictures": lambda folder, data: ["fit", fashion(folder)],
    "denoise": lambda folder, data: ["fit", photos(data), "--recipe", "denoise"],
    "codes": lambda folder, data: ["fit", fashion(folder), "--recipe", "vqvae"],
    "cells": lambda folder, data: ["fit", counts(folder), "--recipe", "counts"],
    "tune": lambda folder, data: ["tune", table(folder, 20_000)],
    "killed": lambda folder, data: ["fit", table(folder)],
}


def run(words: list[Any], kill_after: float | None = None) -> dict[str, Any]:
    """Run a command, killed once and repeated if wanted; return its seconds and what it said."""
    command = [sys.executable, "-m", "lowerbound", *map(str, words)]
    began = time.monotonic()
    if kill_after is not None:
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(kill_after)
        first.send_signal(signal.SIGKILL)
        first.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    told = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-500:]}
    kept = {name: told[name] for name in ("stopped", "epochs", "error") if name in told}
    return {"seconds": round(seconds, 2), "exit": done.returncode, **kept}


def main() -> None:
    """Measure the cases and write their JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    data = Path(os.environ["LOWERBOUND_DATA"])
    setting = {"limit": options.limit}
    results = results_file.earlier("time_limits", setting)
    for name in options.cases:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            words = [*CASES[name](folder, data), "--out", folder / "m.vae", "--json"]
            words += ["--time-limit", f"{options.limit:g}s"]
            found = run(words, options.limit / 2 if name == "killed" else None)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        found |= {"load": load, "bar": found["seconds"] <= (1 + OVER) * options.limit}
        print(name, found, flush=True)
        results[name] = found
        results_file.write("time_limits", setting=setting, results=results)


if __name__ == "__main__":
    main()
