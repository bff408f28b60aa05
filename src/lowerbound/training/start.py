"""Start a fit from the weights of a saved model."""

from __future__ import annotations

from typing import Any

from torch import nn

from lowerbound.errors import UsageError
from lowerbound.tasks.trained import Model, load


def terms(start: str, recipe: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe and the settings of a fit that starts from a saved model.

    Args:
        start: path or name of the model.
        recipe: name of the recipe that was asked for, or None.
        settings: the settings that were asked for; the others are those of the model.

    Raises:
        ModelFileError: E1xx if it is no intact model.
        UsageError: E236 for a model of rows, or one of another recipe.
    """
    found = _pictures(start)
    if recipe is not None and recipe != found.recipe.name:
        raise UsageError(
            "E236",
            f"the recipe is {recipe}, and the model {start} to start from is of the recipe "
            f"{found.recipe.name}",
            fix="leave --recipe out: it is that of the model",
        )
    theirs = found.facts.get("plan", {}).get("settings", {})
    return {"recipe": found.recipe.name, "settings": {**theirs, **settings}}


def channels_of(start: str | None) -> int | None:
    """Return the channels of the pictures of a saved model, in which those of a fit are read.

    Args:
        start: path or name of the model; None for a fit that starts from none.
    """
    if start is None:
        return None
    found = _pictures(start)
    if found.command:  # pictures of other channels are restored channel by channel
        return int(found.arguments["channels"])
    return found.coding.wanted().channels


def take_weights(model: nn.Module, start: str) -> None:
    """Give a new model the weights of a saved one.

    Args:
        model: the model.
        start: path or name of the saved one.

    Raises:
        ModelFileError: E1xx if it is no intact model.
        UsageError: E236 if it has other weights.
    """
    theirs, own = _pictures(start).model.state_dict(), model.state_dict()
    differ = [
        name
        for name in sorted(theirs.keys() | own.keys())
        if name not in theirs or name not in own or theirs[name].shape != own[name].shape
    ]
    if differ:
        raise UsageError(
            "E236",
            f"the model {start} to start from has other weights than this fit: {len(differ)} "
            f"differ, such as {differ[0]}",
            fix="leave out the settings that change the network",
        )
    model.load_state_dict(theirs)


def _pictures(start: str) -> Model:
    found = load(start)
    if found.holds == "pictures":
        return found
    raise UsageError(
        "E236",
        f"{start} is a model of rows, whose weights belong to the coding of its own columns; a "
        "fit can start from a model of pictures",
        fix="leave --from out",
    )
