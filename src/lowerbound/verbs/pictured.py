"""What verbs do about pictures: how they are read, and which model suits them."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound.data.badfiles import POLICIES
from lowerbound.data.native import Frame
from lowerbound.data.wanted import Wanted
from lowerbound.errors import UsageError
from lowerbound.verbs import parsing
from lowerbound.verbs.outputs import open_data

if TYPE_CHECKING:
    from lowerbound.trained import Trained


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


def _policy(text: str | None) -> str:
    if text is None:
        return POLICIES[0]
    parsing.one_of(text, POLICIES, "--on-bad-file")
    return text


def opened(data: Any, rename: Any, how: Wanted, recipe: str, targets: str | None) -> Frame:
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
        return open_data(data, rename, wanted=how)
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


def usual_plan(frame: Frame) -> dict[str, Any]:
    """Return what a fit to pictures takes where no recipe is chosen.

    A ladder whose coarsest scale is about four pixels wide, so that its first latents see the
    whole picture; narrow enough to learn on a CPU.
    """
    if not frame.shape:
        return {}
    sides = sorted(n for n in frame.shape if n > 4) or [1]
    scales = max(1, min(4, (sides[0] // 4).bit_length() - 1))
    return {"recipe": "conv_ladder", "settings": {"groups": [1] * scales, "channels": 16}}
