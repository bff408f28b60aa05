"""Named models: functions that compose parts into a `LatentModel`.

- vectors: one level between two MLPs: gaussian, beta, sigma, iaf
- tables, binary, counts: mixed columns, columns of 0 and 1, counts of single cells
- hierarchies: several levels over columns: ladder
- images, towers: pictures: conv, conv_ladder, nvae
- codes: vector-quantised pictures: vqvae, vqvae2
- restoration: one picture given another: denoise, upscale, inpaint, segment
- choosing, latent_parts: parts that an argument names

A recipe's keyword arguments are plain JSON values: a saved model stores them, resolved, and is
rebuilt by calling the recipe again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lowerbound.errors import UsageError, nearest
from lowerbound.nn.model import LatentModel
from lowerbound.recipes.binary import binary
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.codes import vqvae, vqvae2
from lowerbound.recipes.counts import counts
from lowerbound.recipes.hierarchies import ladder
from lowerbound.recipes.images import conv
from lowerbound.recipes.restoration import denoise, inpaint, segment, upscale
from lowerbound.recipes.tables import table
from lowerbound.recipes.towers import conv_ladder, nvae
from lowerbound.recipes.vectors import beta, gaussian, iaf, sigma

__all__ = [
    "beta",
    "binary",
    "conv",
    "conv_ladder",
    "counts",
    "denoise",
    "gaussian",
    "iaf",
    "inpaint",
    "ladder",
    "nvae",
    "segment",
    "sigma",
    "table",
    "upscale",
    "vqvae",
    "vqvae2",
]

# Settings of the objective that a recipe is trained with where none are given.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "beta": {"beta": 4.0},
    "conv_ladder": {"balance": True},
    "nvae": {"balance": True, "spectral": 0.01},
    # Without it a few minutes of training leave masks from the prior far behind a U-Net's.
    "segment": {"prior_share": 0.5},
}

# Recipes that learn to make one picture of another, from crops of thousands of pixels.
RESTORING = ("denoise", "inpaint", "segment", "upscale")

# Arguments that a fit gives a recipe where none are given: those of a model file are its own. Few
# places are what a PixelCNN learns well: pictures drawn from codes of 4 x 4 and 2 x 2 places are
# nearer to digits than those of four times as many, and the codes nearly as faithful.
ARGUMENTS: dict[str, dict[str, Any]] = {"vqvae2": {"halvings": 3}}

# Rows of a step where a preset's are too many: crops, cells of so many layers that 128 small
# pictures take a core a quarter of a minute, and PixelCNNs, a second.
BATCHES: dict[str, int] = dict.fromkeys((*RESTORING, "nvae", "vqvae", "vqvae2"), 16)

# Recipes that are fitted in two stages: with these arguments first; then as they were asked for,
# with only the priors left to learn.
FIRST_STAGES: dict[str, dict[str, Any]] = {
    "vqvae": {"prior": "uniform"},
    "vqvae2": {"prior": "uniform"},
}


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """Return what the recipe `name` takes.

    Raises:
        UsageError: E241 for an unknown recipe.
    """
    return inspect.signature(_recipe(name)).parameters


def _recipe(name: str) -> Callable[..., LatentModel]:
    return choice("recipe", name, {n: globals()[n] for n in __all__})


def build(name: str, arguments: dict[str, Any]) -> LatentModel:
    """Return the model of the recipe `name`.

    Raises:
        UsageError: E241 for an unknown recipe, E242 for an argument it does not have.
    """
    known = parameters(name)
    for argument in arguments:
        if argument not in known:
            raise UsageError(
                "E242",
                f"the recipe {name!r} has no argument {argument!r} (it has {', '.join(known)})",
                fix=f"did you mean {nearest(argument, known) or next(iter(known))!r}?",
            )
    return _recipe(name)(**arguments)
