"""Folders of pictures: every kind of file that people have, the broken ones, and the limits."""

import gzip
import io
import os
import struct
import subprocess
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerbound.errors import DataError, LowerboundError, ResourceError, UsageError
from lowerbound.files import memory, scratch
from lowerbound.files.pictures import folders, image_file
from lowerbound.files.pictures.folders import gather, pictures_in, survey
from lowerbound.files.pictures.options import Wanted
from lowerbound.files.read import are_picture_files, read
from lowerbound.files.write_folder import atomic_folder
from picture_files import BOMBS, packed, png_of, shades, turned

Usage = namedtuple("Usage", "total used free")
PIXELS = shades()
GREY = PIXELS[..., 0]
DEEP = (GREY.astype(np.uint16) * 257) ^ 3


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def palette(pixels, **options):
    image = Image.fromarray(pixels).quantize(200)
    return packed_image(image, **options)


def packed_image(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def see_through():
    """Red, and green where it cannot be seen."""
    image = np.zeros((8, 8, 4), np.uint8)
    image[:, :4] = (255, 0, 0, 255)
    image[:, 4:] = (0, 255, 0, 0)
    return image


# --- one file ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "tiff", "jpg", "jpeg"])
@pytest.mark.parametrize("pixels", [PIXELS, GREY[..., None]], ids=["colours", "grey"])
def test_what_is_written_is_read_again(tmp_path, suffix, pixels):
    path = tmp_path / f"a.{suffix}"
    image_file.encode(path, pixels)
    again = image_file.decode(path, pixels.shape[-1])
    assert again.shape == pixels.shape
    assert again.dtype == np.uint8
    if suffix.startswith("jp"):
        assert np.abs(again.astype(int) - pixels).mean() < 4
    else:
        assert np.array_equal(again, pixels)
    with pytest.raises(UsageError, match="exists already"):
        image_file.encode(path, pixels)
    image_file.encode(path, pixels, overwrite=True)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_are_kept(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    image_file.encode(path, DEEP)
    found = image_file.decode(path)
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., 0], DEEP)
    assert image_file.decode(path, 3).shape == (*DEEP.shape, 3)
    assert np.array_equal(image_file.bytes_of(found)[..., 0], GREY)
    assert image_file.header(path).deep


