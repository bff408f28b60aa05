"""The second stage of a model of codes: maximise the ELBO over the priors, all else frozen.

The codes of a picture and log p(x | z) do not change by a bit. The bound rises only because the
new priors model the dependence between codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lowerbound import noise
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.recipes import Recipe

# Share of a time limit for the first stage. The codes are soon good enough; the quality of new
# pictures is limited by the prior, which takes thousands of steps.
TIME = 0.3
RATE = 1e-3  # largest learning rate: a PixelCNN is deep and has no normalisation


class FrozenElbo(Elbo):
    """The ELBO of a model that stays in evaluation mode, so that running averages do not change.

    Only parameters that require a gradient are trained; `unfrozen` sets that for the priors.

    References:
        Razavi, van den Oord & Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2",
        2019, section 3.2, https://arxiv.org/abs/1906.00446
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.eval()

    def train(self, mode: bool = True) -> FrozenElbo:
        """Stay in evaluation mode."""
        return super().train(False)


def unfrozen(
    recipe: Recipe, first: LatentModel, arguments: Mapping[str, Any], seed: int
) -> LatentModel:
    """Return a model with the weights of `first` and new priors, which alone require gradients.

    Args:
        recipe: the recipe.
        first: a model of the recipe, with other priors.
        arguments: the recipe's arguments for the new model.
        seed: seed of the new priors' initial weights.
    """
    with noise.isolated(seed, "prior weights"):
        model = recipe.make(arguments)
    missing, unexpected = model.load_state_dict(first.state_dict(), strict=False)
    priors = tuple(f"levels.{i}.prior." for i in range(len(model.levels)))
    strange = [name for name in [*missing, *unexpected] if not name.startswith(priors)]
    assert not strange, "only priors differ between the two stages"
    model.requires_grad_(False)
    for level in model.levels:
        level.get_submodule("prior").requires_grad_(True)
    return model
