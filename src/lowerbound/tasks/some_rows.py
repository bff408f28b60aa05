"""A random sample of rows, with the place of each row in the data."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowerbound import noise
from lowerbound.errors import DataError
from lowerbound.files.data import Columnar, Data, Images, Whole


class SomeRows(NamedTuple):
    """Rows drawn from data at random, in their order.

    Attributes:
        frame: the rows.
        places: (n,) index of each row in the data, from 0.
        total: the number of rows of the data.
    """

    frame: Whole
    places: NDArray[np.int64]
    total: int


def some_rows(given: Data, most: int, seed: int = 0) -> SomeRows:
    """Return all rows of data, or `most` of them, each equally likely.

    Raises:
        DataError: E004 if there are no rows.
    """
    if not given.rows:
        raise DataError("E004", f"{given.origin} has no rows", fix="give data with rows")
    if given.rows <= most:
        return SomeRows(given.whole(), np.arange(given.rows), given.rows)
    rng = np.random.default_rng(noise.derive("some rows", seed) % (1 << 32))
    places = np.sort(rng.choice(given.rows, most, replace=False))
    parts, start = [], 0
    for part in given.parts():
        stop = start + part.rows
        inside = places[(places >= start) & (places < stop)] - start
        if len(inside):
            parts.append(_taken(part, inside))
        start = stop
    return SomeRows(_joined(parts), places, given.rows)


def _taken(part: Whole, rows: NDArray[np.int64]) -> Whole:
    files = tuple(part.files[i] for i in rows) if part.files else ()
    labels = tuple(part.labels[i] for i in rows) if part.labels else ()
    if isinstance(part, Columnar):
        return replace(part.take(rows), files=files, labels=labels, start=0)
    assert isinstance(part, Images), "pairs of pictures are not scored"
    return replace(part, pixels=part.pixels[rows], files=files, labels=labels, start=0)


def _joined(parts: list[Whole]) -> Whole:
    first, *rest = parts
    if not rest:
        return first
    files = tuple(name for part in parts for name in part.files)
    labels = tuple(name for part in parts for name in part.labels)
    if isinstance(first, Columnar):
        whole = first.joined([part for part in rest if isinstance(part, Columnar)])
        return replace(whole, files=files, labels=labels)
    pixels = np.concatenate([part.pixels for part in parts if isinstance(part, Images)])
    assert isinstance(first, Images), "pairs of pictures are not scored"
    return replace(first, pixels=pixels, files=files, labels=labels)
