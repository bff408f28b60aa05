"""How close are filled cells to the hidden ones, and do intervals of draws cover them?

Cells of complete tables are hidden, completely at random or depending on other columns that stay
complete (at random, "MAR"). Each method learns from the incomplete table and fills it. Measured on
the hidden cells, averaged over columns: the root mean squared error of numbers in standard
deviations, the share of categories that are right, the continuous ranked probability score (CRPS)
of numbers in standard deviations, from draws where a method has any and from its one value
elsewhere, and the share of hidden numbers inside the 90 % interval of the draws.

Run: LOWERBOUND_DATA=... python benchmarks/imputation.py [--tables wine ...] [--methods ours ...]
    [--seeds 0 1 2] [--keep]
miceforest (boosted trees in turn, predictive mean matching) and HyperImpute (for each column one
of several learners) run in .peers/imputers, which `make bench-peers` makes. The forest is that of
IterativeImputer: the package MissForest 4.2.3 filled in categories no better than the commonest
one. --keep continues earlier results: what they hold is not run again.
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
import torch
from sklearn import datasets
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes it importable
from sklearn.impute import IterativeImputer, KNNImputer

import results_file
from lowerbound import Plan
from lowerbound.tasks.crps import crps
from lowerbound.training.fit import learn

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "imputation.json"
MOST_ROWS = 4_000  # drawn once from larger tables: MissForest takes hours for more
DRAWS = 50
SETTINGS = [("MCAR", 0.1), ("MCAR", 0.3), ("MAR", 0.1), ("MAR", 0.3)]
COMPLETE = 1 / 3  # share of the columns that stay complete under MAR


class Filled(NamedTuple):
    """What a method made of an incomplete table.

    Attributes:
        point: the table with its gaps filled.
        draws: completed copies; empty if the method has no draws.
    """

    point: pd.DataFrame
    draws: list[pd.DataFrame]


# Tables


def finance(name: str) -> pd.DataFrame:
    path = Path(os.environ["LOWERBOUND_DATA"]) / "finance_tabular" / f"{name}.parquet"
    return pd.read_parquet(path).drop(columns="ID", errors="ignore")


def anomalies(name: str) -> pd.DataFrame:
    """Return the usual rows of a table of the anomaly benchmark."""
    path = Path(os.environ["LOWERBOUND_DATA"]) / "adbench_classical" / f"{name}.npz"
    with np.load(path) as file:
        x = file["X"][file["y"].ravel() == 0].astype(float)
    return pd.DataFrame(x, columns=[f"v{j}" for j in range(x.shape[1])])


def packaged(load: Callable[..., Any], **how: Any) -> pd.DataFrame:
    frame = load(as_frame=True, **how).frame
    if "target" in frame and frame["target"].dtype.kind == "i":
        frame["target"] = frame["target"].map("class {}".format)
    return frame


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "adult": lambda: finance("adult_train"),
    "credit default": lambda: finance("uci_credit_card_default"),
    "german credit": lambda: finance("german_credit"),
    "breast cancer": lambda: packaged(datasets.load_breast_cancer),
    "diabetes": lambda: packaged(datasets.load_diabetes, scaled=False),
    "wine": lambda: packaged(datasets.load_wine),
    "iris": lambda: packaged(datasets.load_iris),
    "page blocks": lambda: anomalies("27_PageBlocks"),
    "yeast": lambda: anomalies("47_yeast"),
}


def complete(name: str) -> pd.DataFrame:
    """Return the complete rows of a table, at most `MOST_ROWS`.

    Categories are text, and so are numbers of at most ten values.
    """
    frame = TABLES[name]().dropna()
    if len(frame) > MOST_ROWS:
        frame = frame.sample(MOST_ROWS, random_state=0)
    frame = frame.reset_index(drop=True)
    frame.columns = [str(column).replace(" ", "_") for column in frame.columns]
    for column in frame:
        number = _is_number(frame[column])
        frame[column] = frame[column].astype(float) if number else frame[column].map(str)
    return frame.loc[:, frame.nunique() > 1]


def _is_number(values: pd.Series) -> bool:
    return values.dtype.kind in "iuf" and values.nunique() > 10


def hidden_cells(frame: pd.DataFrame, kind: str, share: float, seed: int) -> np.ndarray:
    """Return which cells are hidden, (rows, columns).

    Under MAR, the log odds of a gap are linear in the columns that stay complete.
    """
    rng = np.random.default_rng([seed, round(100 * share), kind == "MAR"])
    rows, columns = frame.shape
    if kind == "MCAR":
        return rng.random((rows, columns)) < share
    kept = rng.permutation(columns)[: max(1, round(COMPLETE * columns))]
    values = [frame.iloc[:, j] for j in kept]
    seen = np.column_stack([v if v.dtype.kind == "f" else pd.factorize(v)[0] for v in values])
    seen = (seen.argsort(0).argsort(0) + 0.5) / rows - 0.5  # ranks, so that no outlier decides
    hidden = np.zeros((rows, columns), dtype=bool)
    wanted = share * columns / (columns - len(kept))  # the same share of all cells
    for j in set(range(columns)) - set(kept.tolist()):
        pull = seen @ rng.normal(size=len(kept))
        pull *= 1.5 / max(pull.std(), 1e-9)
        hidden[:, j] = rng.random(rows) < _with_mean(pull, min(wanted, 0.9))
    return hidden


def _with_mean(pull: np.ndarray, share: float) -> np.ndarray:
    """Return probabilities with log odds `pull` + b whose mean is `share`."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        found = 1 / (1 + np.exp(-(pull + middle)))
        low, high = (middle, high) if found.mean() < share else (low, middle)
    return found


