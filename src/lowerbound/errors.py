"""Errors that a user can act on: what is wrong, where, why, and how to fix it.

Every error carries a code of `lowerbound.catalogue`. The first digit of a code gives its kind and
so its exit code; ``lowerbound error E031`` prints the catalogue's entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
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
    """Return the candidate that looks most like `name`, ignoring case, or None."""
    folded = {c.casefold(): c for c in candidates}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


class LowerboundError(Exception):
    """The base of every error that this library raises on purpose.

    Args:
        code: a key of `CATALOGUE`, such as ``"E031"``.
        message: what is wrong and where, in one sentence.
        fix: one command or change that would repair it.
        details: machine-readable facts (columns, rows, counts), for ``--json``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, fix: str = "", **details: Any) -> None:
        super().__init__(message)
        assert code in CATALOGUE, f"{code} is not in the catalogue of errors"
        self.code, self.message, self.fix, self.details = code, message, fix, details

    def __str__(self) -> str:
        """One line a Python user sees; the command line lays the same parts out in a box."""
        tail = f"\n  fix: {self.fix}" if self.fix else ""
        return f"[{self.code}] {self.message}{tail}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between worker processes, which drops keyword arguments."""
        return _rebuild, (type(self), self.code, self.message, self.fix, self.details)


def _rebuild(
    kind: type[LowerboundError], code: str, message: str, fix: str, details: dict[str, Any]
) -> LowerboundError:
    return kind(code, message, fix=fix, **details)


class UsageError(LowerboundError, ValueError):
    """A wrong argument, flag or configuration (E2xx)."""

    exit_code = 2


class DataError(LowerboundError, ValueError):
    """Input data that cannot be used as it is (E0xx)."""

    exit_code = 3


class ModelFileError(LowerboundError):
    """A saved model that is damaged, foreign, or newer than this version (E1xx)."""

    exit_code = 4


class ResourceError(LowerboundError):
    """Memory, disk or device ran out, or an optional dependency is absent (E3xx)."""

    exit_code = 5


class NumericError(LowerboundError, ArithmeticError):
    """Training or scoring left the finite numbers, or the model collapsed (E4xx)."""

    exit_code = 6


class Stopped(LowerboundError):
    """The work was stopped before its end and can be continued (E5xx)."""

    exit_code = 7


class CheckFailed(LowerboundError):
    """A check that was asked for did not hold (E6xx)."""

    exit_code = 8
