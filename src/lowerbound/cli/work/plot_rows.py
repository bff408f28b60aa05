"""The work of the verb plot for rows: plots of scores, embeddings and columns by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowerbound import optional
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, check_apart
from lowerbound.cli.places import check_replaces_no_input
from lowerbound.cli.result import Result, left_out
from lowerbound.errors import UsageError
from lowerbound.files.write import atomic_write, check_place
from lowerbound.tasks.plots import Plots

_SUFFIXES = (".png", ".svg", ".pdf")
_DOTS = 150  # per inch


@dataclass(frozen=True)
class Order:
    """Settings of a plot.

    Attributes:
        kind: one of `OF_ROWS` of `lowerbound.cli.commands.plot`.
        seed: of the draws.
        color: the column that an embedding is coloured by, or None.
        rename: THEIRS=OURS pairs.
        on_bad_file: skip or fail, for unreadable pictures, or None.
    """

    kind: str
    seed: int
    color: str | None
    rename: Mapping[str, str] | Sequence[str]
    on_bad_file: str | None


def plot(model: Any, data: Any, order: Order, out: str | None, overwrite: bool) -> Result:
    """Draw one plot and write it."""
    clock, target = Clock(), _target(out)
    check_apart(target, data)
    target = check_place(target, overwrite)
    check_replaces_no_input(target, data)
    figures = optional.library("matplotlib.figure", "plots need", "plots")
    trained = load(model)
    if trained.recipe.restoration is not None:
        raise UsageError(
            "E247",
            f"plots of rows need their scores, and a model of the recipe {trained.recipe.name!r} "
            f"{trained.recipe.restoration.does}",
            fix=f"lowerbound {trained.command} M.vae PICTURES --out made",
        )
    rows = walk_for(trained, data, order.rename, order.on_bad_file)
    # Figures of pyplot would stay open, and may want a screen.
    plots = Plots(trained, lambda size: figures.Figure(figsize=size, layout="constrained"))
    figure = _draw(plots, rows, order)
    kind = target.suffix.lower()[1:]
    # The date would make equal plots differ.
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    written = atomic_write(
        target,
        lambda file: figure.savefig(file, format=kind, dpi=_DOTS, metadata=dateless),
        overwrite,
    )
    one = order.kind != "real-vs-drawn"
    told = figure.axes[0].get_title() if one else "the given rows beside drawn ones"
    return Result(
        {
            "kind": order.kind,
            "rows": rows.rows,
            "title": told,
            "seconds": clock(),
            **left_out(rows),
        },
        lines=[f"{order.kind}: {told}, {clock():.1f} s"],
        notes=list(rows.notes),
        path=written,
    )


def _draw(plots: Plots, rows: Any, order: Order) -> Any:
    """Return the figure with the plot."""
    if order.kind == "real-vs-drawn":
        found = plots.real_vs_drawn(rows, seed=order.seed)
        return (found[0] if hasattr(found, "__len__") else found).figure
    if order.kind == "embedding":
        return plots.embedding(rows, color=order.color).figure
    draw = {"scores": plots.scores, "calibration": plots.calibration, "latents": plots.latents}
    return draw[order.kind](rows).figure


def _target(out: str | None) -> Path:
    if out is None:
        raise UsageError("E232", "plot needs --out: the file to write", fix="--out picture.png")
    target = Path(out)
    if target.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            "E222",
            f"{target.name} is no file of a plot: it must end in {', '.join(_SUFFIXES)}",
            fix=f"--out {target.with_suffix('.png')}",
        )
    return target
