"""Are as many fresh rows flagged as stated, and are their p-values uniform?

Eight kinds of tables, 60 fits each, with 120 to 2,000 rows. Each model scores fresh rows of its
source; the share that it flags is compared with the rate that its alarm states, and p-values with
their levels. An interrupted run continues.

Run: python benchmarks/alarm_rates.py [--only KIND ...] [--fits 60]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy import stats

import results_file
from lowerbound import Plan
from lowerbound.training.fit import learn

RATES = (0.01, 0.05, 0.1)
SIZES = (120, 300, 700, 1500)  # rows of a fit, in turn
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75)  # at which the p-values are compared with their expectation
FRESH = 1000
EPOCHS = 30  # passes of a fit
FITS = 60


def gaussian(n: int, source: np.random.Generator) -> pa.Table:
    """Return correlated Gaussian columns."""
    return _columns(source.normal(size=(n, 5)) @ _mixing(5))


def heavy(n: int, source: np.random.Generator) -> pa.Table:
    """Return columns with the tails of Student's t of 2 degrees of freedom."""
    width = np.sqrt(source.chisquare(2, (n, 1)) / 2)
    return _columns(source.normal(size=(n, 4)) @ _mixing(4) / width)


def mixed(n: int, source: np.random.Generator) -> pa.Table:
    """Return numbers whose mean depends on categories, some of which are rare."""
    place = np.minimum(source.zipf(1.6, n), 30)
    kind = source.integers(0, 3, n)
    x = source.normal(size=n) + 2.0 * kind
    return pa.table(
        {
            "place": [f"p{i}" for i in place],
            "kind": np.array(["low", "mid", "high"])[kind],
            "paid": source.random(n) < 0.2 + 0.3 * kind,
            "x": x,
            "y": 0.7 * x + source.normal(size=n) + 0.1 * place,
        }
    )


def binary(n: int, source: np.random.Generator) -> pa.Table:
    """Return eight yes-or-no columns of two classes of rows."""
    share = np.where(source.random((n, 1)) < 0.4, 0.8, np.linspace(0.05, 0.4, 8))
    return _columns((source.random((n, 8)) < share).astype(np.int64))


def counts(n: int, source: np.random.Generator) -> pa.Table:
    """Return overdispersed counts with a common factor."""
    rate = np.array([0.5, 1.0, 2.0, 4.0]) * source.gamma(1.0, 1.0, (n, 1))
    return _columns(source.poisson(rate))


def ties(n: int, source: np.random.Generator) -> pa.Table:
    """Return rows of which a dozen are distinct."""
    first = source.choice(4, n, p=[0.6, 0.25, 0.1, 0.05])
    second = np.where(source.random(n) < 0.7, first % 3, source.integers(0, 3, n))
    return pa.table(
        {"size": first + 1, "colour": np.array(["red", "green", "blue"])[second]}
    )  # fmt: skip


def skewed(n: int, source: np.random.Generator) -> pa.Table:
    """Return correlated positive amounts."""
    return _columns(np.exp(1.2 * source.normal(size=(n, 4)) @ _mixing(4)).round(4))


def gaps(n: int, source: np.random.Generator) -> pa.Table:
    """Return correlated Gaussian columns in which a fifth of the values is missing."""
    x = source.normal(size=(n, 5)) @ _mixing(5)
    return _columns(np.where(source.random((n, 5)) < 0.2, np.nan, x))


KINDS: Mapping[str, Callable[[int, np.random.Generator], pa.Table]] = {
    "gaussian": gaussian,
    "heavy": heavy,
    "mixed": mixed,
    "binary": binary,
    "counts": counts,
    "ties": ties,
    "skewed": skewed,
    "gaps": gaps,
}


def _mixing(size: int) -> NDArray[np.float64]:
    """Return a matrix that correlates independent columns."""
    return np.tril(0.6 ** np.abs(np.subtract.outer(np.arange(size), np.arange(size)))).T


def _columns(x: NDArray[Any]) -> pa.Table:
    return pa.table({f"x{i}": column for i, column in enumerate(x.T)})


def measure(kind: str, seed: int, rows: int, *, epochs: int = EPOCHS) -> dict[str, Any]:
    """Fit one model and score fresh rows: stated and flagged shares, and shares of p-values.

    Args:
        kind: a name in `KINDS`.
        seed: seed of the rows and of the fit.
        rows: number of rows of the fit.
        epochs: passes over the rows.
    """
    source = np.random.default_rng([seed, *kind.encode()])
    began = time.perf_counter()
    plan = Plan(preset="fast", max_epochs=epochs, seed=seed)
    model = learn(KINDS[kind](rows, source), plan)
    fresh = KINDS[kind](FRESH, source)
    scores = model.anomaly_score(fresh)
    p = model.calibration.p_values(scores)
    held = len(model.calibration.scores)
    alarms = {rate: model.calibration.alarm(rate) for rate in RATES}
    # Spread ties at random: then p-values of exchangeable rows are uniform, whatever the ties.
    above = np.array([(model.calibration.scores > s).sum() for s in scores])
    spread = (above + source.random(FRESH) * (p * (held + 1) - above)) / (held + 1)
    return {
        "seed": seed,
        "rows": rows,
        "calibration": held,
        "stated": {str(rate): alarm.rate for rate, alarm in alarms.items()},
        "flagged": {
            str(rate): float((scores > alarm.threshold).mean()) for rate, alarm in alarms.items()
        },
        "at_most": {str(level): float((p <= level).mean()) for level in LEVELS},
        "most": {str(level): math.floor(level * (held + 1)) / (held + 1) for level in LEVELS},
        "one": float(spread[0]),
        "mean_score": float(scores.mean()),
        "seconds": round(time.perf_counter() - began, 2),
    }


def summary(fits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean shares of the fits of one kind, and how many standard errors they are off.

    `rates` compares flagged with stated shares; `levels` compares the share of p-values up to a
    level with its largest permitted expectation. `uniform` is the p-value of a Kolmogorov-Smirnov
    test of one fresh row of each fit, whose ties are spread at random.
    """

    def against(ours: str, theirs: str) -> dict[str, Any]:
        told = {}
        for key in fits[0][ours]:
            a, b = (np.array([fit[name][key] for fit in fits]) for name in (ours, theirs))
            error = float((a - b).std(ddof=1)) / math.sqrt(len(fits))
            off = float((a - b).mean())
            told[key] = {
                ours: float(a.mean()),
                theirs: float(b.mean()),
                "standard_error": error,
                "errors_off": off / error if error else 0.0,
            }
        return told

    return {
        "fits": len(fits),
        "rates": against("flagged", "stated"),
        "levels": against("at_most", "most"),
        "uniform": float(stats.kstest([fit["one"] for fit in fits], "uniform").pvalue),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--fits", type=int, default=FITS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"sizes": list(SIZES), "fresh": FRESH, "preset": "fast", "epochs": EPOCHS}
    results = results_file.earlier("alarm_rates", setting)
    for seed in range(options.fits):
        for kind in options.only:
            fits = results.setdefault(kind, {"runs": []})["runs"]
            if seed in {fit["seed"] for fit in fits}:
                continue
            fits.append(measure(kind, seed, SIZES[seed % len(SIZES)]))
            results[kind] = {"summary": summary(fits) if len(fits) > 1 else {}, "runs": fits}
            results_file.write("alarm_rates", setting=setting, results=results)
        print(seed + 1, "fits of each kind", flush=True)


if __name__ == "__main__":
    main()
