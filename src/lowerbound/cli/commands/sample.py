"""Verbs that make cells: sample makes whole rows, impute fills gaps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lowerbound.cli import parsing
from lowerbound.cli.commands.score import load, places
from lowerbound.cli.flags import Data, Heard, Model, Number, Out, Policy, Renames, Rows, Where
from lowerbound.cli.inputs import open_for, walk_for
from lowerbound.cli.outputs import Clock, check_table_target, deliver, is_array, spell_path, walked
from lowerbound.cli.progress import SILENT, Voice
from lowerbound.cli.result import Remarks, Result
from lowerbound.columns.arrow import missing
from lowerbound.errors import UsageError
from lowerbound.files.pictures.columns import holds_pixels, pixels_of
from lowerbound.files.pictures.ranges import range_of
from lowerbound.files.read import Frame, Stream

if TYPE_CHECKING:
    from lowerbound.files.stream import Given
    from lowerbound.tasks.trained import Trained

_MOST_CELLS = 10**9  # of a sample: 8 GB of float64


def sample(  # noqa: PLR0913 - a verb's arguments are its flags
    model: Model,
    /,
    *,
    n: Rows = 1000,
    out: Out = None,
    where: Where = (),
    temperature: float = 1.0,
    top_k: Number | None = None,
    seed: Number = 0,
    overwrite: bool = False,
) -> Result:
    """Draw new rows: every cell from the distribution that the model learned for it.

    Examples:
        lowerbound sample fraud.vae -n 1000 --out samples.csv
        lowerbound sample fraud.vae -n 200 --out fr.csv --where country=FR
        lowerbound sample photos.vae -n 64 --out grid.png

    Args:
        model: a folder that `lowerbound fit` saved.
        n: how many rows.
        out: where to write them: .csv, .tsv, .parquet or .npy; pictures also as a grid, .png, or
            as a folder of PNG files, such as pictures/.
        where: a value that a column must have; repeat it for more columns.
        temperature: 1 is the model's own variety, less is tamer, more is wilder.
        top_k: of vqvae and vqvae2: draw each code from this many of the likeliest only.
        seed: another one gives other rows.
        overwrite: replace an earlier output.
    """
    clock, target = Clock(), places().check_picture_target(out, overwrite)
    if not 0 < temperature < float("inf"):
        message = f"--temperature must be above 0 and finite, got {temperature}"
        raise UsageError("E240", message, fix="--temperature 0.8")
    given = parsing.pairs(where, "--where", "country=FR")
    top_k = None if top_k is None else parsing.at_least(top_k, 1, "--top-k")
    for flag, used in [("--temperature", temperature != 1.0), ("--top-k", top_k is not None)]:
        if given and used:
            raise UsageError(
                "E236", f"--where and {flag} cannot be combined", fix="leave one of them out"
            )
    n = parsing.at_least(n, 1, "-n")
    seed = parsing.at_least(seed, 0, "--seed")
    trained = load(model)
    width = math.prod(trained.coding.shape) or len(trained.coding.groups)
    if n * width > _MOST_CELLS:
        raise UsageError(
            "E240",
            f"-n must be at most {_MOST_CELLS // width:,} for {width:,} columns (8 GB), got {n:,}",
            fix=f"-n {_MOST_CELLS // width}, several times with another --seed",
        )
    typed = {name: _cell(trained, name, value) for name, value in given.items()}
    drawn = trained.samples(
        n, seed=seed, temperature=temperature, top_k=top_k, where=typed or None
    )
    delivered, path = target.deliver(trained, None, [drawn.table], overwrite)
    effective = drawn.effective_samples
    lines = [f"{n:,} rows drawn, {clock():.1f} s"]
    notes = []
    if effective is not None:
        lines.append(
            f"given {', '.join(f'{k} = {v}' for k, v in typed.items())}: "
            f"worth {effective:,.0f} independent draws"
        )
        if effective < 0.1 * n:
            notes.append("the condition is rare under the model: many rows resemble each other")
    after = f"lowerbound inspect {spell_path(path, 'samples.csv')}"
    if trained.coding.shape:
        notes.append("every pixel is drawn, its noise too; plot shows what is expected")
        after = f"lowerbound plot {spell_path(model, 'M.vae')} samples --out samples.png"
    return Result(
        {"rows": n, "given": typed, "effective_samples": effective, "seconds": clock()},
        table=delivered,
        lines=lines,
        notes=notes,
        path=path,
        next=after,
    )


def _cell(trained: Trained, name: str, value: Any) -> Any:
    """Read a value of --where as the column's own type."""
    schema = trained.coding.document().get("schema", {})
    types = {column["name"]: column["dtype"] for column in schema.get("columns", ())}
    dtype = types.get(name, "int64" if not schema else "")
    if not isinstance(value, str) or not dtype.startswith(
        ("int", "uint", "float", "double", "bool")
    ):
        return value
    try:
        return bool(_TRUTH[value.lower()]) if dtype == "bool" else json.loads(value)
    except (KeyError, ValueError):
        raise parsing.refusal(
            f"--where {name}", value, f"of the column's type, {dtype}", f"--where {name}=1"
        ) from None


