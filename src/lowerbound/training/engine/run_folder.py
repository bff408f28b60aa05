"""The folder of an unfinished fit: its configuration, lock and commits.

tx.run/run.json            the configuration; a run with another one is refused
tx.run/lock                held by the process that trains
tx.run/first/commit-...    checkpoints, see `lowerbound.training.engine.checkpoints`
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from lowerbound.bundle import documents
from lowerbound.errors import LowerboundError, ResourceError, UsageError
from lowerbound.files.write import atomic_write
from lowerbound.training.engine.checkpoints import EVERY, OnDisk
from lowerbound.training.engine.interrupts import DelayedSignals

RUN, LOCK = "run.json", "lock"
_SHOWN = 8  # largest number of differences listed in a message


class RunFolder:
    """The folder of one fit, used as a context manager that holds its lock.

    Args:
        path: the folder.
        fresh: discard the state of an earlier run.
        replace: whether the run may replace an existing model at its output.
        every: smallest number of seconds between two commits.

    Raises:
        UsageError: E251 if another process is training there, E221 if `path` exists and is not a
            run folder.
        ResourceError: E302 if the folder cannot be created.
    """

    def __init__(
        self, path: Path, *, fresh: bool = False, replace: bool = False, every: float = EVERY
    ) -> None:
        self.path, self.fresh, self.every = path.absolute(), fresh, every
        self.replace = replace
        self._lock = FileLock(self.path / LOCK)

    def __enter__(self) -> RunFolder:
        """Create the folder and lock it."""
        try:
            with DelayedSignals():  # an interrupt must not leave the folder half set up
                self._take()
        except KeyboardInterrupt:
            if self._lock.is_locked:  # otherwise the folder is another process's
                self._leave()
            raise
        return self

    def _take(self) -> None:
        """Create the folder and lock it."""
        _refuse_foreign(self.path)
        try:
            self.path.mkdir(exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise self._busy() from None
        except OSError as error:
            raise ResourceError(
                "E302",
                f"the run folder {self.path} cannot be used: {error.strerror or error}",
                fix="choose an --out in a writable folder",
                path=str(self.path),
            ) from None
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        with suppress(OSError):  # only for the message of another process
            (self.path / "owner.json").write_text(json.dumps(me))
        if self.fresh:
            self._clear()
        shutil.rmtree(self.path.with_name(f".{self.path.name}.removed"), ignore_errors=True)
        for left in self.path.glob(".run.json.*.tmp"):  # left by a process that was killed
            left.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unlock the folder, and remove it if nothing was committed."""
        with DelayedSignals():
            self._leave()

    def _leave(self) -> None:
        if not self.committed():
            self.remove()
        self._lock.release()

    def configure(self, configuration: Mapping[str, Any]) -> None:
        """Store the configuration of a run, or compare it with that of an earlier run.

        Args:
            configuration: the JSON values that a run depends on, nested by topic.

        Raises:
            UsageError: E250 if an unfinished earlier run had another configuration.
        """
        ours, theirs = json.loads(json.dumps(dict(configuration))), self._document()
        if theirs is not None and self.committed():
            if different := list(_differences(theirs["configuration"], ours)):
                raise self._changed(different)
            self.replace = self.replace or theirs["replace"]
        self._note({"configuration": ours, "replace": self.replace})

    def committed(self) -> bool:
        """Return whether there is a commit to resume from."""
        return any(self.path.glob("*/commit-*"))

    def owns_output(self) -> None:
        """Record that the model at the output is from this run, which may then replace it."""
        document = self._document()
        assert document is not None, "configure the run first"
        self._note({**document, "replace": True})

    @staticmethod
    def allows_replacing(path: Path) -> bool:
        """Return whether the unfinished run at `path` may replace the model at its output."""
        with suppress(OSError, LowerboundError, KeyError, TypeError):
            return bool(documents.parse_json((path / RUN).read_bytes(), RUN)["replace"])
        return False

    def stage(self, name: str) -> OnDisk:
        """Return the checkpoints of one training stage, in a subfolder `name`."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return OnDisk(folder, self.every)

    def remove(self) -> None:
        """Remove the folder of a finished run.

        It gets another name first: a process that is killed here leaves no run that is half there.
        What it leaves is removed by the next run of this name.
        """
        self._lock.release()
        removed = self.path.with_name(f".{self.path.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)
        with suppress(OSError):
            self.path.rename(removed)
        for left in (removed, self.path):
            shutil.rmtree(left, ignore_errors=True)

    def _clear(self) -> None:
        (self.path / RUN).unlink(missing_ok=True)
        for found in self.path.iterdir():
            if found.is_dir():
                shutil.rmtree(found)

    def _document(self) -> dict[str, Any] | None:
        try:
            found = documents.parse_json((self.path / RUN).read_bytes(), RUN)
            return found if {"configuration", "replace"} <= set(found) else None
        except (OSError, LowerboundError, TypeError):
            return None

    def _note(self, document: dict[str, Any]) -> None:
        raw = documents.render(RUN, document)
        atomic_write(self.path / RUN, lambda file: file.writelines([raw]), overwrite=True)

    def _changed(self, different: list[str]) -> UsageError:
        shown = "; ".join(different[:_SHOWN])
        more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        return UsageError(
            "E250",
            f"{self.path.name} holds an unfinished run of another configuration: {shown}{more}",
            fix="repeat the earlier command to continue it, or --resume never to start again",
            path=str(self.path),
            differences=different,
        )

    def _busy(self) -> UsageError:
        owner = {}
        with suppress(OSError, ValueError):
            owner = json.loads((self.path / "owner.json").read_text())
        who = " ".join(f"{key} {value}" for key, value in owner.items()) or "another process"
        return UsageError(
            "E251",
            f"{self.path} is locked: another process is training there ({who})",
            fix="wait for it, stop it, or choose another --out",
            path=str(self.path),
            **owner,
        )


def _refuse_foreign(path: Path) -> None:
    """Raise E221 if `path` exists and is neither a run folder nor an empty folder."""
    if not os.path.lexists(path):
        return
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:
        names = {""}
    if names and LOCK not in names:
        raise UsageError(
            "E221",
            f"{path} exists and is not a run folder",
            fix="choose another --out",
            path=str(path),
        )


def _differences(theirs: Any, ours: Any, place: str = "") -> Iterator[str]:
    """Yield the differences, as lines such as ``plan.seed was 0, is 1``."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            yield from _differences(theirs.get(key), ours.get(key), f"{place}.{key}".lstrip("."))
    elif theirs != ours:
        yield f"{place} was {_short(theirs)}, is {_short(ours)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
