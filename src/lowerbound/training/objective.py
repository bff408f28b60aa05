"""Check the settings of the objective, and build the objective that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import sample
from lowerbound.nn.model import evaluating
from lowerbound.nn.objectives import aggregate
from lowerbound.nn.objectives.adversarial import Adversarial, force
from lowerbound.nn.objectives.elbo import Elbo, Iwae, Map, Ramp, StickingTheLanding, ThetaPrior
from lowerbound.nn.objectives.hidden_cells import HiddenCells
from lowerbound.nn.objectives.hybrid import Hybrid
from lowerbound.nn.objectives.spectral import Spectral
from lowerbound.nn.trace import Trace, from_posterior, from_prior
from lowerbound.recipes import RECIPES, Recipe
from lowerbound.tasks.objective_settings import SETTINGS, conflict, spell
from lowerbound.training.engine.settings import Optimiser

WARM_UP_STEPS = 200  # most steps over which the weights of the objective rise to their values


def refuse_settings(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Refuse settings of the objective that contradict each other or would have no effect.

    Raises:
        UsageError: E236, E248, E249 or E257.
    """
    _refuse_contradictions(settings)
    _refuse_idle(recipe, settings)
    _refuse_blind(recipe, settings)
    _refuse_unconditional(recipe, settings)


def _refuse_contradictions(settings: Mapping[str, Any]) -> None:
    """Refuse two settings that cannot be combined."""
    found = conflict(settings)
    if found is None:
        return
    one, other, reason = found
    first, second = (spell(each.name, settings[each.name]) for each in (one, other))
    raise UsageError(
        "E236",
        f"{first} and {second} cannot be combined: {reason}",
        fix=f"--set {first} alone, or leave {one.name} out",
    )


