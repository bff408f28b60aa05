"""Fit a model to raw data: code, split, build, train, refit the prior, calibrate."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound._version import __version__
from lowerbound.coding import large
from lowerbound.coding.base import Coded, Coding
from lowerbound.coding.pairs import read_pairs
from lowerbound.coding.rows import Rows, fingerprint, subset, tile_of, tiles
from lowerbound.errors import DataError, NumericError, UsageError
from lowerbound.files import containers
from lowerbound.files.data import Data, Whole
from lowerbound.files.read import walk
from lowerbound.files.stream import Stream
from lowerbound.nn.latents import mixture_priors
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import Recipe, find, suggest
from lowerbound.recipes.hierarchies import halved
from lowerbound.tasks import latent_use, metrics
from lowerbound.tasks.objective_settings import OBJECTIVE
from lowerbound.tasks.trained import Model
from lowerbound.training.calibrate import calibrated
from lowerbound.training.engine import loop
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.history import History
from lowerbound.training.engine.loop import Report
from lowerbound.training.engine.processes import ALONE, Team
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.objective import objective_of, settled
from lowerbound.training.plan import (
    PRESETS,
    Plan,
    budget_of,
    device_of,
    objective_settings,
    optimiser_of,
)
from lowerbound.training.refit_prior import refit_prior
from lowerbound.training.second_stage import RATE, TIME, FrozenElbo, unfrozen
from lowerbound.training.split import CALIBRATION_ROWS, VALID_ROWS, Fitted, Material, Say, Split

CONTEXT_ROWS = 20_000
LATENT_LIMIT = 128
CLIP = 5.0  # of the gradient's norm, per square root of a column


Begin = Callable[[Data, Coding, Split], None]


def fit(  # noqa: PLR0913 - each is a choice of its own, and all but the data have a default
    data: object,
    recipe: str | Recipe | Callable[..., LatentModel] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: str = "auto",
    targets: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    latent: int | str | None = None,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    transform: str | None = None,
    alarm_rate: float | str | None = None,
    max_epochs: int | None = None,
    time_limit: float | str | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str | None = None,
    say: Say = lambda line: None,
) -> Model:
    """Fit a model to data, and calibrate its scores on held-out rows.

    Args:
        data: a path (a table, a folder of pictures, cells), a data frame, an Arrow table, an
            array, a sparse matrix, an AnnData object, ...
        recipe: the model: a name (see `lowerbound.Plan`), a `lowerbound.Recipe` or a function
            that builds a model. None takes the one that suits the data.
        out: where to save the model, such as "fraud.vae". The state of the fit is then kept in a
            folder beside it ("fraud.run"), and the same call continues a fit that was killed, to
            the same bytes.
        overwrite: replace an earlier model at `out`.
        resume: "auto" continues an unfinished fit, "never" forgets it.
        targets: of recipes that make one picture of another: a folder with the wanted picture for
            each of the data.
        settings: arguments of the recipe and of the objective, such as ``{"beta": 2}``.
        preset: "fast", "balanced" or "best".
        latent: size of z; None takes a generous size, "auto" as many dimensions as are in use.
        types: kinds of columns that are not to be inferred, by column.
        drop: columns to leave out.
        transform: of numbers: "blend", "standard" or "quantile".
        alarm_rate: share of normal rows that may be flagged, such as 0.001 or "0.1%".
        max_epochs: passes over the data at most.
        time_limit: seconds at most, or a text such as "60s" or "10m".
        learning_rate: of Adam at its highest.
        seed: of everything random.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        precision: "float32" or "bfloat16", of products while training.
        say: called with lines about the progress, such as ``print``.

    Returns:
        The model: its methods score, embed, sample, impute, reconstruct, evaluate and save.

    Raises:
        DataError: E0xx where the data cannot be used.
        UsageError: E2xx where a choice cannot be.
        ResourceError: E3xx where a state or the model cannot be kept.
        NumericError: E4xx where training diverges.

    >>> import numpy as np
    >>> model = fit(np.random.default_rng(0).normal(size=(200, 3)), preset="fast", max_epochs=1)
    >>> model.embed(np.zeros((2, 3))).shape
    (2, 2)
    """
    named = locals()
    chosen = {name: named[name] for name in _FIELDS if named[name] not in (None, ())}
    given, suits = _given(data, recipe, targets, chosen)
    more = {**suits.get("settings", {}), **chosen.pop("settings", {})}
    plan = Plan(**{**suits, **chosen, "settings": more, "seed": seed})
    if out is None:
        return _noting(learn(given, plan, say=say), given)
    target = Path(out).absolute()
    if resume not in ("auto", "never"):
        raise UsageError("E241", f"resume is {resume!r}, which is none of 'auto', 'never'", fix="")
    with RunFolder(run_path(target), fresh=resume == "never", replace=overwrite) as run:
        if target.exists() and not run.replace:
            raise UsageError("E220", f"{target} exists already", fix="overwrite=True")
        model = _noting(learn(given, plan, run=run, say=say), given)
        run.owns_output()
        model.save(target, overwrite=run.replace)
        if model.facts["history"]["stopped"] != "interrupt":
            run.remove()
    return model


_FIELDS = (
    "recipe",
    "settings",
    "preset",
    "latent",
    "types",
    "drop",
    "transform",
    "alarm_rate",
    "max_epochs",
    "time_limit",
    "learning_rate",
    "device",
    "precision",
)


def run_path(target: Path) -> Path:
    """Return where the fit of a model keeps its states: ``tx.run`` beside ``tx.vae``."""
    return target.with_suffix(".run") if target.suffix == ".vae" else Path(f"{target}.run")


def _given(
    data: object, recipe: Any, targets: Any, chosen: Mapping[str, object]
) -> tuple[Data, Mapping[str, Any]]:
    """Read the data, and return the fields of a plan that suit them where no recipe is chosen."""
    restoration = None if recipe is None else find(recipe).restoration
    if isinstance(data, Data):
        return data, {}
    if restoration is not None and isinstance(data, str | os.PathLike):
        return read_pairs(data, targets, restoration), {}
    given = walk(data)
    if recipe is not None:
        return given, {}
    first = next(iter(given.parts()))
    return given, suggest(first, chosen).plan


def _noting(model: Model, given: Data) -> Model:
    """Note the kind of container that the model was fitted on, in which it gives rows back."""
    kind = containers.kind_of(given.native) if isinstance(given, Whole) else "arrow"
    model.facts["input"] = {"kind": kind, "named": not containers.is_array(kind)}
    return model


def learn(
    data: object,
    plan: Plan | None = None,
    *,
    run: RunFolder | None = None,
    report: Report | None = None,
    say: Say = lambda line: None,
    begin: Begin = lambda frame, coding, split: None,
    team: Team = ALONE,
) -> Model:
    """Fit a model to `data` and calibrate it.

    Args:
        data: a path, an array, a data frame, or `Data` that were read.
        plan: what is chosen for this fit.
        run: an entered run folder: the fit keeps its states there, and goes on from earlier ones.
        report: called after every look at the held-out rows.
        say: called with lines for the user.
        begin: called once, when the data are understood and before training.
        team: the processes that train together: each calls this with the same arguments, and the
            first one alone with a run folder. All return the same model.

    Raises:
        DataError: E0xx where the data cannot be used.
        UsageError: E2xx where the plan cannot, or is not the one that `run` was begun with.
        ResourceError: E3xx where a state cannot be kept.
        NumericError: E4xx where training diverges.
    """
    plan = plan or Plan()
    frame, coding, coded = _coded(walk(data), plan, team)
    n = len(coded.rows) // coded.each
    if n < 2:
        raise DataError(
            "E075", f"{frame.origin}: {n} row is too few to learn from", fix="give 2 or more rows"
        )
    split = Split.of_shuffled(n) if coded.shuffled else Split.of(n, plan.seed)
    if coded.each > 1:
        split = Split.of_crops(n, coded.each, plan.seed)
    begin(frame, coding, split)
    if run is not None or team.size > 1:
        configuration = _configuration(plan, frame, coded)
        if run is not None:
            run.configure(configuration)
        _refuse_other_data(team, configuration["data"])
    material = Material(coding, coded, split, report, say, run, team)
    fitted = _fit(_first_stage(plan), material, "first")
    if plan.latent == "auto" and fitted.history.stopped != "interrupt":
        fitted = _with_active_latents(plan, fitted, material)
    if plan.recipe.first_stage and fitted.history.stopped != "interrupt":
        fitted = _with_learned_priors(plan, fitted, material)
    model, arguments = refit_prior(
        plan.recipe, (fitted.model, fitted.arguments), material.train, material.valid, plan.seed
    )
    return calibrated(plan, frame, material, fitted._replace(model=model, arguments=arguments))


def _coded(given: Data, plan: Plan, team: Team) -> tuple[Data, Coding, Coded]:
    """Code the rows to learn from: into a file those of a large table, of which few are held.

    One process of each machine writes the file, and the others there read it too.
    """
    kind = plan.recipe.coding(plan.settings)
    chosen = {"types": plan.types, "drop": plan.drop, "transform": plan.transform}
    if not (isinstance(given, Stream) and large.is_large(given) and large.codes(kind)):
        frame = given.whole()
        coding = kind.fit(frame, **chosen)
        return frame, coding, coding.encode(frame)
    batch, budget = optimiser_of(plan).batch_size, budget_of(plan, given.rows)
    most = batch * budget.total(given.rows // batch) + VALID_ROWS + CALIBRATION_ROWS

    def stored() -> tuple[Coding, Coded]:
        return large.stored(large.fitted(kind, given, plan.seed, **chosen), given, most, plan.seed)

    coding, coded = team.per_machine(stored)
    return replace(given, notes=tuple(coded.notes)), coding, coded


def _refuse_other_data(team: Team, data: Mapping[str, Any]) -> None:
    """Refuse to train with processes that have read something else."""
    theirs = team.first(lambda: dict(data))
    if theirs != data:
        differ = [f"{k} {data[k]}, not {theirs[k]}" for k in data if theirs[k] != data[k]]
        raise UsageError(
            "E252",
            f"process {team.rank} has read other data than the first: {'; '.join(differ)[:160]}",
            fix="give every machine the same files under the same path",
        )


def _configuration(plan: Plan, frame: Data, coded: Coded) -> dict[str, Any]:
    """Return everything that the bytes of the result depend on, but for the machine."""
    return {
        "plan": plan.document(),
        "device": device_of(plan.device).type,
        "data": {
            "rows": len(coded.rows),
            "columns": list(frame.names),
            "digest": coded.digest or fingerprint(coded.rows),
        },
        "versions": {"lowerbound": __version__, "torch": str(torch.__version__)},
    }


def default_latent(arguments: Mapping[str, Any]) -> int:
    """Return a generous latent size: the number of coded columns to the power 3/4, at least 2."""
    width = len(arguments["sizes"]) if "sizes" in arguments else arguments["features"]
    return min(width, max(2, min(LATENT_LIMIT, round(width**0.75))))


def resolve(plan: Plan, coding: Coding) -> dict[str, Any]:
    """Return the recipe's arguments, with every default filled in.

    Raises:
        UsageError: E259 for missing values where the recipe has no argument to be told of them.
    """
    settings = {name: value for name, value in plan.settings.items() if name not in OBJECTIVE}
    arguments = {**plan.recipe.arguments, **_decided(plan.recipe, coding), **settings}
    if "hidden" in plan.recipe.parameters:
        arguments.setdefault("hidden", list(PRESETS[plan.preset].hidden))
    return {**arguments, **_sizes(plan, arguments)}


def _decided(recipe: Recipe, coding: Coding) -> dict[str, Any]:
    """Return the arguments that the data decide; a recipe need not have those that say nothing."""
    known = recipe.parameters
    found = coding.arguments()
    if "missing" not in known and found.get("missing") is False:
        found.pop("missing")
    if "missing" in found and "missing" not in known:
        raise UsageError(
            "E259",
            f"rows have missing values, and the recipe {recipe.name!r} has no argument `missing` "
            "to be told of them",
            fix=f"def {recipe.name}(features, missing=False, ...), whose likelihood leaves NaN "
            "out: lowerbound.nn.WithMissing(family); or fill the gaps before",
        )
    return found


def _sizes(plan: Plan, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size of z; of a hierarchy that of every level, the finest having the size."""
    latent = plan.latent if isinstance(plan.latent, int) else None
    known = plan.recipe.parameters
    if "features" not in known and "sizes" not in known:  # of images: the recipe's own default
        if "latent" not in known:
            return {} if latent is None else {"latent": latent}  # which its recipe will refuse
        return {"latent": latent or arguments.get("latent") or known["latent"].default}
    if "latents" not in known and "latent" not in known:
        return {} if latent is None else {"latent": latent}
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


