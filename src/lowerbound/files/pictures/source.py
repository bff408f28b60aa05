"""Read picture files into one array of images, with the file and the folder of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from lowerbound.files.arrays import PictureNative
from lowerbound.files.data import Images
from lowerbound.files.pictures.bad_files import alone
from lowerbound.files.pictures.folders import Survey, decoded, pictures_in, survey
from lowerbound.files.pictures.options import Wanted

USUAL_SIDE = 64  # of pictures of several sizes, where nobody says which one is wanted
_LARGE = 128  # pixels of a side, above which a model on a CPU takes long


def read(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    rows: int | None,
    wanted: Wanted,
) -> Images:
    """Read the pictures of a folder, a file, a pattern or a list of these.

    Raises:
        DataError: E001 to E007, E082 to E085.
        ResourceError: E301 where there is no room for them.
    """
    listing = pictures_in(data)
    total = len(listing.files)
    policy = alone(total, wanted.on_bad_file)
    seen = survey(listing.first(rows), policy, wanted.all_frames)
    if wanted.all_frames:
        total = seen.tally.total if rows is None else total
        seen = replace(seen, listing=seen.listing.first(rows), headers=seen.headers[:rows])
    seen.tally.check()
    size, notes = _size(seen, wanted)
    found = decoded(seen, channels=wanted.channels, resize=size, white=wanted.white)
    pixels = found.stacked()
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    native = PictureNative(pixels.shape[1:])
    return Images(
        pixels,
        native=native,
        origin=listing.origin,
        notes=(*found.notes, *notes),
        total=total,
        files=tuple(found.names),
        labels=tuple(found.labels),
        unreadable=found.unreadable,
        white=found.white,
        all_frames=wanted.all_frames,
    )


def _size(seen: Survey, wanted: Wanted) -> tuple[tuple[int, int] | None, list[str]]:
    """Return the size to scale the pictures to, or None, and notes about it."""
    sizes = seen.sizes
    if wanted.size is not None:
        return (None if set(sizes) == {wanted.size} else wanted.size), []
    if len(sizes) == 1:
        ((height, width),) = sizes
        large = max(height, width) > _LARGE
        told = f"pictures of {height} x {width} take long to train on; --size 64 is faster"
        return None, [told] if large else []
    (low, *_, high) = sorted(sizes)
    told = (
        f"there are {len(sizes):,} sizes, {low[0]} x {low[1]} to {high[0]} x {high[1]}, and no "
        "--size that says which one is wanted; --size 128 would keep more"
    )
    return (USUAL_SIDE, USUAL_SIDE), [told]
