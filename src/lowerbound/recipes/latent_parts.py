"""Build the prior and the posterior flow that a recipe's arguments name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from lowerbound.nn.latents.flows import Autoregressive, Planar, Spline
from lowerbound.nn.latents.mixture_priors import EncoderReference, Exemplar, KeyRecorder, Vamp
from lowerbound.nn.latents.posteriors import Flow
from lowerbound.nn.latents.priors import FlowPrior, Mixture, StandardNormal
from lowerbound.recipes.choosing import choice

_MAPS: dict[str, Callable[[int, int, Sequence[int], bool], nn.Module]] = {
    "iaf": Autoregressive,
    "spline": Spline,
    "planar": lambda latent, context, hidden, backward: Planar(latent, context),
}


def with_flows(  # noqa: PLR0913, PLR0917 - the inputs of all maps
    posterior: nn.Module, latent: int, context: int, kind: str, flows: int, hidden: Sequence[int]
) -> nn.Module:
    """Return the posterior followed by `flows` flow maps, or itself for 0 maps.

    Args:
        posterior: the posterior of the level.
        latent: size of z.
        context: number of features of the encoder.
        kind: "iaf", "spline" or "planar".
        flows: number of maps; the order of the variables is reversed from one to the next.
        hidden: widths of the hidden layers of each map's masked network.

    Raises:
        UsageError: E241 for an unknown kind.
    """
    make = choice("kind", kind, _MAPS)
    maps = [make(latent, context, list(hidden), i % 2 == 1) for i in range(flows)]
    return Flow(posterior, maps) if maps else posterior


PRIORS = ("standard", "mixture", "flow", "vamp", "exemplar")


def with_prior(  # noqa: PLR0913 - the inputs of all five priors
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
    """Return the encoder and the prior of a model with one level.

    The prior "exemplar" wraps the encoder; the others return it unchanged.

    Args:
        name: "standard", "mixture", "flow", "vamp" or "exemplar".
        encoder: the encoder of the model; the priors "vamp" and "exemplar" use it too.
        posterior: the posterior of the level; used by the same priors.
        latent: size of z.
        components: components of a mixture fitted after training, which replaces the prior
            `name`; 0 for none.
        pseudo_inputs: number of the prior's components, pseudo-inputs or exemplars, if any.
        shape: shape of one x.
        bounds: smallest and largest value of the data, or None.

    Raises:
        UsageError: E241 for an unknown name, E240 for too few pseudo-inputs.
    """
    choice("prior", name, dict.fromkeys(PRIORS))
    if components:
        return encoder, Mixture(components, latent)
    if name == "mixture":
        mixture = Mixture(pseudo_inputs, latent)
        nn.init.normal_(mixture.loc)  # equal components would get equal gradients
        return encoder, mixture
    if name == "flow":
        return encoder, FlowPrior(latent)
    if name == "vamp":
        return encoder, Vamp(EncoderReference(encoder, posterior), pseudo_inputs, shape, bounds)
    if name == "exemplar":
        reading = KeyRecorder(encoder)
        borrowed = EncoderReference(encoder, posterior)
        return reading, Exemplar(borrowed, pseudo_inputs, shape, reading.last)
    return encoder, StandardNormal(latent)
