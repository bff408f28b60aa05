"""Fit a model to raw data: code, split, build, train, refit the prior, calibrate."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound._version import __version__
from lowerbound.coding import large
from lowerbound.coding.base import Coded, Coding
from lowerbound.coding.counts import CountsCoding
from lowerbound.coding.pairs import read_pairs
from lowerbound.coding.rows import Rows, fingerprint, subset, tile_of, tiles
from lowerbound.coding.tables import TableCoding
from lowerbound.errors import DataError, NumericError, UsageError
from lowerbound.files import containers
from lowerbound.files.data import ArrowNative, Columnar, Data, Whole
from lowerbound.files.read import walk
from lowerbound.files.stream import Stream
from lowerbound.nn.distributions.chains import Chain
from lowerbound.nn.distributions.learned_library import LearnedLibraryCounts
from lowerbound.nn.distributions.table_rows import Table
from lowerbound.nn.latents import mixture_priors
from lowerbound.nn.latents.importance import ImportanceProposal
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.proposal_bound import ProposalBound
from lowerbound.nn.objectives.random_orders import RandomOrders
from lowerbound.recipes import Recipe, find, suggest
from lowerbound.recipes.hierarchies import halved
from lowerbound.recipes.record import TELLS_OF_GAPS, CodingMaker
from lowerbound.recipes.tables import row_model
from lowerbound.tasks import latent_use, metrics
from lowerbound.tasks.labels import calibration_error, label_logits, probabilities, tempered
from lowerbound.tasks.objective_settings import OBJECTIVE
from lowerbound.tasks.scoring import levels_lacking
from lowerbound.tasks.trained import Model
from lowerbound.training import after_training, proposal_stage, row_stage
from lowerbound.training.calibrate import calibrated, score_samples
from lowerbound.training.callbacks import Callback, checked_callbacks, reporting
from lowerbound.training.engine import loop
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.history import History
from lowerbound.training.engine.loop import Beat, Report
from lowerbound.training.engine.processes import ALONE, Team
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.engine.time_limit import TimeLimit
from lowerbound.training.forecast import Forecast
from lowerbound.training.notebook_bar import NotebookBar, in_notebook
from lowerbound.training.objective import objective_of, settled, with_theta_prior
from lowerbound.training.plan import (
    PRESETS,
    Plan,
    budget_of,
    device_of,
    objective_settings,
    optimiser_of,
    with_covariates,
)
from lowerbound.training.refit_prior import refit_is_tried, refit_prior
from lowerbound.training.second_stage import RATE, TIME, FrozenElbo, unfrozen
from lowerbound.training.split import (
    CALIBRATION_ROWS,
    FEW,
    VALID_ROWS,
    FitInputs,
    Fitted,
    Say,
    Split,
)
from lowerbound.training.start import RATE as RATE_AT_START
from lowerbound.training.start import (
    channels_of,
    digest,
    load_start,
    recipe_of,
    start_of,
    started,
)
from lowerbound.training.tracking import Tracking, checked_stores, tracking
from lowerbound.training.units import spell_seconds

CONTEXT_ROWS = 20_000
LEAST_TRAINING = 0.5  # seconds of training even if a time limit is already used up
CLIP = 5.0  # limit on the gradient's norm, times the square root of the number of columns


Begin = Callable[[Data, FitInputs], None]


def fit(  # noqa: PLR0913 - independent options, all with defaults
    data: object,
    recipe: str | Recipe | Callable[..., LatentModel] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: str = "auto",
    from_: Model | str | os.PathLike[str] | None = None,
    targets: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    latent: int | str | None = None,
    types: Mapping[str, str] | None = None,
    batch: str | Sequence[str] = (),
    covariates: str | Sequence[str] = (),
    labels: str | None = None,
    drop: Sequence[str] = (),
    transform: str | None = None,
    alarm_rate: float | str | None = None,
    max_epochs: int | None = None,
    time_limit: float | str | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str | None = None,
    callbacks: Sequence[Callback] = (),
    track: str | Sequence[str] | None = None,
    say: Say = lambda line: None,
) -> Model:
    """Fit a model to data and calibrate its scores on held-out rows.

    Args:
        data: a path (a table, a folder of pictures, cells), a data frame, an Arrow table, an
            array, a sparse matrix, an AnnData object, ...
        recipe: the model: a name (see `lowerbound.Plan`), a `lowerbound.Recipe` or a function
            that builds a model. None chooses a recipe that suits the data.
        out: path of the saved model, such as "fraud.vae". The state of the fit is then saved in
            a folder next to it ("fraud.run"); the same call resumes a fit that was killed, with
            a bit-identical result.
        overwrite: replace an existing model at `out`.
        resume: "auto" continues an unfinished fit, "never" discards it.
        from_: a model that restores or encodes pictures, its path, or the name of one in the
            package ("photos-denoise"): training starts from its weights, and the recipe and the
            network are its own.
        targets: for recipes that map one picture to another: a folder with the target picture of
            each input picture.
        settings: arguments of the recipe and of the objective, such as ``{"beta": 2}``.
        preset: "fast", "balanced" or "best".
        latent: size of z; None chooses a generous size, "auto" the number of dimensions in use.
        types: kinds of columns by name, in place of the inferred ones.
        batch: columns of levels that the model is conditional on, such as the donor of a cell;
            for the recipe counts. They are not modelled themselves.
        covariates: columns of numbers that the model is conditional on.
        labels: a column of labels, such as cell types, that only some rows need to have: the
            model learns to tell them, and `Model.label_probabilities` gives them to all rows; for
            the recipe counts.
        drop: columns to leave out.
        transform: scaling of numeric columns: "blend", "standard" or "quantile".
        alarm_rate: share of normal rows that may be flagged, such as 0.001 or "0.1%". If the
            calibration rows are too few for it, `say` is told what is used, and
            ``model.alarm_doubt`` says so.
        max_epochs: largest number of passes over the data.
        time_limit: largest number of seconds up to the saved model, or text such as "60s" or
            "10m".
        learning_rate: peak learning rate of Adam.
        seed: seed of all random numbers.
        device: "cpu", "cuda", ...; None uses a GPU if there is one.
        precision: precision of matrix products in training, "float32" or "bfloat16".
        callbacks: functions that are called after every check on the held-out rows with a
            `lowerbound.training.callbacks.TrainingCheck`: its stage, step, bound, active latents,
            seconds, ... If one returns True, the fit ends as by Ctrl-C: the best weights are
            kept, the model is calibrated and saved, and the same call without that callback
            continues.
        track: record the fit by "tensorboard" or "mlflow" (or both) in a local folder:
            "tensorboard:logs"; without a folder, ``runs`` or ``mlflow.db`` beside the model.
        say: called with lines about the progress, such as ``print``.

    Returns:
        The model: its methods score, embed, sample, impute, reconstruct, evaluate and save.

    Raises:
        DataError: E0xx if the data cannot be used.
        UsageError: E2xx if an argument is invalid, E276 if a callback raises an exception.
        ResourceError: E3xx if a checkpoint or the model cannot be written.
        NumericError: E4xx if training diverges.

    >>> import numpy as np
    >>> model = fit(np.random.default_rng(0).normal(size=(200, 3)), preset="fast", max_epochs=1)
    >>> model.embed(np.zeros((2, 3))).shape
    (2, 2)
    """
    named, began = locals(), time.monotonic()
    chosen = {name: named[name] for name in _FIELDS if named[name] not in (None, ())}
    if batch or covariates or labels is not None:
        chosen["types"] = with_covariates(types or {}, batch, covariates, labels)
    start = None if from_ is None else start_of(from_)
    recipe = recipe_of(recipe, start)
    if start is not None:
        chosen["recipe"] = recipe
    given, suits = _given(data, recipe, targets, chosen, channels_of(start))
    more = {**suits.get("settings", {}), **chosen.pop("settings", {})}
    plan = Plan(**{**suits, **chosen, "settings": more, "seed": seed})
    plan = started(plan, start)
    limit = TimeLimit(plan.time_limit, began)
    calls, stores = checked_callbacks(callbacks), checked_stores(track)
    bar = NotebookBar() if in_notebook() else None
    shown: dict[str, Any] = {} if bar is None else {"report": bar.report, "beat": bar.beat}

    def learned(target: Path | None = None, run: RunFolder | None = None) -> Model:
        records = tracking(stores, target, run is not None and run.committed(), say)
        recorded = (*calls, records.check) if stores else calls
        with recording(records, plan, given.rows) as record:
            told = {"run": run, "say": say, "limit": limit, "callbacks": recorded, **shown}
            told["start"] = start
            model = record(_noting(learn(given, plan, **told), given))
        if bar is not None:
            bar.close()
        return model

    if out is None:
        return _saying(learned(), say)
    target = Path(out).absolute()
    if resume not in ("auto", "never"):
        raise UsageError(
            "E241", f"resume must be 'auto' or 'never', got {resume!r}", fix="resume='auto'"
        )
    fresh = resume == "never"
    replaces = overwrite or (not fresh and RunFolder.allows_replacing(run_path(target)))
    with RunFolder(run_path(target), fresh=fresh, replace=replaces) as run:
        if target.exists() and not run.replace:
            raise UsageError("E220", f"{target} exists already", fix="overwrite=True")
        model = learned(target, run)
        run.owns_output()
        model.save(target, overwrite=run.replace)
        if not was_interrupted(model):
            run.remove()
    return _saying(model, say)


STAGES = ("history", "priors_history", "proposal_history", "rows_history")


@contextmanager
def recording(records: Tracking, plan: Plan, rows: int) -> Iterator[Callable[[Model], Model]]:
    """Record the options of a fit, and its end: of a model that is passed on, or without one."""
    ended: list[Model] = []

    def record(model: Model) -> Model:
        ended.append(model)
        return model

    records.begin(plan, rows)
    try:
        yield record
    finally:
        model = ended[0] if ended else None
        records.end(model, model is not None and was_interrupted(model))


def was_interrupted(model: Model) -> bool:
    """Return whether Ctrl-C or a callback ended a stage of the fit of a model."""
    return any(model.facts.get(stage, {}).get("stopped") == "interrupt" for stage in STAGES)


def _saying(model: Model, say: Say) -> Model:
    """Say why the alarm rate cannot be reached, if so; return the model."""
    if model.alarm_doubt:
        say(model.alarm_doubt)
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
    """Return the run folder of a model's fit: ``tx.run`` for ``tx.vae``."""
    return target.with_suffix(".run") if target.suffix == ".vae" else Path(f"{target}.run")


