"""Small trained models and other costly files, made once and shared by all test processes.

    folder = zoo.folder(make)   # make(folder) writes into an empty folder, once

A folder is keyed by the digest of all code that can change what is in it: the library, the helpers
of the tests, the pinned versions, and the file that `make` is in. It lies in the pytest cache, so
that a run whose code has not changed finds it there. Nobody may write into it: a folder that a
test has changed is an error.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock

from lowerbound import Model

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".pytest_cache" / "zoo"
DONE = "contents.json"
KEPT = 3  # of one folder, of the newest digests: a branch and the one before


@functools.cache
def code() -> str:
    """Return the digest of the code that all folders depend on."""
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    files += [ROOT / "constraints.txt", *(ROOT / "tests" / "cli").glob("conftest.py")]
    digest = hashlib.sha256(repr((platform.python_version(), torch.__version__)).encode())
    for file in sorted(files):
        if not file.name.startswith("test_"):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def contents(folder: Path) -> dict[str, list[int]]:
    """Return file -> its size and time of change, of everything in a folder."""
    return {
        str(path.relative_to(folder)): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def folder(make: Callable[[Path], None]) -> Path:
    """Return the folder that `make` has filled, in this process or another, now or earlier.

    Args:
        make: a function of the top of a module; what it does depends on code alone.
    """
    source = Path(inspect.getfile(inspect.unwrap(make)))
    place = HOME / f"{source.stem}.{make.__name__}"
    key = hashlib.sha256(code().encode() + source.read_bytes()).hexdigest()[:16]
    made, listing = place / key, place / f"{key}.{DONE}"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        if not listing.exists():
            _clear(place)
            shutil.rmtree(made, ignore_errors=True)  # of a process that was stopped in the middle
            made.mkdir()
            make(made)
            listing.write_text(json.dumps(contents(made)))
    then, now = json.loads(listing.read_text()), contents(made)
    changed = [name for name in then | now if then.get(name) != now.get(name)]
    assert not changed, f"a test has changed {changed[0]} in {made}: fix it, and remove {place}"
    return made


def _clear(place: Path) -> None:
    """Remove what earlier code has made, but for the newest."""
    older = sorted(place.glob(f"*.{DONE}"), key=lambda path: path.stat().st_mtime)
    for listing in older[: -(KEPT - 1)]:
        listing.unlink()
        shutil.rmtree(place / listing.name.removesuffix(f".{DONE}"), ignore_errors=True)


def trained(make: Callable[[], Model]) -> Model:
    """Return the model that `make` trains: a fresh object, loaded from its saved folder."""

    @functools.wraps(make)
    def save(place: Path) -> None:
        make().save(place / "model.vae")

    return Model.load(folder(save) / "model.vae")
