"""Start a fit from the weights of another model, whose network the new model shares."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lowerbound.errors import UsageError
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import Recipe
from lowerbound.tasks.objective_settings import OBJECTIVE
from lowerbound.tasks.trained import Model
from lowerbound.training.plan import Plan

RATE = 0.1  # factor on the peak learning rate, since larger steps undo what is learned already


def start_of(model: Model | str | os.PathLike[str]) -> Model:
    """Return the model that a fit starts from: itself, or the one at a path or of a name.

    Raises:
        ModelFileError: E1xx if there is no intact model.
        UsageError: E246 for a model of a recipe that fits cannot start from.
    """
    start = model if isinstance(model, Model) else Model.load(os.fspath(model))
    if start.recipe.restoration is None:
        raise UsageError(
            "E246",
            f"a fit cannot start from a model of the recipe {start.recipe.name!r}: only from one "
            "that restores or encodes pictures of any size",
            fix="leave --from out",
        )
    return start


def channels_of(start: Model | None) -> int | None:
    """Return the channels that pictures are read with for a fit; None is as they are."""
    return None if start is None else int(start.arguments["channels"])


def recipe_of(recipe: Any, start: Model | None) -> Any:
    """Return the recipe of a fit: the chosen one, or else that of the model it starts from."""
    return start.recipe if recipe is None and start is not None else recipe


def started(plan: Plan, start: Model | None) -> Plan:
    """Return the plan with the settings of the network of the model that a fit starts from.

    Without such a model, the plan is returned as it is.

    Raises:
        UsageError: E236 for another recipe, or a setting that would change the network.
    """
    if start is None:
        return plan
    recipe, known = start.recipe, _arguments(start)
    if plan.recipe.name != recipe.name:
        raise _conflict(f"the recipe {plan.recipe.name}", f"of the recipe {recipe.name}")
    given = {name: value for name, value in plan.settings.items() if name not in OBJECTIVE}
    if plan.latent is not None:
        given["latent"] = plan.latent
    for name, value in given.items():
        if name in known and value != known[name] and name not in recipe.in_training:
            raise _conflict(f"{name}={value}", f"with {name}={known[name]}")
    network = {
        name: value
        for name, value in start.arguments.items()
        if name not in recipe.from_data and name != "latent"
    }
    latent = known.get("latent", plan.latent)
    return replace(plan, settings={**network, **plan.settings}, latent=latent)


def _arguments(start: Model) -> dict[str, Any]:
    """Return all arguments of a model's recipe, with defaults filled in."""
    defaults = {name: known.default for name, known in start.recipe.parameters.items()}
    return {**defaults, **start.arguments}


def _conflict(asked: str, has: str) -> UsageError:
    return UsageError(
        "E236",
        f"{asked} and a start from a model {has} cannot be combined: the network is that of the "
        "model",
        fix="leave one of them out",
    )


def load_start(
    network: LatentModel, recipe: Recipe, arguments: Mapping[str, Any], start: Model
) -> None:
    """Load the weights of the model that a fit starts from into a new network.

    Args:
        network: the network, built by the recipe with `arguments`.
        recipe: the recipe of both models.
        arguments: the arguments of the new network.
        start: the model.

    Raises:
        UsageError: E236 if the data need another network, such as one of more classes.
    """
    known = _arguments(start)
    for name, value in arguments.items():
        if name not in recipe.in_training and value != known[name]:
            raise _conflict(f"data with {name}={value}", f"with {name}={known[name]}")
    network.load_state_dict(start.model.state_dict())


def digest(start: Model) -> str:
    """Return the SHA-256 of the weights that a fit starts from."""
    found = hashlib.sha256()
    for name, tensor in start.model.state_dict().items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return found.hexdigest()
