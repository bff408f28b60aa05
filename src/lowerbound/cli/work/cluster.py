"""Run verbs on a Ray cluster: a distributed fit, and verbs that process files separately."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lowerbound.cli import parsing
from lowerbound.cli.outputs import check_apart
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Result
from lowerbound.cli.verbs import VERBS
from lowerbound.cli.work import ray as launch
from lowerbound.errors import UsageError
from lowerbound.files import memory
from lowerbound.files.data import Data
from lowerbound.files.datasets import is_dataset
from lowerbound.files.write_folder import atomic_folder, check_folder, names_folder
from lowerbound.tasks.trained import Model

SUFFIX = ".parquet"
# Paths among the flags of fit, made absolute because workers run in another folder.
_PATHS = ("out", "config", "targets")


def count(ray: bool, workers: object) -> int | None:
    """Read --workers.

    Raises:
        UsageError: E236 without --ray, E240 for fewer than one.
    """
    if workers is None:
        return None
    if not ray:
        raise UsageError(
            "E236",
            "--workers sets the number of processes of --ray, which is not given",
            fix=f"--ray --workers {workers}",
        )
    return parsing.at_least(workers, 1, "--workers")


@dataclass(frozen=True)
class _Fit:
    """The verb fit as run by each worker, on this or another machine."""

    data: Any
    flags: Mapping[str, Any]
    folder: str
    limit: int | None

    def __call__(self, voice: Voice) -> Result:
        with suppress(OSError):  # it may be missing on another machine
            os.chdir(self.folder)
        with memory.limited(self.limit):
            result = VERBS["fit"].load()(self.data, **self.flags, voice=voice)
        return replace(result, model=None) if result.path is not None else result


def fit(data: Any, flags: Mapping[str, Any], workers: int | None, voice: Voice) -> Result:
    """Train in several processes of a cluster, as torchrun would start them.

    Args:
        data: the data of the verb.
        flags: of the verb; the output has been checked already.
        workers: the number of processes, or None for one per GPU, or per core without GPUs.
        voice: receives the progress of the first process.
    """
    _refuse_datasets(data)
    path = _absolute(data)
    moved = {name: _absolute(flags[name]) for name in _PATHS if flags[name] is not None}
    work = _Fit(path, {**flags, **moved}, str(Path.cwd()), memory.limit())
    result = launch.together(work, workers, voice, flags["device"])
    if result.path is None:
        return result
    return replace(result, model=Model.load(result.path))


def _refuse_datasets(data: object) -> None:
    """Raise an error for a pyarrow dataset: its filters cannot be sent to another process."""
    if is_dataset(data):
        raise UsageError(
            "E236",
            f"--ray needs files that every machine can read, got a {type(data).__name__}",
            fix="give the folder of its files, or leave out --ray",
        )


def _absolute(path: Any) -> Any:
    return str(Path(path).expanduser().absolute()) if isinstance(path, str | os.PathLike) else path


def check_parts(out: str | os.PathLike[str] | None, overwrite: bool, data: object) -> Path:
    """Return the folder for the Parquet files, checked before any computation.

    Raises:
        UsageError: E232 if none is given, E236 for the name of a file, for the folder of the data
            and for a dataset; the errors of `check_folder`.
    """
    _refuse_datasets(data)
    if out is None:
        raise UsageError("E232", "--ray writes files: it needs --out", fix="--out scores/")
    if not names_folder(out):
        raise UsageError(
            "E236",
            f"with --ray the output is a folder of Parquet files, and {out} is the name of a file",
            fix=f"--out {Path(out).with_suffix('')}/",
        )
    check_apart(out, data)
    return check_folder(out, overwrite, (SUFFIX,))


@dataclass(frozen=True)
class Walk:
    """A verb that workers run on the files of a table, one file at a time.

    Attributes:
        verb: such as "score".
        trained: the model.
        given: the rows; several files are processed file by file.
        flags: of the verb, without those of its input and output.
    """

    verb: str
    trained: Model
    given: Data
    flags: Mapping[str, Any]

    @property
    def pieces(self) -> tuple[Data, ...]:
        """Return the rows of each file."""
        return getattr(self.given, "pieces", ()) or (self.given,)

    def done(
        self, target: Path, overwrite: bool, workers: int | None, voice: Voice
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the facts of each file; the folder is written when all files are done.

        Args:
            target: the folder, with one output file for each input file.
            overwrite: replace an earlier folder.
            workers: the largest number of processes, or None.
            voice: receives the number of finished files.
        """
        with atomic_folder(target, overwrite, (SUFFIX,)) as made:
            make = partial(_ready, self.verb, self.trained, self.pieces, self.flags, made)
            yield from launch.apart(make, len(self.pieces), workers, voice)


def _ready(verb: str, *known: Any) -> Callable[[int], Mapping[str, Any]]:
    return partial(_walked, VERBS[verb].load(), *known)


def _walked(  # noqa: PLR0913, PLR0917 - a verb's arguments, and the file
    verb: Callable[..., Result],
    trained: Model,
    pieces: tuple[Data, ...],
    flags: Mapping[str, Any],
    folder: Path,
    number: int,
) -> Mapping[str, Any]:
    """Write the result for one file and return its facts; an unfinished result is replaced."""
    out = folder / f"part-{number:05d}{SUFFIX}"
    return verb(trained, pieces[number], out=out, overwrite=True, **flags).facts
