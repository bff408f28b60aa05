"""Standard streams that are closed, full or read by nobody: they never end a command's work."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lowerbound.cli.complaints import to_stderr
from lowerbound.errors import ResourceError


def open_all() -> None:
    """Open the null device in place of standard streams that the caller has closed.

    Otherwise the first file that is opened gets the number of a stream, and what a library prints
    would be written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


class Tolerant:
    """A text stream that swallows what it cannot write, such as a log on a full disk.

    Args:
        stream: the stream, or None if it is closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, if that is possible."""
        self._try(lambda stream: stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write lines, if that is possible."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def _try(self, work: Callable[[TextIO], object]) -> None:
        if self._stream is None:
            return
        try:
            work(self._stream)
        except UnicodeError:
            raise
        except (OSError, ValueError):  # ValueError: closed
            _silence(self._stream)
            self._stream = None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream."""
        return getattr(self._stream or _NOWHERE, name)


class _Nowhere:
    encoding, errors, closed = "utf-8", "backslashreplace", False

    def fileno(self) -> int:
        raise OSError(errno.EBADF, "there is no such stream")


_NOWHERE = _Nowhere()


@contextmanager
def tolerant_stderr() -> Iterator[None]:
    """Let nothing that is written to stderr inside the block raise an error."""
    before = sys.stderr
    sys.stderr = Tolerant(before)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
        sys.stderr.flush()
    finally:
        sys.stderr = before


def shown(work: Callable[[], object], kept: object = None) -> int:
    """Print a result to stdout, and return the exit code 0.

    A reader that has read enough, such as ``head``, is no error. Nor is it one for work whose
    result is in a file; that it could not be printed is then said on stderr.

    Args:
        work: prints.
        kept: the path of the result, if it is in a file too.

    Raises:
        ResourceError: E302 if stdout is closed or full, and the result is nowhere else.
    """
    error = _printed(work)
    if error is None or isinstance(error, BrokenPipeError):
        return 0
    told = f"the result could not be printed: {error.strerror or error}"
    if kept is None:
        fix = "give stdout a file on a disk with space, or a reader"
        raise ResourceError("E302", told, fix=fix) from None
    to_stderr(f"{told}; it is in {kept}")
    return 0


def _printed(work: Callable[[], object]) -> OSError | None:
    """Print; return the error if stdout cannot be written, which then is no more."""
    if sys.stdout is None:
        return OSError(errno.EBADF, "stdout is closed")
    try:
        work()
        sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        return error
    return None


def _silence(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that the flush at exit raises no error."""
    with suppress(OSError, ValueError):
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
    with suppress(OSError, ValueError):
        stream.flush()
