"""Can drawn rows be told from real ones, and do they stand in for them?

The protocol of the literature on synthetic tables: a model learns from one half of the rows and
draws as many. XGBoost tells drawn rows from the learned half and from the unseen one (3-fold
C2ST, 1 is indistinguishable); shape and pair errors; pairs of levels that never occur; the share
of drawn rows that are nearer to the learned half than to the unseen one (0.5 is ideal); and the
AUC (R2 for numbers) of XGBoost on the unseen half when it learns from drawn rows, beside real
ones. Every measure is that of `lowerbound compare`, but for the classifier.

Run: LOWERBOUND_DATA=... python benchmarks/synthetic_tables.py [--tables adult ...]
    [--models lowerbound ...] [--seeds 0 1 2] [--keep]
XGBoost comes with the extra `bench`. TVAE and CTGAN run in .peers/ctgan, which
`make bench-peers` makes. --keep leaves other models, tables and seeds of the results as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import xgboost
from sklearn import datasets

import results_file
from lowerbound import Plan
from lowerbound.tasks import compare
from lowerbound.training.fit import learn

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "synthetic_tables.json"


# Of halves of Adult in a protocol like this one; see the paper for its differences.
PUBLISHED = {
    "table": "adult",
    "c2st": {"TabPC": 0.855, "TabDiff": 0.841},
    "paper": "Scassola et al., 2026",
    "address": "https://arxiv.org/abs/2603.23016",
}


class Source(NamedTuple):
    """A table and the column that utility is measured on."""

    load: Callable[[], pd.DataFrame]
    target: str


def finance(name: str) -> Callable[[], pd.DataFrame]:
    def load() -> pd.DataFrame:
        path = Path(os.environ["LOWERBOUND_DATA"]) / "finance_tabular" / f"{name}.parquet"
        frame = pd.read_parquet(path).drop(columns="ID", errors="ignore")
        text = [c for c in frame if frame[c].dtype.kind not in "iuf"]
        frame[text] = frame[text].astype(object).fillna("unlisted").replace({"?": "unlisted"})
        return frame

    return load


def packaged(load: Callable[..., Any]) -> Callable[[], pd.DataFrame]:
    return lambda: load(as_frame=True, **({"scaled": False} if load is _SCALED else {})).frame


_SCALED = datasets.load_diabetes

TABLES = {
    "adult": Source(finance("adult_train"), "income-per-year"),
    "credit default": Source(finance("uci_credit_card_default"), "default.payment.next.month"),
    "german credit": Source(finance("german_credit"), "credit"),
    "breast cancer": Source(packaged(datasets.load_breast_cancer), "target"),
    "diabetes": Source(packaged(datasets.load_diabetes), "target"),
}


def halves(frame: pd.DataFrame, seed: int) -> tuple[pa.Table, pa.Table]:
    """Return the rows to learn from and the rows that stay unseen."""
    order = np.random.default_rng(seed).permutation(len(frame))
    half = len(frame) // 2
    parts = (frame.iloc[order[:half]], frame.iloc[order[half:]])
    one, other = (pa.Table.from_pandas(p, preserve_index=False) for p in parts)
    return one, other


def ours(train: pa.Table, seed: int) -> tuple[pa.Table, dict[str, float]]:
    """Fit our default model and draw as many rows."""
    began = time.perf_counter()
    trained = learn(train, Plan(seed=seed))
    fitted = time.perf_counter()
    drawn = trained.samples(len(train), seed=seed).table
    facts = {
        "fit_seconds": round(fitted - began, 1),
        "draw_seconds": round(time.perf_counter() - fitted, 1),
    }
    return drawn.select(train.column_names), facts


def peer(kind: str) -> Callable[[pa.Table, int], tuple[pa.Table, dict[str, float]]]:
    """Return a function that fits TVAE or CTGAN in the peers' environment and draws rows."""

    def run(train: pa.Table, seed: int) -> tuple[pa.Table, dict[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            source, drawn = Path(folder) / "train.parquet", Path(folder) / "drawn.parquet"
            train.to_pandas().to_parquet(source, index=False)
            done = subprocess.run(
                [ROOT / ".peers/ctgan/bin/python", ROOT / "benchmarks/peer_tvae.py", source,
                 drawn, str(seed), kind],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            rows = pa.Table.from_pandas(pd.read_parquet(drawn), preserve_index=False)
            return rows, json.loads(done.stdout.splitlines()[-1])

    return run


MODELS = {"lowerbound": ours, "TVAE": peer("TVAE"), "CTGAN": peer("CTGAN")}


class Boosted:
    """XGBoost with its defaults, for the features of `compare`."""

    def __init__(self, kind: type, categorical: np.ndarray) -> None:
        types = ["c" if each else "q" for each in categorical]
        self.model = kind(enable_categorical=True, feature_types=types, n_jobs=2)

    def fit(self, x: np.ndarray, y: np.ndarray) -> Boosted:
        self.model.fit(x, y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model.predict(x)


def classifier(categorical: np.ndarray) -> Boosted:
    return Boosted(xgboost.XGBClassifier, categorical)


def regressor(categorical: np.ndarray) -> Boosted:
    return Boosted(xgboost.XGBRegressor, categorical)


def judged(
    name: str, drawn: pa.Table, train: pa.Table, unseen: pa.Table, seed: int
) -> dict[str, Any]:
    """Return all measures of drawn rows."""
    target = TABLES[name].target
    number = name == "diabetes"
    learner = regressor if number else classifier
    seen, other = (
        compare.c2st(real, drawn, classifier=classifier, seed=seed) for real in (train, unseen)
    )
    near = compare.nearness(drawn, train, unseen, seed=seed)
    everything = pa.concat_tables([train, unseen])
    use = compare.utility(drawn, unseen, target, learner=learner, seed=seed)
    return {
        "c2st_learned": seen.score.value,
        "c2st_unseen": other.score.value,
        "c2st_unseen_interval": [other.score.low, other.score.high],
        "shape_error": float(np.mean(list(compare.shape_errors(unseen, drawn).values()))),
        "pair_error": float(np.nanmean(list(compare.pair_errors(unseen, drawn).values()))),
        "impossible": compare.impossible(everything, drawn).share.value,
        "dcr_share": near.dcr_share.value,
        "utility": use.value.value,
        "utility_measure": use.measure,
        **(_adult(drawn) if name == "adult" else {}),
    }


def _adult(drawn: pa.Table) -> dict[str, float]:
    """Return the shares of two combinations that Adult (nearly) never has."""
    frame = drawn.to_pandas()
    real = finance("adult_train")()
    pairs = set(zip(real["education"], real["education-num"], strict=True))
    seen = [pair in pairs for pair in zip(frame["education"], frame["education-num"], strict=True)]
    husband = frame["relationship"].str.strip() == "Husband"
    female = frame["sex"].str.strip() == "Female"
    return {
        "impossible_education": 1 - float(np.mean(seen)),
        "husband_and_female": float((husband & female).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["lowerbound"])
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    earlier = json.loads(RESULTS.read_text())["runs"] if options.keep and RESULTS.exists() else []
    key = ("table", "model", "seed")
    for name in options.tables:
        frame, target = TABLES[name].load(), TABLES[name].target
        if name != "diabetes":  # classes, which some tables number
            frame[target] = frame[target].astype(str)
        for seed in options.seeds:
            train, unseen = halves(frame, seed)
            for model in ("real rows", *options.models):
                # Real rows: the unseen half in place of drawn ones, the best that can be.
                drawn, facts = (train, {}) if model == "real rows" else MODELS[model](train, seed)
                run = {"table": name, "model": model, "seed": seed, "rows": len(frame), **facts}
                if model == "real rows":
                    learner = regressor if name == "diabetes" else classifier
                    use = compare.utility(train, unseen, TABLES[name].target, learner=learner)
                    run |= {
                        "c2st_unseen": compare.c2st(
                            unseen, train, classifier=classifier, seed=seed
                        ).score.value,
                        "utility": use.value.value,
                        "utility_measure": use.measure,
                    }
                else:
                    run |= judged(name, drawn, train, unseen, seed)
                earlier = [r for r in earlier if [r[k] for k in key] != [run[k] for k in key]]
                earlier.append(run)
                print(json.dumps(run), flush=True)
    order = {name: place for place, name in enumerate(TABLES)}
    earlier.sort(
        key=lambda r: (order[r["table"]], r["model"] == "real rows", r["model"], r["seed"])
    )
    path = results_file.write(
        "synthetic_tables",
        data="halves of each table: one is learned, the other stays unseen",
        xgboost=xgboost.__version__,
        published=PUBLISHED,
        runs=earlier,
    )
    print(path)


if __name__ == "__main__":
    main()
