"""Run one command: parse its words, call the verb, print the result; help and usage errors."""

from __future__ import annotations

import inspect
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from lowerbound.cli import printing, streams
from lowerbound.cli.progress import Bar, Plain, Silence, Voice
from lowerbound.cli.result import Result
from lowerbound.cli.verbs import EVERYWHERE, LOWERBOUND, Program
from lowerbound.cli.visible import visible
from lowerbound.errors import UsageError, nearest


def run(program: Program, words: Sequence[str], *, as_json: bool, quiet: bool) -> int:
    """Run the command named by the first word and return the exit code.

    Args:
        program: the program that the command belongs to.
        words: the command and its arguments.
        as_json: print the facts as one JSON object.
        quiet: print only the path of the output.
    """
    if set(words) & {"--help", "-h"}:
        app = _app(program, words[0])
        return streams.shown(lambda: app.help_print([], console=printing.console()))
    result = _call(program, words, quiet=quiet or as_json)
    if "--dry-run" in words:
        words = [word for word in words if word != "--dry-run"]
        result = replace(result, next=f"{program.name} {shlex.join(words)}")
    if result.interrupted:
        result = replace(result, next=f"{program.name} {shlex.join(words)}")
    streams.shown(lambda: _print(result, as_json=as_json, quiet=quiet), result.path)
    if result.failed is not None:  # after the result, which has the details
        raise result.failed
    return 130 if result.interrupted else 0


def _print(result: Result, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(printing.as_json(result))
    elif not quiet:
        printing.show(result, printing.console())
    elif result.path is not None:
        print(visible(str(result.path)))


def _app(program: Program, name: str) -> App:
    """Make the parser of one command from the verb's function."""
    function = program.verbs[name].load()
    app = App(
        name=f"{program.name} {name}",
        help=_sections(_flowing(function))[0],
        help_prologue=_examples(function),
        help_epilogue=EVERYWHERE,
        help_format="plaintext",
        help_flags=(),  # handled before parsing
        version_flags=(),
        default_parameter=Parameter(negative=(), show_default=_worth_showing),
    )
    app.default(_flowing(function))
    return app


def _flowing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb whose docstring has one line per paragraph, for the terminal to wrap."""

    @wraps(function)
    def verb(*args: Any, **flags: Any) -> Any:
        return function(*args, **flags)

    text = inspect.getdoc(function) or ""
    verb.__doc__ = re.sub(r"\n {8,}|(?<=[^\n:])\n(?=\S)", " ", text)
    return verb


def _worth_showing(value: Any) -> str | None:
    return None if value in (None, (), False, "") else str(value)


def _call(program: Program, words: Sequence[str], *, quiet: bool) -> Result:
    """Parse the words and call the verb."""
    name, began = words[0], time.monotonic()
    try:
        function, bound, unparsed = _app(program, name).parse_args(
            list(words[1:]), exit_on_error=False, print_error=False
        )
    except CycloptsError as error:
        raise usage_error(error, words, program.name) from None
    if program.verbs[name].writes and bound.arguments.get("out") is None:
        raise UsageError(
            "E232",
            f"{name} needs --out: the file to write",
            fix=f"--out {name}.csv",
            argument="--out",
        )
    voice = _voice(quiet, began)
    said = {"voice": voice} if "voice" in unparsed else {}
    try:
        return function(*bound.args, **bound.kwargs, **said)
    finally:
        voice.close()


def _voice(quiet: bool, began: float) -> Voice:
    if quiet:
        return Silence(began)
    err = printing.console(stderr=True)
    kind = Bar if err.is_terminal and not err.is_dumb_terminal else Plain
    return kind(err, began)


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


def _examples(function: Callable[..., Any]) -> str:
    """Return the examples, one indented command per line."""
    return "\n".join(["Examples", *(f"  {line}" for line in _sections(function)[1])]) + "\n"


def usage_error(
    error: CycloptsError, words: Sequence[str], program: str = LOWERBOUND.name
) -> UsageError:
    """Return an error of the parser as a `UsageError` that suggests the correct command."""
    for kind, tell in _TELL.items():
        if isinstance(error, kind):
            return tell(error, list(words), program)
    return UsageError("E231", str(error), fix=f"{program} {words[0]} --help")


def _flags(error: CycloptsError) -> list[str]:
    arguments = getattr(error, "argument_collection", None)
    if arguments is None and error.app is not None:
        arguments = error.app.assemble_argument_collection()
    known = [name for a in arguments or () for name in a.names if a.parse]
    return [name for name in [*known, "--json", "--quiet", "--debug"] if name.startswith("-")]


def _unknown(error: Any, words: list[str], program: str) -> UsageError:
    flag = (error.token.keyword or error.token.value).partition("=")[0]
    known = _flags(error)
    close = nearest(flag, known)
    fix = f"{program} {words[0]} --help lists the flags"
    if close is not None:
        swapped = [w.replace(flag, close, 1) if w.partition("=")[0] == flag else w for w in words]
        fix = f"{program} {shlex.join(swapped)}"
    return UsageError("E230", f"{words[0]} has no flag {flag}", fix=fix, flag=flag, similar=close)


def _missing(error: Any, words: list[str], program: str) -> UsageError:
    name = error.keyword or error.argument.name
    if name.startswith("-"):
        message = f"{name} needs a value"
        known = error.argument.parameter.metavar or "VALUE"
        return UsageError("E232", message, fix=f"{name} {known}", argument=name)
    examples = _sections(error.target)[1] if error.target else []
    return UsageError(
        "E232",
        f"{words[0]} needs {_ROLES.get(name.lower(), name)}",
        fix=f"for example: {examples[0]}" if examples else f"{program} {words[0]} --help",
        argument=name.lower(),
    )


_ROLES = {"model": "a model, such as M.vae", "data": "data: a file, a folder or a pattern"}


def _wrong(error: Any, words: list[str], program: str) -> UsageError:
    token = error.token
    flag = (token.keyword if token is not None else None) or error.argument.name
    value = token.value if token is not None else ""
    wanted = _WANTED.get(error.target_type, "a valid value")
    return UsageError(
        "E231",
        f"{flag} must be {wanted}, got {value!r}",
        fix=f"{program} {words[0]} --help",
        flag=flag,
    )


_WANTED: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _repeated(error: Any, words: list[str], program: str) -> UsageError:
    flag = error.token.keyword or error.argument.name
    return UsageError("E236", f"{flag} is given more than once", fix="keep one of them", flag=flag)


def _unused(error: Any, words: list[str], program: str) -> UsageError:
    extra = shlex.join(error.unused_tokens)
    swapped = "; a flag's value goes after its flag, and a pattern into quotes"
    return UsageError(
        "E236",
        f"{words[0]} does not know what to do with {extra}{swapped}",
        fix=f"{program} {words[0]} --help",
        unused=list(error.unused_tokens),
    )


_TELL: dict[type[CycloptsError], Callable[[Any, list[str], str], UsageError]] = {
    UnknownOptionError: _unknown,
    RepeatArgumentError: _repeated,
    MissingArgumentError: _missing,
    CoercionError: _wrong,
    UnusedCliTokensError: _unused,
}
