"""Detect the dialect of a text table: its separator and its header."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from typing import NamedTuple

from lowerbound.columns.arrow import MISSING_NUMBER, NUMBER, listed, place, snippet
from lowerbound.errors import DataError
from lowerbound.files.shards import numbered
from lowerbound.files.text.encoding import Text

MOST_COLUMNS = 100_000
MARKS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_DELIMITERS = ",;\t|"
_NUMBER = re.compile(NUMBER)
_BLANK_LINES = re.compile(r"([ \t]*(\r\n|\n|\r))*")


class Dialect(NamedTuple):
    """The dialect of a text table."""

    delimiter: str
    names: list[str]
    header: bool
    blank: int  # blank lines before the first
    notes: tuple[str, ...]


def find_dialect(text: Text, *, strict: bool = True) -> Dialect:
    """Detect the separator, and whether the first line is a header.

    Args:
        text: the file.
        strict: raise E012 for repeated names instead of numbering them.
    """
    head = text.head().decode("utf-8", errors="ignore").removeprefix("\ufeff")
    lines = [line for line in head.splitlines()[:60] if line.strip()]
    if not lines:
        raise DataError(
            "E004",
            f"{place(text.path)} has blank lines only",
            fix="export or download the file again",
            path=str(text.path),
        )
    expected = (
        "\t" if text.path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab")) else ","
    )
    delimiter = _delimiter(lines, expected)
    notes = []
    if delimiter != expected and delimiter in lines[0]:
        notes.append(f"{text.path.name}: separated by {MARKS[delimiter]}")
    start = len(_BLANK_LINES.match(head)[0])  # pyright: ignore[reportOptionalSubscript]
    rows = _first_rows(text, head[start:], delimiter)
    first = rows[0]
    if len(first) > MOST_COLUMNS:
        raise DataError(
            "E015",
            f"{place(text.path)} has {len(first):,} columns; at most {MOST_COLUMNS:,} are read",
            fix="check the separator and the line ends, or store it as a .npz matrix",
            path=str(text.path),
        )
    names, header, more = _names(text, rows, strict)
    blank = len(head[:start].splitlines())
    return Dialect(delimiter, names, header, blank, (*notes, *more))


def _first_rows(text: Text, head: str, delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    reader = csv.reader(head.splitlines(True), delimiter=delimiter)
    try:
        rows += (row for row in itertools.islice(reader, 30) if row)
    except csv.Error as error:  # a value of more than 128 kB; allowed below the first row
        if not rows:
            raise DataError(
                "E015",
                f"line 1 of {place(text.path)} has a value of more than 131,072 letters: "
                f"{snippet(head)}",
                fix="check the quotation marks, the separator and the line ends",
                path=str(text.path),
                line=1,
            ) from error
    return rows


def _delimiter(lines: list[str], expected: str) -> str:
    """Return the separator that splits the most lines into equally many values."""

    def regularity(mark: str) -> tuple[float, bool, bool, int]:
        counts = Counter(len(re.sub(r'"[^"]*"', "", line).split(mark)) for line in lines)
        cells, often = counts.most_common(1)[0]
        # Commas may be decimal marks between any other separator; the others rarely are.
        chosen = mark == expected != ","
        return (often / len(lines) if cells > 1 else 0.0, chosen, mark != ",", cells)

    # The header contains the separator: a mark that occurs only in the values is not one.
    there = [mark for mark in _DELIMITERS if mark in lines[0]] or [expected]
    return max(there, key=regularity)


def _names(text: Text, rows: list[list[str]], strict: bool) -> tuple[list[str], bool, list[str]]:
    """Return column names from the first line, or generated names if it is not a header."""
    path, first, notes = text.path, rows[0], []
    if _is_data(rows):
        note = f"{path.name}: no header; the columns are called x0 to x{len(first) - 1}"
        return [f"x{j}" for j in range(len(first))], False, [note]
    names = [name.strip() for name in first]
    if names != first:
        notes.append(f"{path.name}: spaces around column names were removed")
    if empty := [j for j, name in enumerate(names) if not name]:
        for j in empty:
            names[j] = f"unnamed_{j}"
        named = listed([names[j] for j in empty])
        notes.append(f"{path.name}: {len(empty)} columns without a name are called {named}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        places = [j + 1 for j, name in enumerate(names) if name == twice[0]]
        error = DataError(
            "E012",
            f"line 1 of {place(path)} names {listed(twice)} more than once (values "
            f"{', '.join(map(str, places[:5]))})",
            fix="give every column its own name",
            path=str(path),
            columns=twice,
        )
        if strict:
            raise error
        notes.append(f"{error.message}; numbered here, and refused by fit (E012)")
        names = numbered(names)
    return names, True, notes


def _is_data(rows: list[list[str]]) -> bool:
    """Return whether the first row is data: it has numbers where the next rows have numbers.

    A row of column numbers or of consecutive years is a header. So is a row with a word above
    numbers.
    """
    first, later = rows[0], rows[1:]
    numbers = [word for word in first if _is_number(word)]
    if not numbers or _count_columns(numbers):
        return False
    for j, word in enumerate(first):
        below = [row[j] for row in later if j < len(row)]
        if below and not _may_be_number(word) and all(map(_may_be_number, below)):
            return False
    return True


def _is_number(word: str) -> bool:
    return _NUMBER.match(word.replace(",", ".", 1)) is not None


def _may_be_number(word: str) -> bool:
    return _is_number(word) or word.strip() in MISSING_NUMBER


def _count_columns(numbers: list[str]) -> bool:
    try:
        counted = [int(number) for number in numbers]
    except ValueError:
        return False
    steps = [b - a for a, b in zip(counted, counted[1:], strict=False)]
    years = min(counted) >= 1800 and max(counted) <= 2100 and all(step > 0 for step in steps)
    return bool(steps) and (years or all(step == 1 for step in steps))
