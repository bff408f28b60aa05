"""The work of the verbs denoise, upscale, inpaint and segment, one picture at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowerbound.cli import places
from lowerbound.cli.outputs import Clock
from lowerbound.cli.result import Result, left_out
from lowerbound.cli.work import drawing
from lowerbound.coding.crops import shares
from lowerbound.coding.pairs import matched, packed_colours
from lowerbound.errors import DataError, LowerboundError, UsageError
from lowerbound.files.pictures import folders, image_file
from lowerbound.files.pictures.bad_files import Tally, alone, counted
from lowerbound.files.pictures.options import FULL
from lowerbound.files.write_folder import atomic_folder
from lowerbound.tasks.restore_picture import Draws, Page, Pages, classes_of, masks_of, restore_page
from lowerbound.tasks.trained import Model

SHOWN = 4  # number of pictures in the overview
SIDE = 160  # side of a picture in the overview, in pixels


@dataclass(frozen=True)
class Order:
    """Settings of a restoration.

    Attributes:
        how: the numbers of draws, and their seed.
        on_bad_file: "auto", "skip" or "fail".
        mask: a path to the masks of the holes, or None.
        whites: the value of white of each picture of 16 bits, by its name.
    """

    how: Draws
    on_bad_file: str
    mask: Any = None
    whites: Mapping[str, int | None] = field(default_factory=dict)


class _Restored(NamedTuple):
    """A picture, what was made of it, its name in the output, and the white of 16 bits."""

    name: str
    given: Page
    made: Pages
    white: int


def check_folder(out: str | os.PathLike[str], overwrite: bool, data: object) -> Path:
    """Return the output folder, checked before any computation."""
    target = places.check_picture_folder(os.fspath(out), overwrite, data)
    if target.is_dir() and not (target / folders.OVERVIEW).is_file() and any(target.iterdir()):
        raise UsageError(
            "E221",
            f"{target} contains other files than restored pictures, so it is not replaced",
            fix="choose another --out",
            path=str(target),
        )
    return target


def run(trained: Model, data: Any, order: Order, target: Path | None, overwrite: bool) -> Result:
    """Restore the pictures at `data`: write a folder, or return arrays if `target` is None."""
    clock = Clock()
    listing, holes = _inputs(data, order.mask)
    how, policy = trained.coding.wanted(), alone(len(listing.files), order.on_bad_file)
    seen = folders.survey(listing, policy, how.all_frames)
    tally, order = seen.tally, replace(order, whites=seen.whites(how.white))
    names = places.names_of(seen.listing.names, len(seen.headers))
    pages = _pages(trained, seen, names, holes, order)
    if target is None:
        made = [each.made for each in pages]
        doubts = [each.doubt for each in made]
        return _told(trained, doubts, (tally, seen.notes), clock(), None, made)
    _check_names(names, order.how.draws)
    with atomic_folder(target, overwrite) as folder:
        doubts = _written(folder, pages, classes_of(trained))
    return _told(trained, doubts, (tally, seen.notes), clock(), target)


def _visible(page: Page, classes: NDArray[np.int64]) -> Page:
    """Return a mask with its colours replaced by distinct greys; other pages unchanged."""
    if not len(classes):
        return page
    place = np.searchsorted(classes, packed_colours(page))
    return np.rint(place * (255 / (len(classes) - 1))).astype(np.uint8)[..., None]


def _written(folder: Path, pages: Iterator[_Restored], classes: NDArray[np.int64]) -> list[float]:
    """Write all pictures and the overview of the first few; return their uncertainties."""
    doubts, rows = [], []
    for name, given, made, white in pages:
        _write(folder, name, made)
        doubts.append(made.doubt)
        if len(rows) < SHOWN:
            result, *draws = (_visible(p, classes) for p in (made.result, *made.draws))
            row = (given, result, made.uncertainty, *draws)
            shown = [image_file.bytes_of(page, white) for page in row]
            rows.append([drawing.thumbnail(page, SIDE) for page in shown])
    sheet = drawing.grid(np.stack([page for row in rows for page in row]), len(rows[0]))
    _save(folder / folders.OVERVIEW, sheet)
    return doubts


def _inputs(data: Any, mask: Any) -> tuple[folders.Listing, Mapping[Path, Path] | None]:
    """List the pictures, and the mask of the holes of each."""
    listing = folders.pictures_in(data)
    if mask is None:
        return listing, None
    masks = folders.pictures_in(mask)
    if len(masks.files) == 1:
        return listing, dict.fromkeys(listing.files, masks.files[0])
    listing, masks = matched(listing, masks)
    return listing, dict(zip(listing.files, masks.files, strict=True))


def _pages(
    trained: Model,
    seen: folders.Survey,
    names: Sequence[str],
    holes: Mapping[Path, Path] | None,
    order: Order,
) -> Iterator[_Restored]:
    """Restore pictures one at a time, so that only one is in memory."""
    tally, listing = seen.tally, seen.listing
    for i, (path, page) in enumerate(listing.places):
        try:
            given = image_file.decode(path, page=page)
            hole = None if holes is None else _hole(holes[path], given)
        except LowerboundError as error:
            if error.code == "E089" and tally.policy != "skip":  # readable, but sizes differ
                raise
            tally.add(listing.names[i], error)
            continue
        white = order.whites.get(listing.names[i])
        made = restore_page(trained, given, order.how, hole, white)
        yield _Restored(names[i], given, made, white or FULL)
    tally.check()


def _hole(path: Path, given: Page) -> NDArray[np.bool_]:
    """Return a boolean array, (H, W): true where the mask is white."""
    mask = shares(image_file.decode(path, 1))[..., 0] > 0.5
    if mask.shape != given.shape[:2]:
        raise DataError(
            "E089",
            f"the mask {path.name} must have the size of its picture, "
            f"{given.shape[0]}x{given.shape[1]}, got {mask.shape[0]}x{mask.shape[1]} pixels",
            fix="give a mask of the picture's size",
            path=str(path),
        )
    return mask


def _write(folder: Path, name: str, made: Pages) -> None:
    """Write the pictures of one file under its name, which ends in .png."""
    pages = (made.result, made.uncertainty, *made.draws)
    for part, page in zip(_parts(len(made.draws)), pages, strict=True):
        _save(folder / part / name, page)


def _save(place: Path, page: Page) -> None:
    """Write one new file; make its folder if needed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("xb") as file:
        image_file.writer_of(place, page)(file)


