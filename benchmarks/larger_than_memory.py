"""Does memory grow with the table, and how fast are Parquet files worked through?

Tables of 29 numbers, a category and an id are made, with row groups of 250,000 rows; the largest
also as one row group. `fit --preset fast`, `score` and `embed` run on each as commands, in
processes of their own, whose peak of resident memory and time are measured, start-up included.

The bars: peaks at the most rows are within 5 % of those at the fewest, whatever the row groups;
`embed` takes 4 million rows a second or more at the most rows.

The peak of `fit` and `embed` depends on how reading, coding and working fall together as the
threads have it: they run three times, and the median counts.

Every measurement is stored when it is done; the same command goes on after the last one. 30
million rows take 8 GB of disk per layout, and 11 GB of memory while one row group is made.

    python benchmarks/larger_than_memory.py [--rows 1000000 30000000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import results_file
from peak_memory import measured, told

NUMBERS, FACTORS, NOISE = 29, 4, 0.3
WRITTEN = 250_000  # rows that are made at a time
SHARE = 0.05  # that a peak may differ from that of the fewest rows
EMBEDDED = 4e6  # rows a second
TIMES = {"fit": 3, "embed": 3, "score": 1}
LAYOUTS = ("groups", "one")


def rows(count: int, seed: int) -> pa.Table:
    """Return rows of a linear factor model, with a category that follows the first factor."""
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(0).normal(size=(FACTORS, NUMBERS))
    z = rng.normal(size=(count, FACTORS))
    x = z @ weights + NOISE * rng.normal(size=(count, NUMBERS))
    countries = np.array(["FR", "PE", "DE", "US"])[np.minimum(np.abs(2 * z[:, 0]), 3).astype(int)]
    ids = np.char.add("t", (seed * WRITTEN + np.arange(count)).astype(str))
    columns = {f"v{j}": x[:, j] for j in range(NUMBERS)}
    return pa.table({**columns, "country": countries, "id": ids})


def parts(count: int) -> Iterator[pa.Table]:
    """Yield the rows in order."""
    for number, start in enumerate(range(0, count, WRITTEN)):
        yield rows(min(WRITTEN, count - start), number + 1)


def made(folder: Path, count: int, layout: str) -> Path:
    """Return the file of a table, made where it is not there."""
    path = folder / f"{count}-{layout}.parquet"
    if path.exists():
        return path
    print(f"making {path.name}", flush=True)
    unfinished = path.with_suffix(".making")
    if layout == "one":
        table = pa.concat_tables(parts(count))
        pq.write_table(table, unfinished, row_group_size=count)
    else:
        with pq.ParquetWriter(unfinished, rows(1, 0).schema) as writer:
            for table in parts(count):
                writer.write_table(table, row_group_size=WRITTEN)
    return unfinished.replace(path)


def command(verb: str, data: Path, folder: Path) -> list[str]:
    """Return the words of a verb on a table."""
    model = str(folder / "model.vae")
    words = {
        "fit": ["fit", str(data), "--preset", "fast", "--resume", "never", "--out", model],
        "score": ["score", model, str(data), "--out", str(folder / "scores.parquet")],
        "embed": ["embed", model, str(data), "--out", str(folder / "embedding.parquet")],
    }
    return words[verb]


def repeated(verb: str, data: Path, folder: Path, count: int) -> dict[str, Any]:
    """Run a verb as often as it runs; return the median of everything, and all the peaks."""
    runs = [measured(command(verb, data, folder), count) for _ in range(TIMES[verb])]
    medians = {name: median(run[name] for run in runs) for name in runs[0]}
    return {**medians, "peaks_mb": [run["peak_mb"] for run in runs]}


def bars(results: dict[str, Any], fewest: int, most: int) -> dict[str, bool]:
    """Tell which bars hold, of those whose measurements are there."""
    found = {}
    for verb in TIMES:
        base = results.get(f"{fewest} groups", {}).get(verb)
        for layout in LAYOUTS:
            peak = results.get(f"{most} {layout}", {}).get(verb)
            if base and peak:
                apart = abs(peak["peak_mb"] / base["peak_mb"] - 1)
                found[f"{verb}, {layout}: peak within {SHARE:.0%}"] = apart < SHARE
    embedded = results.get(f"{most} groups", {}).get("embed")
    if embedded:
        found[f"embed: {EMBEDDED:,.0f} rows/s"] = embedded["rows_per_second"] >= EMBEDDED
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs=2, default=[1_000_000, 30_000_000])
    parser.add_argument("--folder", type=Path, default=Path("larger.states"))
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    options = parser.parse_args()
    fewest, most = (400_000, 800_000) if options.smoke else sorted(options.rows)
    file = "larger_than_memory" + ".smoke" * options.smoke
    options.folder.mkdir(parents=True, exist_ok=True)
    setting = {"rows": [fewest, most], "columns": NUMBERS + 2, "preset": "fast"}
    results = results_file.earlier(file, setting)
    for count, layout in [(fewest, "groups"), (most, "groups"), (most, "one")]:
        for verb in TIMES:
            each = results.setdefault(f"{count} {layout}", {})
            if verb not in each:
                data = made(options.folder, count, layout)
                each[verb] = repeated(verb, data, options.folder, count)
                results_file.write(
                    file, setting=setting, bars=bars(results, fewest, most), results=results
                )
            print(f"{count:>11,} rows, {layout:6s} {verb:5s}: {told(each[verb])}", flush=True)
    print(results_file.RESULTS / f"{file}.json")


if __name__ == "__main__":
    main()
