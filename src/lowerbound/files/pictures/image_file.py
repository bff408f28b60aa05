"""Read the header and the pixels of one picture file, and write one.

Only PNG, JPEG, WebP, TIFF, BMP and GIF are opened, whatever the suffix says; the size is read from
the header and compared with a limit before a single pixel is unpacked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lowerbound.columns.arrow import place, snippet
from lowerbound.errors import DataError, LowerboundError, UsageError
from lowerbound.files.paths import check_plain, magic, readable
from lowerbound.files.pictures import quiet
from lowerbound.files.pictures.options import FULL
from lowerbound.files.write import atomic_write

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MOST_PIXELS = 64_000_000  # of a picture: 64 Mpx
MOST_WEBP = 2**28  # bytes: its decoder takes the whole file into memory
WHITES = (255, 1023, 4095, 16383, FULL)  # white of 8, 10, 12, 14 and 16 bits
_RESCALE = (
    "scale all pictures by one factor, to whole numbers up to 65535 or to floats from 0 to 1"
)
_TURNED = (5, 6, 7, 8)  # orientations of EXIF that swap height and width
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_GREY = ("1", "L", "LA", "La", "F", *_DEEP)
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# Raised by the decoders for bytes that are not a picture: they have no error class of their own.
_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class _OutOfRange(ValueError):
    """The values of the pixels have no known black and white."""


class Header(NamedTuple):
    """The properties of a picture that its header tells.

    Attributes:
        height: pixels, after the turn that EXIF asks for.
        width: pixels.
        channels: 1 for grey, 3 for colours.
        deep: whether the pixels are grey levels of 16 bits.
        real: whether they are floating-point numbers.
        frames: number of frames or pages, of which the first is taken.
    """

    height: int
    width: int
    channels: int
    deep: bool
    real: bool
    frames: int


def header(path: Path) -> Header:
    """Read the header of a picture: the shape that `decode` will return.

    Raises:
        DataError: E002 to E004 or E009 for what is no plain file, E083 for what is no picture,
            E085 for one that is too large.
    """
    with _opened(path) as image:
        found = _header(image)  # before the count, which may go through all frames
        return found._replace(frames=_frames(image))


def headers(path: Path) -> list[Header]:
    """Read the header of each frame or page of a file, as if it were a file of its own.

    Raises:
        DataError: as `header`.
    """
    with _opened(path) as image:
        found = []
        for page in range(_frames(image)):
            image.seek(page)
            _check_size(image.size, path)
            found.append(_header(image))
        return found


def _frames(image: Image.Image) -> int:
    """Return the number of frames; those of MPO are previews and views of one photograph."""
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def _header(image: Image.Image) -> Header:
    width, height = image.size
    # Of TIFF, pillow swaps height and width itself.
    if image.format != "TIFF" and _orientation(image) in _TURNED:
        height, width = width, height
    return Header(height, width, _channels(image), image.mode in _DEEP, image.mode == "F", 1)


def check(path: Path, page: int = 0) -> None:
    """Check that a picture can be decoded to its end, at its lowest resolution.

    Args:
        path: of the file.
        page: of its frames or pages.

    Raises:
        DataError: as `header`, and E083 where the file is cut short or damaged.
    """
    with _opened(path, page) as image:
        image.draft(None, (1, 1))
        _array(_upright(image), None)


def highest(path: Path, page: int = 0) -> int:
    """Return the highest value of a grey picture of 16 bits.

    The values of a TIFF file that states its 12 bits, or that 0 is white, reach 65535.

    Raises:
        DataError: as `header`.
    """
    with _opened(path, page) as image:
        image.load()
        tags = getattr(image, "tag_v2", {})
        if image.mode not in _DEEP or tags.get(_BITS) == (12,) or tags.get(_PHOTOMETRIC) == 0:
            return FULL
        _deep(image)  # raises for values of more than 16 bits: the file is unreadable
        return int(np.asarray(image).max(initial=0))


def white_for(value: int) -> int:
    """Return the least white of 8, 10, 12, 14 or 16 bits that is not below a value.

    >>> white_for(4000), white_for(65535)
    (4095, 65535)
    """
    return next(white for white in WHITES if white >= min(value, FULL))


def decode(path: Path, channels: int | None = None, page: int = 0) -> NDArray[Any]:
    """Return the pixels of a picture, rotated by its EXIF tag, with transparency on white.

    Palettes, 1-bit, CMYK and the like become grey or RGB. Colours of 16 bits per channel come as
    8 bits, and floating-point numbers from 0 to 1 as 16 bits; those of another range are refused,
    because nothing tells their black and white.

    Args:
        path: a PNG, JPEG, WebP, TIFF, BMP or GIF file.
        channels: 1 or 3; None gives what the file has: 1 where it is grey, else 3.
        page: of the frames or pages of the file.

    Returns:
        (H, W, C) uint8, or uint16 for grey pictures of 16 bits or of floating-point numbers.

    Raises:
        DataError: as `header`.
    """
    with _opened(path, page) as image:
        return _array(_upright(image), channels)


def fitted(
    path: Path, size: tuple[int, int], channels: int, white: int = FULL, page: int = 0
) -> NDArray[np.uint8]:
    """Return a picture in 8 bits, scaled to cover `size` and cut around its middle.

    Args:
        path: as of `decode`.
        size: (height, width) of the result.
        channels: 1 or 3.
        white: the value of white of pixels of 16 bits.
        page: of the frames or pages of the file.

    Returns:
        (height, width, channels) uint8.

    Raises:
        DataError: as `header`.
    """
    height, width = size
    with _opened(path, page) as image:
        # A JPEG is decoded at a half, a quarter or an eighth where that leaves twice the size.
        side = 2 * max(size)
        image.draft(None, (side, side))
        top = FULL if image.mode == "F" else white
        whole = Image.fromarray(_page(bytes_of(_array(_upright(image), channels), top)))
        scale = min(whole.height / height, whole.width / width)
        h, w = height * scale, width * scale
        left, top = (whole.width - w) / 2, (whole.height - h) / 2
        box = (left, top, left + w, top + h)
        small = whole.resize((width, height), Image.Resampling.LANCZOS, box=box)
        return np.asarray(small).reshape(height, width, channels)


def bytes_of(pixels: NDArray[Any], white: int = FULL) -> NDArray[np.uint8]:
    """Return pixels of 16 bits as the nearest of 8 bits; those of 8 bits as they are.

    Args:
        pixels: uint8 or uint16.
        white: the value of white of 16 bits; higher ones become white too.
    """
    if pixels.dtype == np.uint8:
        return pixels
    wide = np.minimum(pixels, white).astype(np.uint32)
    return ((wide * 255 + white // 2) // white).astype(np.uint8)


def encode(path: Path, pixels: NDArray[Any], *, overwrite: bool = False) -> None:
    """Write a picture atomically, in the format of the suffix.

    PNG, TIFF and WebP keep every pixel; JPEG is written in quality 95.

    Args:
        path: ends in .png, .jpg, .jpeg, .webp, .tif or .tiff.
        pixels: (H, W) or (H, W, C), C being 1 or 3: uint8; or uint16 where C is 1, in PNG or TIFF.
        overwrite: replace an existing result.

    Raises:
        UsageError: E222 for another suffix, E224 for pixels that the format cannot hold, and what
            `atomic_write` raises.
        ResourceError: what `atomic_write` raises.
    """
    atomic_write(path, writer_of(path, pixels), overwrite)


def writer_of(path: Path, pixels: NDArray[Any]) -> Callable[[BinaryIO], None]:
    """Return a function that writes a picture to an open file in the format of the suffix.

    Raises:
        UsageError: E222 or E224, as `encode`.
    """
    kind = _WRITTEN.get(path.suffix.lower())
    if kind is None:
        raise UsageError(
            "E222",
            f"the suffix {snippet(path.suffix or 'none')} of {place(path)} names no picture that "
            "can be written",
            fix=f"use one of {', '.join(_WRITTEN)}",
            path=str(path),
        )
    page = _page(pixels)
    deep = page.dtype == np.uint16
    if page.dtype not in (np.uint8, np.uint16) or (deep and (page.ndim > 2 or kind in _SHALLOW)):
        what = f"{page.dtype} pixels in {1 if page.ndim == 2 else page.shape[-1]} channels"
        raise UsageError(
            "E224",
            f"{place(path)} cannot hold {what}",
            fix="give 8 bits per channel (uint8), or grey uint16 with the suffix .png or .tif",
            path=str(path),
        )
    image = Image.fromarray(page)

    def save(file: BinaryIO) -> None:
        image.save(file, kind, **_OPTIONS.get(kind, {}))

    return save


_WRITTEN = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_SHALLOW = ("JPEG", "WEBP")
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
}


def _page(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W) of one channel and (H, W, 3) of three, as pillow takes them."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3):
        return np.ascontiguousarray(pixels)
    raise UsageError(
        "E224",
        f"an array of shape {list(pixels.shape)} is not a picture",
        fix="give (height, width), (height, width, 1) or (height, width, 3)",
    )


@contextmanager
def _opened(path: Path, page: int = 0) -> Iterator[Image.Image]:
    """Open a picture whose header is within the limits, and turn failures into our errors."""
    check_plain(path)
    with readable(path), path.open("rb") as file:
        try:
            with quiet.while_decoding:
                _check_webp(file, path)
                with Image.open(file, formats=FORMATS) as image:
                    _check_size(image.size, path)
                    if page:
                        image.seek(page)
                        _check_size(image.size, path)
                    yield image
        except LowerboundError:
            raise
        except Image.UnidentifiedImageError as error:
            raise _broken(path, _seems(path)) from error
        except Image.DecompressionBombError as error:
            raise _too_large(path, str(error)[:100]) from error
        except _OutOfRange as error:
            raise _broken(path, str(error), _RESCALE) from error
        except _BROKEN as error:
            raise _broken(path, _reason(error)) from error


def _check_webp(file: BinaryIO, path: Path) -> None:
    """Check a WebP file by its first bytes, because pillow decodes all of it on opening."""
    head = file.read(30)
    file.seek(0)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return
    if path.stat().st_size > MOST_WEBP:
        raise _too_large(path, f"{path.stat().st_size:,} bytes of WebP")
    word = int.from_bytes
    if head[12:16] == b"VP8X":
        size = 1 + word(head[24:27], "little"), 1 + word(head[27:30], "little")
    elif head[12:16] == b"VP8L":
        bits = word(head[21:25], "little")
        size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        size = word(head[26:28], "little") & 0x3FFF, word(head[28:30], "little") & 0x3FFF
    _check_size(size, path)


def _check_size(size: tuple[int, int], path: Path) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise _broken(path, f"it has {width} x {height} pixels")
    if width * height > MOST_PIXELS:
        raise _too_large(path, f"{width:,} x {height:,} pixels")


def _too_large(path: Path, what: str) -> DataError:
    return DataError(
        "E085",
        f"{place(path)} is too large: {what}; {MOST_PIXELS:,} pixels are read at most",
        fix="cut it into smaller pictures, or remove it",
        path=str(path),
    )


def _broken(
    path: Path, why: str, fix: str = "open it in a viewer, save it again as PNG, or remove it"
) -> DataError:
    return DataError(
        "E083",
        f"{place(path)} cannot be read as a picture: {why}",
        fix=fix,
        path=str(path),
        reason=why,
    )


def _seems(path: Path) -> str:
    found = magic(path)
    if found in FORMATS:
        return "its header is damaged, or of a kind that is not read"
    tail = f"it seems to be {found}" if found else "its first bytes are not those of a picture"
    return f"it is none of {', '.join(FORMATS)}; {tail}"


def _reason(error: BaseException) -> str:
    """Return the complaint of a decoder, in our words where it is known."""
    told = str(error).strip()
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    short = "truncated", "missing dimensions"  # TIFF has its sizes at the end, or anywhere
    if any(word in told.lower() for word in short) or isinstance(error, EOFError):
        return "it is cut short"
    return snippet(told.splitlines()[0] if told else type(error).__name__, 80)[1:-1]


def _orientation(image: Image.Image) -> int:
    """Return the rotation in the EXIF tags; none if they are damaged."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except _BROKEN:
        return 1


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _channels(image: Image.Image) -> int:
    """Return 1 for grey pictures, also those by a palette of greys, and else 3."""
    if image.mode in _GREY:
        return 1
    if image.format == "GIF" and image.tell():  # pillow gives colours to all but the first frame
        seen = np.asarray(_on_white(image).convert("RGB"))
        return 1 if (seen == seen[..., :1]).all() else 3
    if image.mode != "P" or image.palette is None:
        return 3
    colours = np.frombuffer(image.palette.tobytes(), np.uint8)
    if image.palette.mode != "RGB" or len(colours) % 3:
        return 3
    triples = colours.reshape(-1, 3)
    return 1 if (triples == triples[:, :1]).all() else 3