def _parts(draws: int) -> list[str]:
    """Return the sub-folders of the output, in the order of `Pages`."""
    return ["", folders.UNCERTAINTY, *(f"{folders.DRAW}{i + 1}" for i in range(draws))]


def _check_names(names: Sequence[str], draws: int) -> None:
    """Raise an error if two pictures would be written to the same file."""
    further = {f"{part}/{name}" for part in _parts(draws)[1:] for name in names}
    both = sorted(further.intersection(names))
    if both:
        part, _, name = both[0].partition("/")
        raise UsageError(
            "E236",
            f"{both[0]!r} would be written twice: as the result for the file of that name, and as "
            f"the {part} of {name!r}",
            fix=f"rename the folder {part}, or give only the pictures outside it",
        )


def _told(
    trained: Model,
    doubts: list[float],
    left: tuple[Tally, Sequence[str]],
    seconds: float,
    target: Path | None,
    made: list[Pages] | None = None,
) -> Result:
    """Return the result of a restoration: the number of pictures, and their uncertainty."""
    tally, notes = left
    doubt, classes = float(np.mean(doubts)), masks_of(trained)
    unit = "nats per pixel" if classes else "grey levels of 8 bits"
    what = "mean entropy" if classes else "mean uncertainty"
    facts = {
        "pictures": len(doubts),
        **left_out(tally),
        "uncertainty": doubt,
        "unit": unit,
        "seconds": seconds,
    }
    return Result(
        facts,
        table=made,
        lines=[f"{counted(len(doubts), 'picture')}, {what} {doubt:.3g} {unit}, {seconds:.1f} s"],
        notes=[*tally.notes, *notes],
        path=target,
    )
