"""The coding of models that restore images: pairs of crops of images and targets."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.coding.augmentations import Composed, View, turned
from lowerbound.coding.base import Coded, Conditions, Group, WithoutContext
from lowerbound.coding.crops import AugmentedRows, Crops, Paired
from lowerbound.coding.rows import Rows
from lowerbound.columns.arrow import listed
from lowerbound.errors import DataError, UsageError
from lowerbound.files.data import ImagePairs, Whole
from lowerbound.files.pictures import image_file
from lowerbound.files.pictures.bad_files import alone
from lowerbound.files.pictures.folders import (
    Listing,
    Pictures,
    Survey,
    decoded,
    gather,
    highest_value,
    pictures_in,
    survey,
)
from lowerbound.files.pictures.options import ANY, FULL, Wanted

CROP = 64  # pixels of a crop
SMALL_CROP = 24  # pixels of an input crop for enlarging: the target is up to four times as large
EPOCH = 20_000  # the least number of crops in a pass over any number of images
MOST_CLASSES = 64
RGB = 1 << 24  # added to the numbers of colours, to distinguish them from grey levels


def _same(settings: Mapping[str, Any]) -> int:
    return 1


@dataclass(frozen=True)
class Restoration:
    """The task of a model of one picture given another.

    Args:
        command: the command that uses such models, by which their files name it too.
        damage: from the settings of a fit to what is done to a clean picture, so that the model
            learns to undo it; None where the wanted pictures are masks, which must be given.
        told: from the settings to a few words for the banner of a fit.
        scale: from the settings to how many times larger the wanted picture is.
    """

    command: str
    damage: Callable[[Mapping[str, Any]], View] | None
    told: Callable[[Mapping[str, Any]], str]
    scale: Callable[[Mapping[str, Any]], int] = _same

    paired: ClassVar[bool] = True  # whether one picture is made of another
    does: ClassVar[str] = "restores pictures"

    @property
    def masks(self) -> bool:
        """True if the targets are masks, whose colours are classes."""
        return self.damage is None

    def use(self, model: str = "M.vae", data: str = "PICTURES") -> str:
        """Return the command that uses such a model."""
        return f"lowerbound {self.command} {model} {data} --out FOLDER"


class Autoencoding(Restoration):
    """The task of a model that turns pictures of any size into maps of latents, and back.

    What it is given of a picture is only its size.
    """

    paired = False
    does = "encodes pictures"


@dataclass(frozen=True)
class PairCoding(WithoutContext):
    """The coding of images of any sizes as pairs of crops: the input and the target.

    Args:
        restoration: the task.
        channels: of the input: 1 for grey, 3 for colours.
        scale: the size of the target over that of the input.
        settings: the settings of the recipe that define the input made from clean images.
        classes: the code in the mask files of each class, in order; () where there are none.
        white: the value of white in input files of 16 bits; None where there were none.
        all_frames: whether each frame or page of a file is a picture of its own.
    """

    restoration: Restoration
    channels: int
    scale: int
    settings: Mapping[str, Any]
    classes: tuple[int, ...] = ()
    white: int | None = None
    all_frames: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(): the images have no common size."""
        return ()

    @property
    def groups(self) -> Sequence[Group]:
        """(): images have no columns."""
        return ()

    def wanted(self) -> Wanted:
        """The defaults: such a model reads images of any size."""
        return replace(ANY, white=self.white, all_frames=self.all_frames)

    @property
    def gaps(self) -> bool:
        """False: pixels are never missing."""
        return False

    def arguments(self) -> dict[str, Any]:
        """The channels, and the number of classes where pixels have one."""
        return {
            "channels": self.channels,
            **({"classes": len(self.classes)} if self.classes else {}),
        }

    def encode(self, frame: Whole) -> Coded:
        """Return the pairs of crops of the pictures, many of each picture.

        Raises:
            UsageError: E247 where `frame` was read for a model of another kind.
        """
        if not isinstance(frame, ImagePairs):
            raise UsageError(
                "E247",
                f"a model for `lowerbound {self.restoration.command}` {self.restoration.does}, "
                "and does nothing else",
                fix=self.restoration.use(),
            )
        given, wanted = frame.pictures, frame.targets
        each = max(1, -(-EPOCH // len(given)))
        damage = self.restoration.damage
        made = None if wanted is not None or damage is None else damage(self.settings)
        small = SMALL_CROP if self.scale > 1 else CROP
        if made is not None:
            clean, view = Crops(given, small * self.scale, each), Composed(turned, made)
            return self._coded(frame, clean, view, AugmentedRows(clean, made))
        assert wanted is not None
        target = _Numbered(wanted, self.classes) if self.classes else wanted
        size = small * self.scale
        pairs = Paired(Crops(target, size, each, self.scale), Crops(given, small, each))
        return self._coded(frame, pairs, turned, pairs)

    def _coded(self, frame: ImagePairs, rows: Rows, view: View, held_out: Rows) -> Coded:
        nothing, known = np.zeros(len(rows)), _digest(frame, self.document())
        each = len(rows) // frame.rows
        return Coded(
            held_out, lambda: nothing, nothing, raw=rows, view=view, each=each, digest=known
        )

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Raise an error: such a model makes images, not rows."""
        raise UsageError(
            "E247",
            f"a model that was fitted to {self.restoration.command} makes no rows",
            fix=self.restoration.use(),
        )

    def asked(self, where: Mapping[str, object]) -> Conditions:
        """Raise an error, as `decode` does."""
        self.decode(np.empty(0))
        raise AssertionError("decode has raised")

    def filled(self, frame: Whole, values: NDArray[np.floating]) -> pa.Table:
        """Raise an error, as `decode` does."""
        return self.decode(values)

    def document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "coding": "pairs",
            "recipe": self.restoration.command,
            "channels": self.channels,
            "scale": self.scale,
            "settings": dict(self.settings),
            "classes": list(self.classes),
            "white": self.white,
            **({"all_frames": True} if self.all_frames else {}),
        }

    @classmethod
    def restored(cls, document: Mapping[str, Any], restoration: Restoration) -> PairCoding:
        """Rebuild a coding from its `document`."""
        return cls(
            restoration,
            int(document["channels"]),
            int(document["scale"]),
            dict(document["settings"]),
            _with_rgb(document["classes"]),
            document.get("white", FULL),  # models of earlier versions took all 16 bits
            bool(document.get("all_frames")),
        )


def _digest(frame: ImagePairs, document: Mapping[str, Any]) -> str:
    """Return a digest of all images, their targets and the coding."""
    digest = hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=16)
    for pictures in (frame.pictures, frame.targets or ()):
        for i in range(len(pictures)):
            digest.update(repr(pictures[i].shape).encode())
            digest.update(np.ascontiguousarray(pictures[i]).data)
    return digest.hexdigest()


class _Numbered(Sequence[NDArray[np.float32]]):
    """Masks as class indices, (H, W, 1); NaN where a colour is not a class."""

    def __init__(self, masks: Sequence[NDArray], classes: tuple[int, ...]) -> None:
        self.masks, self.classes = masks, np.asarray(classes)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.masks)

    def __getitem__(self, i):  # noqa: ANN001, ANN204 - as Sequence has it; slices are not used
        """Return one mask."""
        packed = packed_colours(self.masks[i])
        place = np.searchsorted(self.classes, packed).clip(0, len(self.classes) - 1)
        known = self.classes[place] == packed
        return np.where(known, place, np.nan).astype(np.float32)[..., None]


@dataclass(frozen=True)
class PairsFor:
    """A factory of the coding of one recipe with given settings.

    Args:
        recipe: denoise, upscale, inpaint or segment.
        settings: of the plan.
    """

    restoration: Restoration
    settings: Mapping[str, Any]

    def fit(
        self, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> PairCoding:
        """Return the coding, with the channels and classes of the images.

        Raises:
            UsageError: E249 for kinds or columns, E232 for masks that are not given.
            DataError: E076 where `frame` holds no pictures, E088 for masks that are none.
        """
        if types or drop:
            raise UsageError(
                "E249",
                "--types and --drop do not apply to images, which have no columns",
                fix="leave them out",
            )
        if not isinstance(frame, ImagePairs):
            raise _no_pictures(frame, self.restoration.command)
        channels = frame.pictures[0].shape[2]
        classes: tuple[int, ...] = ()
        if self.restoration.masks:
            if frame.targets is None:
                raise UsageError(
                    "E232",
                    f"the recipe {self.restoration.command} needs --targets: a folder of masks",
                    fix="--targets MASKS, a folder with a mask of the same name for each picture",
                )
            classes = _classes(frame.targets)
        scale = self.restoration.scale(self.settings)
        used = {k: v for k, v in self.settings.items() if k in ("noise", "scale", "downscale")}
        if frame.targets is not None:
            _check_sizes(frame.files, frame.pictures, frame.targets, scale)
        read_as = frame.white, frame.all_frames
        return PairCoding(self.restoration, channels, scale, used, classes, *read_as)


def _no_pictures(frame: Whole, recipe: str) -> DataError:
    return DataError(
        "E076",
        f"{frame.origin} is not a folder of pictures, which the recipe {recipe} needs",
        fix="give a folder of PNG, JPEG, WebP, TIFF, BMP or GIF files",
    )


def colours_of(packed: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the pixels, (H, W, C), for numbers from `packed_colours`; grey if all numbers are."""
    if (packed < RGB).all():
        return packed.astype(np.uint8)[..., None]
    colours = np.where(packed < RGB, packed * 0x010101, packed)
    return np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], -1).astype(np.uint8)


