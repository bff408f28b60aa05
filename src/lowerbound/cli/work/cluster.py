"""Verbs on a Ray cluster: a fit whose workers train together, and files that are walked apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lowerbound.cli import parsing
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
_PATHS = ("out", "config", "targets")  # flags of fit, which workers see from another folder


def count(ray: bool, workers: object) -> int | None:
    """Read --workers.

    Raises:
        UsageError: E236 without --ray, E240 for fewer than one.
    """
    if workers is None:
        return None
    if not ray:
        raise UsageError(
            "E236", "--workers counts the processes of --ray", fix=f"--ray --workers {workers}"
        )
    return parsing.at_least(workers, 1, "--workers")


@dataclass(frozen=True)
class _Fit:
    """The verb fit as each worker runs it, on the same machine or on another."""

    data: Any
    flags: Mapping[str, Any]
    folder: str
    limit: int | None

    def __call__(self, voice: Voice) -> Result:
        with suppress(OSError):  # on another machine it need not be there
            os.chdir(self.folder)
        with memory.limited(self.limit):
            result = VERBS["fit"].load()(self.data, **self.flags, voice=voice)
        return replace(result, model=None) if result.path is not None else result


def fit(data: Any, flags: Mapping[str, Any], workers: int | None, voice: Voice) -> Result:
    """Learn in several processes of a cluster, as torchrun would start them.

    Args:
        data: as the verb takes it.
        flags: of the verb; where the model goes has been checked.
        workers: processes, or None for as many as there are GPUs or cores.
        voice: hears the first of them.
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
    """Refuse what no other process could be given: pyarrow pickles no filters."""
    if is_dataset(data):
        raise UsageError(
            "E236",
            f"--ray reads files on every machine, and a {type(data).__name__} is given",
            fix="give the folder of its files, or leave out --ray",
        )


def _absolute(path: Any) -> Any:
    return str(Path(path).expanduser().absolute()) if isinstance(path, str | os.PathLike) else path


def check_parts(out: str | os.PathLike[str] | None, overwrite: bool, data: object) -> Path:
    """Refuse, before anything is computed, what is no folder for shards of Parquet.

    Raises:
        UsageError: E232 for none, E236 for the name of a file, the folder of the data or a
            dataset, and what `check_folder` raises.
    """
    _refuse_datasets(data)
    if out is None:
        raise UsageError("E232", "--ray writes files: it needs --out", fix="--out scores/")
    if not names_folder(out):
        raise UsageError(
            "E236",
            f"with --ray the output is a folder of Parquet files, and {out} is a file's name",
            fix=f"--out {Path(out).with_suffix('')}/",
        )
    target = check_folder(out, overwrite, (SUFFIX,))
    if isinstance(data, str | os.PathLike) and target == Path(data).absolute():
        raise UsageError(
            "E236",
            f"{target} would replace the data that it is made from",
            fix="choose another --out",
        )
    return target


@dataclass(frozen=True)
class Walk:
    """A verb that workers run on one file of a table after the other.

    Attributes:
        verb: such as "score".
        trained: the model.
        given: the rows; those of several files are worked on file by file.
        flags: of the verb, but for those that tell where rows come from and where they go.
    """

    verb: str
    trained: Model
    given: Data
    flags: Mapping[str, Any]

    @property
    def pieces(self) -> tuple[Data, ...]:
        """The rows of each file."""
        return getattr(self.given, "pieces", ()) or (self.given,)

    def done(
        self, target: Path, overwrite: bool, workers: int | None, voice: Voice
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the facts of each file, whose results lie in the folder once all are there.

        Args:
            target: the folder, which gets a file for each of the table's.
            overwrite: replace an earlier one.
            workers: processes at most.
            voice: hears how many files are done.
        """
        with atomic_folder(target, overwrite, (SUFFIX,)) as made:
            make = partial(_ready, self.verb, self.trained, self.pieces, self.flags, made)
            yield from launch.apart(make, len(self.pieces), workers, voice)


def _ready(verb: str, *known: Any) -> Callable[[int], Mapping[str, Any]]:
    return partial(_walked, VERBS[verb].load(), *known)


def _walked(  # noqa: PLR0913, PLR0917 - all of a verb, and which file
    verb: Callable[..., Result],
    trained: Model,
    pieces: tuple[Data, ...],
    flags: Mapping[str, Any],
    folder: Path,
    number: int,
) -> Mapping[str, Any]:
    """Write what a verb makes of one file, and return its facts; what was begun is replaced."""
    out = folder / f"part-{number:05d}{SUFFIX}"
    return verb(trained, pieces[number], out=out, overwrite=True, **flags).facts
