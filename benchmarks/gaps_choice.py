"""Which bound suits training rows of which a share of the values is missing?

Models are fitted to rows of known sources with a share of the values missing, by the ELBO and by
the importance-weighted bound. The criterion is the mean -log p of complete fresh rows above that
of the source, nats: what the model has not learned. An interrupted run continues.

Run: OMP_NUM_THREADS=1 python benchmarks/gaps_choice.py [--only SOURCE ...] [--seeds 0]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import special, stats

import results_file
from lowerbound import Plan
from lowerbound.training.fit import learn

ROWS, FRESH = 4000, 2000
SHARES = (0.1, 0.3, 0.5)
SAMPLES = {"ELBO": 0, "iwae 4": 4}
SHAPE, RATE = 2.0, 0.1  # of the common gamma rate of counts
COMMON = 0.8  # correlation of numbers
KEPT = np.full((4, 4), 0.1) + 0.6 * np.eye(4)  # p(category | common category)

Cells = NDArray[np.float64]


def counts(rng: np.random.Generator, n: int, columns: int) -> Cells:
    """Return counts with one common rate per row."""
    rate = rng.gamma(SHAPE, 1 / RATE, (n, 1))
    return rng.poisson(rate, (n, columns)).astype(float)


def log_p_of_counts(x: Cells) -> Cells:
    """Return log p of rows of `counts`, nats."""
    total = x.sum(1)
    constant = SHAPE * np.log(RATE) - special.gammaln(SHAPE) - special.gammaln(x + 1).sum(1)
    rest = special.gammaln(SHAPE + total) - (SHAPE + total) * np.log(RATE + x.shape[1])
    return constant + rest


def numbers(rng: np.random.Generator, n: int, columns: int) -> Cells:
    """Return standard normals of which any two have the correlation `COMMON`."""
    own = rng.normal(size=(n, columns))
    return np.sqrt(COMMON) * rng.normal(size=(n, 1)) + np.sqrt(1 - COMMON) * own


def log_p_of_numbers(x: Cells) -> Cells:
    """Return log p of rows of `numbers`, nats."""
    columns = x.shape[1]
    covariance = COMMON * np.ones((columns, columns)) + (1 - COMMON) * np.eye(columns)
    return stats.multivariate_normal(np.zeros(columns), covariance).logpdf(x)


def categories(rng: np.random.Generator, n: int, columns: int) -> Cells:
    """Return codes that equal one common code of the row, or another one."""
    common = rng.integers(0, 4, n)
    below = KEPT[common].cumsum(1)[:, None, :-1]
    return (rng.random((n, columns, 1)) > below).sum(2).astype(float)


def log_p_of_categories(x: Cells) -> Cells:
    """Return log p of rows of `categories`, nats."""
    given = np.log(KEPT)[:, x.astype(int)].sum(2)
    return special.logsumexp(given, axis=0) - np.log(4)


Source = tuple[Callable[[np.random.Generator, int, int], Cells], Callable[[Cells], Cells], int]
SOURCES: dict[str, Source] = {
    "2 counts": (counts, log_p_of_counts, 2),
    "2 numbers": (numbers, log_p_of_numbers, 2),
    "2 categories": (categories, log_p_of_categories, 2),
    "6 counts": (counts, log_p_of_counts, 6),
}


def table(x: Cells, source: str) -> pa.Table:
    """Return the rows as a table, with NaN as missing and codes as letters."""
    columns: dict[str, pa.Array] = {}
    for i, values in enumerate(x.T):
        if source.endswith("categories"):
            letters = [None if np.isnan(v) else "abcd"[int(v)] for v in values]
            columns[f"x{i}"] = pa.array(letters)
        else:
            columns[f"x{i}"] = pa.array(values, from_pandas=True)
    return pa.table(columns)


def measure(source: str, share: float, samples: int, preset: str, seed: int) -> dict[str, float]:
    """Fit one model, and return what it has not learned of complete rows, nats."""
    draw, log_p, columns = SOURCES[source]
    rng = np.random.default_rng(seed)
    learned = draw(rng, ROWS, columns)
    learned[rng.random(learned.shape) < share] = np.nan
    fresh = draw(rng, FRESH, columns)
    plan = Plan(preset=preset, seed=seed, settings={"iwae": samples}, device="cpu")
    began = time.perf_counter()
    model = learn(table(learned, source), plan)
    seconds = time.perf_counter() - began
    nats = model.evaluate(table(fresh, source))["iw_nll"] + log_p(fresh).mean()
    return {"excess": round(float(nats), 4), "seconds": round(seconds, 1)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every combination, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="fast")
    options = parser.parse_args(argv)
    setting = {"rows": ROWS, "fresh": FRESH, "preset": options.preset}
    results = results_file.earlier("gaps_choice", setting)
    for seed, source in itertools.product(options.seeds, options.only):
        for share, (bound, samples) in itertools.product(SHARES, SAMPLES.items()):
            runs = results.setdefault(source, {}).setdefault(f"{share:.0%}", {})
            found = runs.setdefault(bound, {})
            if str(seed) not in found:
                found[str(seed)] = measure(source, share, samples, options.preset, seed)
                print(seed, source, share, bound, found[str(seed)], flush=True)
            results_file.write("gaps_choice", setting=setting, results=results)


if __name__ == "__main__":
    main()
