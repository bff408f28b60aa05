"""Read CSV and TSV files, plain or compressed, into Arrow tables."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from lowerbound.columns.arrow import MISSING_NUMBER, is_text, listed, pc, place, snippet
from lowerbound.errors import DataError
from lowerbound.files import memory
from lowerbound.files.paths import readable
from lowerbound.files.text.dialect import MARKS, Dialect, find_dialect
from lowerbound.files.text.encoding import (
    LONGEST_LINE,
    EncodingScan,
    Text,
    load,
    scan,
    without_quotes,
)
from lowerbound.files.text.numerals import NumberNotation, Repair

BLOCK = 2**20  # bytes per parsed block; more for longer lines
_MOST_OPEN = 5  # lines with a quotation mark that is not closed that are repaired one by one


def read_table(
    path: Path, rows: int | None = None, *, strict: bool = True
) -> tuple[pa.Table, tuple[str, ...]]:
    """Read one CSV or TSV file, plain or compressed.

    Args:
        path: the file.
        rows: stop after this many rows.
        strict: raise E010, E011, E012, E013, E014 and E018. Otherwise lines with the wrong number
            of values are left out, repeated names are numbered, bytes that are no text and
            quotation marks that are not closed are removed, numbers that can be read in two ways
            stay text, and a file may have no rows; notes say so.

    Returns:
        The table, and notes on lossless repairs.

    Raises:
        DataError: E010 to E019, with the line and a snippet of it.
    """
    if rows is None and path.suffix.lower() != ".gz":
        fix = "convert it to Parquet and drop columns, or read its first rows only"
        with readable(path):
            memory.require(2 * path.stat().st_size, path, fix)
    layout = look(path, None if rows is None else rows + 1, strict=strict)
    further: list[str] = []
    try:
        table = _parse(layout)
    except DataError as error:
        if strict or error.code not in ("E010", "E013"):
            raise
        if error.code == "E010":
            further.append(f"{error.message}; left out here, and refused by fit (E010)")
            layout = layout._replace(skips=True)
            table = _parse(layout)
        else:
            table = pa.table({name: pa.nulls(0) for name in layout.dialect.names})
    if table.num_rows == 0:
        if strict:
            raise no_rows(layout)
        further.append(f"{no_rows(layout).message}; refused by fit (E013)")
    table = _keep_codes(table, layout)
    table, repairs = _repair(table, strict)
    return table.slice(0, rows), (*layout.notes, *further, *repairs)


def look(path: Path, head_lines: int | None = None, *, strict: bool = True) -> Layout:
    """Prepare a text file for the parser, and detect its dialect.

    Args:
        path: the file.
        head_lines: read only this many lines.
        strict: raise E011, E012 and E014 for what can be removed from the text, or numbered.

    Raises:
        DataError: E004 and E011 to E017 if the file is not a table.
    """
    text = load(path, head_lines, strict=strict)
    for tries in itertools.count():
        dialect = find_dialect(text, strict=strict)
        seen = scan(text, dialect.delimiter)
        error = _open_quote(text, dialect) if seen.quotes % 2 else None
        if error is None:
            return Layout(text, dialect, seen)
        if strict:
            raise error
        note = f"{error.message}; ignored here, and refused by fit (E011)"
        line = error.details["line"]
        text = without_quotes(text, line, line if tries < _MOST_OPEN else None, note)
    raise AssertionError("without quotation marks, none is open")


class Layout(NamedTuple):
    """A text file, its dialect, and whether lines with the wrong number of values are skipped."""

    text: Text
    dialect: Dialect
    seen: EncodingScan
    skips: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on lossless repairs."""
        return *self.text.notes, *self.dialect.notes

    def options(
        self, types: Mapping[str, pa.DataType] | None = None, *, only: bool = False
    ) -> dict[str, Any]:
        """Return options of the parser, which names the columns f0, f1, ... in any case.

        Args:
            types: of columns by name; other types are inferred.
            only: read no other columns.
        """
        inner = {name: f"f{j}" for j, name in enumerate(self.dialect.names)}
        types = types or {}
        parse = arrow_csv.ParseOptions(
            delimiter=self.dialect.delimiter,
            newlines_in_values=self.seen.multiline,
            # In a single column, an empty line is an empty value.
            ignore_empty_lines=len(inner) > 1,
            invalid_row_handler=(lambda row: "skip") if self.skips else None,
        )
        convert = arrow_csv.ConvertOptions(
            null_values=list(MISSING_NUMBER),
            column_types={inner[name]: kind for name, kind in types.items()},
            include_columns=[inner[name] for name in types] if only else [],
        )
        reading = arrow_csv.ReadOptions(
            column_names=list(inner.values()),
            skip_rows=self.dialect.blank,
            # Generated names accept any header; the header itself is skipped.
            skip_rows_after_names=1 if self.dialect.header else 0,
            block_size=max(2 * self.seen.longest, BLOCK),
        )
        return {"parse_options": parse, "convert_options": convert, "read_options": reading}

    def error(self, error: Exception) -> DataError:
        """Return the error for a failure of the parser."""
        text = self.text
        if "Expected" in str(error):
            return _ragged(self)
        if "straddl" in str(error) and self.seen.longest <= LONGEST_LINE:
            return no_rows(self)  # the header itself does not end
        return _unparsable(text, error)


def _parse(layout: Layout, only: Sequence[str] = ()) -> pa.Table:
    """Run the parser; with `only`, read just these columns, as text."""
    options = layout.options(dict.fromkeys(only, pa.string()), only=bool(only))
    try:
        with readable(layout.text.path), layout.text.open() as file:
            table = arrow_csv.read_csv(file, **options)
    except (pa.ArrowException, UnicodeError) as error:
        raise layout.error(error) from error
    return table.rename_columns(list(only) or layout.dialect.names)