def _with_rgb(classes: Sequence[int]) -> tuple[int, ...]:
    """Add `RGB` to the numbers of colours where it is absent, as in model files of 0.1.0."""
    bare = 255 < max(classes, default=0) < RGB
    return tuple(number + RGB * bare for number in classes)


def packed_colours(mask: NDArray) -> NDArray[np.int64]:
    """Return one number for the colour of every pixel, (H, W): its grey level, or RGB + r g b."""
    number = np.full(mask.shape[:2], mask.shape[-1] > 1, np.int64)
    for channel in np.moveaxis(mask, -1, 0):
        number = number * 256 + channel
    return number


def _classes(masks: Sequence[NDArray]) -> tuple[int, ...]:
    """Return the sorted numbers of all colours in the masks."""
    found: set[int] = set()
    for i in range(len(masks)):
        found.update(np.unique(packed_colours(masks[i])).tolist())
        if len(found) > MOST_CLASSES:
            raise DataError(
                "E088",
                f"the masks have more than {MOST_CLASSES} colours: they are not masks, or "
                "JPEG has blurred their borders",
                fix="save masks as PNG, with one grey level or colour for each class",
            )
    if len(found) < 2:
        raise DataError(
            "E088",
            "all masks have one colour, and a model needs two classes or more",
            fix="give masks with one grey level or colour for each class",
        )
    return tuple(sorted(found))


