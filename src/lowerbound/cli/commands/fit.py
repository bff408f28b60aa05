"""The verb fit: from a table to a saved model."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lowerbound.cli import inputs
from lowerbound.cli.flags import (
    Columns,
    Data,
    File,
    Heard,
    Name,
    Out,
    Pixels,
    Place,
    Policy,
    Rate,
    Renames,
    Seconds,
    Settings,
    Share,
    Size,
    Types,
    Whole,
)
from lowerbound.cli.outputs import check_model_target
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError
from lowerbound.tasks.objective_settings import help_text

_SUFFIXES = (".gz", ".csv", ".tsv", ".txt", ".parquet", ".npy", ".npz", ".png")
_SUFFIXES += (".arrow", ".feather", ".h5ad", ".zarr")
_SET = Parameter(
    help="a setting of the recipe, such as likelihood=student or hidden=[256,256], or of the "
    f"objective; repeat it for more. Settings of the objective:\n\n{help_text()}"
)
_OWN = ("data", "ray", "workers", "voice")  # what is not passed on to the workers


def fit(  # noqa: PLR0913 - a verb's arguments are its flags
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
    size: Pixels = None,
    on_bad_file: Policy = None,
    targets: Place = None,
    recipe: Name = None,
    settings: Annotated[Settings, _SET] = (),
    latent: Size = None,
    transform: Name = None,
    max_epochs: Whole = None,
    learning_rate: Rate = None,
    seed: Whole = None,
    device: Name = None,
    precision: Name = None,
    config: File = None,
    print_config: bool = False,
    dry_run: bool = False,
    resume: Name = None,
    overwrite: bool = False,
    ray: bool = False,
    workers: Whole = None,
    voice: Heard = SILENT,
) -> Result:
    """Learn a model from a table or from pictures, the alarm threshold included.

    Ctrl-C is safe: the best model so far is saved. After it, or a crash, the same command goes on
    where it was, and ends with the same model as if nothing had happened.

    Examples:
        lowerbound fit tx.parquet --alarm-rate 0.1% --out fraud.vae
        lowerbound fit photos/ --size 64 --out photos.vae
        lowerbound fit photos/ --recipe denoise --out clean.vae

    Args:
        data: a CSV, TSV (also .gz), Parquet, npy, npz or idx file, a folder of such files or of
            pictures, or a "pattern*".
        out: where to save the model; by default the data's name with .vae, here.
        preset: fast, balanced or best: how large the network is and how long it may learn.
        time_limit: stop after this time and keep the best, such as 90s, 10m or 1h.
        alarm_rate: the share of normal rows that may be flagged, such as 0.1% (default 1%).
        types: the kind of a column, where it is known better; repeat it, or use commas. For
            counts only COLUMN=batch: the experiment that a row is from.
        drop: a column to leave out; repeat it for more.
        rename: give a column of the data another name.
        size: of pictures: each is scaled to cover N x N (or HxW) and cut around its middle.
        on_bad_file: skip leaves out unreadable pictures however many there are, fail stops at
            the first; by default up to 1 % of them are left out and named.
        targets: for denoise, upscale, inpaint and segment: a folder with what is to be made of
            each picture, under the same name, such as its mask; without it, pairs are made of
            the pictures themselves.
        recipe: table (the default), gaussian, beta, sigma, iaf, ladder, binary or counts;
            conv, conv_ladder (the default there), nvae, vqvae or vqvae2 for pictures: a folder of
            them, or an array (n, height, width) with or without channels; denoise, upscale,
            inpaint or segment for a model that makes one picture of another, of any size.
        settings: a setting of the recipe or of the objective; repeat it for more.
        latent: size of the latent space, or auto to keep only what is in use.
        transform: of numbers: blend (the default), standard or quantile.
        max_epochs: passes over the data at most.
        learning_rate: of the optimiser at its highest, such as 0.003; by default the preset's.
        seed: of everything random; the same seed gives the same model.
        device: cpu, cuda, cuda:1, ...; by default a GPU where there is one.
        precision: float32 (the default), or bfloat16 for products where the processor has it.
        config: a TOML file with any of these; flags go first.
        print_config: print the configuration as TOML and do nothing else.
        dry_run: check everything, train for half a second, save nothing.
        resume: auto (the default) goes on with an unfinished run of this model; never forgets it.
        overwrite: replace an earlier model.
        ray: train in several processes of a Ray cluster, that of RAY_ADDRESS or one started here.
        workers: how many; by default one for each GPU of it, else for each core.
        voice: hears how it goes; in Python nobody does.
    """
    flags = {name: value for name, value in locals().items() if name not in _OWN}
    work = import_module("lowerbound.cli.work.fit")  # torch: seconds that --help does not wait

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
        "learning_rate": learning_rate,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    wanted = inputs.wanted(size, on_bad_file)
    choosing = import_module("lowerbound.cli.choose_recipe")
    frame, usual = choosing.NOTHING if recipe else choosing.suited(data, rename, wanted, fields)
    plan = work.plan_from(fields, config, usual.plan)
    if print_config:
        text = work.as_toml(plan)
        return Result({"config": text}, text=text)
    inputs.refuse_flags(plan.recipe, wanted, targets)
    output = _output(out, data, overwrite, resume, work)
    clustered = import_module("lowerbound.cli.work.cluster") if ray or workers else None
    processes = None if clustered is None else clustered.count(ray, workers)
    another = plan.recipe.name != usual.plan.get("recipe", plan.recipe.name)  # by the config
    if frame is None or another:
        frame = inputs.opened(data, rename, wanted, plan.recipe, targets)
    elif usual.plan:
        voice.say(choosing.spell_choice(plan, usual.reason))
    if clustered is not None:
        return clustered.fit(data, flags, processes, voice)
    if dry_run:
        return work.rehearse(frame, plan, output, voice)
    return work.train(frame, plan, output, voice)


def _output(out: Any, data: Any, overwrite: bool, resume: str | None, work: Any) -> Any:
    """Say where the model goes, refusing a place where it could not be saved."""
    if resume not in (None, "auto", "never"):
        raise UsageError("E241", f"--resume is {resume!r}", fix="--resume auto, or --resume never")
    if out is None and not isinstance(data, str | os.PathLike):
        return None
    place = Path(out or _default(data))
    fresh = resume == "never"
    target = check_model_target(place, overwrite or (not fresh and work.may_replace(place)))
    return work.Output(target, overwrite, resume or "auto")


def _default(data: Any) -> Path:
    """Name a model after its data: ./tx.vae for tx.csv.gz, ./parts.vae for parts/*.parquet."""
    path = Path(data)
    name = path.name if not set(path.name) & set("*?[") else path.parent.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(f"{name.strip('.') or 'model'}.vae")
