"""Print results: lines and small tables at the width of the terminal, or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lowerbound.cli.complaints import finite
from lowerbound.cli.progress import hanging
from lowerbound.cli.result import Result, Sheet
from lowerbound.cli.visible import in_json, line, visible


class _Terminal(Console):
    """A console that raises on a closed pipe, so that `main` can handle it."""

    def on_broken_pipe(self) -> None:
        """Raise the error instead of ending the process with exit code 1."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or 80 columns; plain if NO_COLOR is set."""
    return _Terminal(stderr=stderr, highlight=False, emoji=False, markup=False)


def show(result: Result, out: Console) -> None:
    """Print the result of a verb: its findings, its output path, and a command to run next."""
    if result.text:
        out.print(visible(result.text), soft_wrap=True, end="")
    for each in result.lines:
        out.print(hanging(line(each), out.width), soft_wrap=True)
    for note in result.notes:
        out.print(hanging(f"! {line(note)}", out.width), soft_wrap=True, style="yellow")
    for sheet in (result.sheet, result.details):
        if sheet is not None and sheet.rows:
            out.print(_table(sheet, out.width), "")
    if result.path is not None:
        out.print(line(str(result.path)), soft_wrap=True, style="bold")
    if result.next:
        out.print(f"next:  {line(result.next)}", soft_wrap=True, style="dim")


def _table(sheet: Sheet, width: int) -> RenderableType:
    """Return a sheet as a table; notes are a further column if that fits, else below the rows."""
    if not any(sheet.notes):
        return _grid(sheet)
    wide = Sheet(
        (*sheet.columns, "notes"),
        [(*row, note) for row, note in zip(sheet.rows, sheet.notes, strict=True)],
        sheet.title,
        sheet.right,
    )
    table = _grid(wide)
    needs = sum(
        max(map(cell_len, texts)) + 2 for texts in zip(wide.columns, *wide.rows, strict=True)
    )
    return table if needs <= width else _with_notes_below(sheet, width)


def _grid(sheet: Sheet) -> Table:
    table = Table(
        title=line(sheet.title) or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for name in sheet.columns:
        right = name in sheet.right
        table.add_column(line(name), justify="right" if right else "left", overflow="fold")
    # The first column identifies the row: it keeps its width when space is short.
    longest = max(len(row[0]) for row in sheet.rows)
    table.columns[0].min_width = min(24, max(longest, len(sheet.columns[0])))
    for row in sheet.rows:
        table.add_row(*map(line, row))
    return table


_INDENT = 4  # of notes below a row


def _with_notes_below(sheet: Sheet, width: int) -> Group:
    """Return a sheet as rows, each followed by its note at nearly the full width."""
    longest = [max(map(cell_len, texts)) for texts in zip(sheet.columns, *sheet.rows, strict=True)]
    room = width - 2 * (len(longest) - 1)
    *front, _ = [min(each, max(8, room * 2 // 5)) for each in longest]
    widths = [*front, max(8, room - sum(front))]
    lines: list[RenderableType] = [
        _row(sheet.columns, widths),
        "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * width,
    ]
    for row, note in zip(sheet.rows, sheet.notes, strict=True):
        lines.append(_row(row, widths))
        if note:
            lines.append(Padding(Text(line(note), style="dim"), (0, 0, 0, _INDENT)))
    return Group(*([line(sheet.title)] if sheet.title else []), *lines)


def _row(texts: Sequence[str], widths: Sequence[int]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for width in widths:
        grid.add_column(width=width, overflow="fold")
    grid.add_row(*map(line, texts))
    return grid


def as_json(result: Result) -> str:
    """Return the facts of a result as one JSON object."""
    facts = finite(result.facts)
    if result.path is not None:
        facts["out"] = str(result.path)
    return in_json(json.dumps(facts, ensure_ascii=False, allow_nan=False, default=str))
