"""Which default suits anomaly tables? Every table is judged by a choice made on the others.

Candidates are fitted on the clean split of all 24 tables. For each table, the candidate with the
best mean AUROC over the 23 *other* tables is taken, and its AUROC on the table left out is what
counts: the mean of those is what choosing by such a benchmark is worth, without the optimism of
quoting the winner's own mean. A change of the defaults is kept if all 24 choices agree on it.

Run: LOWERBOUND_DATA=... python benchmarks/anomaly_choice.py [--only NAME ...] [--seeds 0]
Each result is stored in --cache at once; a second run continues.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import lowerbound
import results_file
from anomaly_protocols import PROTOCOLS, load, tables
from lowerbound.training import plan

CACHE = Path(__file__).parent / ".cache" / "choice.jsonl"

# What differs from the defaults: `patience` of the preset, and arguments of the estimator.
# "default" is what it was before this comparison: nets of 64, as in all candidates but one.
_64: dict = {"hidden": [64, 64]}
CANDIDATES: dict[str, dict] = {
    "default": {"settings": _64},
    "patience 12": {"settings": _64, "patience": 12},
    "iwae 8": {"settings": {**_64, "iwae": 8}},
    "iwae 8, patience 12": {"settings": {**_64, "iwae": 8}, "patience": 12},
    "hidden 128": {"settings": {"hidden": [128, 128]}},
    "floor 0.05": {"settings": {**_64, "floor": 0.05}},
    "standard": {"settings": _64, "scaling": "standard"},
    "quantile": {"settings": _64, "scaling": "quantile"},
}


@contextmanager
def patience(checks: int | None) -> Iterator[None]:
    """Let the default preset wait for `checks` checks without a gain."""
    before = plan.PRESETS["balanced"]
    if checks is not None:
        budget = replace(before.budget, patience=checks)
        plan.PRESETS["balanced"] = before._replace(budget=budget)
    try:
        yield
    finally:
        plan.PRESETS["balanced"] = before


def auroc(name: str, table: str, seed: int) -> float:
    """Fit one candidate on one table and return its AUROC x 100."""
    options = dict(CANDIDATES[name])
    split = PROTOCOLS["clean"].split(*load(table), seed)
    with patience(options.pop("patience", None)):
        model = lowerbound.VAE(random_state=seed, **options).fit(split.train)
    return 100 * roc_auc_score(split.labels, model.anomaly_score(split.test))


def left_out(means: dict[str, dict[str, float]], names: list[str]) -> dict[str, dict]:
    """Return for every table the candidate that the others choose, and its AUROC there."""
    chosen = {}
    for table in names:
        others = [t for t in names if t != table]
        best = max(means, key=lambda n: np.mean([means[n][t] for t in others]))
        chosen[table] = {"chosen": best, "auroc": means[best][table]}
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--cache", type=Path, default=Path(__file__).parent / ".cache/choice.jsonl"
    )
    options = parser.parse_args()
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    lines = options.cache.read_text().splitlines() if options.cache.exists() else []
    known = {tuple(key): value for key, value in map(json.loads, lines)}
    names = list(tables())
    means: dict[str, dict[str, float]] = {}
    for name in options.only:
        for table in names:
            for seed in options.seeds:
                key = (name, table, seed)
                if key not in known:
                    known[key] = auroc(*key)
                    with options.cache.open("a") as file:
                        file.write(json.dumps([key, known[key]]) + "\n")
            found = [known[name, table, seed] for seed in options.seeds]
            means.setdefault(name, {})[table] = float(np.mean(found))
        print(f"{name:20s} {np.mean(list(means[name].values())):.2f}", flush=True)
    chosen = left_out(means, names)
    path = results_file.write(
        "anomaly_choice",
        protocol="clean",
        seeds=options.seeds,
        means={name: float(np.mean(list(row.values()))) for name, row in means.items()},
        left_out_mean=float(np.mean([row["auroc"] for row in chosen.values()])),
        votes=Counter(row["chosen"] for row in chosen.values()),
        left_out=chosen,
        tables=means,
    )
    print(path)


if __name__ == "__main__":
    main()
