"""Choose the genes to model: by name, by a column of `var`, or the most variable ones."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lowerbound.columns.arrow import listed, place
from lowerbound.errors import DataError, ResourceError, UsageError, nearest
from lowerbound.files import anndata
from lowerbound.files.data import Data, Matrix
from lowerbound.files.paths import kind_by_suffix

VARIABLE = "hvg:"  # and the number of genes


def of_genes(
    given: Data, data: object, genes: str | Sequence[str], keep: Collection[str] = ()
) -> Data:
    """Return rows with the chosen genes alone; the total of a row is then that of these genes.

    Args:
        given: the rows.
        data: what they were read from, whose `var` may mark genes.
        genes: "hvg:N" for the N most variable genes by scanpy, the name of a truth-valued column
            of `var`, the path of a file with a name on each line, or names.
        keep: columns that stay as well, such as the batch in a table.

    Raises:
        DataError: E045 for a gene or a column of `var` that is not there, or a file without names.
        UsageError: E240 for a number of variable genes out of range, E236 for those of a table.
        ResourceError: E310 for variable genes without scanpy.
    """
    words = [genes] if isinstance(genes, str) else list(map(str, genes))
    chosen = _named(given, data, words[0]) if len(words) == 1 else None
    names = _spread(words) if chosen is None else chosen
    known = dict.fromkeys(given.names)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        near = nearest(unknown[0], list(known)) if unknown else None
        raise DataError(
            "E045",
            f"{len(unknown):,} of {len(names):,} genes are not in {given.origin}: "
            f"{listed(unknown)}",
            fix=f"did you mean {near!r}?" if near else "give genes that the data have",
            genes=unknown,
        )
    wanted = {*names, *keep}
    return given.selected([name for name in given.names if name in wanted])


def _named(given: Data, data: object, word: str) -> list[str] | None:
    """Return the genes of a rule, a column of `var` or a file; None for names."""
    if word.startswith(VARIABLE):
        return _variable(given, word.removeprefix(VARIABLE))
    if word in given.names:
        return None
    path = Path(word)
    if path.is_file():
        return _listed(path)
    objects = anndata.is_anndata(data) or anndata.is_mudata(data)
    named = isinstance(data, str | os.PathLike)
    if objects or (named and kind_by_suffix(Path(os.fsdecode(data))) == "cells"):
        return None if "," in word else anndata.marked(data, word)
    return None


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except ValueError:
        lines = []
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise DataError(
            "E045", f"{place(path)} names no genes", fix="write one name on each line, as UTF-8"
        )
    return names


def _spread(words: Sequence[str]) -> list[str]:
    names = (part.strip() for word in words for part in word.split(","))
    return list(dict.fromkeys(name for name in names if name))


def _variable(given: Data, number: str) -> list[str]:
    """Return the most variable genes of log-normalised counts, by scanpy."""
    if not number.isdecimal() or not 0 < int(number) <= len(given.names):
        raise UsageError(
            "E240",
            f"--genes {VARIABLE}{number} must name a number of genes from 1 to "
            f"{len(given.names):,}, those of {given.origin}",
            fix=f"--genes {VARIABLE}{min(2000, len(given.names))}",
        )
    scanpy, whole = _scanpy(), given.whole()
    if not isinstance(whole, Matrix):
        raise UsageError(
            "E236",
            f"{given.origin} is a table: the most variable genes are computed of an AnnData",
            fix="--genes FILE, with one name on each line",
        )
    cells = scanpy.AnnData(whole.matrix.astype("float32"))
    cells.var_names = list(whole.columns)
    scanpy.pp.normalize_total(cells, target_sum=1e4)
    scanpy.pp.log1p(cells)
    scanpy.pp.highly_variable_genes(cells, n_top_genes=int(number))
    kept = cells.var["highly_variable"].to_numpy()
    return [name for name, chosen in zip(whole.columns, kept, strict=True) if chosen]


def _scanpy() -> Any:
    try:
        import scanpy  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ResourceError(
            "E310",
            "the most variable genes are computed by scanpy, which is not installed",
            fix="pip install scanpy, or --genes FILE with one name on each line",
        ) from error
    return scanpy
