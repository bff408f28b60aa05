"""The coding of image models: arrays of pictures as (channels, height, width) numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lowerbound.data.batches import Dense
from lowerbound.data.coded import Coded, Group
from lowerbound.data.native import Frame
from lowerbound.errors import DataError, UsageError

LEVELS = 255.0  # the highest code of 8 bits

# What is modelled where no likelihood is asked for, by the kind of the values.
_USUAL = {"bits": "bits", "codes": "logistic", "grey": "shared"}
_KINDS = {"bits": "bits", "logistic": "codes", "logistic_mixture": "codes", "softmax": "codes"}


@dataclass(frozen=True)
class PictureCoding:
    """How arrays of pictures become what an image model takes, and back.

    Args:
        shape: of one picture as it is given: (H, W), (H, W, C) or (C, H, W).
        last: whether the channels come last.
        kind: of the coded values: "bits" (0 and 1), "codes" (0 to 255) or "grey" ([0, 1]).
        scale: raw values are coded ones times this: 255 for grey levels of 8 bits.
        gaps: whether any training pixel was missing.
    """

    shape: tuple[int, ...]
    last: bool
    kind: str
    scale: float
    gaps: bool

    forced: ClassVar[str | None] = None  # the kind that the likelihood asks for

    @classmethod
    def fit(
        cls, frame: Frame, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> PictureCoding:
        """Tell what the values are: bits, 8-bit codes or shares.

        Raises:
            UsageError: E240 for kinds or columns, which pictures do not have.
            DataError: E076 where `frame` holds no pictures, E077 for values of another range.
        """
        if types or drop:
            raise UsageError(
                "E240",
                "a recipe of images takes no --types and no --drop: pictures have no columns",
                fix="leave them out",
            )
        values = _pixels(frame)
        kind, scale = _kind(values, cls.forced, frame.origin)
        last = frame.shape[-1] <= 4 or len(frame.shape) == 2
        return PictureCoding(frame.shape, last, kind, scale, bool(np.isnan(values).any()))

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
        if len(self.shape) == 2:
            return 1, self.shape[0], self.shape[1]
        first, second, third = self.shape
        return (third, first, second) if self.last else (first, second, third)

    def encode(self, frame: Frame) -> Coded:
        """Return the pictures as (n, C, H, W); a table may hold them, one column per cell.

        Raises:
            DataError: E076 where they have another shape, E077 another range of values.
        """
        frame = _assembled(frame, self.shape)
        values = _pixels(frame)
        if frame.shape != self.shape:
            raise DataError(
                "E076",
                f"{frame.origin} holds pictures of shape {list(frame.shape)}; the model's are "
                f"{list(self.shape)}",
                fix="resize them, or fit a model of this size",
                shape=list(frame.shape),
            )
        x = values.reshape(len(values), *self.shape)
        if len(self.shape) == 3 and self.last:
            x = np.moveaxis(x, -1, 1)
        x = np.ascontiguousarray(x, np.float32).reshape(len(values), *self._coded_shape())
        if self.scale != 1.0:
            x /= np.float32(self.scale)
        self._check(x, frame.origin)
        seen = (~np.isnan(values)).sum(1)
        jacobian = -seen * (np.log(self.scale) if self.kind == "grey" else 0.0)
        missing = int(np.isnan(x).sum())
        return Coded(
            Dense(torch.from_numpy(x)),
            np.asarray(jacobian, np.float64),
            np.zeros(len(x)),
            missing={"pixels": missing} if missing else {},
        )

    def _check(self, x: NDArray[np.float32], origin: str) -> None:
        highest = LEVELS if self.kind == "codes" else 1.0
        whole = self.kind == "grey" or not np.nanmax(np.abs(x - np.rint(x)), initial=0.0)
        if np.nanmin(x, initial=0.0) < 0 or np.nanmax(x, initial=0.0) > highest or not whole:
            raise _wrong_range(origin, self.kind)

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Return the cells of pictures as columns, in the shape that pictures were given in.

        Always in the range of their kind, or what comes out could not go in again.
        """
        x = np.asarray(values, np.float64).reshape(len(values), *self._coded_shape())
        x = np.moveaxis(x, 1, -1) if len(self.shape) == 3 and self.last else x
        flat = x.reshape(len(x), -1) * self.scale
        if self.scale != 1.0 or self.kind != "grey":
            flat = np.rint(flat).clip(0, 1 if self.kind == "bits" else LEVELS).astype(np.uint8)
        else:
            flat = flat.clip(0.0, 1.0)
        names = cell_names(self.shape)
        return pa.table({name: flat[:, i] for i, name in enumerate(names)})

    def document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "coding": "pictures",
            "shape": list(self.shape),
            "last": self.last,
            "kind": self.kind,
            "scale": self.scale,
            "gaps": self.gaps,
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
    """Return the coding of pictures that a likelihood asks for; None lets the values decide."""
    return PictureCoding if likelihood is None else _BY_KIND[_KINDS.get(str(likelihood), "grey")]


def cell_names(shape: Sequence[int]) -> list[str]:
    """Return a name for every cell of a picture, such as ``p3_14`` or ``p3_14_0``."""
    return ["p" + "_".join(map(str, place)) for place in np.ndindex(*shape)]


def _assembled(frame: Frame, shape: Sequence[int]) -> Frame:
    """Return the pictures of a table whose columns are their cells, as `decode` writes them."""
    names = cell_names(shape)
    if frame.shape or frame.table is None or not set(names) <= set(frame.names):
        return frame
    cells = frame.table.select(names)
    if not all(_is_number(column.type) for column in cells.columns):
        return frame
    return replace(frame, table=cells, names=tuple(names), shape=tuple(shape))


def _is_number(kind: pa.DataType) -> bool:
    known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(check(kind) for check in known)


def _pixels(frame: Frame) -> NDArray[np.floating | np.integer]:
    """Return the cells of every picture, (n, cells)."""
    if not frame.shape or frame.table is None:
        raise DataError(
            "E076",
            f"{frame.origin} is a table, and this recipe models pictures",
            fix="give an array of shape (n, height, width) or (n, height, width, channels)",
        )
    columns = [column.to_numpy() for column in frame.table.columns]
    return np.stack(columns, 1).astype(np.float32)


def _kind(
    values: NDArray[np.floating | np.integer], forced: str | None, origin: str
) -> tuple[str, float]:
    """Return the kind of the coded values, and what raw ones are multiples of."""
    low, high = np.nanmin(values, initial=0.0), np.nanmax(values, initial=0.0)
    whole = not np.nanmax(np.abs(values - np.rint(values)), initial=0.0)
    found = "codes" if high > 1 else "bits" if whole else "grey"
    wanted = forced or found
    fits = {"bits": found == "bits", "codes": whole and high > 1, "grey": True}
    if low < 0 or high > LEVELS or (found == "codes" and not whole) or not fits[wanted]:
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
