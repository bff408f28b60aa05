"""Arrow IPC files (Feather): their rows, whole or part by part, out of the mapped file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from lowerbound.columns.arrow import place
from lowerbound.errors import DataError
from lowerbound.files import shards
from lowerbound.files.paths import magic, refusal

_MOST_ROWS = 1 << 20  # that a byte may stand for, however well it is compressed


def open_all(files: list[Path]) -> list[Shard]:
    """Read the footers of Arrow IPC files.

    Raises:
        DataError: E020 with the file's name; of damage within a file, once it is met.
    """
    return [_open(path) for path in files]


class Shard(NamedTuple):
    """The footer of one file; files are open only while they are read.

    Nothing of a file that is not compressed is held: record batches are parts of the mapped
    file. Of a compressed one a record batch is held at a time.
    """

    path: Path
    schema: pa.Schema
    rows: int
    chosen: list[int] | None = None  # places of the columns in the file, where not all are read

    @property
    def bytes(self) -> int:
        """Return the bytes that the values take in memory."""
        return self.rows * sum(shards.width(field.type) for field in self.schema) // 8

    def read(self, rows: int | None) -> pa.Table:
        """Return the first `rows` rows; None means all."""
        return shards.first(self, rows)

    def parts(self, size: int) -> Iterator[pa.Table]:
        """Yield the rows in order, at most `size` at a time."""
        options = pa.ipc.IpcReadOptions(included_fields=self.chosen)
        with _intact(self.path), pa.memory_map(str(self.path)) as source:
            for batch in batches(pa.ipc.open_file(source, options=options), size):
                batch.validate(full=True)  # offsets of a damaged file point anywhere
                yield pa.Table.from_batches([batch])

    def only(self, names: Sequence[str]) -> Shard:
        """Return the file with only the given columns."""
        fields = [(j, field) for j, field in enumerate(self.schema) if field.name in names]
        schema = pa.schema([field for _, field in fields])
        return self._replace(schema=schema, chosen=[j for j, _ in fields])


def batches(file: pa.ipc.RecordBatchFileReader, size: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an open file in order, at most `size` at a time."""
    for number in range(file.num_record_batches):
        batch = file.get_batch(number)
        for start in range(0, batch.num_rows, size):
            yield batch.slice(start, size)


def _open(path: Path) -> Shard:
    if magic(path) != "Arrow IPC":
        raise _damaged(path, "it does not begin with ARROW1, as the files of this format do")
    with _intact(path), pa.memory_map(str(path)) as source:
        schema = pa.ipc.open_file(source).schema
        # Counted by the footers of record batches, which are not unpacked for that.
        # By name: it imports pandas, where that is installed, for which others need not wait.
        dataset = importlib.import_module("pyarrow.dataset")
        rows = dataset.dataset(str(path), format="ipc").count_rows()
    size = path.stat().st_size
    if not 0 <= rows <= size * _MOST_ROWS:
        raise _damaged(path, f"it promises {rows:,} rows in {size:,} bytes")
    return Shard(path, schema, rows)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turn errors of a damaged file into ours; errors of the system, which have an errno, pass."""
    try:
        yield
    except OSError as error:
        raise (refusal(path, error) if error.errno else _damaged(path, str(error))) from error
    except (pa.ArrowException, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        "E020",
        f"{place(path)} is damaged: {(why.strip().splitlines() or ['unknown reason'])[0][:160]}",
        fix="download or write it again; an incomplete copy has no footer",
        path=str(path),
    )
