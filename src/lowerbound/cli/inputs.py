"""Read the input of commands, with the options for pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound.cli import parsing
from lowerbound.cli.outputs import open_data, renamed
from lowerbound.errors import UsageError
from lowerbound.files.data import Data, Whole
from lowerbound.files.paths import named
from lowerbound.files.pictures.bad_files import POLICIES
from lowerbound.files.pictures.options import Wanted
from lowerbound.files.read import may_be_cells, walk
from lowerbound.files.torch_datasets import is_torch_dataset

if TYPE_CHECKING:
    from lowerbound.recipes import Recipe
    from lowerbound.tasks.trained import Model


def wanted(
    size: object = None,
    on_bad_file: str | None = None,
    *,
    all_frames: bool = False,
    layer: str | None = None,
) -> Wanted:
    """Read --size, --on-bad-file, --all-frames and --layer.

    Raises:
        UsageError: E231 for an invalid size, E241 for an unknown policy.
    """
    chosen = None if size is None else parsing.size(size, "--size")
    policy = _policy(on_bad_file)
    return Wanted(chosen, on_bad_file=policy, all_frames=all_frames, layer=layer or "")


def wanted_by(trained: Model, on_bad_file: str | None = None) -> Wanted:
    """Return the options for reading pictures that a model needs."""
    return replace(trained.coding.wanted(), on_bad_file=_policy(on_bad_file))


def open_for(
    trained: Model,
    data: object,
    rename: Mapping[str, str] | Sequence[str] = (),
    on_bad_file: str | None = None,
) -> Whole:
    """Read data for a model: picture files are converted to its size and colours."""
    return open_data(data, rename, wanted=wanted_by(trained, on_bad_file))


def walk_for(
    trained: Model,
    data: object,
    rename: Mapping[str, str] | Sequence[str] = (),
    on_bad_file: str | None = None,
) -> Data:
    """Open data for a model, to be processed part by part."""
    return renamed(walk(data, wanted=wanted_by(trained, on_bad_file)), rename)


def _policy(text: str | None) -> str:
    if text is None:
        return POLICIES[0]
    parsing.one_of(text, POLICIES, "--on-bad-file")
    return text


def refuse_flags(recipe: Recipe, how: Wanted, targets: str | None, data: object = None) -> None:
    """Raise an error for flags of a fit that do not apply to the recipe or the data.

    Raises:
        UsageError: E236.
    """
    if how.layer and not may_be_cells(data):
        raise UsageError(
            "E236",
            f"--layer {how.layer} is of an AnnData, and the data are not",
            fix="leave --layer out",
        )
    task = recipe.restoration
    if targets is not None and (task is None or not task.paired):
        known = import_module("lowerbound.recipes").RECIPES.items()
        names = [name for name, each in known if each.restoration and each.restoration.paired]
        raise UsageError(
            "E236",
            f"--targets is for {', '.join(names)}, not for {recipe.name}",
            fix=f"--recipe {names[-1]} --targets MASKS, or leave it out",
        )
    if how.size is not None and task is not None:
        raise UsageError(
            "E236",
            f"--size does not apply to {recipe.name}, which uses crops of pictures of any size",
            fix="leave --size out",
        )


def opened(
    data: Any,
    rename: Any,
    how: Wanted,
    recipe: Recipe,
    targets: str | None,
    channels: int | None = None,
) -> Data:
    """Read the data of a fit: rows, images of one size, or image pairs for restoration.

    Args:
        data: what the user gave.
        rename: THEIRS=OURS pairs.
        how: the options for reading pictures.
        recipe: the recipe of the fit.
        targets: the pictures to make, if any.
        channels: of pictures that are restored, 1 or 3; None takes 1 where all are grey.

    Raises:
        UsageError: E201 for a recipe that restores pictures, if the data are not picture files.
    """
    if recipe.restoration is None:
        return renamed(walk(data, wanted=how), rename)
    if isinstance(data, Data) or is_torch_dataset(data):
        return walk(data)
    if not named(data):
        raise UsageError(
            "E201",
            f"the recipe {recipe.name} needs picture files, got a {type(data).__name__}",
            fix="give a folder of pictures, a list of picture files, or a torch Dataset of pairs",
        )
    pairs = import_module("lowerbound.coding.pairs")  # imports torch: --help does not wait
    task = recipe.restoration
    return pairs.read_pairs(data, targets, task, how.on_bad_file, how.all_frames, channels)
