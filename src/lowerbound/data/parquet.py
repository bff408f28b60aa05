"""Parquet files: one, a folder or pattern of shards, with Hive partitions in folder names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lowerbound.cells import listed, place, snippet
from lowerbound.data.files import magic, readable
from lowerbound.errors import DataError

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
    opened = [_open(path) for path in files]
    _same_columns(files, opened)
    total = sum(file.metadata.num_rows for file in opened)
    if total == 0:
        raise DataError(
            "E013",
            f"{place(files[0])} has no rows"
            + (f", nor has any of {len(files)} files" * (len(files) > 1)),
            fix="export it again with its rows",
            path=str(files[0]),
        )
    tables, left = [], rows
    for path, file in zip(files, opened, strict=True):
        if left is not None and left <= 0 and tables:
            break
        table = _with_partitions(_read(path, file, left), path, root)
        tables.append(table)
        left = None if left is None else left - table.num_rows
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise _differs(files[0], files[-1], str(error)) from error
    return table.replace_schema_metadata(None), total


def _open(path: Path) -> pq.ParquetFile:
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
    try:
        with readable(path):
            return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


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
        f"{place(path)} is damaged ({path.stat().st_size:,} bytes): {reason}",
        fix="download or write it again; an incomplete copy has no footer",
        path=str(path),
    )


def _read(path: Path, file: pq.ParquetFile, rows: int | None) -> pa.Table:
    try:
        with readable(path):
            if rows is None:
                return file.read()
            batches, got = [], 0
            for batch in file.iter_batches(batch_size=min(rows, 65_536)):
                batches.append(batch)
                got += batch.num_rows
                if got >= rows:
                    break
            return pa.Table.from_batches(batches, schema=file.schema_arrow).slice(0, rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _same_columns(files: list[Path], opened: list[pq.ParquetFile]) -> None:
    first = opened[0].schema_arrow
    if not first.names:
        raise DataError(
            "E013",
            f"{place(files[0])} has no columns",
            fix="export it again",
            path=str(files[0]),
        )
    for name in first.names:
        if len(set(first.names)) < len(first.names) and first.names.count(name) > 1:
            raise DataError(
                "E012",
                f"{place(files[0])} has the column {snippet(name)} more than once",
                fix="give every column its own name",
                path=str(files[0]),
                columns=[name],
            )
    for path, file in zip(files[1:], opened[1:], strict=True):
        names = file.schema_arrow.names
        if set(names) != set(first.names):
            raise other_columns(files[0], path, first.names, names)
        for name in first.names:
            mine, theirs = first.field(name).type, file.schema_arrow.field(name).type
            if mine != theirs and not _promotes(mine, theirs):
                what = f"has column {snippet(name)} as {theirs}, not as {mine}"
                raise _differs(files[0], path, what)


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
