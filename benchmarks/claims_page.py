"""The README's table of measured claims: one row for each benchmark in benchmarks/results.

A row is made from its JSON alone, whichever way the comparison came out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any, NamedTuple

import standings

Document = Mapping[str, Any]
PEERS = {
    "loop": "a plain PyTorch loop",
    "pythae": "Pythae",
    "pyod": "PyOD",
    "jax": "JAX by hand",
}
HEAD = "| measured | lowerbound | others |\n| :--- | :--- | :--- |"


class Claim(NamedTuple):
    """A row of the table.

    Attributes:
        measured: the measure and the data.
        ours: the value of lowerbound.
        others: the names and values of what it is compared with.
    """

    measured: str
    ours: str
    others: str


def _row(claim: Claim, page: str) -> str:
    return f"| [{claim.measured}]({page}) | {claim.ours} | {claim.others} |"


def _listed(values: Mapping[str, float], spec: str) -> str:
    return "; ".join(f"{name} {value:{spec}}" for name, value in values.items())


def anomaly(document: Document) -> list[Claim]:
    """Return the mean AUROC of each split, beside the two best other methods."""
    names = {"paper": "DTE paper's split", "clean": "clean split"}
    claims = []
    for protocol, result in document["protocols"].items():
        means = {method: mean["auroc"] for method, mean in result["means"].items()}
        ours = means.pop("ours")
        best = dict(sorted(means.items(), key=lambda each: -each[1])[:2])
        seeds = len(result["seeds"])
        claims.append(
            Claim(
                f"Anomalies: mean AUROC x 100 of {len(result['tables'])} tables, "
                f"{names[protocol]}, {seeds} seed{'s' * (seeds != 1)}",
                f"{ours:.2f}",
                _listed(best, ".2f"),
            )
        )
    first = next(iter(best), None)
    if first is None:
        return claims
    found = standings.against(result["tables"])[first]
    claims.append(
        Claim(
            f"Anomalies: tables on which it is better or worse than {first} by more than "
            f"{standings.LEVEL:g} points, {names[protocol]}",
            f"better on {found.wins}, worse on {found.losses}",
            "",
        )
    )
    return claims


def samples(document: Document) -> list[Claim]:
    """Return how well drawn rows of Adult stand in for real ones."""
    runs: dict[str, list[Document]] = {}
    for run in document["runs"]:
        if run["table"] == "adult":
            runs.setdefault(run["model"], []).append(run)
    peers = [name for name in runs if name not in ("lowerbound", "real rows")]
    published = {f"{n} (published)": v for n, v in document["published"]["c2st"].items()}

    def mean(model: str, measure: str) -> float:
        return fmean(run[measure] for run in runs[model])

    told = {name: mean(name, "c2st_unseen") for name in peers} | published
    use = {name: mean(name, "utility") for name in ("real rows", *peers)}
    return [
        Claim(
            "Drawn rows: C2ST against unseen rows, Adult (1: XGBoost cannot tell them apart)",
            f"{mean('lowerbound', 'c2st_unseen'):.3f}",
            _listed(told, ".3f"),
        ),
        Claim(
            "Drawn rows: AUC of XGBoost that learns from them, Adult",
            f"{mean('lowerbound', 'utility'):.3f}",
            _listed(use, ".3f"),
        ),
    ]


def card_fraud(document: Document) -> list[Claim]:
    """Return AUROC and average precision on the card transactions."""
    rows = [("AUROC", "auroc", ".4f"), ("average precision", "average_precision", ".3f")]
    results = dict(document["results"])
    ours = results.pop("lowerbound")
    return [
        Claim(
            f"Card fraud: {name}",
            f"{ours[key]:{spec}}",
            _listed({other: result[key] for other, result in results.items()}, spec),
        )
        for name, key, spec in rows
    ]


def cells(document: Document) -> list[Claim]:
    """Return the bound and the time of training beside scvi-tools."""
    found = document["summary"]["nb"]
    return [
        Claim(
            "Cells: held-out ELBO of pbmc3k, nats per cell, negative binomial",
            f"{found['elbo']:,.1f}",
            f"SCVI {found['scvi_elbo']:,.1f}",
        ),
        Claim(
            "Cells: seconds of training on pbmc3k, one thread",
            f"{found['seconds']:,.0f}",
            f"SCVI {found['scvi_seconds']:,.0f}",
        ),
    ]


def restored(document: Document) -> list[Claim]:
    """Return the PSNR of one test set of each task."""
    wanted = [
        ("denoise", "BSD68", "Noise of standard deviation 25 removed"),
        ("upscale", "Set5", "Enlarged four times"),
    ]
    claims = []
    for task, where, what in wanted:
        if task not in document["tasks"]:
            continue
        found = document["tasks"][task]
        computed = dict(found["results"][where]["psnr"])
        ours = computed.pop("ours")
        published = {f"{n} (published)": v for n, v in found["published"][where].items()}
        best = max(computed, key=computed.__getitem__)
        others = {best: computed[best], **published}
        others.pop(f"{best} (published)", None)
        claims.append(Claim(f"{what}: PSNR on {where}, dB", f"{ours:.2f}", _listed(others, ".2f")))
    return claims


def segmented(document: Document) -> list[Claim]:
    """Return the Dice coefficient of each data set, for all labels and for the fewest."""
    data = {"membranes": "membranes, ISBI 2012", "nuclei": "nuclei, DSB 2018"}
    arms = [arm for arm in document["arms"].values() if not arm["pretrained"]]
    claims = []
    for name, spelt in data.items():
        labels = sorted({arm["labels"] for arm in arms if arm["data"] == name})
        for count in dict.fromkeys((labels[-1], labels[0])):
            dice = {
                arm["model"]: 100 * arm["mean"]["dice"]
                for arm in arms
                if (arm["data"], arm["labels"]) == (name, count)
            }
            claims.append(
                Claim(
                    f"Segmented: Dice x 100 of {spelt}, {count} labelled",
                    f"{dice['ours']:.1f}",
                    f"U-Net {dice['unet']:.1f}",
                )
            )
    return claims


def unusual_pictures(document: Document) -> list[Claim]:
    """Return the number of tasks on which each way beats both baselines."""
    tasks = [held for name, held in document["bars"].items() if name in document["results"]]
    wins = {
        label: sum(held.get(label, False) for held in tasks)
        for label in ("conv: likelihood", "default: likelihood")
    }
    return [
        Claim(
            f"Unusual pictures: tasks of {len(tasks)} with a higher AUROC than PCA and "
            "IsolationForest",
            f"`--recipe conv --set likelihood=shared` {wins['conv: likelihood']}, "
            f"default recipe {wins['default: likelihood']}",
            "",
        )
    ]


def speed(document: Document) -> list[Claim]:
    """Return training speed on one workload, beside the peers measured on it."""
    workload = "mlp_128"
    found = document["workloads"][workload]
    rates = {
        PEERS.get(side, side): found["sides"][side]["samples_per_second"]["median"]
        for side in ("ours", *found["ratios"])
    }
    return [
        Claim(
            "Speed: samples a second, layers of 128, CPU",
            f"{rates.pop('ours'):,.0f}",
            _listed(rates, ",.0f"),
        )
    ]


def kills(document: Document) -> list[Claim]:
    """Return how many killed and repeated trainings ended in the same bytes."""
    runs = document["runs"]
    same = sum(run["runs_with_identical_result"] for run in runs)
    all_runs = sum(run["runs"] for run in runs)
    times = sum(sum(run["killed"].values()) for run in runs)
    return [
        Claim(
            f"Killed {times} times and resumed: models with the same bytes as undisturbed",
            f"{same} of {all_runs}",
            "",
        )
    ]


CLAIMS: tuple[tuple[str, str, Callable[[Document], list[Claim]]], ...] = (
    ("anomaly_auroc", "docs/anomaly.md", anomaly),
    ("creditcard", "docs/tables.md#card-fraud", card_fraud),
    ("synthetic_tables", "docs/tables.md#drawn-rows", samples),
    ("pbmc3k", "docs/cells.md#measured", cells),
    ("restoration", "docs/pictures.md#denoised-and-enlarged", restored),
    ("segmentation", "docs/pictures.md#segmented", segmented),
    ("image_anomalies", "docs/pictures.md#unusual-pictures", unusual_pictures),
    ("throughput", "docs/performance.md#against-others", speed),
    ("kills", "docs/production.md#killed-and-resumed", kills),
)


def claims(found: Callable[[str], Document | None], missing: Callable[[str], str]) -> str:
    """Return the table.

    Args:
        found: returns the content of a JSON by its name, or None where it is not there.
        missing: says by which command a JSON is made.
    """
    rows, absent = [], []
    for name, page, write in CLAIMS:
        document = found(name)
        if document is None:
            absent.append(f"{name}: {missing(name)}")
        else:
            rows += [_row(claim, page) for claim in write(document)]
    return "\n\n".join(["\n".join([HEAD, *rows]), *absent])
