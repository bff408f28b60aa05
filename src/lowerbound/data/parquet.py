"""Parquet files: one, a folder or pattern of shards, with Hive partitions in folder names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lowerbound.cells import is_text, listed, pc, place, snippet
from lowerbound.data import memory
from lowerbound.data.files import magic, readable, refusal
from lowerbound.data.streams import Stream
from lowerbound.errors import DataError

_PAGE = 2**18  # bytes of a column that are fetched at a time
_HARMLESS = 2**30  # bytes that a column of text may grow to unwatched
_TEXT_START = b"\t\n\r !\"#$%&'()*+,-./0123456789:;<=>?@"


def read_shards(files: list[Path], root: Path, rows: int | None = None) -> tuple[pa.Table, int]:
    """Read Parquet files as one table.

    Args:
        files: the shards, in order.
        root: the folder under which ``key=value`` folder names are partitions.
        rows: stop after this many rows.

    Returns:
        The table, and the number of rows of all shards.

    Raises:
        DataError: E020 to E022 with the shard's name.
    """
    opened, total = _opened(files)
    _require_memory(opened, rows)
    tables, left = [], rows
    for shard in opened:
        if left is not None and left <= 0 and tables:
            break
        table = _with_partitions(_spelled(shard, _read(shard, left)), shard.path, root)
        tables.append(table)
        left = None if left is None else left - table.num_rows
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise _differs(files[0], files[-1], str(error)) from error
    return table.replace_schema_metadata(None), total


def stream_shards(files: list[Path], root: Path, origin: str) -> Stream:
    """Return Parquet files as one table that is read part by part.

    Row groups may have any size: pages are read as they are needed.

    Args:
        files: the shards, in order.
        root: the folder under which ``key=value`` folder names are partitions.
        origin: what to call the table.

    Raises:
        DataError: E020 to E022 with the shard's name; of damage within a file, once it is met.
    """
    opened, total = _opened(files)
    schemas = [_with_partitions(s.schema.empty_table(), s.path, root).schema for s in opened]
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive").remove_metadata()
    except pa.ArrowException as error:
        raise _differs(files[0], files[-1], str(error)) from error

    def tables(size: int) -> Iterator[pa.Table]:
        for shard in opened:
            for table in _parts(shard, size):
                named = _with_partitions(_spelled(shard, table), shard.path, root)
                yield _as(schema, named.replace_schema_metadata(None))

    return Stream(tuple(schema.names), origin, total, tables, bytes=_need(opened))


def _as(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """Return a table with the columns of `schema`, in their order and of their types."""
    empty = schema.empty_table()
    return pa.concat_tables([empty, table], promote_options="permissive").cast(schema)


def _parts(shard: Shard, size: int) -> Iterator[pa.Table]:
    """Read a file, so many rows at a time at most.

    With the usual options a whole row group is fetched, and a file may be one row group.
    """
    paged = {"pre_buffer": False, "buffer_size": _PAGE}
    with _intact(shard.path), _reopened(shard, **paged) as file:
        batches = file.iter_batches(batch_size=size)
        while (batch := next(batches, None)) is not None:
            yield pa.Table.from_batches([batch])


def _opened(files: list[Path]) -> tuple[list[Shard], int]:
    """Read the footers of shards; return them with the number of rows of all."""
    opened = [_open(path) for path in files]
    _same_columns(opened)
    total = sum(shard.footer.num_rows for shard in opened)
    if total == 0:
        raise DataError(
            "E013",
            f"{place(files[0])} has no rows"
            + (f", nor has any of {len(files)} files" * (len(files) > 1)),
            fix="export it again with its rows",
            path=str(files[0]),
        )
    return opened, total


class Shard(NamedTuple):
    """What the footer of one file says; files are open only while they are read."""

    path: Path
    footer: pq.FileMetaData
    schema: pa.Schema


def _open(path: Path) -> Shard:
    found = magic(path)
    if found == "encrypted Parquet":
        raise _encrypted(path)
    if found != "parquet":
        with readable(path), path.open("rb") as file:
            text = file.read(64)
        looks = found or (
            "text" if all(b in _TEXT_START or b > 64 for b in text) else "nothing known"
        )
        fix = "give it the suffix .csv" if looks == "text" else "download or export it again"
        raise DataError(
            "E020",
            f"{place(path)} is no Parquet file: it begins like {looks}: "
            f"{snippet(text.decode('utf-8', errors='replace'))}",
            fix=fix,
            path=str(path),
        )
    with _intact(path), pq.ParquetFile(path) as file:
        return Shard(path, file.metadata, file.schema_arrow)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Tell damage from the system's refusals, which alone have a number."""
    try:
        yield
    except OSError as error:
        raise (refusal(path, error) if error.errno else _damaged(path, error)) from error
    except (pa.ArrowException, ValueError) as error:
        raise _damaged(path, error) from error


