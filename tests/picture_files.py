"""Picture files of every kind, sound and broken, made on the fly."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def shades(height=40, width=60, seed=0):
    """A smooth picture with one bright square, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([160 * x / width, 160 * y / height, 40 + 0 * x], -1)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    base[top : top + height // 4, left : left + width // 4] = 220
    return base.astype(np.uint8)


def packed(pixels, kind="PNG", **options):
    """The bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def turned(pixels, orientation, kind="JPEG"):
    """The bytes of a picture that EXIF says is to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return packed(pixels, kind, exif=exif.tobytes())


def png_of(width, height, data=b""):
    """The bytes of a PNG file of one bit per pixel that claims any size."""

    def chunk(name, body):
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def jpeg_of(width, height):
    """The bytes of a JPEG file whose header claims any size."""
    whole = bytearray(packed(shades(16, 16), "JPEG"))
    place = whole.index(b"\xff\xc0")
    whole[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def webp_of(width, height):
    """The first bytes of an extended WebP file of any size."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_of(width, height):
    """The bytes of a BMP file whose header claims any size."""
    whole = bytearray(packed(shades(4, 4), "BMP"))
    whole[18:26] = struct.pack("<ii", width, height)
    return bytes(whole)


def tiff_of(width, height):
    """The bytes of a TIFF file whose header claims any size."""
    whole = packed(shades(16, 16), "TIFF")
    for tag, value in ((256, width), (257, height)):
        for kind in (3, 4):
            old = struct.pack("<HHI", tag, kind, 1)
            place = whole.find(old)
            if place >= 0:
                new = struct.pack("<HHII", tag, 4, 1, value)
                whole = whole[:place] + new + whole[place + 12 :]
    return whole


BOMBS = {
    "bomb.png": png_of(100_000, 100_000),
    "long.png": png_of(70_000_000, 1),
    "bomb.jpg": jpeg_of(65_000, 65_000),
    "bomb.webp": webp_of(16_384, 16_384),
    "wide.webp": webp_of(2**24, 2**24),
    "bomb.bmp": bmp_of(60_000, 60_000),
    "bomb.tif": tiff_of(90_000, 90_000),
    "pixels.png": png_of(8_001, 8_001, bytes(8_001 * 1_002)),
}