def _given(
    data: object,
    recipe: Any,
    targets: Any,
    chosen: Mapping[str, object],
    channels: int | None = None,
) -> tuple[Data, Mapping[str, Any]]:
    """Read the data; if no recipe is given, also return plan fields that suit the data."""
    restoration = None if recipe is None else find(recipe).restoration
    if isinstance(data, Data):
        return data, {}
    if restoration is not None and isinstance(data, str | os.PathLike):
        return read_pairs(data, targets, restoration, channels=channels), {}
    given = walk(data)
    if recipe is not None:
        return given, {}
    first = next(iter(given.parts()))
    return given, suggest(first, chosen).plan


def _noting(model: Model, given: Data) -> Model:
    """Record the kind of container of the data; the model returns rows in the same kind."""
    native = given.native if isinstance(given, Whole) else ArrowNative()
    named = not containers.is_array(containers.kind_of(native))
    model.facts["input"] = containers.noted(native, named)
    return model


def learn(  # noqa: PLR0913 - independent options, all with defaults
    data: object,
    plan: Plan | None = None,
    *,
    run: RunFolder | None = None,
    report: Report | None = None,
    say: Say = lambda line: None,
    begin: Begin = lambda frame, inputs: None,
    team: Team = ALONE,
    limit: TimeLimit | None = None,
    beat: Beat | None = None,
    callbacks: Sequence[Callback] = (),
    start: Model | None = None,
) -> Model:
    """Fit a model to `data` and calibrate it.

    Args:
        data: a path, an array, a data frame, or `Data` already read.
        plan: the options of the fit; None uses the defaults.
        run: an entered run folder, where the fit saves checkpoints and resumes from them.
        report: called after every check on the held-out rows.
        say: called with lines for the user.
        begin: called once, after the data are coded and split and before training.
        team: the processes that train together. Each calls this function with the same arguments,
            except that only the first one has a run folder; all return the same model.
        limit: the time limit of the fit and the time used so far; None begins to count the plan's
            limit with this call. It covers everything up to the saved model.
        beat: called about once per second with the pace of training.
        callbacks: functions that are called after every check, by the first process only; the
            fit ends if one returns True.
        start: the model whose weights training starts at; `plan` is one of `start.started`.

    Raises:
        DataError: E0xx if the data cannot be used.
        UsageError: E2xx if the plan is invalid, or differs from the one that `run` began with;
            E276 if a callback raises an exception.
        ResourceError: E3xx if a checkpoint cannot be written.
        NumericError: E4xx if training diverges.
    """
    plan, calls = plan or Plan(), checked_callbacks(callbacks)
    limit = limit or TimeLimit(plan.time_limit)
    frame, coding, coded = _coded(walk(data), plan, team)
    n = len(coded.rows) // coded.each
    if n < 2:
        raise DataError(
            "E075",
            f"{frame.origin}: training needs at least 2 rows, got {n}",
            fix="give 2 or more rows",
        )
    split = Split.of_shuffled(n) if coded.shuffled else Split.of(n, plan.seed)
    if coded.each > 1:
        split = Split.of_crops(n, coded.each, plan.seed)
    inputs = FitInputs(coding, coded, split, report, say, run, team, limit, beat)
    inputs = inputs._replace(callbacks=calls if team.rank == 0 else (), start=start)
    begin(frame, inputs)
    if run is not None or team.size > 1:
        configuration = _configuration(plan, frame, coded, start)
        if run is not None:
            run.configure(configuration)
        _refuse_other_data(team, configuration["data"])
    fitted = _fit(_first_stage(plan), inputs, "first", _first_share(plan))
    if plan.latent == "auto" and not fitted.interrupted:
        fitted = _with_active_latents(plan, fitted, inputs)
    if plan.recipe.first_stage and not fitted.interrupted:
        fitted = _with_learned_priors(plan, fitted, inputs)
    model, arguments = refit_prior(
        plan.recipe,
        (fitted.model, fitted.arguments),
        inputs.train,
        inputs.valid,
        plan.seed,
        _refit_seconds(plan, inputs, fitted),
    )
    fitted = _with_proposal(plan, fitted._replace(model=model, arguments=arguments), inputs)
    fitted = _with_rows(plan, fitted, inputs)
    # After the refit, whose forecast is rough: the rows that remain absorb its error.
    model = calibrated(plan, frame, _limited(plan, inputs, fitted), fitted)
    if start is not None:
        model.facts["from"] = digest(start)
    return _with_calibrated_labels(model, inputs)


