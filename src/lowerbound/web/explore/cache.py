"""The folder of prepared rows, kept between starts: a second start need not score them again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lowerbound._version import __version__
from lowerbound.errors import ResourceError

KEPT = 5  # entries
_FORMAT = 1  # of the files of an entry
_DAY = 86_400  # seconds after which a folder that was never finished is removed


class Entry(NamedTuple):
    """A folder of prepared rows.

    Attributes:
        folder: the folder.
        found: whether it was there already.
        kept: whether it stays after the end.
        note: a remark for the user, or "".
    """

    folder: Path
    found: bool
    kept: bool
    note: str = ""


def home() -> Path:
    """Return the folder of all entries, in the user's folder for such files."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "lowerbound" / "explore"


def key_of(facts: Mapping[str, Any]) -> str:
    """Return the name of an entry, which anything that changes its content changes."""
    text = json.dumps([_FORMAT, __version__, facts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def entry(given: str | None, key: str | None, make: Callable[[Path], None]) -> Entry:
    """Return a prepared folder: one that is there already, or one that `make` fills.

    A folder gets its name when it is complete, so that one of a process that was stopped is never
    used. The `KEPT` entries that were used last stay.

    Args:
        given: the folder of all entries; None is that of the user.
        key: the name of the entry; None makes one that does not stay.
        make: fills an empty folder.

    Raises:
        ResourceError: E352 if `given` cannot be written to.
    """
    place = Path(given) if given is not None else home()
    note = ""
    if key is not None:
        note = _writable(place)
        if note and given is not None:
            raise ResourceError(
                "E352",
                f"the folder {given[:200]!r} cannot be used: {note}",
                fix="choose another --cache, or leave it out",
                path=given[:1000],
            )
        note = note and f"{place} cannot be used ({note}): nothing is kept for the next start"
    if key is None or note:
        folder = Path(tempfile.mkdtemp(prefix="lowerbound-explore-"))
        try:
            make(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Entry(folder, False, False, note)
    target = place / key
    if (target / "about.json").is_file():
        os.utime(target)
        return Entry(target, True, True)
    _remove_old(place)
    folder = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=place))
    try:
        make(folder)
        try:
            folder.rename(target)
        except OSError:  # another process was faster
            if not (target / "about.json").is_file():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Entry(target, False, True)


def _writable(place: Path) -> str:
    """Return why nothing can be written to a folder, or ""; it is made if it is not there."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _remove_old(place: Path) -> None:
    """Remove all entries but the newest, and folders that were never finished."""
    entries, now = [], time.time()
    for folder in place.iterdir():
        try:
            changed = folder.stat().st_mtime
        except OSError:
            continue
        if folder.name.endswith(".tmp") and now - changed > _DAY:
            shutil.rmtree(folder, ignore_errors=True)
        elif (folder / "about.json").is_file():
            entries.append((changed, folder))
    for _, folder in sorted(entries, reverse=True)[KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
