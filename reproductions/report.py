"""List, show and run the experiments of the papers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lowerbound.cli import parsing
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Result, Sheet
from lowerbound.errors import UsageError, nearest
from lowerbound.files.write import atomic_write, check_place
from lowerbound.training.plan import device_of
from reproductions import EXPERIMENTS, Experiment, Job, document, run_arm
from reproductions.command import PROGRAM
from reproductions.datasets import FILES
from reproductions.files import fetch
from reproductions.running import of_scale

_USUAL = Path(__file__).parent / "results"
_HEADINGS = ("paper", "allowed", "ours", "seeds", "time")


@dataclass(frozen=True)
class Extent:
    """Extent of a run of an experiment.

    Attributes:
        scale: the name of a scale.
        seeds: the number of seeds.
        arms: their names, or empty for all.
        states: the folder of the states, or None for the default.
        device: of the models, or None for a GPU where there is one.
        download: whether a missing data set may be downloaded.
    """

    scale: str
    seeds: int | str | None
    arms: tuple[str, ...]
    states: str | None
    device: str | None
    download: bool


def results_folder(given: str | None) -> Path:
    """Return the folder of the JSON files of experiments."""
    return Path(given) if given else _USUAL


def named(name: str | None, action: str) -> str:
    """Return the name of a known experiment.

    Raises:
        UsageError: E232 if no name is given, E241 for an unknown one.
    """
    if name is None:
        first = next(iter(EXPERIMENTS))
        raise UsageError(
            "E232",
            f"{action} needs the name of an experiment",
            fix=f"{PROGRAM.name} {action} {first}",
        )
    if name not in EXPERIMENTS:
        close = nearest(name, EXPERIMENTS)
        raise UsageError(
            "E241",
            f"there is no experiment {name!r}",
            fix=f"{PROGRAM.name} {f'{action} {close}' if close else 'list'}",
        )
    return name


def _kept(name: str, folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / f"{name}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None


def listed(folder: Path) -> Result:
    """List every arm of every experiment with our value and the paper's."""
    rows, facts = [], []
    for name, experiment in EXPERIMENTS.items():
        kept = _kept(name, folder)
        first = next(iter(experiment.arms))
        for arm in experiment.arms:
            facts.append(_line(name, arm, kept))
            cells = _cells(facts[-1])
            rows.append(cells if cells[1] == first else ["", *cells[1:]])
    columns = ["experiment", "arm", *_HEADINGS]
    sheet = Sheet(columns, rows, right=_HEADINGS)
    return Result({"experiments": facts}, sheet=sheet, next="python -m reproductions show NAME")


