"""Anomalous pictures in docs/pictures.md, from benchmarks/results/image_anomalies.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

Document = Mapping[str, Any]
BASELINES = ("PCA", "IsolationForest")
SCORES = ("likelihood", "typicality", "levels")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = [":---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def _chosen(label: str) -> bool:
    """Tell whether a column is a score that was chosen beforehand, or a baseline."""
    return label in BASELINES or label.rpartition(": ")[2] in SCORES


def auroc_table(document: Document) -> str:
    """Return the AUROCs of the chosen scores; those above both baselines are bold."""
    found, bars = document["auroc"], document["bars"]
    columns = list(dict.fromkeys(label for row in found.values() for label in row))
    columns = [label for label in columns if _chosen(label)]
    rows = []
    for name, row in found.items():
        cells = [f"{row[label]:.1f}" if label in row else "" for label in columns]
        held = [bars.get(name, {}).get(label, False) for label in columns]
        rows.append([name, *(f"**{c}**" if h else c for c, h in zip(cells, held, strict=True))])
    return _table(["task", *columns], rows)


def further_table(document: Document) -> str:
    """Return the other kinds of anomalies and numbers of levels that were measured."""
    rows = []
    for name, arms in document["results"].items():
        for arm, seeds in arms.items():
            runs = [run["auroc"] for run in seeds.values()]
            for score, kinds in runs[0].items():
                for place, kind in enumerate(kinds):
                    label = score if arm in BASELINES else f"{arm}: {score}"
                    if place or not _chosen(label):
                        mean = fmean(run[score][kind] for run in runs)
                        rows.append([name, kind, label, f"{mean:.1f}"])
    return _table(["task", "anomalies", "score", "AUROC"], rows)


def counted(document: Document) -> str:
    """Count, for each score, the tasks on which it is above both baselines."""
    tasks = [held for name, held in document["bars"].items() if name in document["results"]]
    labels = list(dict.fromkeys(label for held in tasks for label in held))
    wins = [f"{label} {sum(held.get(label, False) for held in tasks)}" for label in labels]
    return f"Above both baselines, of {len(tasks)} tasks: {', '.join(wins)}."


def anomalous_pictures(document: Document) -> str:
    """Return the tables, with a description of their columns."""
    setting, environment = document["setting"], document["environment"]
    seeds = ", ".join(map(str, document["seeds"]))
    return "\n\n".join(
        [
            f"AUROC in percent, mean over the seeds {seeds}; each fit of lowerbound has "
            f"{setting['minutes']:g} minutes of {environment['threads']} thread"
            f"{'s' * (environment['threads'] > 1)}, or {setting['solar_minutes']:g} for solar "
            "cells, which are 5 times as large. Bold is above both baselines. *default* is "
            "the model that `lowerbound fit FOLDER` chooses for pictures of the size, *ladder* "
            "the recipe "
            "`conv_ladder` as it is, *conv* one level of 64 latents whose pixels share a sigma "
            "(`--recipe conv --set likelihood=shared`). *likelihood* is -log p(x), *typicality* "
            "its distance to the mean of held-out pictures, *levels* the ratio LLR^{>1}: the "
            "information in the finest level that the coarser ones do not predict. PCA keeps 95 "
            "% of "
            "the variance and scores by the error of its reconstruction; the isolation forest "
            "sees pixels.",
            auroc_table(document),
            counted(document),
            "Solar cells: defective means a probability of 2/3 or 1 according to the authors of "
            "the data. "
            "Further results on the same test pictures:",
            further_table(document),
            "Numbers: `benchmarks/results/image_anomalies.json` (lowerbound "
            f"{environment['lowerbound']}, torch {environment['torch']}).",
        ]
    )
