"""Fill missing values of columns of any type with values from a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa

from lowerbound.columns.arrow import (
    MISSING_NUMBER,
    MISSING_TEXT,
    computable,
    is_moment,
    is_number,
    is_text,
    missing,
    pc,
    rewrapped,
    storage,
)


def filled(original: pa.Table, decoded: pa.Table, numbers: Collection[str] = ()) -> pa.Table:
    """Return `original` with its missing values replaced by those of `decoded`.

    Args:
        original: the raw cells.
        decoded: columns of it, as they would be.
        numbers: those that hold numbers: in text of them more words say that there is none.
    """
    columns = []
    for name, column in zip(original.column_names, original.columns, strict=True):
        words = MISSING_NUMBER if name in numbers else MISSING_TEXT
        known = name in decoded.column_names
        columns.append(_filled(column, decoded[name], words) if known else column)
    return pa.table(columns, names=original.column_names)


def _filled(
    column: pa.ChunkedArray, values: pa.ChunkedArray, words: Sequence[str]
) -> pa.ChunkedArray:
    given, column, values = column.type, computable(column), computable(values)
    kind = _holding(column.type, values.type)
    gone = missing(column, words)
    plain = kind if is_text(storage(kind)) else storage(kind)
    whole = pc.if_else(gone, _cast(values, plain), _cast(column, plain))
    return rewrapped(whole, given) if kind == column.type else whole


def _holding(kind: pa.DataType, seen: pa.DataType) -> pa.DataType:
    """Return a type that holds both the values of a column and those filled in.

    It follows from types alone, so that all parts of a file have the same.

    Args:
        kind: of the column: kept, unless it could not hold all that is filled in.
        seen: in training, and so of what is filled in.
    """
    if kind == seen or is_text(storage(kind)):
        return kind
    given, kind, seen = kind, storage(kind), storage(seen)
    if pa.types.is_null(kind):
        return seen
    alike = (is_moment, pa.types.is_time, pa.types.is_duration)
    if kind == seen or any(both(kind) and both(seen) for both in alike):
        return given
    numbers = all(is_number(each) or pa.types.is_decimal(each) for each in (kind, seen))
    return _of_numbers(kind, seen) if numbers else pa.string()


def _of_numbers(kind: pa.DataType, seen: pa.DataType) -> pa.DataType:
    if pa.types.is_decimal(kind) != pa.types.is_decimal(seen):
        return pa.float64()
    if pa.types.is_floating(kind) or pa.types.is_boolean(seen):
        return kind
    if pa.types.is_boolean(kind):
        return seen
    both = [pa.schema([("", each)]) for each in (kind, seen)]
    return pa.unify_schemas(both, promote_options="permissive").field(0).type


def _cast(cells: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if cells.type == kind:
        return cells
    cells = cells.cast(storage(cells.type))
    try:
        return cells.cast(storage(kind), safe=False).cast(kind)
    except pa.ArrowNotImplementedError:  # of truth values to half floats
        return cells.cast(pa.float64()).cast(kind)
