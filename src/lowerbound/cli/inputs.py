"""What verbs do about pictures: how they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound.cli import parsing
from lowerbound.cli.outputs import open_data, renamed
from lowerbound.errors import UsageError
from lowerbound.files.pictures.bad_files import POLICIES
from lowerbound.files.pictures.options import Wanted
from lowerbound.files.read import Frame, walk
from lowerbound.files.stream import Given

if TYPE_CHECKING:
    from lowerbound.recipes import Recipe
    from lowerbound.tasks.trained import Trained


def wanted(size: object = None, on_bad_file: str | None = None) -> Wanted:
    """Read --size and --on-bad-file.

    Raises:
        UsageError: E231 for a size that is none, E241 for another policy.
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


def refuse_flags(recipe: Recipe, how: Wanted, targets: str | None) -> None:
    """Refuse flags of a fit that the recipe has no use for.

    Raises:
        UsageError: E236.
    """
    restores = recipe.restoration is not None
    if targets is not None and not restores:
        known = import_module("lowerbound.recipes").RECIPES.items()
        names = [name for name, each in known if each.restoration is not None]
        raise UsageError(
            "E236",
            f"--targets is for {', '.join(names)}, not for {recipe.name}",
            fix=f"--recipe {names[-1]} --targets MASKS, or leave it out",
        )
    if how.size is not None and restores:
        raise UsageError(
            "E236",
            f"a {recipe.name} model learns from crops of pictures of any sizes: --size has no use",
            fix="leave --size out",
        )


def opened(data: Any, rename: Any, how: Wanted, recipe: Recipe, targets: str | None) -> Given:
    """Read the data of a fit: rows, pictures of one size, or of any sizes for restoring.

    Raises:
        UsageError: E201 for a recipe that restores pictures where no files of any are given.
    """
    if recipe.restoration is None:
        return renamed(data if isinstance(data, Given) else walk(data, wanted=how), rename)
    if isinstance(data, Frame):
        return data
    if not isinstance(data, str | os.PathLike):
        raise UsageError(
            "E201",
            f"the recipe {recipe.name} learns from picture files, and a {type(data).__name__} is "
            "given",
            fix="give a folder of pictures",
        )
    pairs = import_module("lowerbound.coding.pairs")  # torch: --help does not wait for it
    return pairs.read_pairs(data, targets, recipe.restoration, how.on_bad_file)
