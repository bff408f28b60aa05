"""The command tune: search for the settings that fit a table best."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from lowerbound.cli import parsing
from lowerbound.cli.flags import (
    Columns,
    Data,
    File,
    Heard,
    Name,
    Names,
    Number,
    Out,
    Rate,
    Renames,
    Seconds,
    Settings,
    Share,
    Size,
    Types,
    Whole,
)
from lowerbound.cli.outputs import open_data, spell_flags
from lowerbound.cli.progress import SILENT, Voice
from lowerbound.cli.result import Result, Sheet
from lowerbound.errors import UsageError
from lowerbound.training import units

SHOWN = 10  # number of trials in the leaderboard
LOG = "trials.log"
SHARE_OF_LAST = 0.25  # share of a time limit that is kept for the fit of the best settings
OPTIMISTIC = "the best trial is chosen and judged on the same rows, which is a little optimistic"


def tune(  # noqa: PLR0913 - the arguments are the command's flags
    data: Data,
    /,
    *,
    out: Out = None,
    trials: Number = 30,
    time_limit: Seconds = None,
    trial_time: Seconds = None,
    recipe: Names = (),
    settings: Settings = (),
    preset: Name = None,
    latent: Size = None,
    learning_rate: Rate = None,
    types: Types = (),
    drop: Columns = (),
    rename: Renames = (),
    transform: Name = None,
    alarm_rate: Share = None,
    max_epochs: Whole = None,
    seed: Whole = None,
    device: Name = None,
    config: File = None,
    resume: Name = None,
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Search for the recipe, latent size, beta and learning rate that fit a table best.

    Trials are trained on four fifths of the rows and judged by the log-likelihood of the others,
    in nats per row of raw values. The first trial has the defaults of fit. With --out, the best
    settings are fitted again to all rows and saved. The same command continues a stopped search.

    Examples:
        lowerbound tune tx.parquet --trials 30 --out fraud.vae
        lowerbound tune tx.csv --recipe sigma --recipe ladder --time-limit 1h

    Args:
        data: a table, as fit takes it.
        out: where to save the best model; without it no model is saved.
        trials: the number of settings to try, including those of an earlier search.
        time_limit: the time for the whole search, with the fit of the best settings to all rows.
        trial_time: the time for each trial.
        recipe: a recipe to try; repeat it for more. By default table; also ladder, iaf and sigma
            if all columns are numbers without often repeated values, because only then are the
            log-likelihoods comparable.
        settings: a setting for every trial; if it is beta, beta is not searched for.
        preset: fast, balanced or best, as for fit.
        latent: dimensions of the latent space, which are then not searched for.
        learning_rate: the highest learning rate, which is then not searched for.
        types: the kind of a column, in place of the inferred one; repeat it, or use commas.
        drop: columns to leave out; repeat it, or use commas.
        rename: give a column of the data another name.
        transform: scaling of numbers: blend (the default), standard or quantile.
        alarm_rate: the share of normal rows that the saved model may flag.
        max_epochs: the largest number of passes over the data.
        seed: the random seed; the same seed gives the same search.
        device: cpu, cuda, cuda:1, ...; by default a GPU where there is one.
        config: a TOML file with fields of a plan; flags take precedence.
        resume: auto, to continue an earlier search (the default), or never, to delete it and start
            again.
        overwrite: replace an earlier model.
        voice: receives the progress.
    """
    runs, tuning = (
        import_module(f"lowerbound.{name}") for name in ("cli.work.fit", "training.tune")
    )
    names = list(recipe) if not isinstance(recipe, str) else [recipe]
    fields = {
        "recipe": names[0] if names else None,
        "settings": settings,
        "preset": preset,
        "latent": latent,
        "learning_rate": learning_rate,
        "types": types,
        "drop": drop,
        "transform": transform,
        "alarm_rate": alarm_rate,
        "max_epochs": max_epochs,
        "time_limit": trial_time,
        "seed": seed,
        "device": device,
    }
    plan = runs.plan_from(fields, config)
    count = parsing.at_least(trials, 1, "--trials")
    seconds = None if time_limit is None else units.seconds(time_limit)
    output = runs.output_at(None if out is None else Path(out), overwrite, resume, data)
    frame = open_data(data, rename)
    folder = None if output is None else _folder(output.target, fresh=resume == "never")
    search = tuning.Search(frame, plan, folder, names)
    limit = tuning.TimeLimit(seconds, voice.began)
    _run(search, count, (limit, SHARE_OF_LAST if output is not None else 0.0), voice)
    flags = {"preset": preset, "types": types, "drop": drop, "rename": rename, "set": settings}
    flags |= {"transform": transform, "alarm_rate": alarm_rate, "max_epochs": max_epochs}
    flags |= {"seed": seed, "device": device, "config": config}
    found = _told(search, data, flags)
    if output is None or folder is None:
        return found
    best = search.best()
    voice.say(f"fitting    the best settings to all {frame.rows:,} rows")
    within = None if seconds is None else limit.within(plan.time_limit)
    last = replace(best, time_limit=plan.time_limit)
    saved = runs.train(frame, last, output, voice, within)
    if not saved.interrupted:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(
        saved,
        facts={**saved.facts, **found.facts},
        lines=[*found.lines, *saved.lines],
        notes=[*found.notes, *saved.notes],
        sheet=found.sheet,
        next=saved.next + spell_flags(rename=rename),
    )


