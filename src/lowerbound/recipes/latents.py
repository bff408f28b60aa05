"""The prior that a recipe's argument names, and the encoder that goes with it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lowerbound.aggregate_priors import Borrowed, Exemplar, Reading, Vamp
from lowerbound.priors import FlowPrior, Mixture, StandardNormal
from lowerbound.recipes.choosing import choice

PRIORS = ("standard", "mixture", "flow", "vamp", "exemplar")


def with_prior(  # noqa: PLR0913 - what the five priors need, together
    name: str,
    encoder: nn.Module,
    posterior: nn.Module,
    *,
    latent: int,
    components: int,
    pseudo_inputs: int,
    shape: Sequence[int],
    bounds: tuple[float, float] | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Return the encoder and the prior of a model of one level.

    Args:
        name: "standard", "mixture", "flow", "vamp" or "exemplar".
        encoder: of the model, which a prior may borrow.
        posterior: of the level, likewise.
        latent: size of z.
        components: of a mixture that was fitted after training and is the prior now; 0 for none.
        pseudo_inputs: number of components, pseudo-inputs or exemplars of a prior that has them.
        shape: of one x.
        bounds: of the data, or None.

    Raises:
        UsageError: E241 for another name, E240 for too few of them.
    """
    choice("prior", name, dict.fromkeys(PRIORS))
    if components:
        return encoder, Mixture(components, latent)
    if name == "mixture":
        mixture = Mixture(pseudo_inputs, latent)
        nn.init.normal_(mixture.loc)  # components that begin alike stay alike
        return encoder, mixture
    if name == "flow":
        return encoder, FlowPrior(latent)
    if name == "vamp":
        return encoder, Vamp(Borrowed(encoder, posterior), pseudo_inputs, shape, bounds)
    if name == "exemplar":
        reading = Reading(encoder)
        borrowed = Borrowed(encoder, posterior)
        return reading, Exemplar(borrowed, pseudo_inputs, shape, reading.last)
    return encoder, StandardNormal(latent)
