"""The verb fit: from a table to a saved model."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lowerbound
from lowerbound import bundle
from lowerbound.data.source import Frame
from lowerbound.errors import CheckFailed
from lowerbound.progress import SILENT, Voice
from lowerbound.verbs.flags import (
    Columns,
    Data,
    File,
    Heard,
    Name,
    Out,
    Renames,
    Seconds,
    Settings,
    Share,
    Size,
    Types,
    Whole,
)
from lowerbound.verbs.outputs import (
    Clock,
    check_model_target,
    open_data,
    spell_bytes,
    spell_path,
    spell_seconds,
)
from lowerbound.verbs.result import Result

if TYPE_CHECKING:
    from lowerbound.data.coding import Coding
    from lowerbound.learning import Plan, Split
    from lowerbound.trained import Trained

_REHEARSAL = 0.5  # seconds of training in a dry run


def fit(
    data: Data,
    /,
    *,
    out: Out = None,
    preset: Name = None,
    time_limit: Seconds = None,
    alarm_rate: Share = None,
    types: Types = (),
    drop: Columns = (),
    rename: Renames = (),
    recipe: Name = None,
    settings: Settings = (),
    latent: Size = None,
    transform: Name = None,
    max_epochs: Whole = None,
    seed: Whole = None,
    device: Name = None,
    config: File = None,
    print_config: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Learn a model from a table: column kinds, missing cells and the alarm threshold included.

    Ctrl-C is safe: the best model so far is saved.

    Examples:
        lowerbound fit tx.parquet --alarm-rate 0.1% --out fraud.vae
        lowerbound fit people.csv --types zip=categorical --drop name --time-limit 10m
        lowerbound fit tx.csv --preset best --latent auto --set likelihood=student

    Args:
        data: a CSV, TSV (also .gz), Parquet, npy or npz file, a folder or a "pattern*".
        out: where to save the model; by default the data's name with .vae, here.
        preset: fast, balanced or best: how large the network is and how long it may learn.
        time_limit: stop after this time and keep the best, such as 90s, 10m or 1h.
        alarm_rate: the share of normal rows that may be flagged, such as 0.1% (default 1%).
        types: the kind of a column, where it is known better; repeat it, or use commas.
        drop: a column to leave out; repeat it for more.
        rename: give a column of the data another name.
        recipe: table (the default), gaussian, beta, sigma or counts.
        settings: a setting of the recipe, such as beta=2, free_bits=0.5, likelihood=student or
            hidden=[256,256]; repeat it for more.
        latent: size of the latent space, or auto to keep only what is in use.
        transform: of numbers: standard (the default) or quantile.
        max_epochs: passes over the data at most.
        seed: of everything random; the same seed gives the same model.
        device: cpu, cuda, cuda:1, ...; by default a GPU where there is one.
        config: a TOML file with any of these; flags go first.
        print_config: print the configuration as TOML and do nothing else.
        dry_run: check everything, train for half a second, save nothing.
        overwrite: replace an earlier model.
    """
    from lowerbound.learning import device_of
    from lowerbound.verbs.plans import as_toml, plan_from

    fields = {
        "recipe": recipe,
        "settings": settings,
        "preset": preset,
        "latent": latent,
        "types": types,
        "drop": drop,
        "transform": transform,
        "alarm_rate": alarm_rate,
        "max_epochs": max_epochs,
        "time_limit": time_limit,
        "seed": seed,
        "device": device,
    }
    plan = plan_from(fields, config)
    if print_config:
        text = as_toml(plan)
        return Result({"config": text}, lines=text.rstrip().split("\n"))
    saving = out is not None or isinstance(data, str | os.PathLike)
    target = check_model_target(out or _default(data), overwrite) if saving else None
    device_of(plan)
    frame = open_data(data, rename)
    if dry_run:
        return _rehearse(frame, plan, target, voice)
    return _fit(frame, plan, target, overwrite, voice)


def _default(data: Any) -> Path:
    """Name a model after its data: ./tx.vae for tx.csv.gz, ./parts.vae for parts/*.parquet."""
    path = Path(data)
    name = path.name if not set(path.name) & set("*?[") else path.parent.name
    for suffix in (".gz", ".csv", ".tsv", ".txt", ".parquet", ".npy", ".npz"):
        name = name.removesuffix(suffix)
    return Path(f"{name.strip('.') or 'model'}.vae")


def _fit(
    frame: Frame, plan: Plan, target: Path | None, overwrite: bool, voice: Voice
) -> Result:
    """Learn, save, and say what came of it."""
    clock = Clock()
    trained = _learn(frame, plan, target, voice)
    history = trained.facts["history"]
    interrupted = history["stopped"] == "interrupt"
    if interrupted and not history["checks"]:
        raise KeyboardInterrupt  # nothing was measured yet, so there is no best model to keep
    lines, saved = _lines(trained, plan, clock()), {}
    if target is not None:
        checked = bundle.verify(trained.save(target, overwrite=overwrite))
        saved = {"path": str(checked.path), "bytes": checked.bytes, "sha256": checked.digest}
        size = spell_bytes(checked.bytes)
        lines.append(f"saved      {target.name} ({size}, sha256 {checked.digest[:12]}...)")
    return Result(
        {**_facts(trained, frame), "seconds": clock(), **saved},
        lines=lines,
        notes=_doubts(trained, plan),
        path=target,
        next=f"lowerbound score {spell_path(target, 'M.vae')} NEW.csv "
        "--out scores.csv --explain 3",
        interrupted=interrupted,
        model=trained,
    )