def _with_calibrated_labels(model: Model, inputs: FitInputs) -> Model:
    """Choose the temperature of label probabilities by labelled held-out rows, if any."""
    coding = inputs.coding
    if not isinstance(coding, CountsCoding) or coding.labels is None:
        return model
    rows = subset(inputs.coded.rows, inputs.split.calibration)
    contexts = [rows.take(part).context for part in _pieces(len(rows))]
    given = torch.cat([c[:, -coding.labels.width :] for c in contexts if c is not None])
    known = given.any(1).nonzero()[:, 0]
    if not len(known):
        return model
    logits = label_logits(model.model, subset(rows, known))
    codes = given[known].argmax(1).numpy()
    temperature = tempered(logits, codes)
    p = probabilities(logits, temperature)
    model.facts["labels"] = {
        "temperature": temperature,
        "rows": len(known),
        "accuracy": float((p.argmax(1) == codes).mean()),
        "calibration_error": calibration_error(p, codes),
    }
    return model


def _pieces(n: int) -> Sequence[Tensor]:
    """Return the indices of n rows in parts, which are dense one at a time."""
    return torch.arange(n).split(256)


def _limited(plan: Plan, inputs: FitInputs, fitted: Fitted) -> FitInputs:
    """Return the inputs with as many held-out rows and draws as the time left allows."""
    limit = inputs.limit
    if limit.seconds is None:
        return inputs
    price = _price(plan, inputs, fitted.model, {**fitted.arguments, "prior": "fitted"})
    least, whole = _extents(inputs, fitted.model)
    extent = inputs.team.first(lambda: after_training.fitting(price, (least, whole), limit.left()))
    if extent[::2] != whole[::2] and not plan.recipe.restoration:
        inputs.say(
            f"time       {extent.calibration:,} of {whole.calibration:,} held-out rows set the "
            f"threshold, with {extent.samples} of {whole.samples} samples per score: more do not "
            f"fit into the time limit of {spell_seconds(limit.seconds)}"
        )
    return after_training.trimmed(inputs, extent)