def _check_sizes(
    names: Sequence[str], given: Sequence[NDArray], wanted: Sequence[NDArray], scale: int
) -> None:
    wrong = [
        i
        for i in range(len(given))
        if any(
            a * scale != b for a, b in zip(given[i].shape[:2], wanted[i].shape[:2], strict=True)
        )
    ]
    if wrong:
        told = [f"{names[i]} {_size(given[i])} and {_size(wanted[i])}" for i in wrong[:5]]
        raise DataError(
            "E089",
            f"{len(wrong):,} of {len(given):,} targets are not {scale} times the size of their "
            f"picture: {'; '.join(told)}",
            fix="give targets of the right size",
            count=len(wrong),
        )


def _size(picture: NDArray) -> str:
    height, width = picture.shape[:2]
    return f"{height}x{width}"


def read_pairs(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    targets: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    restoration: Restoration,
    on_bad_file: str = "auto",
    all_frames: bool = False,
    channels: int | None = None,
) -> ImagePairs:
    """Read pictures of any sizes, and the target of each, if targets are given.

    Args:
        data: a folder, a file, a pattern or a list of these: clean pictures, or with `targets`
            the pictures that a model is given.
        targets: likewise; matched to `data` by the names of the files.
        restoration: the task that the pairs are for.
        on_bad_file: "auto", "skip" or "fail", as of `folders.gather`; of pairs, neither half is
            left out: the first that cannot be read is an error.
        all_frames: take each frame or page of a file as a picture; not with targets.
        channels: 1 or 3, to read all pictures in grey or in colours; None takes 1 where all are
            grey.

    Raises:
        DataError: E082 to E085 for pictures that are not there or cannot be read, E087 for
            targets that do not belong to them.
        UsageError: E236 for targets of a task that has none, or of all frames.
    """
    listing = pictures_in(data)
    if targets is None:
        policy = alone(len(listing.files), on_bad_file)
        found = gather(listing, channels=channels, on_bad_file=policy, all_frames=all_frames)
        return replace(_pairs(listing, found, None), all_frames=all_frames)
    if all_frames:
        raise UsageError(
            "E236",
            "--all-frames and --targets cannot be combined: pictures and targets are matched by "
            "the names of their files",
            fix="save the frames as files of their own",
        )
    if not restoration.paired:
        raise UsageError(
            "E236",
            f"--targets does not apply to a model that {restoration.does}: what it makes of a "
            "picture is the picture",
            fix="leave --targets out",
        )
    listing, wanted = matched(listing, pictures_in(targets))
    seen, of_targets = survey(listing, "fail"), survey(wanted, "fail")
    if restoration.masks:
        _check_deep(of_targets)
        return _pairs(listing, decoded(seen, channels=channels), decoded(of_targets))
    # One white for both halves: what is made has the grey levels of what is given.
    highest = highest_value(seen, of_targets)
    white = None if highest is None else image_file.white_for(highest)
    given = decoded(seen, channels=channels, white=white)
    channels = given.shapes[0][2]
    return _pairs(listing, given, decoded(of_targets, channels=channels, white=white))


