"""Card transactions as 30 million rows in 64 Parquet files: do fit and score stay within 2 GB?

The 284,807 transactions are repeated until there are so many rows. `fit --preset fast` and `score`
run as commands, in processes of their own, whose peak of resident memory is measured.

Every measurement is stored when it is done; the same command goes on after the last one. The
shards take 7 GB of disk.

    LOWERBOUND_DATA=folder python benchmarks/creditcard_shards.py [--folder FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import results_file
from creditcard import transactions
from peak_memory import measured, told

ROWS, SHARDS = 30_000_000, 64
MOST_MB = 2000.0


def made(folder: Path, rows: int, shards: int) -> Path:
    """Return a folder of so many files, made where it is not there."""
    path = folder / f"creditcard-{rows}-{shards}"
    if path.exists():
        return path
    table, _ = transactions()
    unfinished = path.with_suffix(".making")
    unfinished.mkdir(parents=True, exist_ok=True)
    ends = np.linspace(0, rows, shards + 1).astype(int)
    for number, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        index = np.arange(start, end) % table.num_rows
        pq.write_table(table.take(index), unfinished / f"part-{number:02d}.parquet")
    return unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("larger.states"))
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    options = parser.parse_args()
    rows, shards = (200_000, 3) if options.smoke else (ROWS, SHARDS)
    file = "creditcard_shards" + ".smoke" * options.smoke
    setting = {"rows": rows, "shards": shards, "preset": "fast"}
    results = results_file.earlier(file, setting)
    data = str(made(options.folder, rows, shards))
    model, scores = str(options.folder / "cards.vae"), str(options.folder / "cards.parquet")
    commands = {
        "fit": ["fit", data, "--preset", "fast", "--resume", "never", "--out", model],
        "score": ["score", model, data, "--out", scores],
    }
    for verb, words in commands.items():
        if verb not in results:
            results[verb] = measured(words, rows)
            held = {name: found["peak_mb"] < MOST_MB for name, found in results.items()}
            results_file.write(file, setting=setting, bars=held, results=results)
        print(f"{rows:,} rows, {verb:5s}: {told(results[verb])}", flush=True)
    print(results_file.RESULTS / f"{file}.json")


if __name__ == "__main__":
    main()
