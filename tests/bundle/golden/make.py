"""Add the golden model of the version at hand: a saved model, rows, and the scores it gave them.

    python tests/bundle/golden/make.py

A released model must load and score the same in every later version, so a folder made here is
never changed again: a new version, recipe or likelihood gets a new one.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

import lowerbound
from lowerbound import Plan
from lowerbound.files.read import read
from lowerbound.training.fit import learn

HERE = Path(__file__).parent


def table(rows: int) -> pa.Table:
    """Rows of every kind, with gaps."""
    rng = np.random.default_rng(7)
    hidden = rng.normal(size=rows)
    days = np.datetime64("2024-01-01T00:00:00") + rng.integers(0, 200 * 86400, rows)
    amount = np.round(np.exp(2 + hidden + 0.3 * rng.normal(size=rows)), 2)
    return pa.table(
        {
            "amount": pa.array(amount, mask=rng.random(rows) < 0.1),
            "balance": np.round(5 * hidden + rng.normal(size=rows), 3),
            "visits": rng.poisson(np.exp(0.5 + 0.5 * hidden)),
            "member": np.where(hidden > 0, "yes", "no"),
            "country": pa.array(
                rng.choice(["DE", "FR", "PT"], rows), mask=rng.random(rows) < 0.05
            ),
            "when": days.astype(str),
            "site": ["home"] * rows,
        }
    )


def main() -> None:
    plans = {
        "table": Plan(preset="fast", max_epochs=20, latent=3),
        "sigma": Plan(recipe="sigma", preset="fast", max_epochs=20, latent=2),
        "ladder": Plan(recipe="ladder", preset="fast", max_epochs=20),
    }
    for name, plan in plans.items():
        folder = HERE / f"{name}-{lowerbound.__version__}"
        if folder.exists():
            continue
        folder.mkdir()
        rows = table(300) if name == "table" else table(300).select(["amount", "balance"])
        pyarrow.csv.write_csv(rows, folder / "rows.csv")
        trained = learn(read(folder / "rows.csv"), plan)
        trained.save(folder / "model")
        scores = trained.anomaly_score(folder / "rows.csv")
        drawn = trained.samples(3, seed=0).table.to_pylist()
        expected = {"scores": scores.tolist(), "drawn": drawn}
        if trained.further:
            tables = {
                by: trained.score_table(folder / "rows.csv", by=by) for by in trained.further
            }
            expected["by"] = {by: table.to_pydict() for by, (table, _) in tables.items()}
        (folder / "expected.json").write_text(json.dumps(expected, default=str, indent=1) + "\n")


if __name__ == "__main__":
    main()
