"""Which bound fits a large table: the ELBO, or the importance-weighted bound with 8 samples?

Adult, its training rows. Rows are drawn by the chain of columns, which is trained after the model
and does not depend on its bound; the model's own uses are scores, embeddings and gaps. Measured
are the model's held-out bound, the chain's, and the seconds of each stage.

Run: LOWERBOUND_DATA=... python benchmarks/bound_choice.py [--seeds 0]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import pyarrow.parquet as pq

import results_file
from lowerbound import Plan
from lowerbound.training.fit import learn

CANDIDATES = {"ELBO": {}, "iwae 8": {"iwae": 8}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    folder = Path(os.environ["LOWERBOUND_DATA"]) / "finance_tabular"
    table = pq.read_table(folder / "adult_train.parquet")
    runs = []
    for seed in options.seeds:
        for name, settings in CANDIDATES.items():
            began = time.perf_counter()
            facts = learn(table, Plan(seed=seed, settings=settings)).facts
            run = {"candidate": name, "seed": seed, "seconds": time.perf_counter() - began}
            for stage, history in (("model", "history"), ("chain", "rows_history")):
                checks = facts[history]["checks"]
                run[f"{stage}_seconds"] = checks[-1]["seconds"]
                run[f"{stage}_bound"] = checks[facts[history]["best"]]["valid_bound"]
            print(run, flush=True)
            runs.append(run)
    print(results_file.write("bound_choice", rows=len(table), runs=runs))


if __name__ == "__main__":
    main()
