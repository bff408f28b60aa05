"""Read several files of one format as one table, with partition columns from folder names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from lowerbound.columns.arrow import listed, place, snippet
from lowerbound.errors import DataError
from lowerbound.files import memory
from lowerbound.files.stream import Stream, of_tables


class Shard(Protocol):
    """One file; it is open only while it is read.

    Attributes:
        path: of the file.
        schema: of its columns.
        rows: how many it has.
        bytes: the memory that all rows take.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102 - above

    @property
    def schema(self) -> pa.Schema: ...  # noqa: D102 - above

    @property
    def rows(self) -> int: ...  # noqa: D102 - above

    @property
    def bytes(self) -> int: ...  # noqa: D102 - above

    def read(self, rows: int | None) -> pa.Table:
        """Return the first `rows` rows; None means all."""
        ...

    def parts(self, size: int) -> Iterator[pa.Table]:
        """Yield the rows in order, at most `size` at a time."""
        ...

    def only(self, names: Sequence[str]) -> Shard:
        """Return the file with only the given columns, so that others are not read."""
        ...


def read(
    shards: Sequence[Shard], root: Path, rows: int | None = None, *, strict: bool = True
) -> tuple[pa.Table, int, tuple[str, ...]]:
    """Read files as one table.

    Args:
        shards: the files, in order.
        root: the folder under which ``key=value`` folder names are partitions.
        rows: stop after this many rows.
        strict: raise E012, E013 and E022. Otherwise repeated names are numbered, a column that
            some files lack is missing there, one of several types is text, and notes say so.

    Returns:
        The table, the number of rows of all files, and notes.

    Raises:
        DataError: E012, E013 or E022 with the file's name.
        ResourceError: E303 where the rows do not fit into memory.
    """
    total, notes = (_checked(shards), ()) if strict else _noted(shards)
    need = sum(s.bytes * min(rows or s.rows, s.rows) // max(s.rows, 1) for s in shards)
    memory.require(need, shards[0].path, FIX)
    tables, left = [], rows
    for shard in shards:
        if left is not None and left <= 0 and tables:
            break
        table = shard.read(left)
        if not strict:
            table = table.rename_columns(numbered(table.column_names))
        table = with_partitions(table, shard.path, root)
        tables.append(table)
        left = None if left is None else left - table.num_rows
    if not strict:
        tables = alike(tables)
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise _differs(shards[0].path, shards[-1].path, str(error)) from error
    return table.replace_schema_metadata(None), total, notes


def _noted(shards: Sequence[Shard]) -> tuple[int, tuple[str, ...]]:
    """Return the number of rows of all files, and a note on what `_checked` refuses."""
    try:
        return _checked(shards), ()
    except DataError as error:
        if not shards[0].schema.names:
            raise
        return sum(s.rows for s in shards), (
            f"{error.message}; read as far as possible here, and refused by fit ({error.code})",
        )


def alike(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Return tables that can be concatenated: columns of types without a common one are text.

    Values that are no text, such as lists, are left out.
    """
    kinds: dict[str, list[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            kinds.setdefault(field.name, []).append(field.type)
    mixed = {
        name
        for name, found in kinds.items()
        if not all(_promotes(found[0], kind) for kind in found)
    }
    return [
        pa.table({n: _as_text(table[n]) if n in mixed else table[n] for n in table.column_names})
        for table in tables
    ]


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        return pa.chunked_array([pa.nulls(len(column), pa.string())])


def numbered(names: Sequence[str]) -> list[str]:
    """Return distinct names: the second x becomes x.2."""
    taken, out = {*names}, []
    for j, name in enumerate(names):
        count = names[: j + 1].count(name)
        while count > 1 and f"{name}.{count}" in taken:
            count += 1
        out.append(name if count == 1 else f"{name}.{count}")
        taken.add(out[-1])
    return out


def first(shard: Shard, rows: int | None) -> pa.Table:
    """Return the first `rows` rows of a file that is read in parts; None means all."""
    left = shard.rows if rows is None else min(rows, shard.rows)
    tables = [shard.schema.empty_table()]
    for table in shard.parts(max(left, 1)):
        tables.append(table.slice(0, left))
        left -= tables[-1].num_rows
        if left <= 0:
            break
    return pa.concat_tables(tables)


FIX = "choose some of the files with a pattern, or some of the columns"


def stream(shards: Sequence[Shard], root: Path, origin: str) -> Stream:
    """Return files as one stream.

    Args:
        shards: the files, in order.
        root: the folder under which ``key=value`` folder names are partitions.
        origin: the name of the table in messages.

    Raises:
        DataError: E012, E013 or E022 with the file's name.
    """
    _checked(shards)
    schemas = [with_partitions(s.schema.empty_table(), s.path, root).schema for s in shards]
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive").remove_metadata()
    except pa.ArrowException as error:
        raise _differs(shards[0].path, shards[-1].path, str(error)) from error

    def of(some: Sequence[Shard], schema: pa.Schema, start: int = 0) -> Stream:
        def tables(size: int) -> Iterator[pa.Table]:
            for shard in some:
                for table in shard.parts(size):
                    named = with_partitions(table, shard.path, root).select(schema.names)
                    yield _as(schema, named.replace_schema_metadata(None))

        def narrowed(at: Sequence[int]) -> Stream:
            less = pa.schema([schema.field(j) for j in at])
            return of([_without(shard, less.names) for shard in some], less, start)

        rows, need = (sum(each) for each in zip(*((s.rows, s.bytes) for s in some), strict=True))
        frames = of_tables(tables, columns)  # narrowed rows keep the same parts
        return Stream(
            tuple(schema.names),
            rows,
            frames,
            origin=origin,
            bytes=need,
            start=start,
            narrowed=narrowed,
        )

    columns = len(schema.names)
    starts = accumulate((shard.rows for shard in shards), initial=0)
    pieces = (of([shard], schema, start) for shard, start in zip(shards, starts, strict=False))
    return replace(of(shards, schema), pieces=tuple(piece for piece in pieces if piece.rows))


def _without(shard: Shard, names: Sequence[str]) -> Shard:
    """Return a file with only the given columns, or one column if they are all partitions."""
    held = shard.schema.names
    return shard.only([name for name in held if name in names] or held[:1])


def _as(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """Return a table with the columns of `schema`, in their order and of their types."""
    if table.schema.equals(schema):
        return table
    empty = schema.empty_table()
    return pa.concat_tables([empty, table], promote_options="permissive").cast(schema)


def _checked(shards: Sequence[Shard]) -> int:
    """Check that files form one table; return their total number of rows."""
    _same_columns(shards)
    total = sum(shard.rows for shard in shards)
    if total == 0:
        first = shards[0].path
        raise DataError(
            "E013",
            f"{place(first)} has no rows"
            + (f", nor has any of {len(shards)} files" * (len(shards) > 1)),
            fix="export it again with its rows",
            path=str(first),
        )
    return total


def _same_columns(shards: Sequence[Shard]) -> None:
    begin, first = shards[0].path, shards[0].schema
    if not first.names:
        raise DataError(
            "E013",
            f"{place(begin)} has no columns",
            fix="export it again",
            path=str(begin),
        )
    for name in first.names:
        if len(set(first.names)) < len(first.names) and first.names.count(name) > 1:
            raise DataError(
                "E012",
                f"{place(begin)} has the column {snippet(name)} more than once",
                fix="give every column its own name",
                path=str(begin),
                columns=[name],
            )
    for shard in shards[1:]:
        names = shard.schema.names
        if set(names) != set(first.names):
            raise other_columns(begin, shard.path, first.names, names)
        for name in first.names:
            mine, theirs = first.field(name).type, shard.schema.field(name).type
            if mine != theirs and not _promotes(mine, theirs):
                what = f"has column {snippet(name)} as {theirs}, not as {mine}"
                raise _differs(begin, shard.path, what)


def _promotes(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether two types have a common one that holds both."""
    schemas = [pa.schema([("cell", kind)]) for kind in (one, other)]
    try:
        pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException:
        return False
    return True


def other_columns(first: Path, other: Path, names: list[str], others: list[str]) -> DataError:
    """Return the error for a shard with missing or additional columns."""
    gone, extra = sorted(set(names) - set(others)), sorted(set(others) - set(names))
    what = [f"lacks {listed(gone)}"] if gone else []
    what += [f"has {listed(extra)} besides"] if extra else []
    return _differs(first, other, " and ".join(what))


def _differs(first: Path, other: Path, what: str) -> DataError:
    return DataError(
        "E022",
        f"{place(other)} {what}, unlike {snippet(first.name)}",
        fix="write all shards with the same columns, or choose some with a pattern",
        path=str(other),
    )


def with_partitions(table: pa.Table, path: Path, root: Path) -> pa.Table:
    """Add partition columns from folder names such as ``country=PE``."""
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    for folder in folders:
        name, equals, value = folder.partition("=")
        if equals and name not in table.column_names:
            words = pa.array([value], pa.string()).dictionary_encode()
            repeated = pa.DictionaryArray.from_arrays(
                pa.array([0] * table.num_rows, pa.int32()), words.dictionary
            )
            table = table.append_column(name, repeated.cast(pa.string()))
    return table


def width(kind: pa.DataType) -> int:
    """Return the bits of one value; for text and lists, those of an offset."""
    try:
        return max(kind.bit_width, 1)
    except ValueError:
        return 32
