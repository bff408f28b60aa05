"""The numbers of a report as Vega-Lite charts: plain JSON values, drawn by the browser."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.web.report.measure import Measured

Chart = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name: nothing is loaded from it
REAL, DRAWN = "real", "drawn"
_BINS = 24
_LEVELS = 8
_CELLS = 12  # per side of the picture of a pair
_SHOWN_LATENTS, _SHOWN_COLUMNS = 12, 16
_GENES, _FURTHEST = 1500, 100  # points of a chart of genes, and those of them furthest off
DAY = 86_400


def _chart(values: Sequence[Mapping[str, Any]], height: int, **more: Any) -> Chart:
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": list(values)},
        **more,
    }


def rounded(value: Any) -> Any:
    """Return a number with five significant digits, or None where it is not finite."""
    value = float(value)
    return float(f"{value:.5g}") if math.isfinite(value) else None


def bound(history: Mapping[str, Any]) -> Chart | None:
    """Return the bound on held-out rows, and on training rows, over the passes of training."""
    checks = history.get("checks", ())
    if not checks:
        return None
    values = [
        {"epoch": rounded(each["epoch"]), "nats": rounded(each[key]), "rows": name}
        for each in checks
        for key, name in (("train_elbo", "training rows"), ("valid_bound", "held-out rows"))
        if each.get(key) is not None
    ]
    known = [v["nats"] for v in values if v["nats"] is not None]
    if not known:
        return None
    # The first checks may be thousands of nats below the others, which then look like one line.
    low = float(np.quantile(known, 0.1))
    domain = [low - 0.1 * (max(known) - low), max(known) + 0.05 * (max(known) - low)]
    best = checks[min(history.get("best", 0), len(checks) - 1)]
    y: Chart = {
        "field": "nats",
        "type": "quantitative",
        "title": "nats per row (higher is better)",
    }
    y["scale"] = {"zero": False, **({"domain": domain} if domain[1] > domain[0] else {})}
    return _chart(
        values,
        220,
        layer=[
            {
                "mark": {"type": "line", "clip": True, "point": len(checks) < 60, "tooltip": True},
                "encoding": {
                    "x": {
                        "field": "epoch",
                        "type": "quantitative",
                        "title": "passes over the rows",
                    },
                    "y": y,
                    "color": {
                        "field": "rows",
                        "type": "nominal",
                        "title": None,
                        "scale": {"domain": ["held-out rows", "training rows"]},
                        "legend": {"orient": "top"},
                    },
                },
            },
            {
                "data": {
                    "values": [{"epoch": rounded(best["epoch"]), "what": "the kept weights"}]
                },
                "mark": {"type": "rule", "strokeDash": [4, 4]},
                "encoding": {
                    "x": {"field": "epoch", "type": "quantitative"},
                    "tooltip": {"field": "what"},
                },
            },
        ],
    )


def latent_use(rates: Sequence[float | None], meanings: Sequence[Any]) -> Chart | None:
    """Return how much each latent is used, the most used first.

    Args:
        rates: the mean KL of each latent, nats; None where it has no closed form.
        meanings: the meanings of the latents, whose spread is shown if no rate is known.
    """
    known = [(j, rate) for j, rate in enumerate(rates) if rate is not None]
    title = "nats per row"
    if not known:
        known = [(each.latent, each.spread) for each in meanings]
        title = "spread over the rows"
    if not known:
        return None
    top = sorted(known, key=lambda each: -each[1])[:40]
    return _chart(
        [{"latent": f"z{j}", "used": rounded(rate)} for j, rate in top],
        160,
        mark={"type": "bar", "tooltip": True},
        encoding={
            "x": {
                "field": "latent",
                "type": "nominal",
                "sort": None,
                "title": "latent",
                "axis": {"labelAngle": 0, "labelOverlap": True},
            },
            "y": {"field": "used", "type": "quantitative", "title": title},
        },
    )


def p_values(p: NDArray[np.float64]) -> Chart:
    """Return the histogram of p-values, with the height that chance gives."""
    counts, edges = np.histogram(p, bins=20, range=(0, 1))
    values = [
        {
            "low": rounded(edges[i]),
            "high": rounded(edges[i + 1]),
            "share": rounded(100 * count / len(p)),
        }
        for i, count in enumerate(counts)
    ]
    return _chart(
        values,
        180,
        layer=[
            {
                "mark": {"type": "bar", "tooltip": True},
                "encoding": {
                    "x": {
                        "field": "low",
                        "bin": {"binned": True, "step": 0.05},
                        "title": "p-value",
                        "axis": {"format": ".1f", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]},
                    },
                    "x2": {"field": "high"},
                    "y": {
                        "field": "share",
                        "type": "quantitative",
                        "title": "% of rows",
                        "axis": {"tickCount": 4},
                    },
                },
            },
            {"mark": {"type": "rule", "strokeDash": [5, 4]}, "encoding": {"y": {"datum": 5}}},
        ],
    )


def coverage(found: Sequence[Any], kind: str) -> Chart | None:
    """Return the share found of each column with its interval, and the share expected."""
    values = [
        {
            "column": each.column,
            "found": rounded(100 * each.found),
            "low": rounded(100 * each.low),
            "high": rounded(100 * each.high),
            "expected": rounded(100 * each.expected),
            "is": "as expected" if each.as_expected else "not as expected",
        }
        for each in found
        if each.kind == kind
    ]
    if not values:
        return None
    y = {"field": "column", "type": "nominal", "title": None, "sort": None, "axis": _names()}
    told = [{"field": name} for name in ("column", "found", "low", "high", "expected")]
    scale = {"domain": [0, 100]}
    title = "% in the interval" if kind == "number" else "% right"
    colour = {
        "field": "is",
        "type": "nominal",
        "title": None,
        "scale": {"domain": ["as expected", "not as expected"]},
        "legend": {"orient": "top"},
    }
    x = {"field": "found", "type": "quantitative", "scale": scale, "title": title}
    return _chart(
        values,
        max(60, 22 * len(values)),
        encoding={"y": y},
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "x": {"field": "low", "type": "quantitative", "scale": scale, "title": title},
                    "x2": {"field": "high"},
                    "color": colour,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {"x": x, "color": colour, "tooltip": told},
            },
            {
                "mark": {"type": "tick", "thickness": 2, "size": 16},
                "encoding": {
                    "x": {"field": "expected", "type": "quantitative"},
                    "tooltip": told,
                },
            },
        ],
    )


def _names(most: int = 150) -> Chart:
    return {"labelLimit": most, "labelPadding": 6}


def scores(found: NDArray[np.float64], threshold: float) -> Chart:
    """Return the histogram of scores with the threshold; the flagged ones in another colour."""
    low, high = float(found.min()), float(found.max())
    # Few extreme scores would press all others into one bar.
    middle = float(np.quantile(found, 0.999))
    spread = max(float(np.quantile(found, 0.75) - np.quantile(found, 0.25)), 1e-9)
    end = min(high, max(middle, threshold + spread if math.isfinite(threshold) else middle))
    shown = np.minimum(found, end)
    edges = np.linspace(low, max(end, low + 1e-9), 61)
    values = []
    for flagged in (False, True):
        some = shown[(found > threshold) == flagged]
        counts = np.histogram(some, edges)[0]
        values += [
            {
                "low": rounded(edges[i]),
                "high": rounded(edges[i + 1]),
                "rows": int(count),
                "is": "above the threshold" if flagged else "usual",
            }
            for i, count in enumerate(counts)
            if count
        ]
    layers: list[Chart] = [
        {
            "mark": {"type": "bar", "tooltip": True},
            "encoding": {
                "x": {
                    "field": "low",
                    "type": "quantitative",
                    "bin": {"binned": True},
                    "title": "score, nats (higher is more unusual)",
                },
                "x2": {"field": "high"},
                "y": {"field": "rows", "type": "quantitative", "scale": {"type": "symlog"}},
                "color": {
                    "field": "is",
                    "type": "nominal",
                    "title": None,
                    "scale": {"domain": ["usual", "above the threshold"]},
                    "legend": {"orient": "top"},
                },
            },
        }
    ]
    if math.isfinite(threshold):
        layers.append(
            {
                "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 2},
                "encoding": {"x": {"datum": rounded(threshold)}},
            }
        )
    return _chart(values, 200, layer=layers)


def replicates(table: pa.Table, statistic: str, title: str, *, log: bool = True) -> Chart:
    """Return a statistic of each gene among drawn cells over that among counted ones.

    Args:
        table: the result of `Model.predictive_checks`.
        statistic: "zeros", "mean" or "variance".
        title: what it is, for the axes.
        log: whether the axes are logarithmic; genes whose value is 0 are then left out.
    """
    seen = table[statistic].to_numpy()
    drawn = table[f"{statistic}_replicated"].to_numpy()
    kept = np.flatnonzero((seen > 0) & (drawn > 0)) if log else np.arange(len(seen))
    if len(kept) > _GENES:  # evenly spaced in what was seen, and those that are furthest off
        far = np.abs(drawn - seen) / np.maximum(table[f"{statistic}_sd"].to_numpy(), 1e-12)
        order = kept[np.argsort(seen[kept], kind="stable")]
        even = order[np.linspace(0, len(order) - 1, _GENES - _FURTHEST).astype(int)]
        kept = np.union1d(even, kept[np.argsort(-far[kept], kind="stable")[:_FURTHEST]])
    genes = table["gene"].take(pa.array(kept)).to_pylist()
    values = [
        {"gene": gene, "counted": rounded(seen[i]), "drawn": rounded(drawn[i])}
        for gene, i in zip(genes, kept, strict=True)
    ]
    ends = [rounded(each) for each in _range(np.concatenate([seen[kept], drawn[kept]]))]
    scale = {"type": "log" if log else "linear", "domain": ends, "nice": False}
    axes = {
        axis: {
            "field": field,
            "type": "quantitative",
            "title": f"{title}, {field}",
            "scale": scale,
        }
        for axis, field in (("x", "counted"), ("y", "drawn"))
    }
    told = [{"field": name} for name in ("gene", "counted", "drawn")]
    return _chart(
        values,
        220,
        layer=[
            {
                "data": {"values": [{"counted": end, "drawn": end} for end in ends]},
                "mark": {"type": "line", "strokeDash": [5, 4]},
                "encoding": axes,
            },
            {
                "mark": {"type": "point", "filled": True, "size": 14, "opacity": 0.5},
                "encoding": {**axes, "tooltip": told},
            },
        ],
    )


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of values, which are never equal."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 2.0)
    return low, high if high > low else low + 1.0


def numbers_of(column: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """Return a column of numbers with NaN for missing values, or None for one of text."""
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        values: Any = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return values.astype(np.float64)
    return None


def words_of(column: pa.ChunkedArray) -> list[str]:
    """Return the values of a column as text."""
    return ["missing" if each is None else str(each) for each in column.to_pylist()]


def column(name: str, kind: str, real: pa.ChunkedArray, drawn: pa.ChunkedArray) -> Chart:
    """Return the distribution of one column among real and among drawn rows."""
    pair = numbers_of(real), numbers_of(drawn)
    if pair[0] is None or pair[1] is None:
        return _levels(name, words_of(real), words_of(drawn))
    a, b = (values[np.isfinite(values)] for values in pair if values is not None)
    both = np.concatenate([a, b])
    if not len(both):
        return _levels(name, ["missing"] * len(real), ["missing"] * len(drawn))
    low, high = np.quantile(both, [0.005, 0.995])
    whole = bool((both == np.rint(both)).all()) and high - low <= 2 * _BINS
    edges = np.arange(low - 0.5, high + 1.5) if whole else np.linspace(low, high + 1e-9, _BINS + 1)
    date = kind == "datetime"
    values = []
    for rows, some in ((REAL, a), (DRAWN, b)):
        counts = np.histogram(some.clip(low, high), edges)[0]
        for i, count in enumerate([*counts, counts[-1]]):  # once more: the end of the last step
            at = edges[min(i, len(edges) - 1)]
            values.append(
                {
                    "at": int(at * 1000) if date else rounded(at),
                    "share": rounded(100 * count / max(1, len(some))),
                    "rows": rows,
                }
            )
    return _chart(
        values,
        110,
        mark={"type": "area", "interpolate": "step-after", "line": True, "opacity": 0.35},
        encoding={
            "x": {
                "field": "at",
                "type": "temporal" if date else "quantitative",
                "title": None,
                "scale": {"zero": False, "nice": False},
                "axis": {"tickCount": 4, "labelOverlap": True},
            },
            "y": {
                "field": "share",
                "type": "quantitative",
                "title": "%",
                "stack": None,
                "axis": {"tickCount": 3},
            },
            "color": _real_or_drawn(),
        },
    )


def _real_or_drawn() -> Chart:
    return {
        "field": "rows",
        "type": "nominal",
        "title": None,
        "scale": {"domain": [REAL, DRAWN]},
        "legend": None,
    }


def _levels(name: str, real: Sequence[str], drawn: Sequence[str]) -> Chart:
    known: dict[str, int] = {}
    for word in real:
        known[word] = known.get(word, 0) + 1
    kept = sorted(known, key=lambda word: -known[word])[:_LEVELS]
    values = []
    for rows, words in ((REAL, real), (DRAWN, drawn)):
        counts = dict.fromkeys([*kept, "others"], 0)
        for word in words:
            counts[word if word in known and word in counts else "others"] += 1
        values += [
            {"level": level, "share": rounded(100 * n / max(1, len(words))), "rows": rows}
            for level, n in counts.items()
            if n or level != "others"
        ]
    levels = list(dict.fromkeys(value["level"] for value in values))
    return _chart(
        values,
        max(110, 24 * len(levels)),
        mark={"type": "bar", "tooltip": True},
        encoding={
            "y": {"field": "level", "type": "nominal", "sort": levels, "title": None,
                  "axis": _names(110)},
            "yOffset": {"field": "rows", "sort": [REAL, DRAWN]},
            "x": {"field": "share", "type": "quantitative", "title": "%",
                  "axis": {"tickCount": 4}},
            "color": _real_or_drawn(),
        },
    )  # fmt: skip


def pair(names: Sequence[str], real: pa.Table, drawn: pa.Table) -> Chart:
    """Return how two columns depend on each other, among real and among drawn rows."""
    codes = [_cells(real[name], drawn[name]) for name in names]
    values = []
    for at, rows in enumerate((REAL, DRAWN)):
        x, y = (each[0][at] for each in codes)
        counts = np.zeros((len(codes[0][1]), len(codes[1][1])))
        np.add.at(counts, (x, y), 1)
        for i, j in zip(*np.nonzero(counts), strict=True):
            values.append(
                {
                    "x": codes[0][1][i],
                    "y": codes[1][1][j],
                    "share": rounded(100 * counts[i, j] / len(x)),
                    "rows": rows,
                }
            )
    chart = _chart(values, 170)
    for key in ("width", "height", "autosize"):
        chart.pop(key)
    return {
        **chart,
        "facet": {"column": {"field": "rows", "title": None, "sort": [REAL, DRAWN]}},
        "spec": {
            "width": 120,
            "height": 150,
            "mark": {"type": "rect", "tooltip": True},
            "encoding": {
                "x": {"field": "x", "type": "ordinal", "sort": codes[0][1], "title": names[0],
                      "axis": {"labelAngle": -50, "labelLimit": 60, "labelOverlap": True}},
                "y": {"field": "y", "type": "ordinal", "sort": codes[1][1][::-1],
                      "title": names[1], "axis": {"labelLimit": 80, "labelOverlap": True}},
                "color": {"field": "share", "type": "quantitative", "title": "% of rows",
                          "scale": {"type": "sqrt"}, "legend": None},
            },
        },
    }  # fmt: skip


def _cells(
    real: pa.ChunkedArray, drawn: pa.ChunkedArray
) -> tuple[list[NDArray[np.int64]], list[str]]:
    """Return the interval or level of every value, and the names of these."""
    a, b = numbers_of(real), numbers_of(drawn)
    if a is not None and b is not None:
        finite = a[np.isfinite(a)]
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, _CELLS + 1)[1:-1]))
        names = [*(f"up to {edge:.4g}" for edge in edges), f"above {edges[-1]:.4g}", "missing"]
        found = [
            np.where(np.isfinite(v), np.searchsorted(edges, v, "left"), len(edges) + 1)
            for v in (a, b)
        ]
        return found, names
    words = words_of(real), words_of(drawn)
    levels, counts = np.unique(words[0], return_counts=True)
    names = [str(level) for level in levels[np.argsort(-counts)][: _CELLS - 1]]
    names = [*(name for name in names if name != "others"), "others"]
    place = {name: i for i, name in enumerate(names)}
    last = len(names) - 1
    coded = [np.array([place.get(word, last) for word in some], np.int64) for some in words]
    return coded, names


def drift(columns: Sequence[Mapping[str, Any]], most: int = 20) -> Chart | None:
    """Return the drift of the columns that differ most, in shares of rows."""
    values = [
        {
            "column": row["column"],
            "drift": rounded(row["drift"]),
            "p_value": rounded(row["adjusted_p_value"]),
            "told": row["told"],
            "is": "differs" if row["drifted"] else "within chance",
        }
        for row in columns[:most]
    ]
    if not values:
        return None
    return _chart(
        values,
        max(60, 20 * len(values)),
        mark={"type": "bar", "tooltip": True},
        encoding={
            "y": {"field": "column", "type": "nominal", "sort": None, "title": None,
                  "axis": _names()},
            "x": {"field": "drift", "type": "quantitative",
                  "title": "largest difference of shares of rows"},
            "color": {"field": "is", "type": "nominal", "title": None,
                      "scale": {"domain": ["within chance", "differs"]},
                      "legend": {"orient": "top"}},
        },
    )  # fmt: skip


def moves(meanings: Sequence[Any]) -> Chart | None:
    """Return how strongly each column moves with each latent."""
    shown = meanings[:_SHOWN_LATENTS]
    columns: dict[str, float] = {}
    for meaning in shown:
        for move in meaning.moves:
            columns[move.column] = max(columns.get(move.column, 0.0), abs(move.effect))
    if not columns:
        return None
    kept = sorted(columns, key=lambda name: -columns[name])[:_SHOWN_COLUMNS]
    values = [
        {
            "latent": f"z{meaning.latent}",
            "column": move.column,
            "effect": rounded(abs(move.effect)),
            "low": move.low,
            "high": move.high,
        }
        for meaning in shown
        for move in meaning.moves
        if move.column in kept
    ]
    return _chart(
        values,
        max(60, 22 * len(kept)),
        mark={"type": "rect"},
        encoding={
            "x": {"field": "latent", "type": "nominal", "sort": None, "title": "latent",
                  "axis": {"labelAngle": 0, "orient": "top"}},
            "y": {"field": "column", "type": "nominal", "sort": kept, "title": None,
                  "axis": _names()},
            "color": {"field": "effect", "type": "quantitative", "title": "moves",
                      "scale": {"domain": [0, 1]}, "legend": None},
            "tooltip": [{"field": name} for name in ("latent", "column", "effect", "low", "high")],
        },
    )  # fmt: skip


def embedding(found: Measured, kinds: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the map of the embedding: points and the columns that they can be coloured by.

    Each column is a list of numbers, or of levels with an index for each point.
    """
    if found.points is None or found.values is None:
        return None
    n = len(found.points)
    columns: list[dict[str, Any]] = []
    if found.scored is not None:
        columns.append(_of_numbers("anomaly score", found.scores[:n]))
        columns.append(_of_numbers("p-value", found.scored["p_value"].to_numpy()[:n]))
    for name in found.values.column_names:
        values = found.values[name].slice(0, n)
        numbers = numbers_of(values)
        if numbers is None:
            columns.append(_of_levels(name, words_of(values)))
        else:
            columns.append(_of_numbers(name, numbers, kinds.get(name) == "datetime"))
    rows = found.places[:n].tolist() if len(found.places) else list(range(n))
    return {
        "x": [rounded(each) for each in found.points[:, 0]],
        "y": [rounded(each) for each in found.points[:, 1]],
        "row": rows,
        "columns": columns,
    }


def _of_numbers(name: str, values: NDArray[np.float64], date: bool = False) -> dict[str, Any]:
    if date:
        days = [_day(each) for each in values]
        return {"name": name, "kind": "date", "values": days}
    finite = values[np.isfinite(values)]
    # Colours span the middle of the values: one extreme would give all others one colour.
    ends = [rounded(e) for e in np.quantile(finite, [0.02, 0.98])] if len(finite) else [0, 1]
    return {"name": name, "kind": "number", "values": list(map(rounded, values)), "ends": ends}


def _day(seconds: float) -> str | None:
    if not math.isfinite(seconds):
        return None
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=float(seconds))
    return moment.isoformat(timespec="minutes")


def _of_levels(name: str, words: Sequence[str]) -> dict[str, Any]:
    levels, counts = np.unique(words, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    place = {str(levels[i]): at for at, i in enumerate(order)}
    return {
        "name": name,
        "kind": "level",
        "levels": list(place),
        "values": [place[word] for word in words],
    }
