"""What does a categorical column of many levels cost: a training step, and the score of a row?

A table of such a column and two numbers, 20,000 rows, with the default fit. The time of a step is
the difference between a longer and a shorter fit, which start and end alike. Columns of more than
1,000 levels have a softmax in two steps (`tree_above`). Times are of the processor, on one thread.

Run: OMP_NUM_THREADS=1 python benchmarks/many_levels.py
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

import results_file
from lowerbound import Plan
from lowerbound.nn.distributions.level_trees import TreeCategories
from lowerbound.training.fit import learn

LEVELS = (100, 1000, 3000, 10_000)
ROWS, SCORED = 20_000, 1000
EPOCHS = (1, 3)
ABOUT = (
    f"A table of {ROWS:,} rows: one categorical column of `levels` levels and two numbers. "
    "Milliseconds of processor time, default fit, one thread: a training step of 128 rows, and "
    f"the scores of {SCORED:,} rows."
)


def table(levels: int) -> pd.DataFrame:
    """Return a column of levels in which each occurs, a number that depends on it, and noise."""
    rng = np.random.default_rng(0)
    level = np.concatenate([np.arange(levels), rng.integers(0, levels, ROWS - levels)])
    level = rng.permutation(level)
    return pd.DataFrame(
        {
            "level": [f"s{i:05d}" for i in level],
            "depends": np.sin(level) + 0.1 * rng.normal(size=ROWS),
            "noise": rng.normal(size=ROWS),
        }
    )


def measured(levels: int) -> dict[str, object]:
    """Return the milliseconds of a training step, and of the scores."""
    rows, spent, steps = table(levels), [], []
    for epochs in EPOCHS:
        plan = Plan(types={"level": "categorical"}, max_epochs=epochs)
        began = time.process_time()
        trained = learn(rows, plan)
        spent.append(time.process_time() - began)
        steps.append(trained.facts["history"]["checks"][-1]["step"])
    began = time.process_time()
    trained.score(rows[:SCORED])
    scored = time.process_time() - began
    return {
        "step_ms": round(1e3 * (spent[1] - spent[0]) / (steps[1] - steps[0]), 1),
        "steps": steps[1] - steps[0],
        "score_ms": round(1e3 * scored),
        "two_steps": any(isinstance(m, TreeCategories) for m in trained.model.modules()),
    }


def main() -> None:
    measured(LEVELS[0])  # what is imported and compiled at the first use
    found = {}
    for levels in LEVELS:
        found[f"{levels}"] = measured(levels)
        print(levels, found[f"{levels}"], flush=True)
    print(results_file.write("many_levels", about=ABOUT, rows=ROWS, results=found))


if __name__ == "__main__":
    main()
