"""Rows with missing cells: imputations, scores and contributions against exact values.

    python benchmarks/rows_with_gaps.py
    python benchmarks/rows_with_gaps.py --recipes table --presets fast --gaps "50 %"

Models are fitted to rows of two dependent columns of which no cell, one cell, 10 % or 50 % are
missing, and used on rows of which one cell is missing. The source is known, so the coverage of
90 % intervals and the slope of the imputed mean have true values. Intervals of whole numbers, and
of few draws, cover other shares than 90 % even if the draws are exact: the coverage of as many
draws from the source's p(y | x) is given too. Scores and contributions are compared with -log p(x)
of the model by 200,000 draws from its prior, in which no posterior takes part. An interrupted run
continues.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa
import torch

import lowerbound
import results_file
from lowerbound import noise
from lowerbound.coding.rows import Dense
from lowerbound.nn.trace import Trace, from_prior
from lowerbound.tasks import draws, metrics

ROWS, FRESH, COMPARED = 4000, 1000, 100  # to train on, to impute, to score
PRIOR_DRAWS, DRAWS = 200_000, (60, 240)
GAPS = {"none": 0.0, "one cell": None, "10 %": 0.1, "50 %": 0.5}


def normal(rng, n):
    """y = 0.8 x + 0.6 e."""
    x = rng.normal(size=n)
    return x, 0.8 * x + 0.6 * rng.normal(size=n)


def counts(rng, n):
    """Counts with one common rate: y given x has mean (x + 2) / 1.1 and is a negative binomial."""
    rate = rng.gamma(2.0, 10.0, n)
    return rng.poisson(rate).astype(float), rng.poisson(rate).astype(float)


def normal_given(rng, x, number):
    """Return draws from p(y | x) of `normal`, (number, n)."""
    return 0.8 * x + 0.6 * rng.normal(size=(number, len(x)))


def counts_given(rng, x, number):
    """Return draws from p(y | x) of `counts`, (number, n): the rate given x is a gamma too."""
    return rng.poisson(rng.gamma(2.0 + x, 1 / 1.1, (number, len(x))))


def coverage(drawn, y):
    """Return the share of y between the 5 % and 95 % quantiles of draws (number, n)."""
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    return float(np.mean((y >= low) & (y <= high)))


SOURCES = {"table": normal, "sigma": normal, "table of counts": counts}
GIVEN = {"table": normal_given, "sigma": normal_given, "table of counts": counts_given}
SLOPES = {"table": 0.8, "sigma": 0.8, "table of counts": 20.0 * 10 / (20.0 * 10 + 20.0)}


def table(x, y):
    """Return the two columns, NaN as missing."""
    return pa.table({n: pa.array(v, from_pandas=True) for n, v in (("x", x), ("y", y))})


def with_gaps(rng, columns, share):
    """Return the columns with a share of the cells missing, or one cell of y for None."""
    if share is None:
        x, y = columns
        return x, np.where(np.arange(len(y)) == 7, np.nan, y)
    return [np.where(rng.random(len(c)) < share, np.nan, c) for c in columns]


def exact(model, x):
    """Return log p(x) of rows by draws from the prior."""
    with torch.no_grad():
        px = model(None, Trace(from_prior(noise.generator("exact")), PRIOR_DRAWS))
        each = [px.log_prob(row.expand(PRIOR_DRAWS, -1)).double().logsumexp(0) for row in x]
    return torch.stack(each).numpy() - np.log(PRIOR_DRAWS)


def measure(recipe, preset, share, seed):
    """Fit one model, and return what it makes of rows with a missing cell."""
    source, rng = SOURCES[recipe], np.random.default_rng(seed)
    learned = table(*with_gaps(rng, source(rng, ROWS), share))
    began = time.perf_counter()
    vae = lowerbound.VAE(
        recipe=recipe.split()[0], preset=preset, device="cpu", random_state=seed
    ).fit(learned)
    found = {"seconds": time.perf_counter() - began}
    trained = vae.trained_
    x, y = source(rng, FRESH)
    gone = table(x, np.full(FRESH, np.nan))
    for number in DRAWS:
        drawn = np.reshape(
            np.asarray(trained.impute(gone, draws=number)["y"], float), (number, -1)
        )
        found[f"coverage of {number} draws"] = coverage(drawn, y)
        true = GIVEN[recipe](np.random.default_rng([seed, number]), x, number)
        found[f"coverage of {number} exact draws"] = coverage(true, y)
    mean = np.asarray(trained.impute(gone)["y"], float)
    if recipe == "table of counts":  # the filled counts are whole
        mean = drawn.mean(0)
    found["slope error"] = float(np.polyfit(x, mean, 1)[0] / SLOPES[recipe] - 1)
    rows = trained.encode(table(*source(rng, COMPARED)))[1].rows.take(torch.arange(COMPARED)).x
    groups = [group.parts for group in trained.coding.groups]
    whole, nats = exact(trained.model, rows), draws.explain(trained.model, rows, groups).nats
    errors, contributions = [], []
    for number, columns in enumerate(groups):
        less = rows.clone()
        less[:, list(columns)] = torch.nan
        truth = exact(trained.model, less)
        errors.append(
            metrics.log_likelihood(trained.model, Dense(less), 32, groups=groups).log_p.numpy()
            - truth
        )
        contributions.append((nats[:, number].numpy(), truth - whole))
    errors = np.concatenate(errors)
    found["score error, mean"] = float(-errors.mean())
    found["score error, largest"] = float(abs(errors).max())
    found["contribution error, mean"] = float(np.mean([abs(a - b) for a, b in contributions]))
    found["contribution correlation"] = float(min(np.corrcoef(c)[0, 1] for c in contributions))
    return found


def main() -> None:
    """Measure every combination, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--presets", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--gaps", nargs="+", choices=GAPS, default=list(GAPS))
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"training": ROWS, "imputed": FRESH, "scored": COMPARED, "seeds": args.seeds}
    results = results_file.earlier("rows_with_gaps", setting)
    for recipe in args.recipes:
        for preset in args.presets:
            for gaps in args.gaps:
                name = f"{recipe}, {preset}, gaps: {gaps}"
                if name in results:
                    continue
                each = [measure(recipe, preset, GAPS[gaps], seed) for seed in range(args.seeds)]
                found = {key: float(np.mean([e[key] for e in each])) for key in each[0]}
                results[name] = {key: round(value, 3) for key, value in found.items()}
                print(name, results[name], flush=True)
                results_file.write("rows_with_gaps", setting=setting, results=results)


if __name__ == "__main__":
    main()
