"""Tables of which only a part is ever in memory: read, worked on and written part by part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pyarrow as pa

from lowerbound.files import memory
from lowerbound.files.frame import ArrowNative, Frame, Native, part_rows, together
from lowerbound.files.shares import share

_PACKED = 1 << 14  # rows of a sample that lie together


@dataclass(frozen=True)
class Stream:
    """A table in files, read anew by every walk over it.

    Attributes:
        names: of the columns.
        origin: what to call the input in messages.
        rows: how many there are.
        frames: returns the rows in order, part by part; all parts but the last are of one size.
        notes: lossless repairs that were made and must be reported.
        bytes: what all rows would take in memory.
        native: gives results back in the input's kind.
        typed: whether columns may be of different kinds, see `Frame`.
        start: the number of the first row, where this is a piece of a table.
        pieces: the rows of each file, where there are several that are read by themselves.
        narrowed: returns the rows with the columns at some places alone, where those of a file
            can be read without the others.
    """

    names: tuple[str, ...]
    origin: str
    rows: int
    frames: Callable[[], Iterator[Frame]]
    notes: tuple[str, ...] = ()
    bytes: int = 0
    native: Native = field(default_factory=ArrowNative)
    typed: bool = True
    start: int = 0
    pieces: tuple[Stream, ...] = ()
    narrowed: Callable[[Sequence[int]], Stream] | None = None

    shape = ()  # rows of a table are no pictures
    files = ()
    pictures = targets = None

    def parts(self) -> Iterator[Frame]:
        """Yield the rows in order; all parts but the last have as many rows."""
        start, known = self.start, {"total": self.rows, "typed": self.typed}
        for frame in self.frames():
            named = frame.renamed(self.names)
            yield replace(named, native=self.native, origin=self.origin, start=start, **known)
            start += frame.rows

    def first(self, rows: int) -> Frame:
        """Return the first so many rows, of one part at most."""
        return next(self.parts()).first(rows)

    def whole(self) -> Frame:
        """Return all rows in memory.

        Raises:
            ResourceError: E303 where they do not fit.
        """
        fix = "choose some of the files with a pattern, or some of the columns"
        memory.require(self.bytes, self.origin, fix)
        return replace(together(list(self.parts())), notes=self.notes)

    def drawn(self, most: int, seed: int) -> Iterator[Frame]:
        """Yield `most` rows in their order, part by part: any of them with equal probability."""
        rng, left, wanted = np.random.default_rng(seed), self.rows, min(most, self.rows)
        for part in self.parts():
            count = share(rng, wanted, left, part.rows)
            left, wanted = left - part.rows, wanted - count
            if count == part.rows:
                yield part
            elif count:
                yield part.take(np.sort(rng.choice(part.rows, count, replace=False)))

    def sample(self, most: int, seed: int) -> Frame:
        """Return `most` rows in memory: any of them with equal probability."""
        return replace(together(list(_packed(self.drawn(most, seed)))), notes=self.notes)

    def renamed(self, names: tuple[str, ...]) -> Self:
        """Return the same rows under other names of the columns."""
        pieces = tuple(piece.renamed(names) for piece in self.pieces)
        return replace(self, names=names, pieces=pieces)

    def only(self, names: Collection[str]) -> Stream:
        """Return the same rows without other columns, where they need not be read then."""
        at = [j for j, name in enumerate(self.names) if name in names]
        if self.narrowed is None or not 0 < len(at) < len(self.names):
            return self
        less = self.narrowed(at)
        return replace(
            self,
            names=tuple(self.names[j] for j in at),
            frames=less.frames,
            bytes=less.bytes,
            pieces=tuple(piece.only(names) for piece in self.pieces),
            narrowed=None,
        )


Given = Frame | Stream


def _packed(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield the rows of small frames in larger ones.

    A few rows of each of many parts are many small blocks, and what they leave behind once they
    are freed fits nothing that is read later: 30 MB of a sample of 30 million rows.
    """
    waiting: list[Frame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(each.rows for each in waiting) >= _PACKED:
            yield _in_one_piece(waiting)
            waiting = []
    if waiting:
        yield _in_one_piece(waiting)


def _in_one_piece(frames: Sequence[Frame]) -> Frame:
    frame = together(frames)
    return replace(frame, table=None if frame.table is None else frame.table.combine_chunks())


def of_tables(
    tables: Callable[[int], Iterator[pa.Table]], columns: int
) -> Callable[[], Iterator[Frame]]:
    """Return the parts of a table.

    Where a part ends follows from the number of columns alone, and not from how the rows are
    spread over files and row groups.

    Args:
        tables: returns the rows in order, so many at a time at most.
        columns: how many there are.
    """

    def frames() -> Iterator[Frame]:
        size = part_rows(columns)
        for table in regrouped(tables(size), size):
            yield Frame(table, None, tuple(table.column_names))

    return frames


def regrouped(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the rows of tables in tables of `size` rows, but for the last."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        while count >= size:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, size)
            count -= size
            waiting = [whole.slice(size)] if count else []  # no rows would hold the part in memory
    if count:
        yield pa.concat_tables(waiting)
