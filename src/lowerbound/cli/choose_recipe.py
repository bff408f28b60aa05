"""Choose a recipe for data for which the user has chosen none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lowerbound.cli.outputs import open_data, renamed
from lowerbound.files.frame import Frame
from lowerbound.files.pictures.options import Wanted
from lowerbound.files.read import may_be_cells, may_be_pictures, walk
from lowerbound.files.stream import Given
from lowerbound.recipes import RECIPES


class Choice(NamedTuple):
    """Fields of a plan that suit the data, and why.

    Attributes:
        plan: fields of the plan, the recipe among them; empty where the default suits.
        reason: the data that they suit, as the end of a sentence.
    """

    plan: Mapping[str, Any]
    reason: str = ""


NOTHING: tuple[None, Choice] = (None, Choice({}))


def suited(
    data: Any,
    rename: Mapping[str, str] | Sequence[str],
    wanted: Wanted,
    chosen: Mapping[str, object],
) -> tuple[Given | None, Choice]:
    """Return the data, if they had to be opened, and the recipe that suits them.

    Args:
        data: what the fit is given.
        rename: THEIRS=OURS pairs.
        wanted: size and channels of pictures that are read.
        chosen: the fields of the plan that the user has chosen.
    """
    if may_be_cells(data):
        cells = renamed(walk(data), rename)
        return cells, suggested(next(iter(cells.parts())), chosen)
    if may_be_pictures(data):
        frame = open_data(data, rename, wanted=wanted)
        return frame, suggested(frame, chosen)
    return NOTHING


def suggested(frame: Frame, chosen: Mapping[str, object]) -> Choice:
    """Return what the first recipe that suits the data suggests."""
    for recipe in RECIPES.values():
        found = None if recipe.suits is None else recipe.suits(frame, chosen)
        if found is not None:
            return Choice({"recipe": recipe.name, **found.fields}, found.reason)
    return Choice({})


def spell_choice(plan: Any, reason: str) -> str:
    """Say which recipe was chosen, and how to choose another."""
    settings = ", ".join(f"{name}={value}" for name, value in plan.settings.items())
    limit = "" if plan.time_limit is None else f" for at most {plan.time_limit:.0f} s"
    told = f"{plan.recipe.name}{f' ({settings})' * bool(settings)}{limit}"
    return f"recipe     {told}, which suits {reason}; --recipe chooses another"
