"""Tables of docs/reproductions.md, from the JSON files of `python -m reproductions run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]
EXPERIMENTS = (
    "iwae-mnist",
    "sigma-mnist",
    "vamp-mnist",
    "ladder-mnist",
    "flows-frey",
    "iaf-mnist",
    "static-mnist",
    "nvae-mnist",
    "nvae-lesions",
    "betatc-dsprites",
)


def _number(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if spread is None else f"{value:.2f} +- {spread:.2f}"


def _row(name: str, arm: Document, metric: str) -> str:
    mean, published = arm["mean"], arm["published"]
    paper = published.get(metric)
    stated = "" if paper is None else f"{paper['value']:.2f}{'' if paper['checked'] else ' (*)'}"
    units = published.get("active")
    active = f"{mean['active']:.0f} of {mean['latent']:.0f}"
    cells = [
        name,
        stated,
        _number(mean[metric], arm["sd"].get(metric)),
        active + (f" ({units['value']:.0f})" if units else ""),
        f"{mean['epochs']:,.0f}",
        f"{mean['parameters']:,.0f}",
        str(len(arm["runs"])),
        f"{mean['training_seconds'] / 60:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def experiment_table(document: Document) -> str:
    """Return one experiment as Markdown: a table of our and the paper's values, the verdict."""
    metric = document["metric"]
    head = ["arm", f"paper, {metric}", f"ours, {metric}", "active (paper)", "epochs"]
    head += ["parameters", "seeds", "minutes"]
    arms = document["arms"]
    any_arm = next(iter(arms.values()))["mean"]
    lines = [
        f"| {' | '.join(head)} |",
        f"| :--- |{' ---: |' * (len(head) - 1)}",
        *(_row(name, arm, metric) for name, arm in arms.items()),
    ]
    checks = [
        f"- {'holds' if check['holds'] else '**missed**'}: {check['claim']}"
        for check in document["checks"]
    ]
    missing = document["missing"]
    parts = [
        f"{document['title']}. {document['paper']}.",
        "\n".join(lines),
        f"{any_arm['test_rows']:,.0f} test rows, {any_arm['samples']:,.0f} importance samples. "
        f"{document['notes']}".strip(),
        "\n".join(checks),
        f"Not run yet: {', '.join(missing)}." if missing else "",
        f"Made by `{document['command']}`.",
    ]
    return "\n\n".join(part for part in parts if part)