def _fit(plan: Plan, material: Material, stage: str) -> Fitted:
    """Build the model and train it once."""
    arguments = resolve(plan, material.coding)
    device = device_of(plan.device)
    with noise.isolated(plan.seed, "weights"):
        model = plan.recipe.make(arguments).to(device)
    train = material.train
    _note_library(model, train)
    mixture_priors.start_from(
        model.levels[0].get_submodule("prior"),
        lambda n: train.take(torch.arange(min(len(train), n))).x,
    )
    budget, optimiser = budget_of(plan, len(train)), _optimiser(plan, material.valid)
    steps = budget.total(max(1, len(train) // optimiser.batch_size))
    weights = objective_settings(plan, len(train))
    minimise = plan.recipe.minimise
    own = None if minimise is None else minimise(model)
    objective = objective_of(model, weights, len(train), steps) if own is None else own
    budget = replace(budget, settled=settled(weights, steps, optimiser))
    history, engine = _trained(plan, material, objective, (budget, optimiser), stage)
    return Fitted(model.cpu(), arguments, history, engine)


def _trained(
    plan: Plan,
    material: Material,
    objective: nn.Module,
    settings: tuple[Budget, Optimiser],
    stage: str,
) -> tuple[History, Engine]:
    """Train an objective's model in place."""
    (budget, optimiser), valid = settings, material.valid
    size = min(optimiser.batch_size, len(material.train))
    engine = loop.chosen(objective, valid, size, plan.precision)
    material.say(f"engine     {engine}")
    try:
        history = loop.fit(
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
            team=material.team,
        )
    except NumericError as error:
        raise _naming_the_column(error, material) from None
    return history, engine


def _first_stage(plan: Plan) -> Plan:
    """Return the plan of the first stage, where there are two; else the plan itself."""
    first = plan.recipe.first_stage
    if not first:
        return plan
    limit = plan.time_limit and TIME * plan.time_limit
    return replace(plan, settings={**plan.settings, **first}, time_limit=limit)


def _with_learned_priors(plan: Plan, first: Fitted, material: Material) -> Fitted:
    """Learn the priors that the plan asks for, all else as the first stage has left it."""
    defaults = {name: known.default for name, known in plan.recipe.parameters.items()}
    changed = plan.recipe.first_stage
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


def _optimiser(plan: Plan, rows: Rows) -> Optimiser:
    """Return how to step."""
    shape = rows.take(torch.zeros(1, dtype=torch.long)).x.shape[1:]
    # The size of a gradient grows with the number of columns that add to the loss.
    return replace(optimiser_of(plan, shape), clip=CLIP * math.sqrt(math.prod(shape)))


def _naming_the_column(error: NumericError, material: Material) -> NumericError:
    """Return the error with the raw column's name where training knows only a number.

    What crops of pictures are made of has no columns: there a number would tell nobody anything.
    """
    place, groups = error.details["column"], material.coding.groups
    name = next((group.column for group in groups if place in group.parts), None)
    there = "" if name is None else f" in column {name!r}"
    lower = "lower the learning rate: --learning-rate 0.0003"
    if material.run is not None:  # which holds states of the rate as it was
        lower += " --resume never"
    fix = lower if name is None else f"{lower}; or look at that column for a wrong unit or a typo"
    message = error.message.replace(f" in column {place}", there)
    return NumericError(error.code, message, fix=fix, **{**error.details, "column": name})


def _note_library(model: LatentModel, train: Rows) -> None:
    """Give a count model the training rows' mean context, for sampling without one."""
    usual = dict(model.start.named_buffers()).get("usual")
    if usual is None:  # a model that draws without a context, or never without one
        return
    some = subset(train, torch.arange(min(len(train), CONTEXT_ROWS)))
    contexts = [  # in tiles: the counts of so many cells are no small thing
        batch.context[:real]
        for batch, real in tiles(some, tile_of(some, metrics.TILE))
        if batch.context is not None
    ]
    if contexts:
        usual.copy_(torch.cat(contexts).mean(0))


def _with_active_latents(plan: Plan, wide: Fitted, material: Material) -> Fitted:
    """Fit again with as many latents as are in use; keep that where it is no worse."""
    valid = material.valid
    use = latent_use.latent_use(wide.model, valid)
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


def _in_use(arguments: Mapping[str, Any], active: Tensor) -> dict[str, Any]:
    """Return the arguments that size a model to the latents in use, at least one per level."""
    if not {"latent", "latents"} & arguments.keys():  # as many as there are pixels
        return {}
    if "latents" not in arguments:
        return {"latent": max(1, int(active.sum()))}
    levels = active.split(list(arguments["latents"])[::-1])  # traces go from coarse to fine
    return {"latents": [max(1, int(level.sum())) for level in levels][::-1]}
