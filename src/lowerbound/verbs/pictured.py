"""What verbs do about pictures: how they are read, and which model suits them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound.data.badfiles import POLICIES
from lowerbound.data.source import Frame, walk
from lowerbound.data.streams import Given
from lowerbound.data.wanted import Wanted
from lowerbound.errors import UsageError
from lowerbound.verbs import parsing
from lowerbound.verbs.outputs import open_data, renamed

if TYPE_CHECKING:
    from lowerbound.trained import Trained

FINEST = 32  # latents of a side at most: such a ladder learns in minutes on a CPU
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


def walk_for(
    trained: Trained,
    data: object,
    rename: Mapping[str, str] | Sequence[str] = (),
    on_bad_file: str | None = None,
) -> Given:
    """Return data to be worked on part by part, as a model takes them."""
    known = isinstance(data, Given)
    return renamed(data if known else walk(data, wanted=wanted_by(trained, on_bad_file)), rename)


def _policy(text: str | None) -> str:
    if text is None:
        return POLICIES[0]
    parsing.one_of(text, POLICIES, "--on-bad-file")
    return text


def opened(data: Any, rename: Any, how: Wanted, recipe: str, targets: str | None) -> Given:
    """Read the data of a fit: rows, pictures of one size, or of any sizes for restoring.

    Raises:
        UsageError: E236 for flags that the recipe has no use for.
    """
    pairs = import_module("lowerbound.data.pairs")  # torch: seconds that --help does not wait
    if not pairs.restores(recipe):
        if targets is not None:
            raise UsageError(
                "E236",
                f"--targets is for denoise, upscale, inpaint and segment, not for {recipe}",
                fix="--recipe segment --targets MASKS, or leave it out",
            )
        return renamed(data if isinstance(data, Given) else walk(data, wanted=how), rename)
    if how.size is not None:
        raise UsageError(
            "E236",
            f"a {recipe} model learns from crops of pictures of any sizes: --size has no use",
            fix="leave --size out",
        )
    if isinstance(data, Frame):
        return data
    if not isinstance(data, str | os.PathLike):
        raise UsageError(
            "E201",
            f"the recipe {recipe} learns from picture files, and a {type(data).__name__} is given",
            fix="give a folder of pictures",
        )
    return pairs.read_pairs(data, targets, recipe, how.on_bad_file)


def usual_plan(frame: Frame, given: Mapping[str, object]) -> dict[str, Any]:
    """Return what a fit to pictures takes where no recipe is chosen.

    It is a ladder: of photographs of 128 x 128 it had a higher bound after equal time than one
    level of latents (benchmarks/results/picture_choice.json). Of a picture of any size it has at
    most about `FINEST` x `FINEST` latents of a channel, so that a step costs about the same; its
    coarsest scale is at least four pixels wide.

    Args:
        frame: the data; nothing is returned where they are no pictures.
        given: the fields of the plan that were chosen: how long to learn is left to them.
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
