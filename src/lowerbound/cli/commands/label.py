"""The command label: labels of cells, by a model that learned some."""

from __future__ import annotations

from lowerbound.cli import parsing
from lowerbound.cli.flags import Column, Data, Heard, ModelPath, Out, Renames, Whole
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import TablesByPart, load
from lowerbound.cli.outputs import Clock, check_table_target, deliver, is_array, spell_path
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result


def label(  # noqa: PLR0913 - the arguments of the command
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    column: Column = None,
    draws: Whole = None,
    rename: Renames = (),
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Write the likeliest label of every row, and the probability of each label.

    A model of cells must have been fitted with --labels; its probabilities are calibrated on
    labelled cells that it did not learn from. A model of a table has labels for every column of
    levels, by --column: the probabilities of these given the other values of the row.

    Examples:
        lowerbound label pbmc.vae new.h5ad --out labels.csv
        lowerbound label m.vae new.csv --column country --out labels.csv

    Args:
        model: a folder that `lowerbound fit` saved.
        data: cells or rows; the values of --column may be empty.
        out: where to write: .csv, .tsv or .parquet.
        column: for models of tables: the column whose levels are wanted.
        draws: for cells: draws from the posterior of each (default 25).
        rename: rename a column of the data to the name in the model; repeat it for more.
        overwrite: replace an earlier output.
        voice: receives the progress.
    """
    clock, target = Clock(), check_table_target(out, overwrite, data)
    count = 25 if draws is None else parsing.at_least(draws, 1, "--draws")
    trained = load(model)
    given = walk_for(trained, data, rename)
    made = TablesByPart(
        trained,
        given,
        lambda coded: trained.label_probabilities_coded(coded, count, column=column),
    )
    delivered, path = deliver(given, made.tables(voice, plain=is_array(target)), target, overwrite)
    told = trained.facts.get("labels", {})
    quality = []
    if told:
        quality = [
            f"{told['accuracy']:.1%} of {told['rows']:,} labelled cells that were held out got "
            f"their label; expected calibration error {told['calibration_error']:.3f}"
        ]
    return Result(
        {"rows": given.rows, "held_out": told, "seconds": clock(), **made.remarks.facts},
        table=delivered,
        lines=[f"{given.rows:,} rows, {clock():.1f} s", *quality],
        notes=made.remarks.lines,
        path=path,
        next=f"lowerbound inspect {spell_path(path, 'labels.csv')}",
    )
