"""Named models: functions that compose parts into a `LatentModel`, with a `Recipe` for each.

- record: the class `Recipe`
- vectors: one level between two MLPs: gaussian, beta, sigma, iaf
- tables, bits, cells: mixed columns, columns of 0 and 1, counts of single cells
- hierarchies: several levels over columns: ladder
- images, towers: pictures: conv, conv_ladder, nvae
- codes: vector-quantised pictures: vqvae, vqvae2
- autoencoders: pictures of any size as maps of latents: autoencoder
- restoration: one picture given another: denoise, upscale, inpaint, segment
- choosing, latent_parts: parts chosen by name
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lowerbound.errors import UsageError
from lowerbound.files.data import Whole
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import (
    autoencoders,
    bits,
    cells,
    codes,
    hierarchies,
    images,
    restoration,
    tables,
    towers,
    vectors,
)
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.record import Recipe

# All recipes by name. To add one, define its record in its own file and list it here.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        tables.TABLE,
        vectors.GAUSSIAN,
        vectors.BETA,
        hierarchies.LADDER,
        vectors.IAF,
        vectors.SIGMA,
        bits.BINARY,
        cells.COUNTS,
        images.CONV,
        towers.CONV_LADDER,
        towers.NVAE,
        codes.VQVAE,
        codes.VQVAE2,
        autoencoders.AUTOENCODER,
        restoration.DENOISE,
        restoration.UPSCALE,
        restoration.INPAINT,
        restoration.SEGMENT,
    )
}
__all__ = ["RECIPES", "Choice", "Recipe", "find", "suggest"]


def find(recipe: str | Recipe | Callable[..., LatentModel]) -> Recipe:
    """Return the record of a recipe.

    Args:
        recipe: a name, a function that builds a model, or a record, which is returned itself.

    Raises:
        UsageError: E241 for an unknown name, E259 for a function without an argument that names
            its data (see `Recipe.of`), or with the name of a built-in recipe.
    """
    if isinstance(recipe, str):
        return choice("recipe", recipe, RECIPES)
    found = recipe if isinstance(recipe, Recipe) else Recipe.of(recipe)
    known = RECIPES.get(found.name)
    if known is not None and known.build is not found.build:
        raise UsageError(
            "E259",
            f"{found.name!r} is the name of a built-in recipe, and model files store recipes by "
            "name",
            fix=f"give your function another name, such as my_{found.name}",
        )
    return found if known is None else known


class Choice(NamedTuple):
    """The plan fields that suit data for which no recipe was chosen, and the reason.

    Attributes:
        plan: fields of the plan, including the recipe's name; empty if the defaults suit.
        reason: the kind of data, as the end of a sentence.
    """

    plan: Mapping[str, Any]
    reason: str = ""


def suggest(frame: Whole, chosen: Mapping[str, object]) -> Choice:
    """Return the suggestion of the first recipe that suits the data.

    Args:
        frame: the data, or their first part.
        chosen: the fields of the plan set by the user; None means not set.
    """
    for recipe in RECIPES.values():
        found = None if recipe.suits is None else recipe.suits(frame, chosen)
        if found is not None:
            return Choice({"recipe": recipe.name, **found.fields}, found.reason)
    return Choice({})


def __getattr__(name: str) -> Any:
    """Return the function of a recipe by name, such as ``recipes.gaussian``."""
    if name in RECIPES:
        return RECIPES[name].build
    raise AttributeError(f"module 'lowerbound.recipes' has no attribute {name!r}")
