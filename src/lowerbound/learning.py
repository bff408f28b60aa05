"""From raw data to a `Trained` model: code, split, build, fit, refit the prior, calibrate."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import lowerbound
from lowerbound import (
    aggregate_priors,
    doctor,
    metrics,
    noise,
    recipes,
    restoring,
    tasks,
    training,
)
from lowerbound.calibration import Calibration
from lowerbound.data.batches import Rows, fingerprint, subset
from lowerbound.data.coding import Coded, Coding, coding_for
from lowerbound.data.pairs import restores
from lowerbound.data.source import Frame, read
from lowerbound.errors import DataError, NumericError, UsageError
from lowerbound.model import LatentModel
from lowerbound.plan import (
    OBJECTIVE,
    PRESETS,
    Plan,
    budget_of,
    device_of,
    objective_of,
    objective_settings,
    optimiser_of,
)
from lowerbound.recipes.hierarchies import halved
from lowerbound.refit import refit_prior
from lowerbound.second_stage import RATE, TIME, FrozenElbo, unfrozen
from lowerbound.trained import Trained

VALID_ROWS = 4_000
CALIBRATION_ROWS = 10_000
SMALL = 1_000  # below this many rows, early stopping and calibration share the held-out rows
CONTEXT_ROWS = 20_000
HELD_CROPS = 128
CROP_SAMPLES = 4  # importance samples of a crop's score
TYPICAL_ROWS = 500  # held-out rows that tell what each column usually adds to a score
TYPICAL_COLUMNS = 5_000
LATENT_LIMIT = 128
CLIP = 5.0  # of the gradient's norm, per square root of a column


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts of the data; they share rows only where there are few."""

    train: Tensor
    valid: Tensor
    calibration: Tensor

    @classmethod
    def of(cls, n: int, seed: int) -> Split:
        """Split n rows at random: a tenth each for stopping and for calibration, within limits."""
        order = torch.randperm(n, generator=noise.generator(seed, "split"))
        if n < 10:
            return cls(order, order, order)
        held = min(max(2, n // 10), VALID_ROWS)
        if n < SMALL:
            return cls(order[held:], order[:held], order[:held])
        both = held + min(n // 10, CALIBRATION_ROWS)
        return cls(order[both:], order[:held], order[held:both])

    @classmethod
    def of_crops(cls, n: int, each: int, seed: int) -> Split:
        """Split n pictures of so many crops each: those of a picture stay together.

        Of those that are held out only some are taken: crops of a picture tell the same.
        """
        pictures = cls.of(n, seed)

        def crops(index: Tensor) -> Tensor:
            return (index + n * torch.arange(each)[:, None]).flatten()

        held = crops(pictures.valid)[:HELD_CROPS], crops(pictures.calibration)[:HELD_CROPS]
        return cls(crops(pictures.train), *held)


Say = Callable[[str], None]
Begin = Callable[[Frame, Coding, Split], None]


class _Material(NamedTuple):
    """What a fit is made from, and whom it tells."""

    coding: Coding
    coded: Coded
    split: Split
    report: training.Report | None
    say: Say
    run: training.RunFolder | None

    @property
    def train(self) -> Rows:
        """The rows to learn from, as the coding's view is to see them."""
        return subset(self.coded.raw or self.coded.rows, self.split.train)

    @property
    def learned(self) -> Rows:
        """The rows to learn from as rows are held out: each seen in one way."""
        return subset(self.coded.rows, self.split.train)

    @property
    def valid(self) -> Rows:
        """The rows that decide when to stop."""
        return subset(self.coded.rows, self.split.valid)


def learn(
    data: object,
    plan: Plan | None = None,
    *,
    run: training.RunFolder | None = None,
    report: training.Report | None = None,
    say: Say = lambda line: None,
    begin: Begin = lambda frame, coding, split: None,
) -> Trained:
    """Fit a model to `data` and calibrate it.

    Args:
        data: a path, an array, a dataframe or a `Frame`.
        plan: what is chosen for this fit.
        run: an entered run folder: the fit keeps its states there, and goes on from earlier ones.
        report: called after every look at the held-out rows.
        say: called with lines for the user.
        begin: called once, when the data are understood and before training.

    Raises:
        DataError: E0xx where the data cannot be used.
        UsageError: E2xx where the plan cannot, or is not the one that `run` was begun with.
        ResourceError: E3xx where a state cannot be kept.
        NumericError: E4xx where training diverges.
    """
    plan = plan or Plan()
    frame = data if isinstance(data, Frame) else read(data)
    coding = coding_for(plan.recipe, plan.settings).fit(
        frame, types=plan.types, drop=plan.drop, transform=plan.transform
    )
    coded = coding.encode(frame)
    n = len(coded.rows) // coded.each
    if n < 2:
        raise DataError(
            "E075", f"{frame.origin}: {n} row is too few to learn from", fix="give 2 or more rows"
        )
    split = Split.of(n, plan.seed)
    if coded.each > 1:
        split = Split.of_crops(n, coded.each, plan.seed)
    begin(frame, coding, split)
    if run is not None:
        run.configure(_configuration(plan, frame, coded.rows))
    material = _Material(coding, coded, split, report, say, run)
    fitted = _fit(_first_stage(plan), material, "first")
    if plan.latent == "auto" and fitted.history.stopped != "interrupt":
        fitted = _with_active_latents(plan, fitted, material)
    if plan.recipe in recipes.FIRST_STAGES and fitted.history.stopped != "interrupt":
        fitted = _with_learned_priors(plan, fitted, material)
    model, arguments = refit_prior(
        plan.recipe, (fitted.model, fitted.arguments), material.train, material.valid, plan.seed
    )
    return _calibrated(plan, frame, material, fitted._replace(model=model, arguments=arguments))


def _configuration(plan: Plan, frame: Frame, rows: Rows) -> dict[str, Any]:
    """Return everything that the bytes of the result depend on, but for the machine."""
    return {
        "plan": asdict(plan),
        "device": device_of(plan.device).type,
        "data": {"rows": len(rows), "columns": list(frame.names), "digest": fingerprint(rows)},
        "versions": {"lowerbound": lowerbound.__version__, "torch": str(torch.__version__)},
    }


class Fitted(NamedTuple):
    """A model after training.

    Attributes:
        model: in evaluation mode.
        arguments: of its recipe.
        history: of the training, where there were two stages of the first.
        engine: how the machine was used.
        priors: the history of the second stage, in which the priors were learned, if any.
    """

    model: LatentModel
    arguments: dict[str, Any]
    history: training.History
    engine: training.Engine
    priors: training.History | None = None


def default_latent(arguments: Mapping[str, Any]) -> int:
    """Return a generous latent size: the number of coded columns to the power 3/4, at least 2."""
    width = len(arguments["sizes"]) if "sizes" in arguments else arguments["features"]
    return min(width, max(2, min(LATENT_LIMIT, round(width**0.75))))


def resolve(plan: Plan, coding: Coding) -> dict[str, Any]:
    """Return the recipe's arguments, with every default filled in."""
    settings = {name: value for name, value in plan.settings.items() if name not in OBJECTIVE}
    arguments = {**coding.arguments(), **settings}
    if "hidden" in recipes.parameters(plan.recipe):
        arguments.setdefault("hidden", list(PRESETS[plan.preset].hidden))
    return {**arguments, **_sizes(plan, arguments)}


def _sizes(plan: Plan, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size of z; of a hierarchy that of every level, the finest having the size."""
    latent = plan.latent if isinstance(plan.latent, int) else None
    known = recipes.parameters(plan.recipe)
    if "features" not in known and "sizes" not in known:  # of images: the recipe's own default
        if "latent" not in known:
            return {} if latent is None else {"latent": latent}  # which its recipe will refuse
        return {"latent": latent or arguments.get("latent") or known["latent"].default}
    if "latents" not in known:
        return {"latent": latent or arguments.get("latent") or default_latent(arguments)}
    if latent and "latents" in arguments:
        raise UsageError(
            "E236",
            f"latent={latent} and latents={list(arguments['latents'])} both give the size of z",
            fix="leave one of them out",
        )
    given = arguments.get("latents")
    halves = halved(latent or default_latent(arguments), len(arguments["hidden"]))
    return {"latents": list(given or halves)}


def _fit(plan: Plan, material: _Material, stage: str) -> Fitted:
    """Build the model and train it once."""
    arguments = resolve(plan, material.coding)
    device = device_of(plan.device)
    with noise.isolated(plan.seed, "weights"):
        model = recipes.build(plan.recipe, arguments).to(device)
    train = material.train
    _note_library(model, train)
    aggregate_priors.start_from(
        model.levels[0].get_submodule("prior"),
        lambda n: train.take(torch.arange(min(len(train), n))).x,
    )
    budget, optimiser = budget_of(plan, len(train)), _optimiser(plan, material.valid)
    steps = budget.total(max(1, len(train) // optimiser.batch_size))
    weights = objective_settings(plan, len(train))
    objective = objective_of(model, weights, len(train), steps)
    history, engine = _trained(plan, material, objective, (budget, optimiser), stage)
    return Fitted(model.cpu(), arguments, history, engine)


def _trained(
    plan: Plan,
    material: _Material,
    objective: nn.Module,
    settings: tuple[training.Budget, training.Optimiser],
    stage: str,
) -> tuple[training.History, training.Engine]:
    """Train an objective's model in place."""
    (budget, optimiser), valid = settings, material.valid
    size = min(optimiser.batch_size, len(material.train))
    engine = training.chosen(objective, valid, size, plan.precision)
    material.say(f"engine     {engine}")
    try:
        history = training.fit(
            objective,
            material.train,
            valid,
            budget=budget,
            optimiser=optimiser,
            seed=plan.seed,
            engine=engine,
            checkpoints=material.run and material.run.stage(stage),
            report=material.report,
            view=material.coded.view,
        )
    except NumericError as error:
        raise _naming_the_column(error, material.coding) from None
    return history, engine


def _first_stage(plan: Plan) -> Plan:
    """Return the plan of the first stage, where there are two; else the plan itself."""
    first = recipes.FIRST_STAGES.get(plan.recipe)
    if first is None:
        return plan
    limit = plan.time_limit and TIME * plan.time_limit
    return replace(plan, settings={**plan.settings, **first}, time_limit=limit)


def _with_learned_priors(plan: Plan, first: Fitted, material: _Material) -> Fitted:
    """Learn the priors that the plan asks for, all else as the first stage has left it."""
    defaults = {name: known.default for name, known in recipes.parameters(plan.recipe).items()}
    changed = recipes.FIRST_STAGES[plan.recipe]
    wanted = {name: plan.settings.get(name, defaults[name]) for name in changed}
    if wanted == changed:
        return first
    material.say(f"priors     {', '.join(map(str, wanted.values()))}, all else as it is")
    arguments = {**first.arguments, **wanted}
    model = unfrozen(plan.recipe, first.model, arguments, plan.seed).to(device_of(plan.device))
    train = material.train
    budget, optimiser = budget_of(plan, len(train)), _optimiser(plan, train)
    if budget.seconds is not None:  # what the first stage did not take is left
        used = first.history.checks[-1].seconds if first.history.checks else 0.0
        budget = replace(budget, seconds=max(budget.seconds - used, budget.seconds / 10))
    optimiser = replace(optimiser, learning_rate=min(RATE, optimiser.learning_rate))
    history, _ = _trained(plan, material, FrozenElbo(model), (budget, optimiser), "priors")
    model = model.cpu().requires_grad_(True)
    return first._replace(model=model, arguments=arguments, priors=history)


def _optimiser(plan: Plan, rows: Rows) -> training.Optimiser:
    """Return how to step."""
    # The size of a gradient grows with the number of columns that add to the loss.
    clip = CLIP * math.sqrt(math.prod(rows.take(torch.zeros(1, dtype=torch.long)).x.shape))
    return replace(optimiser_of(plan), clip=clip)


def _naming_the_column(error: NumericError, coding: Coding) -> NumericError:
    """Return the error with the raw column's name where training knows only a number."""
    place = error.details["column"]
    name = next(g.column for g in coding.groups if place in g.parts)
    message = error.message.replace(f"in column {place}", f"in column {name!r}")
    return NumericError(error.code, message, fix=error.fix, **{**error.details, "column": name})


def _note_library(model: LatentModel, train: Rows) -> None:
    """Give a count model the training rows' mean context, for sampling without one."""
    usual = dict(model.start.named_buffers()).get("usual")
    if usual is None:  # a model that draws without a context, or never without one
        return
    context = train.take(torch.arange(min(len(train), CONTEXT_ROWS))).context
    if context is not None:
        usual.copy_(context.mean(0))


def _with_active_latents(plan: Plan, wide: Fitted, material: _Material) -> Fitted:
    """Fit again with as many latents as are in use; keep that where it is no worse."""
    valid = material.valid
    use = metrics.latent_use(wide.model, valid)
    sizes = _in_use(wide.arguments, use.active)
    if sizes.items() <= wide.arguments.items():
        return wide
    material.say(
        f"{int(use.active.sum())} of {len(use.active)} latent dimensions in use: fitting again"
    )
    settings = {**plan.settings, **sizes}
    narrow = _fit(replace(plan, settings=settings), material, "narrow")
    before, after = (metrics.elbo(f.model, valid).elbo.mean().item() for f in (wide, narrow))
    return narrow if after >= before - 0.005 * abs(before) else wide


def _restoring(health: doctor.Health, fitted: Fitted, valid: Rows) -> doctor.Health:
    """Return the health of a model that restores, by what it makes of held-out pairs."""
    if classes := fitted.arguments.get("classes"):
        right = restoring.accuracy(fitted.model, valid)
        told = f"{right:.1%} of the held-out pixels get their class"
        return doctor.of_restoring(health, told, right > 1 / classes)
    before, after = restoring.decibels(fitted.model, valid)
    told = f"held-out crops come from {before:.2f} dB to {after:.2f} dB"
    return doctor.of_restoring(health, told, after > before)


def _some(learned: Rows, coded: Coded) -> Rows:
    """Return the rows to learn from, of crops as many as are held out."""
    return learned if coded.each == 1 else subset(learned, torch.arange(HELD_CROPS))


def _in_use(arguments: Mapping[str, Any], active: Tensor) -> dict[str, Any]:
    """Return the arguments that size a model to the latents in use, at least one per level."""
    if not {"latent", "latents"} & arguments.keys():  # as many as there are pixels
        return {}
    if "latents" not in arguments:
        return {"latent": max(1, int(active.sum()))}
    levels = active.split(list(arguments["latents"])[::-1])  # traces go from coarse to fine
    return {"latents": [max(1, int(level.sum())) for level in levels][::-1]}


def _calibrated(plan: Plan, frame: Frame, material: _Material, fitted: Fitted) -> Trained:
    """Score the calibration rows, set the threshold and examine the model."""
    model, arguments, history, engine, priors = fitted
    coding, coded, split = material.coding, material.coded, material.split
    index = split.calibration
    samples = tasks.SCORE_SAMPLES if coded.each == 1 else CROP_SAMPLES
    scores = tasks.score(model, subset(coded.rows, index), samples).numpy()
    calibration = Calibration.of(scores + coded.surcharge[index.numpy()])
    some = subset(coded.rows, index[:TYPICAL_ROWS])
    columns = coding.groups if not coding.shape else ()  # what pictures lack is columns to name
    cells = (
        tasks.cell_nats(model, some).flatten(1).mean(0)
        if 0 < len(columns) <= TYPICAL_COLUMNS
        else None
    )
    health = doctor.examine(model, _some(material.learned, coded), material.valid)
    if restores(plan.recipe):
        health = _restoring(health, fitted, material.valid)
    facts = {
        "version": lowerbound.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "origin": frame.origin,
        "columns": list(frame.names),
        "rows": len(coded.rows),
        "split": {name: len(getattr(split, name)) for name in ("train", "valid", "calibration")},
        "shared_held_out": len(coded.rows) < SMALL,
        "plan": asdict(plan),
        "objective": objective_settings(plan, len(split.train)),
        "patience": budget_of(plan, len(split.train)).patience,
        "engine": engine.as_dict(),
        "history": history.as_dict(),
        **({} if priors is None else {"priors_history": priors.as_dict()}),
        "typical_nats": {}
        if cells is None
        else {group.column: float(cells[list(group.parts)].sum()) for group in columns},
        "valid_elbo": health.valid_elbo,
        "latent": tasks.embed(model, subset(coded.rows, index[:1])).shape[1],
        "health": health.as_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return Trained(
        recipe=plan.recipe,
        arguments=arguments,
        coding=coding,
        model=model,
        calibration=calibration,
        alarm=calibration.alarm(plan.alarm_rate),
        facts=facts,
    )
