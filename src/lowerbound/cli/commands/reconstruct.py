"""The command reconstruct: each row as the model expects it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module

from lowerbound.cli import parsing
from lowerbound.cli.flags import (
    Data,
    Depth,
    Heard,
    Kind,
    Levels,
    ModelPath,
    Names,
    Out,
    Policy,
    Renames,
    Whole,
)
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import TablesByPart, explain_flag, load
from lowerbound.cli.outputs import Clock, spell_flags, spell_path
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError

AS = ("mean", "expression")
_ONLY = ("batch", "library", "genes", "draws", "seed")  # flags of expression


def reconstruct(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    kind: Kind = AS[0],
    batch: Levels = (),
    library: Depth = None,
    genes: Names = (),
    draws: Whole = None,
    seed: Whole = None,
    rename: Renames = (),
    on_bad_file: Policy = None,
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Write every row as the model expects it, without its unusual parts.

    Examples:
        lowerbound reconstruct fraud.vae new.csv --out expected.csv
        lowerbound reconstruct photos.vae new/ --out expected/
        lowerbound reconstruct m.vae x.h5ad --as expression --out rates.h5ad

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to reconstruct: a file, a folder or a "pattern*".
        out: where to write: .csv, .tsv, .parquet or .npy; pictures also as a grid, .png, or as a
            folder of PNG files, such as pictures/. Expression of an .h5ad file also as .h5ad: a
            copy of it with the layers expression and expression_sd.
        kind: mean (the default), or for cells expression: the rate of every gene, without the
            noise of counting, and its standard deviation over draws from the posterior.
        batch: for expression: show all cells in this batch, such as lima or site=lima; by default
            each in its own. Repeat it for more covariates.
        library: for expression: the total that the rates of a cell add up to (default 10000), or
            own for that of the cell.
        genes: for expression: a gene to write, or a file with one on each line; repeat it, or use
            commas. By default all genes of the model.
        draws: for expression: draws from the posterior of each cell (default 25).
        seed: for expression: the random seed; the same seed gives the same numbers.
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        voice: receives the progress.
    """
    parsing.one_of(kind, AS, "--as")
    given = locals()
    asked = {name: given[name] for name in _ONLY if given[name] not in (None, ())}
    if kind == "expression":
        work = import_module("lowerbound.cli.work.reconstruct")  # imports torch
        opened = partial(walk_for, data=data, rename=rename, on_bad_file=on_bad_file)
        return work.expression((model, data), asked, (out, overwrite), opened, voice)
    if asked:
        flag = next(iter(asked))
        raise UsageError(
            "E236", f"--{flag} is for --as expression", fix=f"--as expression --{flag} ..."
        )
    places = import_module("lowerbound.cli.places")  # imports torch: --help does not wait
    clock, target = Clock(), places.check_picture_target(out, overwrite, data)
    trained = load(model)
    given = walk_for(trained, data, rename, on_bad_file)
    made = TablesByPart(trained, given, trained.reconstruct_coded)
    tables = made.tables(voice, plain=target.plain)
    delivered, path = target.deliver(trained, given, tables, overwrite)
    return Result(
        {"rows": given.rows, "seconds": clock(), **made.remarks.facts},
        table=delivered,
        lines=[f"{_counted(given.rows, made.columns, trained.coding.shape)}, {clock():.1f} s"],
        notes=made.remarks.lines,
        path=path,
        next=f"lowerbound score {spell_path(model, 'M.vae')} {spell_path(data)} "
        f"--out scores.csv{explain_flag(trained)}"
        + spell_flags(rename=rename, on_bad_file=on_bad_file),
    )


def _counted(n: int, columns: int, shape: Sequence[int]) -> str:
    """Return the number of rows or pictures and their size as text."""
    if shape:
        return f"{n:,} pictures of {' x '.join(map(str, shape))}"
    return f"{n:,} rows x {columns} columns"
