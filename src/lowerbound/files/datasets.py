"""Stream pyarrow datasets: rows of many files, local or remote, possibly filtered."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from lowerbound.columns.arrow import listed, pc
from lowerbound.errors import DataError
from lowerbound.files import shards
from lowerbound.files.stream import Stream, of_tables


def is_dataset(data: object) -> bool:
    """Return whether data are a pyarrow dataset, without importing ``pyarrow.dataset``."""
    known = sys.modules.get("pyarrow.dataset")
    return known is not None and isinstance(data, known.Dataset)


def stream(dataset: Any) -> Stream:
    """Return the rows of a ``pyarrow.dataset.Dataset``, in its order and with its filter.

    Raises:
        DataError: E012 for columns of the same name, E013 without rows, E020 where it cannot be
            read; of damage within a file, once it is met.
    """
    schema, origin = dataset.schema.remove_metadata(), f"the {type(dataset).__name__}"
    names = tuple(schema.names)
    if len(set(names)) < len(names):
        twice = listed(sorted({name for name in names if names.count(name) > 1}))
        raise DataError(
            "E012",
            f"{origin} has columns of the same name: {twice}",
            fix="give every column its own name",
        )
    with _readable(origin):
        rows = dataset.count_rows()
    if not rows or not names:
        raise DataError(
            "E013",
            f"{origin} has no {'rows' if names else 'columns'}",
            fix="look at its filter, and at its files",
        )

    def of(schema: pa.Schema) -> Stream:
        def tables(size: int) -> Iterator[pa.Table]:
            chosen = {name: pc.field(name) for name in schema.names}  # as names: "a.b" is one
            few = {"batch_size": size, "batch_readahead": 1, "fragment_readahead": 1}
            with _readable(origin):
                for batch in dataset.to_batches(columns=chosen, **few):
                    table = pa.Table.from_batches([batch])
                    table.validate(full=True)  # damaged pages can decode to text that is none
                    yield table.replace_schema_metadata(None)

        def narrowed(at: Sequence[int]) -> Stream:
            return of(pa.schema([schema.field(j) for j in at]))

        need = rows * sum(shards.width(field.type) for field in schema) // 8
        frames = of_tables(tables, len(names))
        known = {"origin": origin, "bytes": need, "narrowed": narrowed}
        return Stream(tuple(schema.names), rows, frames, **known)

    return of(schema)


@contextmanager
def _readable(origin: str) -> Iterator[None]:
    """Turn the errors of a dataset or its file system into E020."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise DataError(
            "E020",
            f"{origin} cannot be read: {reason}",
            fix="dataset.to_table() shows what pyarrow says of it",
        ) from error
