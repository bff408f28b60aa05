"""The options of one fit, and the presets that set most of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch

from lowerbound.coding.context import BATCH, COVARIATE, LABEL
from lowerbound.errors import UsageError, nearest
from lowerbound.recipes import Recipe, find
from lowerbound.tasks.objective_settings import OBJECTIVE, complete
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.objective import refuse_settings
from lowerbound.training.units import seconds, share

TRANSFORMS = ("blend", "standard", "quantile")
PRECISIONS = ("float32", "bfloat16")
LARGE_PICTURE = 4096  # pixels times channels; above it, the batch size is FEW_PICTURES
FEW_PICTURES = 16
ANNEAL = 0.02  # final factor of the learning rate, for recipes with small batches


class Preset(NamedTuple):
    """A trade-off between training time and quality.

    Attributes:
        hidden: widths of the encoder's layers.
        budget: limits on the length of the fit.
        optimiser: settings of the optimiser.
        meaning: a description for help texts.
    """

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


GAP_SAMPLES = 4  # the same, for recipes that use it on rows with gaps: 8 gain no more


@dataclass(frozen=True)
class Plan:
    """The options of one fit; all have defaults.

    Attributes:
        recipe: the model: a name in `lowerbound.recipes` (table, gaussian, sigma, ladder, ...), a
            `Recipe`, or a function that builds a model; stored as a `Recipe`.
        settings: arguments of the recipe and of the objective (beta, free_bits), by name.
        preset: "fast", "balanced" or "best".
        latent: size of z; None chooses a generous size from the data, "auto" fits again with the
            number of dimensions found to be in use.
        types: kinds of columns by name, in place of the inferred ones; "batch" and "covariate"
            are columns of levels and of numbers that the model is conditional on.
        drop: columns to leave out.
        transform: scaling of numeric columns: "standard", "quantile" (to Gaussian scores), or
            "blend", the mean of the two, which keeps extreme values apart and spreads dense ones.
        alarm_rate: share of normal rows that may be flagged, such as 0.001 or "0.1%"; stored as a
            number.
        max_epochs: largest number of passes over the data, in place of the preset's.
        time_limit: largest number of seconds of the whole fit, from reading the data to the saved
            model, or text such as "10m"; stored as seconds.
        learning_rate: peak learning rate of Adam, in place of the preset's.
        seed: seed of the split, the initial weights, the order of rows and the noise.
        device: "cpu", "cuda", ...; None uses a GPU if there is one.
        precision: precision of matrix products in training, "float32" or "bfloat16"; densities
            are always float32.
        start: path or name of a saved model of pictures whose weights the fit starts from; None
            starts from random ones.

    Raises:
        UsageError: E231, E240 or E241 for an invalid value; E236, E248, E249 or E257 for settings
            of the objective that cannot be used.
    """

    recipe: Recipe = "table"  # pyright: ignore[reportAssignmentType] - resolved below
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
    start: str | None = None

    def __post_init__(self) -> None:
        """Check the options before any data are read."""
        _known("preset", self.preset, PRESETS)
        object.__setattr__(self, "recipe", find(self.recipe))
        _known("transform", self.transform, TRANSFORMS)
        _known("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "alarm_rate", share(self.alarm_rate, "alarm_rate"))
        if self.time_limit is not None:
            object.__setattr__(self, "time_limit", seconds(self.time_limit, "time_limit"))
        if not 0 < self.alarm_rate < 1:
            raise UsageError(
                "E240",
                f"alarm_rate must be between 0 and 1, got {self.alarm_rate}",
                fix="--alarm-rate 1%",
            )
        for name in ("max_epochs", "time_limit", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                flag = name.replace("_", "-")
                raise UsageError(
                    "E240",
                    f"{name} must be above 0, got {value}",
                    fix=f"--{flag} with a number above 0",
                )
        if not (
            self.latent in (None, "auto") or (isinstance(self.latent, int) and self.latent > 0)
        ):
            raise UsageError(
                "E240",
                f"latent must be a positive integer or 'auto', got {self.latent!r}",
                fix="--latent 16, or --latent auto",
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(
                "E240", f"seed must be from 0 to 2^63 - 1, got {self.seed}", fix="--seed 0"
            )
        refuse_settings(self.recipe, self.settings)

    def document(self) -> dict[str, Any]:
        """Return the options as plain JSON values, with the recipe by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "recipe": self.recipe.name, "drop": list(self.drop)}


