"""Seconds of whole commands, from the call to the exit, as a user runs them.

`fit`, `score`, `score --explain` and `embed` on the card transactions (284,807 rows of 30 columns)
in Parquet, and `fit` of 2,000 of these rows. Cold fits find nothing compiled before.

Run: LOWERBOUND_DATA=... python benchmarks/whole_commands.py [--rounds 3]
Nothing else may run meanwhile.
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

import pyarrow.parquet as pq

import results_file
from compiled_steps import card
from lowerbound import load

ROWS, FEW = 284_807, 2_000
BARS = {"fit, warm": 30.0, "fit of 2,000 rows, warm": 6.0}


def seconds(folder: Path, words: str, cache: Path) -> float:
    """Return the seconds of a command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lowerbound", *words.split()]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return time.perf_counter() - began


def stages(path: Path) -> dict[str, Any]:
    """Return steps and seconds of the trainings of a fit."""
    facts = load(path).facts
    return {
        name: {"steps": each["checks"][-1]["step"], "bound": each["checks"][each["best"]]}
        for name in ("history", "proposal_history", "rows_history")
        if (each := facts.get(name)) and each["checks"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        pq.write_table(card(ROWS), folder / "card.parquet")
        pq.write_table(card(FEW), folder / "few.parquet")
        plan = [
            ("fit, cold", "fit card.parquet --out card.vae --overwrite", 1),
            ("fit, warm", "fit card.parquet --out card.vae --overwrite", 1),
            ("fit of 2,000 rows, cold", "fit few.parquet --out few.vae --overwrite", 1),
            ("fit of 2,000 rows, warm", "fit few.parquet --out few.vae --overwrite", rounds),
            ("score", "score card.vae card.parquet --out s.csv --overwrite", rounds),
            (
                "score --explain 3",
                "score card.vae card.parquet --explain 3 --out s.csv --overwrite",
                1,
            ),
            ("embed", "embed card.vae card.parquet --out e.parquet --overwrite", rounds),
        ]
        for what, words, times in plan:
            found[what] = [seconds(folder, words, cache) for _ in range(times)]
            print(what, [round(each, 1) for each in found[what]], flush=True)
        trained = {"card": stages(folder / "card.vae"), "few": stages(folder / "few.vae")}
    medians = {what: statistics.median(each) for what, each in found.items()}
    bars = {
        what: {"bar": bar, "found": round(medians[what], 1), "met": medians[what] <= bar}
        for what, bar in BARS.items()
    }
    print(json.dumps(bars))
    runs = {what: [round(each, 2) for each in times] for what, times in found.items()}
    rows = {what: round(ROWS / medians[what]) for what in ("score", "embed")}
    print(
        results_file.write(
            "whole_commands", seconds=runs, rows_per_second=rows, bars=bars, stages=trained
        )
    )


if __name__ == "__main__":
    main()
