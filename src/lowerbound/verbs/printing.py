"""What people see: lines, small tables and errors, at the width of their terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowerbound.errors import LowerboundError
from lowerbound.progress import hanging

if TYPE_CHECKING:
    from rich.console import Console

    from lowerbound.verbs.result import Result, Sheet

_COMMAND = re.compile(r"--[a-z][a-z-]*(?: [^\s,]+)?(?: --rename \S+)*")


def console(*, stderr: bool = False) -> Console:
    """Return a terminal as wide as it is, or 80 columns; NO_COLOR and dumb ones stay plain."""
    from rich.console import Console  # 50 ms that --help can do without

    return Console(stderr=stderr, highlight=False, emoji=False, markup=False)


def show(result: Result, out: Console) -> None:
    """Print what a verb found, then what it wrote, then what could come next."""
    for line in result.lines:
        out.print(hanging(line, out.width), soft_wrap=True)
    for note in result.notes:
        out.print(hanging(f"! {note}", out.width), soft_wrap=True, style="yellow")
    if result.sheet is not None and result.sheet.rows:
        out.print(_table(result.sheet), "")
    if result.path is not None:
        out.print(str(result.path), soft_wrap=True, style="bold")
    if result.next:
        out.print(f"next:  {result.next}", soft_wrap=True, style="dim")


def _table(sheet: Sheet) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=sheet.title or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for name in sheet.columns:
        right = name in sheet.right
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    # The first column is what one looks for: it keeps its width when space is short.
    longest = max(len(row[0]) for row in sheet.rows)
    table.columns[0].min_width = min(24, max(longest, len(sheet.columns[0])))
    for row in sheet.rows:
        table.add_row(*row)
    return table


def as_json(result: Result) -> str:
    """Return the facts of a verb as one JSON object."""
    facts = dict(result.facts)
    if result.path is not None:
        facts["out"] = str(result.path)
    return json.dumps(facts, ensure_ascii=False, allow_nan=False, default=str)


def finite(value: Any) -> Any:
    """Return `value` with numbers that JSON has no word for replaced by null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def error_lines(error: LowerboundError, command: Sequence[str]) -> str:
    """Lay an error out: what and where, how to fix it, where to read more."""
    head, *rest = error.message.split("\n")
    lines = [f"error[{error.code}] {head}", *rest]
    if error.fix:
        lines.append(f"  fix: {repaired(error.fix, command)}")
    lines.append(f"  why: lowerbound explain {error.code}")
    return "\n".join(lines)


def error_json(error: LowerboundError, exit_code: int) -> str:
    """Return an error as one JSON object."""
    return json.dumps(
        {
            "error": {
                "code": error.code,
                "exit": exit_code,
                "message": error.message,
                "hint": error.fix,
                "details": finite(error.details),
            }
        },
        ensure_ascii=False,
        default=str,
    )


def repaired(fix: str, command: Sequence[str]) -> str:
    """Return the whole command with the flag that would mend it, where `fix` is such a flag."""
    import shlex

    if not command or not _COMMAND.fullmatch(fix):
        return fix
    words = fix.split(" ")
    kept = list(command)
    if words[0] in kept and words[0] != "--rename":
        at = kept.index(words[0])
        del kept[at : at + len(words)]
    return shlex.join(["lowerbound", *kept, *words])


def to_stderr(text: str) -> None:
    """Print an error, whatever the terminal's encoding can show."""
    stream = sys.stderr
    try:
        stream.write(text + "\n")
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
