"""The command label: labels of cells, by a model that learned some."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lowerbound.cli import parsing
from lowerbound.cli.flags import Column, Data, Heard, ModelPath, Out, Renames, Share, Whole
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import TablesByPart, load
from lowerbound.cli.outputs import Clock, check_table_target, deliver, is_array, spell_path
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result
from lowerbound.training import units

if TYPE_CHECKING:
    import pyarrow as pa

    from lowerbound.coding.base import Coded
    from lowerbound.tasks.trained import Model


def label(  # noqa: PLR0913 - the arguments of the command
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    column: Column = None,
    alpha: Share = None,
    adapt: bool = False,
    draws: Whole = None,
    rename: Renames = (),
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Write the likeliest label of every row, and the probability of each label.

    A model of cells must have been fitted with --labels; its probabilities are calibrated on
    labelled cells that it did not learn from. A model of a table has labels for every column of
    levels, by --column: the probabilities of these given the other values of the row.

    Cells whose counts are not like those of the training get the label "none of these".

    Examples:
        lowerbound label pbmc.vae new.h5ad --out labels.csv
        lowerbound label pbmc.vae new.h5ad --adapt --alpha 5% --out labels.csv
        lowerbound label m.vae new.csv --column country --out labels.csv

    Args:
        model: a folder that `lowerbound fit` saved.
        data: cells or rows; the values of --column may be empty.
        out: where to write: .csv, .tsv or .parquet.
        column: for models of tables: the column whose levels are wanted.
        alpha: for cells: the expected share of cells like those of the training that get "none of
            these" (default: the alarm rate of the fit); 0 labels all cells.
        adapt: for cells: learn the batches of these cells that the model does not know first.
        draws: for cells: draws from the posterior of each (default 25).
        rename: rename a column of the data to the name in the model; repeat it for more.
        overwrite: replace an earlier output.
        voice: receives the progress.
    """
    clock, target = Clock(), check_table_target(out, overwrite, data)
    count = 25 if draws is None else parsing.at_least(draws, 1, "--draws")
    share = None if alpha is None else units.share(alpha, "--alpha")
    trained = load(model)
    given = walk_for(trained, data, rename)
    if adapt:
        training = import_module("lowerbound.training.adapt")
        given = given.whole()
        trained = training.adapted(trained, given, say=voice.say)
    name, none = import_module("lowerbound.tasks.labels").NONE, [0]

    def labelled(coded: Coded) -> pa.Table:
        table = trained.label_probabilities_coded(coded, count, column=column, alpha=share)
        none[0] += table["label"].to_pylist().count(name) if "p_value" in table.column_names else 0
        return table

    made = TablesByPart(trained, given, labelled)
    delivered, path = deliver(given, made.tables(voice, plain=is_array(target)), target, overwrite)
    notes, told = made.remarks.notes, trained.facts.get("labels", {})
    quality = []
    if told:
        quality = [
            f"{told['accuracy']:.1%} of {told['rows']:,} labelled cells that were held out got "
            f"their label; expected calibration error {told['calibration_error']:.3f}"
        ]
    if trained.holds == "cells":
        notes |= dict.fromkeys(_of_none(trained, share, none[0], given.rows))
        if made.remarks.facts.get("unseen") and not adapt:
            notes["with --adapt the model learns the batches that it does not know"] = None
    facts = {"rows": given.rows, "none_of_these": none[0], "held_out": told, "seconds": clock()}
    return Result(
        {**facts, **made.remarks.facts},
        table=delivered,
        lines=[f"{given.rows:,} rows, {clock():.1f} s", *quality],
        notes=made.remarks.lines,
        path=path,
        next=f"lowerbound inspect {spell_path(path, 'labels.csv')}",
    )


def _of_none(trained: Model, alpha: float | None, none: int, rows: int) -> list[str]:
    """Return notes on the cells that have none of the labels."""
    test = import_module("lowerbound.tasks.scoring").typical_counts(trained, alpha)
    if test is None:
        why = "the model was saved by an earlier version: all cells get one of its labels"
        return [f"{why}; fit it again for none of these"]
    if not test.alpha:
        return []
    told = f"{none:,} of {rows:,} cells are none of these: their counts are not like those of "
    told += f"the training (--alpha {test.alpha:g}; --alpha 0 labels all)"
    return [told, *([test.doubt] if test.doubt else [])]
