"""The command embed: the latent mean of each row."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import pyarrow as pa

from lowerbound.cli.cluster_flags import target_of, workers_of
from lowerbound.cli.flags import Data, Heard, ModelPath, Out, Policy, Renames, Whole
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import TablesByPart, load
from lowerbound.cli.outputs import (
    Clock,
    check_embedding_target,
    deliver,
    deliver_beside,
    is_array,
    is_cells,
    spell_path,
)
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def embed(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    rename: Renames = (),
    on_bad_file: Policy = None,
    adapt: bool = False,
    overwrite: bool = False,
    ray: bool = False,
    workers: Whole = None,
    voice: Heard = SILENT,
) -> Result:
    """Write the latent mean of every row: a few numbers, for plots and further models.

    Examples:
        lowerbound embed fraud.vae new.parquet --out embedding.parquet
        lowerbound embed fraud.vae new.csv --out embedding.npy
        lowerbound embed pbmc.vae pbmc.h5ad --out embedded.h5ad

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to embed: a file, a folder or a "pattern*".
        out: where to write: .csv, .tsv, .parquet, or .npy for the numbers alone; for an .h5ad
            or .h5mu file also that: a copy of it with obsm["X_lowerbound"].
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        adapt: for counts: learn the batches of these cells that the model does not know, from
            these cells alone; without it, such cells get the mean over the known batches.
        overwrite: replace an earlier output.
        ray: embed the files of a folder on the Ray cluster at RAY_ADDRESS, or a local one; --out
            is then a folder with one Parquet file for each.
        workers: the largest number of processes for --ray.
        voice: receives the progress.
    """
    cluster = workers_of(ray, workers, {"--adapt": adapt or None})
    clock, target = Clock(), target_of(out, overwrite, data, ray, check_embedding_target)
    trained = load(model)
    given = walk_for(trained, data, rename, on_bad_file)
    if adapt:
        training = import_module("lowerbound.training.adapt")
        given = given.whole()
        trained = training.adapted(trained, given, say=voice.say)
    made = TablesByPart(trained, given, lambda coded: _latents(trained.embed_coded(coded)))
    tables = made.tables(voice, plain=is_array(target) or is_cells(target))
    if ray:
        walk = import_module("lowerbound.cli.work.cluster").Walk("embed", trained, given, {})
        for files in walk.done(target, overwrite, cluster, voice):
            made.remarks.absorb(files)
        delivered, path = None, target
    elif target is not None and is_cells(target):
        delivered, path = None, deliver_beside(data, tables, target, overwrite)
    else:
        delivered, path = deliver(given, tables, target, overwrite)
    rows, latent = given.rows, trained.latent
    if made.remarks.facts.get("unseen") and trained.holds == "cells":
        hint = "with --adapt the model learns the batches that it does not know"
        made.remarks.notes[hint] = None
    facts = {"rows": rows, "latent": latent, "seconds": clock(), **made.remarks.facts}
    return Result(
        facts,
        table=delivered,
        lines=[f"{rows:,} rows x {latent} latent numbers, {clock():.1f} s"],
        notes=made.remarks.lines,
        path=path,
        next=f"lowerbound sample {spell_path(model, 'M.vae')} "
        + ("-n 16 --out grid.png" if trained.coding.shape else "-n 1000 --out samples.csv"),
    )


def _latents(z: NDArray[np.float32]) -> pa.Table:
    return pa.table({f"z{i}": z[:, i] for i in range(z.shape[1])})
