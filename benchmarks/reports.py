"""How long does a report take, and how large is its page?

`lowerbound report` as a user runs it, from the call to the exit, on 100,000 rows of a mixed table
(Adult, drawn with replacement), 50,000 cells (pbmc3k, thinned by a tenth, 2,000 genes) and a
folder of 2,000 pictures (Fashion-MNIST). The fits before are short and not measured.

Run: LOWERBOUND_DATA=... python benchmarks/reports.py [--rounds 3]
Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy import sparse

import results_file

ROWS, CELLS, GENES, PICTURES = 100_000, 50_000, 2_000, 2_000
MOST_BYTES = 5_000_000
MOST_SECONDS = {"table": 10.0, "cells": 10.0, "pictures": 30.0}


def home() -> Path:
    return Path(os.environ["LOWERBOUND_DATA"])


def table(folder: Path) -> str:
    """Write the mixed table; return its name."""
    rows = pq.read_table(home() / "finance_tabular" / "adult_train.parquet")
    places = np.random.default_rng(0).integers(0, rows.num_rows, ROWS)
    pq.write_table(rows.take(pa.array(places)), folder / "table.parquet")
    return "table.parquet"


def cells(folder: Path) -> str:
    """Write the cells; return the name of the file."""
    kept = np.load(home() / "bio_pbmc3k" / "pbmc3k_counts.npz", allow_pickle=False)
    whole = sparse.csr_matrix(
        (kept["data"], kept["indices"], kept["indptr"]), shape=tuple(kept["shape"])
    )
    rng = np.random.default_rng(0)
    expressed = np.argsort(-np.asarray(whole.sum(0)).ravel(), kind="stable")[:GENES]
    counts = whole[:, np.sort(expressed)][rng.integers(0, whole.shape[0], CELLS)].tocsr()
    counts.data = rng.binomial(counts.data.astype(np.int64), 0.9).astype(np.float32)
    counts.eliminate_zeros()
    anndata.AnnData(counts).write_h5ad(folder / "cells.h5ad")
    return "cells.h5ad"


def pictures(folder: Path) -> str:
    """Write the pictures; return the name of their folder."""
    path = home() / "fashion_mnist" / "train-images-idx3-ubyte.gz"
    with gzip.open(path) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    (folder / "pictures").mkdir()
    for number, picture in enumerate(pixels[:PICTURES]):
        Image.fromarray(picture).save(folder / "pictures" / f"{number:05d}.png")
    return "pictures"


MAKERS = {"table": table, "cells": cells, "pictures": pictures}


def run(folder: Path, *words: str) -> float:
    """Run a command; return its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lowerbound", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", help="a folder for the pages, to look at")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.keep or name).absolute()
        folder.mkdir(exist_ok=True)
        for kind, make in MAKERS.items():
            data = make(folder)
            run(folder, "fit", data, "--out", f"{kind}.vae", "--time-limit", "60s", "--overwrite")
            page = f"{kind}.html"
            words = ("report", f"{kind}.vae", data, "--out", page, "--overwrite")
            seconds = [round(run(folder, *words), 2) for _ in range(options.rounds)]
            size, median = (folder / page).stat().st_size, statistics.median(seconds)
            found[kind] = {
                "seconds": seconds,
                "median": median,
                "most_seconds": MOST_SECONDS[kind],
                "bytes": size,
                "most_bytes": MOST_BYTES,
                "met": median <= MOST_SECONDS[kind] and size <= MOST_BYTES,
            }
            print(kind, found[kind], flush=True)
    results_file.write("reports", about=(__doc__ or "").split("\n\nRun:")[0], results=found)


if __name__ == "__main__":
    main()