def _extents(
    inputs: FitInputs, model: LatentModel
) -> tuple[after_training.Extent, after_training.Extent]:
    """Return the smallest and the largest extent of the work after training."""
    samples = score_samples(model, inputs.coded)
    return after_training.least(inputs, samples), after_training.full(inputs, samples)


def _refit_seconds(plan: Plan, inputs: FitInputs, fitted: Fitted) -> float:
    """Return the time for the refit of the prior: what the work after it leaves, half at least."""
    if inputs.limit.seconds is None or not refit_is_tried(plan.recipe, fitted.arguments):
        return math.inf
    price = _price(plan, inputs, fitted.model, {**fitted.arguments, "prior": "fitted"})
    rest = after_training.reserve(inputs.limit, price, _extents(inputs, fitted.model))
    left = inputs.limit.left()
    return max(left - rest, left / 2)


def _price(
    plan: Plan, inputs: FitInputs, model: LatentModel, arguments: Mapping[str, Any]
) -> after_training.Cost:
    """Return the forecast cost of the work after training."""
    refits = refit_is_tried(plan.recipe, arguments)
    latent = arguments.get("latent") or max(arguments.get("latents", (1,)))
    return after_training.cost(
        model,
        inputs,
        score_samples(model, inputs.coded),
        int(latent) if refits else 0,
        levels_lacking(plan.recipe, model) is None,
    )


