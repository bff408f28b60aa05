"""Publish a folder atomically: it is complete or absent, even if the process is killed."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: remains of killed processes are not removed there
    fcntl = None

_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


@contextmanager
def publish(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder next to `target` that replaces it when the block succeeds.

    The files in it must already be on the disk (fsync) when the block ends. After an exception
    nothing of the new folder is left, and the old one, if any, is as it was.

    Args:
        target: where the folder shall be; its parent exists.
        overwrite: whether a folder that is there already is replaced.

    Raises:
        FileExistsError: when `target` exists and `overwrite` is false.
    """
    sweep(target)
    stage = target.with_name(_prefix(target) + secrets.token_hex(6))
    stage.mkdir()
    lock = _locked(stage)
    try:
        yield stage
        _sync(stage)
        _place(stage, target, overwrite)
        _sync(target.parent)
    finally:
        # The replaced folder, or the unfinished one: the new one bears its own name by now.
        shutil.rmtree(stage, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep(target: Path) -> None:
    """Remove the remains of attempts to publish `target` that were killed."""
    prefix = _prefix(target)
    with os.scandir(target.parent) as entries:
        left = [Path(e.path) for e in entries if e.name.startswith(prefix)]
    for folder in left:
        # A folder that was moved aside is the only copy until its successor is in place.
        needed = folder.name.endswith("-old") and not target.exists()
        if not needed and _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def moved_aside(target: Path, siblings: Iterable[str]) -> Path | None:
    """Return the folder that a killed process moved out of the way of its successor, if any."""
    prefix = _prefix(target)
    names = [name for name in siblings if name.startswith(prefix) and name.endswith("-old")]
    return target.with_name(names[0]) if names else None


def _prefix(target: Path) -> str:
    """Return the prefix of temporary names for `target`; short, since names are limited."""
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()
    return f".{target.name[:40]}.{digest[:8]}.saving-"


def _place(stage: Path, target: Path, overwrite: bool) -> None:
    try:
        stage.rename(target)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not overwrite:
            raise FileExistsError(error.errno, "appeared meanwhile", str(target)) from error
    if _exchange(stage, target):
        return
    # No atomic exchange here: for one moment the old folder has its name with "-old" only.
    old = stage.with_name(stage.name + "-old")
    target.rename(old)
    try:
        stage.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically, where the system can."""
    paths = os.fsencode(one), os.fsencode(other)
    try:
        libc = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return libc.renamex_np(*paths, _RENAME_SWAP) == 0
        return libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0
    except (AttributeError, OSError, TypeError):  # a C library without it; Windows
        return False


def _sync(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without fsync for folders
            raise
    finally:
        os.close(handle)


def _locked(folder: Path) -> int | None:
    """Hold a lock that the kernel releases however the process ends."""
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def _abandoned(folder: Path) -> bool:
    try:
        # Another process may stand between making its folder and locking it.
        if fcntl is None or time.time() - folder.stat().st_mtime < 1:
            return False
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # gone already
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
