"""Check the inputs and outputs of commands before any work, and deliver the results."""

from __future__ import annotations

import fnmatch
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from lowerbound.cli import parsing
from lowerbound.cli.progress import Voice, spell_speed
from lowerbound.cli.verbs import VERBS
from lowerbound.errors import DataError, ResourceError, UsageError, nearest
from lowerbound.files import allocators
from lowerbound.files.arrays import NumpyNative
from lowerbound.files.data import LABEL, Data, Whole
from lowerbound.files.parallel import ahead
from lowerbound.files.paths import named
from lowerbound.files.pictures.columns import spread
from lowerbound.files.read import read
from lowerbound.files.stream import Stream
from lowerbound.files.write import (
    atomic_write,
    check_output,
    check_place,
    write_table,
    write_tables,
)

if TYPE_CHECKING:
    from lowerbound.coding.tables import Coded
    from lowerbound.tasks.trained import Model

Given = TypeVar("Given", bound=Data)


def check_model_target(path: str | os.PathLike[str], overwrite: bool, data: object = None) -> Path:
    """Check, before any computation, that a model of `data` can be saved at `path`."""
    check_apart(path, data)
    target = _place(path)
    if not os.path.lexists(target):
        return target
    if not (target / "manifest.json").is_file():
        raise UsageError(
            "E221",
            f"{target} exists and is not a saved model, so it is not replaced",
            fix="choose another --out",
            path=str(target),
        )
    if not overwrite:
        raise UsageError("E220", f"{target} exists already", fix="--overwrite", path=str(target))
    return target


def _place(path: str | os.PathLike[str]) -> Path:
    try:
        target = Path(path).absolute()
        if not target.parent.is_dir():
            raise OSError("the folder does not exist")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise OSError("it is not writable")
        os.path.lexists(target)  # a NUL in the name
        target.lstat()  # a name that is too long
    except FileNotFoundError:
        return target
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResourceError(
            "E302",
            f"{str(path)[:200]!r} cannot be written: {reason}",
            fix=f"mkdir -p {str(Path(path).parent)[:200]}, or choose another --out",
            path=str(path)[:1000],
        ) from None
    return target


def check_apart(path: str | os.PathLike[str], data: object = None) -> None:
    """Check that a result does not come to lie in a model, in the folder of a run or in the data.

    A further file ruins a model, and would be read as data the next time.

    Args:
        path: where the result is to be written.
        data: the input: a path, a pattern, or a list of them; others have no place.

    Raises:
        UsageError: E236 naming the folder.
    """
    try:
        target = Path(os.path.realpath(path))
        holder = next(((f, kind) for f in target.parents if (kind := _kind_of(f))), None)
    except (OSError, ValueError):  # no path: reported where it is written
        return
    if holder is not None:
        raise UsageError(
            "E236",
            f"{target} would lie in {holder[0]}, which is {holder[1]}",
            fix="choose another --out, in another folder",
            path=str(target),
        )
    for source in named(data):
        real = Path(os.path.realpath(source))
        if target == real or fnmatch.fnmatch(str(target), str(real)):
            told = "would replace the data that it is made from"
        elif real.is_dir() and target.is_relative_to(real):
            told = f"would lie in the data, {real}"
        else:
            continue
        raise UsageError(
            "E236",
            f"{target} {told}",
            fix="choose another --out, in another folder",
            path=str(target),
        )


def _kind_of(folder: Path) -> str:
    """Return what a folder is if it holds its own files only: a model, or a run; else ""."""
    if (folder / "manifest.json").is_file() and (folder / "weights.safetensors").is_file():
        return "a model"
    if folder.suffix in (".run", ".tune") and any(
        (folder / name).is_file() for name in ("run.json", "lock", "trials.log")
    ):
        return "the folder of a run"
    return ""


def check_table_target(
    path: str | os.PathLike[str] | None, overwrite: bool, data: object = None
) -> Path | None:
    """Check, before any computation, that rows can be written to `path`."""
    if path is None:
        return None
    check_apart(path, data)
    return check_output(path, overwrite)


def check_embedding_target(
    path: str | os.PathLike[str] | None, overwrite: bool, data: object
) -> Path | None:
    """Check that embeddings can be written to `path`: a table, or a copy of the file of cells."""
    if path is None or not is_cells(Path(path)):
        return check_table_target(path, overwrite, data)
    kind = Path(path).suffix.lower()
    if not (isinstance(data, str | os.PathLike) and Path(data).suffix.lower() == kind):
        raise UsageError(
            "E236",
            f"{path} would be a copy of the data with results; the data are not an {kind} file",
            fix="choose an --out that ends in .parquet",
        )
    check_apart(path, data)
    return check_place(path, overwrite)


def is_cells(target: Path | None) -> bool:
    """Return whether a path is the name of a file of an AnnData or a MuData."""
    return target is not None and target.suffix.lower() in (".h5ad", ".h5mu")


def is_array(target: Path | None) -> bool:
    """Return whether the file holds only an array of numbers, which has no room for ids."""
    return target is not None and target.suffix.lower() in (".npy", ".npz")


def open_data(
    data: object, rename: Mapping[str, str] | Sequence[str] = (), **options: Any
) -> Whole:
    """Read data and rename its columns to the names used in the model.

    Args:
        data: any input of `lowerbound.files.read.read`.
        rename: THEIRS=OURS pairs.
        options: further arguments of `read`.
    """
    return renamed(read(data, **options), rename)


