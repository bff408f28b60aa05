"""The coding of counts, as of single cells: counts, library size and batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from lowerbound.coding.base import Coded, Group, table_of
from lowerbound.coding.filling import filled
from lowerbound.coding.rows import Sparse
from lowerbound.columns.arrow import listed, pc
from lowerbound.columns.schema import matched
from lowerbound.errors import DataError, UsageError, nearest
from lowerbound.files.data import Matrix, Whole
from lowerbound.files.pictures.options import ANY, Wanted

ABSENT = 0.1  # share of the model's genes that may be missing from new cells, and are taken as 0
KIND = "batch"  # the kind of the column with the experiment that each row is from


@dataclass(frozen=True)
class CountsCoding:
    """The coding of the recipe `counts`: raw counts, and log library size as context.

    Args:
        names: the columns (genes), in the model's order.
        batch: the column with the experiment that each row is from, or "".
        batches: the values of that column, with the number of rows of each.
    """

    names: tuple[str, ...]
    batch: str = ""
    batches: Mapping[str, int] | None = None

    @classmethod
    def fit(
        cls, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> CountsCoding:
        """Take every column of `frame` that is not dropped, and check that it holds counts.

        Raises:
            UsageError: E249 for `types` other than one batch column.
            DataError: E031 where that is missing, and as `encode`.
        """
        coding = cls.seen([frame], frame.names, types=types, drop=drop)
        coding.encode(frame)
        return coding

    @classmethod
    def seen(
        cls,
        parts: Iterable[Whole],
        names: Sequence[str],
        *,
        types: Mapping[str, str],
        drop: Sequence[str],
    ) -> CountsCoding:
        """Return the coding of all columns that are not dropped, reading only the batches.

        Args:
            parts: the rows.
            names: of the columns.
            types: the declared kinds of columns, at most one of which is the batch.
            drop: names to leave out.

        Raises:
            UsageError: E249 for `types` other than one batch column, E203 for an unknown name.
            DataError: E031 where that is missing.
        """
        batch, counts = _chosen(types), Counter[str]()
        for part in parts if batch else ():
            found = pc.value_counts(_texts(part, batch, ())).to_pylist()
            counts.update({pair["values"]: pair["counts"] for pair in found})
        known = {name: counts[name] for name in sorted(n for n in counts if n is not None)}
        left = {*matched(drop, names, "drop"), batch}
        return cls(tuple(n for n in names if n not in left), batch, known if batch else None)

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> CountsCoding:
        """Rebuild a coding from its `document`."""
        names = tuple(document["names"])
        return cls(names, document.get("batch", ""), document.get("batches"))

    @property
    def shape(self) -> tuple[int, ...]:
        """(): rows are not images."""
        return ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The columns, one part each."""
        return tuple(Group(name, (i,)) for i, name in enumerate(self.names))

    @property
    def gaps(self) -> bool:
        """False: counts are never missing."""
        return False

    def arguments(self) -> dict[str, Any]:
        """The number of columns, and of batches where there are any."""
        batches = {"batches": len(self.batches)} if self.batches else {}
        return {"features": len(self.names), **batches}

    def wanted(self) -> Wanted:
        """The defaults: rows are not images."""
        return ANY

    def encode(self, frame: Whole) -> Coded:
        """Return the counts with log library size, and the batch, as context.

        Genes that are missing from `frame`, at most a tenth, are taken as 0 and counted in a note.

        Raises:
            DataError: E031 for more missing columns, E073 for values that are no counts.
        """
        place = {name: i for i, name in enumerate(frame.names)}
        there = np.array([name in place for name in self.names], dtype=bool)
        notes = () if there.all() else (self._absent(there, frame),)
        known = np.flatnonzero(there)
        found = sparse.csr_matrix(
            _columns(frame, [place[self.names[i]] for i in known]), dtype=np.float64
        )
        shape = (frame.rows, len(self.names))
        matrix = sparse.csr_matrix((found.data, known[found.indices], found.indptr), shape=shape)
        _check_counts(matrix, frame, self.names)
        totals = np.asarray(matrix.sum(1)).ravel()
        context = torch.from_numpy(np.log(np.maximum(totals, 1.0)).astype(np.float32))[:, None]
        unseen = {}
        if self.batches:
            shares, unknown = self._shares(frame)
            context = torch.cat([context, shares], 1)
            unseen = {self.batch: unknown} if unknown else {}
        nothing = np.zeros(len(totals))
        return Coded(Sparse(matrix, context), lambda: nothing, nothing, unseen=unseen, notes=notes)

    def _absent(self, there: NDArray[np.bool_], frame: Whole) -> str:
        """Return a note on missing genes, or raise E031 if they are too many."""
        absent = [name for name, is_there in zip(self.names, there, strict=True) if not is_there]
        genes = "genes" if isinstance(frame, Matrix) else "columns"
        message = (
            f"{len(absent):,} of {len(self.names):,} {genes} of the model are missing from "
            f"{frame.origin}"
        )
        if len(absent) <= ABSENT * len(self.names):
            return f"{message}; they are taken as 0: {listed(absent)}"
        raise DataError(
            "E031",
            f"{message}: {listed(absent)}; {frame.origin} has {listed(list(frame.names), 3)}",
            fix=f"give the counts of all {genes} of the model, under the same names; up to "
            f"{ABSENT:.0%} may be missing",
            columns=absent,
            count=len(absent),
        )

    def _shares(self, frame: Whole) -> tuple[Tensor, int]:
        """Return the share of each batch in each row, (n, batches), and the count of unknown ones.

        A row of a batch that training never saw is a little of each, as much as there were rows.
        """
        assert self.batches
        known = pa.array(list(self.batches))
        codes = pc.index_in(_texts(frame, self.batch, self.names), value_set=known).fill_null(-1)
        codes = torch.from_numpy(codes.to_numpy(zero_copy_only=False).astype(np.int64))
        usual = torch.tensor(list(self.batches.values()), dtype=torch.float32)
        rows = torch.cat([torch.eye(len(known)), (usual / usual.sum())[None]])
        return rows[codes], int((codes < 0).sum())

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Return the counts as integer columns."""
        whole = np.rint(np.asarray(values, np.float64)).astype(np.int64)
        return pa.table({name: whole[:, i] for i, name in enumerate(self.names)})

    def filled(self, frame: Whole, values: NDArray[np.floating]) -> pa.Table:
        """Return the rows of `frame` with missing values replaced by the decoded `values`."""
        return filled(table_of(frame), self.decode(values))

    def document(self) -> dict[str, Any]:
        """Return the columns' names, and the batches."""
        batch = {"batch": self.batch, "batches": dict(self.batches)} if self.batches else {}
        return {"coding": "counts", "names": list(self.names), **batch}