def with_covariates(
    types: Mapping[str, str],
    batch: str | Sequence[str],
    covariates: str | Sequence[str],
    labels: str | None = None,
) -> dict[str, str]:
    """Return kinds of columns that include those of covariates.

    Args:
        types: kinds by the name of the column.
        batch: the columns of levels that the model is conditional on.
        covariates: the columns of numbers.
        labels: the column of labels that is modelled together with the counts; None for none.

    Raises:
        UsageError: E236 for a column that is declared twice.
    """
    kinds = dict(types)
    own = () if labels is None else (labels,)
    for kind, names in ((BATCH, batch), (COVARIATE, covariates), (LABEL, own)):
        for name in (names,) if isinstance(names, str) else map(str, names):
            if kinds.setdefault(name, kind) != kind:
                raise UsageError(
                    "E236",
                    f"column {name!r} is declared as {kinds[name]} and as {kind}",
                    fix="keep one of the two",
                )
    return kinds


def _known(what: str, value: str, names: Any) -> None:
    if value not in names:
        near = nearest(str(value), names) or next(iter(names))
        raise UsageError(
            "E241",
            f"{what} must be one of {', '.join(names)}, got {value!r}",
            fix=f"--{what} {near}",
        )


def budget_of(plan: Plan) -> Budget:
    """Return the training budget of a fit."""
    budget = replace(PRESETS[plan.preset].budget, seconds=plan.time_limit)
    if plan.max_epochs is not None:
        budget = replace(budget, epochs=plan.max_epochs, steps=0, most=None)
    return budget


def optimiser_of(plan: Plan, shape: Sequence[int] = ()) -> Optimiser:
    """Return the optimiser settings of a fit.

    Args:
        plan: the plan.
        shape: shape of one example; (channels, height, width) for a picture. Large pictures get
            small batches: with 128 pictures of 128 x 128, a CPU takes only about a hundred steps
            in a few minutes, which is too few to train a model.
    """
    usual, wanted = PRESETS[plan.preset].optimiser, plan.learning_rate
    large = len(shape) == 3 and math.prod(shape) > LARGE_PICTURE
    batch = plan.recipe.batch_size or (FEW_PICTURES if large else None)
    # Gradients of small batches are noisier: use a lower learning rate.
    usual = replace(usual, batch_size=batch, learning_rate=1e-3) if batch else usual
    # With small batches, the last gains (such as tenths of a decibel) need small steps at the end.
    usual = replace(usual, anneal=ANNEAL) if plan.recipe.batch_size else usual
    return usual if wanted is None else replace(usual, learning_rate=wanted)


def objective_settings(plan: Plan, missing: float = 0.0) -> dict[str, Any]:
    """Return a value for every name in `OBJECTIVE`: the plan's, or the recipe's default.

    The gap between the ELBO and log p(x) of a row with few observed values is smallest if z has
    little influence on x, since q(z | x) is then exact. If such rows are many, maximising the
    ELBO therefore makes the columns less dependent than they are. The importance-weighted bound
    has little of this bias.

    References:
        Mattei & Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data
        sets", 2019, https://arxiv.org/abs/1812.02633

    Args:
        plan: the plan.
        missing: share of missing values.
    """
    chosen = {name: plan.settings[name] for name in OBJECTIVE if name in plan.settings}
    values = complete(plan.recipe.objective, chosen)
    if chosen.keys() - {"theta_prior"}:
        return values
    above = plan.recipe.iwae_above_missing
    if above is not None and missing > above:
        values["iwae"] = GAP_SAMPLES
    return values


def device_of(name: str | None) -> torch.device:
    """Return the torch device of a name; None gives a GPU if there is one, else the CPU.

    Raises:
        UsageError: E244 if the device is not available.
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
