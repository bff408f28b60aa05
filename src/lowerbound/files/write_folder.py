"""Write folders of results atomically, and never replace a folder unless asked to."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from lowerbound.columns.arrow import place
from lowerbound.errors import UsageError
from lowerbound.files.modality import PICTURES
from lowerbound.files.publish import publish
from lowerbound.files.write import exists, refusals, refused


def names_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of a folder: it ends in "/", has no suffix, or is a folder."""
    text = os.fspath(path)
    return text.endswith(("/", os.sep)) or not Path(text).suffix or os.path.isdir(text)


def check_folder(
    path: str | os.PathLike[str], overwrite: bool = False, kinds: Collection[str] = PICTURES
) -> Path:
    """Raise what `atomic_folder` would raise for this path, before any work is done.

    Args:
        path: of the folder.
        overwrite: replace an earlier folder of results.
        kinds: suffixes of the files that are results.

    Raises:
        UsageError: E220 if it exists and may not be replaced, E221 if it holds something else
            than results, E223 if it is no folder.
        ResourceError: E302 if the folder around it is missing or closed.
    """
    target = Path(os.path.abspath(path))
    if target.exists() and not target.is_dir():
        raise UsageError(
            "E223",
            f"{place(target)} is a file, so no folder can be written there",
            fix="choose another name",
            path=str(target),
        )
    if target.is_dir():
        _check_replaced(target, overwrite, kinds)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        code = errno.EACCES if target.parent.exists() else errno.ENOENT
        raise refused(target, OSError(code, os.strerror(code)))
    return target


def _check_replaced(target: Path, overwrite: bool, kinds: Collection[str]) -> None:
    held = [p for p in target.rglob("*") if not p.is_dir()]
    if held and not overwrite:
        raise exists(target)
    foreign = [p for p in held if p.suffix.lower() not in kinds]
    if foreign:
        raise UsageError(
            "E221",
            f"{place(target)} holds more than {_named(kinds)}, such as {foreign[0].name}, so it "
            "is not replaced",
            fix="choose another folder",
            path=str(target),
        )


def _named(kinds: Collection[str]) -> str:
    return "pictures" if kinds is PICTURES else f"files of {', '.join(sorted(kinds))}"


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], overwrite: bool = False, kinds: Collection[str] = PICTURES
) -> Iterator[Path]:
    """Yield an empty folder to write to, which gets its name when the block succeeds.

    Args:
        path: of the folder; the one around it must exist.
        overwrite: replace an earlier folder of results.
        kinds: suffixes of the files that are results.

    Yields:
        The folder to write to, next to its final place; it is removed if the block fails.

    Raises:
        UsageError: what `check_folder` raises.
        ResourceError: E301 if the disk is full, E302 if nothing can be written there.
    """
    target = check_folder(path, overwrite, kinds)
    with refusals(target, None), publish(target, overwrite=target.is_dir()) as made:
        yield made
        for file in made.rglob("*"):
            if file.is_file():
                _sync(file)


def _sync(path: Path) -> None:
    """Flush a file to the disk before its folder gets its name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