def renamed(given: Given, rename: Mapping[str, str] | Sequence[str]) -> Given:
    """Rename columns to the names used in the model.

    Args:
        given: rows, in memory or in files.
        rename: THEIRS=OURS pairs.

    Raises:
        DataError: E239 for a column that does not exist, or a new name that is taken.
    """
    pairs = parsing.pairs(rename, "--rename", "Amount=amount")
    for theirs, ours in pairs.items():
        if theirs not in given.names:
            close = nearest(theirs, given.names)
            raise DataError(
                "E239",
                f"{given.origin} has no column {theirs!r} to rename",
                fix=f"--rename {close}={ours}"
                if close
                else "lowerbound inspect lists the columns",
            )
        if ours in given.names and ours not in pairs:
            raise DataError(
                "E239",
                f"{given.origin} already has a column {ours!r}: {theirs!r} cannot be renamed",
                fix=f"leave out --rename {theirs}={ours}",
            )
    return given.renamed(tuple(pairs.get(name, name) for name in given.names)) if pairs else given


def walked(
    given: Data, trained: Model, voice: Voice, *, whole: bool = False
) -> Iterator[tuple[Whole, Coded]]:
    """Yield the parts of data, as read and as coded, and report the progress.

    The next part is read and coded while the caller works on the current one. Columns that the
    model does not use are not read, unless `whole` is true.
    """
    if not whole:
        # Imported by name, since it imports torch: --help does not wait for it.
        given = import_module("lowerbound.coding.large").needed(given, trained.coding)
    clock, n = Clock(), 0
    for frame, coded in ahead(trained.encode(part) for part in given.parts()):
        yield frame, coded
        if isinstance(given, Stream):
            allocators.trim()
        n += frame.rows
        if n < given.rows:
            speed = spell_speed(n / max(clock(), 1e-9))
            voice.show(n / given.rows, f"{n:,} of {given.rows:,} rows  {speed}")


def with_ids(frame: Whole, ids: Sequence[str], table: pa.Table) -> pa.Table:
    """Prepend the rows' positions, the input's id columns, files and labels to `table`."""
    numbers = np.arange(frame.start, frame.start + table.num_rows, dtype=np.int64)
    front: dict[str, Any] = {"row": pa.array(numbers)}
    known = frame.annotations
    for name in ids:
        if name in known.column_names:
            taken = name in front or name in table.column_names
            front[f"{name} of input" if taken else name] = known[name]
    if frame.files:
        front["file"] = pa.array(frame.files)
        if LABEL in known.column_names:
            front[LABEL] = known[LABEL]
    columns = [*front.values(), *table.columns]
    return pa.table(columns, names=[*front, *table.column_names])


def deliver(
    given: Data | None,
    tables: Iterable[pa.Table],
    target: Path | None,
    overwrite: bool,
    shape: tuple[int, ...] = (),
) -> tuple[Any, Path | None]:
    """Write rows to `target` part by part, or return them in the container of the input.

    Args:
        given: the input, or None.
        tables: the rows, in parts.
        target: the file to write, or None to return the rows.
        overwrite: replace an existing result.
        shape: of one row if rows are pictures: array files then hold (n, *shape).

    Returns:
        The rows and the path; the rows are None if a `Stream` was written part by part.
    """
    if isinstance(given, Stream) and target is not None:
        return None, write_tables(tables, target, overwrite, shape)
    table = pa.concat_tables(tables)
    if target is not None:
        return table, write_table(table, target, overwrite, shape)
    return (spread(table, shape) if given is None else given.native.wrap(table)), None


def deliver_beside(
    data: str | os.PathLike[str], tables: Iterable[pa.Table], target: Path, overwrite: bool
) -> Path:
    """Write a copy of an .h5ad or .h5mu file with embeddings of its cells."""
    anndatas = import_module("lowerbound.files.anndata")
    z = NumpyNative().wrap(pa.concat_tables(tables))
    write = anndatas.with_embedding(Path(data), z)
    return atomic_write(target, write, overwrite, need=Path(data).stat().st_size + z.nbytes)


def spell_path(path: object, otherwise: str = "PATH") -> str:
    """Return the shortest spelling of a path for a command, or `otherwise` if it is not a path."""
    if not isinstance(path, str | Path):
        return otherwise
    absolute, here = Path(path), Path.cwd()
    inside = absolute.is_absolute() and absolute.is_relative_to(here) and absolute != here
    return shlex.quote(str(absolute.relative_to(here) if inside else path))


def spell_flags(**given: object) -> str:
    """Return flags as text with a space before each, to repeat them in a suggested command.

    Args:
        given: values by the names of the flags, with underscores: a text, a number, a sequence of
            names, or a mapping (or "key=value" texts). Those without a value are left out.
    """
    words = []
    for name, value in given.items():
        if value is None or value is False or (not value and value != 0):
            continue
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
            continue
        several = isinstance(value, Mapping | Sequence) and not isinstance(value, str)
        items = [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else value
        items = [str(item) for item in items] if several else [str(value)]  # pyright: ignore
        if several and name in _WITH_COMMAS and not any("," in item for item in items):
            items = [",".join(items)]
        words += [f"{flag} {shlex.quote(item)}" for item in items]
    return "".join(f" {word}" for word in words)


_WITH_COMMAS = ("types", "drop")  # flags that take a list separated by commas


def spell_use(restoration: str, model: str, data: str, why: str = "") -> str:
    """Return the command that uses a model.

    Args:
        restoration: the command that restores pictures, or "" for a model that scores rows.
        model: its path.
        data: the rows to score.
        why: flags to add to score.
    """
    if restoration:
        needs = VERBS[restoration].needs
        return f"lowerbound {restoration} {model} PICTURES{needs} --out made"
    return f"lowerbound score {model} {data} --out scores.csv{why}"


class Clock:
    """A stopwatch that starts when it is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began


def spell_bytes(count: int) -> str:
    """Return a number of bytes as text, such as 1.2 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
