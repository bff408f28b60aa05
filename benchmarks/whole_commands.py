"""Seconds of whole commands, from the call to the exit, as a user runs them.

`fit`, `score`, `score --explain` and `embed` on the card transactions (284,807 rows of 30 columns)
in Parquet, `fit` of 2,000 of these rows, and `embed` and `score` of five million made rows of 31
columns by a model of `--preset fast`. Cold fits find nothing compiled before.

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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import results_file
from compiled_steps import card
from larger_than_memory import made
from lowerbound import load
from lowerbound.coding.large import needed
from lowerbound.files.read import walk
from lowerbound.files.write import write_tables

ROWS, FEW, MANY = 284_807, 2_000, 5_000_000
_EMBED, _SCORE = f"embed of {MANY:,} rows", f"score of {MANY:,} rows"
BARS = {"fit, warm": 30.0, "fit of 2,000 rows, warm": 6.0}


def seconds(folder: Path, words: str, cache: Path) -> float:
    """Return the seconds of a command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lowerbound", *words.split()]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return time.perf_counter() - began


def parts_of_embedding(path: Path, data: Path) -> dict[str, float]:
    """Return the seconds of one core that each part of `embed` takes per million rows."""
    model, spent = load(path), dict.fromkeys(("reading", "coding", "encoder", "writing"), 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    latents: list[pa.Table] = []

    def timed(part: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = work()
        spent[part] += time.process_time() - began
        return found

    parts = needed(walk(data), model.coding).parts()
    while (frame := timed("reading", lambda: next(parts, None))) is not None:
        _, coded = timed("coding", partial(model.encode, frame))
        z = timed("encoder", partial(model.embed_coded, coded))
        latents.append(pa.table({f"z{i}": z[:, i] for i in range(z.shape[1])}))
    timed("writing", lambda: write_tables(latents, data.with_name("z.parquet")))
    torch.set_num_threads(threads)
    return {part: round(each / MANY * 1e6, 2) for part, each in spent.items()}


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
            (_EMBED, "embed many.vae many.parquet --out e.parquet --overwrite", rounds),
            (_SCORE, "score many.vae many.parquet --out s.parquet --overwrite", 1),
        ]
        made(folder, MANY, "groups").rename(folder / "many.parquet")
        fit = "fit many.parquet --preset fast --max-epochs 1 --out many.vae"
        seconds(folder, fit, cache)
        for what, words, times in plan:
            found[what] = [seconds(folder, words, cache) for _ in range(times)]
            print(what, [round(each, 1) for each in found[what]], flush=True)
        embedding = parts_of_embedding(folder / "many.vae", folder / "many.parquet")
        trained = {"card": stages(folder / "card.vae"), "few": stages(folder / "few.vae")}
    medians = {what: statistics.median(each) for what, each in found.items()}
    bars = {
        what: {"bar": bar, "found": round(medians[what], 1), "met": medians[what] <= bar}
        for what, bar in BARS.items()
    }
    print(json.dumps(bars))
    runs = {what: [round(each, 2) for each in times] for what, times in found.items()}
    counts = {"score": ROWS, "embed": ROWS, _EMBED: MANY, _SCORE: MANY}
    rows = {what: round(count / medians[what]) for what, count in counts.items()}
    print(
        results_file.write(
            "whole_commands",
            seconds=runs,
            rows_per_second=rows,
            bars=bars,
            stages=trained,
            embedding=embedding,
        )
    )


if __name__ == "__main__":
    main()
