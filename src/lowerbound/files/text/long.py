"""Convert CSV and TSV files larger than memory to Arrow in scratch space, block by block.

The result is that of `tables.read_table` for the same file. The first pass finds for each column
the first of the parser's types that fits all its values, the notation of numbers, and the numbers
that may be codes. The second pass, if needed, checks the digits of possible codes. The last pass
writes the typed rows into an anonymous file, from which they are read part by part.
"""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.csv as arrow_csv

from lowerbound.columns.arrow import is_text, place
from lowerbound.errors import ResourceError
from lowerbound.files import ipc, memory, scratch, shards
from lowerbound.files.paths import readable
from lowerbound.files.text import tables
from lowerbound.files.text.numerals import NumberNotation

# The parser's types for a whole file, in the order in which it tries them.
_TYPES = (
    pa.null(),
    pa.int64(),
    pa.bool_(),
    pa.date32(),
    pa.time32("s"),
    pa.timestamp("s"),
    pa.timestamp("s", "UTC"),
    pa.timestamp("ns"),
    pa.timestamp("ns", "UTC"),
    pa.float64(),
    pa.string(),
)
_FAILED = re.compile(
    r"In CSV column #(\d+):.*?conversion error(?:.*invalid value '(.*)'$)?", re.DOTALL
)
_SHARE = 4  # text larger than a quarter of the free memory is read in parts
_GROWTH = 2  # bytes of memory per byte of text


class Shard(NamedTuple):
    """The rows of one text file, typed, in scratch space."""

    path: Path
    schema: pa.Schema
    rows: int
    bytes: int
    content: mmap.mmap
    notes: tuple[str, ...]

    def read(self, rows: int | None) -> pa.Table:
        """Return the first `rows` rows; None means all."""
        return shards.first(self, rows)

    def parts(self, size: int) -> Iterator[pa.Table]:
        """Yield the rows in order, at most `size` at a time."""
        file = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self.content)))
        for batch in ipc.batches(file, size):
            yield pa.Table.from_batches([batch]).select(self.schema.names).cast(self.schema)
            self.content.madvise(mmap.MADV_DONTNEED)  # release the pages that were read

    def only(self, names: Sequence[str]) -> Shard:
        """Return the file with only the given columns."""
        fields = [field for field in self.schema if field.name in names]
        return self._replace(schema=pa.schema(fields))


def are_long(files: list[Path]) -> bool:
    """Return whether text files are read in parts; compressed files never are."""
    if any(path.suffix.lower() == ".gz" for path in files):
        return False
    size = 0
    for path in files:
        with readable(path):
            size += path.stat().st_size
    return _GROWTH * size * _SHARE > memory.available()


def open_all(files: list[Path]) -> list[Shard]:
    """Read text files into scratch space.

    Columns that are text in some files and something else in others are text, as in memory.

    Raises:
        DataError: E010 to E019, as `tables.read_table`.
        ResourceError: E301 if the disk is full, E303 for a long file that is not UTF-8.
    """
    opened = [_open(path) for path in files]
    texts = {field.name for one in opened for field in one.schema if is_text(field.type)}
    return [one._replace(schema=_with_texts(one.schema, texts)) for one in opened]


def _with_texts(schema: pa.Schema, names: set[str]) -> pa.Schema:
    kinds = ((f.name, pa.string() if f.name in names else f.type) for f in schema)
    return pa.schema(list(kinds))


def _open(path: Path) -> Shard:
    layout = tables.look(path)
    if layout.text.content is not None:  # a UTF-8 file is read directly
        raise ResourceError(
            "E303",
            f"{place(path)} is not in UTF-8, and too large to convert in memory",
            fix=f"convert it first, for instance: iconv -f LATIN1 -t UTF-8 '{path}' > utf8.csv",
            path=str(path),
        )
    survey = _surveyed(layout)
    if not survey.rows:
        raise tables.no_rows(layout)
    codes = _codes(layout, survey)
    types = {**survey.types, **dict.fromkeys(codes, pa.string())}
    repairs = {name: found for name, looked in survey.spelt.items() if (found := looked.repair())}

    def finished(block: pa.Table) -> pa.Table:
        changed = {
            name: tables.as_codes(column)
            if name in codes
            else repairs.get(name, tables.without_blanks)(column)
            if is_text(column.type)
            else column
            for name, column in zip(block.column_names, block.columns, strict=True)
        }
        return pa.table(changed)

    schema = finished(pa.schema(list(types.items())).empty_table()).schema

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, schema) as writer:
            for block in _blocks(layout, types):
                writer.write_table(finished(block))

    notes = (*layout.notes, *(repair.note for repair in repairs.values()))
    return Shard(
        path, schema, survey.rows, survey.bytes, scratch.written(write, survey.bytes), notes
    )


