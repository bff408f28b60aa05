"""The command differential: genes that differ between two groups of cells."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from lowerbound.cli import parsing
from lowerbound.cli.flags import Column, Data, Levels, ModelPath, Name, Out, Rate, Renames, Whole
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, check_table_target, spell_path
from lowerbound.cli.result import Result, Sheet
from lowerbound.errors import UsageError
from lowerbound.files.write import write_table

_SHOWN = 10
RATE = 0.05  # expected false discovery rate of the list that is counted


def differential(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    data: Data,
    /,
    *,
    groupby: Column = None,
    group: Name = None,
    against: Name = None,
    out: Out = None,
    batch: Levels = (),
    delta: Rate = None,
    draws: Whole = None,
    seed: Whole = None,
    rename: Renames = (),
    overwrite: bool = False,
) -> Result:
    """Find the genes whose expression differs between two groups of cells.

    The mean rates of both groups are drawn from the posteriors of their cells. A gene's log2 fold
    change and the probability that it matters are those of these draws: posterior probabilities
    under the model, not p-values.

    Examples:
        lowerbound differential m.vae x.h5ad --groupby type --group B --out g.csv

    Args:
        model: a folder that `lowerbound fit` saved, of counts.
        data: cells: an .h5ad file, a table, ...
        groupby: the column of obs, or of a table, with the group of each cell.
        group: the group whose genes are wanted.
        against: the group it is compared with; by default all other cells.
        out: where to write one line for each gene: .csv, .tsv or .parquet.
        batch: compare as if all cells were of this batch, such as lima or site=lima; by default
            each in its own. Repeat it for more covariates.
        delta: the smallest log2 fold change that matters (default 0.25).
        draws: draws of the mean rates of both groups (default 1000).
        seed: the random seed; the same seed gives the same numbers.
        rename: rename a column of the data to the name in the model; repeat it for more.
        overwrite: replace an earlier output.
    """
    if groupby is None or group is None:
        flag, example = ("--groupby", "louvain") if groupby is None else ("--group", "B")
        raise UsageError(
            "E232", f"differential needs {flag}", fix=f"{flag} {example}", argument=flag
        )
    work = import_module("lowerbound.cli.work.reconstruct")  # imports torch
    clock, target = Clock(), check_table_target(out, overwrite, data)
    asked = {
        "draws": 1000 if draws is None else parsing.at_least(draws, 10, "--draws"),
        "delta": 0.25 if delta is None else parsing.number(delta, "--delta"),
        "seed": 0 if seed is None else parsing.at_least(seed, 0, "--seed"),
    }
    trained = load(model)
    where = work.levels_of(trained, batch)
    given = walk_for(trained, data, rename)
    table = trained.differential_expression(given, groupby, group, against, batch=where, **asked)
    found = table["false_discovery_rate"].to_numpy() <= RATE
    up = int((found & (table["lfc"].to_numpy() > 0)).sum())
    count = int(np.sum(found))
    top = table.slice(0, _SHOWN).to_pylist()
    other = "all others" if against is None else against
    return Result(
        {
            **asked,
            "genes": table.num_rows,
            "found": count,
            "higher": up,
            "top": top,
            "seconds": clock(),
        },
        table=table,
        lines=[
            f"{count:,} of {table.num_rows:,} genes differ between {groupby} = {group} and "
            f"{other} at an expected false discovery rate of {RATE:.0%}: {up:,} higher, "
            f"{count - up:,} lower, {clock():.1f} s"
        ],
        sheet=Sheet(
            ("gene", "log2 change", "95 % interval", "probability", "rate", "other"),
            [
                (
                    row["gene"],
                    f"{row['lfc']:+.2f}",
                    f"{row['lfc_low']:+.2f} to {row['lfc_high']:+.2f}",
                    f"{row['probability']:.3f}",
                    f"{row['rate1']:.3g}",
                    f"{row['rate2']:.3g}",
                )
                for row in top
            ],
            right=("log2 change", "probability", "rate", "other"),
        ),
        path=None if target is None else write_table(table, target, overwrite),
        next=f"lowerbound inspect {spell_path(out, 'genes.csv')}",
    )
