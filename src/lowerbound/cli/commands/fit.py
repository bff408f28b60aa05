"""The command fit: train a model on a table or on pictures, and save it."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lowerbound.cli import inputs, parsing
from lowerbound.cli.flags import (
    Column,
    Columns,
    Data,
    File,
    Heard,
    Name,
    Names,
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
from lowerbound.cli.outputs import spell_flags
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result
from lowerbound.files import paths
from lowerbound.tasks.objective_settings import help_text

_SUFFIXES = (".gz", ".csv", ".tsv", ".txt", ".parquet", ".npy", ".npz", ".png")
_SUFFIXES += (".arrow", ".feather", ".h5ad", ".zarr")
_SET = Parameter(
    help="a setting of the recipe, such as likelihood=student or hidden=[256,256], or of the "
    f"objective; repeat it for more. Settings of the objective:\n\n{help_text()}"
)
_OWN = ("data", "ray", "workers", "voice")  # not passed on to the workers


def fit(  # noqa: PLR0913 - the arguments are the command's flags
    data: Data,
    /,
    *,
    out: Out = None,
    preset: Name = None,
    time_limit: Seconds = None,
    alarm_rate: Share = None,
    types: Types = (),
    batch: Columns = (),
    covariate: Columns = (),
    labels: Column = None,
    drop: Columns = (),
    rename: Renames = (),
    layer: Name = None,
    genes: Names = (),
    size: Pixels = None,
    on_bad_file: Policy = None,
    all_frames: bool = False,
    targets: Place = None,
    from_: Place = None,
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
    track: Names = (),
    ray: bool = False,
    workers: Whole = None,
    voice: Heard = SILENT,
) -> Result:
    """Train a model on a table or on pictures, and set its alarm threshold.

    Ctrl-C is safe: it saves the best model so far. After Ctrl-C or a crash, the same command
    continues, and ends with the same model as an uninterrupted fit.

    Examples:
        lowerbound fit tx.parquet --alarm-rate 0.1% --out fraud.vae
        lowerbound fit photos/ --size 64 --out photos.vae
        lowerbound fit photos/ --from photos-denoise --time-limit 60s --out mine.vae

    Args:
        data: a CSV, TSV (also .gz), Parquet, npy, npz or idx file, a folder of such files or of
            pictures, or a "pattern*".
        out: where to save the model; by default the name of the data with .vae, in this folder.
        preset: fast, balanced or best: the size of the network and the length of training.
        time_limit: the largest time of the command, such as 90s, 10m or 1h: training ends early
            enough to save the best model within it.
        alarm_rate: the share of normal rows that may be flagged, such as 0.1% (default 1%).
        types: the kind of a column, in place of the inferred one; repeat it, or use commas. For
            counts only COLUMN=batch and COLUMN=covariate, as by the next two flags.
        batch: for counts: a column with the experiment, donor or protocol of a row, which the
            latent numbers need not describe; repeat it for more.
        covariate: for counts: the same for a column of numbers, such as pct_mito.
        labels: for counts: a column of labels that some rows have, such as cell types; the model
            learns to tell them, and `lowerbound label` gives them to all.
        drop: columns to leave out; repeat it, or use commas.
        rename: give a column of the data another name.
        layer: for an AnnData: the layer with the raw counts; by default counts, X or raw.X, the
            first that holds counts.
        genes: for counts: the genes to model: hvg:2000 for that many variable ones by scanpy,
            highly_variable or another such column of var, a gene, or a file with one on each
            line. The model then reads only these. By default all genes.
        size: scale each picture to cover N x N (or HxW) pixels, and crop its centre.
        all_frames: take each frame or page of a picture file as a picture, in this fit and by the
            model ever after; by default the first is read.
        on_bad_file: skip leaves out all unreadable pictures, fail stops at the first; by default
            up to 1 % are left out and named.
        targets: for denoise, upscale, inpaint and segment: a folder with the wanted result for
            each picture, such as its mask, under the same name; without it, the pictures are
            degraded to make pairs.
        from_: a model that restores or encodes pictures, or photos-denoise, which the package
            has: training starts from its weights, and its recipe and network are kept.
        recipe: table (the default), gaussian, beta, sigma, iaf, ladder, binary or counts;
            conv, conv_ladder (the default there), nvae, vqvae or vqvae2 for pictures: a folder of
            them, or an array (n, height, width) with or without channels; denoise, upscale,
            inpaint or segment for a model that restores pictures of any size, autoencoder for
            one that encodes them.
        settings: a setting of the recipe or of the objective; repeat it for more.
        latent: dimensions of the latent space, or auto to keep only those in use.
        transform: scaling of numbers: blend (the default), standard or quantile.
        max_epochs: the largest number of passes over the data.
        learning_rate: the highest learning rate, such as 0.003; by default the preset's.
        seed: the random seed; the same seed gives the same model.
        device: cpu, cuda, cuda:1, ...; by default a GPU where there is one.
        precision: float32 (the default), or bfloat16 for products where the processor has it.
        config: a TOML file with any of these; flags take precedence.
        print_config: print the configuration as TOML and do nothing else.
        dry_run: check everything, train for half a second, save nothing.
        resume: auto, to continue an unfinished run of this model (the default), or never, to
            delete it and start again.
        overwrite: replace an earlier model.
        track: record the fit by tensorboard or mlflow in a folder of this machine: beside the
            model, or in tensorboard:FOLDER or mlflow:FOLDER; repeat it, or use commas.
        ray: train in several processes on the Ray cluster at RAY_ADDRESS, or on a local one.
        workers: the number of processes for --ray; by default one per GPU, else one per core.
        voice: receives the progress.
    """
    flags = {name: value for name, value in locals().items() if name not in _OWN}
    work = import_module("lowerbound.cli.work.fit")  # imports torch: --help does not wait
    if batch or covariate or labels is not None:
        kinds = parsing.pairs(types, "--types", "zip=categorical", commas=True)
        types = work.with_covariates(kinds, batch, covariate, labels)

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
    wanted = inputs.wanted(size, on_bad_file, all_frames=all_frames, layer=layer)
    choosing = import_module("lowerbound.cli.choose_recipe")
    start = None if from_ is None else work.start_of(from_)
    frame, usual = choosing.suited(data, rename, wanted, fields, start)
    plan = work.started(work.plan_from(fields, config, usual.plan), start)
    if print_config:
        text = work.as_toml(plan)
        return Result({"config": text}, text=text)
    inputs.refuse_flags(plan.recipe, wanted, targets, data)
    named = out is not None or isinstance(data, str | os.PathLike)
    place = Path(out or _default(data)) if named else None
    output = work.output_at(place, overwrite, resume, paths.named_in(data, targets))
    output = work.recorded(output, track)
    clustered = import_module("lowerbound.cli.work.cluster") if ray or workers else None
    processes = None if clustered is None else clustered.count(ray, workers)
    another = plan.recipe.name != usual.plan.get("recipe", plan.recipe.name)  # set by the config
    if frame is None or another:
        frame = inputs.opened(data, rename, wanted, plan.recipe, targets, work.channels_of(start))
    elif usual.plan:
        voice.say(choosing.spell_choice(plan, usual.reason))
    if genes:
        frame = import_module("lowerbound.files.genes").of_genes(frame, data, genes, plan.types)
    if clustered is not None:
        return clustered.fit(data, flags, processes, voice)
    if dry_run:
        return work.rehearse(frame, plan, output, voice, start)
    result = work.train(frame, plan, output, voice, start=start)
    return replace(result, next=result.next + spell_flags(rename=rename, on_bad_file=on_bad_file))


def _default(data: Any) -> Path:
    """Return a name after the data: ./tx.vae for tx.csv.gz, ./parts.vae for parts/*.parquet."""
    path = Path(data)
    name = path.name if not set(path.name) & set("*?[") else path.parent.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(f"{name.strip('.') or 'model'}.vae")