# Methods


def ours(frame: pd.DataFrame, seed: int) -> Filled:
    trained = learn(frame, Plan(seed=seed))
    drawn = trained.impute(frame, draws=DRAWS, seed=seed)
    copies = [part.drop(columns="draw") for _, part in drawn.groupby("draw")]
    return Filled(trained.impute(frame), copies)


def constant(frame: pd.DataFrame, seed: int) -> Filled:
    """Mean, or the likeliest category."""
    fill = {c: v.mean() if v.dtype.kind == "f" else v.mode()[0] for c, v in frame.items()}
    return Filled(frame.fillna(fill), [])


class Numeric:
    """A table as standardised numbers, its categories one-hot or numbered, and back."""

    def __init__(self, frame: pd.DataFrame, one_hot: bool) -> None:
        self.frame, self.one_hot = frame, one_hot
        text = {c: values for c, values in frame.items() if values.dtype.kind != "f"}
        self.levels = {c: sorted(values.dropna().unique()) for c, values in text.items()}
        numbers = frame.columns.difference(list(self.levels), sort=False)
        self.centre, self.scale = frame[numbers].mean(), frame[numbers].std().replace(0, 1)

    def coded(self) -> np.ndarray:
        parts = []
        for column, values in self.frame.items():
            if column in self.levels:
                one = np.array([values == level for level in self.levels[column]], dtype=float).T
                one = one if self.one_hot else one.argmax(1)[:, None].astype(float)
                one[values.isna()] = np.nan
                parts.append(one)
            else:
                code = (values - self.centre[column]) / self.scale[column]
                parts.append(code.to_numpy()[:, None])
        return np.hstack(parts)

    def decoded(self, x: np.ndarray) -> pd.DataFrame:
        start, found = 0, {}
        for column, values in self.frame.items():
            levels = self.levels.get(column)
            part = x[:, start : start + (len(levels) if levels and self.one_hot else 1)]
            start += part.shape[1]
            if levels:
                numbered = part[:, 0].round().clip(0, len(levels) - 1).astype(int)
                codes = part.argmax(1) if self.one_hot else numbered
                made = np.array(levels, dtype=object)[codes]
            else:
                made = part[:, 0] * self.scale[column] + self.centre[column]
            found[column] = values.where(values.notna(), pd.Series(made, index=values.index))
        return pd.DataFrame(found)


def neighbours(frame: pd.DataFrame, seed: int) -> Filled:
    numeric = Numeric(frame, one_hot=True)
    return Filled(numeric.decoded(KNNImputer().fit_transform(numeric.coded())), [])


def iterative(frame: pd.DataFrame, seed: int) -> Filled:
    """Bayesian linear regressions in turn; the draws are those of `sample_posterior`.

    Categories are numbered: of one-hot columns, each is the sum of the others, so that no gap
    would ever move from its first guess.
    """
    numeric = Numeric(frame, one_hot=False)
    coded = numeric.coded()
    point = IterativeImputer(random_state=seed).fit_transform(coded)
    draws = [
        IterativeImputer(random_state=draw, sample_posterior=True).fit_transform(coded)
        for draw in range(5)
    ]
    return Filled(numeric.decoded(point), [numeric.decoded(x) for x in draws])


