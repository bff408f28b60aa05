"""The coding of counts, as of single cells: counts, library size and batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from lowerbound.coding.base import Coded, Conditions, Group, table_of
from lowerbound.coding.filling import filled
from lowerbound.coding.rows import Sparse
from lowerbound.columns.arrow import (
    MISSING_TEXT,
    Levels,
    computable,
    declared,
    floats,
    is_number,
    levels,
    listed,
    plain,
    spell,
)
from lowerbound.columns.categories import Category
from lowerbound.columns.levels import Known
from lowerbound.columns.numbers import Count, Numeric
from lowerbound.columns.schema import matched, no_column
from lowerbound.errors import DataError, UsageError, each_of, nearest
from lowerbound.files.data import Matrix, Whole
from lowerbound.files.pictures.options import ANY, Wanted
from lowerbound.noise import derive

ABSENT = 0.1  # share of the model's genes that may be missing from new cells, and are taken as 0
KIND = "batch"  # the kind of the column with the experiment that each row is from
TOTAL = "total"  # the name of the row's total in conditions of samples
DEPTHS = 4096  # totals that a model keeps, of all batches together
MOST = 2**24  # largest count that float32 holds exactly with all smaller ones
_LEAST_DEPTHS = 16  # of each batch


@dataclass(frozen=True)
class CountsCoding:
    """The coding of the recipe `counts`: raw counts, and log library size as context.

    Args:
        names: the columns (genes), in the model's order.
        batch: the column with the experiment that each row is from, or "".
        batches: the values of that column, with the number of rows of each.
        dtype: the Arrow type of that column, as text.
        depths: totals of training rows by batch ("" without batches), evenly spaced among all of
            the batch in increasing order; None for models of older versions.
    """

    names: tuple[str, ...]
    batch: str = ""
    batches: Mapping[str, int] | None = None
    dtype: str = "string"
    depths: Mapping[str, Sequence[int]] | None = None

    @classmethod
    def fit(
        cls, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> CountsCoding:
        """Take every column of `frame` that is not dropped, and check that it holds counts.

        Raises:
            UsageError: E249 for `types` other than one batch column.
            DataError: E031 where that is missing, E033 where it has no value, and as `encode`.
        """
        coding = cls.seen([frame], frame.names, types=types, drop=drop)
        context = coding.encode(frame).rows.take(torch.arange(frame.rows)).context
        return coding if context is None else coding.with_depths(context)

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
            DataError: E031 where that is missing, E033 where it has no value.
        """
        batch, counts, dtype = _chosen(types), Counter[str](), "string"
        for part in parts if batch else ():
            dtype = str(declared(_annotation(part, batch, ()).type))
            codes, words = _batches_of(part, batch, ())
            rows = np.bincount(codes[codes >= 0], minlength=len(words)).tolist()
            counts.update(dict(zip(words, rows, strict=True)))
        known = {name: counts[name] for name in sorted(filter(_is_value, counts)) if counts[name]}
        if batch and not known:
            raise DataError(
                "E033",
                f"column {batch!r} cannot be the batch: no row has a value",
                fix="choose another column: --types COLUMN=batch, or leave it out",
                column=batch,
            )
        left = {*matched(drop, names, "drop"), batch}
        return cls(
            tuple(n for n in names if n not in left), batch, known if batch else None, dtype
        )

    def with_depths(self, context: Tensor) -> CountsCoding:
        """Return the coding with the totals of training rows, to draw rows of such totals.

        Args:
            context: (n, 1 + batches) of the training rows, as `encode` gives it.
        """
        totals = np.rint(np.exp(context[:, 0].double().numpy())).astype(np.int64)
        share, batch = context[:, 1:].max(1) if self.batches else (None, None)
        depths, each = {}, max(DEPTHS // len(self._batches), _LEAST_DEPTHS)
        for code, name in enumerate(self._batches):
            own = totals if batch is None else totals[((batch == code) & (share == 1)).numpy()]
            depths[name] = tuple(_spaced(np.sort(own), each).tolist())
        return replace(self, depths=depths)

    @property
    def _batches(self) -> Mapping[str, int]:
        """The batches with their numbers of rows; one without a name where there are none."""
        return self.batches or {"": 1}

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> CountsCoding:
        """Rebuild a coding from its `document`."""
        names = tuple(document["names"])
        depths = document.get("depths")
        return cls(
            names,
            document.get("batch", ""),
            document.get("batches"),
            document.get("dtype", "string"),
            depths and {batch: tuple(map(int, own)) for batch, own in depths.items()},
        )

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
        known = Known(list(self.batches), pa.string())
        places, words = _batches_of(frame, self.batch, self.names)
        codes = torch.tensor([*known.find(words, pa.string()), -1])[torch.tensor(places)]
        usual = torch.tensor(list(self.batches.values()), dtype=torch.float32)
        rows = torch.cat([torch.eye(len(self.batches)), (usual / usual.sum())[None]])
        return rows[codes], int((codes < 0).sum())

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Return drawn counts as integer columns."""
        whole = np.rint(np.asarray(values, np.float64)).astype(np.int64)
        return pa.table({name: whole[:, i] for i, name in enumerate(self.names)})

    def means(self, values: NDArray[np.floating]) -> pa.Table:
        """Return means as columns of floats, whose sum is the total of the row."""
        wide = np.asarray(values, np.float64)
        return pa.table({name: wide[:, i] for i, name in enumerate(self.names)})

    def drawn(self, values: NDArray[np.floating], context: Tensor | None) -> pa.Table:
        """Return drawn rows as the batch, if the model knows batches, and integer columns."""
        table = self.decode(values, bounded=True)
        if context is None or not self.batches:
            return table
        codes = context[:, 1:].argmax(1).numpy()
        return table.add_column(0, self.batch, spell(codes, list(self.batches), self.dtype))

    def contexts(self, n: int, seed: int, given: Conditions | None = None) -> Tensor | None:
        """Return contexts of rows to draw: pairs of batch and total, as training had them.

        Args:
            n: number of rows.
            seed: seed of the draws.
            given: conditions on the batch and the total.

        Returns:
            (n, 1 + batches): log total and one-hot batch; None for models of older versions.
        """
        if self.depths is None:
            return None
        draws = np.random.default_rng(derive("contexts", seed))
        total, batch = (None, None) if given is None else given.context
        least = 0.0 if given is None else float(given.row.nansum())
        names, rows = list(self._batches), np.zeros(len(self._batches))
        known = [np.asarray(self.depths[name], np.int64) for name in names]
        for code, depths in enumerate(known):
            if len(depths) and batch in (None, code):
                share = _near(depths, total) if total else (depths >= least).mean()
                rows[code] = self._batches[names[code]] * share
        if not rows.any():
            raise DataError(
                "E074",
                f"the counts that are given add up to {least:,.0f}, and no row of the training "
                "data had such a total",
                fix="give smaller counts",
            )
        codes = draws.choice(len(names), n, p=rows / rows.sum())
        place, totals = draws.random(n), np.full(n, total or 0)
        for code, depths in enumerate(known if total is None else ()):
            own, fitting = codes == code, depths[depths >= least]
            totals[own] = fitting[(place[own] * len(fitting)).astype(int)]
        logs = torch.from_numpy(np.log(np.maximum(totals, 1.0)).astype(np.float32))[:, None]
        shares = torch.eye(len(names))[torch.from_numpy(codes)]
        return torch.cat([logs, shares], 1) if self.batches else logs

    def asked(self, where: Mapping[str, object]) -> Conditions:
        """Return counts, a batch and a total as conditions of samples.

        The total is called "total", unless a gene has that name.

        Raises:
            LowerboundError: E243 for an unknown column, E245 for a missing value, E032 and E035
                for values that are no counts, E074 for a batch or total that training has not
                seen; E233 for several of them.
        """
        places = {name: i for i, name in enumerate(self.names)}
        row, cells = torch.full((len(places),), torch.nan), {}
        context: list[int | None] = [None, None]

        def take(name: str) -> None:
            if name in places:
                found = Count(name=name, kind="count", dtype="int64", high=MOST).asked(where[name])
                row[places[name]], cells[name] = float(found.codes[0]), found.cell
            elif self.depths is not None and name == self.batch:
                context[1], cells[name] = self._asked_batch(where[name])
            elif self.depths is not None and name == TOTAL:
                context[0] = self._asked_total(where[name])
            else:
                extra = [] if self.depths is None else [TOTAL, *filter(None, [self.batch])]
                raise no_column(name, [*extra, *places])

        each_of(where, take, "conditions")
        self._check_total(context[0], context[1], float(row.nansum()))
        return Conditions(row, cells, (), (context[0], context[1]))

    def _check_total(self, total: int | None, batch: int | None, given: float) -> None:
        """Refuse a total that rows of the batch do not have, or that is below the given counts."""
        if total is None or self.depths is None:
            return
        if batch is not None:
            name = list(self._batches)[batch]
            own = self.depths[name]
            if not own or not min(own) <= total <= max(own):
                seen = f"go from {min(own):,} to {max(own):,}" if own else "are not known"
                raise DataError(
                    "E074",
                    f"the training data did not contain a total of {total:,} in the batch "
                    f"{name!r}: its totals {seen}",
                    fix="leave out the total or the batch",
                )
        if given > total:
            raise DataError(
                "E074",
                f"the counts that are given add up to {given:,.0f}, more than the total {total:,}",
                fix="give a larger total, or smaller counts",
            )

    def _asked_batch(self, value: object) -> tuple[int, pa.Array]:
        assert self.batches, "the name of a batch column is not empty"
        column = Category(
            name=self.batch,
            kind="categorical",
            dtype=self.dtype,
            levels=tuple(self.batches),
            counts=tuple(self.batches.values()),
        )
        found = column.asked(value)
        return int(found.codes[0]) - 1, found.cell

    def _asked_total(self, value: object) -> int:
        seen = [depth for own in (self.depths or {}).values() for depth in own]
        column = Numeric(
            name=TOTAL,
            kind="real",
            dtype="int64",
            mean=0.0,
            std=1.0,
            low=min(seen),
            high=max(seen),
            whole=True,
        )
        return int(column.asked(value).cell[0].as_py())

    def filled(self, frame: Whole, values: NDArray[np.floating]) -> pa.Table:
        """Return the rows of `frame` with missing values replaced by the decoded `values`."""
        return filled(table_of(frame), self.decode(values))

    def document(self) -> dict[str, Any]:
        """Return the columns' names, and the batches."""
        document: dict[str, Any] = {"coding": "counts", "names": list(self.names)}
        if self.batches:
            document |= {"batch": self.batch, "batches": dict(self.batches), "dtype": self.dtype}
        if self.depths is not None:
            document["depths"] = {batch: list(own) for batch, own in self.depths.items()}
        return document


@singledispatch
def _columns(frame: Whole, places: Sequence[int]) -> Any:
    """Return the columns at these positions as one matrix, dense or sparse."""
    table = table_of(frame)
    return np.column_stack([_numbers(table.column(i), table.column_names[i]) for i in places])


def _numbers(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    """Return the values of a column of counts, NaN where missing."""
    if is_number(column.type):
        return np.asarray(column.to_numpy(), np.float64)
    try:
        return floats(plain(column), name)
    except DataError as error:
        raise DataError(
            "E073",
            f"column {name!r} does not hold counts: {error.message}",
            fix=f"leave it out: --drop {name}, or give it as the batch: --types {name}=batch",
            column=name,
        ) from error


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


def _spaced(ordered: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` of sorted numbers, evenly spaced in rank."""
    if len(ordered) <= most:
        return ordered
    return ordered[((np.arange(most) + 0.5) * len(ordered) / most).astype(int)]


def _near(depths: NDArray[np.int64], total: int) -> float:
    """Return the density of log totals near one, by a kernel estimate that vanishes nowhere."""
    logs = np.log(np.maximum(depths, 1))
    width = 1.06 * logs.std() * len(logs) ** -0.2 + 0.02
    far = np.minimum(0.5 * ((np.log(total) - logs) / width) ** 2, 600.0)
    return float(np.exp(-far).mean() / width)


def _annotation(frame: Whole, name: str, genes: Sequence[str]) -> pa.ChunkedArray:
    """Return an annotation of the rows; `genes` are not proposed in its place."""
    table = frame.annotations
    if name not in table.column_names:
        raise _missing(name, frame, [n for n in table.column_names if n not in {*genes}])
    return table[name]


def _batches_of(frame: Whole, name: str, genes: Sequence[str]) -> Levels:
    """Return the values of an annotation as text, and the code of each row."""
    column = computable(_annotation(frame, name, genes))
    if pa.types.is_dictionary(column.type):
        kind = column.type.value_type
        parts = [chunk.dictionary_decode() for chunk in column.chunks]
        column = computable(pa.chunked_array(parts, kind))
    return levels(pa.concat_arrays(column.chunks or [pa.array([], column.type)]), name)


def _is_value(word: str | None) -> bool:
    """Return whether a text is the name of a batch: not one of the words for missing values."""
    return word is not None and word.strip() not in MISSING_TEXT


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