def _refuse_idle(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Refuse settings of the KL term for a recipe of codes, whose KL is a constant in training."""
    if not recipe.first_stage:
        return
    idle = [each.name for each in SETTINGS if each.name in settings and each.of_rate]
    if idle:
        raise UsageError(
            "E257",
            f"{idle[0]} would have no effect on the recipe {recipe.name!r}: the rate of its codes "
            "is a constant while they are learned",
            fix=f"leave {idle[0]} out",
        )


def _refuse_blind(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Refuse a discriminator for recipes that do not model pictures."""
    if not settings.get("adversarial") or recipe.of_pictures:
        return
    sees = [name for name, each in RECIPES.items() if each.of_pictures]
    what = recipe.restoration.does if recipe.restoration else "models rows of a table"
    raise UsageError(
        "E248",
        f"{spell('adversarial', settings['adversarial'])} is for models that generate pictures "
        f"({', '.join(sees)}); the recipe {recipe.name!r} {what}",
        fix="leave adversarial out, or for pictures --recipe conv",
    )


def _refuse_unconditional(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Refuse draws of z from a prior that does not depend on the row."""
    if not settings.get("prior_share") or _is_conditional(recipe):
        return
    known = [name for name, each in RECIPES.items() if _is_conditional(each)]
    raise UsageError(
        "E249",
        f"{spell('prior_share', settings['prior_share'])} is for recipes that restore pictures "
        f"({', '.join(known)}): the prior of {recipe.name!r} does not depend on the row",
        fix="leave prior_share out",
    )


def _is_conditional(recipe: Recipe) -> bool:
    """Return whether a recipe models one picture given another."""
    return recipe.restoration is not None and recipe.restoration.paired


def warm_up(steps: int) -> int:
    """Return the number of warm-up steps of a fit of `steps` steps."""
    return max(1, min(WARM_UP_STEPS, steps // 4))


def settled(weights: Mapping[str, Any], steps: int, optimiser: Optimiser) -> int:
    """Return the first step from which the best weights may be kept.

    With an adversarial term, the bound is highest before the term has its full weight. The kept
    weights, and all steps that their moving average covers, must then be after the warm-up.
    """
    return warm_up(steps) + optimiser.memory if weights["adversarial"] else 0


class _Asked(NamedTuple):
    """The inputs of an objective.

    Attributes:
        model: the model.
        values: a value for each name in `OBJECTIVE`.
        examples: number of training rows.
        warm: number of warm-up steps.
    """

    model: nn.Module
    values: Mapping[str, Any]
    examples: int
    warm: int

    def ramp(self, name: str) -> Ramp:
        """Return the schedule from 0 to the value of a setting."""
        return Ramp(0.0, float(self.values[name]), self.warm)


def objective_of(
    model: nn.Module,
    weights: Mapping[str, Any],
    examples: int,
    steps: int,
    hidden: Sequence[Sequence[int]] | None = None,
) -> nn.Module:
    """Return the objective of a fit.

    Args:
        model: the model.
        weights: a value for each name in `OBJECTIVE`.
        examples: number of training rows.
        steps: number of steps of the whole fit; the warm-up takes at most a quarter of them.
        hidden: groups of columns whose cells are hidden at random, see `HiddenCells`; None for a
            model whose encoder does not know which cells are missing.

    Raises:
        UsageError: E231 or E240 for an invalid value, E248 for an adversarial term on a model
            that does not generate pictures.
    """
    asked = _Asked(model, weights, examples, warm_up(steps))
    used = [each.name for each in SETTINGS if each.used(weights)]
    replacing = next((name for name in used if name in _REPLACING), None)
    objective = _elbo(asked) if replacing is None else _REPLACING[replacing](asked)
    for name, add in _ADDING.items():
        if name in used:
            objective = add(objective, asked)
    if hidden is None:
        return objective
    return HiddenCells(objective, hidden)


def with_theta_prior(
    objective: nn.Module, model: nn.Module, weights: Mapping[str, Any], examples: int
) -> nn.Module:
    """Return an objective with the prior on the weights added, if the settings ask for one."""
    used = any(each.name == "theta_prior" and each.used(weights) for each in SETTINGS)
    return _map(objective, _Asked(model, weights, examples, 1)) if used else objective


def _elbo(asked: _Asked) -> nn.Module:
    values = asked.values
    capacity = Ramp(0.0, float(values["capacity"]), 10 * asked.warm)
    return Elbo(
        asked.model,
        beta=asked.ramp("beta"),
        free_bits=float(values["free_bits"]),
        capacity=capacity if values["capacity"] else None,
        balance=bool(values["balance"]),
    )


def _iwae(asked: _Asked) -> nn.Module:
    return Iwae(asked.model, int(asked.values["iwae"]), dreg=not _is_chained(asked.model))


def _tc(asked: _Asked) -> nn.Module:
    one = Ramp(0.0, 1.0, asked.warm)
    model, tc = asked.model, asked.ramp("tc")
    return aggregate.BetaTc(model, asked.examples, tc=tc, mi=one, dimension=one)


def _mmd(asked: _Asked) -> nn.Module:
    return aggregate.InfoMmd(asked.model, mmd=asked.ramp("mmd"), beta=asked.ramp("beta"))


def _prior_share(asked: _Asked) -> nn.Module:
    return Hybrid(asked.model, float(asked.values["prior_share"]), beta=asked.ramp("beta"))


def _path(asked: _Asked) -> nn.Module:
    return StickingTheLanding(asked.model, beta=asked.ramp("beta"))


def _spectral(objective: nn.Module, asked: _Asked) -> nn.Module:
    return Spectral(objective, float(asked.values["spectral"]))


def _adversarial(objective: nn.Module, asked: _Asked) -> nn.Module:
    ramp = Ramp(0.0, force(asked.values["adversarial"]), asked.warm)
    return Adversarial(objective, _shape(asked.model), ramp)


def _map(objective: nn.Module, asked: _Asked) -> nn.Module:
    return Map(objective, [_theta_prior(asked.values["theta_prior"])], asked.examples)


# By name of the setting: objectives that replace the ELBO, and terms that wrap any objective,
# innermost first.
_REPLACING: dict[str, Callable[[_Asked], nn.Module]] = {
    "iwae": _iwae,
    "tc": _tc,
    "mmd": _mmd,
    "prior_share": _prior_share,
    "path": _path,
}
_ADDING: dict[str, Callable[[nn.Module, _Asked], nn.Module]] = {
    "spectral": _spectral,
    "adversarial": _adversarial,
    "theta_prior": _map,
}


def _shape(model: nn.Module) -> Sequence[int]:
    """Return the shape of a row of `model`, from two draws."""
    with evaluating(model) as device, torch.no_grad():
        choose = from_prior(noise.generator("shape", device=device))
        return model(None, Trace(choose, 2)).mean.shape[1:]


def _is_chained(model: nn.Module) -> bool:
    """Return whether a later posterior of `model` depends on an earlier draw.

    The doubly reparameterised gradient of `Iwae` is biased for such models. The test is a forward
    pass on rows drawn from the prior. A model that cannot be run without given pictures counts as
    chained: the plain gradient is unbiased for every model.
    """
    try:
        with evaluating(model) as device:
            source = noise.generator("chained", device=device)
            x = sample(model(None, Trace(from_prior(source), 2)), source)
            trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 2, decode=False)
            with torch.enable_grad():
                model(x, trace)
    except UsageError as error:
        if error.code != "E247":
            raise
        return True
    return trace.chained() is not None


def _theta_prior(text: str) -> ThetaPrior:
    """Parse "normal:SCALE" or "laplace:SCALE"."""
    family, _, scale = str(text).partition(":")
    known = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}
    try:
        width = float(scale)
    except ValueError:
        width = -1.0
    if family not in known or not width > 0:
        raise UsageError(
            "E231",
            f"theta_prior must be a family and a scale above 0 such as normal:1.0, got {text!r}",
            fix="--set theta_prior=normal:1.0, or laplace:0.1",
        )
    return ThetaPrior(known[family], width)