def _line(name: str, arm: str, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    experiment = EXPERIMENTS[name]
    published = experiment.arms[arm].published.get(experiment.metric)
    found = (kept or {}).get("arms", {}).get(arm)
    return {
        "experiment": name,
        "arm": arm,
        "metric": experiment.metric,
        "paper": None if published is None else published.value,
        "ours": None if found is None else found["mean"][experiment.metric],
        "tolerance": experiment.arms[arm].tolerance,
        "scale": None if found is None or kept is None else kept["scale"],
        "seeds": 0 if found is None else len(found["runs"]),
        "seconds": None if found is None else found["mean"]["training_seconds"],
    }


def _cells(line: Mapping[str, Any]) -> list[str]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    spent = "" if line["seconds"] is None else f"{line['seconds'] / 60:,.0f} min"
    return [
        line["experiment"],
        line["arm"],
        number(line["paper"]),
        line["tolerance"],
        number(line["ours"]),
        str(line["seeds"] or ""),
        spent,
    ]


def shown(name: str, folder: Path) -> Result:
    """Show one experiment: its paper, models, scales and checks."""
    experiment, kept = EXPERIMENTS[name], _kept(name, folder)
    scales = {
        key: {"epochs": scale.epochs, "samples": scale.samples, "time": scale.time}
        for key, scale in experiment.scales.items()
    }
    lines = [
        f"title      {experiment.title}",
        f"paper      {experiment.paper}",
        f"data       {experiment.data}",
        f"metric     {experiment.metric}",
        *(
            f"{key:<10} {s['epochs']:,} epochs, {s['samples']:,} importance samples, {s['time']}"
            for key, s in scales.items()
        ),
        *([f"notes      {experiment.notes}"] if experiment.notes else []),
        *_verdict(kept),
    ]
    facts = {
        "experiment": name,
        "title": experiment.title,
        "paper": experiment.paper,
        "scales": scales,
        "arms": [_line(name, arm, kept) for arm in experiment.arms],
        "checks": (kept or {}).get("checks", []),
    }
    sheet = Sheet(
        ["arm", *_HEADINGS],
        [_cells(line)[1:] for line in facts["arms"]],
        right=_HEADINGS,
    )
    return Result(facts, lines=lines, sheet=sheet, next=f"python -m reproductions run {name}")


def _verdict(kept: Mapping[str, Any] | None) -> list[str]:
    checks = (kept or {}).get("checks", [])
    return [f"{'holds' if check['holds'] else 'MISSED':<10} {check['claim']}" for check in checks]


def run(name: str, extent: Extent, folder: Path, voice: Voice) -> Result:
    """Run an experiment and write its results.

    Raises:
        UsageError: E241 for an unknown scale or arm, E240 for fewer than one seed.
        DataError: E001, E009 if the data set is missing, E078 if it cannot be downloaded.
        ResourceError: E302 if the results cannot be written.
    """
    experiment = EXPERIMENTS[name]
    arms, seeds = _checked(experiment, extent)
    device = str(device_of(extent.device))
    scale = experiment.scales[extent.scale]
    stem = name if extent.scale != "smoke" else f"{name}.smoke"
    target = check_place(folder / f"{stem}.json", overwrite=True)  # checked before hours of work
    if extent.download:
        fetch(FILES[experiment.data], voice.say)
    states = Path(extent.states or f"{name}.states") / extent.scale
    for arm in arms:
        for seed in range(seeds):
            job = Job(experiment, scale, arm, seed, states / f"{arm}-{seed}", device)
            run_arm(job, voice.say)
    kept = _kept(stem, folder)
    found = {arm: _runs(experiment, arm, extent.scale, states, kept) for arm in experiment.arms}
    made = document(name, experiment, extent.scale, {a: r for a, r in found.items() if r})
    # Over all kept results, so that the command repeats all of them.
    told = 1 + max(each["seed"] for each in chain(*found.values()))
    command = f"python -m reproductions run {name} --scale {extent.scale} --seeds {told}"
    text = json.dumps({"command": command, **made}, indent=1) + "\n"
    atomic_write(target, lambda file: file.writelines([text.encode()]), overwrite=True)
    lines = [_cells(_line(name, arm, made)) for arm in experiment.arms]
    return Result(
        made,
        lines=_verdict(made),
        notes=[f"not run yet: {', '.join(made['missing'])}"] if made["missing"] else [],
        sheet=Sheet(
            ["arm", *_HEADINGS],
            [cells[1:] for cells in lines],
            right=_HEADINGS,
        ),
        path=target,
        next=f"python -m reproductions show {name}",
    )


def _runs(
    experiment: Experiment, arm: str, scale: str, states: Path, kept: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Return the results of an arm by seed, from its states or else from the earlier file.

    The arms of an experiment take hours each and may be run on several machines, so that results
    in the file for the same model at the same scale are kept.
    """
    now, found = experiment.arms[arm], finished(states, arm)
    earlier = kept["arms"].get(arm) if kept and kept["scale"] == scale else None
    model = {"recipe": now.recipe, "arguments": json.loads(json.dumps(dict(now.arguments)))}
    if earlier and model.items() <= earlier.items():
        found = {**{run["seed"]: run for run in earlier["runs"]}, **found}
    asked = experiment.scales[scale]
    return [found[seed] for seed in sorted(found) if of_scale(found[seed], asked)]


def finished(states: Path, arm: str) -> dict[int, dict[str, Any]]:
    """Return the results of the finished seeds of an arm, by seed.

    Args:
        states: the folder that contains ``ARM-SEED`` for each seed.
        arm: its name, which may be the beginning of the name of another.
    """
    found = {}
    for path in states.glob("*/result.json"):
        name, _, seed = path.parent.name.rpartition("-")
        if name == arm and seed.isdecimal():
            found[int(seed)] = json.loads(path.read_text("utf-8"))
    return found


def _checked(experiment: Experiment, extent: Extent) -> tuple[list[str], int]:
    """Return the requested arms and number of seeds; raise an error for invalid ones."""
    for what, known, given in (
        ("scale", experiment.scales, [extent.scale]),
        ("arm", experiment.arms, extent.arms),
    ):
        for word in given:
            if word not in known:
                close = nearest(word, known) or next(iter(known))
                raise UsageError(
                    "E241",
                    f"there is no {what} {word!r} (there are {', '.join(known)})",
                    fix=f"--{what} '{close}'",
                )
    return list(extent.arms or experiment.arms), parsing.at_least(extent.seeds, 1, "--seeds")
