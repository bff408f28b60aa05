"""Write results atomically, and never replace a file unless asked to."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from lowerbound.columns.arrow import place, snippet
from lowerbound.errors import ResourceError, UsageError
from lowerbound.files.formats import writer_of

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def atomic_write(
    path: str | os.PathLike[str],
    writer: Callable[[BinaryIO], None],
    overwrite: bool = False,
    *,
    need: int | None = None,
) -> Path:
    """Write a file atomically: at any moment its old or its new content is complete.

    Args:
        path: where to write; the folder must exist.
        writer: writes the content to an open binary file.
        overwrite: whether an existing file may be replaced.
        need: the expected size in bytes, compared with the free space before anything is done.

    Returns:
        The absolute path.

    Raises:
        UsageError: E220 if the path exists and may not be replaced, E223 if it cannot be a file.
        ResourceError: E301 if the disk is full, E302 if the folder cannot be written to.
    """
    target = _target(path, overwrite)
    _check_space(target, need)
    with refusals(target, need):
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name[:80]}.", suffix=".tmp"
        )
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w+b") as file:
                writer(file)
                file.flush()
                # mkstemp makes private files; a result should have the usual permissions.
                os.fchmod(file.fileno(), _mode(target))
                os.fsync(file.fileno())
            _publish(temporary, target, overwrite)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    return target


def _target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Resolve links to the target file and check that it may be written."""
    text = os.fspath(path)
    if "\0" in text or not text:
        raise UsageError(
            "E223", f"{place(text)} is not the path of a file", fix="choose another --out"
        )
    # A link stays a link; its target is replaced.
    target = Path(os.path.realpath(text))
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    except OSError as error:
        raise refused(target, error) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise UsageError(
            "E223",
            f"{place(target)} is {kind}, so no file can be written there",
            fix=f"--out '{target / 'out.parquet' if stat.S_ISDIR(mode) else 'out.parquet'}'",
            path=str(target),
        )
    if not overwrite:
        raise exists(target)
    return target


def exists(target: Path) -> UsageError:
    """Return the error for an output that exists already."""
    return UsageError(
        "E220",
        f"{place(target)} exists already",
        fix="add --overwrite (overwrite=True in Python), or choose another --out",
        path=str(target),
    )


def _check_space(target: Path, need: int | None) -> None:
    if need is None or not target.parent.is_dir():
        return
    if shutil.disk_usage(target.parent).free < need:
        raise _full(target, need)


def _full(target: Path, need: int | None) -> ResourceError:
    with suppress(OSError):
        free = shutil.disk_usage(target.parent).free
        wanted = f", need {need / 1e6:,.1f} MB" if need is not None else ""
        return ResourceError(
            "E301",
            f"disk full: {place(target.parent)} has {free / 1e6:,.1f} MB{wanted} "
            f"to write {snippet(target.name)}",
            fix="free some space, or choose another disk with --out",
            path=str(target),
            have=free,
            need=need,
        )
    return ResourceError("E301", f"disk full: {place(target)}", fix="free some space")


def refused(target: Path, error: OSError) -> ResourceError:
    """Return our error for the system's refusal to write."""
    if error.errno in _NO_SPACE:
        return _full(target, None)
    fixes = {
        errno.ENOENT: f"mkdir -p '{target.parent}'",
        errno.ENOTDIR: "choose a path whose parent is a folder",
        errno.EACCES: f"choose another --out, or: chmod u+w '{target.parent}'",
        errno.ENAMETOOLONG: "choose a shorter name",
    }
    return ResourceError(
        "E302",
        f"{place(target)} cannot be written: {error.strerror or error}",
        fix=fixes.get(error.errno or 0, "choose another --out"),
        path=str(target),
    )


@contextmanager
def refusals(target: Path, need: int | None) -> Iterator[None]:
    """Turn the system's errors while writing into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _full(target, need) from error
        raise refused(target, error) from error


def _mode(target: Path) -> int:
    """Return the permissions of the file that is replaced, or those of any new file."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    return 0o666 & ~masked_mode()


def masked_mode() -> int:
    """Return the umask of this process."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    """Rename the finished file atomically, without replacing another by accident."""
    if overwrite:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)  # fails if the name was taken in the meantime
    except FileExistsError as error:
        raise exists(target) from error
    except OSError:  # a file system without hard links
        if target.exists():
            raise exists(target) from None
        temporary.replace(target)


def _sync_folder(folder: Path) -> None:
    """Flush the folder, so that the new name survives a loss of power."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_tables(
    tables: Iterable[pa.Table],
    path: str | os.PathLike[str],
    overwrite: bool = False,
    shape: tuple[int, ...] = (),
) -> Path:
    """Write tables of the same columns to one file, as they come.

    ``.csv``, ``.tsv`` (also with ``.gz``) and ``.parquet`` hold any columns; ``.npy`` holds
    numbers as one array and ``.npz`` the array ``X`` and its ``columns``. But for ``.npz``, only
    one table is in memory at a time.

    Args:
        tables: the rows, one table at least; an error while they come leaves nothing behind.
        path: where to.
        overwrite: replace an existing result.
        shape: of each picture, where the rows are pictures, of which there is one table.

    Returns:
        The absolute path.

    Raises:
        UsageError: E222 for another suffix, E224 for columns that the format cannot hold, and
            what `atomic_write` raises.
        ResourceError: what `atomic_write` raises.
    """
    text = os.fspath(path)
    writer = writer_of(text)
    return atomic_write(text, lambda file: writer(iter(tables), file, text, shape), overwrite)


def write_table(
    table: pa.Table,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    shape: tuple[int, ...] = (),
) -> Path:
    """Write one table in the format that the suffix names, as `write_tables` does."""
    return write_tables([table], path, overwrite, shape)


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Raise what `write_table` would raise for this path, before any work is done."""
    writer_of(os.fspath(path))
    return check_place(path, overwrite)


def check_place(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Raise what `atomic_write` would raise for this path, before any work is done."""
    target = _target(path, overwrite)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        missing = not target.parent.exists()
        code = errno.ENOENT if missing else errno.EACCES
        raise refused(target, OSError(code, os.strerror(code)))
    return target
