"""Generated pictures in docs/pictures.md, from benchmarks/results/generation.json."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

Document = Mapping[str, Any]
MEASURES = {
    "frechet": "distance",
    "frechet_of_draws": "distance of draws",
    "nearest_ratio": "nearest, ratio",
    "copies": "copies, %",
    "sharpness": "sharpness",
    "sample_seconds": "drawing, s",
}

ADVERSARIAL = (
    "*adversarial* is *sigma* with `--set adversarial=0.3`: a discriminator acts on the pixels in "
    "addition to the likelihood, so its held-out ELBO is a lower bound like the others but was "
    "not the objective. It shows the cost of sharpness, and no bar applies to it."
)


def _cell(measure: str, value: float) -> str:
    if measure == "copies":
        return f"{100 * value:.2f}"
    return f"{value:.0f}" if measure == "sample_seconds" else f"{value:.2f}"


def set_table(found: Document) -> str:
    """Return the recipes on one data set, and the training pictures as the floor."""
    lines = [
        f"| recipe | {' | '.join(MEASURES.values())} |",
        f"| :--- |{' ---: |' * len(MEASURES)}",
    ]
    floor = found["reference"]["frechet_of_training_pictures"]
    lines.append(f"| training pictures | {floor:.2f} |{' |' * (len(MEASURES) - 1)}")
    for arm, seeds in found["arms"].items():
        means = {m: fmean(run[m] for run in seeds.values()) for m in MEASURES}
        lines.append(f"| {arm} | {' | '.join(_cell(m, v) for m, v in means.items())} |")
    return "\n".join(lines)


def cost(name: str, found: Document) -> str:
    """Compare the ELBO with and without the adversarial term."""
    elbo = {
        arm: fmean(run["valid_elbo"] for run in found["arms"][arm].values())
        for arm in ("adversarial", "sigma")
        if arm in found["arms"]
    }
    if len(elbo) < 2:
        return ""
    return (
        f" Held out, {name}: {elbo['adversarial']:.1f} nats per picture with it, "
        f"{elbo['sigma']:.1f} without."
    )


def generation(document: Document) -> str:
    """Return a table for each data set, a description of the columns, and the bars."""
    setting, environment = document["setting"], document["environment"]
    seeds = ", ".join(map(str, document["seeds"]))
    parts = [
        f"Each fit has {setting['minutes']:g} minutes of {environment['threads']} thread"
        f"{'s' * (environment['threads'] > 1)}; seeds {seeds}. The distance is the Frechet "
        "distance to the test pictures between features of a small classifier that the benchmark "
        "trains: compare it within this table alone, not with published FIDs. It is of the means "
        "of p(x | z) at z from the prior; *draws* have the likelihood's noise too. *nearest* is "
        "the median distance to the nearest training picture over that of test pictures (1: as "
        "new as those; 0: copies), and *sharpness* the variance of the Laplacian over theirs.",
    ]
    if any("adversarial" in found["arms"] for found in document["results"].values()):
        costs = [cost(name, found) for name, found in document["results"].items()]
        parts.append(ADVERSARIAL + "".join(costs))
    for name, found in document["results"].items():
        right = found["reference"]["accuracy"]
        parts.append(f"{name} (the classifier is right about {right:.1%} of the test pictures):")
        parts.append(set_table(found))
    parts.append(
        "\n".join(
            f"- {'holds' if held else '**missed**'}: {claim}"
            for claim, held in document["bars"].items()
        )
    )
    parts.append(
        f"Numbers: `benchmarks/results/generation.json` (lowerbound {environment['lowerbound']}, "
        f"torch {environment['torch']})."
    )
    return "\n\n".join(part for part in parts if part)
