"""A realistic run: 284,807 card transactions, 492 frauds; how long does it take, how good is it?

Half of the genuine transactions (at random) are learned from, without labels; the rest and all
frauds are scored, beside IsolationForest with its defaults.

Run: LOWERBOUND_DATA=... python benchmarks/creditcard.py [--preset balanced] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score

import results_file
from lowerbound import Plan
from lowerbound.training.fit import learn


def transactions() -> tuple[pa.Table, np.ndarray]:
    """Return the table (Time, V1..V28, Amount) and the labels."""
    path = Path(os.environ["LOWERBOUND_DATA"]) / "creditcard_fraud" / "creditcard.npz"
    with np.load(path) as file:
        columns = {"Time": file["Time"], **{f"V{i + 1}": file["V"][:, i] for i in range(28)}}
        return pa.table({**columns, "Amount": file["Amount"]}), file["Class"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table, fraud = transactions()
    order = np.random.default_rng(options.seed).permutation(np.flatnonzero(fraud == 0))
    train, rest = order[: len(order) // 2], order[len(order) // 2 :]
    test = np.concatenate([rest, np.flatnonzero(fraud == 1)])
    results = {}
    began = time.perf_counter()
    trained = learn(table.take(train), Plan(preset=options.preset, seed=options.seed))
    fitted = time.perf_counter()
    scores = trained.anomaly_score(table.take(test))
    results["lowerbound"] = _measure(fraud[test], scores, fitted - began, fitted)
    dense = np.column_stack([c.to_numpy() for c in table.columns])
    began = time.perf_counter()
    forest = IsolationForest(random_state=options.seed, n_jobs=-1).fit(dense[train])
    fitted = time.perf_counter()
    results["IsolationForest"] = _measure(
        fraud[test], -forest.score_samples(dense[test]), fitted - began, fitted
    )
    for name, result in results.items():
        print(name, result)
    facts = {key: trained.facts[key] for key in ("rows", "split", "health")}
    stopped = trained.facts["history"]["stopped"]
    print(results_file.write("creditcard", results=results, fit=facts, stopped=stopped))


def _measure(fraud: np.ndarray, scores: np.ndarray, fit: float, fitted: float) -> dict[str, float]:
    return {
        "auroc": float(roc_auc_score(fraud, scores)),
        "average_precision": float(average_precision_score(fraud, scores)),
        "fit_seconds": round(fit, 1),
        "score_seconds": round(time.perf_counter() - fitted, 1),
    }


if __name__ == "__main__":
    main()
