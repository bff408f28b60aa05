"""From raw data to a `Trained` model: code, split, build, fit, refit the prior, calibrate."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

import lowerbound
from lowerbound import doctor, metrics, noise, objectives, recipes, tasks, training
from lowerbound.calibration import Calibration
from lowerbound.data.batches import Batch, Rows, subset
from lowerbound.data.coding import Coded, Coding, coding_for
from lowerbound.data.source import Frame, read
from lowerbound.errors import DataError, NumericError, UsageError, nearest
from lowerbound.model import LatentModel
from lowerbound.priors import Mixture
from lowerbound.trace import Trace, from_posterior
from lowerbound.trained import Trained

CALIBRATION_ROWS = 10_000
SMALL = 1_000  # below this many rows, early stopping and calibration share the held-out rows
PRIOR_ROWS = 20_000
GAIN_OF_PRIOR = 0.01  # nats per row that a refitted prior must gain on held-out rows


class Preset(NamedTuple):
    """A trade between time and quality."""

    hidden: tuple[int, ...]
    budget: training.Budget
    optimiser: training.Optimiser
    meaning: str


PRESETS = {
    "fast": Preset(
        (64, 64),
        training.Budget(epochs=30, patience=4, steps=300),
        training.Optimiser(batch_size=256, learning_rate=2e-3),
        "two layers of 64, at most 30 passes",
    ),
    "balanced": Preset(
        (128, 128),
        training.Budget(epochs=200, patience=10, steps=1000),
        training.Optimiser(batch_size=128, learning_rate=1e-3),
        "two layers of 128, at most 200 passes",
    ),
    "best": Preset(
        (256, 256),
        training.Budget(epochs=1000, patience=30, steps=3000),
        training.Optimiser(batch_size=128, learning_rate=5e-4, ema=0.995),
        "two layers of 256, at most 1,000 passes",
    ),
}


@dataclass(frozen=True)
class Plan:
    """Everything that is chosen for one fit; the defaults are good ones.

    Attributes:
        recipe: name of the model: table, gaussian, beta, sigma or counts.
        settings: arguments of the recipe and of the objective (beta, free_bits), by name.
        preset: fast, balanced or best.
        latent: size of z; None takes a generous size from the data, "auto" fits once more with
            the number of dimensions that turned out to be in use.
        types: kinds of columns that are not to be inferred, column = kind.
        drop: columns to leave out.
        transform: of numbers: "standard" or "quantile".
        alarm_rate: share of normal rows that may be flagged.
        max_epochs: passes at most, instead of the preset's.
        time_limit: seconds at most.
        seed: of the split, the initial weights, the order and the noise.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
    """

    recipe: str = "table"
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "balanced"
    latent: int | str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()
    transform: str = "standard"
    alarm_rate: float = 0.01
    max_epochs: int | None = None
    time_limit: float | None = None
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work before any data are read."""
        _known("preset", self.preset, PRESETS)
        _known("recipe", self.recipe, recipes.__all__)
        _known("transform", self.transform, ("standard", "quantile"))
        if not 0 < self.alarm_rate < 1:
            raise UsageError(
                "E240",
                f"alarm rate {self.alarm_rate} is not between 0 and 1",
                fix="--alarm-rate 1%",
            )
        for name in ("max_epochs", "time_limit"):
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


