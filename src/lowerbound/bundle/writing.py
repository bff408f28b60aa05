"""Saving of models: all files, then the manifest, then one rename."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from lowerbound.bundle import documents as texts
from lowerbound.bundle import tensors
from lowerbound.bundle.manifest import (
    FILE_NAME,
    MANIFEST,
    REQUIRED,
    STANDARD,
    WEIGHTS,
    Entry,
    seal,
)
from lowerbound.bundle.reading import read_manifest
from lowerbound.errors import LowerboundError, ModelFileError, ResourceError, UsageError
from lowerbound.files import publish

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SPARE = 1 << 20  # bytes for the manifest and the file system itself

Pieces = Sequence[bytes | memoryview]


def save(
    path: str | os.PathLike[str],
    *,
    documents: Mapping[str, object],
    weights: Mapping[str, np.ndarray | tensors.TensorLike],
    overwrite: bool = False,
) -> Path:
    """Save a model as a folder, which is complete and on the disk on return.

    Args:
        path: the folder to make, such as ``fraud.vae``.
        documents: content of each file: JSON values for ``.json`` names, text for ``.md``; among
            them ``config.json`` (with ``recipe`` and ``arguments``) and ``schema.json``.
        weights: arrays or torch tensors by name.
        overwrite: replace a saved model at `path`; nothing else is ever replaced.

    Returns:
        The folder's absolute path.

    Raises:
        UsageError: E220 when something is at `path` already, E221 when that is no saved model.
        ResourceError: E301 when the disk is too full, E302 when the place is not writable.
        ModelFileError: E119 when a document or a weight has no form in the file.
    """
    contents: dict[str, Pieces] = {name: [raw] for name, raw in _rendered(documents).items()}
    contents[WEIGHTS] = tensors.encode(weights)
    return write_sealed(path, contents, overwrite=overwrite)


def write_sealed(
    path: str | os.PathLike[str],
    contents: Mapping[str, Pieces],
    *,
    overwrite: bool = False,
    what: str = "the model",
) -> Path:
    """Write a folder of files under one manifest, complete and on the disk on return.

    Args:
        path: the folder to make.
        contents: the bytes of each file, in pieces.
        overwrite: replace a saved model at `path`.
        what: name of the saved thing, for messages.

    Raises:
        UsageError: E220, E221 as `save`.
        ResourceError: E301, E302 as `save`.
    """
    need = sum(len(piece) for pieces in contents.values() for piece in pieces)
    with (
        _target(path, need, overwrite, what) as target,
        publish.publish(target, overwrite=overwrite) as stage,
    ):
        entries = [_write(stage / name, contents[name]) for name in sorted(contents)]
        _write(stage / MANIFEST, [seal(entries)])
    return target


def _rendered(documents: Mapping[str, object]) -> dict[str, bytes]:
    for name in documents:
        if not re.fullmatch(FILE_NAME, name) or name in (MANIFEST, WEIGHTS):
            raise ModelFileError("E119", f"{name!r} cannot be the name of a document in a model")
    if absent := sorted(REQUIRED - set(documents) - {WEIGHTS}):
        raise ModelFileError("E119", f"a model needs {', '.join(absent)} too")
    raws = {name: texts.render(name, document) for name, document in documents.items()}
    if problem := texts.config_problem(texts.parse("config.json", raws["config.json"])):
        raise texts.unsaveable("config.json", f"it {problem}")
    return raws


@contextmanager
def _target(path: str | os.PathLike[str], need: int, overwrite: bool, what: str) -> Iterator[Path]:
    """Yield the path to save to, and translate errors of the system."""
    target = Path(path).absolute()
    try:
        target = target.resolve()  # a link to a model stays a link, and its model is replaced
        _refuse_existing(target, overwrite)
        have = shutil.disk_usage(target.parent).free
        if have < need + _SPARE:
            raise _full(target, need, have, what)
        yield target
    except LowerboundError:
        raise
    except FileExistsError as error:
        raise UsageError("E220", f"{target} appeared while it was being saved") from error
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; a loop of links
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _full(target, need, shutil.disk_usage(target.parent).free, what) from error
        raise _unwritable(target, error) from error


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if foreign := _foreign(target):
        raise UsageError(
            "E221",
            f"{target} is no saved model ({foreign}), so it is not replaced",
            fix="choose another --out",
            path=str(target),
        )
    if not overwrite:
        raise UsageError(
            "E220",
            f"{target} exists already",
            fix="pass --overwrite (overwrite=True in Python), or choose another --out",
            path=str(target),
        )


def _foreign(target: Path) -> str:
    """Return the reason not to replace `target`, or an empty string."""
    try:
        found = {entry.name for entry in target.iterdir()}
    except NotADirectoryError:
        return "it is a file"
    known = set(STANDARD)
    with suppress(LowerboundError):  # a damaged model may be replaced
        known |= {entry.name for entry in read_manifest(target).files}
    others = sorted(found - known)
    return f"it contains {others[0]!a}" if others else ""


def _write(path: Path, pieces: Pieces) -> Entry:
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:  # honours the umask
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return Entry(name=path.name, bytes=size, sha256=digest.hexdigest())


def _unwritable(target: Path, error: Exception) -> ResourceError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return ResourceError(
        "E302",
        f"cannot save {str(target)[:300]}: {reason}",
        fix="check that the folder exists and that you may write to it",
        path=str(target),
    )


def _full(target: Path, need: int, have: int, what: str) -> ResourceError:
    return ResourceError(
        "E301",
        f"disk full: {target.parent} has {_size(have)}, saving {what} needs {_size(need)}",
        fix="free some space, or choose another --out",
        need=need,
        have=have,
    )


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"
