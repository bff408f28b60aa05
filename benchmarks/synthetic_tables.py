"""Do rows drawn from our model stand in for real ones better than those of CTGAN's TVAE?

Adult, 80 % of the rows to learn from, 20 % to test on. Each model is fitted with its defaults and
draws as many rows as it learned from; four classifiers are trained on the drawn rows and tested on
real ones (F1 of the richer class), and each column's shape is compared (Kolmogorov-Smirnov for
numbers, total variation for categories). '?' is a level of its own for both models.

Run: LOWERBOUND_DATA=... python benchmarks/synthetic_tables.py [--seeds 0 1 2] [--no-peer]
TVAE runs in .peers/ctgan, which `make bench-peers` makes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import ks_2samp
from sklearn.compose import make_column_transformer
from sklearn.ensemble import AdaBoostClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import results_file
from lowerbound import Plan
from lowerbound.training.fit import learn

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "synthetic_tables.json"
TARGET, RICH = "income-per-year", ">50K"


def adult() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to learn from and the rows to test on."""
    path = Path(os.environ["LOWERBOUND_DATA"]) / "finance_tabular" / "adult_train.parquet"
    frame = pq.read_table(path).to_pandas()
    text = [c for c in frame.columns if frame[c].dtype.kind not in "iuf"]
    frame[text] = frame[text].fillna("unlisted").replace({"?": "unlisted"})
    return train_test_split(frame, test_size=0.2, random_state=0, stratify=frame[TARGET])


def shape_errors(real: pd.DataFrame, drawn: pd.DataFrame) -> dict[str, float]:
    """Return the distance of every column's distribution, in [0, 1]; 0 is the same shape."""
    errors = {}
    for name in real.columns:
        if real[name].dtype.kind in "iuf":
            errors[name] = float(ks_2samp(real[name], drawn[name]).statistic)
        else:
            p, q = (f[name].value_counts(normalize=True) for f in (real, drawn))
            errors[name] = float(0.5 * p.sub(q, fill_value=0).abs().sum())
    return errors


def classifiers() -> dict[str, object]:
    """Return the four judges, as scikit-learn has them."""
    return {
        "adaboost": AdaBoostClassifier(random_state=0),
        "tree": DecisionTreeClassifier(max_depth=15, class_weight="balanced", random_state=0),
        "logistic": LogisticRegression(max_iter=500, class_weight="balanced"),
        "mlp": MLPClassifier((50,), max_iter=50, random_state=0),
    }


def usefulness(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Train the judges on `train` and test them on real rows."""
    numbers = [c for c in test.columns if test[c].dtype.kind in "iuf"]
    text = [c for c in test.columns if c not in numbers and c != TARGET]
    result = {}
    for name, judge in classifiers().items():
        coder = make_column_transformer(
            (StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), text)
        )
        model = make_pipeline(coder, judge).fit(train.drop(columns=TARGET), train[TARGET] == RICH)
        said, true = model.predict(test.drop(columns=TARGET)), test[TARGET] == RICH
        result[name] = {"f1": f1_score(true, said), "accuracy": accuracy_score(true, said)}
    return result


def ours(train: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Fit our default model and draw as many rows."""
    began = time.perf_counter()
    trained = learn(pa.Table.from_pandas(train, preserve_index=False), Plan(seed=seed))
    seconds = time.perf_counter() - began
    drawn = trained.samples(len(train), seed=seed).table.to_pandas()
    return drawn[train.columns.tolist()], {"fit_seconds": round(seconds, 1)}


def tvae(train: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Fit TVAE in the peers' environment and draw as many rows."""
    with tempfile.TemporaryDirectory() as folder:
        source, drawn = Path(folder) / "train.parquet", Path(folder) / "drawn.parquet"
        train.to_parquet(source, index=False)
        done = subprocess.run(
            [ROOT / ".peers/ctgan/bin/python", ROOT / "benchmarks/peer_tvae.py", source, drawn,
             str(seed)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return pd.read_parquet(drawn), json.loads(done.stdout.splitlines()[-1])


def judged(train: pd.DataFrame, test: pd.DataFrame, drawn: pd.DataFrame) -> dict[str, object]:
    """Return all measures of drawn rows."""
    shapes = shape_errors(train, drawn)
    scores = usefulness(drawn, test)
    return {
        "shape_error": float(np.mean(list(shapes.values()))),
        "f1": float(np.mean([s["f1"] for s in scores.values()])),
        "accuracy": float(np.mean([s["accuracy"] for s in scores.values()])),
        "classifiers": scores,
        "columns": shapes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--no-peer", action="store_true", help="keep the peer's rows of the earlier results"
    )
    options = parser.parse_args()
    train, test = adult()
    runs = {"real rows": [{"seed": 0, **judged(train, test, train)}]}
    models = {"lowerbound": ours} if options.no_peer else {"lowerbound": ours, "TVAE": tvae}
    for seed in options.seeds:
        for name, model in models.items():
            drawn, facts = model(train, seed)
            runs.setdefault(name, []).append({"seed": seed, **facts, **judged(train, test, drawn)})
            last = runs[name][-1]
            print(name, seed, f"F1 {last['f1']:.3f} shape {last['shape_error']:.2%}", facts)
    earlier = json.loads(RESULTS.read_text()) if options.no_peer and RESULTS.exists() else {}
    kept = {name: each for name, each in earlier.get("runs", {}).items() if name not in runs}
    runs |= kept
    summary = {
        name: {m: float(np.mean([r[m] for r in each])) for m in ("f1", "accuracy", "shape_error")}
        for name, each in runs.items()
    }
    path = results_file.write(
        "synthetic_tables",
        data="Adult, 32,561 rows, 80/20 split",
        summary=summary,
        runs=runs,
        kept={"models": list(kept), "command": earlier["command"]} if kept else {},
    )
    print(json.dumps(summary, indent=1), path)


if __name__ == "__main__":
    main()
