"""Destinations of images: a file of rows, one grid, or a folder of PNG files."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.cli.outputs import check_apart, check_table_target, deliver, is_array
from lowerbound.cli.work import drawing
from lowerbound.coding.pictures import PictureCoding
from lowerbound.errors import DataError, UsageError
from lowerbound.files.data import Data
from lowerbound.files.modality import PICTURES
from lowerbound.files.paths import named
from lowerbound.files.pictures.columns import pixels_of
from lowerbound.files.pictures.folders import pictures_in
from lowerbound.files.pictures.image_file import writer_of
from lowerbound.files.write import check_place
from lowerbound.files.write_folder import atomic_folder, check_folder, names_folder

if TYPE_CHECKING:
    from lowerbound.tasks.trained import Model

SHOWN = 400  # largest number of pictures in a grid: more would be too small to see


class Place(Protocol):
    """A destination of rows."""

    @property
    def plain(self) -> bool:
        """True if the destination holds only an array of numbers, without ids."""
        ...

    def deliver(
        self,
        trained: Model,
        given: Data | None,
        tables: Iterable[pa.Table],
        overwrite: bool,
    ) -> tuple[Any, Path | None]:
        """Write the rows, or return them; return (rows, path)."""
        ...


@dataclass(frozen=True)
class Rows:
    """A file of rows or arrays; without a file, the rows are returned."""

    path: Path | None

    @property
    def plain(self) -> bool:
        """True if the file holds an array, which has no room for ids."""
        return is_array(self.path)

    def deliver(
        self,
        trained: Model,
        given: Data | None,
        tables: Iterable[pa.Table],
        overwrite: bool,
    ) -> tuple[Any, Path | None]:
        """Write the rows, or return them."""
        return deliver(given, tables, self.path, overwrite, trained.coding.shape)


@dataclass(frozen=True)
class Grid:
    """One picture file with all images in a grid."""

    path: Path
    plain: bool = False

    def deliver(
        self,
        trained: Model,
        given: Data | None,
        tables: Iterable[pa.Table],
        overwrite: bool,
    ) -> tuple[Any, Path | None]:
        """Lay the pictures out in a square."""
        coding = _of_pictures(trained, self.path)
        table = pa.concat_tables(tables)
        shown = coding.shown(pixels_of(table, coding.shape))[:SHOWN]
        three = np.repeat(shown, 3, -1) if shown.shape[-1] == 1 else shown
        sheet = drawing.grid(three, math.ceil(math.sqrt(len(three))))
        return table, drawing.write([sheet], self.path, overwrite=overwrite)


@dataclass(frozen=True)
class Folder:
    """A folder with a PNG file for each image."""

    path: Path
    plain: bool = False

    def deliver(
        self,
        trained: Model,
        given: Data | None,
        tables: Iterable[pa.Table],
        overwrite: bool,
    ) -> tuple[Any, Path | None]:
        """Write all files, or none."""
        coding = _of_pictures(trained, self.path)
        table = pa.concat_tables(tables)
        shown = coding.shown(pixels_of(table, coding.shape))
        names = names_of(() if given is None else given.files, len(shown))
        return table, write_pictures(self.path, names, shown, overwrite)


def check_picture_target(
    out: str | os.PathLike[str] | None, overwrite: bool, data: object = None
) -> Place:
    """Return the destination of images or rows, and check that it can be written.

    A name without a suffix or with "/" at its end, or an existing folder, is a folder of PNG
    files; a name that ends in .png is a grid; any other name is a file of rows.
    """
    if out is None:
        return Rows(None)
    text = os.fspath(out)
    if names_folder(text):
        return Folder(check_picture_folder(text, overwrite, data))
    if text.lower().endswith(".png"):
        check_apart(text, data)
        return Grid(check_replaces_no_input(check_place(text, overwrite), data))
    return Rows(check_table_target(out, overwrite, data))


def check_picture_folder(
    text: str, overwrite: bool, data: object = None, kinds: Collection[str] = PICTURES
) -> Path:
    """Return the folder to write, after a check that it does not overlap with the data.

    Args:
        text: its path.
        overwrite: replace an earlier folder of results.
        data: the input.
        kinds: suffixes of the files that are results.
    """
    check_apart(text, data)
    target = check_folder(text, overwrite, kinds)
    for path in named(data):
        source, real = Path(os.path.realpath(path)), Path(os.path.realpath(target))
        if source.is_relative_to(real) or real.is_relative_to(source):
            raise UsageError(
                "E236",
                f"{target} and the data {source} must not contain each other",
                fix="choose another folder for the results",
            )
    return check_replaces_no_input(target, data)


def check_replaces_no_input(target: Path, data: object) -> Path:
    """Return the file or folder to write, after a check that it replaces no input."""
    if target.exists() and (found := named(data)):
        real = Path(os.path.realpath(target))
        with suppress(DataError):  # reported where the data are read
            for path in pictures_in(found).files:
                if Path(os.path.realpath(path)).is_relative_to(real):
                    raise UsageError(
                        "E236",
                        f"{target} would replace the input {path}",
                        fix="choose another place for the results",
                    )
    return target


def _of_pictures(trained: Model, path: Path) -> PictureCoding:
    """Return the coding of a model of images, or raise an error for other models."""
    coding = trained.coding
    if not isinstance(coding, PictureCoding):
        raise UsageError(
            "E246",
            f"{path.name} is an output for pictures, but the model was trained on a table",
            fix="--out rows.csv",
        )
    return coding


def names_of(files: Sequence[str], count: int) -> list[str]:
    """Return a name ending in .png for every picture, from its file or its number."""
    if not files:
        return [f"{i:0{len(str(count - 1))}d}.png" for i in range(count)]
    names, chosen = [], [str(PurePosixPath(name).with_suffix("")) for name in files]
    while names != chosen:  # two files may get one name: a.jpg, a.png, a.jpg.png
        names, times = chosen, Counter(chosen)
        chosen = [
            file if times[name] > 1 else name for file, name in zip(files, names, strict=True)
        ]
    return [f"{name}.png" for name in names]


def write_pictures(
    folder: Path, names: Sequence[str], pictures: Iterable[NDArray[np.uint8]], overwrite: bool
) -> Path:
    """Write a folder of PNG files: all of them, or none."""
    with atomic_folder(folder, overwrite) as made:
        for name, picture in zip(names, pictures, strict=True):
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                writer_of(path, picture)(file)
    return folder
