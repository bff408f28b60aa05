"""Models of vectors: one level between two MLPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from lowerbound import families
from lowerbound.families import Conditional, Family
from lowerbound.joints import WithMissing
from lowerbound.model import LatentModel, Level
from lowerbound.networks import MLP, Concat, Empty, Filled, Single
from lowerbound.posteriors import Plain
from lowerbound.priors import Mixture, StandardNormal
from lowerbound.recipes.choosing import choice


def vector(
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
    return vector(
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
    make = choice("likelihood", likelihood, _SIGMAS)(features)
    # The analytic sigma handles gaps itself: it must see them to leave them out of its mean.
    family = make if likelihood == "optimal" else WithMissing(make)
    reader = Filled(features, missing)
    return vector(
        reader,
        reader.width,
        family,
        features=features,
        latent=latent,
        hidden=hidden,
        components=components,
    )