def _check_deep(seen: Survey) -> None:
    """Raise an error for masks of 16 bits with classes that 8 bits cannot distinguish."""
    highest = highest_value(seen)
    white = None if highest is None else image_file.white_for(highest)
    for path, header in zip(seen.listing.files, seen.headers, strict=True):
        if not (header.deep or header.real):
            continue
        levels = np.unique(image_file.decode(path, 1))
        top = white if header.deep and white is not None else FULL
        if len(np.unique(image_file.bytes_of(levels, top))) < len(levels):
            raise DataError(
                "E088",
                f"the mask {path.name} has {len(levels)} grey levels of 16 bits, and some of them "
                "are the same in 8 bits",
                fix="save masks with 8 bits, one grey level or colour for each class",
                path=str(path),
            )


def _pairs(listing: Listing, given: Pictures, targets: Pictures | None) -> ImagePairs:
    notes = [*given.notes, *(() if targets is None else targets.notes)]
    return ImagePairs(
        given,
        targets,
        origin=listing.origin,
        notes=tuple(dict.fromkeys(notes)),
        total=len(given),
        files=tuple(given.names),
        labels=tuple(given.labels),
        unreadable=given.unreadable,
        white=given.white,
    )


def matched(given: Listing, wanted: Listing) -> tuple[Listing, Listing]:
    """Return two listings in the same order, one target for each picture, by their names.

    A suffix may differ: ``a/1.jpg`` and ``a/1.png`` belong together.

    Raises:
        DataError: E087 naming the first five differences.
    """
    stems = [[_stem(name) for name in listing.names] for listing in (given, wanted)]
    alone = [
        *(f"{name} has no target" for name in sorted(set(stems[0]) - set(stems[1]))),
        *(f"target {name} has no picture" for name in sorted(set(stems[1]) - set(stems[0]))),
    ]
    twice = [name for each in stems for name, n in sorted(Counter(each).items()) if n > 1]
    differences = [*alone, *(f"{name} is there twice" for name in twice)]
    if differences:
        raise DataError(
            "E087",
            f"pictures and targets do not belong together, {len(differences):,} differences: "
            f"{listed(differences, 5)}",
            fix="give each picture a target of the same name, in the same sub-folder",
            count=len(differences),
        )
    place = {stem: i for i, stem in enumerate(stems[1])}
    return given, wanted.chosen([place[stem] for stem in stems[0]])


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
