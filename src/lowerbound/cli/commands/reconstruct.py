"""The command reconstruct: each row as the model expects it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from lowerbound.cli.flags import Data, Heard, ModelPath, Out, Policy, Renames
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import TablesByPart, explain_flag, load
from lowerbound.cli.outputs import Clock, spell_flags, spell_path
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result


def reconstruct(
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    rename: Renames = (),
    on_bad_file: Policy = None,
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Write every row as the model expects it, without its unusual parts.

    Examples:
        lowerbound reconstruct fraud.vae new.csv --out expected.csv
        lowerbound reconstruct photos.vae new/ --out expected/

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to reconstruct: a file, a folder or a "pattern*".
        out: where to write: .csv, .tsv, .parquet or .npy; pictures also as a grid, .png, or as a
            folder of PNG files, such as pictures/.
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        voice: receives the progress.
    """
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