@singledispatch
def _columns(frame: Whole, places: Sequence[int]) -> Any:
    """Return the columns at these positions as one matrix, dense or sparse."""
    table = table_of(frame)
    columns = [table.column(i).to_numpy() for i in places]
    return np.column_stack([np.asarray(c, np.float64) for c in columns])


@_columns.register
def _(frame: Matrix, places: Sequence[int]) -> Any:
    return frame.matrix[:, list(places)]


def _chosen(types: Mapping[str, str]) -> str:
    """Return the column of batches, the only column whose kind may be declared."""
    others = {name: kind for name, kind in types.items() if kind != KIND}
    if others or len(types) > 1:
        what = f"not {listed([f'{n}={k}' for n, k in others.items()])}" if others else "only one"
        raise UsageError(
            "E249",
            "--types may name one COLUMN=batch for the recipe counts, whose other columns are all "
            f"counts: {what}",
            fix="--types COLUMN=batch, or leave it out",
        )
    return next(iter(types), "")


def _texts(frame: Whole, name: str, genes: Sequence[str]) -> pa.ChunkedArray:
    """Return an annotation of the rows as text; `genes` are not proposed in its place."""
    table = frame.annotations
    if name not in table.column_names:
        raise _missing(name, frame, [n for n in table.column_names if n not in {*genes}])
    column = table[name]
    plain = column.cast(column.type.value_type) if _coded(column) else column
    return plain.cast(pa.string())


def _coded(column: pa.ChunkedArray) -> bool:
    return pa.types.is_dictionary(column.type)


def _missing(name: str, frame: Whole, known: Sequence[str]) -> DataError:
    near = nearest(name, known)
    return DataError(
        "E031",
        f"column {name!r} is missing from {frame.origin}"
        + (f"; found a similar name: {near!r}" if near else ""),
        # Columns that are not features, such as those of obs, cannot be renamed by a flag.
        fix=f"--rename {near}={name}" if near in frame.names else f"add the column {name!r}",
    )


def _check_counts(matrix: sparse.csr_matrix, frame: Whole, names: Sequence[str]) -> None:
    data = matrix.data
    bad = ~np.isfinite(data) | (data < 0) | (data != np.floor(data))
    if not bad.any():
        return
    first = int(bad.argmax())
    row = int(np.searchsorted(matrix.indptr, first, side="right")) - 1
    looks_logged = np.isfinite(data).all() and data.min() >= 0 and data.max() < 20
    raise DataError(
        "E073",
        f"{frame.origin}: {int(bad.sum())} values are not counts, the first is "
        f"{data[first]:.6g} in row {row}, column {names[matrix.indices[first]]!r}"
        + ("; the values look log-normalised" if looks_logged else ""),
        fix="give the raw counts, or use --recipe table",
    )
