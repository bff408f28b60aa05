"""CSV and TSV files, plain or compressed, to Arrow tables."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from lowerbound.cells import MISSING_NUMBER, is_text, listed, pc, place, snippet
from lowerbound.data import memory
from lowerbound.data.dialect import MARKS, Dialect, find_dialect
from lowerbound.data.files import readable
from lowerbound.data.numerals import repair_column
from lowerbound.data.textfile import LONGEST_LINE, Scan, Text, load, scan
from lowerbound.errors import DataError


def read_table(path: Path, rows: int | None = None) -> tuple[pa.Table, tuple[str, ...]]:
    """Read one CSV or TSV file, plain or compressed.

    Args:
        path: the file.
        rows: stop after this many rows.

    Returns:
        The table, and the lossless repairs that were made.

    Raises:
        DataError: E010 to E019, with the line and a snippet of it.
    """
    if rows is None and path.suffix.lower() != ".gz":
        fix = "convert it to Parquet and drop columns, or read its first rows only"
        with readable(path):
            memory.require(2 * path.stat().st_size, path, fix)
    text = load(path, None if rows is None else rows + 1)
    dialect = find_dialect(text)
    seen = scan(text, dialect.delimiter)
    if seen.quotes % 2:
        _refuse_open_quote(text, dialect)
    table = _parse(text, dialect, seen)
    if table.num_rows == 0:
        raise _no_rows(text, dialect)
    table = _keep_codes(table, text, dialect, seen)
    table, repairs = _repair(table)
    return table.slice(0, rows), (*text.notes, *dialect.notes, *repairs)


def _parse(
    text: Text,
    dialect: Dialect,
    seen: Scan,
    *,
    only: list[str] | None = None,
    on_bad_row: Callable[[arrow_csv.InvalidRow], str] | None = None,
) -> pa.Table:
    """Run the parser; with `only`, read just these columns, as text."""
    inner = [f"f{j}" for j in range(len(dialect.names))]
    outer = dict(zip(dialect.names, inner, strict=True))
    parse = arrow_csv.ParseOptions(
        delimiter=dialect.delimiter,
        newlines_in_values=seen.multiline,
        ignore_empty_lines=len(inner) > 1,  # in a single column, an empty line is an empty cell
        invalid_row_handler=on_bad_row,
    )
    convert = arrow_csv.ConvertOptions(
        null_values=list(MISSING_NUMBER),
        column_types={outer[name]: pa.string() for name in only or ()},
        include_columns=[outer[name] for name in only or ()],
    )
    reading = arrow_csv.ReadOptions(
        column_names=inner,
        skip_rows=dialect.blank,
        # Names are ours, so that any header is read; the header itself is then skipped.
        skip_rows_after_names=1 if dialect.header else 0,
        block_size=max(2 * seen.longest, 2**20),
        use_threads=on_bad_row is None,
    )
    try:
        with readable(text.path), text.open() as file:
            table = arrow_csv.read_csv(
                file, read_options=reading, parse_options=parse, convert_options=convert
            )
    except (pa.ArrowException, UnicodeError) as error:
        if on_bad_row is None and "Expected" in str(error):
            raise _ragged(text, dialect, seen) from error
        if "straddl" in str(error) and seen.longest <= LONGEST_LINE:
            raise _no_rows(text, dialect) from error  # not even the header ends
        raise _unparsable(text, error) from error
    return table.rename_columns(only or dialect.names)


def _ragged(text: Text, dialect: Dialect, seen: Scan) -> DataError:
    """Find the rows with the wrong number of cells, and name the line of the first."""
    bad: list[arrow_csv.InvalidRow] = []

    def collect(row: arrow_csv.InvalidRow) -> str:
        bad.append(row)
        return "skip"

    _parse(text, dialect, seen, on_bad_row=collect)
    first = bad[0]
    line = text.line_of(first.text.splitlines()[0].encode()) or first.number
    more = f"; {len(bad):,} lines are like that" if len(bad) > 1 else ""
    return DataError(
        "E010",
        f"line {line:,} of {place(text.path)} has {first.actual_columns:,} cells where the "
        f"first has {first.expected_columns:,}: {snippet(first.text)}{more}",
        fix=f"correct the line, or put quotes around values that contain "
        f"{MARKS[dialect.delimiter]}; to see it: sed -n {line}p '{text.path}'",
        path=str(text.path),
        line=line,
        count=len(bad),
    )


def _no_rows(text: Text, dialect: Dialect) -> DataError:
    return DataError(
        "E013",
        f"{place(text.path)} has a header ({listed(dialect.names, 3)}) but no rows",
        fix="export it again with its rows",
        path=str(text.path),
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
        f"{place(text.path)} is no valid CSV: {str(error)[:200]}",
        fix="open it in a text editor near the place named",
        path=str(text.path),
    )


def _refuse_open_quote(text: Text, dialect: Dialect) -> None:
    """Raise E011 if the file ends inside a quoted value; odd quotes may also be honest inches."""
    with readable(text.path), text.open() as file:
        lines = (line.decode("utf-8", errors="replace") for line in file)
        reader = csv.reader(lines, delimiter=dialect.delimiter, strict=True)
        start = 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error as error:
            if "unexpected end" not in str(error) and "field larger" not in str(error):
                return
        else:
            return
    with readable(text.path), text.open() as file:
        opened = next(line for number, line in enumerate(file, 1) if number == start)
    raise DataError(
        "E011",
        f"line {start:,} of {place(text.path)} opens a quotation mark that is never closed: "
        f"{snippet(opened.decode('utf-8', errors='replace').strip())}",
        fix=f'close it, or write it twice ("") if it belongs to the value; to see it: '
        f"sed -n {start}p '{text.path}'",
        path=str(text.path),
        line=start,
    )


def _keep_codes(table: pa.Table, text: Text, dialect: Dialect, seen: Scan) -> pa.Table:
    """Read numbers again as text where a number would lose digits: 007, or 20-digit ids."""
    doubtful = [
        name
        for name in table.column_names
        if (seen.zeros and pa.types.is_integer(table[name].type)) or _too_long(table[name])
    ]
    if not doubtful:
        return table
    words = _parse(text, dialect, seen, only=doubtful)
    for name in doubtful:
        column = words[name]
        code = pc.any(pc.match_substring_regex(column, r"^\s*[+-]?(0\d+|\d{16,})\s*$")).as_py()
        if code:
            blank = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(MISSING_NUMBER))
            column = pc.if_else(blank, pa.scalar(None, pa.string()), column)
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def _too_long(column: pa.ChunkedArray) -> bool:
    """Whether a column of doubles holds whole numbers beyond what a double can tell apart."""
    if not pa.types.is_float64(column.type):
        return False
    low, high = (bound.as_py() for bound in pc.min_max(column).values())
    return low is not None and 2.0**53 < max(-low, high) < np.inf


def _repair(table: pa.Table) -> tuple[pa.Table, list[str]]:
    notes, columns = [], []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if is_text(column.type):
            column, note = repair_column(name, column)  # noqa: PLW2901 the repaired one
            if note:
                notes.append(note)
            else:
                empty = pc.equal(column, "")
                column = pc.if_else(empty, pa.scalar(None, column.type), column)  # noqa: PLW2901
        columns.append(column)
    return pa.Table.from_arrays(columns, names=table.column_names), notes
