"""Pictures before and after a model of pictures of any size, to be looked at.

Each is shown as a whole and in the detail that the model is least sure of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowerbound import noise
from lowerbound.coding.augmentations import RandomHoles
from lowerbound.coding.pairs import PairCoding, packed_colours
from lowerbound.errors import UsageError
from lowerbound.files.paths import named
from lowerbound.files.pictures import folders, image_file
from lowerbound.files.pictures.bad_files import Unreadable, alone
from lowerbound.tasks import autoencode
from lowerbound.tasks.restore_picture import SPREAD, Draws, Page, classes_of, restore_page
from lowerbound.tasks.state import TrainedState

SIDE = 256  # pixels of the middle of a picture that are shown, in each direction
DETAIL = 64  # pixels of the detail
_RED = (230, 30, 20)


class Box(NamedTuple):
    """A square of a picture: its top and left edge and its side, pixels."""

    top: int
    left: int
    side: int


class Shown(NamedTuple):
    """A picture before and after.

    Attributes:
        name: of the file.
        given: (H, W, C) uint8, in the size of the result.
        made: (H, W, C) uint8, the result.
        doubt: (H, W, 1) uint8, how unsure the model is of each pixel; for an autoencoder, how far
            the decoded picture is from the given one.
        box: the detail.
        told: what the map of doubts comes to, in words.
    """

    name: str
    given: Page
    made: Page
    doubt: Page
    box: Box
    told: str

    @property
    def whole(self) -> list[Page]:
        """The three pictures, with the detail outlined in the first two, (H, W, 3) each."""
        return [
            outlined(self.given, self.box),
            outlined(self.made, self.box),
            coloured(self.doubt),
        ]

    @property
    def detail(self) -> list[Page]:
        """The same of the detail, (side, side, 3) each."""
        top, left, side = self.box
        here = slice(top, top + side), slice(left, left + side)
        return [coloured(page[here]) for page in (self.given, self.made, self.doubt)]


@dataclass(frozen=True)
class Examples:
    """Some pictures of many before and after.

    Attributes:
        shown: the pictures.
        origin: the name of all.
        total: their number.
        notes: remarks for the user.
        unreadable: the files that cannot be read, and why.
    """

    shown: Sequence[Shown]
    origin: str
    total: int
    notes: Sequence[str]
    unreadable: Unreadable


def examples(
    trained: TrainedState, data: Any, *, count: int = 6, seed: int = 0, on_bad_file: str = "auto"
) -> Examples:
    """Restore, or encode and decode, some of the pictures at a path.

    Of larger pictures the middle is taken. A model that fills holes gets holes at random places.

    Args:
        trained: a model that restores or encodes pictures.
        data: a folder, a picture, a pattern or a list of these.
        count: number of pictures at most, drawn at random.
        seed: of the choice and of all draws.
        on_bad_file: "auto", "skip" or "fail".

    Raises:
        UsageError: E247 for another model, E270 for data that are no picture files.
        DataError: E082 to E085 for pictures that are not there or cannot be read.
    """
    if trained.recipe.restoration is None:
        raise UsageError(
            "E247",
            f"a model of the recipe {trained.recipe.name!r} restores no pictures",
            fix="lowerbound plot M.vae reconstructions DATA --out reconstructions.png",
        )
    if not named(data):
        raise UsageError(
            "E270",
            f"a model that {trained.recipe.restoration.does} is shown at work on picture files, "
            f"got a {type(data).__name__}",
            fix="give a folder of pictures, or a list of picture files",
        )
    listing = folders.pictures_in(data)
    how, policy = trained.coding.wanted(), alone(len(listing.files), on_bad_file)
    seen = folders.survey(listing, policy, how.all_frames)
    folders.examined(seen)
    seen.tally.check()
    seen = seen.readable
    total = len(seen.headers)
    order = np.random.default_rng(noise.derive("before and after", seed) % (1 << 32))
    chosen = np.sort(order.choice(total, min(count, total), replace=False)).tolist()
    whites = seen.whites(how.white)
    made = list(_each(trained, seen.listing.chosen(chosen), whites, seed))
    notes = [*listing.notes, *seen.tally.notes, *seen.notes]
    return Examples(made, listing.origin, seen.tally.total, notes, seen.tally.unreadable)


def _each(
    trained: TrainedState, listing: folders.Listing, whites: Mapping[str, int | None], seed: int
) -> Iterator[Shown]:
    for name, (path, number) in zip(listing.names, listing.places, strict=True):
        page = middle(image_file.decode(path, page=number), SIDE)
        yield shown(trained, name, page, whites[name], seed)


def middle(page: Page, side: int) -> Page:
    """Return the middle of a picture, at most `side` pixels high and wide."""
    top, left = (max(0, (n - side) // 2) for n in page.shape[:2])
    return page[top : top + side, left : left + side]


def shown(
    trained: TrainedState, name: str, page: Page, white: int | None = None, seed: int = 0
) -> Shown:
    """Return one picture before and after.

    Args:
        trained: a model that restores or encodes pictures.
        name: of the picture.
        page: (H, W, C) of 8 or 16 bits.
        white: the value of white of 16 bits; None is that of the training pictures.
        seed: of all draws.
    """
    top = autoencode.white_of(trained, page.dtype, white)
    given = image_file.bytes_of(page, top)
    if trained.encodes:
        return _decoded(trained, name, given)
    hole = _holes(trained, page.shape, seed)
    if hole is not None:
        given = np.where(hole[..., None], 0, given).astype(np.uint8)
    found = restore_page(trained, page, Draws(seed=seed), hole, white)
    made, classes = found.result, classes_of(trained)
    unit = "grey levels of 8 bits"
    if len(classes):
        place = np.searchsorted(classes, packed_colours(made))
        made = np.rint(place * (255 / (len(classes) - 1))).astype(np.uint8)[..., None]
        unit = "nats of entropy per pixel"
    made = image_file.bytes_of(made, top)
    scale = len(made) // len(given)
    given = given.repeat(scale, 0).repeat(scale, 1)
    box = least_sure(found.uncertainty[..., 0])
    return Shown(name, given, made, found.uncertainty, box, f"{found.doubt:.2g} {unit}")


def _decoded(trained: TrainedState, name: str, given: Page) -> Shown:
    """Return a picture and what its latents decode to."""
    channels = autoencode.sizes_of(trained).channels
    if given.shape[-1] != channels:
        grey = np.rint(given.mean(-1, keepdims=True)).astype(np.uint8)
        given = np.repeat(grey, channels, -1)
    height, width = given.shape[:2]
    found = autoencode.encode_page(trained, given)
    made = autoencode.decode_page(trained, found.mean, (height, width))
    error = np.abs(made.astype(np.float32) - given).mean(-1, keepdims=True)
    doubt = np.rint((error * SPREAD).clip(0, 255)).astype(np.uint8)
    square = np.square(made.astype(np.float64) - given).mean() / 255**2
    told = (
        f"{-10 * np.log10(max(square, 1e-12)):.1f} dB, "
        f"{found.bits / (height * width):.2f} bits per pixel"
    )
    return Shown(name, given, made, doubt, least_sure(doubt[..., 0]), told)


def _holes(trained: TrainedState, shape: tuple[int, ...], seed: int) -> NDArray[np.bool_] | None:
    """Return holes at random places for a model that fills holes; None for other models."""
    coding, restoration = trained.coding, trained.recipe.restoration
    assert isinstance(coding, PairCoding)
    assert restoration is not None
    view = None if restoration.damage is None else restoration.damage(coding.settings)
    if not isinstance(view, RandomHoles):
        return None
    height, width = shape[:2]
    return view.holes(1, (height, width), noise.generator("before and after", seed))[0, 0].numpy()


def least_sure(doubt: NDArray[np.uint8], side: int = DETAIL) -> Box:
    """Return the square with the highest mean of a map, (H, W).

    Its side is a quarter of the shorter side of the map, at least 16 and at most `side` pixels.

    >>> field = np.zeros((100, 200), np.uint8)
    >>> field[40:65, 150:175] = 9
    >>> least_sure(field)
    Box(top=40, left=150, side=25)
    """
    height, width = doubt.shape
    side = min(side, max(16, min(height, width) // 4), height, width)
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = doubt.astype(np.float64).cumsum(0).cumsum(1)
    boxes = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(boxes.argmax(), boxes.shape)
    return Box(int(top), int(left), side)


def coloured(page: Page) -> Page:
    """Return a picture of 8 bits with three channels."""
    return np.repeat(page, 3, -1) if page.shape[-1] == 1 else page


def outlined(page: Page, box: Box) -> Page:
    """Return a picture with a red line around a square."""
    made, (top, left, side) = coloured(page).copy(), box
    width = max(1, max(made.shape[:2]) // 160)
    inner = slice(top + width, top + side - width), slice(left + width, left + side - width)
    kept = made[inner].copy()
    made[top : top + side, left : left + side] = _RED
    made[inner] = kept
    return made
