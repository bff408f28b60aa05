"""Loading of models: every byte is checked before any is used; each file is read once."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lowerbound.bundle import diagnosis, documents, manifest, shipped, tensors
from lowerbound.bundle.manifest import MANIFEST, REQUIRED, WEIGHTS, Entry, Manifest
from lowerbound.errors import ModelFileError, ResourceError

MAX_MANIFEST = 1 << 20
MAX_TEXT = 64 << 20
MAX_WEIGHTS = 32 << 30

_CHUNK = 1 << 20  # bytes per read: small enough to be hashed while in the processor's cache

# Never follow a link, never wait for the other end of a pipe; Windows has neither flag.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


@dataclass(frozen=True)
class Verified:
    """Result of `verify`: a model folder with correct digests and readable files."""

    path: Path
    manifest: Manifest
    digest: str
    """The SHA-256 of the manifest, and through it of the whole model."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files, the manifest among them."""
        return (MANIFEST, *(entry.name for entry in self.manifest.files))

    @property
    def bytes(self) -> int:
        """The size of all files that the manifest lists."""
        return sum(entry.bytes for entry in self.manifest.files)


@dataclass(frozen=True)
class Saved(Verified):
    """Contents of a model folder."""

    documents: dict[str, Any] = field(repr=False)
    """JSON values and Markdown texts by file name."""

    weights: dict[str, np.ndarray] = field(repr=False)
    """Arrays by name; bfloat16 ones as float32."""

    dtypes: dict[str, str] = field(repr=False)
    """The type each array has in the file, such as F32 or BF16."""


def load(path: str | os.PathLike[str]) -> Saved:
    """Load a saved model; raise an error if anything differs from what was written.

    Raises:
        ModelFileError: E101 to E106 when `path` is no model, E110 to E118 when it is a damaged
            or a newer one; `lowerbound error CODE` says more.
    """
    root = diagnosis.model_folder(path)
    sealed, raw, contents = read_sealed(root, REQUIRED)
    numbers = contents.pop(WEIGHTS)
    assert numbers.base is not None, "the array is a view of the buffer that was allocated"
    weights = tensors.decode(numbers.base, WEIGHTS, numbers.size)
    if name := tensors.not_finite(weights.arrays):
        raise documents.invalid(WEIGHTS, f"holds a number that is not finite, in {name[:60]!a}")
    parsed = {name: documents.parse(name, raw.tobytes()) for name, raw in contents.items()}
    if problem := documents.config_problem(parsed["config.json"]):
        raise documents.invalid("config.json", problem)
    digest = hashlib.sha256(raw).hexdigest()
    return Saved(root, sealed, digest, parsed, weights.arrays, weights.dtypes)


