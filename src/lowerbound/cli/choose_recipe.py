"""Choose a recipe that suits the data, if the user has not chosen one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowerbound.cli.outputs import open_data, renamed
from lowerbound.files.data import Data
from lowerbound.files.pictures.options import Wanted
from lowerbound.files.read import may_be_cells, may_be_pictures, walk
from lowerbound.recipes import Choice, suggest

if TYPE_CHECKING:
    from lowerbound.tasks.trained import Model

NOTHING: tuple[None, Choice] = (None, Choice({}))


def suited(
    data: Any,
    rename: Mapping[str, str] | Sequence[str],
    wanted: Wanted,
    chosen: Mapping[str, object],
    start: Model | None = None,
) -> tuple[Data | None, Choice]:
    """Return the data, if they had to be opened, and the plan fields that suit them.

    Args:
        data: the input of the fit.
        rename: THEIRS=OURS pairs.
        wanted: size and channels of pictures that are read, and the layer of cells.
        chosen: the plan fields that the user has set; with a recipe, nothing is opened.
        start: the model that the fit starts from, whose recipe it has.
    """
    if start is not None:
        return None, Choice({"recipe": start.recipe.name})
    if chosen.get("recipe"):
        return NOTHING
    if may_be_cells(data):
        cells = renamed(walk(data, wanted=wanted), rename)
        return cells, suggest(next(iter(cells.parts())), chosen)
    if may_be_pictures(data):
        frame = open_data(data, rename, wanted=wanted)
        return frame, suggest(frame, chosen)
    return NOTHING


def spell_choice(plan: Any, reason: str) -> str:
    """Return a line that names the chosen recipe and how to choose another."""
    settings = ", ".join(f"{name}={value}" for name, value in plan.settings.items())
    limit = "" if plan.time_limit is None else f" for at most {plan.time_limit:.0f} s"
    told = f"{plan.recipe.name}{f' ({settings})' * bool(settings)}{limit}"
    return f"recipe     {told}, which suits {reason}; --recipe chooses another"
