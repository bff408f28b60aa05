"""The command impute: missing values filled in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lowerbound.cli import parsing
from lowerbound.cli.flags import Data, Heard, ModelPath, Number, Out, Policy, Renames
from lowerbound.cli.inputs import open_for, walk_for
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, check_table_target, deliver, is_array, spell_path, walked
from lowerbound.cli.progress import SILENT, Voice
from lowerbound.cli.result import Remarks, Result
from lowerbound.columns.arrow import missing
from lowerbound.files.data import Data as Given
from lowerbound.files.pictures.columns import holds_pixels, pixels_of
from lowerbound.files.pictures.ranges import range_of

if TYPE_CHECKING:
    from lowerbound.tasks.trained import Model


def impute(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    draws: Number | None = None,
    seed: Number = 0,
    rename: Renames = (),
    on_bad_file: Policy = None,
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Fill in missing values, given the other values of the row; known values stay as they are.

    A column keeps its type unless the type cannot hold the new values: integers become floats
    if the training data had fractions.

    Examples:
        lowerbound impute fraud.vae gaps.csv --out full.csv
        lowerbound impute fraud.vae gaps.csv --out five.parquet --draws 5

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows with missing values: a file, a folder or a "pattern*".
        out: where to write the completed rows: .csv, .tsv, .parquet or .npy.
        draws: instead of the expected value, write this many random completions (multiple
            imputation) below each other, with a column `draw`; a table of more than 65,536 rows
            is completed part by part. Arrays of pictures get a first axis of draws instead.
        seed: the random seed of the draws.
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        voice: receives the progress.
    """
    clock, target = Clock(), check_table_target(out, overwrite, data)
    if draws is not None:
        draws = parsing.at_least(draws, 1, "--draws")
    seed = parsing.at_least(seed, 0, "--seed")
    trained = load(model)
    # Draws of an array are stacked, so that the array must be in memory.
    opened = open_for if _stacked(trained, target, draws) else walk_for
    given = opened(trained, data, rename, on_bad_file)
    made = _Filled(trained, given, draws)
    delivered, path = _delivered(
        trained, given, made.tables(seed, voice), target, draws, overwrite
    )
    facts = {
        "rows": given.rows,
        "draws": draws,
        "filled": made.filled,
        "left": made.left,
        "seconds": clock(),
        **made.remarks.facts,
    }
    lines = [f"{made.filled:,} missing values filled in {given.rows:,} rows, {clock():.1f} s"]
    if made.left:
        lines.append(
            f"{made.left:,} stay missing, in columns that are not modelled (ids, free text)"
        )
    return Result(
        facts,
        table=delivered,
        lines=lines,
        notes=made.remarks.lines,
        path=path,
        next=f"lowerbound inspect {spell_path(path, 'full.csv')}",
    )


class _Filled:
    """Completed rows, part by part, and the number of values filled in.

    Args:
        trained: the model.
        given: the rows.
        draws: the number of random completions, or None for the expected values.

    Attributes:
        filled: the number of missing values that were filled in.
        left: the number that stay missing.
        remarks: notes and counts from reading and coding.
    """

    def __init__(self, trained: Model, given: Given, draws: int | None) -> None:
        self.trained, self.given, self.draws = trained, given, draws
        self.filled = self.left = 0
        self.remarks = Remarks(given)

    def tables(self, seed: int, voice: Voice) -> Iterator[pa.Table]:
        """Yield the completed rows of every part."""
        for frame, coded in walked(self.given, self.trained, voice, whole=True):
            table = self.trained.impute_coded(frame, coded, draws=self.draws, seed=seed)
            self.remarks.add(coded)
            self.filled += sum(coded.missing.values())
            self.left += _gaps(table) // (self.draws or 1)
            yield table


def _delivered(
    trained: Model,
    given: Given,
    tables: Iterable[pa.Table],
    target: Path | None,
    draws: int | None,
    overwrite: bool,
) -> tuple[Any, Path | None]:
    """Write completed rows; for arrays of pictures, draws are the first axis."""
    shape = trained.coding.shape
    if _stacked(trained, target, draws):
        table = pa.concat_tables(tables)
        cells = [table.drop_columns("draw")]
        return table, deliver(given, cells, target, overwrite, (given.rows, *shape))[1]
    return deliver(given, tables, target, overwrite, shape)


def _stacked(trained: Model, target: Path | None, draws: int | None) -> bool:
    return bool(trained.coding.shape and draws and is_array(target))


def _gaps(table: pa.Table) -> int:
    """Return the number of missing values."""
    if holds_pixels(table):
        return range_of(pixels_of(table, ())).missing
    return sum(int(missing(column).to_numpy().sum()) for column in table.columns)
