"""The plain state of a trained model: what is saved, and what scoring and reports read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lowerbound.coding.tables import Coding
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import Recipe
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Alarm, Calibration
from lowerbound.tasks.measures import Scoring


@dataclass
class TrainedState:
    """A trained model, its coding, and its calibration.

    Args:
        recipe: the recipe that the model was built by.
        arguments: the recipe's resolved arguments.
        coding: raw rows to coded rows and back.
        model: the network, in evaluation mode.
        calibration: scores of held-out rows.
        alarm: the threshold, and the false-alarm rate that it gives.
        facts: what is known about the fit (plan, history, health, versions), plain JSON values.
        further: ways of scoring that were calibrated on scores of their own, by name.
    """

    recipe: Recipe
    arguments: dict[str, Any]
    coding: Coding
    model: LatentModel
    calibration: Calibration
    alarm: Alarm
    facts: dict[str, Any] = field(default_factory=dict)
    further: dict[str, Scoring] = field(default_factory=dict)

    @property
    def latent(self) -> int:
        """The size of z, of all levels together."""
        if not {"latent", "latents"} & self.arguments.keys():  # counted when it was made
            return int(self.facts.get("latent", self.facts["health"]["latent"]))
        sizes = self.arguments.get("latents") or [self.arguments["latent"]]
        return sum(int(size) for size in sizes)

    @property
    def command(self) -> str:
        """The command that restores pictures by this model, or "" where it models rows."""
        restoration = self.recipe.restoration
        return "" if restoration is None else restoration.command

    @property
    def explains(self) -> bool:
        """Whether `explain` can name columns: not of pictures, nor beside a context."""
        return not self.coding.shape and self.recipe.explains

    @property
    def importance_samples(self) -> int:
        """Draws of z that a score takes, as many as the held-out scores were taken with."""
        return self.facts.get("importance_samples", draws.SCORE_SAMPLES)
