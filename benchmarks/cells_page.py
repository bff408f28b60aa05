"""The measurements of docs/cells.md, from the JSON that `pbmc3k.py` wrote."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]

NAMES = {"nb": "negative binomial", "zinb": "zero-inflated"}


def _median(document: Document, side: str, likelihood: str, what: str) -> float:
    runs = document["results"].values()
    asked = (side, likelihood)
    return statistics.median(r[what] for r in runs if (r["side"], r["likelihood"]) == asked)


def beside_scvi(document: Document) -> str:
    """Return both sides' held-out bound and time, and the bars."""
    setting, seeds = document["setting"], {r["seed"] for r in document["results"].values()}
    lines = [
        "| likelihood | ELBO, **lowerbound** | SCVI | better by | training, s | SCVI | as fast |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in document["summary"].items():
        cells = [
            NAMES[name],
            f"{found['elbo']:,.1f}",
            f"{found['scvi_elbo']:,.1f}",
            f"{found['better_by_share']:.2%}",
            f"{found['seconds']:.0f}",
            f"{found['scvi_seconds']:.0f}",
            f"{found['times_as_fast']:.2f} times",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    nlls = ", ".join(
        f"{NAMES[name]} {_median(document, 'ours', name, 'iw_nll'):,.1f}"
        for name in document["summary"]
    )
    bars = [
        f"- {'holds' if met else '**missed**'}: {bar}" for bar, met in document["bars"].items()
    ]
    return "\n".join(
        [
            f"2,700 blood cells (10x Genomics, pbmc3k), the {setting['genes']:,} genes found in "
            f"at least three cells; one layer of {setting['hidden']}, {setting['latent']} "
            "latents, "
            f"{setting['epochs']} epochs, one thread, the two sides taking turns; medians over "
            f"{len(seeds)} "
            f"seed{'s' * (len(seeds) > 1)}. "
            f"The ELBO of {setting['test']} held-out cells is in nats per cell given its total. "
            "SCVI is scvi-tools' own model with the same layers and steps:",
            "",
            *lines,
            "",
            f"-log p of the held-out cells by importance sampling, nats: {nlls}; lower is better.",
            "",
            *bars,
        ]
    )


PARTS = (("", "pbmc3k", beside_scvi),)
