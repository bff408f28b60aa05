"""Decide by file names alone whether a path stands for pictures or tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lowerbound.files.paths import VAGUE, ExistingPath, kind_by_suffix

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib"),
    ".gif",
)


def means_pictures(found: ExistingPath) -> bool:
    """Return whether a path stands for pictures, as most readable files in it are.

    A list of labels next to the pictures does not make them a table, nor does a plot next to the
    shards of a table make it pictures.
    """
    if found.matches is None and not found.is_folder:
        return found.path.suffix.lower() in PICTURES
    names = found.matches if found.matches is not None else _beneath(found.path)
    kinds = Counter(_kind(path) for path in names)
    return kinds["picture"] > kinds["table"]


def _beneath(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here) / name for name in names if not name.startswith("."))


def _kind(path: Path) -> str:
    if path.suffix.lower() in PICTURES:
        return "picture"
    if path.suffix.lower() in VAGUE:  # notes next to the pictures
        return "other"
    return "table" if kind_by_suffix(path) else "other"