def _known(what: str, value: str, names: Any) -> None:
    if value not in names:
        near = nearest(str(value), names) or next(iter(names))
        raise UsageError(
            "E241", f"{what} {value!r} is none of {', '.join(names)}", fix=f"--{what} {near}"
        )


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts of the data; they share rows only where there are few."""

    train: Tensor
    valid: Tensor
    calibration: Tensor

    @classmethod
    def of(cls, n: int, seed: int) -> Split:
        """Split n rows at random: a tenth each for stopping and for calibration."""
        order = torch.randperm(n, generator=noise.generator(seed, "split"))
        if n < 10:
            return cls(order, order, order)
        if n < SMALL:
            held = order[: max(2, round(0.15 * n))]
            return cls(order[len(held) :], held, held)
        tenth = n // 10
        return cls(order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth])


Say = Callable[[str], None]
Begin = Callable[[Frame, Coding, Split], None]


def learn(
    data: object,
    plan: Plan | None = None,
    *,
    report: training.Report | None = None,
    say: Say = lambda line: None,
    begin: Begin = lambda frame, coding, split: None,
) -> Trained:
    """Fit a model to `data` and calibrate it.

    Args:
        data: a path, an array, a dataframe or a `Frame`.
        plan: what is chosen for this fit.
        report: called after every look at the held-out rows.
        say: called with lines for the user.
        begin: called once, when the data are understood and before training.

    Raises:
        DataError: E0xx where the data cannot be used.
        UsageError: E2xx where the plan cannot.
        NumericError: E4xx where training diverges.
    """
    plan = plan or Plan()
    frame = data if isinstance(data, Frame) else read(data)
    coding = coding_for(plan.recipe).fit(
        frame, types=plan.types, drop=plan.drop, transform=plan.transform
    )
    coded = coding.encode(frame)
    n = len(coded.rows)
    if n < 2:
        raise DataError(
            "E075", f"{frame.origin}: {n} row is too few to learn from", fix="give 2 or more rows"
        )
    split = Split.of(n, plan.seed)
    begin(frame, coding, split)
    fitted = _fit(plan, coding, coded, split, report)
    if plan.latent == "auto" and fitted.history.stopped != "interrupt":
        fitted = _with_active_latents(plan, fitted, (coding, coded, split), report, say)
    model, arguments, history = fitted
    model, arguments = _refit_prior(plan, model, arguments, coded.rows, split)
    return _calibrated(plan, frame, coding, coded, split, (model, arguments, history))


class Fitted(NamedTuple):
    """A model after training."""

    model: LatentModel
    arguments: dict[str, Any]
    history: training.History


def default_latent(arguments: Mapping[str, Any]) -> int:
    """Return a generous latent size: half of the coded width, between 2 and 32."""
    width = sum(arguments["sizes"]) if "sizes" in arguments else arguments["features"]
    return int(min(32, max(2, round(width / 2))))


def resolve(plan: Plan, coding: Coding) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the recipe's arguments and the objective's, with every default filled in."""
    settings = dict(plan.settings)
    beta = recipes.DEFAULT_BETA.get(plan.recipe, 1.0)
    objective = {"beta": settings.pop("beta", beta), "free_bits": settings.pop("free_bits", 0.0)}
    arguments = {**coding.arguments(), **settings}
    arguments.setdefault("hidden", list(PRESETS[plan.preset].hidden))
    if isinstance(plan.latent, int):
        arguments["latent"] = plan.latent
    arguments.setdefault("latent", default_latent(arguments))
    return arguments, objective


def device_of(plan: Plan) -> torch.device:
    """Return where the plan wants to compute.

    Raises:
        UsageError: E244 where that is not available.
    """
    if plan.device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=plan.device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            "E244",
            f"the device {plan.device!r} is not available here",
            fix="--device cpu",
            reason=str(error).splitlines()[0],
        ) from None


