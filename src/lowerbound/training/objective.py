"""What a fit minimises: the settings that choose it, and the objective they make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.objectives import aggregate
from lowerbound.nn.objectives.adversarial import Adversarial, force
from lowerbound.nn.objectives.elbo import Elbo, Iwae, Map, Ramp, StickingTheLanding, ThetaPrior
from lowerbound.nn.objectives.hybrid import Hybrid
from lowerbound.nn.objectives.spectral import Spectral
from lowerbound.nn.trace import Trace, from_posterior, from_prior
from lowerbound.recipes import RECIPES, Recipe
from lowerbound.training.engine.settings import Optimiser

WARM_UP_STEPS = 200  # of the rate's weight

# What the objective takes, beside the recipe's own arguments, with what stands for "not used".
OBJECTIVE: dict[str, Any] = {
    "beta": 1.0,  # weight of the rate
    "free_bits": 0.0,  # nats per latent dimension that cost nothing
    "capacity": 0.0,  # a target in nats for the rate
    "iwae": 0,  # importance samples of the IWAE bound, instead of the ELBO
    "tc": 0.0,  # weight of the total correlation, the rest of the rate having weight 1: beta-TCVAE
    "mmd": 0.0,  # weight of MMD(q(z), p(z)) beside the rate: InfoVAE
    "balance": False,  # weigh each level's rate, while warming up, so that all levels are used
    "spectral": 0.0,  # weight of the kernels' largest singular values: keeps deep models stable
    "prior_share": 0.0,  # of the loss, that z drawn from p(z | y) has: as pictures are restored
    "path": False,  # the ELBO's path-derivative gradient: sticking the landing
    "adversarial": 0.0,  # force of a discriminator at the pixels, the likelihood's being 1
    "theta_prior": "",  # "normal:SCALE" or "laplace:SCALE": MAP instead of maximum likelihood
}

_BESIDE_RATE = ("spectral", "adversarial", "theta_prior")  # what they weigh is not the rate

# What replaces the plain ELBO, and which settings then have nothing to weigh.
KINDS = {
    "iwae": ("beta", "free_bits", "capacity", "balance", "adversarial"),
    "tc": ("beta", "free_bits", "capacity", "balance"),
    "mmd": ("free_bits", "capacity", "balance"),
    "path": ("free_bits", "capacity", "balance"),
    "prior_share": ("free_bits", "capacity", "balance", "adversarial"),
}


def refuse_settings(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Refuse settings of the objective that contradict each other, or that have nothing to do.

    Raises:
        UsageError: E236, E248, E249 or E257.
    """
    _refuse_contradictions(settings)
    _refuse_idle(recipe, settings)
    _refuse_blind(recipe, settings)
    _refuse_unconditional(recipe, settings)


def _refuse_contradictions(settings: Mapping[str, Any]) -> None:
    """Refuse settings of which one would silently do nothing."""
    used = [name for name in OBJECTIVE if settings.get(name, OBJECTIVE[name]) != OBJECTIVE[name]]
    kinds = [name for name in KINDS if name in used]
    for kind in kinds[:1]:
        for other in [*kinds[1:], *(name for name in KINDS[kind] if name in used)]:
            said = {name: f"{name}={json.dumps(settings[name])}" for name in (kind, other)}
            raise UsageError(
                "E236",
                f"{said[kind]} and {said[other]} cannot be combined: they belong to different "
                "objectives",
                fix=f"--set {said[kind]} alone, or leave {kind} out",
            )


