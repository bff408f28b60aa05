"""Stream data that are larger than memory: read, process and write them part by part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar, cast

import numpy as np
import pyarrow as pa

from lowerbound.files import memory
from lowerbound.files.data import Columnar, Data, Table, part_rows
from lowerbound.files.shares import share

_PACKED = 1 << 14  # rows of a sample that are stored together

Part = TypeVar("Part", bound=Columnar)


@dataclass(frozen=True)
class Stream(Data, Generic[Part]):
    """A table or a matrix in files, read anew by every pass over it.

    Attributes:
        columns: the names of the columns.
        length: the number of rows.
        frames: returns the rows in order, part by part; all parts but the last have equally many.
        bytes: the memory that all rows would take.
        typed: whether columns may be of different kinds, see `Table`.
        pieces: the rows of each file, where several files can be read independently.
        narrowed: returns the rows with only the columns at these positions, where the columns of
            a file can be read separately.
    """

    columns: tuple[str, ...]
    length: int
    frames: Callable[[], Iterator[Part]]
    bytes: int = field(default=0, kw_only=True)
    typed: bool = field(default=True, kw_only=True)
    pieces: tuple[Stream[Part], ...] = field(default=(), kw_only=True)
    narrowed: Callable[[Sequence[int]], Stream[Part]] | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.length

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self.columns

    def parts(self) -> Iterator[Part]:
        """Yield the rows in order; all parts but the last have equally many."""
        start = self.start
        for part in self.frames():
            named = part.renamed(self.columns)
            known = {"native": self.native, "origin": self.origin, "total": self.length}
            known["layer"] = self.layer
            yield replace(named, start=start, **known)
            start += part.rows

    def first(self, rows: int | None) -> Columnar:
        """Return the first `rows` rows, of one part at most; None means all."""
        return self.whole() if rows is None else next(self.parts()).first(rows)

    def whole(self) -> Part:
        """Return all rows in memory.

        Raises:
            ResourceError: E303 where they do not fit.
        """
        fix = "choose some of the files with a pattern, or some of the columns"
        memory.require(self.bytes, self.origin, fix)
        return replace(_joined(list(self.parts())), notes=self.notes)

    def drawn(self, most: int, seed: int) -> Iterator[Part]:
        """Yield `most` random rows in their order, part by part: each row is equally likely."""
        rng, left, wanted = np.random.default_rng(seed), self.rows, min(most, self.rows)
        for part in self.parts():
            count = share(rng, wanted, left, part.rows)
            left, wanted = left - part.rows, wanted - count
            if count == part.rows:
                yield part
            elif count:
                yield part.take(np.sort(rng.choice(part.rows, count, replace=False)))

    def sample(self, most: int, seed: int) -> Part:
        """Return `most` random rows in memory: each row is equally likely."""
        return replace(_joined(list(_packed(self.drawn(most, seed)))), notes=self.notes)

    def renamed(self, names: tuple[str, ...]) -> Self:
        """Return the same rows with other names for the columns."""
        pieces = tuple(piece.renamed(names) for piece in self.pieces)
        return replace(self, columns=names, pieces=pieces)

    def selected(self, names: Sequence[str]) -> Stream[Part]:
        """Return the rows with these columns alone, in this order."""
        frames, columns = self.frames, self.columns

        def chosen() -> Iterator[Part]:
            for part in frames():
                yield cast(Part, part.renamed(columns).selected(names))

        pieces = tuple(piece.selected(names) for piece in self.pieces)
        less = {"frames": chosen, "pieces": pieces, "narrowed": None}
        return replace(self, columns=tuple(names), **less)

    def only(self, names: Collection[str]) -> Stream[Part]:
        """Return the same rows without other columns, where these need not be read then."""
        at = [j for j, name in enumerate(self.columns) if name in names]
        if self.narrowed is None or not 0 < len(at) < len(self.columns):
            return self
        less = self.narrowed(at)
        return replace(
            self,
            columns=tuple(self.columns[j] for j in at),
            frames=less.frames,
            bytes=less.bytes,
            pieces=tuple(piece.only(names) for piece in self.pieces),
            narrowed=None,
        )


def _joined(parts: Sequence[Part]) -> Part:
    return parts[0].joined(parts[1:])


def _packed(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the rows of small parts in larger ones.

    A few rows from each of many parts are many small blocks of memory. Once freed, these leave
    gaps that fit nothing that is read later: 30 MB for a sample of 30 million rows.
    """
    waiting: list[Part] = []
    for part in parts:
        waiting.append(part)
        if sum(each.rows for each in waiting) >= _PACKED:
            yield _joined(waiting).compact()
            waiting = []
    if waiting:
        yield _joined(waiting).compact()


def of_tables(
    tables: Callable[[int], Iterator[pa.Table]], columns: int, *, typed: bool = True
) -> Callable[[], Iterator[Table]]:
    """Return a function that yields the parts of a table.

    The end of a part depends on the number of columns alone, not on how the rows are spread over
    files and row groups.

    Args:
        tables: returns the rows in order, at most the given number at a time.
        columns: the number of columns.
        typed: whether columns may be of different kinds, see `Table`.
    """

    def frames() -> Iterator[Table]:
        size = part_rows(columns)
        for table in regrouped(tables(size), size):
            yield Table(table, typed=typed)

    return frames


def regrouped(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the rows of tables in tables of `size` rows; the last may have fewer."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        while count >= size:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, size)
            count -= size
            # An empty slice would keep the part in memory.
            waiting = [whole.slice(size)] if count else []
    if count:
        yield pa.concat_tables(waiting)
