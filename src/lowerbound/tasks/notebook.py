"""Models and results in notebooks: short text, and HTML that needs no script and no file."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lowerbound.tasks.state import TrainedState

_COLOURS = {"healthy": "#1a7f37", "warning": "#9a6700", "collapsed": "#b3261e"}
_STATES = {
    "healthy": "healthy",
    "warning": "works, with a reservation",
    "collapsed": "has learned too little",
}
_COLUMNS = 30  # of a model that are listed
_BARS = 40
_WIDTH, _HEIGHT = 260, 56  # of a small plot, pixels
_CELL = "padding:2px 10px 2px 0;text-align:left"


def text_of_model(model: TrainedState) -> str:
    """Return a model as a few lines of text."""
    facts = model.facts
    health = facts.get("health", {})
    lines = [
        f"lowerbound.Model: recipe {model.recipe.name}, {_used(health)}",
        f"learned from {facts.get('rows', 0):,} rows of {facts.get('origin', '?')}",
    ]
    if model.columns:
        names = [column["name"] for column in model.columns]
        more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
        lines.append(f"columns: {', '.join(names[:8])}{more}")
    if _has_alarm(model):
        lines.append(f"threshold {model.alarm.threshold:.4g} nats: {model.alarm.rate:.2%} alarms")
    return "\n".join([*lines, *health.get("lines", [])])


def _used(health: Mapping[str, Any]) -> str:
    if not health:
        return "not examined"
    return f"{health.get('active')} of {health.get('latent')} latents in use"


def _has_alarm(model: TrainedState) -> bool:
    return bool(np.isfinite(model.alarm.threshold)) and not model.command


def html_of_model(model: TrainedState) -> str:
    """Return a model as HTML: the verdict, its columns, and small plots of fit and scores."""
    facts = model.facts
    health = facts.get("health", {})
    state = health.get("verdict", "")
    colour = _COLOURS.get(state, "#57606a")
    checks = facts.get("history", {}).get("checks", ())
    bound = [check["valid_bound"] for check in checks if check.get("valid_bound") is not None]
    scores = np.asarray(model.calibration.scores)
    plots = []
    if len(bound) > 1:
        plots.append(_plot("held-out bound, over the training", line(bound)))
    if len(scores) > 1 and _has_alarm(model):
        plots.append(_plot("scores of held-out rows", bars(scores, model.alarm.threshold)))
    shown = model.columns[:_COLUMNS]
    rows = [(c["name"], c["kind"], f"{c['missing']:.1%}" * (c["missing"] > 0)) for c in shown]
    more = len(model.columns) - len(shown)
    listed = table(("column", "kind", "missing"), rows) + (
        f"<p>and {more:,} more</p>" * (more > 0)
    )
    told = "".join(f"<li>{html.escape(text)}</li>" for text in health.get("lines", []))
    return (
        '<div style="font-family:system-ui,sans-serif;line-height:1.45">'
        f"<p><b>lowerbound.Model</b> ({html.escape(model.recipe.name)}) "
        f'<span style="color:{colour}">&#9679; {_STATES.get(state, "not examined")}</span><br>'
        f"learned from {facts.get('rows', 0):,} rows of {html.escape(str(facts.get('origin')))}; "
        f"{_used(health)}</p>"
        f'<div style="display:flex;gap:24px;flex-wrap:wrap">{"".join(plots)}</div>'
        f"<details><summary>verdict</summary><ul>{told}</ul></details>"
        + (f"<details><summary>{len(model.columns):,} columns</summary>{listed}</details>"
           if shown else "")
        + "</div>"
    )  # fmt: skip


class Comparison(dict[str, Any]):
    """The report of `Model.compare`: a dictionary that notebooks show as a table."""

    def _rows(self) -> list[tuple[str, str, str, str]]:
        intervals = self.get("intervals", {})
        return [
            (
                name,
                f"{self[name]:.4f}",
                f"{intervals[name][0]:.3f} to {intervals[name][1]:.3f}" * (name in intervals)
                if name in intervals
                else "",
                meaning,
            )
            for name, meaning in self.get("meanings", {}).items()
        ]

    def __str__(self) -> str:
        """Return the measures with their meanings, one line each."""
        return "\n".join(f"{name:16} {value:>8}  {told}" for name, value, _, told in self._rows())

    def _repr_html_(self) -> str:
        rows = self.get("rows", {})
        head = f"{rows.get('drawn', 0):,} drawn rows and {rows.get('real', 0):,} real ones"
        heads = ("measure", "value", "95 % interval", "meaning")
        return f"<p><b>{head}</b></p>{table(heads, self._rows())}"


class Drift(dict[str, Any]):
    """The report of `Model.drift`: a dictionary that notebooks show as a table."""

    def _rows(self) -> list[tuple[str, str, str, str]]:
        rows = [("scores", self["scores"]), *((c["column"], c) for c in self["columns"][:50])]
        return [
            (name, f"{each['drift']:.3f}", f"{each['adjusted_p_value']:.2g}", each["told"])
            for name, each in rows
        ]

    def _head(self) -> str:
        drifted = [each["column"] for each in self["columns"] if each["drifted"]]
        told = "no column differs by more than chance" if not drifted else ", ".join(drifted)
        return f"{self['rows']:,} rows against {self['held_out']:,} held-out ones: {told}"

    def __str__(self) -> str:
        """Return the columns with their drift, one line each."""
        lines = [f"{name:24} {size}  p {p:8} {told}" for name, size, p, told in self._rows()]
        return "\n".join([self._head(), *lines])

    def _repr_html_(self) -> str:
        heads = ("column", "drift", "p-value", "largest difference")
        return f"<p><b>{html.escape(self._head())}</b></p>{table(heads, self._rows())}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a small table as HTML; all texts are escaped."""
    head = "".join(f'<th style="{_CELL}">{html.escape(each)}</th>' for each in heads)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{html.escape(v)}</td>' for v in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plot(title: str, svg: str) -> str:
    escaped = html.escape(title)
    return f'<figure style="margin:0"><figcaption>{escaped}</figcaption>{svg}</figure>'