def _ragged(layout: Layout) -> DataError:
    """Return the error for rows with the wrong number of values, with the first line."""
    bad: list[arrow_csv.InvalidRow] = []

    def collect(row: arrow_csv.InvalidRow) -> str:
        bad.append(row)
        return "skip"

    text, dialect = layout.text, layout.dialect
    # Read as text, so that only the number of values can be wrong; one block in memory at a time.
    options = layout.options(dict.fromkeys(dialect.names, pa.string()))
    options["parse_options"].invalid_row_handler = collect
    options["read_options"].use_threads = False  # single-threaded, so that rows have numbers
    with readable(text.path), text.open() as file:
        for _ in arrow_csv.open_csv(file, **options):
            pass
    first = bad[0]
    line = text.line_of(first.text.splitlines()[0].encode()) or first.number
    more = f"; {len(bad):,} lines have this error" if len(bad) > 1 else ""
    return DataError(
        "E010",
        f"line {line:,} of {place(text.path)} has {first.actual_columns:,} values where the "
        f"first has {first.expected_columns:,}: {snippet(first.text)}{more}",
        fix=f"correct the line, or put quotes around values that contain "
        f"{MARKS[dialect.delimiter]}; to see it: sed -n {line}p '{text.path}'",
        path=str(text.path),
        line=line,
        count=len(bad),
    )


def no_rows(layout: Layout) -> DataError:
    """Return the error for a file with nothing below its header."""
    path, names = layout.text.path, layout.dialect.names
    return DataError(
        "E013",
        f"{place(path)} has a header ({listed(names, 3)}) but no rows",
        fix="export it again with its rows",
        path=str(path),
    )


def _unparsable(text: Text, error: Exception) -> DataError:
    if "straddl" in str(error):
        return DataError(
            "E015",
            f"a line of {place(text.path)} is longer than {LONGEST_LINE // 2**20} MB",
            fix="check the quotation marks and the line ends",
            path=str(text.path),
        )
    return DataError(
        "E019",
        f"{place(text.path)} is not a valid CSV file: {str(error)[:200]}",
        fix="open it in a text editor near the place named",
        path=str(text.path),
    )


def _open_quote(text: Text, dialect: Dialect) -> DataError | None:
    """Return E011 if the file ends inside a quoted value; a lone quote may also mean inches."""
    with readable(text.path), text.open() as file:
        lines = (line.decode("utf-8", errors="replace") for line in file)
        reader = csv.reader(lines, delimiter=dialect.delimiter, strict=True)
        start = 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error as error:
            if "unexpected end" not in str(error) and "field larger" not in str(error):
                return None
        else:
            return None
    with readable(text.path), text.open() as file:
        opened = next(line for number, line in enumerate(file, 1) if number == start)
    return DataError(
        "E011",
        f"line {start:,} of {place(text.path)} opens a quotation mark that is never closed: "
        f"{snippet(opened.decode('utf-8', errors='replace').strip())}",
        fix=f'close it, or write it twice ("") if it belongs to the value; to see it: '
        f"sed -n {start}p '{text.path}'",
        path=str(text.path),
        line=start,
    )


def _keep_codes(table: pa.Table, layout: Layout) -> pa.Table:
    """Read columns again as text if numbers would lose digits, such as 007 or 20-digit ids."""
    zeros = layout.seen.zeros
    doubtful = [
        field.name
        for field in table.schema
        if may_be_codes(field.type, largest(table[field.name]), zeros)
    ]
    if not doubtful:
        return table
    words = _parse(layout, doubtful)
    for name in doubtful:
        if are_codes(words[name]):
            column = as_codes(words[name])
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def may_be_codes(kind: pa.DataType, largest: float, zeros: bool) -> bool:
    """Return whether numbers could have lost digits.

    Args:
        kind: their type from the parser.
        largest: the largest absolute value.
        zeros: whether some value of the file begins with a zero and a further digit.
    """
    if pa.types.is_integer(kind):
        return zeros
    return pa.types.is_float64(kind) and 2.0**53 < largest < np.inf


def largest(column: pa.ChunkedArray) -> float:
    """Return the largest absolute value of a column of doubles; 0 for other types."""
    if not pa.types.is_float64(column.type):
        return 0.0
    low, high = (bound.as_py() for bound in pc.min_max(column).values())
    return 0.0 if low is None else max(-low, high)


def are_codes(words: pa.ChunkedArray) -> bool:
    """Return whether a value has more digits than a number keeps."""
    pattern = r"^\s*[+-]?(0\d+|\d{16,})\s*$"
    return bool(pc.any(pc.match_substring_regex(words, pattern)).as_py())


def as_codes(words: pa.ChunkedArray) -> pa.ChunkedArray:
    """Keep the values as text, except markers of missing numbers."""
    blank = pc.is_in(pc.utf8_trim_whitespace(words), value_set=pa.array(MISSING_NUMBER))
    return pc.if_else(blank, pa.scalar(None, pa.string()), words)


def _repair(table: pa.Table, strict: bool) -> tuple[pa.Table, list[str]]:
    notes, columns = [], {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        repair = None
        if is_text(column.type):
            spelling = NumberNotation(name)
            spelling.see(column)
            try:
                repair = spelling.repair() or without_blanks
            except DataError as error:
                if strict:
                    raise
                repair = without_blanks
                notes.append(f"{error.message}; fit refuses this ({error.code}): {error.fix}")
        if isinstance(repair, Repair):
            notes.append(repair.note)
        columns[name] = repair(column) if repair else column
    return pa.table(columns), notes


def without_blanks(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace empty text with missing values."""
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
