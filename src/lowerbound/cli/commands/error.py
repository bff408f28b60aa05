"""The command error: describe an error code."""

from __future__ import annotations

from lowerbound.cli.result import Result, Sheet
from lowerbound.errors import CATALOGUE, UsageError, nearest


def error(code: str | None = None, /) -> Result:
    """Describe an error code: its cause and how to fix it. Without a code, list all codes.

    Examples:
        lowerbound error E031
        lowerbound error

    Args:
        code: the code that an error printed in brackets, such as E031.
    """
    if code is None:
        rows = [(known, entry.title) for known, entry in sorted(CATALOGUE.items())]
        return Result(
            {"codes": {known: title for known, title in rows}},
            sheet=Sheet(("code", "meaning"), rows),
            next="lowerbound error E031",
        )
    digits = code.strip().strip("[]").upper().removeprefix("E")
    wanted = f"E{digits:0>3}"
    entry = CATALOGUE.get(wanted)
    if entry is None:
        close = nearest(wanted, CATALOGUE)
        raise UsageError(
            "E238",
            f"there is no error code {code!r}",
            fix=f"lowerbound error {close}" if close else "lowerbound error lists them",
        )
    return Result(
        {"code": wanted, "title": entry.title, "explanation": entry.explanation},
        lines=[f"{wanted}: {entry.title}", entry.explanation],
    )
