"""A model of binary data: one level between two networks, Bernoulli from logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from lowerbound.families import Bits, Conditional
from lowerbound.joints import WithMissing
from lowerbound.model import LatentModel, Level
from lowerbound.networks import Concat, Empty, Filled, Single
from lowerbound.posteriors import Plain
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.latents import with_prior


class Gated(nn.Module):
    """A linear layer times a sigmoid of another: Dauphin et al., "Gated convolutions", 2017."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.both = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs)."""
        return nn.functional.glu(self.both(x), 1)


_LAYERS: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "silu": lambda inputs, outputs: [nn.Linear(inputs, outputs), nn.SiLU()],
    "relu": lambda inputs, outputs: [nn.Linear(inputs, outputs), nn.ReLU()],
    "tanh": lambda inputs, outputs: [nn.Linear(inputs, outputs), nn.Tanh()],
    "gated": lambda inputs, outputs: [Gated(inputs, outputs)],
}


def trunk(sizes: Sequence[int], layers: str) -> nn.Sequential:
    """Return hidden layers of these widths, (B, sizes[0]) -> (B, sizes[-1]).

    Args:
        sizes: widths from input to output.
        layers: "silu", "relu", "tanh" or "gated".

    Raises:
        UsageError: E241 for another kind of layer.
    """
    make = choice("layers", layers, _LAYERS)
    return nn.Sequential(*(part for a, b in pairwise(sizes) for part in make(a, b)))


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
    """Binary data, (B, features) of 0 and 1: p(x | z) is a Bernoulli of every cell.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, appendix C.1.

    Args:
        features: number of cells.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        layers: of the two networks: "silu", "relu", "tanh" or "gated".
        missing: give the encoder indicators of missing cells.
        components: of a mixture prior fitted after training; 0 keeps the one it was trained with.
        prior: that of training: "standard", "mixture", "flow", "vamp" or "exemplar".
        pseudo_inputs: number of components, pseudo-inputs or exemplars of a prior that has them.
    """
    hidden = list(hidden)
    reader, family = Filled(features, missing), WithMissing(Bits())
    encoder = Single(nn.Sequential(reader, trunk([reader.width, *hidden], layers)))
    posterior = Plain(nn.Linear(hidden[-1], 2 * latent))
    encoder, own = with_prior(
        prior,
        encoder,
        posterior,
        latent=latent,
        components=components,
        pseudo_inputs=pseudo_inputs,
        shape=(features,),
        bounds=(0.0, 1.0),
    )
    level = Level(
        "z",
        own,
        posterior,
        Concat(trunk([latent, *hidden[::-1]], layers)),
    )
    return LatentModel(
        encoder,
        [level],
        Conditional(nn.Linear(hidden[0], family.numbers(features)), family),
        Empty(),
    )
