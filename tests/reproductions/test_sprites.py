"""Sprites: every factor changes what it should, and nothing else."""

from __future__ import annotations

import torch

from lowerbound.coding.rows import fingerprint, subset
from reproductions.disentanglement import World, mutual_information_gap
from reproductions.sprites import FACTORS, Sprites

SPRITES = Sprites()
MIDDLE = [2, 3, 7, 13, 20]  # a heart


def image(**changed):
    factors = dict(zip(SPRITES.names, MIDDLE, strict=True)) | changed
    row = torch.tensor([[factors[name] for name in SPRITES.names]])
    return SPRITES.take(SPRITES.index(row)).x[0, 0]


def centre(x):
    at = torch.arange(64.0)
    return (x.sum(0) @ at / x.sum()).item(), (x.sum(1) @ at / x.sum()).item()


def test_there_is_one_image_for_every_combination():
    assert len(SPRITES) == 3 * 6 * 40 * 32 * 32 == 737_280
    rows = torch.randint(len(SPRITES), (200,), generator=torch.Generator().manual_seed(0))
    factors = SPRITES.factors(rows)
    assert torch.equal(SPRITES.index(factors), rows)
    assert ((factors >= 0) & (factors < torch.tensor(SPRITES.sizes))).all()
    ends = SPRITES.factors(torch.tensor([0, 1, 32, 1024, 40960, 245760, 737279])).tolist()
    assert ends == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [2, 5, 39, 31, 31],
    ]


def test_images_are_binary_and_of_the_right_shape():
    x = SPRITES.take(torch.arange(0, len(SPRITES), 9973)).x
    assert x.shape[1:] == (1, 64, 64)
    assert x.dtype == torch.float32
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert (x.sum((1, 2, 3)) > 60).all()


def test_no_shape_leaves_the_image():
    for shape in range(3):
        for orientation in range(40):
            for x in (0, 31):
                for y in (0, 31):
                    found = image(shape=shape, scale=5, orientation=orientation, x=x, y=y)
                    rim = torch.cat([found[0], found[-1], found[:, 0], found[:, -1]])
                    assert not rim.any()


def test_x_moves_right_and_y_moves_down_and_neither_changes_the_shape():
    x, y = MIDDLE[3:]
    across, down = centre(image())
    for step in (-5, 1, 9):
        moved = image(x=x + step)
        assert torch.equal(moved, image().roll(step, 1))
        assert abs(centre(moved)[0] - across - step) < 1e-4
        moved = image(y=y + step)
        assert torch.equal(moved, image().roll(step, 0))
        assert abs(centre(moved)[1] - down - step) < 1e-4


def test_scale_multiplies_the_area_by_its_square_and_keeps_the_place():
    areas = torch.stack([image(scale=s).sum() for s in range(6)])
    scales = torch.linspace(0.5, 1.0, 6)
    torch.testing.assert_close(areas / areas[-1], scales**2, atol=0.03, rtol=0)
    for s in range(5):
        small, large = image(scale=s), image(scale=s + 1)
        assert (small <= large).float().mean() > 0.999  # the shapes are star-shaped
    square = [image(shape=0, scale=s, orientation=0).sum().item() for s in (0, 5)]
    assert square[0] == (2 * int(0.68 * 7) + 1) ** 2
    assert square[1] == (2 * int(0.68 * 14) + 1) ** 2


def test_orientation_turns_about_the_centre():
    whole = image(orientation=0, x=16, y=16)  # the centre is pixel (32, 32)
    quarter = image(orientation=10, x=16, y=16)
    turned = torch.zeros(64, 64)
    inner = whole[1:, 1:]
    turned[1:, 1:] = inner.rot90(-1)
    assert (turned - quarter).abs().sum() <= 4  # rounding at the rim
    areas = torch.stack([image(orientation=o).sum() for o in range(40)])
    assert (areas / areas.mean() - 1).abs().max() < 0.05


def test_the_forty_hearts_differ_and_a_square_has_ten_orientations():
    def distinct(shape):
        images = [image(shape=shape, scale=5, orientation=o).flatten() for o in range(40)]
        return len(torch.stack(images).unique(dim=0))

    assert distinct(2) == 40
    assert distinct(1) <= 20 + 4  # an ellipse is itself after half a turn, but for rounding
    assert distinct(0) <= 10 + 4


def test_shapes_differ():
    images = [image(shape=s) for s in range(3)]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert (images[a] - images[b]).abs().sum() > 20


def test_the_images_are_the_same_everywhere_and_always():
    index = torch.arange(0, len(SPRITES), 7919)
    first = fingerprint(subset(SPRITES, index))
    assert fingerprint(subset(Sprites(), index)) == first
    assert first == GOLDEN
    backwards = SPRITES.take(index.flip(0)).x
    assert torch.equal(backwards.flip(0), SPRITES.take(index).x)
    assert dict(zip(SPRITES.names, SPRITES.sizes, strict=True)) == FACTORS


GOLDEN = "2d915aae944e135f667201da8cdb8070"


def test_hand_made_codes_of_the_images_tell_their_factors():
    """The measures of disentanglement on codes that are known: area and centre of every image."""

    def represent(factors):
        x = SPRITES.take(SPRITES.index(torch.from_numpy(factors))).x[:, 0]
        area, at = x.sum((1, 2)), torch.arange(64.0)
        return torch.stack([area, x.sum(1) @ at / area, x.sum(2) @ at / area], 1).numpy()

    codes, factors = World(SPRITES.sizes, represent).draw(2000, seed=0)
    places = factors[:, 3:]
    told = mutual_information_gap(codes, places)
    assert told > 0.55  # 20 bins of 32 values, and 2,000 draws
    assert mutual_information_gap(codes, factors[:, 2:3]) < 0.1  # orientation is in none of them
