"""Learning from tables that are not held: what they look like, and the rows that are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from lowerbound import noise
from lowerbound.data.batches import Dense
from lowerbound.data.coded import Coded
from lowerbound.data.coding import TableCoding
from lowerbound.data.native import Frame
from lowerbound.data.stored import store
from lowerbound.data.streams import Stream

HELD_CELLS = 1 << 23  # cells of a table that is held; of a larger one, so many tell its kinds


def is_large(stream: Stream) -> bool:
    """Tell whether a table is learned from without being held."""
    return stream.rows * len(stream.names) > HELD_CELLS


def codes(kind: object) -> TypeGuard[type[TableCoding]]:
    """Tell whether what makes a coding can make it from some of the rows."""
    return isinstance(kind, type) and issubclass(kind, TableCoding)


def seen_of(stream: Stream, seed: int) -> Frame:
    """Return a random sample of rows, from which kinds and statistics of columns are told."""
    most = max(1, HELD_CELLS // max(1, len(stream.names)))
    return stream.sample(most, noise.derive(seed, "kinds"))


def stored(coding: TableCoding, stream: Stream, most: int, seed: int) -> tuple[TableCoding, Coded]:
    """Code rows into a file, in random order.

    Args:
        coding: made from some of the rows.
        stream: the table.
        most: rows that are looked at; of more, so many are drawn at random.
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

    def parts() -> Iterator[NDArray[np.float32]]:
        for part in stream.drawn(rows, noise.derive(seed, "rows")):
            coded = coding.encode(part)
            for name, tally in tallies.items():
                tally.update(getattr(coded, name))
            notes.update(dict.fromkeys(coded.notes))
            assert isinstance(coded.rows, Dense)
            yield coded.rows.x.numpy()

    kept, digest = store(parts(), (rows, len(coding.schema.parts)), seed)
    if tallies["unseen"]:
        named = ", ".join(f"{name} {count:,}" for name, count in tallies["unseen"].most_common(4))
        notes[f"values too rare for the sample that tells kinds, taken as unknown: {named}"] = None
    if rows < stream.rows:
        notes[f"{rows:,} rows, drawn at random, are as many as training can look at"] = None
    nothing = np.broadcast_to(np.float64(0.0), rows)
    return coding.with_gaps(bool(tallies["missing"])), Coded(
        kept,
        _not_kept,
        nothing,
        unseen=tallies["unseen"],
        clipped=tallies["clipped"],
        missing=tallies["missing"],
        notes=tuple(notes),
        digest=digest,
        shuffled=True,
    )


def _not_kept() -> NDArray[np.float64]:
    raise AssertionError("nothing in a fit asks for the Jacobians of the rows learned from")
