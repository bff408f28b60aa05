"""A VAE for binary data: one level between two networks, with a Bernoulli likelihood."""

from __future__ import annotations

from collections.abc import Sequence

from lowerbound.coding.tables import BitsCoding
from lowerbound.nn.distributions.families import Bits
from lowerbound.nn.distributions.table_rows import WithMissing
from lowerbound.nn.model import LatentModel
from lowerbound.nn.networks.mlp import NONLINEARITIES, FilledReader
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.record import Recipe
from lowerbound.recipes.vectors import vector


def binary(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    features: int,
    latent: int = 50,
    hidden: Sequence[int] = (200, 200),
    layers: str = "silu",
    missing: bool = False,
    components: int = 0,
    prior: str = "standard",
    pseudo_inputs: int = 500,
) -> LatentModel:
    """A VAE for binary data, (B, features) of 0 and 1, with an independent Bernoulli per column.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, appendix C.1.

    Args:
        features: number of columns.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        layers: nonlinearity of the two networks: "silu", "relu", "tanh" or "gated".
        missing: give the encoder indicators of missing values.
        components: components of a mixture prior fitted after training; 0 keeps `prior`.
        prior: the prior in training: "standard", "mixture", "flow", "vamp" or "exemplar".
        pseudo_inputs: number of the prior's components, pseudo-inputs or exemplars, if any.
    """
    reader = FilledReader(features, missing)
    return vector(
        reader,
        reader.width,
        WithMissing(Bits()),
        features=features,
        latent=latent,
        hidden=hidden,
        components=components,
        prior=prior,
        pseudo_inputs=pseudo_inputs,
        after=choice("layers", layers, NONLINEARITIES),
        bounds=(0.0, 1.0),
    )


BINARY = Recipe(binary, lambda settings: BitsCoding)
