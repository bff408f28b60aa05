"""Everything that is chosen for one fit, and the presets that choose most of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from lowerbound import aggregate, noise, objectives, recipes
from lowerbound.adversarial import Adversarial, force
from lowerbound.errors import UsageError, nearest
from lowerbound.spectral import Spectral
from lowerbound.trace import Trace, from_posterior, from_prior
from lowerbound.training import Budget, Optimiser

TRANSFORMS = ("blend", "standard", "quantile")
PRECISIONS = ("float32", "bfloat16")
WARM_UP_STEPS = 200  # of the rate's weight
LARGE_PICTURE = 4096  # pixels times channels from which on a step takes only FEW_PICTURES
FEW_PICTURES = 16
ANNEAL = 0.02  # of the learning rate, at the end of a fit by steps of few rows

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
    "path": False,  # the ELBO's path-derivative gradient: sticking the landing
    "adversarial": 0.0,  # force of a discriminator at the pixels, the likelihood's being 1
    "theta_prior": "",  # "normal:SCALE" or "laplace:SCALE": MAP instead of maximum likelihood
}

_BESIDE_RATE = ("spectral", "adversarial", "theta_prior")  # what they weigh is not the rate

# What replaces the plain ELBO, and which settings then have nothing to weigh.
_KINDS = {
    "iwae": ("beta", "free_bits", "capacity", "balance", "adversarial"),
    "tc": ("beta", "free_bits", "capacity", "balance"),
    "mmd": ("free_bits", "capacity", "balance"),
    "path": ("free_bits", "capacity", "balance"),
}


class Preset(NamedTuple):
    """A trade between time and quality."""

    hidden: tuple[int, ...]
    budget: Budget
    optimiser: Optimiser
    meaning: str


PRESETS = {
    "fast": Preset(
        (64, 64),
        Budget(epochs=5, patience=3, steps=1000),
        Optimiser(batch_size=128, learning_rate=3e-3, ema=0.99),
        "two layers of 64, about 1,000 steps",
    ),
    # Two layers of 128 rather than 64: benchmarks/results/anomaly_choice.json.
    "balanced": Preset(
        (128, 128),
        Budget(epochs=40, patience=6, steps=4000, most=15_000),
        Optimiser(batch_size=128, learning_rate=3e-3, ema=0.99),
        "two layers of 128, at most 40 passes (but 4,000 to 15,000 steps)",
    ),
    "best": Preset(
        (256, 256),
        Budget(epochs=200, patience=12, steps=20_000),
        Optimiser(batch_size=256, learning_rate=1e-3, ema=0.998),
        "two layers of 256, at most 20,000 steps or 200 passes",
    ),
}


# Tables with more rows than this to learn from are fitted by the importance-weighted bound, and
# with twice the patience: benchmarks/results/synthetic_choice.json.
LARGE = 10_000
LARGE_SAMPLES = 8


@dataclass(frozen=True)
class Plan:
    """Everything that is chosen for one fit; the defaults are good ones.

    Attributes:
        recipe: name of the model, see `lowerbound.recipes`: table, gaussian, sigma, ladder, ...
        settings: arguments of the recipe and of the objective (beta, free_bits), by name.
        preset: fast, balanced or best.
        latent: size of z; None takes a generous size from the data, "auto" fits once more with
            the number of dimensions that turned out to be in use.
        types: kinds of columns that are not to be inferred, column = kind.
        drop: columns to leave out.
        transform: of numbers: "standard", "quantile" (to Gaussian scores), or "blend", the mean of
            the two, which keeps the distances of far values and evens out the crowded ones.
        alarm_rate: share of normal rows that may be flagged.
        max_epochs: passes at most, instead of the preset's.
        time_limit: seconds at most.
        learning_rate: of Adam at its highest, instead of the preset's.
        seed: of the split, the initial weights, the order and the noise.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        precision: of the products while training, "float32" or "bfloat16"; densities stay float32.
    """

    recipe: str = "table"
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "balanced"
    latent: int | str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()
    transform: str = "blend"
    alarm_rate: float = 0.01
    max_epochs: int | None = None
    time_limit: float | None = None
    learning_rate: float | None = None
    seed: int = 0
    device: str | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Refuse what cannot work before any data are read."""
        _known("preset", self.preset, PRESETS)
        _known("recipe", self.recipe, recipes.__all__)
        _known("transform", self.transform, TRANSFORMS)
        _known("precision", self.precision, PRECISIONS)
        if not 0 < self.alarm_rate < 1:
            raise UsageError(
                "E240",
                f"alarm rate {self.alarm_rate} is not between 0 and 1",
                fix="--alarm-rate 1%",
            )
        for name in ("max_epochs", "time_limit", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                flag = name.replace("_", "-")
                raise UsageError(
                    "E240", f"{flag} is {value}", fix=f"--{flag} with a number above 0"
                )
        if not (
            self.latent in (None, "auto") or (isinstance(self.latent, int) and self.latent > 0)
        ):
            raise UsageError(
                "E240", f"latent is {self.latent!r}", fix="--latent 16, or --latent auto"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError("E240", f"seed {self.seed} is not in [0, 2^63)", fix="--seed 0")
        _refuse_contradictions(self.settings)
        _refuse_idle(self.recipe, self.settings)
        _refuse_blind(self.recipe, self.settings)


def _refuse_contradictions(settings: Mapping[str, Any]) -> None:
    """Refuse settings of which one would silently do nothing."""
    used = [name for name in OBJECTIVE if settings.get(name, OBJECTIVE[name]) != OBJECTIVE[name]]
    kinds = [name for name in _KINDS if name in used]
    for kind in kinds[:1]:
        for other in [*kinds[1:], *(name for name in _KINDS[kind] if name in used)]:
            said = {name: f"{name}={json.dumps(settings[name])}" for name in (kind, other)}
            raise UsageError(
                "E240",
                f"{said[kind]} and {said[other]} are of two objectives",
                fix=f"--set {said[kind]} alone, or leave {kind} out",
            )


def _refuse_idle(recipe: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings of the objective that do nothing while codes are learned."""
    if recipe not in recipes.FIRST_STAGES:
        return
    idle = [name for name in OBJECTIVE if name in settings and name not in _BESIDE_RATE]
    if idle:
        raise UsageError(
            "E257",
            f"{idle[0]} would do nothing for the recipe {recipe!r}: the rate of its codes is "
            "a constant while they are learned",
            fix=f"leave {idle[0]} out",
        )


def _refuse_blind(recipe: str, settings: Mapping[str, Any]) -> None:
    """Refuse a discriminator where there are no pictures to look at."""
    if not settings.get("adversarial") or "shape" in recipes.parameters(recipe):
        return
    sees = [name for name in recipes.__all__ if "shape" in recipes.parameters(name)]
    restores = recipe in recipes.RESTORING
    what = "makes one picture of another" if restores else "models rows of a table"
    raise UsageError(
        "E248",
        f"adversarial={json.dumps(settings['adversarial'])} is for models that make pictures "
        f"({', '.join(sees)}); the recipe {recipe!r} {what}",
        fix="leave adversarial out, or for pictures --recipe conv",
    )


def _known(what: str, value: str, names: Any) -> None:
    if value not in names:
        near = nearest(str(value), names) or next(iter(names))
        raise UsageError(
            "E241", f"{what} {value!r} is none of {', '.join(names)}", fix=f"--{what} {near}"
        )


def is_large(plan: Plan, rows: int) -> bool:
    """Tell whether a fit has the rows, and by its preset the time, to be thorough."""
    return plan.recipe == "table" and plan.preset != "fast" and rows > LARGE


def budget_of(plan: Plan, rows: int) -> Budget:
    """Return how long to train on so many rows."""
    budget = replace(PRESETS[plan.preset].budget, seconds=plan.time_limit)
    if is_large(plan, rows):
        budget = replace(budget, patience=2 * budget.patience)
    if plan.max_epochs is not None:
        budget = replace(budget, epochs=plan.max_epochs, steps=0, most=None)
    return budget


def optimiser_of(plan: Plan, shape: Sequence[int] = ()) -> Optimiser:
    """Return how to step.

    Args:
        plan: the plan.
        shape: of one example, (channels, height, width) of a picture. Of large ones few make a
            step: with 128 of 128 x 128 a CPU takes some hundred steps in minutes, and no model is
            learned in a hundred steps.
    """
    usual, wanted = PRESETS[plan.preset].optimiser, plan.learning_rate
    large = len(shape) == 3 and math.prod(shape) > LARGE_PICTURE
    batch = recipes.BATCHES.get(plan.recipe, FEW_PICTURES if large else None)
    # Fewer rows say less of where to go: shorter steps.
    usual = replace(usual, batch_size=batch, learning_rate=1e-3) if batch else usual
    # Steps of few rows are noisy: what is best, such as the last tenths of a decibel, comes of
    # small ones at the end.
    usual = replace(usual, anneal=ANNEAL) if plan.recipe in recipes.BATCHES else usual
    return usual if wanted is None else replace(usual, learning_rate=wanted)


def objective_settings(plan: Plan, rows: int) -> dict[str, Any]:
    """Return a value for every name of `OBJECTIVE`: what the plan says, else what suits it.

    Args:
        plan: the plan.
        rows: how many there are to learn from.
    """
    chosen = {name: plan.settings[name] for name in OBJECTIVE if name in plan.settings}
    usual = {**OBJECTIVE, **recipes.OBJECTIVES.get(plan.recipe, {})}
    if chosen.keys() & {*_KINDS, "free_bits", "capacity"}:  # in which balance has no place
        usual["balance"] = False
    if is_large(plan, rows) and not chosen.keys() - {"theta_prior"}:
        usual["iwae"] = LARGE_SAMPLES
    return {**usual, **chosen}


def device_of(name: str | None) -> torch.device:
    """Return the device of a name; None takes a GPU where there is one.

    Raises:
        UsageError: E244 where that is not available.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            "E244",
            f"the device {name!r} is not available here",
            fix="--device cpu",
            reason=str(error).splitlines()[0],
        ) from None


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
        UsageError: E240 for a value that an objective cannot have, E248 for an adversarial term
            where there are no pictures to look at.
    """
    warm = warm_up(steps)
    objective = _objective(model, weights, examples, warm)
    if weights["spectral"]:
        objective = Spectral(objective, float(weights["spectral"]))
    if weights["adversarial"]:
        ramp = objectives.Ramp(0.0, force(weights["adversarial"]), warm)
        objective = Adversarial(objective, _shape(model), ramp)
    if not weights["theta_prior"]:
        return objective
    return objectives.Map(objective, [_theta_prior(weights["theta_prior"])], examples)


def _objective(
    model: nn.Module, weights: Mapping[str, Any], examples: int, warm: int
) -> nn.Module:
    """Return the likelihood's part of the objective, its rate warmed up over `warm` steps."""
    beta, capacity = objectives.Ramp(0.0, float(weights["beta"]), warm), weights["capacity"]
    if weights["iwae"]:
        return objectives.Iwae(model, int(weights["iwae"]), dreg=not _is_chained(model))
    if weights["tc"]:
        tc, one = objectives.Ramp(0.0, float(weights["tc"]), warm), objectives.Ramp(0.0, 1.0, warm)
        return aggregate.BetaTc(model, examples, tc=tc, mi=one, dimension=one)
    if weights["mmd"]:
        mmd = objectives.Ramp(0.0, float(weights["mmd"]), warm)
        return aggregate.InfoMmd(model, mmd=mmd, beta=beta)
    if weights["path"]:
        return objectives.StickingTheLanding(model, beta=beta)
    return objectives.Elbo(
        model,
        beta=beta,
        free_bits=float(weights["free_bits"]),
        capacity=objectives.Ramp(0.0, float(capacity), 10 * warm) if capacity else None,
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


def _theta_prior(text: str) -> objectives.ThetaPrior:
    """Read "normal:SCALE" or "laplace:SCALE"."""
    family, _, scale = str(text).partition(":")
    known = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}
    try:
        width = float(scale)
    except ValueError:
        width = -1.0
    if family not in known or not width > 0:
        raise UsageError(
            "E240",
            f"theta_prior is {text!r}, not a family and a scale above 0",
            fix="--set theta_prior=normal:1.0 (or laplace:0.1)",
        )
    return objectives.ThetaPrior(known[family], width)
