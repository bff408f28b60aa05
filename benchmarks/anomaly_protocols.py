"""Tables and splits of the anomaly benchmark: the DTE paper's protocol and a clean one.

The paper (Livernoche et al. 2024, "On diffusion modeling for anomaly detection") takes each table
in file order, draws small tables up to 1,000 rows with replacement *before* it splits (so that
copies of a row stand on both sides) and trains on the first half of the normal rows.  Those
choices are kept here for the sake of comparison only.  The clean protocol drops duplicate rows
and shuffles, so no test row was seen in training and both halves come from one distribution.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

SMALL = 1_000  # below this the paper resamples
LARGE = 50_000  # above this both protocols subsample


@dataclass(frozen=True)
class Split:
    """One training set of normal rows and one labelled test set, standardised on the former."""

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Protocol:
    """A named way to split a table."""

    split: Callable[[np.ndarray, np.ndarray, int], Split]
    seeds: tuple[int, ...]
    depends_on_seed: Callable[[int], bool]  # does the split of a table of n rows use the seed?


def folder() -> Path:
    """The folder with the tables, under the folder that LOWERBOUND_DATA names."""
    root = os.environ.get("LOWERBOUND_DATA")
    if not root:
        raise SystemExit("set LOWERBOUND_DATA to the folder that holds adbench_classical/")
    return Path(root) / "adbench_classical"


def tables() -> dict[str, Path]:
    """Name ("6_cardio") to file, in the order of the benchmark's numbering."""
    files = sorted(folder().glob("*.npz"), key=lambda path: int(path.stem.split("_")[0]))
    return {path.stem: path for path in files}


@lru_cache(maxsize=1)
def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features in float64 and labels (1 = anomaly) of one table, in file order."""
    with np.load(tables()[name], allow_pickle=False) as file:
        return file["X"].astype(np.float64), file["y"].astype(np.int64).ravel()


def published() -> dict[str, dict[str, float]]:
    """The paper's semi-supervised AUROC x 100: table -> method -> value."""
    with (folder() / "published_semi_supervised_auroc.csv").open(newline="") as file:
        rows = {row.pop("dataset"): row for row in csv.DictReader(file)}
    own = {re.sub(r"^\d+_", "", name).lower(): name for name in tables()}
    return {own[key]: {m: float(v) for m, v in row.items()} for key, row in rows.items()}


def _standardise(X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> Split:
    scaler = StandardScaler().fit(X[train])
    return Split(scaler.transform(X[train]), scaler.transform(X[test]), y[test])


def _halve(X: np.ndarray, y: np.ndarray, share: Callable[[int], int]) -> Split:
    normal, anomaly = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    size = share(len(normal))
    return _standardise(X, y, normal[:size], np.concatenate([normal[size:], anomaly]))


def paper(X: np.ndarray, y: np.ndarray, seed: int) -> Split:
    """File order; NumPy's legacy generator, because the paper's code draws from it."""
    n = len(y)
    if n < SMALL:
        rows = np.random.RandomState(seed).choice(np.arange(n), SMALL, replace=True)
        X, y = X[rows], y[rows]
    elif n > LARGE:
        rows = np.random.RandomState(seed).choice(np.arange(n), LARGE, replace=False)
        X, y = X[rows], y[rows]
    return _halve(X, y, lambda normals: round(0.5 * normals))


def clean(X: np.ndarray, y: np.ndarray, seed: int) -> Split:
    """Distinct rows in random order; at most LARGE of them."""
    _, first = np.unique(X, axis=0, return_index=True)
    rows = np.random.default_rng(seed).permutation(np.sort(first))[:LARGE]
    return _halve(X[rows], y[rows], lambda normals: normals // 2)


PROTOCOLS = {
    "paper": Protocol(paper, (0, 1, 2), lambda n: not SMALL <= n <= LARGE),
    "clean": Protocol(clean, (0, 1, 2), lambda n: True),
}
