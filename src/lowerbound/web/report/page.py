"""The page of a report, from its template."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from lowerbound.web.report import charts, pixels, words
from lowerbound.web.report.measure import Measured, measure

_COLUMNS = 12  # distributions of columns that are shown
_PAIRS = 3
_TRAVERSED = 4  # latents whose decoded rows are shown
_PICTURED = 8  # of those of pictures
_THUMBNAILS = 400
_TILES = 20  # thumbnails side by side in their sheet
_SMALL = 28  # pixels of a thumbnail
_WHOLE = 256  # pixels of a picture that is shown before and after


def build(
    model: Any,
    data: object = None,
    *,
    learned: object = None,
    rows: int | None = None,
    seed: int = 0,
    made: Mapping[str, str] | None = None,
) -> str:
    """Return a report on a model, and on rows, as one HTML page.

    Args:
        model: a `lowerbound.Model`.
        data: rows to report on: a path, a data frame, an array, ...; None reports on the model.
        learned: the rows of the fit: with them, the privacy of drawn rows is measured.
        rows: number of rows to score at most; by default a sample that takes a few seconds.
        seed: of all random choices.
        made: how the report was made, such as the command, by name.

    Raises:
        UsageError: E270 for a model that restores pictures, and data that are no picture files.
    """
    return render(measure(model, data, learned=learned, rows=rows, seed=seed), made or {})


def render(found: Measured, made: Mapping[str, str]) -> str:
    """Return the page of measured numbers."""
    here = resources.files("lowerbound.web.report")
    colours = resources.files("lowerbound.web").joinpath("colours.css")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["share"] = words.share
    template = environment.from_string(here.joinpath("page.html.jinja").read_text("utf-8"))
    drawn, points = _charts(found), charts.embedding(found, _kinds(found))
    return template.render(
        found=found,
        unit=words.UNITS[found.holds],
        title=_title(found),
        verdict=words.verdict(found),
        words=words,
        charts=drawn,
        specs=_json({name: spec for name, spec in drawn.items() if spec is not None}),
        map="" if points is None else _json(points | _thumbnails(found)),
        highest=_highest(found),
        latents=_latents(found),
        pictures=_pictures(found),
        restored=_restored(found),
        made=_made(found, made),
        css=colours.read_text("utf-8") + here.joinpath("page.css").read_text("utf-8"),
        scripts=[here.joinpath(name).read_text("utf-8") for name in ("vega.js", "page.js")],
    )


def _json(value: object) -> str:
    """Return JSON that is safe within a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _title(found: Measured) -> str:
    return found.origin or f"A model of {found.facts.get('origin') or 'a table'}"


def _kinds(found: Measured) -> dict[str, str]:
    return {column["name"]: column["kind"] for column in found.model.columns}


def _charts(found: Measured) -> dict[str, Any]:
    """Return all charts by the name of their place in the page; None where there is none."""
    facts, kinds = found.facts, _kinds(found)
    made: dict[str, Any] = {
        "bound": charts.bound(facts.get("history", {})),
        "latent-use": charts.latent_use(
            facts.get("health", {}).get("rate_per_dimension") or (), found.meanings
        ),
        "coverage-numbers": charts.coverage(found.coverage, "number"),
        "coverage-levels": charts.coverage(found.coverage, "category"),
        "moves": charts.moves(found.meanings),
    }
    if found.scored is not None:
        made["p-values"] = charts.p_values(found.scored["p_value"].to_numpy())
        made["scores"] = charts.scores(found.scores, found.model.alarm.threshold)
    if found.drift is not None:
        made["drift"] = charts.drift(found.drift["columns"])
    if found.replicated is not None:
        made["replicates-zeros"] = charts.replicates(
            found.replicated, "zeros", "share of cells without a count", log=False
        )
        made["replicates-mean"] = charts.replicates(found.replicated, "mean", "mean count")
        made["replicates-variance"] = charts.replicates(found.replicated, "variance", "variance")
    real, drawn = found.values, found.drawn
    if found.scored is not None and real is not None and drawn is not None:
        both = [name for name in real.column_names if name in drawn.column_names]
        for name in both[:_COLUMNS]:
            made[f"column-{both.index(name)}"] = {
                **charts.column(name, kinds.get(name, ""), real[name], drawn[name]),
                "title": name,
            }
        worst = (found.compared or {}).get("worst", {}).get("pairs", ())
        for i, each in enumerate(worst[:_PAIRS]):
            if set(each["columns"]) <= set(both):
                made[f"pair-{i}"] = charts.pair(each["columns"], real, drawn)
    return made