class _WrongTypeError(Exception):
    """A value that does not have the type of its column."""

    def __init__(self, column: int, cell: str | None) -> None:
        super().__init__(column, cell)
        self.column, self.cell = column, cell


@dataclass
class _Survey:
    """The properties of all rows.

    Attributes:
        types: of the columns.
        rows: the number of rows.
        bytes: their size in memory.
        largest: the largest absolute value of each column of doubles.
        spelt: the notation of numbers of each column of text.
    """

    types: dict[str, pa.DataType]
    rows: int = 0
    bytes: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    spelt: dict[str, NumberNotation] = field(default_factory=dict)

    def see(self, block: pa.Table) -> None:
        """Add a block of rows."""
        self.rows += block.num_rows
        self.bytes += block.nbytes
        for name, column in zip(block.column_names, block.columns, strict=True):
            if is_text(column.type):
                self.spelt.setdefault(name, NumberNotation(name)).see(column)
            else:
                self.largest[name] = max(self.largest.get(name, 0.0), tables.largest(column))


def _surveyed(layout: tables.Layout) -> _Survey:
    """Scan all rows; restart if a value does not have the type of the earlier values."""
    types: dict[str, pa.DataType] = {}
    while True:
        survey = _Survey(types)
        try:
            for block in _blocks(layout, types):
                survey.types.update(zip(block.column_names, block.schema.types, strict=True))
                survey.see(block)
        except _WrongTypeError as wrong:
            name = layout.dialect.names[wrong.column]
            types = {**survey.types, name: _next(survey.types[name], wrong.cell)}
        else:
            return survey


def _next(kind: pa.DataType, cell: str | None) -> pa.DataType:
    """Return the next type to try after `kind`: one that fits the value, if it is known."""
    later = _TYPES[_TYPES.index(kind) + 1 :]
    if cell is None:
        return later[0]
    text = '"' + cell.replace('"', '""') + '"\n'
    for other in later:
        convert = arrow_csv.ConvertOptions(column_types={"f0": other})
        names = arrow_csv.ReadOptions(column_names=["f0"])
        with suppress(pa.ArrowInvalid):
            arrow_csv.read_csv(io.BytesIO(text.encode()), names, convert_options=convert)
            return other
    return pa.string()


def _codes(layout: tables.Layout, survey: _Survey) -> set[str]:
    """Return the columns of numbers that would lose digits."""
    zeros = layout.seen.zeros
    doubtful = [
        name
        for name, kind in survey.types.items()
        if tables.may_be_codes(kind, survey.largest.get(name, 0.0), zeros)
    ]
    found: set[str] = set()
    if doubtful:
        for block in _blocks(layout, dict.fromkeys(doubtful, pa.string()), only=True):
            found |= {name for name in doubtful if tables.are_codes(block[name])}
    return found


def _blocks(
    layout: tables.Layout, types: Mapping[str, pa.DataType], *, only: bool = False
) -> Iterator[pa.Table]:
    """Yield the rows in order, with columns of these types; other types are inferred."""
    names = list(types) if only else layout.dialect.names
    try:
        with readable(layout.text.path), layout.text.open() as file:
            for batch in arrow_csv.open_csv(file, **layout.options(types, only=only)):
                yield pa.Table.from_batches([batch]).rename_columns(names)
    except (pa.ArrowException, UnicodeError) as error:
        if failed := _FAILED.match(str(error)):
            raise _WrongTypeError(int(failed[1]), failed[2]) from error
        raise layout.error(error) from error
