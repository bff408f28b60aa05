"""What a verb gives back: facts for programs, rows for further work, lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowerbound.data.coding import Coded


@dataclass(frozen=True)
class Sheet:
    """A small table for people.

    Attributes:
        columns: the headings.
        rows: cells as text, one sequence per row.
        title: what the rows are, or nothing.
        right: the headings whose cells are numbers.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    right: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """What a verb found and made.

    Attributes:
        facts: plain JSON values.
        table: the rows, in the kind of table that was given; None where a verb makes none.
        text: what is to be printed as it is, to be piped into a file.
        lines: the facts in sentences.
        notes: what else the user should know, a line each.
        sheet: a small table to show.
        path: what was written, or None.
        next: a command that would make sense now.
        interrupted: whether the user ended the work early.
        model: the `Trained` model, where the verb made one.
    """

    facts: dict[str, Any]
    table: Any = None
    text: str = ""
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()
    sheet: Sheet | None = None
    path: Path | None = None
    next: str = ""
    interrupted: bool = False
    model: Any = None


@dataclass
class Remarks:
    """What reading and coding came across, as facts and as one line each."""

    facts: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, notes: Sequence[str], coded: Coded | None = None) -> Remarks:
        """Collect the notes of a `Frame` and the tallies of the rows coded from it."""
        remarks = cls({"notes": list(notes)}, list(notes))
        if coded is None:
            return remarks
        remarks.facts["notes"] += coded.notes
        remarks.lines += coded.notes
        remarks._count("unseen", coded.unseen, "values that training never saw, taken as unknown")
        remarks._count("clipped", coded.clipped, "values beyond all reason, held at the limit")
        remarks._count("missing", coded.missing, "missing cells")
        return remarks

    def _count(self, name: str, counts: Any, what: str) -> None:
        self.facts[name] = dict(counts)
        if not counts:
            return
        most = sorted(counts.items(), key=lambda item: -item[1])
        named = ", ".join(f"{column} {count:,}" for column, count in most[:4])
        rest = f" and {len(most) - 4} more columns" if len(most) > 4 else ""
        self.lines.append(f"{sum(counts.values()):,} {what}: {named}{rest}")
