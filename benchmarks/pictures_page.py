"""The measurements of docs/pictures.md, from the JSONs in benchmarks/results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Any

from anomalous_pictures_page import anomalous_pictures
from generation_page import generation

Document = Mapping[str, Any]
Row = Sequence[str]

TASKS = {
    "denoise": "### Noise of standard deviation 25",
    "upscale": "### Four times larger",
}
CODEBOOKS = {
    "gradient": "`gradient`: learned by the loss",
    "ema": "`ema`: moving averages",
    "ema_restart": "`ema_restart`: these, begun at k-means, dead codes restarted",
    "simvq": "`simvq`: one linear map of frozen vectors",
    "fsq": "`fsq`: finite scalar quantisation",
}
DATA = {"membranes": "ISBI 2012, membranes", "nuclei": "Data Science Bowl 2018, nuclei"}
MODELS = {"ours": "**lowerbound**, `segment`", "unet": "U-Net"}


def _table(head: Row, rows: Sequence[Row]) -> str:
    rule = [":---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def _bars(document: Document) -> str:
    return "\n".join(
        f"- {'holds' if holds else '**missed**'}: {claim}"
        for claim, holds in document["bars"].items()
    )


def _source(name: str, versions: Document) -> str:
    made_by = f"lowerbound {versions['lowerbound']}, torch {versions['torch']}"
    return f"Numbers: `benchmarks/results/{name}.json` ({made_by})."


# Restoration.


def restoration_tables(document: Document) -> str:
    """Return PSNR and SSIM of each method, the published values, and the bars."""
    parts = []
    for name, heading in TASKS.items():
        task = document["tasks"].get(name)
        if task is None:
            parts += [heading, "Not measured yet."]
            continue
        parts += [heading, _methods(task), _training(task), _sureness(task), _bars(task)]
        parts.append(_source("restoration", task["environment"]))
    return "\n\n".join(parts)


def _methods(task: Document) -> str:
    """Return the table: methods below one another, ours last, test sets side by side."""
    results, published = task["results"], task["published"]
    computed = next(iter(results.values()))["psnr"]
    rows = [
        [name, *(_both(each, name) for each in results.values())]
        for name in sorted(computed, key=lambda name: name == "ours")
    ]
    quoted = dict.fromkeys(name for each in published.values() for name in each)
    stated = [
        [f"{name} (published)", *(_quoted(published.get(where, {}), name) for where in results)]
        for name in quoted
    ]
    rows[-1][0] = "**lowerbound**"
    head = [
        "PSNR, dB / SSIM",
        *(f"{where} ({each['pictures']})" for where, each in results.items()),
    ]
    return _table(head, [*rows[:-1], *stated, rows[-1]])


def _both(result: Document, name: str) -> str:
    return f"{result['psnr'][name]:.2f} / {result['ssim'][name]:.3f}"


def _quoted(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.2f}" if name in values else ""


def _training(task: Document) -> str:
    training, setting = task["training"], task["setting"]
    return (
        f"Trained on {setting['learned_from']}: {training['parameters']:,} parameters, "
        f"{training['steps']:,} steps in {training['seconds'] / 60:,.0f} minutes, "
        f"threads: {setting['engine']['threads']}. The result is the mean of {setting['draws']} "
        "draws."
    )


def _sureness(task: Document) -> str:
    """Compare the stated uncertainty with the error."""
    told = [
        f"{where} {each['covered']:.1%} (error {sqrt(each['mean_square_error']):.1f}, stated "
        f"{sqrt(each['mean_variance']):.1f})"
        for where, each in task["results"].items()
    ]
    return (
        "Share of pixels whose true value lies within 1.96 stated standard deviations of the "
        "result (95 % for a Gaussian), and the root mean squares of the error and of the stated "
        f"standard deviation, in 8-bit codes: {'; '.join(told)}."
    )


# Segmentation.


def segmentation_tables(document: Document) -> str:
    """Return Dice and calibration error of each arm, and the bars."""
    setting = document["setting"]
    rows = [
        [
            DATA[arm["data"]],
            str(arm["labels"]),
            MODELS[arm["model"]] + (", pretrained" if arm["pretrained"] else ""),
            *(_percent(arm, key) for key in ("dice", "background_dice", "calibration_error")),
            f"{arm['parameters']:,}",
            str(arm["folds"]),
        ]
        for arm in sorted(document["arms"].values(), key=_order)
    ]
    head = ["data", "labelled", "model", "Dice", "Dice of the rest", "calibration error"]
    return "\n\n".join(
        [
            "Dice of the foreground and of the rest, x 100, and the expected calibration error of "
            "the pixels' probabilities, %; mean ± standard deviation over the folds:",
            _table([*head, "parameters", "folds"], rows),
            f"{setting['steps']:,} steps for each; width {setting['width']}. Pretraining: "
            f"{setting['pretraining']}.",
            _bars(document),
            _source("segmentation", document["environment"]),
        ]
    )


def _order(arm: Document) -> tuple[str, int, bool, str]:
    return arm["data"], -arm["labels"], arm["pretrained"], arm["model"]


def _percent(arm: Document, key: str) -> str:
    spread = arm["sd"].get(key)
    return f"{100 * arm['mean'][key]:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


# Codebooks.


def codes_table(document: Document) -> str:
    """Return the use of each codebook and the quality of its pictures."""
    seeds = document["seeds"]
    rows = []
    for kind, runs in document["results"].items():
        mean = {
            key: fmean(runs[seed][key] for seed in seeds)
            for key in ("codes", "usage", "perplexity", "psnr", "seconds")
        }
        rows.append(
            [
                CODEBOOKS[kind],
                f"{mean['codes']:,.0f}",
                f"{mean['usage']:.1%}",
                f"{mean['perplexity']:,.0f}",
                f"{mean['psnr']:.2f}",
                f"{mean['seconds']:,.0f}",
            ]
        )
    head = ["codebook", "codes", "in use", "perplexity", "PSNR, dB", "fit, s"]
    return "\n\n".join(
        [
            f"Fashion-MNIST, {document['setting']['steps']:,} steps for each, "
            f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}; the codes that the test pictures "
            "use, and the quality of their reconstruction:",
            _table(head, rows),
            _bars(document),
            _source("codes", document["environment"]),
        ]
    )


PARTS: tuple[tuple[str, str, Callable[[Document], str]], ...] = (
    ("## Denoised and enlarged", "restoration", restoration_tables),
    ("## Segmented", "segmentation", segmentation_tables),
    ("## Codebooks", "codes", codes_table),
    ("## Generated", "generation", generation),
    ("## Unusual pictures", "image_anomalies", anomalous_pictures),
)
