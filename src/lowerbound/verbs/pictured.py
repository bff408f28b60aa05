"""What verbs do about pictures: how they are read, and which model suits them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lowerbound.data.badfiles import POLICIES
from lowerbound.data.native import Frame
from lowerbound.data.wanted import Wanted
from lowerbound.verbs import parsing

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
