"""Does the proposal change which rows are found? AUROC of one fit's scores with it and without.

Every table of `anomaly_auroc.py`, protocol of the paper; the fit has no chain, which takes no part
in scores. With the proposal, a score takes 16 draws, without it 32 of the posterior, as in
versions before.

Run: LOWERBOUND_DATA=... python benchmarks/proposal_auroc.py [--cache FILE] [--tables 0 2]
An interrupted run goes on with the same cache, and runs of other tables may share it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score

import lowerbound
import results_file
from anomaly_protocols import PROTOCOLS, load, tables

BEFORE = 32  # draws of the posterior


def measured(table: str, seed: int) -> dict[str, Any]:
    """Fit once; return both AUROCs in percent."""
    split, began = PROTOCOLS["paper"].split(*load(table), seed), time.perf_counter()
    model = lowerbound.VAE(random_state=seed, settings={"chain": None}).fit(split.train)
    trained = model.trained_
    found = 100 * roc_auc_score(split.labels, model.anomaly_score(split.test))
    before, has = found, trained.model.proposal is not None
    if has:
        trained.model.proposal = None
        scores = trained.anomaly_score(split.test, BEFORE)
        before = 100 * roc_auc_score(split.labels, scores)
    seconds = round(time.perf_counter() - began, 1)
    return {"t": table, "seed": seed, "r": round(found, 2), "q": round(before, 2), "has": has} | {
        "s": seconds
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--tables", type=int, nargs=2, metavar=("FIRST", "STEP"), default=(0, 1))
    options = parser.parse_args()
    known = {}
    if options.cache and options.cache.exists():
        lines = map(json.loads, options.cache.read_text().splitlines())
        known = {(each["t"], each["seed"]): each for each in lines}
    first, step = options.tables
    runs = []
    for table in list(tables())[first::step]:
        for seed in options.seeds:
            run = known.get((table, seed)) or measured(table, seed)
            runs.append(run)
            print(run, flush=True)
            if options.cache and (table, seed) not in known:
                with options.cache.open("a") as file:
                    file.write(json.dumps(run) + "\n")
    if (first, step) != (0, 1):
        return
    means = {by: round(statistics.mean(run[by] for run in runs), 2) for by in ("r", "q")}
    differences = [run["r"] - run["q"] for run in runs]
    error = statistics.stdev(differences) / len(runs) ** 0.5
    names = {"r": "proposal, 16 draws", "q": "posterior, 32 draws", "s": "seconds of both"}
    summary = {names[by]: mean for by, mean in means.items()}
    summary |= {"difference": round(statistics.mean(differences), 3)}
    summary |= {"standard error": round(error, 3)}
    print(summary, results_file.write("proposal_auroc", mean=summary, keys=names, runs=runs))


if __name__ == "__main__":
    main()
