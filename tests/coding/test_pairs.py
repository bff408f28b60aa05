"""Crops, degradations and pairs: what models that restore learn from."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from lowerbound import noise
from lowerbound.coding.augmentations import (
    Composed,
    Downscaled,
    GaussianNoise,
    RandomHoles,
    SaltAndPepperNoise,
    shrunk,
    turned,
    with_holes,
)
from lowerbound.coding.crops import AugmentedRows, Crops, Paired, filled_out, shares
from lowerbound.coding.degradations import noise_of
from lowerbound.coding.pairs import (
    RGB,
    PairCoding,
    colours_of,
    matched,
    packed_colours,
    read_pairs,
)
from lowerbound.coding.rows import Batch
from lowerbound.coding.tables import restore
from lowerbound.errors import DataError, UsageError
from lowerbound.files.data import Table
from lowerbound.files.pictures.folders import Listing
from lowerbound.recipes import find
from lowerbound.training.split import Split


def source(*key):
    return noise.generator("test of pairs", *key)


def numbered(height, width, channels=1):
    """A picture whose pixels tell where they are."""
    pixels = np.arange(height * width, dtype=np.float32).reshape(height, width, 1)
    return np.repeat(pixels, channels, -1)


def flat(rows, size=32):
    return Batch(torch.full((rows, 1, size, size), 0.5))


def test_a_crop_is_a_function_of_its_number():
    crops = Crops([numbered(40, 50), numbered(33, 64)], 16, 100)
    assert len(crops) == 200
    index = torch.tensor([7, 3, 7, 150])
    x = crops.take(index).x
    assert x.shape == (4, 1, 16, 16)
    assert torch.equal(x[0], x[2])
    assert torch.equal(x[:1], crops.take(index[:1]).x)
    assert not torch.equal(x, Crops(crops.pictures, 16, 100, seed=1).take(index).x)


def test_every_place_can_be_cropped_and_none_beyond():
    crops = Crops([numbered(6, 7)], 4, 4000)
    corners = crops.take(torch.arange(4000)).x[:, 0, 0, 0]
    assert sorted(set(corners.tolist())) == [7 * y + x for y in range(3) for x in range(4)]
    counts = np.unique(corners, return_counts=True)[1]
    assert counts.min() > 4000 / 12 * 0.75


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (20, 20)])
def test_small_pictures_are_mirrored(size):
    large = filled_out(numbered(*size), 16)
    assert min(large.shape[:2]) >= 16
    assert (large[: size[0], : size[1]] == numbered(*size)).all()
    assert set(np.unique(large)) == set(np.unique(numbered(*size)))


def test_crops_of_a_larger_copy_are_of_the_same_places():
    small = numbered(20, 30)
    large = small.repeat(4, 0).repeat(4, 1)
    pairs = Paired(Crops([large], 32, 50, grid=4), Crops([small], 8, 50))
    x, y = pairs.take(torch.arange(50))
    torch.testing.assert_close(x[:, :, ::4, ::4], y)


def test_pixels_become_shares():
    assert shares(np.array([0, 255], np.uint8)).tolist() == [0, 1]
    assert shares(np.array([0, 65535], np.uint16)).tolist() == [0, 1]
    assert shares(np.array([0.25], np.float32)).tolist() == [0.25]


def test_noise_has_the_strength_that_is_asked_for():
    x, given = noise_of("raw:25")(flat(64), source())
    assert torch.equal(x, flat(64).x)
    assert (given - x).std().item() * 255 == pytest.approx(25, rel=0.02)
    each = (noise_of("raw:0-50")(flat(500), source())[1] - 0.5).flatten(1).std(1) * 255
    assert each.min() < 3
    assert 47 < each.max() < 53
    assert each.mean() == pytest.approx(25, rel=0.1)


def test_stored_noise_is_what_a_file_holds():
    dark = Batch(torch.zeros(8, 1, 32, 32))
    given = noise_of("gaussian:25")(dark, source())[1]
    assert given.min() == 0
    codes = given * 255
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)


def test_photons_and_salt():
    given = noise_of("poisson:30")(flat(64), source())[1]
    assert given.mean() == pytest.approx(0.5, rel=0.02)
    assert given.var() == pytest.approx(0.5 / 30, rel=0.05)
    given = noise_of("salt:0.1")(flat(64), source())[1]
    assert (given != 0.5).float().mean() == pytest.approx(0.1, rel=0.1)
    assert set(given.unique().tolist()) == {0.0, 0.5, 1.0}


@pytest.mark.parametrize(
    "text", ["gaussian", "gaussian:", "gaussian:-3", "salt:2", "snow:1", "", "raw:0"]
)
def test_other_noise_is_refused(text):
    with pytest.raises(UsageError, match="noise=gaussian:25"):
        noise_of(text)


def test_pictures_shrink_as_pillow_shrinks_them():
    x = torch.rand(1, 1, 60, 80, generator=source())
    ours = shrunk(x, 4)[0, 0].numpy()
    theirs = Image.fromarray(x[0, 0].numpy(), "F").resize((20, 15), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(ours, np.asarray(theirs), atol=1e-5)
    assert Downscaled(2)(Batch(x), source()).context.shape == (1, 1, 30, 40)


def test_holes_hide_what_is_wanted():
    x = torch.rand(50, 3, 32, 32, generator=source())
    wanted, given = RandomHoles()(Batch(x), source())
    hole = given[:, 3:].bool()
    assert torch.equal(wanted.isnan(), ~hole.expand_as(x))
    assert (given[:, :3][hole.expand_as(x)] == 0).all()
    assert torch.equal(given[:, :3].masked_fill(hole, 0), x.masked_fill(hole, 0))
    share = hole.float().mean((1, 2, 3))
    assert 0.02 < share.mean() < 0.5
    again = with_holes(x, hole)
    assert torch.equal(again.context, given)


def test_both_halves_of_a_pair_turn_alike():
    x = torch.rand(16, 1, 8, 8, generator=source())
    turns = set()
    for step in range(8):
        out, given = turned(Batch(x, x.repeat(1, 2, 1, 1)), source(step))
        assert torch.equal(out.repeat(1, 2, 1, 1), given)
        assert torch.equal(out.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
        turns.add(bool((out[0] == x[0]).all()))
    assert turns == {True, False}


def test_rows_seen_once_and_for_all_do_not_depend_on_their_neighbours():
    rows = AugmentedRows(
        Crops([numbered(40, 40) / 1600], 8, 30), Composed(turned, GaussianNoise(9, 9))
    )
    x, given = rows.take(torch.tensor([5, 9, 2]))
    alone, seen = rows.take(torch.tensor([9]))
    assert torch.equal(x[1:2], alone)
    assert torch.equal(given[1:2], seen)
    assert not torch.equal(given[0], given[1])


def test_salt_is_a_share_of_pixels_and_not_of_channels():
    given = SaltAndPepperNoise(0.3, 0.3)(Batch(torch.full((4, 3, 32, 32), 0.5)), source())[1]
    assert (given == given[:, :1]).all()


def test_crops_of_a_picture_stay_on_one_side_of_the_split():
    split = Split.of_crops(40, 25, seed=0)
    of = [set((part % 40).tolist()) for part in (split.train, split.valid)]
    assert not of[0] & of[1]
    assert len(split.train) == 36 * 25
    assert len(set(split.train.tolist())) == len(split.train)


@pytest.fixture
def folders(tmp_path):
    """Pictures of several sizes in two folders, and masks of them."""
    rng = np.random.default_rng(0)
    for i, size in enumerate([(40, 30), (64, 80), (33, 33)]):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        mask = np.where(pixels[..., 0] > 99, 200, 7).astype(np.uint8)
        for part, page in (("in/a", pixels), ("masks/a", mask)):
            (tmp_path / part).mkdir(parents=True, exist_ok=True)
            suffix = "jpg" if part == "in/a" else "png"
            Image.fromarray(page).save(tmp_path / part / f"{i}.{suffix}")
    return tmp_path


def fitted(frame, recipe, **settings) -> PairCoding:
    return find(recipe).coding(settings).fit(frame, types={}, drop=(), transform="blend")


def test_a_folder_becomes_pairs(folders):
    frame = read_pairs(folders / "in", None, find("denoise").restoration)
    assert frame.rows == 3
    coding = fitted(frame, "denoise", noise="raw:10", width=8)
    assert coding.arguments() == {"channels": 3}
    coded = coding.encode(frame)
    assert coded.each * 3 == len(coded.rows) == len(coded.raw) >= 20_000
    x, given = coded.rows.take(torch.arange(4))
    assert x.shape == given.shape == (4, 3, 64, 64)
    assert restore(coding.document(), coding.restoration) == coding
    earlier = {k: v for k, v in coding.document().items() if k not in ("white", "all_frames")}
    assert restore(earlier, coding.restoration).wanted().white == 65535  # white of all 16 bits
    assert find("upscale").coding({"scale": 2}).settings == {"scale": 2}


def test_masks_become_classes(folders):
    frame = read_pairs(folders / "in", folders / "masks", find("segment").restoration)
    coding = fitted(frame, "segment")
    assert coding.classes == (7, 200)
    assert coding.arguments() == {"channels": 3, "classes": 2}
    x, given = coding.encode(frame).rows.take(torch.arange(8))
    assert x.shape == (8, 1, 64, 64)
    assert given.shape == (8, 3, 64, 64)
    assert set(x.unique().tolist()) == {0.0, 1.0}


def test_colours_are_packed():
    page = np.array([[[1, 2, 3], [0, 0, 255]]], np.uint8)
    assert packed_colours(page).tolist() == [[0x1010203, 0x10000FF]]
    assert packed_colours(page[..., :1]).tolist() == [[1, 0]]
    black_and_blue = page[:, 1:] * np.array([[[1]], [[0]]], np.uint8)
    for mask in (page, black_and_blue, page[..., :1]):
        assert (colours_of(packed_colours(mask)) == mask).all()


def test_a_model_file_of_0_1_0_keeps_its_colours():
    document = {"recipe": "segment", "channels": 1, "scale": 1, "settings": {}}

    def classes(kept):
        coding = PairCoding.restored({**document, "classes": kept}, find("segment").restoration)
        return coding.classes

    assert classes([0, 0xFF0000]) == (RGB, RGB + 0xFF0000)
    assert classes([0, 255]) == (0, 255)


def test_pairs_that_do_not_belong_together_are_named(folders):
    (folders / "masks/a/0.png").rename(folders / "masks/a/9.png")
    with pytest.raises(DataError, match=r"E087.*2 differences.*a/0 has no target.*a/9 has no pic"):
        read_pairs(folders / "in", folders / "masks", find("segment").restoration)


def test_targets_of_another_size_are_named(folders):
    Image.new("L", (9, 9)).save(folders / "masks/a/1.png")
    frame = read_pairs(folders / "in", folders / "masks", find("segment").restoration)
    with pytest.raises(DataError, match=r"1 of 3.*a/1.\w+ 64x80 and 9x9"):
        fitted(frame, "segment")


@pytest.mark.parametrize(("colours", "told"), [(1, "one colour"), (200, "more than 64 colours")])
def test_masks_that_are_none_are_refused(folders, colours, told):
    for path in (folders / "masks/a").iterdir():
        with Image.open(path) as mask:
            width, height = mask.size
        page = (np.arange(width * height) % colours).reshape(height, width).astype(np.uint8)
        Image.fromarray(page).save(path)
    frame = read_pairs(folders / "in", folders / "masks", find("segment").restoration)
    with pytest.raises(DataError, match=told) as caught:
        fitted(frame, "segment")
    assert caught.value.code == "E088"


def test_masks_of_16_bits_are_refused_where_8_bits_lose_a_class(folders):
    paths = list((folders / "masks/a").iterdir())
    for path in paths:
        page = np.where(np.asarray(Image.open(path)) == 7, 0, 65535)
        Image.fromarray(page.astype(np.uint16)).save(path)
    assert fitted(
        read_pairs(folders / "in", folders / "masks", find("segment").restoration), "segment"
    ).classes
    Image.fromarray((page > 0).astype(np.uint16)).save(path)
    with pytest.raises(DataError, match="2 grey levels of 16 bits"):
        read_pairs(folders / "in", folders / "masks", find("segment").restoration)


def test_many_names_are_matched_in_no_time():
    names = [f"{i:05d}.png" for i in range(20_000)]
    listing = Listing(Path("."), [Path(name) for name in names], names, [""] * len(names))
    began = time.process_time()
    given, wanted = matched(listing, listing.chosen(range(len(names))[::-1]))
    assert time.process_time() - began < 2
    assert given.names == wanted.names


def test_a_half_that_cannot_be_read_is_an_error(folders):
    (folders / "masks/a/1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match="E083"):
        read_pairs(folders / "in", folders / "masks", find("segment").restoration)


def test_tables_are_refused(folders):
    with pytest.raises(DataError, match="E076"):
        fitted(Table(pa.table({"a": [1.0]})), "denoise")
    frame = read_pairs(folders / "in", None, find("segment").restoration)
    with pytest.raises(UsageError, match="--targets"):
        fitted(frame, "segment")
    with pytest.raises(UsageError, match="E247"):
        fitted(frame, "denoise").encode(Table(pa.table({"a": [1.0]})))
    with pytest.raises(UsageError, match="do not apply to images"):
        find("denoise").coding({}).fit(frame, types={"a": "real"}, drop=(), transform="blend")