def _refuse_idle(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Refuse settings of the objective that do nothing while codes are learned."""
    if not recipe.first_stage:
        return
    idle = [name for name in OBJECTIVE if name in settings and name not in _BESIDE_RATE]
    if idle:
        raise UsageError(
            "E257",
            f"{idle[0]} would do nothing for the recipe {recipe.name!r}: the rate of its codes is "
            "a constant while they are learned",
            fix=f"leave {idle[0]} out",
        )


def _refuse_blind(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Refuse a discriminator where there are no pictures to look at."""
    if not settings.get("adversarial") or recipe.of_pictures:
        return
    sees = [name for name, each in RECIPES.items() if each.of_pictures]
    what = "makes one picture of another" if recipe.restoration else "models rows of a table"
    raise UsageError(
        "E248",
        f"adversarial={json.dumps(settings['adversarial'])} is for models that make pictures "
        f"({', '.join(sees)}); the recipe {recipe.name!r} {what}",
        fix="leave adversarial out, or for pictures --recipe conv",
    )


def _refuse_unconditional(recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Refuse to draw z from the prior where that knows nothing of the row."""
    if not settings.get("prior_share") or recipe.restoration:
        return
    known = [name for name, each in RECIPES.items() if each.restoration]
    raise UsageError(
        "E249",
        f"prior_share={json.dumps(settings['prior_share'])} is for recipes that restore pictures "
        f"({', '.join(known)}): the prior of {recipe.name!r} does not depend on the row",
        fix="leave prior_share out",
    )


def warm_up(steps: int) -> int:
    """Return over how many of its steps a fit brings its weights to their values."""
    return max(1, min(WARM_UP_STEPS, steps // 4))


def settled(weights: Mapping[str, Any], steps: int, optimiser: Optimiser) -> int:
    """Return the step before which weights must not be kept for good.

    With an adversarial term the bound is highest before the term has its weight: what is kept
    must be from after the warm-up, and so must what a moving average remembers.
    """
    return warm_up(steps) + optimiser.memory if weights["adversarial"] else 0


def objective_of(
    model: nn.Module, weights: Mapping[str, Any], examples: int, steps: int
) -> nn.Module:
    """Return what a fit minimises.

    Args:
        model: the model.
        weights: values for the names of `OBJECTIVE`.
        examples: number of training rows.
        steps: of the whole fit; the warm-up takes at most a quarter of them.

    Raises:
        UsageError: E231 or E240 for a value that an objective cannot have, E248 for an
            adversarial term where there are no pictures to look at.
    """
    warm = warm_up(steps)
    objective = _objective(model, weights, examples, warm)
    if weights["spectral"]:
        objective = Spectral(objective, float(weights["spectral"]))
    if weights["adversarial"]:
        ramp = Ramp(0.0, force(weights["adversarial"]), warm)
        objective = Adversarial(objective, _shape(model), ramp)
    if not weights["theta_prior"]:
        return objective
    return Map(objective, [_theta_prior(weights["theta_prior"])], examples)


def _objective(
    model: nn.Module, weights: Mapping[str, Any], examples: int, warm: int
) -> nn.Module:
    """Return the likelihood's part of the objective, its rate warmed up over `warm` steps."""
    beta, capacity = Ramp(0.0, float(weights["beta"]), warm), weights["capacity"]
    if weights["iwae"]:
        return Iwae(model, int(weights["iwae"]), dreg=not _is_chained(model))
    if weights["tc"]:
        tc, one = Ramp(0.0, float(weights["tc"]), warm), Ramp(0.0, 1.0, warm)
        return aggregate.BetaTc(model, examples, tc=tc, mi=one, dimension=one)
    if weights["mmd"]:
        mmd = Ramp(0.0, float(weights["mmd"]), warm)
        return aggregate.InfoMmd(model, mmd=mmd, beta=beta)
    if weights["prior_share"]:
        return Hybrid(model, float(weights["prior_share"]), beta=beta)
    if weights["path"]:
        return StickingTheLanding(model, beta=beta)
    return Elbo(
        model,
        beta=beta,
        free_bits=float(weights["free_bits"]),
        capacity=Ramp(0.0, float(capacity), 10 * warm) if capacity else None,
        balance=bool(weights["balance"]),
    )


def _shape(model: nn.Module) -> Sequence[int]:
    """Return the shape of a row of `model`, by a walk that draws two."""
    was_training = model.training
    model.eval()
    try:
        with noise.isolated("shape"), torch.no_grad():
            return model(None, Trace(from_prior(), 2)).mean.shape[1:]
    finally:
        model.train(was_training)


def _is_chained(model: nn.Module) -> bool:
    """Tell whether a later posterior of `model` reads an earlier draw, by a walk on made-up rows.

    The doubly reparameterised gradient of `Iwae` is biased there. A model that walks on given
    pictures alone counts as chained: the plain gradient is unbiased for every model.
    """
    was_training = model.training
    model.eval()
    try:
        with noise.isolated("chained"):
            x = model(None, Trace(from_prior(), 2)).sample()
            trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 2)
            with torch.enable_grad():
                model(x, trace)
    except UsageError as error:
        if error.code != "E247":
            raise
        return True
    finally:
        model.train(was_training)
    return trace.chained() is not None


def _theta_prior(text: str) -> ThetaPrior:
    """Read "normal:SCALE" or "laplace:SCALE"."""
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
