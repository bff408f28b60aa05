"""A VAE for tables with columns of mixed kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from lowerbound.nn.distributions.chains import Chain, ChainLayout
from lowerbound.nn.distributions.families import Family, Gaussian, LaplaceFamily, Student
from lowerbound.nn.distributions.table_rows import Table
from lowerbound.nn.model import LatentModel
from lowerbound.nn.networks.mlp import Empty, TableFeatures, ValueDropout
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.record import Recipe, of_tables
from lowerbound.recipes.vectors import vector

TREE_ABOVE = 1000  # levels; below it, one softmax takes as long as the tree

_REALS: dict[str, Callable[[float], Family]] = {
    "gaussian": Gaussian,
    "student": Student,
    "laplace": LaplaceFamily,
}


def table(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    families: Sequence[str],
    sizes: Sequence[int],
    latent: int = 16,
    hidden: Sequence[int] = (128, 128),
    likelihood: str = "gaussian",
    gaps: float | None = None,
    components: int = 0,
    floor: float = 0.15,
    reserved: Sequence[float] = (),
    tree_above: int | None = None,
    chain: ChainLayout | None = None,
    proposal: bool = False,
) -> LatentModel:
    """A VAE for tables with columns of mixed kinds, each with a likelihood of its kind.

    Missing values are NaN.

    Args:
        families: "real", "count", "binary", "categorical" or "ordinal" for each coded column.
        sizes: number of codes of each coded column (1 for numbers).
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        likelihood: likelihood of real columns: "gaussian", "student" or "laplace".
        gaps: a share of the values that is hidden from the encoder of every row in training, for
            robustness; it may be 0. The encoder then gets indicators of missing values, and its
            posteriors of rows with missing values are trained (`HiddenCells`). None for neither.
        components: components of a mixture prior fitted after training; 0 is N(0, I).
        floor: smallest sigma of a real column, in units of its standard deviation. Finer
            structure is treated as rounding and does not influence the fit or the scores.
        reserved: for each coded column, the probability of categories not seen in training.
        tree_above: number of levels above which a categorical column gets a softmax in two steps
            (see `lowerbound.nn.TreeCategories`), whose cost does not grow with the levels; None
            for one softmax over all levels. A fit uses 1,000 unless told otherwise.
        chain: the layout of a chain of columns, from which rows are drawn and completed (see
            `lowerbound.nn.distributions.chains`); None draws them from the VAE. A fit measures
            the layout and trains the chain after the VAE, unless ``chain=None`` is set.
        proposal: whether the model has a proposal for importance sampling, fitted after training
            (see `lowerbound.nn.latents.importance`).
    """
    reader = TableFeatures(families, sizes, gaps is not None)
    family = Table(
        families,
        sizes,
        real=choice("likelihood", likelihood, _REALS)(floor),
        reserved=reserved,
        tree_above=tree_above,
    )
    model = vector(
        nn.Sequential(ValueDropout(gaps or 0.0), reader),
        reader.width,
        family,
        features=len(families),
        latent=latent,
        hidden=hidden,
        components=components,
        proposal=proposal,
    )
    if chain is not None:
        model.rows = row_model(families, sizes, reserved, chain)
    return model


def row_model(
    families: Sequence[str], sizes: Sequence[int], reserved: Sequence[float], chain: ChainLayout
) -> LatentModel:
    """Return a model of table rows without latents: a chain of columns; see `table`."""
    return LatentModel(nn.Identity(), [], Chain(families, sizes, reserved, **chain), Empty())


TABLE = Recipe(
    table,
    of_tables,
    example={"families": ["real"], "sizes": [1]},
    arguments={"tree_above": TREE_ABOVE},
    chained=True,
    iwae_above_missing=0.2,  # benchmarks/results/gaps_choice.json
)
