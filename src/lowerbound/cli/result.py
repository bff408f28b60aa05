"""Results of verbs: facts as JSON, rows as a table, lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lowerbound.coding.tables import Coded
    from lowerbound.errors import LowerboundError
    from lowerbound.files.data import Data


@dataclass(frozen=True)
class Sheet:
    """A small table to print.

    Attributes:
        columns: the headings.
        rows: the values as text, one sequence per row.
        title: a line above the table, or empty.
        right: the headings of columns of numbers, which are aligned to the right.
        notes: a note on each row, printed below it where a further column is too narrow.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    right: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """The result of a verb.

    Attributes:
        facts: plain JSON values.
        table: the rows, in the type of the input table; None if the verb makes no rows.
        text: output to print unchanged, for a pipe or a file.
        lines: the facts as sentences.
        notes: warnings and remarks, one line each.
        sheet: a small table to show.
        details: a further small table.
        path: the file or folder that was written, or None.
        next: a command to run next, or empty.
        interrupted: whether the user ended the work early.
        model: the trained `Model`, if the verb made one.
        failed: the error of a check that failed, which ends the command after the result is
            printed, or None.
    """

    facts: dict[str, Any]
    table: Any = None
    text: str = ""
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()
    sheet: Sheet | None = None
    details: Sheet | None = None
    path: Path | None = None
    next: str = ""
    interrupted: bool = False
    model: Any = None
    failed: LowerboundError | None = None


_TALLIES = {
    "unseen": "values not seen in training, treated as unknown",
    "clipped": "extreme values, clipped to the limit",
    "missing": "missing values",
}


def left_out(given: _Given | None) -> dict[str, Any]:
    """Return the picture files that cannot be read, as facts; nothing for other data."""
    if given is None or given.unreadable is None:
        return {}
    return {"unreadable": [{"file": name, "reason": why} for name, why in given.unreadable]}


class _Given(Protocol):
    """Data whose reader counts the files that cannot be read."""

    @property
    def unreadable(self) -> Sequence[tuple[str, str]] | None:
        """The files that were left out, and why; None if the data are no picture files."""
        ...


class Remarks:
    """Notes and counts from reading and coding data part by part, as facts and as lines."""

    def __init__(self, given: Data | None = None) -> None:
        notes = () if given is None else given.notes
        self.notes = dict.fromkeys(notes)  # without repeats, in order of arrival
        self.left_out = left_out(given)
        self.tallies: dict[str, Counter[str]] = {}

    @classmethod
    def of(cls, given: Data, coded: Coded) -> Remarks:
        """Return the notes of the data and the counts of its coded rows."""
        remarks = cls(given)
        remarks.add(coded)
        return remarks

    def add(self, coded: Coded) -> None:
        """Add the counts of one coded part."""
        self.notes |= dict.fromkeys(coded.notes)
        for name in _TALLIES:
            self.tallies.setdefault(name, Counter()).update(getattr(coded, name))

    def absorb(self, facts: Mapping[str, Any]) -> None:
        """Add the counts of another process, from its `facts`."""
        self.notes |= dict.fromkeys(facts["notes"])
        for name in _TALLIES:
            self.tallies.setdefault(name, Counter()).update(facts.get(name, {}))

    @property
    def facts(self) -> dict[str, Any]:
        """Return plain JSON values: the notes, and the counts by column."""
        counts = {name: dict(counter) for name, counter in self.tallies.items()}
        return {"notes": list(self.notes), **counts, **self.left_out}

    @property
    def lines(self) -> list[str]:
        """Return one line for each note and for each kind of counted value."""
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