def _learn(frame: Frame, plan: Plan, target: Path | None, voice: Voice) -> Trained:
    from lowerbound.learning import learn

    def begin(frame: Frame, coding: Coding, split: Split) -> None:
        for line in _banner(frame, plan, coding, split, target):
            voice.say(line)

    return learn(frame, plan, report=voice.report, say=voice.say, begin=begin)


def _banner(
    frame: Frame, plan: Plan, coding: Coding, split: Split, target: Path | None
) -> list[str]:
    """Say what is about to happen, before anything long begins."""
    import torch

    from lowerbound.learning import PRESETS, device_of

    limit = "" if plan.time_limit is None else f", at most {spell_seconds(plan.time_limit)}"
    lines = [
        f"lowerbound {lowerbound.__version__} on {device_of(plan)} "
        f"({torch.get_num_threads()} threads), seed {plan.seed}",
        f"data       {frame.origin}: {frame.rows:,} rows x {len(frame.names):,} columns",
        *(f"           ! {note}" for note in frame.notes),
        f"columns    {_kinds(coding)}",
        f"split      {len(split.train):,} rows to learn from, {len(split.valid):,} to stop by, "
        f"{len(split.calibration):,} to calibrate on",
        f"preset     {plan.preset}: {PRESETS[plan.preset].meaning}{limit}",
    ]
    if target is not None:
        lines.append(f"output     {target}")
        lines.append("           Ctrl-C is safe: it keeps the best model so far")
    return lines


def _kinds(coding: Coding) -> str:
    """Count the columns of each kind, and name those that are left out."""
    schema = coding.document().get("schema")
    if schema is None:
        return f"{len(coding.groups):,} counts"
    columns = schema["columns"]
    left_out = {"id", "text", "constant"}
    kinds = Counter(c["kind"] for c in columns if c["kind"] not in left_out)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    others = [f"{c['name']} ({c['kind']})" for c in columns if c["kind"] in left_out]
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    return found + (f"; ignored: {', '.join(others[:5])}{more}" if others else "")


def _lines(trained: Trained, plan: Plan, seconds: float) -> list[str]:
    """Say how training ended, how healthy the model is, and what it will flag."""
    from lowerbound.learning import PRESETS

    facts, alarm = trained.facts, trained.alarm
    history = facts["history"]
    checks = history["checks"]
    why = {
        "patience": f"no gain for {PRESETS[plan.preset].budget.patience} checks",
        "epochs": "all passes done",
        "time": "the time limit was reached",
        "interrupt": "stopped by you; this is the best model so far",
    }[history["stopped"]]
    passes = f"{checks[-1]['epoch']:.0f} passes, " if checks else ""
    done = "OK" if facts["health"]["verdict"] == "healthy" else "Done"
    first, *others = facts["health"]["lines"]
    return [
        f"{done:<10} trained in {spell_seconds(seconds)}: {passes}{why}",
        f"Health     {first}",
        *(f"           {line}" for line in others),
        f"Threshold  {alarm.threshold:.5g} -> {alarm.rate:.2%} of normal rows flagged "
        f"(95 % interval {alarm.low:.2%} to {alarm.high:.2%})",
    ]


def _doubts(trained: Trained, plan: Plan) -> list[str]:
    """Say what the numbers cannot promise."""
    notes, rows = [], len(trained.calibration.scores)
    if plan.alarm_rate * (rows + 1) < 1:
        notes.append(
            f"{rows:,} calibration rows cannot resolve an alarm rate of {plan.alarm_rate:.3%}: "
            f"the threshold is their highest score, which flags {trained.alarm.rate:.2%}"
        )
    if trained.facts["shared_held_out"]:
        notes.append(
            "few rows: the same held-out rows stopped training and set the threshold, "
            "which makes it a little optimistic"
        )
    skipped = trained.facts["history"]["skipped"]
    if skipped:
        notes.append(f"{skipped:,} steps were skipped because the loss was not finite")
    return notes


def _facts(trained: Trained, frame: Frame) -> dict[str, Any]:
    facts = trained.facts
    checks = facts["history"]["checks"]
    return {
        "rows": frame.rows,
        "columns": len(frame.names),
        "recipe": trained.recipe,
        "latent": trained.latent,
        "plan": facts["plan"],
        "split": facts["split"],
        "stopped": facts["history"]["stopped"],
        "epochs": checks[-1]["epoch"] if checks else 0.0,
        "valid_elbo": facts["valid_elbo"],
        "health": facts["health"],
        "alarm": trained.alarm._asdict(),
        "notes": list(frame.notes),
    }


def _rehearse(frame: Frame, plan: Plan, target: Path | None, voice: Voice) -> Result:
    """Do all of a fit but most of the training, and keep nothing."""
    from lowerbound.learning import PRESETS
    from lowerbound.trained import Trained

    clock = Clock()
    short = replace(plan, time_limit=_REHEARSAL, latent=None if plan.latent == "auto" else plan.latent)
    trained = _learn(frame, short, target, voice)
    few = replace(frame, table=None if frame.table is None else frame.table.slice(0, 16))
    few = replace(few, matrix=None if frame.matrix is None else frame.matrix[:16])
    with tempfile.TemporaryDirectory() as folder:
        copy = Trained.load(trained.save(Path(folder) / "dry.vae"))
        size = bundle.verify(Path(folder) / "dry.vae").bytes
    same = bool((copy.score(few) == trained.score(few)).all())
    if not same:
        raise CheckFailed("E601", "a saved and loaded model gives other scores on this machine")
    last = trained.facts["history"]["checks"][-1]
    preset = PRESETS[plan.preset]
    epochs = plan.max_epochs or preset.budget.epochs
    steps = 0 if plan.max_epochs else preset.budget.steps
    rows = max(epochs * trained.facts["split"]["train"], steps * preset.optimiser.batch_size)
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
