"""What verbs do about pictures: how they are read, and which model suits them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lowerbound.data.badfiles import POLICIES
from lowerbound.data.native import Frame
from lowerbound.data.wanted import Wanted
from lowerbound.verbs import parsing
from lowerbound.verbs.outputs import open_data

if TYPE_CHECKING:
    from lowerbound.trained import Trained

LADDER_CELLS = 4096  # pixels times channels up to which a ladder learns in minutes on a CPU
USUAL_SECONDS = 300.0  # of learning from pictures, where neither preset nor time is chosen


def wanted(size: object = None, on_bad_file: str | None = None) -> Wanted:
    """Read --size and --on-bad-file.

    Raises:
        UsageError: E231 or E240 for a size that is none, E241 for another policy.
    """
    chosen = None if size is None else parsing.size(size, "--size")
    return Wanted(chosen, on_bad_file=_policy(on_bad_file))


def wanted_by(trained: Trained, on_bad_file: str | None = None) -> Wanted:
    """Return how pictures must be read for a model."""
    return replace(trained.coding.wanted(), on_bad_file=_policy(on_bad_file))


def open_for(
    trained: Trained,
    data: object,
    rename: Mapping[str, str] | Sequence[str] = (),
    on_bad_file: str | None = None,
) -> Frame:
    """Read data as a model takes them: pictures in files come in its size and colours."""
    return open_data(data, rename, wanted=wanted_by(trained, on_bad_file))


def _policy(text: str | None) -> str:
    if text is None:
        return POLICIES[0]
    parsing.one_of(text, POLICIES, "--on-bad-file")
    return text


def usual_plan(frame: Frame, given: Mapping[str, object]) -> dict[str, Any]:
    """Return what a fit to pictures takes where no recipe is chosen.

    Small pictures have a ladder, large ones a single level, whose steps cost a quarter as much;
    the coarsest scale of both is about four pixels wide, so that it sees the whole picture.

    Args:
        frame: the data; nothing is returned where they are no pictures.
        given: the fields of the plan that were chosen: how long to learn is left to them.
    """
    if not frame.shape:
        return {}
    sides = sorted(n for n in frame.shape if n > 4) or [1]
    scales = max(1, (sides[0] // 4).bit_length() - 1)
    if math.prod(frame.shape) <= LADDER_CELLS:
        plan: dict[str, Any] = {"recipe": "conv_ladder"}
        plan["settings"] = {"groups": [1] * min(3, scales), "channels": 16}
    else:
        widths = [16, 32, *[64] * max(1, scales - 2)]
        plan = {"recipe": "conv", "settings": {"channels": widths}}
    if all(given.get(name) is None for name in ("preset", "max_epochs", "time_limit")):
        plan["time_limit"] = USUAL_SECONDS
    return plan