@pytest.mark.parametrize(
    ("name", "pixels", "code"),
    [
        ("a.gif", PIXELS, "E222"),
        ("a", PIXELS, "E222"),
        ("a.jpg", DEEP, "E224"),
        ("a.png", PIXELS.astype(float), "E224"),
        ("a.png", PIXELS.astype(np.uint16), "E224"),
        ("a.png", np.zeros((4, 4, 5), np.uint8), "E224"),
        ("a.png", np.zeros(4, np.uint8), "E224"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, pixels, code):
    with pytest.raises(UsageError) as refused:
        image_file.encode(tmp_path / name, pixels)
    assert refused.value.code == code
    assert not os.listdir(tmp_path)


MODES = {
    "rgb.png": (packed(PIXELS), 3),
    "grey.png": (packed(GREY), 1),
    "palette.png": (palette(PIXELS), 3),
    "grey_palette.png": (palette(np.repeat(GREY[..., None], 3, -1)), 1),
    "bits.png": (packed_image(Image.fromarray(GREY).convert("1")), 1),
    "alpha.png": (packed_image(Image.fromarray(PIXELS).convert("RGBA")), 3),
    "grey_alpha.png": (packed_image(Image.fromarray(GREY).convert("LA")), 1),
    "cmyk.jpg": (packed_image(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"), 3),
    "ycc.tif": (packed_image(Image.fromarray(PIXELS).convert("YCbCr"), "TIFF"), 3),
    "photo.bmp": (packed(PIXELS, "BMP"), 3),
    "photo.webp": (packed(PIXELS, "WEBP", lossless=True), 3),
    "tiled.tif": (packed(PIXELS, "TIFF", compression="tiff_deflate"), 3),
    "wrong_suffix.jpg": (packed(PIXELS), 3),
    "transparent_palette.png": (palette(PIXELS, transparency=3), 3),
    "transparent_grey.png": (packed(GREY, transparency=3), 1),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_grey_or_rgb(tmp_path, name):
    content, channels = MODES[name]
    path = put(tmp_path / name, content)
    for wanted in (None, 1, 3):
        found = image_file.decode(path, wanted)
        assert found.dtype == np.uint8
        assert found.shape == (*GREY.shape, wanted or channels)
    head = image_file.header(path)
    assert (head.height, head.width, head.channels) == (*GREY.shape, channels)
    assert not head.deep
    assert image_file.fitted(path, (16, 24), 3).shape == (16, 24, 3)
    if channels == 3 and "cmyk" not in name:
        # A palette, a colour space and transparency cost a little.
        assert np.abs(image_file.decode(path).astype(int) - PIXELS).mean() < 8


def test_what_is_transparent_is_white(tmp_path):
    path = put(tmp_path / "a.png", packed(see_through()))
    found = image_file.decode(path)
    assert found[0, 0].tolist() == [255, 0, 0]
    assert found[0, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", [1, 6])
def test_in_a_tiff_of_16_bits_0_may_be_white(tmp_path, orientation):
    deep = (np.arange(8 * 6).reshape(8, 6) * 900).astype(np.uint16)
    plain = put(tmp_path / "a.tif", packed(deep, "TIFF", tiffinfo={274: orientation}))
    content, black = plain.read_bytes(), struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert content.count(black) == 1
    white = content.replace(black, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    inverted = image_file.decode(put(tmp_path / "b.tif", white))
    assert np.array_equal(inverted, 65535 - image_file.decode(plain))


def test_twelve_bits_reach_white(tmp_path):
    codes = bytes([0, 0x0F, 0xFF, 0x80, 0x08, 0])  # 0 and 4095, 2048 and 2048
    tags = {256: 2, 257: 2, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2, 279: len(codes)}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(codes)) + codes + struct.pack("<H", len(tags))
    found = image_file.decode(put(tmp_path / "a.tif", head + body + bytes(4)))
    assert found[..., 0].tolist() == [[0, 65535], [32776, 32776]]


def test_of_16_bits_too_what_is_transparent_is_white(tmp_path):
    deep = np.array([[500, 32], [0, 65535]], np.uint16)
    found = image_file.decode(put(tmp_path / "a.png", packed(deep, transparency=32)))
    assert found[..., 0].tolist() == [[500, 65535], [0, 65535]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, kind, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 250  # the corner
    path = put(tmp_path / f"a.{kind.lower()}", turned(pixels, orientation, kind))
    found = image_file.decode(path)
    upright = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: np.flipud(np.rot90(x)),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.fliplr(np.rot90(x)),
        8: np.rot90,
    }[orientation](pixels)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 4
    head = image_file.header(path)
    assert (head.height, head.width) == upright.shape[:2]


def test_of_several_frames_or_pages_the_first_is_taken(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in (10, 200)]
    for name, kind in (("a.png", "PNG"), ("a.webp", "WEBP"), ("a.tif", "TIFF")):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = packed_image(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        path = put(tmp_path / name, content)
        assert image_file.header(path).frames == 2
        assert (image_file.decode(path) == 10).all()
    notes = gather(pictures_in(tmp_path)).notes
    assert any("3 files with several frames" in note and "3 frames more" in note for note in notes)


def test_all_frames_are_pictures_where_that_is_asked(tmp_path):
    shadow = (10, 200, 90)
    frames = [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in shadow]
    for name, kind in (("a.png", "PNG"), ("b.webp", "WEBP"), ("c.tif", "TIFF"), ("d.gif", "GIF")):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = packed_image(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        put(tmp_path / name, content)
    put(tmp_path / "e.png", packed(np.full((8, 8, 3), 7, np.uint8)))
    found = gather(pictures_in(tmp_path), all_frames=True)
    assert [int(page[0, 0, 0]) for page in found] == [*shadow * 4, 7]
    assert found.names[:4] == ["a.png#0", "a.png#1", "a.png#2", "b.webp#0"]
    assert found.names[-1] == "e.png"
    assert not any("left out" in note for note in found.notes)
    frame = read(tmp_path, wanted=Wanted(all_frames=True))
    assert (frame.rows, frame.total, frame.all_frames) == (13, 13, True)
    assert read(tmp_path, rows=5, wanted=Wanted(all_frames=True)).files[-1] == "b.webp#1"
    (tmp_path / "f.png").write_bytes(b"no picture")
    seen = survey(pictures_in(tmp_path), "skip", all_frames=True)
    assert (seen.tally.total, len(seen.headers)) == (14, 13)
    assert folders.examined(seen) == 13


def test_frames_may_be_of_several_kinds_and_sizes(tmp_path):
    first, *rest = [Image.fromarray(x) for x in (DEEP, PIXELS[:20], GREY)]
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    found = gather(pictures_in(tmp_path), all_frames=True)
    assert found.shapes == [(*GREY.shape, 3), (20, GREY.shape[1], 3), (*GREY.shape, 3)]
    assert np.array_equal(found[0][..., 0], GREY)
    assert np.array_equal(found[1], PIXELS[:20])
    assert np.array_equal(found[2][..., 0], GREY)


def test_gifs_are_pictures(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in (10, 200, 90)]
    moving = packed_image(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for name, content in (("still.gif", packed(PIXELS, "GIF")), ("moving.gif", moving)):
        put(tmp_path / name, content)
    assert image_file.header(tmp_path / "still.gif")[:5] == (*GREY.shape, 3, False, False)
    seen = np.abs(image_file.decode(tmp_path / "still.gif").astype(int) - PIXELS)
    assert seen.mean() < 8  # a palette costs a little
    assert image_file.header(tmp_path / "moving.gif").frames == 3
    assert (image_file.decode(tmp_path / "moving.gif", 1) == 10).all()
    clear = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    clear.info["transparency"] = 0
    path = put(tmp_path / "clear.gif", packed_image(clear, "GIF", transparency=0))
    assert (image_file.decode(path) == 255).all()
    assert len(pictures_in(tmp_path).names) == 3


def test_pages_of_other_kinds_do_not_spoil_the_first(tmp_path):
    path = tmp_path / "a.tif"
    first, *rest = [Image.fromarray(x) for x in (DEEP, PIXELS, GREY.astype(np.float32))]
    first.save(path, save_all=True, append_images=rest)
    head = image_file.header(path)
    assert (head.frames, head.deep, head.channels) == (3, True, 1)
    assert np.array_equal(image_file.decode(path)[..., 0], DEEP)


# --- levels --------------------------------------------------------------------------------


def test_floats_from_0_to_1_are_shares_of_white(tmp_path):
    shares = (GREY / 255).astype(np.float32)
    path = put(tmp_path / "a.tif", packed(shares, "TIFF"))
    head = image_file.header(path)
    assert (head.channels, head.deep, head.real) == (1, False, True)
    assert np.array_equal(image_file.decode(path)[..., 0], np.rint(GREY * 257.0))
    assert image_file.decode(path, 3).shape == PIXELS.shape
    found = gather(pictures_in(tmp_path))
    assert np.array_equal(found[0][..., 0], GREY)
    assert found.white is None
    assert any("1 picture of floating-point numbers" in note for note in found.notes)
    assert np.array_equal(gather(pictures_in(tmp_path), resize=GREY.shape)[0][..., 0], GREY)


def test_floats_of_another_range_are_refused_with_the_range_and_a_fix(tmp_path):
    path = put(tmp_path / "a.tif", packed(GREY.astype(np.float32) - 3, "TIFF"))
    with pytest.raises(DataError, match="go from -3 to") as refused:
        image_file.decode(path)
    assert refused.value.code == "E083"
    assert "floats from 0 to 1" in refused.value.fix
    assert refused.value.details["path"] == str(path)


@pytest.mark.parametrize(("bits", "white"), [(8, 255), (10, 1023), (12, 4095), (14, 16383)])
def test_fewer_bits_in_16_have_a_white_of_their_own(tmp_path, bits, white):
    levels = np.rint(GREY * (white / 255)).astype(np.uint16)
    levels[0, 0] = white
    put(tmp_path / "a.png", packed(levels))
    put(tmp_path / "b.tif", packed(levels // 2, "TIFF"))  # darker, in the same folder
    found = gather(pictures_in(tmp_path))
    assert found.white == white
    wanted = np.rint(levels * (255 / white))
    assert np.array_equal(found[0][..., 0], wanted)
    assert np.abs(found[1][..., 0] - wanted / 2).max() <= 1
    assert any(f"values up to {white:,}: white is {white:,}" in note for note in found.notes)
    small = gather(pictures_in(tmp_path), resize=GREY.shape)
    assert np.array_equal(small[0], found[0])


def test_the_white_of_a_model_holds_for_new_pictures(tmp_path):
    put(tmp_path / "a.png", packed(np.full((4, 4), 2000, np.uint16)))
    put(tmp_path / "b.png", packed(np.full((4, 4), 1000, np.uint16)))
    assert gather(pictures_in(tmp_path), white=4095)[0][0, 0, 0] == 125
    bright = gather(pictures_in(tmp_path), white=1023)
    assert (bright[0][0, 0, 0], bright[1][0, 0, 0]) == (255, 249)
    assert any("values above 1,023" in note for note in bright.notes)
    assert read(tmp_path, wanted=Wanted(white=16383)).white == 16383
    assert read(tmp_path).white == 4095  # 11 bits are in 12


def test_full_16_bits_become_8_as_ever():
    every = np.arange(65536, dtype=np.uint16)
    as_ever = ((every.astype(np.uint32) + 128) // 257).astype(np.uint8)
    assert np.array_equal(image_file.bytes_of(every), as_ever)


def test_frames_of_a_grey_animation_are_grey(tmp_path):
    frames = [Image.fromarray(np.full((6, 6), level, np.uint8)) for level in (40, 90, 200)]
    frames[1].putpixel((2, 3), 255)
    frames[0].save(tmp_path / "grey.gif", save_all=True, append_images=frames[1:])
    seen = survey(pictures_in(tmp_path), all_frames=True)
    assert [header.channels for header in seen.headers] == [1, 1, 1]
    found = gather(pictures_in(tmp_path), all_frames=True)
    for page, frame in zip(found, frames, strict=True):
        assert np.array_equal(page[..., 0], np.asarray(frame))
    coloured = [*frames, Image.fromarray(np.full((6, 6, 3), (9, 90, 200), np.uint8))]
    coloured[0].save(tmp_path / "grey.gif", save_all=True, append_images=coloured[1:])
    seen = survey(pictures_in(tmp_path), all_frames=True)
    assert [header.channels for header in seen.headers] == [1, 1, 1, 3]


def test_pictures_that_no_decoding_bears_out_are_not_described(tmp_path):
    put(tmp_path / "0.png", packed(PIXELS[..., 0].astype(np.uint16)))
    put(tmp_path / "1.tif", packed(PIXELS[..., 0].astype(np.float32), "TIFF"))
    seen = survey(pictures_in(tmp_path), "skip")
    folders.examined(seen)
    assert [header.real for header in seen.headers] == [False, True]
    assert [header.deep for header in seen.readable.headers] == [True]
    assert seen.readable.listing.names == ["0.png"]


# --- one count -----------------------------------------------------------------------------


def test_the_same_files_are_unreadable_everywhere(tmp_path):
    """Damage that only decoding finds is found by `examined` as by `gather`."""
    whole = {name: content for name, (content, _, _) in BROKEN.items() if len(content) < 10**6}
    for name, content in whole.items():
        put(tmp_path / name, content)
    for i in range(4):
        put(tmp_path / f"good{i}.png", packed(PIXELS))
    seen = survey(pictures_in(tmp_path), "skip")
    folders.examined(seen)
    found = gather(pictures_in(tmp_path), on_bad_file="skip")
    assert sorted(seen.tally.unreadable) == sorted(found.unreadable)
    assert {name for name, _ in found.unreadable} == set(whole)
    frame = read(tmp_path, wanted=Wanted(on_bad_file="skip"))
    assert frame.unreadable == found.unreadable
    assert frame.rows == 4


# --- labels --------------------------------------------------------------------------------


def test_folders_are_labels_where_every_picture_is_in_one(tmp_path):
    for name in ("cat/0.png", "cat/1.png", "dog/0.png"):
        put(tmp_path / name, packed(PIXELS))
    frame = read(tmp_path)
    assert frame.classes == frame.labels == ("cat", "cat", "dog")
    assert frame.annotations.column_names == ["label"]
    assert frame.cut(slice(1, 3)).classes == ("cat", "dog")
    put(tmp_path / "2.png", packed(PIXELS))
    mixed = read(tmp_path)
    assert mixed.labels[0] == ""
    assert mixed.classes == ()
    assert not mixed.annotations.column_names


@pytest.mark.parametrize("size", [(1, 1), (1, 100_000), (3, 2)])
def test_odd_sizes_are_pictures_too(tmp_path, size):
    path = put(tmp_path / "a.png", packed(np.full((*size, 3), 7, np.uint8)))
    assert image_file.decode(path).shape == (*size, 3)
    assert (image_file.fitted(path, (8, 8), 1) == 7).all()


HALF = len(packed(PIXELS)) // 2
BROKEN = {
    "truncated.png": (packed(PIXELS)[:HALF], "E083", "cut short"),
    "truncated.jpg": (packed(PIXELS, "JPEG")[:600], "E083", "cut short"),
    "corrupt.jpg": (b"\xff\xd8\xff\xe0" + bytes(200), "E083", "damaged"),
    "corrupt.png": (packed(PIXELS)[:40] + b"x" * 400, "E083", "a.png"),
    "header.webp": (b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(40), "E083", "a.webp"),
    "header.tif": (b"II*\x00" + bytes(30), "E083", "a.tif"),
    "header.bmp": (b"BM" + bytes(30), "E083", "a.bmp"),
    "empty.png": (b"", "E004", "0 bytes"),
    "float.tif": (packed(GREY.astype(np.float32), "TIFF"), "E083", "floating-point"),
    "deeper.tif": (packed(GREY.astype(np.int32) * 2**20, "TIFF"), "E083", "16 bits"),
    "text.png": ("no picture", "E083", "none of PNG"),
    "svg.png": ("<svg xmlns='http://www.w3.org/2000/svg'/>", "E083", "none of PNG"),
    "eps.png": ("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "E083", "none of PNG"),
    "negative.tif": (packed(GREY.astype(np.int32) - 50, "TIFF"), "E083", "from -50 to"),
    "nan.tif": (packed(np.full((4, 4), np.nan, np.float32), "TIFF"), "E083", "NaN"),
    "truncated.gif": (packed(PIXELS, "GIF")[: -len(packed(PIXELS, "GIF")) // 8], "E083", "short"),
    "pdf.jpg": ("%PDF-1.7", "E083", "PDF"),
    **{name: (content, "E085", "64,000,000") for name, content in BOMBS.items()},
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_is_one_clear_error(tmp_path, name):
    content, code, told = BROKEN[name]
    path = put(tmp_path / f"a{Path(name).suffix}", content)
    with pytest.raises(LowerboundError) as refused:
        image_file.decode(path)
    error = refused.value
    assert error.code == code, str(error)
    assert error.exit_code == 3
    assert told in str(error)
    assert error.fix
    assert len(str(error)) < 500
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(LowerboundError):
        image_file.check(path)


def test_pipes_and_links_to_nothing_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    codes = set()
    for path in tmp_path.iterdir():
        with pytest.raises(DataError) as refused:
            image_file.decode(path)
        codes.add(refused.value.code)
    assert codes <= {"E001", "E002", "E003", "E009"}


# --- folders -------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """A folder as people have them."""
    root = tmp_path / "photos"
    for i in range(6):
        put(root / "good" / f"{i}.jpg", packed(shades(30 + 4 * i, 40, i), "JPEG"))
    put(root / "bad" / "deep" / "0.PNG", packed(PIXELS))
    put(root / "bad" / "0.jpg", packed(PIXELS, "JPEG"))  # a name that is there twice
    put(root / "root.webp", packed(PIXELS, "WEBP"))
    put(root / "notes.txt", "words")
    put(root / "labels.csv", "file,label\n")
    put(root / "vector.svg", "<svg/>")
    put(root / ".DS_Store", b"\0")
    put(root / ".hidden" / "0.png", packed(PIXELS))
    put(root / "__MACOSX" / "0.png", packed(PIXELS))
    return root


def test_a_listing_has_names_labels_and_what_was_ignored(photos):
    listing = pictures_in(photos)
    assert listing.names == [
        "bad/0.jpg", "bad/deep/0.PNG", *(f"good/{i}.jpg" for i in range(6)), "root.webp"
    ]  # fmt: skip
    assert listing.labels == ["bad", "bad/deep", *["good"] * 6, ""]
    assert [p.relative_to(listing.root).as_posix() for p in listing.files] == listing.names
    assert listing.others == {".txt": 1, ".csv": 1, ".svg": 1, "hidden": 1}
    assert listing.ignored == 4
    assert "4 files ignored" in listing.notes[0]
    one = pictures_in(photos / "root.webp")
    assert (one.names, one.labels, one.root) == (["root.webp"], [""], photos)
    some = pictures_in(f"{photos}/good/*.jpg")
    assert some.names == [f"{i}.jpg" for i in range(6)]
    assert are_picture_files(str(photos))
    assert not are_picture_files(str(photos / "labels.csv"))


def test_what_is_behind_a_link_is_counted(photos):
    (photos / "more").symlink_to(photos / "good")
    (photos / "all").symlink_to(photos)
    assert pictures_in(photos).others["behind a link"] == 2


def test_what_stands_beside_earlier_results_is_none_of_them(photos):
    put(photos / "good" / "_overview.png", packed(PIXELS))
    for part in ("uncertainty", "draw1", "draw12", "drawn"):
        put(photos / "good" / part / "0.png", packed(PIXELS))
    put(photos / "bad" / "uncertainty" / "0.png", packed(PIXELS))
    listing = pictures_in(photos)
    assert listing.others["beside earlier results"] == 4
    assert {"good/drawn/0.png", "bad/uncertainty/0.png"} < set(listing.names)
    assert pictures_in(photos / "good" / "uncertainty").names == ["0.png"]
    assert len(pictures_in(f"{photos}/good/*.*").names) == 6


def test_a_pattern_counts_what_cannot_be_read(photos):
    os.mkfifo(photos / "good" / "6.jpg")
    (photos / "good" / "7.jpg").symlink_to("nothing.jpg")
    with pytest.raises(DataError, match=r"2 of 8.*6.jpg \(is a pipe.*7.jpg \(is a link to"):
        gather(pictures_in(f"{photos}/good/*.jpg"))


def test_names_that_are_no_text_are_spelled_out(tmp_path):
    put(tmp_path / os.fsdecode(b"caf\xe9.png"), packed(PIXELS))
    listing = pictures_in(tmp_path)
    assert listing.names == ["caf\\xe9.png"]
    assert image_file.decode(listing.files[0]).shape == PIXELS.shape


def test_a_long_path_does_not_hide_why_a_file_cannot_be_read(tmp_path):
    path = put(tmp_path / ("long" * 30) / "empty.png", b"")
    with pytest.raises(DataError, match=r"empty.png \(is empty \(0 bytes\)\)"):
        gather(pictures_in(path.parent))


def test_pictures_of_any_size_are_gathered_in_order(photos):
    listing = pictures_in(photos)
    found = gather(listing)
    assert len(found) == len(listing.files)
    assert found.names == listing.names
    assert found.labels == listing.labels
    for i, path in enumerate(listing.files):
        assert np.array_equal(found[i], image_file.decode(path))
        assert found[i].shape == found.shapes[i]
    assert found[-1].shape == found.shapes[-1]
    assert [p.shape for p in found[2:4]] == found.shapes[2:4]
    with pytest.raises(IndexError):
        found[len(found)]
    with pytest.raises(DataError, match="--size 64") as refused:
        found.stacked()
    assert refused.value.code == "E086"


def test_one_size_is_made_by_scaling_and_cutting(tmp_path):
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, 30:90] = 200  # the middle, which is what stays
    put(tmp_path / "a" / "wide.png", packed(pixels))
    put(tmp_path / "a" / "small.png", packed(pixels[20:30, 40:60]))
    found = gather(pictures_in(tmp_path / "a"), resize=(30, 30))
    assert found.stacked().shape == (2, 30, 30, 3)
    assert (found[1][:, 3:-3] == 200).all()
    assert any("1 picture smaller than 30 x 30: enlarged" in note for note in found.notes)
    assert any("2 pictures scaled and cut to 30 x 30" in note for note in found.notes)
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    put(tmp_path / "b" / "a.png", packed(stripes))
    grey = gather(pictures_in(tmp_path / "b"), resize=(16, 16))[0]
    assert np.abs(grey.astype(int) - 127).max() < 30  # antialiased: no pattern appears


def test_grey_stays_grey_and_one_colour_makes_all_colours(tmp_path):
    put(tmp_path / "a.png", packed(GREY))
    put(tmp_path / "b.png", packed(DEEP))
    found = gather(pictures_in(tmp_path))
    assert found.stacked().shape == (2, *GREY.shape, 1)
    assert np.array_equal(found[0], found[1])
    assert any("16 bits: rounded to 8" in note for note in found.notes)
    put(tmp_path / "c.png", packed(PIXELS))
    assert gather(pictures_in(tmp_path)).stacked().shape == (3, *GREY.shape, 3)
    assert gather(pictures_in(tmp_path), channels=1).stacked().shape == (3, *GREY.shape, 1)


def many(folder, count=120, broken=()):
    content = packed(shades(8, 8))
    for i in range(count):
        put(folder / f"{i:05d}.png", content[: len(content) // 2] if i in broken else content)
    return folder


def test_one_bad_of_many_is_skipped_and_named(tmp_path):
    listing = pictures_in(many(tmp_path, broken={7}))
    found = gather(listing)
    assert len(found) == 119
    assert "00007.png" not in found.names
    assert any("1 unreadable file skipped (0.83%): 00007.png" in note for note in found.notes)
    assert (found.stacked() == shades(8, 8)).all()  # no hole where it would have been
    with pytest.raises(DataError, match=r"00007\.png") as refused:
        gather(listing, on_bad_file="fail")
    assert refused.value.code == "E083"


def test_too_many_bad_ones_are_one_error_that_names_five(tmp_path):
    many(tmp_path, broken={3, 5, 7, 9, 11, 13})
    put(tmp_path / "empty.png", b"")
    put(tmp_path / "bomb.png", BOMBS["bomb.png"])
    listing = pictures_in(tmp_path)
    with pytest.raises(DataError) as refused:
        gather(listing)
    error = refused.value
    assert error.code == "E084"
    assert error.details["count"] in (2, 8)  # headers alone may tell, or the pixels
    assert "--on-bad-file skip" in error.fix
    found = gather(listing, on_bad_file="skip")
    assert len(found) == 114
    (note,) = [note for note in found.notes if "skipped" in note]
    assert "8 unreadable files" in note
    assert note.count(".png (") == 5
    with pytest.raises(UsageError, match="none of auto, skip, fail"):
        gather(listing, on_bad_file="perhaps")


def test_a_folder_of_bad_ones_only_is_refused_whatever_is_asked(tmp_path):
    many(tmp_path, 3, broken={0, 1, 2})
    for policy in ("auto", "skip"):
        with pytest.raises(DataError) as refused:
            gather(pictures_in(tmp_path), on_bad_file=policy)
        assert refused.value.code == "E084"


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda tmp: tmp / "gone", "E001"),
        (lambda tmp: tmp, "E082"),
        (lambda tmp: f"{tmp}/*.png", "E007"),
        (lambda tmp: "https://example.org/photos", "E006"),
        (lambda tmp: f"{tmp}/a\0b", "E003"),
        (lambda tmp: put(tmp / "x.txt", "words").parent, "E082"),
        (lambda tmp: f"{put(tmp / 'x.txt', 'words').parent}/*.txt", "E082"),
    ],
)
def test_where_no_picture_is_there_is_an_error(tmp_path, make, code):
    with pytest.raises(LowerboundError) as refused:
        pictures_in(make(tmp_path))
    assert refused.value.code == code
    assert refused.value.fix


# --- limits --------------------------------------------------------------------------------


def test_what_does_not_fit_in_memory_goes_to_a_file_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    photos = many(tmp_path / "photos", 60)
    found = gather(pictures_in(photos))
    assert isinstance(found.stacked().base, np.memmap) or isinstance(found.stacked(), np.memmap)
    assert not os.listdir(tmp_path / "scratch")
    assert (found.stacked() == shades(8, 8)).all()
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 1))
    with pytest.raises(ResourceError) as refused:
        gather(pictures_in(photos))
    assert refused.value.code == "E301"
    assert "TMPDIR" in refused.value.fix


def test_a_full_disk_is_found_before_it_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 0)

    def refuse(number):
        def call(*args, **options):
            raise OSError(number, os.strerror(number))

        return call

    monkeypatch.setattr("os.posix_fallocate", refuse(28))
    with pytest.raises(ResourceError) as refused:
        scratch.room(100)
    assert refused.value.code == "E301"
    monkeypatch.setattr("tempfile.TemporaryFile", refuse(13))
    with pytest.raises(ResourceError) as refused:
        scratch.room(100)
    assert refused.value.code == "E302"


_MEASURE = """
import sys
from pathlib import Path
from lowerbound.files.pictures.folders import pictures_in, survey, gather
from lowerbound.errors import DataError
listing = pictures_in(sys.argv[1])
try:
    gather(listing, on_bad_file=sys.argv[2])
except DataError as error:
    print(error.code, error.details.get("count"))
# Not getrusage: that begins with what the parent had when it forked.
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(line for line in lines if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


def test_forty_bombs_take_little_memory_and_time(tmp_path):
    for i in range(5):
        for name, content in BOMBS.items():
            put(tmp_path / f"{i}-{name}", content)
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path), "skip"],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(folders.__file__).parents[2])},
    )  # fmt: skip
    code, count, megabytes = ran.stdout.split()
    assert (code, count) == ("E084", "40")
    assert int(megabytes) <= 200
    assert not ran.stderr


def test_results_wait_in_bounded_number(tmp_path, monkeypatch):
    import lowerbound.files.parallel as parallel

    monkeypatch.setattr(parallel, "workers", lambda: 2)
    begun = []
    results = parallel.in_order(lambda i: begun.append(i) or i, range(1000))
    for place, result in results:
        assert place == result
        assert len(begun) <= place + 6
    assert len(begun) == 1000


def test_a_picture_that_changes_meanwhile_is_a_bad_one(tmp_path):
    many(tmp_path, 4)
    seen = survey(pictures_in(tmp_path), "skip")
    put(tmp_path / "00001.png", packed(shades(9, 9)))
    (tmp_path / "00002.png").unlink()
    found = folders.decoded(seen)
    assert found.names == ["00000.png", "00003.png"]


# --- as data -------------------------------------------------------------------------------


def test_a_folder_is_read_as_pictures(photos):
    frame = read(str(photos))
    assert frame.shape == (64, 64, 3)
    assert frame.rows == 9
    assert frame.files == tuple(pictures_in(photos).names)
    assert frame.labels[-1] == ""
    assert any("--size" in note for note in frame.notes)
    assert read(photos, wanted=Wanted((16, 24), 1)).shape == (16, 24)
    assert read(photos, rows=3).rows == 3
    assert read(photos, rows=3).total == 9
    assert read(photos / "root.webp").shape == (*GREY.shape, 3)
    with pytest.raises(DataError) as refused:
        read(put(photos / "broken.png", packed(PIXELS)[:HALF]))
    assert refused.value.code == "E083"


def test_most_of_a_folder_decides_what_it_is(tmp_path):
    for i in range(2):
        put(tmp_path / f"part{i}.csv", "a,b\n1,2\n3,4\n")
    put(tmp_path / "plot.png", packed(PIXELS))
    assert read(tmp_path).names == ("a", "b")
    put(tmp_path / "words" / "x.heic", b"\0")
    with pytest.raises(DataError, match="no picture") as refused:
        read(tmp_path / "words")
    assert refused.value.code == "E007"


def idx(pixels, kind=8):
    shape = struct.pack(f">{pixels.ndim}I", *pixels.shape)
    return struct.pack(">HBB", 0, kind, pixels.ndim) + shape + pixels.tobytes()


def test_idx_files_are_arrays_of_pictures(tmp_path):
    pixels = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)
    for name in ("train-images-idx3-ubyte", "t.idx3-ubyte", "a.idx"):
        assert np.array_equal(read(put(tmp_path / name, idx(pixels))).pixels, pixels)
        packed_file = put(tmp_path / f"{name}.gz", gzip.compress(idx(pixels)))
        assert np.array_equal(read(packed_file, rows=1).pixels, pixels[:1])
    wide = pixels.astype(">i4")
    assert np.array_equal(read(put(tmp_path / "w.idx", idx(wide, 12))).pixels, pixels)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\0\0\x08", "E025"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2, 5, 4) + bytes(39), "E025"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2, 5, 4) + bytes(41), "E025"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 4), "E017"),
        (b"\x89PNG\r\n\x1a\n", "E025"),
        (gzip.compress(idx(np.zeros((2, 5, 4), np.uint8)))[:-9], "E025"),
        (b"\0\0\x08\x64" + struct.pack(">100I", *[1] * 100) + b"0", "E025"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 0, 2**32 - 1, 2**32 - 1), "E025"),
    ],
    # Words, as gzip writes the time into its bytes and every worker must find the same names.
    ids=["header cut", "too short", "too long", "too many", "a PNG", "gzip cut", "deep", "vast"],
)
def test_broken_idx_files_are_refused(tmp_path, content, code):
    with pytest.raises(DataError) as refused:
        read(put(tmp_path / "a.idx3-ubyte", content))
    assert refused.value.code == code


# --- folders of results --------------------------------------------------------------------


def test_a_folder_may_have_a_name_that_is_no_text(tmp_path):
    target = tmp_path / os.fsdecode(b"out\xe9")
    with atomic_folder(target) as made:
        put(made / "a.png", packed(PIXELS))
    assert os.listdir(os.fsencode(tmp_path)) == [b"out\xe9"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"

    def half():
        with atomic_folder(target) as made:
            put(made / "0.png", b"x")
            raise ValueError("half done")

    with pytest.raises(ValueError, match="half"):
        half()
    assert not os.listdir(tmp_path)
    with atomic_folder(target) as made:
        put(made / "0.png", b"x")
        assert not target.exists()
    assert os.listdir(target) == ["0.png"]
    with pytest.raises(UsageError) as refused, atomic_folder(target):
        pass
    assert refused.value.code == "E220"
    with atomic_folder(target, overwrite=True) as made:
        put(made / "1.png", b"x")
    assert os.listdir(target) == ["1.png"]
    put(target / "thesis.tex", b"precious")
    with pytest.raises(UsageError) as refused, atomic_folder(target, overwrite=True):
        pass
    assert refused.value.code == "E221"
    put(tmp_path / "file", b"x")
    with pytest.raises(UsageError) as refused, atomic_folder(tmp_path / "file"):
        pass
    assert refused.value.code == "E223"
    with pytest.raises(ResourceError) as refused, atomic_folder(tmp_path / "no" / "out"):
        pass
    assert refused.value.code == "E302"
    assert sorted(os.listdir(tmp_path)) == ["file", "out"]


def test_a_png_of_one_bit_within_the_limits_is_read(tmp_path):
    path = put(tmp_path / "a.png", png_of(8, 8, bytes(8 * 2)))
    assert image_file.decode(path).shape == (8, 8, 1)
