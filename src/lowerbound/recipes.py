"""Named models: functions that compose parts into a `LatentModel`.

A recipe's keyword arguments are plain JSON values: a saved model stores them, resolved, and is
rebuilt by calling the recipe again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import families
from lowerbound.errors import UsageError, nearest
from lowerbound.families import Conditional, Family
from lowerbound.joints import LibraryCounts, Table, WithMissing
from lowerbound.model import LatentModel, Level
from lowerbound.networks import MLP, Concat, Empty, Filled, Hidden, Mapped, Single, TableFeatures
from lowerbound.posteriors import Plain
from lowerbound.priors import Mixture, StandardNormal

__all__ = ["beta", "counts", "gaussian", "sigma", "table"]

DEFAULT_BETA = {"beta": 4.0}  # the weight of the rate that a recipe trains with, where not 1


def _vector(
    reader: nn.Module,
    width: int,
    family: Family,
    *,
    features: int,
    latent: int,
    hidden: Sequence[int],
    components: int,
) -> LatentModel:
    """One level between two MLPs; `reader` makes x a dense vector of `width` numbers."""
    hidden = list(hidden)
    prior = Mixture(components, latent) if components else StandardNormal(latent)
    level = Level(
        "z",
        prior,
        Plain(nn.Linear(hidden[-1], 2 * latent)),
        Concat(MLP([latent, *hidden[::-1]], active=True)),
    )
    return LatentModel(
        Single(nn.Sequential(reader, MLP([width, *hidden], active=True))),
        [level],
        Conditional(nn.Linear(hidden[0], family.numbers(features)), family),
        Empty(),
    )


def gaussian(
    features: int,
    latent: int = 16,
    hidden: Sequence[int] = (128, 128),
    sigma: float = 1.0,
    missing: bool = False,
    components: int = 0,
) -> LatentModel:
    """The Gaussian VAE: N(mu(z), sigma^2 I) with a given sigma, unit variance by default.

    Args:
        features: number of (standardised) columns.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        sigma: the likelihood's standard deviation.
        missing: give the encoder indicators of missing cells.
        components: of a mixture prior fitted after training; 0 is N(0, I).
    """
    reader = Filled(features, missing)
    family = WithMissing(families.FixedSigma(sigma))
    return _vector(
        reader,
        reader.width,
        family,
        features=features,
        latent=latent,
        hidden=hidden,
        components=components,
    )


def beta(
    features: int,
    latent: int = 16,
    hidden: Sequence[int] = (128, 128),
    missing: bool = False,
    components: int = 0,
) -> LatentModel:
    """The beta-VAE: the Gaussian VAE's model, trained with a rate of weight beta (default 4).

    With unit variance, beta plays the part of sigma^2: see `sigma`, which learns it.
    """
    return gaussian(features, latent, hidden, 1.0, missing, components)


_SIGMAS: dict[str, Callable[[int], Family]] = {
    "shared": lambda features: families.SharedSigma(),
    "optimal": lambda features: families.OptimalSigma(),
    "feature": families.FeatureSigma,
    "element": lambda features: families.Gaussian(),
    "student": lambda features: families.Student(),
    "laplace": lambda features: families.LaplaceFamily(),
}


def sigma(
    features: int,
    latent: int = 16,
    hidden: Sequence[int] = (128, 128),
    likelihood: str = "optimal",
    missing: bool = False,
    components: int = 0,
) -> LatentModel:
    """The sigma-VAE: the likelihood's scale is learned, so the two terms need no weighting.

    Args:
        features: number of (standardised) columns.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        likelihood: "optimal" (analytic), "shared", "feature", "element" (from the network), or
            "student" or "laplace" for heavier tails.
        missing: give the encoder indicators of missing cells.
        components: of a mixture prior fitted after training; 0 is N(0, I).
    """
    make = _choice("likelihood", likelihood, _SIGMAS)(features)
    # The analytic sigma handles gaps itself: it must see them to leave them out of its mean.
    family = make if likelihood == "optimal" else WithMissing(make)
    reader = Filled(features, missing)
    return _vector(
        reader,
        reader.width,
        family,
        features=features,
        latent=latent,
        hidden=hidden,
        components=components,
    )


_REALS: dict[str, Callable[[float], Family]] = {
    "gaussian": families.Gaussian,
    "student": families.Student,
    "laplace": families.LaplaceFamily,
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
        families, sizes, real=_choice("likelihood", likelihood, _REALS)(floor), reserved=reserved
    )
    return _vector(
        nn.Sequential(Hidden(gaps or 0.0), reader),
        reader.width,
        family,
        features=len(families),
        latent=latent,
        hidden=hidden,
        components=components,
    )


class GivenLibrary(nn.Module):
    """The first state of a count model: its context, log-library (and one-hot batch).

    Without a context, the training cells' mean log-library stands in.
    """

    usual: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("usual", torch.zeros(width))

    def forward(self, context: Tensor | None, batch: int) -> Tensor:
        """Return (batch, width)."""
        return self.usual.expand(batch, -1) if context is None else context


class CountsDecoder(nn.Module):
    """(context, z) -> (hidden, log-library): the library passes by the network untouched."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Return [net([h without library, z]), log-library]."""
        return torch.cat([self.net(torch.cat([h[:, 1:], z], 1)), h[:, :1]], 1)


