"""Count unreadable files, limit how many may be left out, and report them."""

from __future__ import annotations

from dataclasses import dataclass

from lowerbound.columns.arrow import place
from lowerbound.errors import DataError, LowerboundError, UsageError

BAD_SHARE = 0.01  # of unreadable files that are skipped without having been asked
REASON = 60  # characters of why a file could not be read
NAMED = 5  # unreadable files that are named
POLICIES = ("auto", "skip", "fail")


Unreadable = tuple[tuple[str, str], ...]  # names of files, and why they cannot be read


@dataclass(frozen=True)
class _Bad:
    """A file that could not be read, and why."""

    name: str
    error: LowerboundError


class Tally:
    """A count of unreadable files, which decides when they are too many.

    All commands count with it, so that they agree on the number and on the list.

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
        """Record one unreadable file; raise its error where none may be left out."""
        if self.policy == "fail":
            raise error
        self.bad.append(_Bad(name, error))

    def check(self) -> None:
        """Raise E084 where more files were left out than the policy allows."""
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
    def unreadable(self) -> Unreadable:
        """The name of every file that was left out, and why."""
        return tuple((bad.name, reason_of(bad.error)) for bad in self.bad)

    @property
    def notes(self) -> list[str]:
        """One line about the files that were left out."""
        if not self.bad:
            return []
        share = len(self.bad) / self.total
        return [
            f"{counted(len(self.bad), 'unreadable file')} skipped ({share:.2%}): {self._named()}; "
            "--on-bad-file fail stops instead"
        ]


def alone(total: int, policy: str) -> str:
    """Return the policy for `total` files: of a single one, the reason is worth more than a count.

    >>> alone(1, "auto"), alone(2, "auto"), alone(1, "skip")
    ('fail', 'auto', 'skip')
    """
    return "fail" if total == 1 and policy == "auto" else policy


def too_many(bad: int, total: int) -> bool:
    """Return whether more files are unreadable than may be left out by default."""
    return bad > BAD_SHARE * total


def reason_of(error: LowerboundError) -> str:
    """Return why a file could not be read, in a few words."""
    told = error.message.removeprefix(place(error.details.get("path", ""))).strip()
    reason = str(error.details.get("reason") or told.rpartition(": ")[2])
    return reason if len(reason) <= REASON else f"{reason[: REASON - 3]}..."


def counted(count: int, what: str) -> str:
    """Return a number with its noun, in the plural where needed."""
    return f"{count:,} {what}{'s' * (count != 1)}"
