"""Choose a recipe for data, where the user chose none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.cli.outputs import open_data, renamed
from lowerbound.files.data import Data
from lowerbound.files.pictures.options import Wanted
from lowerbound.files.read import may_be_cells, may_be_pictures, walk

FINEST = 32  # latents of a side at most: such a ladder learns in minutes on a CPU
USUAL_SECONDS = 300.0  # of learning from pictures, where neither preset nor time is chosen


def suited(
    data: Any,
    rename: Mapping[str, str] | Sequence[str],
    wanted: Wanted,
    given: Mapping[str, object],
) -> tuple[Data | None, dict[str, Any]]:
    """Return the data, if they had to be opened, and the settings of a fit without a recipe.

    Args:
        data: the data of the fit.
        rename: THEIRS=OURS pairs.
        wanted: options for picture files.
        given: the fields of the plan that the user chose.
    """
    if may_be_cells(data):
        cells = renamed(walk(data), rename)
        return cells, {"recipe": "counts"} if next(iter(cells.parts())).holds_counts else {}
    if may_be_pictures(data):
        frame = open_data(data, rename, wanted=wanted)
        return frame, usual_plan(frame, given)
    return None, {}


def spell_choice(plan: Any) -> str:
    """Return the line that names the chosen recipe and the flags that choose another."""
    if plan.recipe == "counts":
        return "recipe     counts, which suits raw counts of cells; --recipe chooses another"
    settings = ", ".join(f"{name}={value}" for name, value in plan.settings.items())
    limit = "" if plan.time_limit is None else f" for at most {plan.time_limit:.0f} s"
    return (
        f"recipe     {plan.recipe} ({settings}){limit}, which suits pictures of this size; "
        "--recipe, --preset and --time-limit choose another"
    )


def usual_plan(frame: Data, given: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings of a fit to images without a recipe.

    It is a ladder: of photographs of 128 x 128 it had a higher bound after equal time than one
    level of latents (benchmarks/results/picture_choice.json). Of a picture of any size it has at
    most about `FINEST` x `FINEST` latents of a channel, so that a step costs about the same; its
    coarsest scale is at least four pixels wide.

    Args:
        frame: the data; {} is returned unless they are images.
        given: the fields of the plan that the user chose, which may limit the training time.
    """
    if not frame.shape:
        return {}
    sides = sorted(n for n in frame.shape if n > 4) or [1]
    blocks = max(1, math.ceil(math.log2(math.sqrt(math.prod(sides[-2:])) / FINEST)))
    scales = max(1, (sides[0] // 4).bit_length() - blocks)
    settings: dict[str, Any] = {"groups": [1] * min(3, scales), "channels": 16}
    if blocks > 1:
        settings["blocks"] = blocks
    plan: dict[str, Any] = {"recipe": "conv_ladder", "settings": settings}
    if all(given.get(name) is None for name in ("preset", "max_epochs", "time_limit")):
        plan["time_limit"] = USUAL_SECONDS
    return plan
