"""Run the command line as a process: common flags, signals, exit codes."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from typing import NamedTuple

from lowerbound._version import __version__
from lowerbound.cli import complaints, streams
from lowerbound.cli.verbs import EVERYWHERE, LOWERBOUND, Program
from lowerbound.errors import ResourceError, UsageError, nearest
from lowerbound.files import allocators
from lowerbound.files.parallel import share


class Common(NamedTuple):
    """The flags that every command takes."""

    json: bool
    quiet: bool
    debug: bool
    memory: str | None = None


def main(argv: Sequence[str] | None = None, program: Program = LOWERBOUND) -> int:
    """Run one command of a program and return the exit code of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    common, words = _common(words)
    if _follows():
        common = common._replace(json=False, quiet=True)
    with streams.tolerant_stderr(), warnings.catch_warnings(), _signals() as caught:
        if not common.debug:
            warnings.simplefilter("ignore")  # libraries' warnings are for developers
        try:
            code = _run(words, common, program)
        except KeyboardInterrupt as stop:
            again = f"\nnext:  {program.name} {shlex.join(words)}" if stop.args else ""
            if not _follows():
                told = f"{stop}{again}" if again else "stopped; nothing was written"
                complaints.to_stderr(told)
            code = 130
        except Exception as error:  # last resort: one clear message for any error
            if common.debug:
                raise
            code = _report(error, words, common, program)
    return 128 + signal.SIGTERM if code == 130 and signal.SIGTERM in caught else code


def entry(program: Program = LOWERBOUND) -> None:
    """Run one command as the whole process, and end the process with its exit code."""
    streams.open_all()
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # Print invalid file names and characters that the terminal lacks, instead of failing.
        unicode = sys.stdout.encoding.lower().startswith("utf")
        sys.stdout.reconfigure(errors="surrogateescape" if unicode else "backslashreplace")
    # Torch ignores the processor limit of a container: it starts one thread per processor of the
    # host, and a fit takes a hundred times as long.
    if "OMP_NUM_THREADS" not in os.environ and (processors := share()) is not None:
        os.environ["OMP_NUM_THREADS"] = str(processors)
    allocators.give_back()
    # Imports create many objects that stay: passes over all of them take a sixth of the start.
    gc.set_threshold(max(_YOUNG, gc.get_threshold()[0]), *gc.get_threshold()[1:])
    code = main(program=program)
    if code in (130, 128 + signal.SIGTERM):
        # After an interrupt in the start-up code of a library, even one that was caught, Python
        # would end by SIGINT instead of returning the code.
        os._exit(code)
    sys.exit(code)


_YOUNG = 5_000  # objects between two passes of the garbage collector


def _common(words: Sequence[str]) -> tuple[Common, list[str]]:
    """Return the common flags, taken from anywhere before ``--``, and the remaining words."""
    words, memory = _memory(words)
    end = words.index("--") if "--" in words else len(words)
    names = {"--json": "json", "-q": "quiet", "--quiet": "quiet", "--debug": "debug"}
    found = {names[word] for word in words[:end] if word in names}
    rest = [word for word in words[:end] if word not in names]
    quiet = bool(found & {"json", "quiet"})
    common = Common("json" in found, quiet, "debug" in found, memory)
    return common, [*rest, *words[end:]]


def _memory(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the words without ``--max-memory SIZE``, and the size."""
    end = words.index("--") if "--" in words else len(words)
    for place, word in enumerate(words[:end]):
        name, equals, value = word.partition("=")
        if name != "--max-memory":
            continue
        if equals:
            return [*words[:place], *words[place + 1 :]], value
        return [*words[:place], *words[place + 2 :]], "".join(words[place + 1 : place + 2])
    return list(words), None


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Handle SIGTERM like Ctrl-C; yield the list of signals received.

    A signal during an import is delivered after the import, because the start-up code of a library
    may swallow the interrupt or abort the process.
    """
    caught: list[int] = []

    def stop(number: int, frame: object) -> None:
        caught.append(number)
        if _AGAIN is None or not _importing():
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, _PAUSE)

    def again(number: int, frame: object) -> None:
        # Call the current handler, which may defer the signal to the end of a training step.
        signal.raise_signal(caught[-1])

    handlers = {signal.SIGTERM: stop, **({} if _AGAIN is None else {_AGAIN: again})}
    if callable(signal.getsignal(signal.SIGINT)):  # keep it ignored if the shell ignores it
        handlers[signal.SIGINT] = stop
    try:
        before = {number: signal.signal(number, take) for number, take in handlers.items()}
    except ValueError:  # not in the main thread
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_AGAIN = getattr(signal, "SIGALRM", None)  # not available on Windows
_PAUSE = 0.02  # seconds before an interrupt that came during an import is sent again


