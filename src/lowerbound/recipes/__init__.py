"""Named models: functions that compose parts into a `LatentModel`.

A recipe's keyword arguments are plain JSON values: a saved model stores them, resolved, and is
rebuilt by calling the recipe again.
"""

from __future__ import annotations

import inspect
from typing import Any

from lowerbound.errors import UsageError, nearest
from lowerbound.model import LatentModel
from lowerbound.recipes.binary import binary
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.counts import counts
from lowerbound.recipes.tables import table
from lowerbound.recipes.vectors import beta, gaussian, sigma

__all__ = ["beta", "binary", "counts", "gaussian", "sigma", "table"]

DEFAULT_BETA = {"beta": 4.0}  # the weight of the rate that a recipe trains with, where not 1


def build(name: str, arguments: dict[str, Any]) -> LatentModel:
    """Return the model of the recipe `name`.

    Raises:
        UsageError: E241 for an unknown recipe, E242 for an argument it does not have.
    """
    recipe = choice("recipe", name, {n: globals()[n] for n in __all__})
    known = inspect.signature(recipe).parameters
    for argument in arguments:
        if argument not in known:
            raise UsageError(
                "E242",
                f"the recipe {name!r} has no argument {argument!r} (it has {', '.join(known)})",
                fix=f"did you mean {nearest(argument, known) or next(iter(known))!r}?",
            )
    return recipe(**arguments)