def _highest(found: Measured) -> list[dict[str, Any]]:
    """Return the rows with the highest scores as text."""
    told = []
    address = _heat(found)
    for i, row in enumerate(found.highest):
        told.append(
            {
                "row": row.get("file") or f"{row['row']:,}",
                "score": f"{row['anomaly_score']:.2f}",
                "p": words.p_value(row["p_value"]),
                "flagged": row["is_anomaly"],
                "reasons": words.reasons(row),
                "picture": address[i] if address else None,
            }
        )
    return told


def _heat(found: Measured) -> list[tuple[str, str]]:
    if found.heat is None:
        return []
    shown, excess = found.heat
    warm = pixels.heated(shown, excess)
    return [
        (pixels.address(a), pixels.address(b))
        for a, b in zip(pixels.reduced(shown), pixels.reduced(warm), strict=True)
    ]


def _latents(found: Measured) -> list[dict[str, Any]]:
    """Return what each latent stands for, as text and decoded rows or pictures."""
    if found.directions:
        return [
            {"name": f"direction {rank + 1}", "moves": (), "steps": None, "strip": _strip(decoded)}
            for rank, decoded in found.traversals.items()
        ]
    told = []
    for rank, meaning in enumerate(found.meanings):
        decoded = found.traversals.get(meaning.latent)
        entry: dict[str, Any] = {
            "name": f"z{meaning.latent}",
            "moves": meaning.moves[:3],
            "strip": None,
            "steps": None,
        }
        if found.holds == "pictures" and decoded is not None and rank < _PICTURED:
            entry["strip"] = _strip(decoded)
        elif decoded is not None and rank < _TRAVERSED:
            entry["steps"] = _steps(decoded)
        told.append(entry)
    return told


def _strip(decoded: Any) -> str:
    few = pixels.reduced(decoded, 64)
    return pixels.address(pixels.sheet(few, len(few)))


def _steps(table: Any) -> list[tuple[str, list[str]]]:
    """Return the columns of decoded rows that change, with their values."""
    rows = []
    for name in table.column_names:
        values = [words.short(each) for each in table[name].to_pylist()]
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows[:12]


def _pictures(found: Measured) -> dict[str, str]:
    """Return sheets of pictures as data addresses."""
    made = {}
    if (samples := found.pictures.get("samples")) is not None:
        made["samples"] = pixels.address(pixels.sheet(pixels.reduced(samples), 8))
    if (first := found.pictures.get("originals")) is not None:
        both = np.concatenate([first, found.pictures["reconstructions"]])
        made["reconstructions"] = pixels.address(pixels.sheet(pixels.reduced(both), len(first)))
    return made


def _restored(found: Measured) -> list[dict[str, Any]]:
    """Return pictures before and after as data addresses: whole, and in detail."""
    if found.examples is None:
        return []
    return [
        {
            "name": each.name,
            "told": each.told,
            "whole": [_address(page) for page in each.whole],
            "detail": [pixels.address(page) for page in each.detail],
        }
        for each in found.examples.shown
    ]


def _address(page: Any) -> str:
    return pixels.address(pixels.reduced(page[None], _WHOLE)[0])


def _thumbnails(found: Measured) -> dict[str, Any]:
    """Return a sheet of thumbnails of the first pictures of the map."""
    some = found.pictures.get("thumbnails")
    if some is None:
        return {}
    small = pixels.reduced(some[:_THUMBNAILS], _SMALL)
    height, width = small.shape[1:3]
    return {
        "sheet": pixels.address(pixels.tiles(small, _TILES)),
        "tile": [width, height, _TILES, len(small)],
    }


def _made(found: Measured, made: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return how the model and the report were made."""
    facts = found.facts
    plan, split = facts.get("plan", {}), facts.get("split", {})
    parts = ", ".join(f"{count:,} {name}" for name, count in split.items())
    seconds = (facts.get("history", {}).get("checks") or [{}])[-1].get("seconds")
    told = {
        "model": found.model.recipe.name,
        "trained on": f"{facts.get('origin', '?')}, {facts.get('rows', 0):,} rows ({parts})",
        "settings": f"preset {plan.get('preset')}, seed {plan.get('seed')}",
        "parameters": f"{facts.get('parameters', 0):,}",
        "training time": "" if seconds is None else f"{seconds:.0f} s",
        "trained by": f"lowerbound {facts.get('version')}, torch {facts.get('torch')}, Python "
        f"{facts.get('python')}",
        **made,
        "report made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return [(name, text) for name, text in told.items() if text]
