"""Is the likelihood that `evaluate` and `score` report that of the model, on rows of few values?

Twenty fits of each of six kinds of tables. The mean of -log p(row) over fresh rows, by `evaluate`
and by `score`, is compared with the exact one of the model: 400,000 draws from the prior for each
distinct row, in which no posterior takes part. A column of Gaussian numbers is compared with the
entropy of its source instead. An interrupted run continues.

Run: python benchmarks/few_values.py [--only KIND ...] [--fits 20]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

import results_file
from lowerbound import Model, Plan, noise
from lowerbound.nn.trace import Trace, from_prior
from lowerbound.training.fit import learn

ROWS, FRESH = 6000, 20_000
PRIOR_DRAWS, ROUNDS = 50_000, 8
FITS = 20

Columns = dict[str, NDArray[Any]]


def bit(rng: np.random.Generator, n: int) -> Columns:
    """Return one rare yes."""
    return {"x": rng.random(n) < 0.05}


def levels(rng: np.random.Generator, n: int) -> Columns:
    """Return one category of five levels."""
    return {"level": rng.choice(list("abcde"), n, p=[0.5, 0.3, 0.1, 0.07, 0.03])}


def counts(rng: np.random.Generator, n: int) -> Columns:
    """Return two low counts with a common factor."""
    rate = rng.gamma(2.0, 0.5, n)
    return {"visits": rng.poisson(rate), "calls": rng.poisson(2 * rate)}


def levels_and_bits(rng: np.random.Generator, n: int) -> Columns:
    """Return a category and two bits that depend on it."""
    level = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    return {
        "level": np.array(list("abcd"))[level],
        "one": rng.random(n) < 0.1 + 0.2 * level,
        "other": rng.random(n) < 0.3,
    }


def levels_and_counts(rng: np.random.Generator, n: int) -> Columns:
    """Return a category and a count that depends on it."""
    level = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    return {"level": np.array(list("abc"))[level], "visits": rng.poisson(0.5 + level)}


def gaussian(rng: np.random.Generator, n: int) -> Columns:
    """Return one column of standard normal numbers."""
    return {"x": rng.normal(size=n)}


KINDS: Mapping[str, Callable[[np.random.Generator, int], Columns]] = {
    "bit": bit,
    "levels": levels,
    "counts": counts,
    "levels and bits": levels_and_bits,
    "levels and counts": levels_and_counts,
    "gaussian": gaussian,
}
COUNTS = {"visits": "count", "calls": "count"}
ENTROPY = 0.5 * (1 + np.log(2 * np.pi))  # of a standard normal, in nats


def exact(model: Model, table: pa.Table) -> tuple[float, float]:
    """Return the mean of -log p(row) by draws from the prior, and the error of that mean."""
    coded = model.encode(table)[1]
    x = coded.rows.take(torch.arange(len(coded.rows))).x
    distinct, place, times = torch.unique(x, dim=0, return_inverse=True, return_counts=True)
    rounds = []
    with torch.no_grad():
        for number in range(ROUNDS):
            source = noise.generator("exact", number)
            px = model.model(None, Trace(from_prior(source), PRIOR_DRAWS))
            each = [px.log_prob(row.expand(PRIOR_DRAWS, -1)).double() for row in distinct]
            rounds.append(torch.stack([log_p.logsumexp(0) for log_p in each]))
    log_p = torch.stack(rounds) - np.log(PRIOR_DRAWS)
    share = times.double() / len(x)
    means = -(log_p * share).sum(1)  # of every round: their spread is the error
    mean = -float(((log_p.logsumexp(0) - np.log(ROUNDS)) * share).sum())
    mean -= float(np.mean(coded.log_jacobian))
    return mean, float(means.std() / ROUNDS**0.5)


def measure(kind: str, seed: int) -> dict[str, float]:
    """Fit one model, and compare what is reported for fresh rows with what is right.

    Returns:
        `truth` and its error, `evaluate` with its stated standard error, `score`, in nats per
        row; `errors_off`, the difference of `evaluate` to the truth in stated standard errors.
    """
    rng = np.random.default_rng([seed, *kind.encode()])
    began = time.perf_counter()
    made, fresh = KINDS[kind](rng, ROWS), pa.table(KINDS[kind](rng, FRESH))
    types = {name: what for name, what in COUNTS.items() if name in made}
    model = learn(pa.table(made), Plan(preset="fast", seed=seed, types=types))
    report = model.evaluate(fresh)
    # Scores are of coded rows, and the others of raw ones.
    scores = model.anomaly_score(fresh) - model.encode(fresh)[1].log_jacobian
    truth, error = (ENTROPY, 0.0) if kind == "gaussian" else exact(model, fresh)
    return {
        "truth": float(truth),
        "error_of_truth": error,
        "evaluate": report["iw_nll"],
        "standard_error": report["iw_nll_standard_error"],
        "errors_off": float((report["iw_nll"] - truth) / report["iw_nll_standard_error"]),
        "score": float(np.mean(scores)),
        "seconds": round(time.perf_counter() - began, 2),
    }


def summary(fits: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how far the reports of the fits of one kind are off."""
    off = np.array([each["evaluate"] - each["truth"] for each in fits])
    scores = np.array([each["score"] - each["truth"] for each in fits])
    return {
        "fits": len(fits),
        "within_3_errors": sum(bool(abs(each["errors_off"]) <= 3) for each in fits),
        "mean_off": float(off.mean()),
        "largest_off": float(abs(off).max()),
        "largest_off_of_score": float(abs(scores).max()),
    }


def main() -> None:
    """Measure all kinds, and write the results after every fit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--fits", type=int, default=FITS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"rows": ROWS, "fresh": FRESH, "prior_draws": PRIOR_DRAWS * ROUNDS, "preset": "fast"}
    results = results_file.earlier("few_values", setting)
    for kind in args.only:
        fits = results.get(kind, {}).get("fits", [])
        for seed in range(len(fits), args.fits):
            fits.append(measure(kind, seed))
            results[kind] = {"summary": summary(fits), "fits": fits}
            results_file.write("few_values", setting=setting, results=results)
        print(kind, results[kind]["summary"], flush=True)


if __name__ == "__main__":
    main()