def _array(image: Image.Image, channels: int | None) -> NDArray[Any]:
    """Return (H, W, C) for a loaded picture of any mode."""
    channels = channels or _channels(image)
    if image.mode in (*_DEEP, "F"):
        deep = _real(image) if image.mode == "F" else _deep(image)
        return deep if channels == 1 else np.repeat(deep, 3, -1)
    if image.mode in _ALPHA or "transparency" in image.info:
        image = _on_white(image)
    plain = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(plain).reshape(plain.height, plain.width, channels)


def _deep(image: Image.Image) -> NDArray[Any]:
    """Return (H, W, 1) uint16 for grey pictures of 16 bits, or of 32 that hold no more."""
    values, tags, white = np.asarray(image), getattr(image, "tag_v2", {}), np.iinfo(np.uint16).max
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > white:
        raise _OutOfRange(f"its values go from {low} to {high}: more than 16 bits hold")
    if tags.get(_BITS) == (12,):  # pillow does not scale the stored values of TIFF
        values = np.rint(values * (white / 4095))
    deep = values.astype(np.uint16)[..., None]
    if tags.get(_PHOTOMETRIC) == 0:  # 0 is white
        deep = white - deep
    clear = image.info.get("transparency")
    return deep if clear is None else np.where(deep == clear, white, deep).astype(np.uint16)


def _real(image: Image.Image) -> NDArray[np.uint16]:
    """Return (H, W, 1) uint16 for floating-point numbers from 0 to 1."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise _OutOfRange("some floating-point pixels are NaN or infinite")
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < 0 or high > 1:
        raise _OutOfRange(f"its floating-point pixels go from {low:.3g} to {high:.3g}")
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # 0 is white
        values = 1 - values
    return np.rint(values * np.float64(FULL)).astype(np.uint16)[..., None]


def _on_white(image: Image.Image) -> Image.Image:
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, (255,) * 4), seen)
