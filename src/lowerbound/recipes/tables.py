"""A model of tables of mixed columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from lowerbound.nn.distributions.families import Family, Gaussian, LaplaceFamily, Student
from lowerbound.nn.distributions.table_rows import Table
from lowerbound.nn.model import LatentModel
from lowerbound.nn.networks.mlp import Hidden, TableFeatures
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.record import Recipe, of_tables
from lowerbound.recipes.vectors import vector

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
) -> LatentModel:
    """A table of mixed columns: each column has the likelihood of its kind; NaN is missing.

    Args:
        families: "real", "count", "binary", "categorical" or "ordinal" for every coded column.
        sizes: number of codes of every coded column (1 for numbers).
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        likelihood: of real columns: "gaussian", "student" or "laplace".
        gaps: None where no cell is ever missing; else the encoder is told which cells are, and
            this share of the cells (it may be 0) is hidden from it while training.
        components: of a mixture prior fitted after training; 0 is N(0, I).
        floor: the smallest sigma of a real column, in its standard deviations. Finer structure
            than this is taken for rounding, and does not drive the fit or the scores.
        reserved: for every coded column the probability of a category that training never saw.
    """
    reader = TableFeatures(families, sizes, gaps is not None)
    family = Table(
        families, sizes, real=choice("likelihood", likelihood, _REALS)(floor), reserved=reserved
    )
    return vector(
        nn.Sequential(Hidden(gaps or 0.0), reader),
        reader.width,
        family,
        features=len(families),
        latent=latent,
        hidden=hidden,
        components=components,
    )


TABLE = Recipe(
    table,
    of_tables,
    example={"families": ["real"], "sizes": [1]},
    iwae_above=10_000,  # benchmarks/results/synthetic_choice.json
)
