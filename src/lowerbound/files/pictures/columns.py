"""Images in tables: one column of whole images, or one column for each pixel.

Inside the library a table of pictures has one column, whose lists share one piece of memory; a
CSV or Parquet file has a column per cell, named by its place, such as ``p3_14`` or ``p3_14_0``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

NAME = "pixels"


def cell_names(shape: Sequence[int]) -> list[str]:
    """Return a name for every value of an image, in the order of memory."""
    return ["p" + "_".join(map(str, place)) for place in np.ndindex(*shape)]


def as_table(pixels: NDArray[Any]) -> pa.Table:
    """Return pictures, (n, *shape), as a table of one column, without a copy."""
    flat = pa.array(np.ascontiguousarray(pixels).reshape(-1))
    size = max(1, math.prod(pixels.shape[1:]))
    return pa.table({NAME: pa.FixedSizeListArray.from_arrays(flat, size)})


def holds_pixels(table: pa.Table) -> bool:
    """Return whether a table has the column of `as_table`."""
    found = table.schema.get_field_index(NAME)
    return found >= 0 and pa.types.is_fixed_size_list(table.schema.field(found).type)


def pixels_of(table: pa.Table, shape: Sequence[int]) -> NDArray[Any]:
    """Return the pictures of a table of `as_table`, (-1, *shape)."""
    lists = table[NAME].combine_chunks()
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)


def spread(table: pa.Table, shape: Sequence[int]) -> pa.Table:
    """Return `table` with its column of pictures as one column per cell, in the same place."""
    if not holds_pixels(table):
        return table
    cells = np.ascontiguousarray(pixels_of(table, shape).reshape(table.num_rows, -1).T)
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name == NAME:
            columns |= dict(zip(cell_names(shape), cells, strict=True))
        else:
            columns[name] = column
    return pa.table(columns)