def _coded(given: Data, plan: Plan, team: Team) -> tuple[Data, Coding, Coded]:
    """Fit the coding and code the rows; the rows of a large table go to a file, not to memory.

    One process on each machine writes that file, and the other processes there read it.
    """
    kind = plan.recipe.coding(plan.settings)
    chosen = {"types": plan.types, "drop": plan.drop, "transform": plan.transform}
    if not (isinstance(given, Stream) and large.is_large(given) and large.codes(kind)):
        frame = given.whole()
        coding = _without_calibration(kind, frame, kind.fit(frame, **chosen), plan)
        return frame, coding, coding.encode(frame)
    batch, budget = optimiser_of(plan).batch_size, budget_of(plan)
    most = batch * budget.total(given.rows // batch) + VALID_ROWS + CALIBRATION_ROWS

    def stored() -> tuple[Coding, Coded]:
        return large.stored(large.fitted(kind, given, plan.seed, **chosen), given, most, plan.seed)

    coding, coded = team.per_machine(stored)
    return replace(given, notes=tuple(coded.notes)), coding, coded


def _without_calibration(kind: CodingMaker, frame: Whole, coding: Coding, plan: Plan) -> Coding:
    """Return a coding of tables whose levels and scalings have not seen the calibration rows.

    Otherwise these rows are less unusual than new rows are: no level is new to the coding. The
    range of draws and conditions is that of all rows, and so are the kinds of columns: a column
    that would be of another kind without these rows stays as it is.
    """
    if not (isinstance(coding, TableCoding) and isinstance(frame, Columnar)) or frame.rows < FEW:
        return coding
    split = Split.of(frame.rows, plan.seed)
    others = frame.take(torch.cat([torch.as_tensor(split.train), split.valid]).sort()[0].numpy())
    try:
        found = kind.fit(others, types=plan.types, drop=plan.drop, transform=plan.transform)
    except (DataError, UsageError):
        return coding
    return found.reaching(coding) if isinstance(found, TableCoding) else coding


def _refuse_other_data(team: Team, data: Mapping[str, Any]) -> None:
    """Raise E252 if this process has read other data than the first process."""
    theirs = team.first(lambda: dict(data))
    if theirs != data:
        differ = [f"{k} {data[k]}, not {theirs[k]}" for k in data if theirs[k] != data[k]]
        raise UsageError(
            "E252",
            f"process {team.rank} has read other data than the first: {'; '.join(differ)[:160]}",
            fix="give every machine the same files under the same path",
        )


def _configuration(plan: Plan, frame: Data, coded: Coded, start: Model | None) -> dict[str, Any]:
    """Return everything that the result depends on, except the machine."""
    return {
        "plan": plan.document(),
        "device": device_of(plan.device).type,
        "data": {
            "rows": len(coded.rows),
            "columns": list(frame.names),
            "digest": coded.digest or fingerprint(coded.rows),
        },
        "versions": {"lowerbound": __version__, "torch": str(torch.__version__)},
        **({} if start is None else {"from": digest(start)}),
    }


def default_latent(arguments: Mapping[str, Any], most: int = Recipe.most_latents) -> int:
    """Return a generous size of z: the number of coded columns to the power 3/4, from 2 to `most`.

    Args:
        arguments: the arguments of the recipe that the data determine.
        most: the recipe's largest default.
    """
    width = len(arguments["sizes"]) if "sizes" in arguments else arguments["features"]
    return min(width, max(2, min(most, round(width**0.75))))


def resolve(plan: Plan, coding: Coding) -> dict[str, Any]:
    """Return the arguments that the recipe is called with, from the plan, presets and data.

    Raises:
        UsageError: E259 if the data have missing values and the recipe has no argument `missing`.
    """
    later = {"proposal"}  # it is made after training
    settings = {
        name: value
        for name, value in plan.settings.items()
        if name not in OBJECTIVE and name not in later
    }
    arguments = {**plan.recipe.arguments, **_decided(plan.recipe, coding), **settings}
    if "hidden" in plan.recipe.parameters:
        arguments.setdefault("hidden", list(PRESETS[plan.preset].hidden))
    return {**arguments, **_sizes(plan, arguments)}


def _decided(recipe: Recipe, coding: Coding) -> dict[str, Any]:
    """Return the arguments that the data determine.

    An argument by which the encoder is told of missing values is left out for a recipe without
    it, if no training value is missing.
    """
    known = recipe.parameters
    found = coding.arguments()
    untold = [name for name in TELLS_OF_GAPS if name in found and name not in known]
    for name in untold:
        if not coding.gaps:
            found.pop(name)
            continue
        raise UsageError(
            "E259",
            f"the data have missing values, and the recipe {recipe.name!r} has no argument "
            f"`{name}`",
            fix=f"def {recipe.name}(..., {name}=None) with a likelihood that ignores "
            "NaN, such as lowerbound.nn.WithMissing(family); or fill in the missing values first",
        )
    return found


def _sizes(plan: Plan, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument for the size of z: `latent`, or `latents` with one size per level."""
    latent = plan.latent if isinstance(plan.latent, int) else None
    known, most = plan.recipe.parameters, plan.recipe.most_latents
    if "features" not in known and "sizes" not in known:  # images: the recipe's own default
        if "latent" not in known:
            return {} if latent is None else {"latent": latent}  # the recipe will refuse it
        return {"latent": latent or arguments.get("latent") or known["latent"].default}
    if "latents" not in known and "latent" not in known:
        return {} if latent is None else {"latent": latent}
    if "latents" not in known:
        return {"latent": latent or arguments.get("latent") or default_latent(arguments, most)}
    if latent and "latents" in arguments:
        raise UsageError(
            "E236",
            f"latent={latent} and latents={list(arguments['latents'])} both give the size of z",
            fix="give only one of them",
        )
    given = arguments.get("latents")
    halves = halved(latent or default_latent(arguments, most), len(arguments["hidden"]))
    return {"latents": list(given or halves)}


def _fit(plan: Plan, inputs: FitInputs, stage: str, share: float = 1.0) -> Fitted:
    """Build the model and train it once, in a share of the training time that is left."""
    arguments = resolve(plan, inputs.coding)
    device = device_of(plan.device)
    with noise.isolated(plan.seed, "weights"):
        model = plan.recipe.make(arguments)
    if inputs.start is not None:
        load_start(model, plan.recipe, arguments, inputs.start)
    seconds = share * _training_seconds(plan, inputs, model, arguments)
    model = model.to(device)
    train = inputs.train
    _note_library(model, train)

    def first(n: int) -> Tensor:
        return train.take(torch.arange(min(len(train), n))).x

    mixture_priors.start_from(model.levels[0].get_submodule("prior"), first)
    for each in model.modules():
        if isinstance(each, Table | LearnedLibraryCounts):
            each.start_from(first)
    budget, optimiser = budget_of(plan), _optimiser(plan, inputs.valid)
    if inputs.start is not None and plan.learning_rate is None:
        optimiser = replace(optimiser, learning_rate=RATE_AT_START * optimiser.learning_rate)
    steps = budget.total(max(1, len(train) // optimiser.batch_size))
    weights = objective_settings(plan, inputs.coded.missing_share)
    minimise = plan.recipe.minimise
    own = None if minimise is None else minimise(model)
    told = plan.recipe.tells_of_gaps(arguments)
    columns = [group.parts for group in inputs.coding.groups] if told else None
    objective = objective_of(model, weights, len(train), steps, columns) if own is None else own
    budget = replace(budget, settled=settled(weights, steps, optimiser))
    budget = replace(budget, seconds=None if seconds == math.inf else seconds)
    history, engine = _trained(plan, inputs, objective, (budget, optimiser), stage)
    return Fitted(model.cpu(), arguments, history, engine)


def _training_seconds(
    plan: Plan, inputs: FitInputs, model: LatentModel, arguments: Mapping[str, Any]
) -> float:
    """Return the seconds left for training: all but those for the work after it."""
    limit = inputs.limit
    if limit.seconds is None:
        return math.inf
    price = _price(plan, inputs, model, arguments)
    after = after_training.reserve(limit, price, _extents(inputs, model))
    return inputs.team.first(lambda: max(limit.left() - after, LEAST_TRAINING))


def _trained(
    plan: Plan,
    inputs: FitInputs,
    objective: nn.Module,
    settings: tuple[Budget, Optimiser],
    stage: str,
) -> tuple[History, Engine]:
    """Train an objective's model in place."""
    (budget, optimiser), valid = settings, inputs.valid
    size = min(optimiser.batch_size, len(inputs.train))
    steps = budget.total(max(1, len(inputs.train) // size)) if inputs.team.size == 1 else 0
    engine = loop.chosen(objective, valid, size, plan.precision, steps, budget.seconds)
    inputs.say(f"engine     {engine}")
    try:
        history = loop.fit(
            objective,
            inputs.train,
            valid,
            budget=budget,
            optimiser=optimiser,
            seed=plan.seed,
            engine=engine,
            checkpoints=inputs.run and inputs.run.stage(stage),
            report=reporting(inputs.report, inputs.callbacks, stage),
            view=inputs.coded.view,
            team=inputs.team,
            limit=inputs.limit,
            beat=Forecast(plan, inputs, sum(p.numel() for p in objective.parameters())),
        )
    except NumericError as error:
        raise _naming_the_column(error, inputs) from None
    return history, engine


def _first_stage(plan: Plan) -> Plan:
    """Return the plan of the first of two stages, or the plan itself for recipes with one."""
    first = plan.recipe.first_stage
    return replace(plan, settings={**plan.settings, **first}) if first else plan


def _first_share(plan: Plan) -> float:
    """Return the share of the training time for the first of up to three trainings."""
    share = TIME if plan.recipe.first_stage else 1.0
    share = 1.0 - row_stage.TIME if plan.recipe.chained else share
    return share / 2 if plan.latent == "auto" else share


def _narrow_share(plan: Plan) -> float:
    """Return the share of the remaining training time for a fit with fewer latents."""
    return TIME / 2 / (1 - TIME / 2) if plan.recipe.first_stage else 1.0


def _with_learned_priors(plan: Plan, first: Fitted, inputs: FitInputs) -> Fitted:
    """Train the priors that the plan asks for, with the first stage's weights frozen."""
    defaults = {name: known.default for name, known in plan.recipe.parameters.items()}
    changed = plan.recipe.first_stage
    wanted = {name: plan.settings.get(name, defaults[name]) for name in changed}
    if wanted == changed:
        return first
    inputs.say(f"priors     {', '.join(map(str, wanted.values()))}, all other weights frozen")
    arguments = {**first.arguments, **wanted}
    model = unfrozen(plan.recipe, first.model, arguments, plan.seed)
    train = inputs.train
    budget, optimiser = budget_of(plan), _optimiser(plan, train)
    seconds = _training_seconds(plan, inputs, model, arguments)
    budget = replace(budget, seconds=None if seconds == math.inf else seconds)
    model = model.to(device_of(plan.device))
    optimiser = replace(optimiser, learning_rate=min(RATE, optimiser.learning_rate))
    history, _ = _trained(plan, inputs, FrozenElbo(model), (budget, optimiser), "priors")
    model = model.cpu().requires_grad_(True)
    return first._replace(model=model, arguments=arguments, priors=history)


def _with_proposal(plan: Plan, fitted: Fitted, inputs: FitInputs) -> Fitted:
    """Fit the proposal of importance sampling; the model stays as it is."""
    model, arguments = fitted.model, fitted.arguments
    if fitted.interrupted:
        return fitted
    if not proposal_stage.is_wanted(plan, model, arguments):
        return fitted
    seconds = proposal_stage.TIME * _training_seconds(plan, inputs, model, arguments)
    settings = proposal_stage.settings(
        plan, _optimiser(plan, inputs.valid), None if seconds == math.inf else seconds
    )
    with noise.isolated(plan.seed, "proposal weights"):
        model.proposal = ImportanceProposal.like(model)
    model.requires_grad_(False).to(device_of(plan.device))
    model.proposal.requires_grad_(True)
    told = plan.recipe.tells_of_gaps(arguments)
    columns = [group.parts for group in inputs.coding.groups] if told else None
    objective = ProposalBound(model, columns)
    inputs.say("scores     a proposal, from which scores draw the latent variables")
    history, _ = _trained(plan, inputs, objective, settings, "proposal")
    model.cpu().requires_grad_(True)
    return fitted._replace(arguments={**arguments, "proposal": True}, proposal=history)


def _with_rows(plan: Plan, fitted: Fitted, inputs: FitInputs) -> Fitted:
    """Train a chain of columns for drawing and completing rows; the model stays as it is."""
    coding, train = inputs.coding, inputs.train
    if not row_stage.is_wanted(plan, coding) or fitted.interrupted:
        return fitted
    assert isinstance(coding, TableCoding), "the rows are of a table"
    some = train.take(torch.arange(min(len(train), row_stage.MOST_ROWS))).x.numpy()
    parts, width = coding.arguments(), PRESETS[plan.preset].hidden[0] // 2
    measured = row_stage.measured(some, row_stage.CodedColumns.of(coding), width)
    layout = measured.layout
    with noise.isolated(plan.seed, "chain weights"):
        rows = row_model(parts["families"], parts["sizes"], parts["reserved"], layout)
    chain = rows.get_submodule("likelihood")
    assert isinstance(chain, Chain), "the model of rows is a chain"
    measured.give(chain)
    seconds = _training_seconds(plan, inputs, fitted.model, fitted.arguments)
    settings = row_stage.settings(
        plan, coding, len(train), None if seconds == math.inf else seconds
    )
    inputs.say(f"rows       a chain of {len(layout['order'])} columns, from which rows are drawn")
    rows = rows.to(device_of(plan.device))
    weights = objective_settings(plan, inputs.coded.missing_share)
    objective = with_theta_prior(RandomOrders(rows), rows, weights, len(train))
    history, _ = _trained(plan, inputs, objective, settings, "rows")
    fitted.model.rows = rows.cpu()
    chain.match_rare(torch.from_numpy(some[: row_stage.MEASURED]))
    arguments = {**fitted.arguments, "chain": layout}
    return fitted._replace(arguments=arguments, rows=history)


def _optimiser(plan: Plan, rows: Rows) -> Optimiser:
    """Return the plan's optimiser settings, with the gradient limit for rows of this shape."""
    shape = rows.take(torch.zeros(1, dtype=torch.long)).x.shape[1:]
    # The norm of the gradient grows with the number of columns that add to the loss.
    return replace(optimiser_of(plan, shape), clip=CLIP * math.sqrt(math.prod(shape)))


def _naming_the_column(error: NumericError, inputs: FitInputs) -> NumericError:
    """Return the error with the raw column's name in place of the index of the coded column.

    Pictures have no named columns; for them the index is left out.
    """
    place, groups = error.details["column"], inputs.coding.groups
    name = next((group.column for group in groups if place in group.parts), None)
    there = "" if name is None else f" in column {name!r}"
    lower = "lower the learning rate: --learning-rate 0.0003"
    if inputs.run is not None:  # its checkpoints are of the old learning rate
        lower += " --resume never"
    fix = lower if name is None else f"{lower}; or look at that column for a wrong unit or a typo"
    message = error.message.replace(f" in column {place}", there)
    return NumericError(error.code, message, fix=fix, **{**error.details, "column": name})


def _note_library(model: LatentModel, train: Rows) -> None:
    """Store the training rows' mean context in a count model, for sampling without a context."""
    usual = dict(model.start.named_buffers()).get("usual")
    if usual is None:  # the model needs no context, or always needs one
        return
    some = subset(train, torch.arange(min(len(train), CONTEXT_ROWS)))
    contexts = [  # in tiles, since a dense matrix of this many cells and genes is large
        batch.context[:real]
        for batch, real in tiles(some, tile_of(some, metrics.TILE))
        if batch.context is not None
    ]
    if contexts:
        usual.copy_(torch.cat(contexts).mean(0))


def _with_active_latents(plan: Plan, wide: Fitted, inputs: FitInputs) -> Fitted:
    """Fit again with as many latents as are in use; keep that model if it is no worse."""
    valid = inputs.valid
    use = latent_use.latent_use(wide.model, valid)
    sizes = _in_use(wide.arguments, use.active)
    if sizes.items() <= wide.arguments.items():
        return wide
    inputs.say(
        f"{int(use.active.sum())} of {len(use.active)} latent dimensions in use: fitting again"
    )
    settings = {**plan.settings, **sizes}
    narrow = _fit(replace(plan, settings=settings), inputs, "narrow", _narrow_share(plan))
    before, after = (
        metrics.elbo(f.model, valid, start=0).elbo.mean().item() for f in (wide, narrow)
    )
    return narrow if after >= before - 0.005 * abs(before) else wide


def _in_use(arguments: Mapping[str, Any], active: Tensor) -> dict[str, Any]:
    """Return the arguments that give each level as many latents as are in use, at least one."""
    if not {"latent", "latents"} & arguments.keys():  # the shape of the picture decides
        return {}
    if "latents" not in arguments:
        return {"latent": max(1, int(active.sum()))}
    levels = active.split(list(arguments["latents"])[::-1])  # traces go from coarse to fine
    return {"latents": [max(1, int(level.sum())) for level in levels][::-1]}
