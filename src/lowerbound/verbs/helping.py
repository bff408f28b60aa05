"""A verb's docstring as help text, and the parser's errors as ours."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from lowerbound.errors import UsageError, nearest


def _sections(function: Callable[..., Any]) -> tuple[str, list[str]]:
    """Split a docstring into its text before the sections, and its examples."""
    lines = (inspect.getdoc(function) or "").split("\n")
    heads = [i for i, line in enumerate(lines) if line in ("Examples:", "Args:")]
    text = "\n".join(lines[: heads[0]] if heads else lines).strip()
    if "Examples:" not in lines:
        return text, []
    begin = lines.index("Examples:") + 1
    end = next((i for i in heads if i > begin), len(lines))
    return text, [line.strip() for line in lines[begin:end] if line.strip()]


def text_of(function: Callable[..., Any]) -> str:
    """Return what the docstring says before its sections."""
    return _sections(function)[0]


def examples_of(function: Callable[..., Any]) -> str:
    """Return the examples, one indented command per line."""
    return "\n".join(["Examples", *(f"  {line}" for line in _sections(function)[1])]) + "\n"


def usage_error(error: CycloptsError, words: Sequence[str]) -> UsageError:
    """Say what the parser found wrong in our own words, with the command that was meant."""
    for kind, tell in _TELL.items():
        if isinstance(error, kind):
            return tell(error, list(words))
    return UsageError("E231", str(error), fix=f"lowerbound {words[0]} --help")


def _flags(error: CycloptsError) -> list[str]:
    arguments = getattr(error, "argument_collection", None)
    if arguments is None and error.app is not None:
        arguments = error.app.assemble_argument_collection()
    known = [name for a in arguments or () for name in a.names if a.parse]
    return [name for name in [*known, "--json", "--quiet", "--debug"] if name.startswith("-")]


def _unknown(error: Any, words: list[str]) -> UsageError:
    flag = (error.token.keyword or error.token.value).partition("=")[0]
    known = _flags(error)
    close = nearest(flag, known)
    fix = f"lowerbound {words[0]} --help lists the flags"
    if close is not None:
        swapped = [w.replace(flag, close, 1) if w.partition("=")[0] == flag else w for w in words]
        fix = shlex.join(["lowerbound", *swapped])
    return UsageError("E230", f"{words[0]} has no flag {flag}", fix=fix, flag=flag, similar=close)


def _missing(error: Any, words: list[str]) -> UsageError:
    name = error.keyword or error.argument.name
    if name.startswith("-"):
        message = f"{name} needs a value"
        known = error.argument.parameter.metavar or "VALUE"
        return UsageError("E232", message, fix=f"{name} {known}".lower(), argument=name)
    examples = _sections(error.target)[1] if error.target else []
    return UsageError(
        "E232",
        f"{words[0]} needs {_ROLES.get(name.lower(), name)}",
        fix=f"for example: {examples[0]}" if examples else f"lowerbound {words[0]} --help",
        argument=name.lower(),
    )


_ROLES = {"model": "a model, such as M.vae", "data": "data: a file, a folder or a pattern"}


def _wrong(error: Any, words: list[str]) -> UsageError:
    token = error.token
    flag = (token.keyword if token is not None else None) or error.argument.name
    value = token.value if token is not None else ""
    wanted = _WANTED.get(error.target_type, "what it takes")
    return UsageError(
        "E231",
        f"{flag} is {value!r}, not {wanted}",
        fix=f"lowerbound {words[0]} --help",
        flag=flag,
    )


_WANTED: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _repeated(error: Any, words: list[str]) -> UsageError:
    flag = error.token.keyword or error.argument.name
    return UsageError("E236", f"{flag} is given more than once", fix="keep one of them", flag=flag)


def _unused(error: Any, words: list[str]) -> UsageError:
    extra = shlex.join(error.unused_tokens)
    swapped = "; a flag's value goes after its flag, and a pattern into quotes"
    return UsageError(
        "E236",
        f"{words[0]} does not know what to do with {extra}{swapped}",
        fix=f"lowerbound {words[0]} --help",
        unused=list(error.unused_tokens),
    )


_TELL: dict[type[CycloptsError], Callable[[Any, list[str]], UsageError]] = {
    UnknownOptionError: _unknown,
    RepeatArgumentError: _repeated,
    MissingArgumentError: _missing,
    CoercionError: _wrong,
    UnusedCliTokensError: _unused,
}