_TRUTH = {"true": 1, "1": 1, "yes": 1, "false": 0, "0": 0, "no": 0}


def impute(  # noqa: PLR0913 - a verb's arguments are its flags
    model: Model,
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
    """Fill in missing cells from what the row's other cells tell; observed cells stay as they are.

    A column keeps its type unless that cannot hold what is filled in: whole numbers become
    fractions where training saw fractions.

    Examples:
        lowerbound impute fraud.vae gaps.csv --out full.csv
        lowerbound impute fraud.vae gaps.csv --out five.parquet --draws 5

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows with missing cells: a file, a folder or a "pattern*".
        out: where to write the completed rows: .csv, .tsv, .parquet or .npy.
        draws: instead of the expected value, this many random completions, one under the other,
            told apart by the column `draw` (multiple imputation); of more than 65,536 rows these
            for each part of the table; arrays of pictures get a first axis of draws instead.
        seed: of the draws.
        rename: give a column of the data the name that the model knows; repeat it for more.
        on_bad_file: skip or fail, of unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        voice: hears how it goes; in Python nobody does.
    """
    clock, target = Clock(), check_table_target(out, overwrite, data)
    if draws is not None:
        draws = parsing.at_least(draws, 1, "--draws")
    seed = parsing.at_least(seed, 0, "--seed")
    trained = load(model)
    # Copies of an array stand one under the other: for these it is held.
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
    lines = [f"{made.filled:,} missing cells filled in {given.rows:,} rows, {clock():.1f} s"]
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
    """Completed rows, part by part, and how many of their gaps were filled.

    Args:
        trained: the model.
        given: the rows.
        draws: copies of each part; None for one.

    Attributes:
        filled: missing cells that have a value now.
        left: those that have none.
        remarks: what reading and coding came across.
    """

    def __init__(self, trained: Trained, given: Given, draws: int | None) -> None:
        self.trained, self.given, self.draws = trained, given, draws
        self.filled = self.left = 0
        self.remarks = Remarks(given.notes)

    def tables(self, seed: int, voice: Voice) -> Iterator[pa.Table]:
        """Yield the completed rows of every part."""
        for frame, coded in walked(self.given, self.trained, voice, whole=True):
            table = self.trained.impute_coded(frame, coded, draws=self.draws, seed=seed)
            self.remarks.add(coded)
            self.filled += sum(coded.missing.values())
            self.left += _gaps(table) // (self.draws or 1)
            yield table


def _delivered(
    trained: Trained,
    given: Frame | Stream,
    tables: Iterable[pa.Table],
    target: Path | None,
    draws: int | None,
    overwrite: bool,
) -> tuple[Any, Path | None]:
    """Write completed rows; of pictures as an array, draws are an axis and no cell."""
    shape = trained.coding.shape
    if _stacked(trained, target, draws):
        table = pa.concat_tables(tables)
        cells = [table.drop_columns("draw")]
        return table, deliver(given, cells, target, overwrite, (given.rows, *shape))[1]
    return deliver(given, tables, target, overwrite, shape)


def _stacked(trained: Trained, target: Path | None, draws: int | None) -> bool:
    return bool(trained.coding.shape and draws and is_array(target))


def _gaps(table: pa.Table) -> int:
    """Count the missing cells."""
    if holds_pixels(table):
        return range_of(pixels_of(table, ())).missing
    return sum(int(missing(column).to_numpy().sum()) for column in table.columns)
