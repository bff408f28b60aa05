"""Normalised expression of cells: a table, or layers of a copy of an .h5ad file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from numpy.typing import NDArray

from lowerbound.cli import parsing
from lowerbound.cli.models import ids_of, load
from lowerbound.cli.outputs import (
    Clock,
    check_embedding_target,
    deliver,
    is_array,
    is_cells,
    spell_path,
    walked,
    with_ids,
)
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Remarks, Result
from lowerbound.coding.rows import subset
from lowerbound.errors import DataError
from lowerbound.files import anndata
from lowerbound.files.data import Data, Whole
from lowerbound.files.write import atomic_write
from lowerbound.tasks.expression import At
from lowerbound.tasks.expression import expression as rates_of
from lowerbound.tasks.finite import finite
from lowerbound.tasks.trained import LIBRARY, Model

LAYERS: tuple[str, ...] = ("expression", "expression_sd")
_VALUES = 1 << 22  # rates that are held at a time


def expression(
    given: tuple[Any, Any],
    asked: Mapping[str, Any],
    output: tuple[Any, bool],
    opened: Callable[[Model], Data],
    voice: Voice,
) -> Result:
    """Write normalised expression.

    Args:
        given: the model and the cells, as they were given.
        asked: the flags of expression that were given.
        output: where to write, and whether to replace an earlier output.
        opened: opens the cells for the model.
        voice: receives the progress.
    """
    clock, (out, overwrite), data = Clock(), output, given[1]
    target = check_embedding_target(out, overwrite, data)
    draws = parsing.at_least(asked.get("draws", 25), 1, "--draws")
    seed = parsing.at_least(asked.get("seed", 0), 0, "--seed")
    trained = load(given[0])
    batch = levels_of(trained, asked.get("batch", ()))
    genes = names_in(asked.get("genes", ()))
    at = trained.decoded_at(batch, _library(asked.get("library")), genes)
    cells, remarks = opened(trained), Remarks()
    remarks.notes |= dict.fromkeys(cells.notes)
    names = [trained.counts_coding.names[place] for place in at.genes or ()]
    blocks = _blocks(trained, cells, (at, draws, seed), remarks, voice)
    if target is not None and is_cells(target):
        layers = (dict(zip(LAYERS, rates, strict=True)) for _, rates in blocks)
        write = anndata.with_layers(Path(data), names, layers)
        need = Path(data).stat().st_size + 8 * cells.rows * len(names)
        delivered, path = None, atomic_write(target, write, overwrite, need=need)
    else:
        tables = (_table(trained, names, block, is_array(target)) for block in blocks)
        delivered, path = deliver(cells, tables, target, overwrite)
    own = "each in its own batch" if batch is None else f"at {_told(at)}"
    facts = {"rows": cells.rows, "genes": len(names), "draws": draws, "library": at.library}
    return Result(
        {**facts, "seconds": clock(), **remarks.facts},
        table=delivered,
        lines=[f"{cells.rows:,} cells x {len(names):,} genes, {own}, {clock():.1f} s"],
        notes=remarks.lines,
        path=path,
        next=f"lowerbound differential {spell_path(given[0], 'M.vae')} {spell_path(data)} "
        "--groupby COLUMN --group LEVEL --out genes.csv",
    )


def levels_of(trained: Model, batch: Mapping[str, Any] | Sequence[str] | str) -> Any:
    """Read --batch: a level of the only batch, or COLUMN=LEVEL for each of several."""
    if isinstance(batch, Mapping) or not batch:
        return batch or None
    words = [batch] if isinstance(batch, str) else list(batch)
    names = trained.counts_coding.covariates.names
    if all(word.partition("=")[0] in names and "=" in word for word in words):
        return parsing.pairs(words, "--batch", "donor=a")
    return words[0] if len(words) == 1 else parsing.pairs(words, "--batch", "donor=a")


def names_in(words: Sequence[str]) -> list[str] | None:
    """Read --genes: names, lists of names with commas, or files with a name on each line.

    Raises:
        DataError: E004 for a file without names.
    """
    names: list[str] = []
    for word in [words] if isinstance(words, str) else words:
        path = Path(word)
        if path.is_file():
            found = [line.strip() for line in path.read_text("utf-8").splitlines()]
            found = [line for line in found if line]
            if not found:
                raise DataError("E004", f"{path} names no gene", fix="one name on each line")
            names += found
        else:
            names += [part.strip() for part in word.split(",") if part.strip()]
    return list(dict.fromkeys(names)) or None


def _library(value: Any) -> float | None:
    if value is None:
        return LIBRARY
    return None if value == "own" else parsing.number(value, "--library")


def _told(at: At) -> str:
    values = at.covariates.imposed(torch.zeros(1, at.covariates.width), at.given)
    given = at.covariates.decode(values)
    return ", ".join(f"{name} = {given[name][0].as_py()}" for name in at.given)


Block = tuple[Whole, list[NDArray[Any]]]  # a few cells, the means and the standard deviations


def _blocks(
    trained: Model, cells: Data, how: tuple[At, int, int], remarks: Remarks, voice: Voice
) -> Iterator[Block]:
    """Yield the rates of a few cells at a time, so that memory does not grow with their number."""
    at, draws, seed = how
    size = max(1, _VALUES // len(trained.counts_coding.names))
    for frame, coded in walked(cells, trained, voice):
        remarks.add(coded)
        for start in range(0, frame.rows, size):
            stop = min(start + size, frame.rows)
            some = subset(coded.rows, torch.arange(start, stop))
            rates = rates_of(trained.model, some, at, draws=draws, seed=seed)
            yield (
                frame.cut(slice(start, stop)),
                [finite(each.numpy(), "rates") for each in rates],
            )


def _table(trained: Model, names: Sequence[str], block: Block, plain: bool) -> pa.Table:
    """Return the means and then the standard deviations of all genes."""
    frame, (mean, sd) = block
    columns = dict(zip(names, mean.T, strict=True))
    columns |= dict(zip([f"{name}_sd" for name in names], sd.T, strict=True))
    table = pa.table(columns)
    return table if plain else with_ids(frame, ids_of(trained), table)