def forest(frame: pd.DataFrame, seed: int) -> Filled:
    """Random forests in turn, as in MissForest; categories are numbered."""
    numeric = Numeric(frame, one_hot=False)
    trees = RandomForestRegressor(100, random_state=seed, n_jobs=2)
    method = IterativeImputer(trees, max_iter=5, random_state=seed)
    return Filled(numeric.decoded(method.fit_transform(numeric.coded())), [])


def peer(name: str) -> Callable[[pd.DataFrame, int], Filled]:
    """Return a function that runs a method in the peers' environment."""

    def run(frame: pd.DataFrame, seed: int) -> Filled:
        with tempfile.TemporaryDirectory() as folder:
            frame.to_parquet(Path(folder) / "gaps.parquet")
            subprocess.run(
                [ROOT / ".peers/imputers/bin/python", ROOT / "benchmarks/peer_imputers.py",
                 name, folder, str(seed)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            made = sorted(Path(folder).glob("draw-*.parquet"))
            point = pd.read_parquet(Path(folder) / "point.parquet")
            return Filled(point, [pd.read_parquet(each) for each in made])

    return run


METHODS = {
    "ours": ours,
    "mean or mode": constant,
    "KNNImputer": neighbours,
    "IterativeImputer": iterative,
    "IterativeImputer, forest": forest,
    "miceforest": peer("miceforest"),
    "HyperImpute": peer("HyperImpute"),
}
PEERS = ("miceforest", "HyperImpute")  # too slow for the larger tables

# Measures


def judged(frame: pd.DataFrame, hidden: np.ndarray, filled: Filled) -> dict[str, float]:
    """Return the measures, each a mean over columns."""
    found: dict[str, list[float]] = {"rmse": [], "accuracy": [], "crps": [], "coverage": []}
    for j, (column, values) in enumerate(frame.items()):
        at = hidden[:, j]
        if not at.any():
            continue
        point = filled.point[column].to_numpy()[at]
        if values.dtype.kind != "f":
            found["accuracy"].append(float(np.mean(point.astype(str) == values[at].astype(str))))
            continue
        scale, truth = values.std(), values.to_numpy()[at]
        point = point.astype(float)
        found["rmse"].append(float(np.sqrt(np.mean((point - truth) ** 2)) / scale))
        copies = filled.draws or [filled.point] * 2
        draws = np.array([copy[column].to_numpy()[at] for copy in copies], float)
        each = crps(torch.from_numpy(draws.T[:, :, None]), torch.from_numpy(truth[:, None]))
        found["crps"].append(float(each.mean() / scale))
        if len(draws) >= DRAWS:
            low, high = np.quantile(draws, [0.05, 0.95], axis=0)
            found["coverage"].append(float(np.mean((truth >= low) & (truth <= high))))
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def ranks(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean rank of each method by measure, over the cells that all methods have."""
    frame = pd.DataFrame(runs)
    cell = ["table", "mechanism", "share", "seed"]
    found: dict[str, dict[str, float]] = {}
    for measure in ("rmse", "accuracy", "crps"):
        table = frame.pivot_table(index=cell, columns="method", values=measure).dropna()
        order = table.rank(axis=1, ascending=measure != "accuracy").mean()
        found[measure] = {name: round(rank, 2) for name, rank in order.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    runs = json.loads(RESULTS.read_text())["runs"] if options.keep and RESULTS.exists() else []
    key = ("table", "mechanism", "share", "seed", "method")
    done = {tuple(run[k] for k in key) for run in runs}
    for seed in options.seeds:
        for name in options.tables:
            frame = complete(name)
            for mechanism, share in SETTINGS:
                hidden = hidden_cells(frame, mechanism, share, seed)
                gaps = frame.mask(hidden)
                for method in options.methods:
                    cell = (name, mechanism, share, seed, method)
                    if cell in done:
                        continue
                    run = {**dict(zip(key, cell, strict=True)), "rows": len(frame)}
                    began = time.perf_counter()
                    try:
                        filled = METHODS[method](gaps, seed)
                    except subprocess.CalledProcessError as error:  # of a peer
                        run["failed"] = error.stderr.strip().splitlines()[-1]
                    else:
                        run |= judged(frame, hidden, filled)
                    run["seconds"] = round(time.perf_counter() - began, 1)
                    runs.append(run)
                    print(json.dumps(run), flush=True)
            of_python = [run for run in runs if run["method"] not in PEERS]
            few = ranks(of_python)
            results_file.write(
                "imputation", mean_ranks=ranks(runs), mean_ranks_without_peers=few, runs=runs
            )


if __name__ == "__main__":
    main()