def _repeated_texts(shard: Shard) -> list[str]:
    """Name the columns of text that could grow beyond bounds when every cell is spelled out.

    They are read as dictionaries, and spelled out only after their size is known.
    """
    groups = map(shard.footer.row_group, range(shard.footer.num_row_groups))
    # The footer knows more about each column, but asking for it aborts on some damaged files.
    worst = sum(group.total_byte_size * group.num_rows for group in groups)
    return [field.name for field in shard.schema if is_text(field.type)] * (worst > _HARMLESS)


def _spelled(shard: Shard, table: pa.Table) -> pa.Table:
    """Give columns that were read as dictionaries their own type back, if that fits."""
    with _intact(shard.path):
        table.validate(full=True)  # damaged pages can decode to text that is none
    for j, field in enumerate(shard.schema):
        column = table.column(j)
        if column.type != field.type:
            size = sum(_text_size(chunk) for chunk in column.chunks)
            memory.require(size, shard.path, f"leave the column {field.name} out of the file")
            table = table.set_column(j, field.name, column.cast(field.type))
    return table


def _text_size(chunk: pa.DictionaryArray) -> int:
    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
    return pc.sum(lengths.take(chunk.indices)).as_py() or 0


def _require_memory(opened: list[Shard], rows: int | None) -> None:
    """Compare the cells that the footers promise with the memory that is there."""
    fix = "choose some of the files with a pattern, or some of the columns"
    memory.require(_need(opened, rows), opened[0].path, fix)


def _need(opened: list[Shard], rows: int | None = None) -> int:
    """Return the bytes that the cells of shards take in memory, by their footers."""
    need = 0
    for shard in opened:
        count = shard.footer.num_rows if rows is None else min(rows, shard.footer.num_rows)
        need += count * sum(max(_width(field.type), 1) for field in shard.schema) // 8
    return need


def _width(kind: pa.DataType) -> int:
    try:
        return kind.bit_width
    except ValueError:  # text and lists have none; they take an offset at least
        return 32


def _encrypted(path: Path) -> DataError:
    return DataError(
        "E021",
        f"{place(path)} is encrypted",
        fix="write it again without encryption",
        path=str(path),
    )


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "unknown reason"
    if "encrypt" in reason.lower():
        return _encrypted(path)
    return DataError(
        "E020",
        f"{place(path)} is damaged: {reason}",
        fix="download or write it again; an incomplete copy has no footer",
        path=str(path),
    )


def _read(shard: Shard, rows: int | None) -> pa.Table:
    with _intact(shard.path), _reopened(shard) as file:
        if rows is None:
            return file.read()
        batches, got = [], 0
        for batch in file.iter_batches(batch_size=min(rows, 65_536)):
            batches.append(batch)
            got += batch.num_rows
            if got >= rows:
                break
        return pa.Table.from_batches(batches, schema=file.schema_arrow).slice(0, rows)


def _reopened(shard: Shard, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(shard.path, read_dictionary=_repeated_texts(shard), **options)


def _same_columns(opened: list[Shard]) -> None:
    begin, _, first = opened[0]
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
    for path, _, schema in opened[1:]:
        names = schema.names
        if set(names) != set(first.names):
            raise other_columns(begin, path, first.names, names)
        for name in first.names:
            mine, theirs = first.field(name).type, schema.field(name).type
            if mine != theirs and not _promotes(mine, theirs):
                what = f"has column {snippet(name)} as {theirs}, not as {mine}"
                raise _differs(begin, path, what)


def _promotes(one: pa.DataType, other: pa.DataType) -> bool:
    """Tell whether two types have a common one that holds both."""
    schemas = [pa.schema([("cell", kind)]) for kind in (one, other)]
    try:
        pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException:
        return False
    return True


def other_columns(first: Path, other: Path, names: list[str], others: list[str]) -> DataError:
    """Say which columns one shard lacks or has besides those of the first."""
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


def _with_partitions(table: pa.Table, path: Path, root: Path) -> pa.Table:
    """Add the columns that folder names such as ``country=PE`` stand for."""
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
