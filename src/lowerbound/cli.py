"""The command line: one command per verb, flags read from the verbs' signatures."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import lowerbound
from lowerbound.errors import LowerboundError, ResourceError, UsageError, nearest
from lowerbound.verbs import VERBS, Verb, printing

if TYPE_CHECKING:
    from cyclopts import App

    from lowerbound.progress import Voice
    from lowerbound.verbs.result import Result

_EVERYWHERE = """\
Every command also takes
  --json         one JSON object instead of text, errors too
  -q, --quiet    errors only, and the path of what was written
  --debug        the traceback of an error
  -h, --help     what the command takes, with examples"""


class Common(NamedTuple):
    """The flags that every command takes."""

    json: bool
    quiet: bool
    debug: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    common, words = _common(words)
    with warnings.catch_warnings(), _signals() as caught:
        if not common.debug:
            warnings.simplefilter("ignore")  # libraries' warnings are for developers
        try:
            code = _run(words, common)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            _close_stdout()
            return 0
        except KeyboardInterrupt:
            printing.to_stderr("stopped; nothing was written")
            code = 130
        except Exception as error:  # the last resort: one clear message whatever happens
            if common.debug:
                raise
            code = _report(error, words, common)
    return 128 + signal.SIGTERM if code == 130 and signal.SIGTERM in caught else code


def _common(words: Sequence[str]) -> tuple[Common, list[str]]:
    """Take the common flags out of the words, wherever they stand before ``--``."""
    end = words.index("--") if "--" in words else len(words)
    names = {"--json": "json", "-q": "quiet", "--quiet": "quiet", "--debug": "debug"}
    found = {names[word] for word in words[:end] if word in names}
    rest = [word for word in words[:end] if word not in names]
    common = Common("json" in found, "quiet" in found or "json" in found, "debug" in found)
    return common, [*rest, *words[end:]]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Let SIGTERM end the work as Ctrl-C does; yield the list of signals that came."""
    caught: list[int] = []

    def stop(number: int, frame: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield caught
        return
    try:
        yield caught
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(words: Sequence[str], common: Common) -> int:
    if not words or words in (["--help"], ["-h"], ["help"]):
        print(_overview())
        return 0
    if words in (["--version"], ["-V"]):
        print(f"lowerbound {lowerbound.__version__}")
        return 0
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if words[0] not in VERBS:
        raise _unknown_command(words)
    if set(words) & {"--help", "-h"}:
        return _help(words[0])
    result = _call(words, common)
    return _deliver(result, common)


def _overview() -> str:
    """List the commands by what one wants; without any library, since it must come at once."""
    lines = [
        f"lowerbound {lowerbound.__version__}: learn what is normal in a table",
        "",
        "usage: lowerbound COMMAND [ARGUMENTS]",
    ]
    group = ""
    width = max(len(name) + len(verb.arguments) for name, verb in VERBS.items()) + 1
    for name, verb in VERBS.items():
        if verb.group != group:
            group = verb.group
            lines += ["", group]
        lines.append(f"  {f'{name} {verb.arguments}':<{width}}   {verb.summary}")
    return "\n".join([*lines, "", _EVERYWHERE, "", "begin with:  lowerbound demo"])


def _app(name: str, verb: Verb) -> App:
    """Make the parser of one command from the verb's function."""
    from cyclopts import App, Parameter

    from lowerbound.verbs.helping import examples_of, text_of

    function = verb.load()
    app = App(
        name=f"lowerbound {name}",
        help=text_of(function),
        help_prologue=examples_of(function),
        help_epilogue=_EVERYWHERE,
        help_format="plaintext",
        help_flags=(),  # seen to before parsing
        version_flags=(),
        default_parameter=Parameter(negative=(), show_default=_worth_showing),
    )
    app.default(function)
    return app


def _worth_showing(value: Any) -> str | None:
    return None if value in (None, (), False, "") else str(value)


def _help(name: str) -> int:
    _app(name, VERBS[name]).help_print([], console=printing.console())
    return 0


def _call(words: Sequence[str], common: Common) -> Result:
    """Parse the words and call the verb."""
    from cyclopts import CycloptsError

    name, verb = words[0], VERBS[words[0]]
    app = _app(name, verb)
    try:
        function, bound, unparsed = app.parse_args(
            list(words[1:]), exit_on_error=False, print_error=False
        )
    except CycloptsError as error:
        from lowerbound.verbs.helping import usage_error

        raise usage_error(error, words) from None
    if verb.writes and bound.arguments.get("out") is None:
        raise UsageError(
            "E232",
            f"{name} needs --out: the file to write",
            fix=f"--out {name}.csv",
            argument="--out",
        )
    voice = _voice(common)
    said = {"voice": voice} if "voice" in unparsed else {}
    try:
        return function(*bound.args, **bound.kwargs, **said)
    finally:
        voice.close()


def _voice(common: Common) -> Voice:
    from lowerbound.progress import SILENT, Bar, Plain

    if common.quiet:
        return SILENT
    err = printing.console(stderr=True)
    return Bar(err) if err.is_terminal and not err.is_dumb_terminal else Plain(err)


def _deliver(result: Result, common: Common) -> int:
    """Print a result in the way that was asked for."""
    if common.json:
        print(printing.as_json(result))
    elif not common.quiet:
        printing.show(result, printing.console())
    elif result.path is not None:
        print(result.path)
    return 130 if result.interrupted else 0


def _unknown_command(words: Sequence[str]) -> UsageError:
    word = words[0]
    if word.startswith("-"):
        return UsageError(
            "E230", f"the command comes first, and {word} is none", fix="lowerbound --help"
        )
    close = nearest(word, VERBS) or _MEANT.get(word.lower())
    return UsageError(
        "E230",
        f"there is no command {word!r}",
        fix=_spell([close, *words[1:]]) if close else "lowerbound --help lists them",
        similar=close,
    )


# What other tools call it.
_MEANT = {
    "train": "fit",
    "learn": "fit",
    "predict": "score",
    "detect": "score",
    "anomaly": "score",
    "transform": "embed",
    "encode": "embed",
    "generate": "sample",
    "fill": "impute",
    "describe": "inspect",
    "show": "info",
    "check": "verify",
    "eval": "evaluate",
}


def _spell(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(["lowerbound", *words])


def _report(error: Exception, words: Sequence[str], common: Common) -> int:
    """Print an error as people or programs read it, and return its exit code."""
    known = error if isinstance(error, LowerboundError) else _resource(error)
    if known is None:
        known = _Bug(error)
    if common.json:
        printing.to_stderr(printing.error_json(known, known.exit_code))
    else:
        printing.to_stderr(printing.error_lines(known, words))
    return known.exit_code


class _Bug(LowerboundError):
    """An error that nobody foresaw."""

    def __init__(self, error: Exception) -> None:
        reason = (str(error).splitlines() or [""])[0][:300]
        super().__init__(
            "E269",
            f"this is a bug in lowerbound: {type(error).__name__}: {reason}",
            fix="please report the command, its output with --debug, and `lowerbound doctor --json`",
        )


def _resource(error: Exception) -> ResourceError | None:
    """Recognise what the machine ran out of, or return None."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
        return ResourceError(
            "E303",
            f"there is not enough memory: {(text.splitlines() or [''])[0][:200]}",
            fix="fewer rows or columns at a time, or a machine with more memory",
        )
    return None


def _close_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
