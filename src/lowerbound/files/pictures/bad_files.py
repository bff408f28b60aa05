"""Files that cannot be read: how many may be left out, and what is said about them."""

from __future__ import annotations

from dataclasses import dataclass

from lowerbound.columns.arrow import place
from lowerbound.errors import DataError, LowerboundError, UsageError

BAD_SHARE = 0.01  # of unreadable files that are skipped without having been asked
REASON = 60  # characters of why a file could not be read
NAMED = 5  # unreadable files that are named
POLICIES = ("auto", "skip", "fail")


@dataclass(frozen=True)
class _Bad:
    """A file that could not be read, and why."""

    name: str
    error: LowerboundError


class Tally:
    """Counts the files that cannot be read, and decides when they are too many.

    Args:
        total: number of files.
        policy: "skip" leaves out any number, "fail" none, "auto" up to 1 %.
    """

    def __init__(self, total: int, policy: str) -> None:
        if policy not in POLICIES:
            raise UsageError(
                "E241",
                f"on_bad_file {policy!r} is none of {', '.join(POLICIES)}",
                fix="--on-bad-file skip, or --on-bad-file fail",
            )
        self.total, self.policy = total, policy
        self.bad: list[_Bad] = []

    def add(self, name: str, error: LowerboundError) -> None:
        """Note one file; raise its error where none may be left out."""
        if self.policy == "fail":
            raise error
        self.bad.append(_Bad(name, error))

    def check(self) -> None:
        """Raise E084 where more were left out than may be without a word."""
        count = len(self.bad)
        if count == self.total or (self.policy == "auto" and too_many(count, self.total)):
            skip = "--on-bad-file skip leaves them out (on_bad_file='skip' in Python)"
            raise DataError(
                "E084",
                f"{count:,} of {self.total:,} pictures cannot be read ({count / self.total:.1%}): "
                + self._named(),
                fix="repair or remove them" + ("" if count == self.total else f"; {skip}"),
                files=[bad.name for bad in self.bad[:100]],
                count=count,
            )

    def _named(self) -> str:
        told = [f"{bad.name[-60:]} ({reason_of(bad.error)})" for bad in self.bad[:NAMED]]
        return ", ".join(told) + (" ..." if len(self.bad) > NAMED else "")

    @property
    def notes(self) -> list[str]:
        """One line about what was left out."""
        if not self.bad:
            return []
        share = len(self.bad) / self.total
        return [
            f"{counted(len(self.bad), 'unreadable file')} skipped ({share:.2%}): {self._named()}; "
            "--on-bad-file fail stops instead"
        ]


def too_many(bad: int, total: int) -> bool:
    """Tell whether more files are unreadable than are left out without having been asked."""
    return bad > BAD_SHARE * total


def reason_of(error: LowerboundError) -> str:
    """Return why a file could not be read, in a few words."""
    told = error.message.removeprefix(place(error.details.get("path", ""))).strip()
    reason = str(error.details.get("reason") or told.rpartition(": ")[2])
    return reason if len(reason) <= REASON else f"{reason[: REASON - 3]}..."


def counted(count: int, what: str) -> str:
    """Spell a number of things."""
    return f"{count:,} {what}{'s' * (count != 1)}"