def _importing() -> bool:
    """Return whether an import is running in this thread."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _run(words: Sequence[str], common: Common, program: Program) -> int:
    if not words or words in (["--help"], ["-h"], ["help"]):
        return streams.shown(lambda: print(_overview(program)))
    if words in (["--version"], ["-V"]):
        return streams.shown(lambda: print(_version(program, common.json)))
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if words[0] not in program.verbs:
        raise _unknown_command(words, program)
    if "TORCHELASTIC_RUN_ID" in os.environ and words[0] != "fit":
        raise UsageError(
            "E253",
            f"torchrun can only run fit, got {words[0]}",
            fix=shlex.join(["lowerbound", *words]),
        )
    _check_addresses()
    # Imported late, so that the cases above answer at once.
    parser = import_module("lowerbound.cli.parser")
    memory = import_module("lowerbound.files.memory")
    most = None if common.memory is None else memory.size_of(common.memory)
    with memory.limited(most):
        return parser.run(program, words, as_json=common.json, quiet=common.quiet)


def _version(program: Program, as_json: bool) -> str:
    """Return the version, as JSON with those of Python and torch; imports no library."""
    if not as_json:
        return f"{program.name} {__version__}"
    metadata, json = import_module("importlib.metadata"), import_module("json")
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = None
    python = sys.version.split()[0]
    return json.dumps({"lowerbound": __version__, "python": python, "torch": torch})


_LEAST, _EACH = 256 << 20, 40 << 20  # bytes of addresses: for the libraries, and per processor


def _check_addresses() -> None:
    """Raise an error if ``ulimit -v`` leaves no room for NumPy, which would end the process."""
    if os.name != "posix":
        return
    limits = import_module("resource")
    most, _ = limits.getrlimit(limits.RLIMIT_AS)
    least = _LEAST + _EACH * (os.cpu_count() or 1)
    if 0 <= most < least and most != limits.RLIM_INFINITY:
        raise ResourceError(
            "E303",
            f"the address space is limited to {most >> 20:,} MB (ulimit -v); the libraries alone "
            f"need {least >> 20:,} MB",
            fix="ulimit -v unlimited",
        )


def _follows() -> bool:
    """Return whether this is a process of torchrun other than the first, which alone prints."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"


def _overview(program: Program) -> str:
    """Return the list of commands by group; imports no library, so that it prints at once."""
    lines = [
        f"{program.name} {__version__}: {program.summary}",
        "",
        f"usage: {program.name} COMMAND [ARGUMENTS]",
    ]
    group = ""
    width = max(len(name) + len(verb.arguments) for name, verb in program.verbs.items()) + 1
    for name, verb in program.verbs.items():
        if verb.group != group:
            group = verb.group
            lines += ["", group]
        lines.append(f"  {f'{name} {verb.arguments}':<{width}}   {verb.summary}")
    return "\n".join([*lines, "", EVERYWHERE, "", f"begin with:  {program.name} {program.begin}"])


def _unknown_command(words: Sequence[str], program: Program) -> UsageError:
    word = words[0]
    if word.startswith("-"):
        return UsageError(
            "E230", f"the first word must be a command, got {word}", fix=f"{program.name} --help"
        )
    close = program.synonyms.get(word.lower()) or nearest(word, program.verbs)
    if elsewhere := program.elsewhere.get(word.lower()):
        return UsageError("E230", f"there is no command {word!r}", fix=elsewhere)
    return UsageError(
        "E230",
        f"there is no command {word!r}",
        fix=f"{program.name} {shlex.join([close, *words[1:]])}"
        if close
        else f"{program.name} --help lists them",
        similar=close,
    )


def _report(error: Exception, words: Sequence[str], common: Common, program: Program) -> int:
    """Print an error as text or JSON, and return its exit code."""
    told = complaints.known(error)
    if told.code == "E501" and _follows():
        return told.exit_code  # the first process prints the error
    spelt = (
        complaints.as_json(told) if common.json else complaints.as_lines(told, words, program.name)
    )
    complaints.to_stderr(spelt)
    return told.exit_code


if __name__ == "__main__":
    entry()
