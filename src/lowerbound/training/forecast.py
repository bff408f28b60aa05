"""Forecasts at the start of a fit: its time, costly columns, and steps that do not suffice."""

from __future__ import annotations

import shlex

from lowerbound.bundle.shipped import shipped_for
from lowerbound.coding.base import Coding
from lowerbound.recipes import Recipe
from lowerbound.training.engine.history import Pulse
from lowerbound.training.plan import Plan
from lowerbound.training.split import FitInputs
from lowerbound.training.units import spell_seconds

USEFUL_STEPS = 300  # steps below which a model has hardly left its initial weights
COSTLY = 0.3  # share of a model's weights above which a column is named
LARGE = 200_000  # weights of a column below which it costs little in any case
PER_LEVEL = 83  # weights per level of a categorical column: an embedding of 50, and its logit
MANY_GRADES = 1000  # levels of an ordinal column above which its likelihood dominates a step
ROUND = (60, 120, 300, 600, 1200, 1800, 3600, 7200, 4 * 3600, 8 * 3600, 24 * 3600)  # seconds


class Forecast:
    """Listener to the pace of training that says once how long the fit will take.

    Args:
        plan: the options of the fit.
        inputs: its data and callbacks.
        weights: number of weights of the model.
    """

    def __init__(self, plan: Plan, inputs: FitInputs, weights: int) -> None:
        self.plan, self.inputs, self.weights = plan, inputs, weights
        self.said = False

    def __call__(self, pulse: Pulse) -> None:
        """Say the forecast the first time, and pass the pace on."""
        if not self.said:
            self.said = True
            if self.inputs.team.rank == 0:
                for line in self.lines(pulse):
                    self.inputs.say(line)
        if self.inputs.beat is not None:
            self.inputs.beat(pulse)

    def lines(self, pulse: Pulse) -> list[str]:
        """Return the forecast."""
        steps = self.steps(pulse)
        speed = pulse.rows / max(pulse.seconds_per_step, 1e-9)
        lines = [
            f"forecast   at most {spell_seconds(pulse.seconds_left)} of training "
            f"({steps:,} steps of {pulse.rows:,} rows, {speed:,.0f} rows/s); "
            "it ends earlier if nothing is gained"
        ]
        costly = costly_columns(self.inputs.coding, self.weights)
        if costly:
            told = ", ".join(f"{name} ({size:,} levels)" for name, size in costly[:5])
            one = shlex.quote(costly[0][0])
            lines.append(
                f"           ! columns of many levels take much of this time: {told}; without one "
                f"of them a fit is faster: --drop {one}"
            )
        few = steps < min(USEFUL_STEPS, pulse.steps) and self.plan.start is None
        if self.inputs.limit.seconds is not None and few:
            lines.append(self._too_short(pulse, steps))
        return lines

    def steps(self, pulse: Pulse) -> int:
        """Return the number of steps that fit into the time limit."""
        if self.inputs.limit.seconds is None:
            return pulse.steps
        more = pulse.seconds_left / max(pulse.seconds_per_step, 1e-9)
        return min(pulse.steps, pulse.step + int(more))

    def _too_short(self, pulse: Pulse, steps: int) -> str:
        limit = self.inputs.limit.seconds
        assert limit is not None, "without a limit, all steps are taken"
        more = (min(USEFUL_STEPS, pulse.steps) - steps) * pulse.seconds_per_step
        needed = next((r for r in ROUND if r >= 1.5 * (limit + more)), ROUND[-1])
        return (
            f"           ! only about {steps:,} steps fit into the time limit of "
            f"{spell_seconds(limit)}; a useful model takes at least {USEFUL_STEPS}: "
            f"--time-limit {_flag(needed)}{quicker(self.plan.recipe)}"
        )


def quicker(recipe: Recipe) -> str:
    """Return the ways to learn more in the same time, as the end of a sentence."""
    known = shipped_for(recipe.name)
    start = f", or start from a trained model: --from {known[0]}" if known else ""
    settings = recipe.parameters
    if "hidden" in settings:
        return ", or a smaller network: --preset fast"
    ways = ["--set width=16"] if "width" in settings else []
    ways += ["--set channels=8"] if "channels" in settings and recipe.of_pictures else []
    ways += ["--size 32"] if recipe.of_pictures else []
    return (f", or a smaller network: {' or '.join(ways)}" if ways else "") + start


def _flag(seconds: float) -> str:
    return f"{seconds // 3600:.0f}h" if seconds >= 3600 else f"{seconds // 60:.0f}m"


def costly_columns(coding: Coding, weights: int) -> list[tuple[str, int]]:
    """Return the columns whose levels take a large part of a step, with their number of levels.

    Args:
        coding: the coding of the table.
        weights: number of weights of the model.
    """
    schema = getattr(coding, "schema", None)
    parts = () if schema is None else schema.parts
    return [
        (part.column, part.size)
        for part in parts
        if (part.family == "categorical" and part.size * PER_LEVEL > max(COSTLY * weights, LARGE))
        or (part.family == "ordinal" and part.size > MANY_GRADES)
    ]