def _svg(title: str, inside: str) -> str:
    return (
        f'<svg role="img" aria-label="{html.escape(title)}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{inside}</svg>'
    )


def line(values: Sequence[float]) -> str:
    """Return a line through values as SVG; the lowest tenth is cut off."""
    y = np.asarray(values, np.float64)
    low, high = float(np.quantile(y, 0.1)), float(y.max())
    heights = 1 - (y.clip(low) - low) / max(high - low, 1e-12)
    x = np.linspace(2, _WIDTH - 2, len(y))
    points = " ".join(
        f"{a:.1f},{2 + b * (_HEIGHT - 4):.1f}" for a, b in zip(x, heights, strict=True)
    )
    title = f"from {y[0]:.4g} to {y[-1]:.4g} nats"
    return _svg(
        title, f'<polyline points="{points}" fill="none" stroke="#2f6fb3" stroke-width="2"/>'
    )


def bars(values: NDArray[np.float64], threshold: float) -> str:
    """Return a histogram as SVG; bars above the threshold have another colour."""
    end = max(float(np.quantile(values, 0.995)), float(values.min()) + 1e-9)
    counts, edges = np.histogram(values.clip(max=end), _BARS, (float(values.min()), end))
    width, drawn = _WIDTH / _BARS, []
    for i, count in enumerate(counts):
        height = _HEIGHT * count / max(1, counts.max())
        colour = "#c2570c" if edges[i + 1] > threshold else "#2f6fb3"
        drawn.append(
            f'<rect x="{i * width:.1f}" y="{_HEIGHT - height:.1f}" width="{width - 1:.1f}" '
            f'height="{height:.1f}" fill="{colour}"/>'
        )
    return _svg(f"histogram of {len(values):,} scores", "".join(drawn))
