"""Fit on tables larger than memory: infer the schema from a sample, store the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from lowerbound import noise
from lowerbound.coding import stored as dense
from lowerbound.coding import stored_sparse as sparse
from lowerbound.coding.base import Coded
from lowerbound.coding.counts import CountsCoding
from lowerbound.coding.rows import Dense, Rows, Sparse
from lowerbound.coding.tables import Coding, TableCoding
from lowerbound.files.data import Data, Whole
from lowerbound.files.parallel import ahead
from lowerbound.files.stream import Stream

Streamable = TableCoding | CountsCoding

HELD_VALUES = 1 << 23  # values of a table that is held, and of the sample of a larger one


def is_large(stream: Stream) -> bool:
    """Return whether a table is too large to be held while a model is fitted to it."""
    return stream.rows * len(stream.names) > HELD_VALUES


def codes(kind: object) -> TypeGuard[type[Streamable]]:
    """Return whether a coding can be fitted without all rows in memory."""
    return isinstance(kind, type) and issubclass(kind, Streamable)


def fitted(
    kind: type[Streamable],
    stream: Stream,
    seed: int,
    *,
    types: Mapping[str, str],
    drop: Sequence[str],
    transform: str,
) -> Streamable:
    """Return the coding of a table: from a sample of its rows, or of counts from their covariates.

    Raises:
        UsageError: as the coding's `fit`.
        DataError: as the coding's `fit`; of damage within a file, once it is met.
    """
    if issubclass(kind, CountsCoding):
        coding = kind.seen(stream.parts(), stream.names, types=types, drop=drop)
        return replace(coding, layer=stream.layer)
    return kind.fit(seen_of(stream, seed), types=types, drop=drop, transform=transform)


def seen_of(stream: Stream, seed: int) -> Whole:
    """Return a random sample of rows, to infer kinds and statistics of columns from."""
    most = max(1, HELD_VALUES // max(1, len(stream.names)))
    return stream.sample(most, noise.derive(seed, "kinds"))


def needed(stream: Data, coding: Coding) -> Data:
    """Return a table with only the columns that the coding reads, and those that identify rows.

    All of them stay where a modelled one is missing: the refusal tells of similar ones.
    """
    if not isinstance(coding, TableCoding):
        return stream
    if not set(coding.schema.modelled).issubset(stream.names):
        return stream
    return stream.only([c.name for c in coding.schema.columns if c.kind != "text"])


def stored(coding: Streamable, stream: Stream, most: int, seed: int) -> tuple[Streamable, Coded]:
    """Write coded rows to a scratch file: a table's in random order, counts in their own order.

    Args:
        coding: made from some of the rows.
        stream: the table.
        most: the number of rows to store; they are drawn at random if there are more.
        seed: of the draw and of the order.

    Returns:
        The coding, which knows now whether cells are missing, and the rows.

    Raises:
        DataError: what coding raises; of damage within a file, once it is met.
        ResourceError: E301 where the disk has no room.
    """
    rows = min(most, stream.rows)
    tallies = {name: Counter[str]() for name in ("unseen", "clipped", "missing")}
    notes: dict[str, None] = dict.fromkeys(stream.notes)
    sums: list[NDArray[np.float64]] = []  # of the counts of each column, so far

    def parts() -> Iterator[Rows]:
        for part in ahead(stream.drawn(rows, noise.derive(seed, "rows"))):
            coded = coding.encode(part)
            for name, tally in tallies.items():
                tally.update(getattr(coded, name))
            notes.update(dict.fromkeys(coded.notes))
            if isinstance(coded.rows, Sparse):
                sums.append(np.asarray(coded.rows.matrix.sum(0)).ravel())
                sums[:] = [np.sum(sums, 0)]
            yield coded.rows

    if isinstance(coding, TableCoding):
        stream = stream.only(coding.schema.modelled)
    if isinstance(coding, CountsCoding):
        counts = (p for p in parts() if isinstance(p, Sparse))
        kept, digest = sparse.store(counts, (rows, len(coding.names)))
        assert kept.context is not None, "counts have a context"
        coding = coding.with_shares(sums[0]).with_profiles(kept.context)
    else:
        x = (p.x.numpy() for p in parts() if isinstance(p, Dense))
        kept, digest = dense.store(x, (rows, len(coding.schema.parts)), seed)
        coding = coding.with_gaps(bool(tallies["missing"]))
        notes.update(dict.fromkeys(_rare(tallies["unseen"])))
    if rows < stream.rows:
        notes[f"{rows:,} rows, drawn at random, are as many as training can look at"] = None
    nothing = np.broadcast_to(np.float64(0.0), rows)
    return coding, Coded(
        kept,
        _not_kept,
        nothing,
        unseen=tallies["unseen"],
        clipped=tallies["clipped"],
        missing=tallies["missing"],
        notes=tuple(notes),
        digest=digest,
        shuffled=isinstance(kept, dense.Stored),
        groups=[g.parts for g in coding.groups] if isinstance(coding, TableCoding) else None,
    )


def _rare(unseen: Counter[str]) -> list[str]:
    if not unseen:
        return []
    named = ", ".join(f"{name} {count:,}" for name, count in unseen.most_common(4))
    return [f"values too rare for the sample that tells kinds, taken as unknown: {named}"]


def _not_kept() -> NDArray[np.float64]:
    raise AssertionError("nothing in a fit asks for the Jacobians of the rows learned from")
