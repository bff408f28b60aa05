"""Train a model and save it, with a banner before and a verdict after; dry runs."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lowerbound import bundle
from lowerbound._version import __version__
from lowerbound.cli import parsing
from lowerbound.cli.models import explain_flag
from lowerbound.cli.outputs import (
    Clock,
    check_model_target,
    spell_bytes,
    spell_path,
    spell_use,
)
from lowerbound.cli.plans import as_toml, plan_from
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Result, left_out
from lowerbound.coding.pairs import PairCoding
from lowerbound.coding.rows import subset
from lowerbound.coding.tables import Coding
from lowerbound.errors import CheckFailed
from lowerbound.files.data import Data, ImagePairs
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Alarm
from lowerbound.tasks.objective_settings import reservations, trained_by
from lowerbound.tasks.trained import Model
from lowerbound.training.callbacks import Callback
from lowerbound.training.engine.processes import ALONE, Team, gathered
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.engine.time_limit import TimeLimit
from lowerbound.training.fit import learn, recording, run_path, was_interrupted
from lowerbound.training.forecast import USEFUL_STEPS, smaller
from lowerbound.training.objective import settled
from lowerbound.training.plan import (
    PRESETS,
    Plan,
    budget_of,
    device_of,
    objective_settings,
    optimiser_of,
    with_covariates,
)
from lowerbound.training.split import FitInputs, Say
from lowerbound.training.start import channels_of, start_of, started
from lowerbound.training.tracking import checked_stores, tracking
from lowerbound.training.units import spell_seconds

__all__ = [
    "Output",
    "as_toml",
    "channels_of",
    "output_at",
    "plan_from",
    "recorded",
    "rehearse",
    "start_of",
    "started",
    "train",
    "with_covariates",
]

_REHEARSAL = 0.5  # seconds of training in a dry run
# Suffixes of data that the suggested command repeats for the new rows.
_TABLES = (".parquet", ".arrow", ".tsv", ".h5ad", ".zarr")


def may_replace(target: Path) -> bool:
    """Return whether an unfinished run was started with the right to replace `target`."""
    return RunFolder.allows_replacing(run_path(target))


@dataclass(frozen=True)
class Output:
    """The output of a fit.

    Attributes:
        target: the model's folder.
        overwrite: whether an earlier model is replaced.
        resume: "auto" continues an unfinished run, "never" deletes it.
        track: the stores that the fit is recorded in, from `checked_stores`.
    """

    target: Path
    overwrite: bool = False
    resume: str = "auto"
    track: tuple[tuple[str, str], ...] = ()


def output_at(
    place: Path | None, overwrite: bool, resume: str | None, data: object = None
) -> Output | None:
    """Return the output of a fit to `data`, or None for a model that is not saved.

    Raises:
        UsageError: E241 for an unknown value of --resume, E22x if no model can be saved.
    """
    if resume is not None:
        parsing.one_of(resume, ("auto", "never"), "--resume")
    if place is None:
        return None
    may = overwrite or (resume != "never" and may_replace(place))
    return Output(check_model_target(place, may, data), overwrite, resume or "auto")


def recorded(output: Output | None, track: str | Sequence[str] | None) -> Output | None:
    """Return the output of a fit that is recorded in stores, too.

    Raises:
        UsageError: E241 for an unknown store, E277 for one that is not a folder.
    """
    stores = checked_stores(track)
    return output if output is None else replace(output, track=stores)


def train(
    frame: Data,
    plan: Plan,
    output: Output | None,
    voice: Voice,
    limit: TimeLimit | None = None,
    start: Model | None = None,
) -> Result:
    """Train a model, save it, and return the verdict.

    Args:
        frame: the data.
        plan: the options of the fit.
        output: where to save the model; None does not save it.
        voice: receives the progress.
        limit: the time limit, if it is not the plan's, counted from the start of the command.
        start: the model whose weights training starts at.
    """
    with gathered(device_of(plan.device)) as team:
        limit = limit or TimeLimit(plan.time_limit, voice.began)
        kept = FitStorage(team=team, limit=limit, start=start)
        if output is None or team.rank:  # only the first process writes files
            clock = Clock()
            return _told(frame, plan, clock, _learn(frame, plan, kept, voice))
        return _kept(frame, plan, output, kept, voice)


def _kept(frame: Data, plan: Plan, output: Output, kept: FitStorage, voice: Voice) -> Result:
    """Train with a run folder, so that the same command continues an interrupted fit."""
    path = run_path(output.target)
    folder = RunFolder(path, fresh=output.resume == "never", replace=output.overwrite)
    with folder as run:
        try:
            keeping = replace(kept, target=output.target, run=run)
            return _trained(frame, plan, output, keeping, voice)
        except KeyboardInterrupt:
            if not run.committed():
                raise
            raise KeyboardInterrupt(f"stopped; the state is kept in {path.name}") from None


def _trained(frame: Data, plan: Plan, output: Output, kept: FitStorage, voice: Voice) -> Result:
    """Train in a run folder and save the model; keep the folder only after an interrupt."""
    run, clock = kept.run, Clock()
    assert run is not None
    records = tracking(output.track, output.target, run.committed(), voice.say)
    with recording(records, plan, frame.rows) as record:
        kept = replace(kept, callbacks=(records.check,) if output.track else ())
        trained = record(_learn(frame, plan, kept, voice))
    run.owns_output()
    checked = bundle.verify(trained.save(output.target, overwrite=run.replace))
    told = _told(frame, plan, clock, trained)
    size = spell_bytes(checked.bytes)
    line = f"saved      {output.target.name} ({size}, sha256 {checked.digest[:12]}...)"
    saved = {"path": str(checked.path), "bytes": checked.bytes, "sha256": checked.digest}
    if not told.interrupted:
        run.remove()
    return replace(
        told,
        facts={**told.facts, **saved},
        lines=[*told.lines, line],
        path=output.target,
        next=_then(trained, frame, spell_path(output.target)),
    )


def _told(frame: Data, plan: Plan, clock: Clock, trained: Model) -> Result:
    """Return the verdict on a fit."""
    return Result(
        {**_facts(trained, frame), "seconds": clock()},
        lines=_lines(trained, plan, clock()),
        notes=_doubts(trained, plan),
        next=_then(trained, frame, "M.vae"),
        interrupted=was_interrupted(trained),
        model=trained,
    )


def _last(trained: Model) -> dict[str, Any]:
    """Return the history of the last stage; models with a prior over codes have two stages."""
    return trained.facts.get("priors_history", trained.facts["history"])


def _then(trained: Model, frame: Data, model: str) -> str:
    """Return the command that uses a new model."""
    alike = Path(frame.origin).suffix.lower()
    table = f"NEW{alike}" if alike in _TABLES else "NEW.csv"
    data = "NEW/" if frame.files else "NEW.npy" if trained.coding.shape else table
    return spell_use(trained.command, model, data, explain_flag(trained))


@dataclass(frozen=True)
class FitStorage:
    """The storage of a fit and the processes that train together.

    Attributes:
        target: the model's folder, if any.
        run: the folder of the training states, if any.
        team: the processes.
        limit: the time limit, if it is not the plan's, counted from the start of the command.
        callbacks: called after every check.
        start: the model whose weights training starts at, if any.
    """

    target: Path | None = None
    run: RunFolder | None = None
    team: Team = ALONE
    limit: TimeLimit | None = None
    callbacks: Sequence[Callback] = ()
    start: Model | None = None


def _learn(
    frame: Data, plan: Plan, kept: FitStorage, voice: Voice, say: Say | None = None
) -> Model:
    """Train; `say` receives what is said after the banner, by default the voice."""
    run, team = kept.run, kept.team

    def begin(frame: Data, inputs: FitInputs) -> None:
        for line in _banner(frame, plan, inputs, kept):
            voice.say(line)
        if run is not None and run.committed():
            voice.say(f"resume     continuing the run in {run.path.name}")

    return learn(
        frame,
        plan,
        run=run,
        report=voice.report,
        say=say or voice.say,
        begin=begin,
        team=team,
        limit=kept.limit,
        beat=voice.beat,
        callbacks=kept.callbacks,
        start=kept.start,
    )


def _banner(frame: Data, plan: Plan, inputs: FitInputs, kept: FitStorage) -> list[str]:
    """Return the banner: the plan of the fit, printed before training."""
    target, several = kept.target, kept.team.size > 1
    coding, split = inputs.coding, inputs.split
    objective = objective_settings(plan, inputs.coded.missing_share)
    limit = "" if plan.time_limit is None else f", at most {spell_seconds(plan.time_limit)}"
    what = frame.examples
    lines = [
        f"lowerbound {__version__} on {device_of(plan.device)} "
        f"({torch.get_num_threads()} threads), seed {plan.seed}"
        + f", {kept.team.size} processes"
        * several,
        f"data       {frame.origin}: {frame.rows:,} {frame.dimensions}",
        *(f"           ! {note}" for note in frame.notes),
        f"{'pairs' if isinstance(frame, ImagePairs) else 'columns':<10} {_kinds(coding, frame)}",
        f"split      {len(split.train):,} {what} to learn from, {len(split.valid):,} to stop by, "
        f"{len(split.calibration):,} to calibrate on",
        f"preset     {plan.preset}: {_meaning(plan)}{limit}",
        f"objective  {trained_by(objective)}",
    ]
    if target is not None:
        lines.append(f"output     {target}")
        again = f"the same command goes on ({run_path(target).name})"
        lines.append(f"           Ctrl-C and crashes are safe: {again}")
    return lines


def _meaning(plan: Plan) -> str:
    """Return the meaning of the preset, without layer widths if the recipe has none."""
    meaning = PRESETS[plan.preset].meaning
    return meaning if "hidden" in plan.recipe.parameters else meaning.split(", ", 1)[1]


_PIXELS = {"bits": "0 and 1", "codes": "codes from 0 to 255", "grey": "grey levels from 0 to 1"}


def _kinds(coding: Coding, frame: Data) -> str:
    """Return the number of columns of each kind, and the names of the ignored ones."""
    document = coding.document()
    schema = document.get("schema")
    if document["coding"] == "pictures":
        return f"{math.prod(coding.shape):,} values, {_PIXELS[document['kind']]}"
    if isinstance(coding, PairCoding):
        return _pairs(coding, made=not (isinstance(frame, ImagePairs) and frame.targets))
    if schema is None:
        given = [each["name"] for each in document.get("covariates", ())]
        told = f", given {', '.join(given[:5])}{' and others' * (len(given) > 5)}"
        return f"{len(coding.groups):,} counts" + (told if given else "")
    columns = schema["columns"]
    ignored = {"id", "text", "constant"}
    kinds = Counter(c["kind"] for c in columns if c["kind"] not in ignored)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    others = [f"{c['name']} ({c['kind']})" for c in columns if c["kind"] in ignored]
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    return found + (f"; ignored: {', '.join(others[:5])}{more}" if others else "")


def _pairs(coding: PairCoding, made: bool) -> str:
    """Return the task of a restoration model, and whether pairs are made or given."""
    colours = "grey" if coding.channels == 1 else "colours"
    told = coding.restoration.told(coding.settings)
    if coding.classes:
        told = f"{len(coding.classes)} classes"
    elif not made and coding.scale == 1:
        told = "as given"
    return f"{coding.restoration.command}, {colours}: {told}"


def _lines(trained: Model, plan: Plan, seconds: float) -> list[str]:
    """Return the verdict: the end of training, the health of the model, the threshold."""
    facts, alarm = trained.facts, trained.alarm
    history = _last(trained)
    checks = history["checks"]
    why = {
        "patience": f"no gain for {facts['patience']} checks",
        "epochs": "all passes done",
        "time": "the time limit was reached",
        "interrupt": "stopped by you; this is the best model so far",
    }["interrupt" if was_interrupted(trained) else history["stopped"]]
    passes = f"{checks[-1]['epoch']:.0f} passes, " if checks else ""
    done = "OK" if facts["health"]["verdict"] == "healthy" else "Done"
    first, *others = facts["health"]["lines"]
    return [
        f"{done:<10} trained in {spell_seconds(seconds)}: {passes}{why}",
        f"Health     {first}",
        *(f"           {line}" for line in others),
        *(f"Objective  {line}" for line in reservations(facts["objective"])),
        *([] if trained.recipe.restoration else [_threshold(alarm)]),
    ]


def _threshold(alarm: Alarm) -> str:
    """Return a line on the threshold and the alarm rate."""
    return (
        f"Threshold  {alarm.threshold:.5g} -> {alarm.rate:.2%} of normal rows flagged "
        f"(95 % interval {alarm.low:.2%} to {alarm.high:.2%})"
    )


def _doubts(trained: Model, plan: Plan) -> list[str]:
    """Return warnings about a fit: too few rows, skipped steps, too short a training."""
    notes = _too_short(trained)
    if trained.recipe.restoration:
        return notes
    if trained.alarm_doubt:
        notes.append(trained.alarm_doubt)
    notes += _unsettled(trained, plan)
    stages = [trained.facts[key] for key in _STAGES if key in trained.facts]
    skipped = sum(stage["skipped"] for stage in stages)
    if skipped:
        notes.append(f"{skipped:,} steps were skipped because the loss was not finite")
    return notes


def _too_short(trained: Model) -> list[str]:
    """Return a warning if the time limit ended training after too few steps."""
    last = _last(trained)
    steps = last["checks"][-1]["step"] if last["checks"] else 0
    if last["stopped"] != "time" or steps >= USEFUL_STEPS:
        return []
    return [
        f"the time limit ended training after {steps:,} steps; a useful model takes at least "
        f"{USEFUL_STEPS}: give a longer --time-limit{smaller(trained.recipe)}"
    ]


_STAGES = ("history", "priors_history")


def _unsettled(trained: Model, plan: Plan) -> list[str]:
    """Return a warning if a fit with an adversarial term was too short to select weights."""
    facts = trained.facts
    steps = _steps(plan, facts["split"]["train"])
    begin, checks = (
        settled(facts["objective"], steps, optimiser_of(plan)),
        facts["history"]["checks"],
    )
    if not checks or checks[-1]["step"] >= begin:
        return []
    return [
        f"the fit ended at step {checks[-1]['step']:,}, before the adversarial term had settled "
        f"(step {begin:,}): the last weights were kept"
    ]


def _steps(plan: Plan, rows: int) -> int:
    """Return the largest number of steps of a fit to `rows` rows."""
    return budget_of(plan).total(max(1, rows // optimiser_of(plan).batch_size))


def _facts(trained: Model, frame: Data) -> dict[str, Any]:
    facts = trained.facts
    checks = facts["history"]["checks"]
    return {
        "rows": frame.rows,
        "columns": len(frame.names) or math.prod(frame.shape),
        "recipe": trained.recipe.name,
        "latent": trained.latent,
        "plan": facts["plan"],
        "split": facts["split"],
        "stopped": _last(trained)["stopped"],
        "epochs": checks[-1]["epoch"] if checks else 0.0,
        "valid_elbo": facts["valid_elbo"],
        "health": facts["health"],
        "alarm": trained.alarm._asdict(),
        "notes": list(frame.notes),
        **left_out(frame),
    }


def rehearse(
    frame: Data, plan: Plan, output: Output | None, voice: Voice, start: Model | None = None
) -> Result:
    """Run a fit with half a second of training, and save nothing."""
    clock = Clock()
    short = replace(
        plan, time_limit=_REHEARSAL, latent=None if plan.latent == "auto" else plan.latent
    )
    with gathered(device_of(plan.device)) as team:
        target = None if output is None else output.target
        trained = _learn(
            frame, short, FitStorage(target, team=team, start=start), voice, lambda line: None
        )
    few = frame.first(16)
    with tempfile.TemporaryDirectory() as folder:
        copy = Model.load(trained.save(Path(folder) / "dry.vae"))
        size = bundle.verify(Path(folder) / "dry.vae").bytes
    rows = subset(trained.encode(few)[1].rows, torch.arange(min(16, few.rows)))
    one, other = (draws.score(each.model, rows) for each in (copy, trained))
    if not bool((one == other).all()):
        raise CheckFailed("E601", "a saved and loaded model gives other scores on this machine")
    last = trained.facts["history"]["checks"][-1]
    learned = trained.facts["split"]["train"]
    batch = min(optimiser_of(plan, trained.coding.shape).batch_size, learned)
    stages = sum(key in trained.facts for key in _STAGES)
    rows = stages * batch * _steps(plan, learned)
    longest = rows / max(last["rows_per_second"], 1.0)
    longest = min(longest, plan.time_limit or longest)
    return Result(
        {
            "dry_run": True,
            "rows": frame.rows,
            "rows_per_second": last["rows_per_second"],
            "longest_seconds": longest,
            "bytes": size,
            "plan": trained.facts["plan"],
            "seconds": clock(),
        },
        lines=[
            f"OK         dry run: {last['step']:,} steps, saved, loaded and scored alike; "
            "nothing was kept",
            f"Forecast   at most {spell_seconds(longest)} of training "
            f"({last['rows_per_second']:,.0f} rows/s), usually less; {spell_bytes(size)} on disk",
        ],
        next="the same command without --dry-run",
    )