def verify(path: str | os.PathLike[str]) -> Verified:
    """Check a saved model as `load` does, and return a description of it.

    Raises:
        ModelFileError: as `load` does.
    """
    saved = load(path)
    return Verified(saved.path, saved.manifest, saved.digest)


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the manifest only; the other files are not checked.

    Raises:
        ModelFileError: as `load` does, for the folder and the manifest.
    """
    return _manifest(diagnosis.model_folder(path))[0]


def read_sealed(
    root: Path, required: frozenset[str]
) -> tuple[Manifest, bytes, dict[str, np.ndarray]]:
    """Read every file of a sealed folder, all digests checked.

    Args:
        root: the folder.
        required: names of files that it must have.

    Returns:
        The manifest, its bytes, and the bytes of every other file by name; those of the weights
        are the first of memory from `tensors.room`.

    Raises:
        ModelFileError: E110 to E118 where anything is not as it was written.
    """
    sealed, raw = _manifest(root, required)
    _check_listing(root, sealed)
    return sealed, raw, {entry.name: _read(root, entry.name, entry) for entry in sealed.files}


def _manifest(root: Path, required: frozenset[str] = REQUIRED) -> tuple[Manifest, bytes]:
    raw = _read(root, MANIFEST).tobytes()
    return manifest.parse(raw, required), raw


def _check_listing(root: Path, sealed: Manifest) -> None:
    expected = {MANIFEST, *(entry.name for entry in sealed.files)}
    found = set(diagnosis.listing(root))
    if missing := sorted(expected - found):
        raise _missing(root, missing[0])
    if extra := sorted(found - expected):
        raise ModelFileError(
            "E112",
            f"{root} contains {extra[0]!a}, which is no part of the model",
            fix="remove that file, or take the model from its source again",
            file=extra[0],
        )


def _read(root: Path, name: str, entry: Entry | None = None) -> np.ndarray:
    """Return a file's bytes, hashed as they come in; its name is never looked up again."""
    path = root / name
    try:
        status = path.lstat()
        _check_plain(path, status, _limit(name))
        if entry is not None and status.st_size != entry.bytes:
            raise _wrong_size(name, entry.bytes, status.st_size)
        with open(os.open(path, _FLAGS), "rb", buffering=0) as file:
            if not os.path.samestat(status, os.fstat(file.fileno())):
                raise _not_plain(path, "another file took its place")
            reserve = tensors.room if name == WEIGHTS else partial(np.empty, dtype=np.uint8)
            content = reserve(status.st_size)[: status.st_size]
            actual = _fill(file, content, name)
    except FileNotFoundError as error:
        raise _missing(root, name) from error
    except OSError as error:
        if error.errno == errno.ELOOP:  # it was replaced by a link after the check
            raise _not_plain(path, "a symbolic link") from error
        raise diagnosis.unreadable(path, error) from error
    except MemoryError as error:
        raise ResourceError("E303", f"{path} does not fit into the free memory") from error
    if entry is not None and actual != entry.sha256:
        raise ModelFileError(
            "E115",
            f"{name} is damaged: its sha256 should be {entry.sha256} but is {actual}",
            fix="copy the model from its source again, or fit it anew",
            file=name,
            expected=entry.sha256,
            actual=actual,
        )
    return content


def _fill(file: Any, content: np.ndarray, name: str) -> str:
    digest = hashlib.sha256()
    view = content.data
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + _CHUNK])
        if not count:
            raise _wrong_size(name, len(view), done)
        digest.update(view[done : done + count])
        done += count
    if file.read(1):
        raise _wrong_size(name, done, done + 1)
    return digest.hexdigest()


def _limit(name: str) -> int:
    return {MANIFEST: MAX_MANIFEST, WEIGHTS: MAX_WEIGHTS}.get(name, MAX_TEXT)


def _check_plain(path: Path, status: os.stat_result, limit: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _not_plain(path, "a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise _not_plain(path, diagnosis.kind(status.st_mode))
    if status.st_nlink > 1 and not shipped.holds(path.parent):
        raise _not_plain(path, "a hard link, which can be changed under another name")
    if status.st_size > limit:
        raise ModelFileError(
            "E118",
            f"{path.name} has {status.st_size:,} bytes; at most {limit:,} are read",
            file=path.name,
        )


def _not_plain(path: Path, what: str) -> ModelFileError:
    return ModelFileError(
        "E113",
        f"{path.name} in {path.parent} is not a plain file: {what}",
        fix=f"make a copy without links: cp -rL {path.parent} COPY.vae",
        file=path.name,
    )


def _missing(root: Path, name: str) -> ModelFileError:
    return ModelFileError(
        "E111",
        f"{name} is missing from {root}",
        fix="copy the whole folder from its source again",
        file=name,
    )


def _wrong_size(name: str, expected: int, actual: int) -> ModelFileError:
    return ModelFileError(
        "E114",
        f"{name} is damaged: it should have {expected:,} bytes but has {actual:,}",
        fix="copy the model from its source again, or fit it anew",
        file=name,
        expected=expected,
        actual=actual,
    )
