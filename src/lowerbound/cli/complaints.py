"""Format errors as text and as JSON. The code here must be fast and must not fail itself."""

from __future__ import annotations

import errno
import json
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from lowerbound.cli.visible import in_json, visible
from lowerbound.errors import LowerboundError, ResourceError

_COMMAND = re.compile(r"--[a-z][a-z-]*(?: [^\s,]+)?(?: --rename \S+)*")

# How libraries say that the system gave no memory, or no room for a library or a thread.
_NO_MEMORY = re.compile(
    "out of memory|can't allocate|cannot allocate memory|failed to map segment|bad_alloc|"
    "can't start new thread|unable to allocate|insufficient memory",
    re.IGNORECASE,
)


class Bug(LowerboundError):
    """An unexpected error: a bug in lowerbound."""

    def __init__(self, error: Exception) -> None:
        reason = (str(error).splitlines() or [""])[0][:300]
        super().__init__(
            "E269",
            f"this is a bug in lowerbound: {type(error).__name__}: {reason}",
            fix="please report the command, what it prints with --debug, and "
            "what `lowerbound doctor --json` prints",
        )


def known(error: Exception) -> LowerboundError:
    """Return the error as a `LowerboundError`: unchanged, as out of memory, or as a bug."""
    if isinstance(error, LowerboundError):
        return error
    text = str(error)
    full = getattr(error, "errno", None) == errno.ENOMEM or _NO_MEMORY.search(text)
    if isinstance(error, MemoryError) or full:
        return ResourceError(
            "E303",
            f"there is not enough memory: {(text.splitlines() or [''])[0][:200]}",
            fix="use fewer rows or columns at a time, or a machine with more memory",
        )
    return Bug(error)


def finite(value: Any) -> Any:
    """Return `value` with NaN and infinity, which JSON lacks, replaced by None."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def as_lines(error: LowerboundError, command: Sequence[str], program: str = "lowerbound") -> str:
    """Return an error as lines of text: the message, the fix, and where to read more."""
    head, *rest = error.message.split("\n")
    lines = [f"error[{error.code}] {head}", *rest]
    if error.fix:
        lines.append(f"  fix: {repaired(error.fix, command, program)}")
    lines.append(f"  why: lowerbound error {error.code}")
    return visible("\n".join(lines))


def as_json(error: LowerboundError) -> str:
    """Return an error as one JSON object."""
    told = {
        "code": error.code,
        "exit": error.exit_code,
        "message": error.message,
        "hint": error.fix,
        "details": finite(error.details),
    }
    return in_json(json.dumps({"error": told}, ensure_ascii=False, default=str))


def repaired(fix: str, command: Sequence[str], program: str = "lowerbound") -> str:
    """Return `fix`, or the corrected command if `fix` begins with a flag."""
    if not command or not _COMMAND.fullmatch(fix):
        return fix
    words = fix.split(" ")
    kept = list(command)
    if words[0] in kept and words[0] != "--rename":
        at = kept.index(words[0])
        del kept[at : at + len(words)]
    return f"{program} {shlex.join([*kept, *words])}"


def to_stderr(text: str) -> None:
    """Print text to stderr; characters that its encoding lacks are escaped."""
    stream = sys.stderr
    try:
        stream.write(text + "\n")
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
