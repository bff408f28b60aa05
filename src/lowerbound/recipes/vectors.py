"""VAEs for columns of numbers: one level of latents between two MLPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from lowerbound.nn.distributions import families
from lowerbound.nn.distributions.families import Conditional, Family
from lowerbound.nn.distributions.table_rows import WithMissing
from lowerbound.nn.latents.importance import ImportanceProposal
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import (
    SILU,
    Concat,
    Empty,
    FilledReader,
    Nonlinearity,
    Single,
    trunk,
)
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.latent_parts import with_flows, with_prior
from lowerbound.recipes.record import Recipe, of_numbers


def vector(  # noqa: PLR0913 - the inputs of all recipes of one level
    reader: nn.Module,
    width: int,
    family: Family,
    *,
    features: int,
    latent: int,
    hidden: Sequence[int],
    components: int,
    prior: str = "standard",
    pseudo_inputs: int = 100,
    after: Nonlinearity = SILU,
    bounds: tuple[float, float] | None = None,
    proposal: bool = False,
) -> LatentModel:
    """Compose a model of one level between two MLPs.

    Args:
        reader: (B, features) -> (B, width), dense and without NaN.
        width: number of outputs of `reader`.
        family: the likelihood.
        features: number of columns.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        components: components of a mixture prior fitted after training; 0 keeps `prior`.
        prior: the prior in training, see `with_prior`.
        pseudo_inputs: number of the prior's components, pseudo-inputs or exemplars, if any.
        after: nonlinearity of the hidden layers.
        bounds: smallest and largest value of the data, or None.
        proposal: whether the model has a proposal for importance sampling, fitted after training.
    """
    hidden = list(hidden)
    # The order of construction determines the initial weights of a seed: keep it.
    posterior = Plain(nn.Linear(hidden[-1], 2 * latent))
    advance = Concat(trunk([latent, *hidden[::-1]], after))
    encoder = Single(nn.Sequential(reader, trunk([width, *hidden], after)))
    likelihood = Conditional(nn.Linear(hidden[0], family.numbers(features)), family)
    reading, own = with_prior(
        prior,
        encoder,
        posterior,
        latent=latent,
        components=components,
        pseudo_inputs=pseudo_inputs,
        shape=(features,),
        bounds=bounds,
    )
    model = LatentModel(reading, [Level("z", own, posterior, advance)], likelihood, Empty())
    if proposal:
        model.proposal = ImportanceProposal.like(model)
    return model


def gaussian(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    features: int,
    latent: int = 16,
    hidden: Sequence[int] = (128, 128),
    sigma: float = 1.0,
    missing: bool = False,
    components: int = 0,
    prior: str = "standard",
    pseudo_inputs: int = 100,
    proposal: bool = False,
) -> LatentModel:
    """The Gaussian VAE: p(x | z) = N(mu(z), sigma^2 I) with a fixed sigma, 1 by default.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, https://arxiv.org/abs/1312.6114

    Args:
        features: number of (standardised) columns.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        sigma: the likelihood's standard deviation.
        missing: give the encoder indicators of missing values.
        components: components of a mixture prior fitted after training; 0 keeps `prior`.
        prior: the prior in training: "standard", "flow", "mixture", "vamp" (a mixture of the
            posteriors of learned inputs) or "exemplar" (a mixture of the posteriors of training
            rows, which the model then contains).
        pseudo_inputs: number of the prior's components, learned inputs or exemplars.
        proposal: whether the model has a proposal for importance sampling, fitted after training
            (see `lowerbound.nn.latents.importance`).
    """
    reader = FilledReader(features, missing)
    family = WithMissing(families.FixedSigma(sigma))
    return vector(
        reader,
        reader.width,
        family,
        features=features,
        latent=latent,
        hidden=hidden,
        components=components,
        prior=prior,
        pseudo_inputs=pseudo_inputs,
        proposal=proposal,
    )


def beta(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    features: int,
    latent: int = 16,
    hidden: Sequence[int] = (128, 128),
    missing: bool = False,
    components: int = 0,
    prior: str = "standard",
    pseudo_inputs: int = 100,
    proposal: bool = False,
) -> LatentModel:
    """The beta-VAE: the Gaussian VAE, trained with the KL term weighted by beta (4 by default).

    With unit variance, beta has the same effect as sigma^2; the recipe `sigma` learns it. The
    arguments are those of `gaussian`.

    References:
        Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational
        framework", 2017, https://openreview.net/forum?id=Sy2fzU9gl
    """
    return gaussian(
        features, latent, hidden, 1.0, missing, components, prior, pseudo_inputs, proposal
    )


_SIGMAS: dict[str, Callable[[int], Family]] = {
    "shared": lambda features: families.SharedSigma(),
    "optimal": lambda features: families.OptimalSigma(),
    "feature": families.FeatureSigma,
    "element": lambda features: families.Gaussian(),
    "student": lambda features: families.Student(),
    "laplace": lambda features: families.LaplaceFamily(),
}


_NUMBERS = {**_SIGMAS, "bernoulli": lambda features: families.Bits()}


def numbers(likelihood: str, features: int) -> Family:
    """Return the family of `features` columns of numbers, any of which may be missing.

    Args:
        likelihood: "optimal", "shared", "feature", "element", "student" or "laplace" (see
            `sigma`), or "bernoulli" if all numbers are 0 or 1.
        features: number of columns.

    Raises:
        UsageError: E241 for an unknown likelihood.
    """
    make = choice("likelihood", likelihood, _NUMBERS)(features)
    # The analytic sigma must see missing values itself, to exclude them from its mean.
    return make if likelihood == "optimal" else WithMissing(make)


def sigma(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    features: int,
    latent: int = 16,
    hidden: Sequence[int] = (128, 128),
    likelihood: str = "optimal",
    missing: bool = False,
    components: int = 0,
    prior: str = "standard",
    pseudo_inputs: int = 100,
    proposal: bool = False,
) -> LatentModel:
    """The sigma-VAE: the likelihood's scale is learned, so the ELBO needs no weight beta.

    References:
        Rybkin, Daniilidis & Levine, "Simple and effective VAE training with calibrated decoders",
        2021, https://arxiv.org/abs/2006.13202

    Args:
        features: number of (standardised) columns.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        likelihood: sigma is "optimal" (computed from the residuals), "shared" (one parameter),
            "feature" (one per column) or "element" (an output of the network); or "student" or
            "laplace" for heavier tails.
        missing: give the encoder indicators of missing values.
        components: components of a mixture prior fitted after training; 0 keeps `prior`.
        prior: the prior in training, as in `gaussian`.
        pseudo_inputs: number of the prior's components, learned inputs or exemplars.
        proposal: as in `gaussian`.
    """
    choice("likelihood", likelihood, _SIGMAS)
    family, reader = numbers(likelihood, features), FilledReader(features, missing)
    return vector(
        reader,
        reader.width,
        family,
        features=features,
        latent=latent,
        hidden=hidden,
        components=components,
        prior=prior,
        pseudo_inputs=pseudo_inputs,
        proposal=proposal,
    )


def iaf(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    features: int,
    latent: int = 16,
    hidden: Sequence[int] = (128, 128),
    flows: int = 4,
    flow_hidden: Sequence[int] = (64,),
    kind: str = "iaf",
    likelihood: str = "feature",
    missing: bool = False,
    components: int = 0,
) -> LatentModel:
    """A VAE with a flow posterior: a diagonal normal followed by invertible maps of z.

    References:
        Kingma et al., "Improved variational inference with inverse autoregressive flow", 2016,
        https://arxiv.org/abs/1606.04934

    Args:
        features: number of (standardised) columns.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        flows: number of maps; the order of the variables is reversed from one to the next.
        flow_hidden: widths of the hidden layers of each map's masked network.
        kind: kind of the maps: "iaf", "spline" or "planar" (which has no hidden layers).
        likelihood: as in `sigma`, or "bernoulli" if all numbers are 0 or 1.
        missing: give the encoder indicators of missing values.
        components: components of a mixture prior fitted after training; 0 is N(0, I).
    """
    reader, hidden = FilledReader(features, missing), list(hidden)
    model = vector(
        reader,
        reader.width,
        numbers(likelihood, features),
        features=features,
        latent=latent,
        hidden=hidden,
        components=components,
    )
    level = model.levels[0]
    inner = level.get_submodule("posterior")
    level.posterior = with_flows(inner, latent, hidden[-1], kind, flows, flow_hidden)
    return model


GAUSSIAN = Recipe(gaussian, of_numbers)
BETA = Recipe(beta, of_numbers, objective={"beta": 4.0})
SIGMA = Recipe(sigma, of_numbers, searched=True)
IAF = Recipe(iaf, of_numbers, searched=True)
