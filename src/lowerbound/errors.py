"""Exceptions that say what is wrong, where, why, and how to fix it.

Every exception has a code from `lowerbound.catalogue`. The first digit of the code determines the
class of the exception and its exit code; ``lowerbound error E031`` prints the catalogue's entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from lowerbound.catalogue import CATALOGUE, Entry

__all__ = [
    "CATALOGUE",
    "CheckFailed",
    "DataError",
    "Entry",
    "LowerboundError",
    "ModelFileError",
    "NumericError",
    "ResourceError",
    "Stopped",
    "UsageError",
    "nearest",
]


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most similar to `name`, ignoring case; None if none is similar."""
    folded = {c.casefold(): c for c in candidates}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


class LowerboundError(Exception):
    """Base class of all exceptions of this library.

    Args:
        code: a key of `CATALOGUE`, such as ``"E031"``.
        message: the error and its place, in one sentence.
        fix: one command or change that fixes it; may be empty.
        details: machine-readable facts (columns, rows, counts), for ``--json``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, fix: str = "", **details: Any) -> None:
        super().__init__(message)
        assert code in CATALOGUE, f"{code} is not in the catalogue of errors"
        self.code, self.message, self.fix, self.details = code, message, fix, details

    def __str__(self) -> str:
        """Return code, message and fix; the command line prints the same parts in a box."""
        tail = f"\n  fix: {self.fix}" if self.fix else ""
        return f"[{self.code}] {self.message}{tail}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: exceptions are pickled without keyword arguments by default."""
        return _rebuild, (type(self), self.code, self.message, self.fix, self.details)


def _rebuild(
    kind: type[LowerboundError], code: str, message: str, fix: str, details: dict[str, Any]
) -> LowerboundError:
    return kind(code, message, fix=fix, **details)


class UsageError(LowerboundError, ValueError):
    """A wrong argument, flag or configuration (E2xx)."""

    exit_code = 2


class DataError(LowerboundError, ValueError):
    """Input data that cannot be used (E0xx)."""

    exit_code = 3


class ModelFileError(LowerboundError):
    """A saved model that is damaged, of another tool, or newer than this version (E1xx)."""

    exit_code = 4


class ResourceError(LowerboundError):
    """Not enough memory or disk space, or a missing optional dependency (E3xx)."""

    exit_code = 5


class NumericError(LowerboundError, ArithmeticError):
    """A loss that became infinite or NaN (E4xx)."""

    exit_code = 6


class Stopped(LowerboundError):
    """A run that stopped early and can be resumed (E5xx)."""

    exit_code = 7


class CheckFailed(LowerboundError):
    """A check that failed (E6xx)."""

    exit_code = 8


def each_of(names: Iterable[str], work: Callable[[str], object], what: str) -> None:
    """Call `work` for every name, and raise all errors together instead of the first.

    Raises:
        LowerboundError: the only error, or E233 with all of them.
    """
    problems: list[LowerboundError] = []
    for name in names:
        try:
            work(name)
        except LowerboundError as error:
            problems.append(error)
    raise_all(problems, what)


def raise_all(problems: Sequence[LowerboundError], where: str = "arguments") -> None:
    """Raise the collected errors as one; do nothing if there are none."""
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    lines = [
        f"\n  - [{p.code}] {p.message}" + (f" (fix: {p.fix})" if p.fix else "") for p in problems
    ]
    raise UsageError(
        "E233",
        f"{len(problems)} {where} cannot be used:{''.join(lines)}",
        fix="correct them all and run the command again",
        problems=[{"code": p.code, "message": p.message, "hint": p.fix} for p in problems],
    )
