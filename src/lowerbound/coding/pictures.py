"""The coding of image models: arrays of images as (channels, height, width) numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.coding.base import Coded, Conditions, Group, WithoutContext
from lowerbound.coding.pixel_rows import PixelRows
from lowerbound.columns.arrow import floats, is_number, plain
from lowerbound.columns.base import one_cell
from lowerbound.columns.schema import no_column
from lowerbound.errors import DataError, UsageError, each_of
from lowerbound.files.data import Images, Table, Whole
from lowerbound.files.pictures.columns import as_table, cell_names, pixels_of
from lowerbound.files.pictures.options import FULL, Wanted
from lowerbound.files.pictures.ranges import Range, range_of, seen_per_row
from lowerbound.files.read import read

LEVELS = 255.0  # the highest code of 8 bits

# What is modelled where no likelihood is asked for, by the kind of the values.
_USUAL = {"bits": "bits", "codes": "logistic", "grey": "shared"}
_KINDS = {"bits": "bits", "logistic": "codes", "logistic_mixture": "codes", "softmax": "codes"}


@dataclass(frozen=True)
class PictureCoding(WithoutContext):
    """The coding of images of one size.

    Args:
        shape: of one picture as it is given: (H, W), (H, W, C) or (C, H, W).
        last: whether the channels come last.
        kind: of the coded values: "bits" (0 and 1), "codes" (0 to 255) or "grey" ([0, 1]).
        scale: raw values are coded ones times this: 255 for grey levels of 8 bits.
        gaps: whether any training pixel was missing.
        white: the value of white in files of 16 bits; None where there were none.
        all_frames: whether each frame or page of a file is a picture of its own.
    """

    shape: tuple[int, ...]
    last: bool
    kind: str
    scale: float
    gaps: bool
    white: int | None = None
    all_frames: bool = False

    forced: ClassVar[str | None] = None  # the kind that the likelihood asks for

    @classmethod
    def fit(
        cls, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> PictureCoding:
        """Return the coding for the kind of the values: bits, 8-bit codes or grey levels.

        Raises:
            UsageError: E249 for kinds or columns, which pictures do not have.
            DataError: E076 where `frame` holds no pictures, E077 for values of another range.
        """
        if types or drop:
            raise UsageError(
                "E249",
                "--types and --drop do not apply to images, which have no columns",
                fix="leave them out",
            )
        images = _images(frame, ())
        found = range_of(images.pixels)
        kind, scale = _kind(found, cls.forced, frame.origin)
        last, gaps = _is_last(frame.shape), found.missing > 0
        read_as = images.white, images.all_frames
        return PictureCoding(frame.shape, last, kind, scale, gaps, *read_as)

    @property
    def groups(self) -> tuple[Group, ...]:
        """One group per cell of a picture, named by its place."""
        return tuple(Group(name, (i,)) for i, name in enumerate(cell_names(self.shape)))

    def arguments(self) -> dict[str, Any]:
        """The shape, the usual likelihood of such values, and whether there are gaps."""
        return {
            "shape": list(self._coded_shape()),
            "likelihood": _USUAL[self.kind],
            "missing": self.gaps,
        }

    def _coded_shape(self) -> tuple[int, int, int]:
        return _coded(self.shape, self.last)

    def wanted(self) -> Wanted:
        """Pictures in files are brought to the size and the colours of the model's."""
        channels, height, width = self._coded_shape()
        known = channels if channels in (1, 3) else None
        return Wanted((height, width), known, white=self.white, all_frames=self.all_frames)

    def encode(self, frame: Whole) -> Coded:
        """Return the pictures as (n, C, H, W); a table may hold them, one column per cell.

        Channels may stand elsewhere than in those that the model was fitted on.

        Raises:
            DataError: E076 where they have another shape, E077 another range of values.
        """
        frame = _images(frame, self.shape)
        pixels, shape = frame.pixels, self._coded_shape()
        last = self.last if frame.shape == self.shape else _is_last(frame.shape)
        if _coded(frame.shape, last) != shape:
            raise DataError(
                "E076",
                f"{frame.origin} holds pictures of shape {list(frame.shape)}; the model's are "
                f"{list(self.shape)}",
                fix="resize them, or fit a model of this size",
                shape=list(frame.shape),
            )
        found = range_of(pixels)
        highest = self.scale * (LEVELS if self.kind == "codes" else 1.0)
        if found.low < 0 or found.high > highest or not (found.whole or self.kind == "grey"):
            raise _wrong_range(frame.origin, self.kind)
        nats = np.log(self.scale) if self.kind == "grey" else 0.0
        return Coded(
            PixelRows(pixels, shape, last, self.scale),
            lambda: -nats * seen_per_row(pixels).astype(np.float64),
            np.zeros(len(pixels)),
            missing={"pixels": found.missing} if found.missing else {},
        )

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Return a table of pictures (`cellcolumns.as_table`), in the shape that was given.

        Always in the range of their kind, or what comes out could not go in again.
        """
        x = np.asarray(values).reshape(len(values), *self._coded_shape())
        x = np.moveaxis(x, 1, -1) if len(self.shape) == 3 and self.last else x
        codes = self.scale != 1.0 or self.kind != "grey"
        pixels = np.empty((len(x), *self.shape), np.uint8 if codes else np.float64)
        highest = 1.0 if self.kind == "bits" or not codes else LEVELS
        for place, picture in enumerate(x):  # one at a time: floats of all would be 8 times this
            raw = picture.astype(np.float64).reshape(self.shape) * self.scale
            pixels[place] = (np.rint(raw) if codes else raw).clip(0, highest)
        return as_table(pixels)

    def asked(self, where: Mapping[str, object]) -> Conditions:
        """Return values of pixels, by name, as conditions of samples.

        Raises:
            LowerboundError: E243 for an unknown pixel, E245 for a missing value, E077 for one
                that pixels cannot have; E233 for several of them.
        """
        names = cell_names(self.shape)
        pixels = np.full(math.prod(self.shape), np.nan)
        places = {name: place for place, name in enumerate(names)}

        def take(name: str) -> None:
            if name not in places:
                raise no_column(name, places)
            cell = plain(one_cell(where[name], name))
            value = float(floats(cell, name)[0])
            if self.scale != 1.0 and value != np.rint(value):
                raise _wrong_range(f"the condition on {name}", "codes")
            alone = np.full_like(pixels, np.nan)
            alone[places[name]] = pixels[places[name]] = value
            self._coded_picture(alone, f"the condition on {name}")

        each_of(where, take, "conditions")
        return Conditions(self._coded_picture(pixels, "the conditions"), {})

    def _coded_picture(self, pixels: NDArray[np.float64], origin: str) -> Tensor:
        frame = replace(read(pixels.reshape(1, *self.shape)), origin=origin)
        return self.encode(frame).rows.take(torch.zeros(1, dtype=torch.long)).x[0]

    def raw(self, frame: Whole) -> NDArray[Any]:
        """Return the pictures of `frame`, (n, *shape) in the model's own layout."""
        pixels = _images(frame, self.shape).pixels
        if pixels.ndim == 4 and pixels.shape[1:] != self.shape and len(self.shape) == 3:
            pixels = np.moveaxis(pixels, *((1, -1) if self.last else (-1, 1)))
        return pixels.reshape(len(pixels), *self.shape)

    def filled(self, frame: Whole, values: NDArray[np.floating]) -> pa.Table:
        """Return the images of `frame` with missing pixels replaced by the decoded `values`."""
        raw = self.raw(frame)
        if raw.dtype.kind != "f":  # nothing can be missing
            return as_table(raw)
        return as_table(np.where(np.isnan(raw), pixels_of(self.decode(values), self.shape), raw))

    def shown(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Return raw pictures, (n, *shape), as (n, H, W, C) of 8 bits, to be looked at.

        Of other numbers of channels than 1 and 3, the first is shown; what is missing is black.
        """
        x = pixels[..., None] if len(self.shape) == 2 else pixels
        if len(self.shape) == 3 and not self.last:
            x = np.moveaxis(x, 1, -1)
        x = x if x.shape[-1] == 3 else x[..., :1]
        white = 1.0 if self.kind == "bits" or (self.kind == "grey" and self.scale == 1) else LEVELS
        if white == LEVELS and x.dtype == np.uint8:
            return x
        return np.rint(np.nan_to_num(x.astype(np.float32)) * (LEVELS / white)).astype(np.uint8)

    def document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "coding": "pictures",
            "shape": list(self.shape),
            "last": self.last,
            "kind": self.kind,
            "scale": self.scale,
            "gaps": self.gaps,
            "white": self.white,
            **({"all_frames": True} if self.all_frames else {}),
        }

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> PictureCoding:
        """Rebuild a coding from its `document`."""
        return cls(
            tuple(document["shape"]),
            bool(document["last"]),
            str(document["kind"]),
            float(document["scale"]),
            bool(document["gaps"]),
            document.get("white", FULL),  # models of earlier versions took all 16 bits
            bool(document.get("all_frames")),
        )


class BitPictures(PictureCoding):
    """Pictures of 0 and 1."""

    forced = "bits"


class CodePictures(PictureCoding):
    """Pictures of codes from 0 to 255."""

    forced = "codes"


class GreyPictures(PictureCoding):
    """Pictures of shares from 0 to 1; codes become shares of 255."""

    forced = "grey"


_BY_KIND = {"bits": BitPictures, "codes": CodePictures, "grey": GreyPictures}


def pictures_for(likelihood: object) -> type[PictureCoding]:
    """Return the coding of images for a likelihood; None chooses it from the values."""
    return PictureCoding if likelihood is None else _BY_KIND[_KINDS.get(str(likelihood), "grey")]


def values_of(coding: object) -> int | None:
    """Return the number of values that a pixel may have; None for continuous values."""
    kind = coding.kind if isinstance(coding, PictureCoding) else ""
    return {"bits": 2, "codes": 256}.get(kind)


def _is_last(shape: Sequence[int]) -> bool:
    """Return whether the channels come last, judged by the shape of an image."""
    return len(shape) == 2 or shape[-1] <= 4


def _coded(shape: Sequence[int], last: bool) -> tuple[int, int, int]:
    """Return (C, H, W) of a picture of a given shape."""
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    first, second, third = shape
    return (third, first, second) if last else (first, second, third)


@singledispatch
def _images(frame: Whole, shape: Sequence[int]) -> Images:
    """Return data as images; a table may hold an image of `shape` in each row.

    Raises:
        DataError: E076 where the rows are not images of one size.
    """
    raise DataError(
        "E076",
        f"{frame.origin} is a table, and this recipe models pictures",
        fix="give an array of shape (n, height, width) or (n, height, width, channels)",
    )


@_images.register
def _(frame: Images, shape: Sequence[int]) -> Images:
    return frame


@_images.register
def _(frame: Table, shape: Sequence[int]) -> Images:
    """Assemble the images of a table whose columns are their pixels, as `decode` writes them."""
    names = cell_names(shape)
    known = frame.annotations.select(names) if set(names) <= set(frame.names) else pa.table({})
    whole = shape and all(is_number(c.type) or pa.types.is_null(c.type) for c in known.columns)
    if not (whole and known.num_columns):
        return _images.dispatch(Whole)(frame, shape)
    flat = np.stack([column.to_numpy() for column in known.columns], 1).astype(np.float32)
    return Images(
        flat.reshape(-1, *shape),
        native=frame.native,
        origin=frame.origin,
        notes=frame.notes,
        start=frame.start,
        total=frame.total,
    )


def _kind(values: Range, forced: str | None, origin: str) -> tuple[str, float]:
    """Return the kind of the coded values, and the factor from coded to raw values."""
    found = "codes" if values.high > 1 else "bits" if values.whole else "grey"
    wanted = forced or found
    fits = {"bits": found == "bits", "codes": values.whole and values.high > 1, "grey": True}
    outside = values.low < 0 or values.high > LEVELS
    if outside or (found == "codes" and not values.whole) or not fits[wanted]:
        raise _wrong_range(origin, wanted)
    return wanted, LEVELS if wanted == "grey" and found == "codes" else 1.0


def _wrong_range(origin: str, kind: str) -> DataError:
    told = {
        "bits": "0 and 1",
        "codes": "whole numbers from 0 to 255",
        "grey": "numbers from 0 to 1, or whole numbers from 0 to 255",
    }
    return DataError(
        "E077",
        f"the pixels of {origin} are not {told[kind]}",
        fix="rescale them, or choose the likelihood that suits them: --set likelihood=shared",
    )