class BesideLast(nn.Module):
    """Apply a net to all but the last number and put that number back at the end."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor) -> Tensor:
        """Return [net(h[:, :-1]), h[:, -1]]."""
        return torch.cat([self.net(h[:, :-1]), h[:, -1:]], 1)


def counts(
    features: int,
    latent: int = 10,
    hidden: Sequence[int] = (128,),
    likelihood: str = "nb",
    batches: int = 0,
    components: int = 0,
) -> LatentModel:
    """Counts with a library size, as of single cells: p(x | z, library), dispersion per gene.

    The context is (log library size, one-hot of the batch).

    References:
        Lopez et al., "Deep generative modeling for single-cell transcriptomics", 2018,
        https://doi.org/10.1038/s41592-018-0229-2

    Args:
        features: number of genes.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        likelihood: "nb", "zinb" or "poisson".
        batches: number of experimental batches in the context.
        components: of a mixture prior fitted after training; 0 is N(0, I).
    """
    _choice("likelihood", likelihood, dict.fromkeys(["nb", "zinb", "poisson"]))
    hidden = list(hidden)
    reader = Mapped(torch.ones(features), 0.0, True, Filled(features, False))
    family = LibraryCounts(features, likelihood)
    level = Level(
        "z",
        Mixture(components, latent) if components else StandardNormal(latent),
        Plain(nn.Linear(hidden[-1], 2 * latent)),
        CountsDecoder(MLP([batches + latent, *hidden[::-1]], active=True)),
    )
    return LatentModel(
        Single(nn.Sequential(reader, MLP([features, *hidden], active=True))),
        [level],
        Conditional(BesideLast(nn.Linear(hidden[0], family.numbers(features))), family),
        GivenLibrary(1 + batches),
    )


def _choice(argument: str, value: str, known: dict[str, Any]) -> Any:
    if value not in known:
        close = nearest(value, known)
        raise UsageError(
            "E241",
            f"{argument} is {value!r}, which is none of {', '.join(map(repr, known))}",
            fix=f"{argument}={close or next(iter(known))!r}",
        )
    return known[value]


def build(name: str, arguments: dict[str, Any]) -> LatentModel:
    """Return the model of the recipe `name`.

    Raises:
        UsageError: E241 for an unknown recipe, E242 for an argument it does not have.
    """
    recipe = _choice("recipe", name, {n: globals()[n] for n in __all__})
    known = inspect.signature(recipe).parameters
    for argument in arguments:
        if argument not in known:
            raise UsageError(
                "E242",
                f"the recipe {name!r} has no argument {argument!r} (it has {', '.join(known)})",
                fix=f"did you mean {nearest(argument, known) or next(iter(known))!r}?",
            )
    return recipe(**arguments)