def _folder(target: Path, *, fresh: bool) -> Path:
    """Return the folder of the trials: ``tx.tune`` next to ``tx.vae``."""
    suffixed = target.suffix == ".vae"
    folder = target.with_suffix(".tune") if suffixed else Path(f"{target}.tune")
    if folder.exists() and not (folder / LOG).exists():
        raise UsageError(
            "E221",
            f"{folder} exists and is not the folder of a search, so it is not used",
            fix="choose another --out",
            path=str(folder),
        )
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    (folder / LOG).touch()
    return folder


def _run(search: Any, trials: int, limits: tuple[Any, float], voice: Voice) -> None:
    """Run the trials and report each.

    Args:
        search: the search.
        trials: number of trials to reach.
        limits: the time limit of the command, and its share for the fit after the search.
        voice: receives the progress.
    """
    (limit, share), before = limits, len(search.done)
    kept = 0.0 if limit.seconds is None else share * limit.seconds
    rows = search.parts
    voice.say(
        f"search     {trials} trials of {', '.join(search.names)}: "
        f"{rows.learned.rows:,} rows to train on, {rows.judged.rows:,} to judge by"
    )
    if before:
        voice.say(f"resume     {before} of them are done")

    def told(latest: Any, best: Any) -> None:
        voice.say(f"trial {latest.number:<4d} {_short(latest)}; best {best.log_p:.3f}")

    for number in range(before + 1, trials + 1):
        began = time.monotonic()
        search.run(number, told, limit.left() - kept)
        # A trial that would be cut to less than half of the last one would not be comparable.
        if limit.left() - kept < (time.monotonic() - began) / 2:
            return


def _short(trial: Any) -> str:
    what = ", ".join(f"{name} {_spelt(value)}" for name, value in trial.changes.items())
    if trial.log_p is None:
        return f"failed: {trial.failure} ({what})"
    return f"{trial.log_p:.3f} nats per row ({what}; {units.spell_seconds(trial.seconds)})"


def _spelt(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _told(search: Any, data: Any, flags: Mapping[str, Any]) -> Result:
    """Return the result of a search: the best trial and the leaderboard.

    Args:
        search: the search.
        data: as given.
        flags: those of all trials, for the suggested command.
    """
    ranked, tried = search.ranked, search.done
    usual, best = tried[0], ranked[0]
    names = list(usual.changes)
    rows = [
        [
            str(trial.number),
            f"{trial.log_p:.3f}",
            f"{trial.error:.3f}",
            *(_spelt(trial.changes.get(name, "")) for name in names),
            f"{trial.seconds:.0f}",
        ]
        for trial in ranked[:SHOWN]
    ]
    heads = ["trial", "log p", "+-", *(name.replace("_", " ") for name in names), "s"]
    gain = best.log_p - usual.log_p
    same = best.number == usual.number
    verdict = (
        "fit's own defaults are the best"
        if same
        else f"{gain:.3f} nats per row better than fit's own defaults"
    )
    failed = len(tried) - len(ranked)
    lines = [f"Best       trial {best.number} of {len(tried)}: {verdict}"]
    lines += [f"Failed     {failed} trials"] * bool(failed)
    return Result(
        {
            "trials": [vars(trial) for trial in tried],
            "best": best.number,
            "gain": gain,
            "plan": vars(search.best()),
        },
        lines=lines,
        notes=[OPTIMISTIC] * (not same),
        sheet=Sheet(heads, rows, "log p of held-out rows, nats per row", heads),
        next=_command(data, best) + spell_flags(**flags),
    )


def _command(data: Any, best: Any) -> str:
    """Return the fit command of the best trial."""
    words = ["lowerbound", "fit", str(data) if isinstance(data, str | Path) else "DATA"]
    for name, value in best.changes.items():
        if name == "beta":
            words += ["--set", f"beta={_spelt(value)}"]
        else:
            words += [f"--{name.replace('_', '-')}", _spelt(value)]
    return shlex.join([*words, "--out", "M.vae"])
