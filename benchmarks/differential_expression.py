"""Genes that differ between two groups of cells: found, and found wrongly, beside classical tests.

    LOWERBOUND_DATA=folder python benchmarks/differential_expression.py

Blood cells (pbmc3k, its genes of the most counts) are put into two groups at random. In each
group a part of the counts of some genes is removed by binomial thinning, so that it is known which
genes differ, and by how much; in the sets "null" none does. A model of counts is fitted to all
cells, and `differential_expression` and tests of the log-normalised counts (Welch's t-test and
Wilcoxon's rank sum test, the two that scanpy offers, here by scipy) list the genes at a false
discovery rate of 5 %: by posterior error probabilities here, by Benjamini & Hochberg there. Writes
benchmarks/results/differential_expression.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse, stats

import lowerbound
import results_file
from pbmc3k import cells

GENES, CHANGED, RATE = 1000, 100, 0.05
KEPT = {"null": 1.0, "to a half": 0.5, "to a quarter": 0.25}  # share of the counts that stay


def thinned(whole: anndata.AnnData, kept: float, seed: int) -> tuple[anndata.AnnData, np.ndarray]:
    """Return cells in two random groups, and which genes differ between them."""
    rng = np.random.default_rng(seed)
    most = np.sort(np.argsort(-np.asarray(whole.X.sum(0)).ravel())[:GENES])
    counts = whole.X[:, most].toarray().astype(np.int64)
    group = rng.integers(0, 2, len(counts))
    chosen = rng.choice(GENES, 2 * CHANGED, replace=False)
    for side, genes in enumerate(np.split(chosen, 2)):
        place = np.ix_(group == side, genes)
        counts[place] = rng.binomial(counts[place], kept)
    changed = np.zeros(GENES, bool)
    changed[chosen] = kept < 1
    made = anndata.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame({"group": np.array(["a", "b"])[group]}, index=whole.obs_names),
        var=pd.DataFrame(index=whole.var_names[most]),
    )
    return made, changed


def adjusted(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for the false discovery rate (Benjamini & Hochberg, 1995)."""
    return stats.false_discovery_control(np.nan_to_num(p, nan=1.0))


def told(rates: np.ndarray, score: np.ndarray, changed: np.ndarray) -> dict[str, Any]:
    """Return how many genes a method lists, rightly and wrongly."""
    found = rates <= RATE
    result = {"listed": int(found.sum()), "wrong": int((found & ~changed).sum())}
    if changed.any():
        result["power"] = float(found[changed].mean())
        result["false_share"] = float((found & ~changed).sum() / max(1, found.sum()))
        rank = stats.rankdata(score)
        sizes = changed.sum(), (~changed).sum()
        best = rank[changed].sum() - sizes[0] * (sizes[0] + 1) / 2
        result["auc"] = float(best / (sizes[0] * sizes[1]))
    return result


def measured(whole: anndata.AnnData, kept: float, seed: int, preset: str) -> dict[str, Any]:
    """Return what each method finds."""
    made, changed = thinned(whole, kept, seed)
    began = time.perf_counter()
    model = lowerbound.fit(made, "counts", preset=preset, latent=20, seed=seed)
    fitted = time.perf_counter() - began
    began = time.perf_counter()
    table = model.differential_expression(made, "group", "a", "b", seed=seed).to_pandas()
    seconds = time.perf_counter() - began
    table = table.set_index("gene").loc[list(made.var_names)]
    ours = told(table["false_discovery_rate"].to_numpy(), table["probability"].to_numpy(), changed)
    counts = made.X.toarray()
    logs = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    first = (made.obs["group"] == "a").to_numpy()
    welch = stats.ttest_ind(logs[first], logs[~first], equal_var=False).pvalue
    wilcoxon = stats.mannwhitneyu(logs[first], logs[~first]).pvalue
    return {
        "lowerbound": {**ours, "fit_seconds": fitted, "seconds": seconds},
        "t-test": told(adjusted(welch), -np.nan_to_num(welch, nan=1.0), changed),
        "wilcoxon": told(adjusted(wilcoxon), -np.nan_to_num(wilcoxon, nan=1.0), changed),
    }


def main() -> None:
    """Measure all sets and seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="fast")
    options = parser.parse_args()
    setting = {"genes": GENES, "changed": 2 * CHANGED, "rate": RATE, "preset": options.preset}
    results = results_file.earlier("differential_expression", setting)
    whole = cells()
    for seed in range(options.seeds):
        for name, kept in KEPT.items():
            key = f"{name} {seed}"
            if key not in results:
                results[key] = measured(whole, kept, seed, options.preset)
                results_file.write("differential_expression", setting=setting, results=results)
            print(key, results[key], flush=True)


if __name__ == "__main__":
    main()
