"""The work of the verb plot: compute the pictures, arrange them, write the file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.cli import parsing
from lowerbound.cli.inputs import open_for
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, check_apart
from lowerbound.cli.places import check_replaces_no_input
from lowerbound.cli.result import Remarks, Result, left_out
from lowerbound.cli.work import drawing
from lowerbound.coding.pictures import LEVELS, PictureCoding
from lowerbound.coding.rows import Dense, Rows
from lowerbound.errors import UsageError
from lowerbound.files.pictures.bad_files import POLICIES
from lowerbound.files.write import check_place
from lowerbound.tasks import before_after, draws, gallery, latent_use
from lowerbound.tasks.trained import Model

ROWS_LOOKED_AT = 1000  # rows used to rank the latents by use
_MOVING = ("traversal", "interpolation")
_SIDE = 192  # pixels of a picture before and after


@dataclass(frozen=True)
class Order:
    """Settings of a plot.

    Attributes:
        kind: one of `plotting.KINDS`.
        n: the number of pictures per row, and of rows.
        seed: of the draws.
        temperature: of the prior.
        shape: a picture shape such as "28x28" for a model fitted on columns, or None.
        on_bad_file: skip or fail, for unreadable pictures, or None.
    """

    kind: str
    n: int
    seed: int
    temperature: float
    shape: str | None
    on_bad_file: str | None = None


def plot(model: Any, data: Any, order: Order, out: str | None, overwrite: bool) -> Result:
    """Draw one kind of pictures and write them."""
    clock, target = Clock(), drawing.check_target(out)
    check_apart(target, data)
    target = check_place(target, overwrite)
    check_replaces_no_input(target, data)
    trained = load(model)
    if order.kind == "before-after":
        return _before_after(trained, data, order, target, overwrite, clock)
    size, highest = _frame_of(trained, order.shape)
    rows, remarks = _given(trained, data, order.on_bad_file)
    values, columns, told = _DRAW[order.kind](trained, rows, order)
    pictures = drawing.shades(values.view(-1, *size).numpy(), highest)
    if target.suffix.lower() == ".gif":
        if order.kind not in _MOVING:
            raise UsageError(
                "E222",
                f"{order.kind} are not animated: {target.name} must end in .png",
                fix=f"--out {target.with_suffix('.png')}",
            )
        moving = pictures.reshape(-1, columns, *pictures.shape[1:])
        side = max(1, round(len(moving) ** 0.5))
        frames = [drawing.grid(moving[:, step], side) for step in range(columns)]
    else:
        frames = [drawing.grid(pictures, columns)]
    written = drawing.write(frames, target, overwrite=overwrite)
    height, width = frames[0].shape[:2]
    facts = {
        "kind": order.kind,
        "pictures": len(pictures),
        "frames": len(frames),
        "size": [width, height],
        "seconds": clock(),
        **remarks.facts,
    }
    lines = [f"{len(pictures)} pictures, {width} x {height} pixels, {clock():.1f} s", *told]
    return Result(facts, lines=lines, notes=remarks.lines, path=written)


def _before_after(  # noqa: PLR0913, PLR0917 - the arguments of `plot`, and what it has made
    trained: Model, data: Any, order: Order, target: Path, overwrite: bool, clock: Clock
) -> Result:
    """Draw pictures before and after in rows: whole, then in detail."""
    policy = order.on_bad_file or POLICIES[0]
    parsing.one_of(policy, POLICIES, "--on-bad-file")
    if target.suffix.lower() != ".png":
        raise UsageError(
            "E222",
            f"{order.kind} is not animated: {target.name} must end in .png",
            fix=f"--out {target.with_suffix('.png')}",
        )
    found = before_after.examples(
        trained, data, count=order.n, seed=order.seed, on_bad_file=policy
    )
    pages = [
        drawing.thumbnail(drawing.enlarged(page, _SIDE), _SIDE)
        for each in found.shown
        for page in (*each.whole, *each.detail)
    ]
    frame = drawing.grid(np.stack(pages), len(pages) // len(found.shown))
    written = drawing.write([frame], target, overwrite=overwrite)
    height, width = frame.shape[:2]
    facts = {
        "kind": order.kind,
        "pictures": len(found.shown),
        "size": [width, height],
        "seconds": clock(),
        **left_out(found),
    }
    third = "error" if trained.encodes else "uncertainty"
    return Result(
        facts,
        lines=[
            f"{len(found.shown)} of {found.total:,} pictures, {width} x {height} pixels, "
            f"{clock():.1f} s",
            f"before, after and {third}; then the outlined detail",
            *(f"{each.name}: {each.told}" for each in found.shown),
        ],
        notes=list(found.notes),
        path=written,
    )


def _given(trained: Model, data: Any, on_bad_file: str | None) -> tuple[Rows | None, Remarks]:
    """Read the given pictures, if any; return them and remarks about them."""
    if data is None:
        return None, Remarks()
    frame, coded = trained.encode(open_for(trained, data, on_bad_file=on_bad_file))
    return coded.rows, Remarks.of(frame, coded)


def _frame_of(trained: Model, shape: str | None) -> tuple[tuple[int, int, int], float]:
    """Return (C, H, W) of a picture, and the value of white."""
    if isinstance(trained.coding, PictureCoding):
        size = trained.coding.arguments()["shape"]
        return (size[0], size[1], size[2]), LEVELS if trained.coding.kind == "codes" else 1.0
    restoration = trained.recipe.restoration
    if restoration is not None:
        raise UsageError(
            "E247",
            f"plot needs a generative model of pictures, and the recipe "
            f"{trained.recipe.name!r} only {restoration.does}",
            fix=restoration.use(),
        )
    cells = sum(len(group.parts) for group in trained.coding.groups)
    found = re.fullmatch(r"(\d+)x(\d+)", shape or "")
    if found is None or int(found[1]) * int(found[2]) != cells:
        got = "no shape" if shape is None else f"{shape!r}"
        raise UsageError(
            "E232" if shape is None else "E237",
            f"--shape must be HEIGHTxWIDTH with a product of {cells}, because the model was "
            f"fitted on {cells} columns and not on pictures; got {got}",
            fix=f"--shape HEIGHTxWIDTH, whose product is {cells}",
        )
    return (1, int(found[1]), int(found[2])), 1.0


Drawn = tuple[Tensor, int, list[str]]  # values, pictures per row, lines


def _samples(trained: Model, rows: Any, order: Order) -> Drawn:
    drawn = gallery.samples(
        trained.model, order.n**2, seed=order.seed, temperature=order.temperature
    )
    return drawn, order.n, []


def _reconstructions(trained: Model, rows: Any, order: Order) -> Drawn:
    source = noise.generator("plot", order.seed)
    chosen = torch.randperm(len(rows), generator=source)[: order.n]
    x = rows.take(chosen).x
    again = draws.reconstruct(trained.model, Dense(x))
    return torch.cat([x, again.view_as(x)]), len(x), ["originals above, reconstructions below"]


def _traversal(trained: Model, rows: Any, order: Order) -> Drawn:
    """Vary the most used latents; without data, those that change the picture most."""
    if rows is None:
        drawn = gallery.samples(trained.model, ROWS_LOOKED_AT, seed=order.seed)
        rows = Dense(drawn)
    some = Dense(rows.take(torch.arange(min(len(rows), ROWS_LOOKED_AT))).x)
    activity = latent_use.latent_use(trained.model, some).activity
    dimensions = gallery.most_used(activity, order.n)
    z = draws.embed(trained.model, some).mean(0)
    values = gallery.traversal(trained.model, z, dimensions, order.n)
    told = ", ".join(map(str, dimensions))
    return values, order.n, [f"a row per latent, the most used ones first: {told}"]


def _interpolation(trained: Model, rows: Any, order: Order) -> Drawn:
    ends = rows.take(torch.tensor([0, min(1, len(rows) - 1)])).x
    return gallery.interpolation(trained.model, ends, order.n), order.n, []


def _manifold(trained: Model, rows: Any, order: Order) -> Drawn:
    return gallery.manifold(trained.model, trained.latent, order.n), order.n, []


def _levels(trained: Model, rows: Any, order: Order) -> Drawn:
    names, values = gallery.levels(
        trained.model, order.n, seed=order.seed, temperature=order.temperature
    )
    return values, order.n, [f"rows keep the levels up to: {', '.join(names)}"]


_DRAW = {
    "samples": _samples,
    "reconstructions": _reconstructions,
    "traversal": _traversal,
    "interpolation": _interpolation,
    "manifold": _manifold,
    "levels": _levels,
}
