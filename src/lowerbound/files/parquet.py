"""Read Parquet files, whole or part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lowerbound.columns.arrow import is_text, pc, place, snippet
from lowerbound.errors import DataError
from lowerbound.files import memory, shards
from lowerbound.files.paths import magic, readable, refusal

_PAGE = 2**18  # bytes of a column that are fetched at a time
_ROWS = 2**14  # rows that are decoded at a time: four times as many held 60 MB more of 31 columns
_HARMLESS = 2**30  # bytes that a column of text may grow to unwatched
_DISTINCT = 2**16  # words of a dictionary, from which on a column is hardly one of repeated words
_TEXT_START = b"\t\n\r !\"#$%&'()*+,-./0123456789:;<=>?@"


def open_all(files: list[Path]) -> list[Shard]:
    """Read the footers of Parquet files.

    Row groups may have any size: where files are read part by part, pages are read as they are
    needed.

    Raises:
        DataError: E020 or E021 with the file's name; of damage within a file, once it is met.
    """
    return [_open(path) for path in files]


class Shard(NamedTuple):
    """The footer of one file; files are open only while they are read.

    Attributes:
        path: of the file.
        rows: how many it has.
        schema: of the columns that are read.
        long: whether text could grow beyond bounds when every cell is spelled out.
        chosen: the names of the columns that are read, where not all are.
    """

    path: Path
    rows: int
    schema: pa.Schema
    long: bool
    chosen: list[str] | None = None

    @property
    def bytes(self) -> int:
        """Return the bytes that the values take in memory."""
        return self.rows * sum(shards.width(field.type) for field in self.schema) // 8

    def read(self, rows: int | None) -> pa.Table:
        """Return the first `rows` rows; None means all."""
        return _spelled(self, _read(self, rows))

    def parts(self, size: int) -> Iterator[pa.Table]:
        """Yield the rows in order, at most `size` at a time.

        With the usual options a whole row group is fetched, and a file may be one row group.
        """
        texts, start, more = _repeated_texts(self), 0, True
        while more:
            more = False
            with _intact(self.path), _paged(self, texts) as file:
                batches = file.iter_batches(min(size, _ROWS), columns=self.chosen)
                for table in _behind(batches, start):
                    yield _spelled(self, table)
                    start += table.num_rows
                    if varied := _varied(table, texts, size):
                        texts = [name for name in texts if name not in varied]
                        more = start < self.rows
                        break

    def only(self, names: Sequence[str]) -> Shard:
        """Return the file with only the given columns."""
        fields = [field for field in self.schema if field.name in names]
        return self._replace(schema=pa.schema(fields), chosen=[field.name for field in fields])


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
            f"{place(path)} is not a Parquet file: it begins like {looks}: "
            f"{snippet(text.decode('utf-8', errors='replace'))}",
            fix=fix,
            path=str(path),
        )
    with _intact(path), pq.ParquetFile(path) as file:
        footer = file.metadata  # not kept, since it grows with the row groups
        groups = map(footer.row_group, range(footer.num_row_groups))
        # It knows more about each column, but asking for that aborts on some damaged files.
        most = sum(group.total_byte_size * group.num_rows for group in groups)
        return Shard(path, footer.num_rows, file.schema_arrow, most > _HARMLESS)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turn errors of a damaged file into ours; errors of the system, which have an errno, pass."""
    try:
        yield
    except OSError as error:
        raise (refusal(path, error) if error.errno else _damaged(path, error)) from error
    except (pa.ArrowException, ValueError) as error:
        raise _damaged(path, error) from error


def _repeated_texts(shard: Shard) -> list[str]:
    """Return the text columns that could exceed memory if their dictionaries are decoded.

    They are read as dictionaries, and spelled out only after their size is known.
    """
    return [field.name for field in shard.schema if is_text(field.type)] * shard.long


def _behind(batches: Iterator[pa.RecordBatch], start: int) -> Iterator[pa.Table]:
    """Yield the rows from `start` on."""
    end = 0
    for batch in batches:
        end += batch.num_rows
        if end > start:
            rest = batch.slice(max(0, start - end + batch.num_rows))
            yield pa.Table.from_batches([rest])


def _varied(table: pa.Table, texts: list[str], size: int) -> set[str]:
    """Return the columns to decode: those with long dictionaries of short words.

    Arrow adds to a dictionary until the row group ends, which may hold millions of ids.
    """
    found = set()
    for field, column in zip(table.schema, table.columns, strict=True):
        # Of columns with the same name Arrow reads only some as dictionaries.
        if field.name in texts and pa.types.is_dictionary(column.type) and column.num_chunks:
            words = column.chunk(0).dictionary
            if (
                len(words) > _DISTINCT
                and pc.max(pc.binary_length(words)).as_py() * size < _HARMLESS
            ):
                found.add(field.name)
    return found


def _spelled(shard: Shard, table: pa.Table) -> pa.Table:
    """Decode columns that were read as dictionaries, if they fit in memory."""
    with _intact(shard.path):
        if shard.chosen is not None:  # "a" stands for a column "a.b" too
            table = table.select(shard.chosen)
        table.validate(full=True)  # damaged pages can decode to text that is none
    for j, field in enumerate(shard.schema):
        column = table.column(j)
        if column.type != field.type:
            size = sum(_text_size(chunk) for chunk in column.chunks)
            memory.require(size, shard.path, f"leave the column {field.name} out of the file")
            # In two steps: a dictionary has no cast to every type of text.
            plain = column.cast(column.type.value_type).cast(field.type)
            table = table.set_column(j, field.name, plain)
    return table


def _text_size(chunk: pa.DictionaryArray) -> int:
    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
    return pc.sum(lengths.take(chunk.indices)).as_py() or 0


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
    with (
        _intact(shard.path),
        pq.ParquetFile(shard.path, read_dictionary=_repeated_texts(shard)) as file,
    ):
        if rows is None:
            return file.read()
        batches, got = [], 0
        for batch in file.iter_batches(batch_size=min(rows, 65_536)):
            batches.append(batch)
            got += batch.num_rows
            if got >= rows:
                break
        return pa.Table.from_batches(batches, schema=file.schema_arrow).slice(0, rows)


def _paged(shard: Shard, texts: list[str]) -> pq.ParquetFile:
    options: dict[str, Any] = {"pre_buffer": False, "buffer_size": _PAGE}
    return pq.ParquetFile(shard.path, read_dictionary=texts, **options)