def _fit(
    plan: Plan,
    coding: Coding,
    coded: Coded,
    split: Split,
    report: training.Report | None,
) -> Fitted:
    """Build the model and train it once."""
    preset = PRESETS[plan.preset]
    arguments, weights = resolve(plan, coding)
    device = device_of(plan)
    with noise.isolated(plan.seed, "weights"):
        model = recipes.build(plan.recipe, arguments).to(device)
    train, valid = subset(coded.rows, split.train), subset(coded.rows, split.valid)
    _note_library(model, train)
    budget = replace(preset.budget, seconds=plan.time_limit)
    if plan.max_epochs is not None:
        budget = replace(budget, epochs=plan.max_epochs, steps=0)
    per_epoch = max(1, len(train) // preset.optimiser.batch_size)
    ramp = objectives.Ramp(0.0, float(weights["beta"]), min(500, 5 * per_epoch))
    objective = objectives.Elbo(model, beta=ramp, free_bits=float(weights["free_bits"]))
    try:
        history = training.fit(
            objective,
            train,
            valid,
            budget=budget,
            optimiser=preset.optimiser,
            seed=plan.seed,
            report=report,
        )
    except NumericError as error:
        raise _naming_the_column(error, coding) from None
    return Fitted(model.cpu(), arguments, history)


def _naming_the_column(error: NumericError, coding: Coding) -> NumericError:
    """Return the error with the raw column's name where training knows only a number."""
    place = error.details["column"]
    name = next(g.column for g in coding.groups if place in g.parts)
    message = error.message.replace(f"in column {place}", f"in column {name!r}")
    return NumericError(error.code, message, fix=error.fix, **{**error.details, "column": name})


def _note_library(model: LatentModel, train: Rows) -> None:
    """Give a count model the training rows' mean context, for sampling without one."""
    context = train.take(torch.arange(min(len(train), PRIOR_ROWS))).context
    if context is not None:
        model.start.get_buffer("usual").copy_(context.mean(0))


def _with_active_latents(
    plan: Plan,
    wide: Fitted,
    data: tuple[Coding, Coded, Split],
    report: training.Report | None,
    say: Say,
) -> Fitted:
    """Fit again with as many latents as are in use; keep that where it is no worse."""
    coding, coded, split = data
    valid = subset(coded.rows, split.valid)
    use = metrics.latent_use(wide.model, valid)
    active = max(1, int(use.active.sum()))
    if active == wide.arguments["latent"]:
        return wide
    say(f"{active} of {wide.arguments['latent']} latent dimensions in use: fitting again")
    narrow = _fit(replace(plan, latent=active), coding, coded, split, report)
    before, after = (metrics.elbo(f.model, valid).elbo.mean().item() for f in (wide, narrow))
    return narrow if after >= before - 0.005 * abs(before) else wide


def _refit_prior(
    plan: Plan, model: LatentModel, arguments: dict[str, Any], rows: Rows, split: Split
) -> tuple[LatentModel, dict[str, Any]]:
    """Replace N(0, I) by a mixture fitted to the aggregate posterior, where that is better.

    For a fixed encoder and decoder, this is the maximisation of the ELBO over the prior; it is
    kept only where the held-out likelihood rises, and then it is the model's prior for all uses.
    """
    train, valid = subset(rows, split.train), subset(rows, split.valid)
    z = _aggregate(model, train, plan.seed)
    best, best_nll = (model, arguments), -metrics.log_likelihood(model, valid, 64).mean
    for components in (1, 4, 16, 64):
        if len(z) < 10 * components:
            break
        candidate = _mixture_model(plan, model, {**arguments, "components": components}, z)
        nll = -metrics.log_likelihood(candidate[0], valid, 64).mean
        if nll < best_nll - GAIN_OF_PRIOR:
            best, best_nll = candidate, nll
    return best


@torch.no_grad()
def _aggregate(model: LatentModel, rows: Rows, seed: int) -> np.ndarray:
    """Return one draw of z from q(z | x) for up to `PRIOR_ROWS` rows, (n, latent)."""

    def work(batch: Batch) -> Tensor:
        keys = noise.row_keys(*batch) ^ noise.derive("prior", seed)
        trace = Trace(from_posterior(noise.Keyed(keys)), len(batch.x))
        model(batch.x, trace, batch.context)
        (site,) = trace.sites.values()
        return site.z

    some = subset(rows, torch.arange(min(len(rows), PRIOR_ROWS)))
    return metrics.by_tiles(model, some, work).double().numpy()


def _mixture_model(
    plan: Plan, model: LatentModel, arguments: dict[str, Any], z: np.ndarray
) -> tuple[LatentModel, dict[str, Any]]:
    """Return a copy of `model` whose prior is a mixture fitted to z."""
    mixture = GaussianMixture(
        arguments["components"],
        covariance_type="diag",
        reg_covar=1e-4,
        max_iter=50,
        tol=1e-2,
        random_state=plan.seed % 2**32,
    )
    with warnings.catch_warnings():
        # EM may stop before it converges: the result is judged by held-out likelihood anyway.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(z)
    with noise.isolated(plan.seed, "weights"):
        refitted = recipes.build(plan.recipe, arguments)
    refitted.load_state_dict(model.state_dict(), strict=False)
    prior = refitted.levels[0].prior
    assert isinstance(prior, Mixture)
    with torch.no_grad():
        prior.logits.copy_(torch.from_numpy(np.log(np.maximum(mixture.weights_, 1e-12))))
        prior.loc.copy_(torch.from_numpy(mixture.means_))
        prior.log_scale.copy_(torch.from_numpy(0.5 * np.log(mixture.covariances_)))
    return refitted.eval(), arguments


def _calibrated(
    plan: Plan,
    frame: Frame,
    coding: Coding,
    coded: Coded,
    split: Split,
    fitted: tuple[nn.Module, dict[str, Any], training.History],
) -> Trained:
    """Score the calibration rows, set the threshold and examine the model."""
    model, arguments, history = fitted
    index = split.calibration[:CALIBRATION_ROWS]
    scores = tasks.score(model, subset(coded.rows, index)).numpy()
    calibration = Calibration.of(scores - coded.log_jacobian[index.numpy()])
    health = doctor.examine(
        model, subset(coded.rows, split.train), subset(coded.rows, split.valid)
    )
    facts = {
        "version": lowerbound.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "origin": frame.origin,
        "columns": list(frame.names),
        "rows": len(coded.rows),
        "split": {name: len(getattr(split, name)) for name in ("train", "valid", "calibration")},
        "shared_held_out": len(coded.rows) < SMALL,
        "plan": asdict(plan),
        "history": history.as_dict(),
        "valid_elbo": health.valid_elbo,
        "health": health.as_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return Trained(
        recipe=plan.recipe,
        arguments=arguments,
        coding=coding,
        model=model,  # pyright: ignore[reportArgumentType]
        calibration=calibration,
        alarm=calibration.alarm(plan.alarm_rate),
        facts=facts,
    )
