"""What a verb gives back: facts for programs, rows for further work, lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowerbound.coding.tables import Coded


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
        model: the `Model` model, where the verb made one.
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


_TALLIES = {
    "unseen": "values that training never saw, taken as unknown",
    "clipped": "values beyond all reason, held at the limit",
    "missing": "missing cells",
}


class Remarks:
    """What reading and coding come across, part by part, as facts and as one line each."""

    def __init__(self, notes: Sequence[str] = ()) -> None:
        self.notes = dict.fromkeys(notes)  # each once, in the order in which they came
        self.tallies: dict[str, Counter[str]] = {}

    @classmethod
    def of(cls, notes: Sequence[str], coded: Coded) -> Remarks:
        """Collect the notes of the data and the tallies of the rows coded from it."""
        remarks = cls(notes)
        remarks.add(coded)
        return remarks

    def add(self, coded: Coded) -> None:
        """Count what coding a part came across."""
        self.notes |= dict.fromkeys(coded.notes)
        for name in _TALLIES:
            self.tallies.setdefault(name, Counter()).update(getattr(coded, name))

    def absorb(self, facts: Mapping[str, Any]) -> None:
        """Count what was met elsewhere, from what `facts` said there."""
        self.notes |= dict.fromkeys(facts["notes"])
        for name in _TALLIES:
            self.tallies.setdefault(name, Counter()).update(facts.get(name, {}))

    @property
    def facts(self) -> dict[str, Any]:
        """Plain JSON values: the notes, and counts by column."""
        counts = {name: dict(counter) for name, counter in self.tallies.items()}
        return {"notes": list(self.notes), **counts}

    @property
    def lines(self) -> list[str]:
        """A line for each note, and for each kind of cells that were met."""
        counted = [
            _told(self.tallies[name], what)
            for name, what in _TALLIES.items()
            if self.tallies.get(name)
        ]
        return [*self.notes, *counted]


def _told(counts: Counter[str], what: str) -> str:
    named = ", ".join(f"{column} {count:,}" for column, count in counts.most_common(4))
    rest = f" and {len(counts) - 4} more columns" if len(counts) > 4 else ""
    return f"{counts.total():,} {what}: {named}{rest}"
