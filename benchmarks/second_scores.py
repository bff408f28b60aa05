"""Would a second score find more anomalies? Distances to neighbours and the chain, added to ours.

Scores of the default model on the tables of benchmarks/anomaly_auroc.py, beside the distance to
the fifth neighbour in coded rows and in latents and -log p by the chain of columns. Each score is
turned into -log of the share of training rows above it, with an exponential tail beyond the
highest twentieth, and these are added. AUROC x 100, means over tables.

Run: LOWERBOUND_DATA=... python benchmarks/second_scores.py [--seed 0]
Scores are kept in benchmarks/.cache/second_scores, and a second run starts from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import results_file
from anomaly_protocols import PROTOCOLS, load, tables
from lowerbound import Plan
from lowerbound.nn.model import evaluating
from lowerbound.tasks.draws import chain_of
from lowerbound.training.fit import learn

CACHE = Path(__file__).parent / ".cache" / "second_scores"
MOST = 10_000  # reference rows of larger tables
SUMS = {
    "ours": ["vae"],
    "neighbours": ["rows"],
    "neighbours of latents": ["latents"],
    "chain": ["chain"],
    "ours + neighbours": ["vae", "rows"],
    "ours + neighbours + those of latents": ["vae", "rows", "latents"],
    "ours + chain": ["vae", "chain"],
}


def collect(protocol: str, name: str, seed: int) -> dict[str, np.ndarray]:
    """Return coded rows, latents and scores of the training and the test rows of a table."""
    path = CACHE / f"{protocol}_{name}_{seed}.npz"
    if not path.exists():
        split = PROTOCOLS[protocol].split(*load(name), seed)
        model = learn(split.train, Plan(seed=seed))
        found = {"labels": split.labels}
        for part, rows in (("train", split.train), ("test", split.test)):
            coded = model.encode(rows)[1]
            x = coded.rows.take(torch.arange(len(rows))).x
            found[f"x_{part}"] = x.nan_to_num().numpy()
            found[f"vae_{part}"] = model.score_coded(coded)
            found[f"z_{part}"] = model.embed_coded(coded)
            if model.model.rows is not None:
                with evaluating(model.model.rows), torch.no_grad():
                    chain = chain_of(model.model.rows)
                    nats = [-chain.log_prob(some) for some in x.split(2000)]
                found[f"chain_{part}"] = torch.cat(nats).numpy()
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **found)
    return dict(np.load(path))


def distances(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log distance to the fifth neighbour of training rows (left out) and of others."""
    tree = NearestNeighbors().fit(train)
    own = tree.kneighbors(train, 6)[0][:, -1]
    return np.log(own + 1e-6), np.log(tree.kneighbors(test, 5)[0][:, -1] + 1e-6)


def tail(reference: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return -log of the share of reference scores above each score."""
    ordered, n = np.sort(reference), len(reference)
    nats = np.log((n - np.searchsorted(ordered, scores) + 1) / (n + 1))
    highest = max(5, n // 20)
    start = ordered[-highest]
    mean = np.mean(ordered[-highest:] - start) + 1e-9
    beyond = np.log(highest / (n + 1)) - (scores - start) / mean
    return -np.where(scores > start, beyond, nats)


def measured(protocol: str, name: str, seed: int) -> dict[str, float]:
    """Return the AUROC x 100 of every sum of scores."""
    found = collect(protocol, name, seed)
    n = len(found["x_train"])
    some = np.random.default_rng(0).permutation(n)[:MOST] if n > 2 * MOST else np.arange(n)
    used = found["z_train"][some].std(0) > 0.1
    used = used if used.any() else ~used
    pairs = {
        "vae": (found["vae_train"][some], found["vae_test"]),
        "rows": distances(found["x_train"][some], found["x_test"]),
        "latents": distances(found["z_train"][some][:, used], found["z_test"][:, used]),
    }
    if "chain_test" in found:
        pairs["chain"] = found["chain_train"][some], found["chain_test"]
    tails = {each: tail(*pair) for each, pair in pairs.items()}
    return {
        name: 100 * float(roc_auc_score(found["labels"], sum(tails[part] for part in parts)))
        for name, parts in SUMS.items()
        if tails.keys() >= set(parts)
    }


def main() -> None:
    """Measure all tables of both protocols, and write the means and the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = {}
    for protocol in PROTOCOLS:
        each = {name: measured(protocol, name, options.seed) for name in tables()}
        means = {
            # A table too wide for a chain counts with our own score.
            name: float(np.mean([found.get(name, found["ours"]) for found in each.values()]))
            for name in SUMS
        }
        results[protocol] = {"mean": means, "tables": each}
        print(protocol, {name: round(mean, 2) for name, mean in means.items()}, flush=True)
    note = "the chains are those of before they began at a Gaussian, all of them trained and used"
    print(results_file.write("second_scores", note=note, results=results))


if __name__ == "__main__":
    main()
