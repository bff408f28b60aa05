"""Models of one picture given another, and the tiles that pictures of any size are made in."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import normal
from lowerbound.nn.distributions.families import Conditional, FixedSigma
from lowerbound.nn.latents.posteriors import Residual
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Concat
from lowerbound.nn.networks.unet import UNet
from lowerbound.nn.trace import Trace, from_prior
from lowerbound.tasks.restore import (
    ROWS,
    PositionNoise,
    accuracy,
    commonest,
    decibels,
    filtered_decibels,
    restore,
    restored_rows,
)
from recipe_parts import RECIPES, recipe


def rough(name: str, **arguments: object) -> LatentModel:
    """A small model whose weights are so large that every pixel matters."""
    small = {"channels": 1, "width": 4, "depth": 1, **arguments}
    with noise.isolated("rough", name):
        model = recipes.find(name).make(small)
        for weight in model.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, 0.0, 0.1)
    return model.eval()


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=noise.generator("picture", shape))


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (16, 16), (33, 47), (130, 20)])
@pytest.mark.parametrize(("name", "scale"), [("denoise", 1), ("upscale", 3)])
def test_pictures_of_any_size_come_out_in_theirs(name, scale, size):
    model = rough(name, **({"scale": scale} if scale > 1 else {}))
    found = restore(model, picture(1, *size), draws=2, scale=scale, keep=2, tile=32, border=16)
    wanted = (1, scale * size[0], scale * size[1])
    assert found.mean.shape == found.spread.shape == wanted
    assert found.draws.shape == (2, *wanted)
    assert np.isfinite(found.mean).all()
    assert (found.spread > 0).all()


def test_tiles_fit_together():
    model, x = rough("denoise"), picture(1, 100, 140)
    whole = restore(model, x, draws=3, keep=3, tile=256, border=64)
    tiled = restore(model, x, draws=3, keep=3, tile=32, border=64)
    for one, other in zip(whole, tiled, strict=True):
        assert np.abs(one - other).max() < 1e-3 * np.abs(one).max()


def test_the_noise_of_a_place_does_not_depend_on_the_tile():
    shape, like = torch.Size([2, 3, 8, 8]), torch.zeros(())
    one = PositionNoise(0, 0, 0, 32)("z", shape, like)
    moved = PositionNoise(0, 16, -8, 32)("z", shape, like)
    torch.testing.assert_close(one[:, :, 4:, :6], moved[:, :, :4, 2:])
    assert not torch.equal(one, PositionNoise(1, 0, 0, 32)("z", shape, like))
    assert not torch.equal(one, PositionNoise(0, 0, 0, 32)("other", shape, like))
    assert not torch.equal(one[0], one[1])
    many = PositionNoise(0, 0, 0, 512)("z", torch.Size([4, 4, 128, 128]), like)
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_a_seed_gives_the_same_draws_and_another_gives_others():
    model, x = rough("denoise"), picture(1, 20, 20)
    first, again, other = (restore(model, x, seed=s, keep=1).draws for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


class _Field(nn.Module):
    """(context, batch) -> the picture that is given."""

    def forward(self, context: torch.Tensor, batch: int) -> torch.Tensor:
        return context


class _Sum(nn.Module):
    def forward(self, hz: torch.Tensor) -> torch.Tensor:
        return hz.sum(1, keepdim=True)


class _Prior(nn.Module):
    """p(z | h) = N(h / 2, 0.6^2) for every pixel."""

    def forward(self, h: torch.Tensor) -> torch.distributions.Distribution:
        return normal(h / 2, torch.full_like(h, 0.6))


def test_mean_and_spread_are_those_of_the_exact_posterior_predictive():
    """x | z, y = N(y + z, 0.3^2), z | y = N(y / 2, 0.6^2): x | y = N(1.5 y, 0.67^2)."""
    level = Level("z", _Prior(), Residual(nn.Conv2d(2, 2, 1)), Concat(_Sum()))
    model = LatentModel(
        nn.Identity(), [level], Conditional(nn.Identity(), FixedSigma(0.3)), _Field()
    )
    y = picture(1, 40, 40)
    found = restore(model, y, draws=400, multiple=1, tile=16, border=0)
    error = (found.mean - 1.5 * y.numpy()) / (0.6 / 20)
    assert abs(error.mean()) < 0.1
    assert abs(error.std() - 1) < 0.1
    assert abs(found.spread.mean() - np.hypot(0.6, 0.3)) < 0.01


def test_classes_have_probabilities_that_sum_to_one():
    found = restore(rough("segment", classes=3), picture(1, 21, 30), draws=2, keep=2)
    assert found.mean.shape == (3, 21, 30)
    np.testing.assert_allclose(found.mean.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(found.draws.sum(1), 1, atol=1e-5)


def test_training_begins_with_the_picture_as_it_is_given():
    y = picture(2, 1, 32, 32)
    model = recipe("denoise element").eval()
    px = model(None, Trace(from_prior(noise.generator("z")), 2), y)
    torch.testing.assert_close(px.mean, y)
    assert decibels(model, Dense(y, y))[1] > 100


def test_what_is_given_is_looked_at_once_for_all_draws(monkeypatch):
    model, seen = rough("denoise"), []
    forward = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    model(None, Trace(from_prior(noise.generator("z")), 2, 5), picture(2, 1, 16, 16))
    assert seen == [2]


def test_a_net_of_convolutions_does_not_know_where_it_is():
    net = UNet(1, [4, 8, 16], 1).double()
    x = picture(1, 1, 96, 96).double()
    inside, moved = net(x)[..., 40:48, 40:48], net(x.roll((8, 8), (2, 3)))[..., 48:56, 48:56]
    torch.testing.assert_close(inside, moved)


def test_what_is_measured_on_pairs():
    x = picture(6, 1, 16, 16)
    before, after = decibels(recipe("denoise element"), Dense(x, x + 0.1))
    assert before == pytest.approx(20, abs=0.01)
    assert after == pytest.approx(20, abs=0.1)
    classes, y = RECIPES["segment"].data(6)
    some = classes.clone()
    some[:, :, :8] = torch.nan  # what has no label does not count
    share = accuracy(recipe("segment"), Dense(some, y))
    assert 0 <= share <= 1
    assert share == pytest.approx(accuracy(recipe("segment"), Dense(some, y)))
    some[:, :, 8:] = 0
    some[:, :, 8:10] = 1
    assert commonest(Dense(some, y)) == pytest.approx(6 / 8)
    assert commonest(Dense(some * torch.nan, y)) == 1


def test_a_classical_filter_is_measured_at_its_best():
    rows = torch.arange(32.0) / 64
    x = (rows[:, None] + rows).expand(20, 1, 32, 32).contiguous()
    source = noise.generator("classical")
    noisy = x + 0.1 * torch.randn(x.shape, generator=source)
    assert filtered_decibels(Dense(x, noisy)) > 28  # from 20 dB
    salted = x.masked_fill(torch.rand(x.shape, generator=source) < 0.1, 1.0)
    assert filtered_decibels(Dense(x, salted)) > 33  # by a median
    holed = torch.cat([x, torch.zeros_like(x)], 1)
    holed[:, 0, 10:14, 10:14], holed[:, 1, 10:14, 10:14] = 0.0, 1.0
    assert filtered_decibels(Dense(x, holed)) > 30


def test_what_is_measured_counts_every_pixel_alike_however_many_rows_there_are():
    x = picture(ROWS + 1, 1, 16, 16)
    y = x + 0.01
    y[ROWS] += 0.49  # one row alone in the last tile
    wanted = -10 * (x - y).double().square().mean().log10().item()
    before, after = decibels(recipe("denoise element"), Dense(x, y))
    assert before == pytest.approx(wanted, abs=0.01)
    assert after == pytest.approx(wanted, abs=0.1)
    model = recipe("segment")
    given = RECIPES["segment"].data(1)[1].expand(ROWS + 1, -1, -1, -1)
    blank = torch.zeros_like(given[:, :1])
    found = torch.cat([mean for mean, _ in restored_rows(model, Dense(blank, given))])
    right = found.argmax(1, keepdim=True).float()
    right[ROWS] = torch.nan
    right[ROWS, 0, 0, 0] = -1  # the one pixel of its row that has a label, and a wrong one
    share = accuracy(model, Dense(right, given))
    assert share == pytest.approx(1 - 1 / (ROWS * blank[0].numel() + 1))


@pytest.mark.parametrize("name", ["denoise optimal", "segment", "inpaint", "upscale"])
def test_nothing_given_is_refused(name):
    with pytest.raises(UsageError, match="E247"):
        recipe(name)(None, Trace(from_prior(noise.generator("z")), 2))


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("upscale", {"scale": 5}, "scale must be 2, 3 or 4"),
        ("segment", {"classes": 1}, "classes must be at least 2"),
        ("denoise", {"noise": "gausian:3"}, "got 'gausian:3'"),
        ("denoise", {"noise": "gaussian:9-3"}, "noise must be a kind"),
        ("denoise", {"noise": "poisson:0"}, "noise must be a kind"),
        ("denoise", {"levels": 9}, "levels must be from 1 to 4"),
        ("denoise", {"width": 0}, "width must be at least 1"),
        ("denoise", {"likelihood": "logistic"}, "got 'logistic'"),
        ("upscale", {"likelihood": "softmax"}, "got 'softmax'"),
        ("inpaint", {"likelihood": "bits"}, "got 'bits'"),
    ],
)
def test_impossible_arguments_are_refused(name, arguments, told):
    with pytest.raises(UsageError, match=told):
        recipes.find(name).make(arguments)


MEMORY = """
import json, sys, torch
from pathlib import Path
from lowerbound import recipes
from lowerbound.tasks.restore import restore
torch.set_num_threads(1)
model = recipes.find("denoise").make(json.loads(sys.argv[1]))
for size in json.loads(sys.argv[2]):
    found = restore(model, torch.rand(1, *size), draws=2, keep=1)
    assert found.mean.shape == (1, *size)
    # Not getrusage: that begins with what the parent had when it forked.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    print(int(peak.split()[1]) // 1024)
"""


def peaks(settings, *sizes):
    """Return the most memory that a process has held, in MB, after pictures of growing sizes."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, settings, json.dumps(sizes)],
        check=True,
        capture_output=True,
        text=True,
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.nightly
def test_twelve_megapixels_take_less_than_two_gigabytes():
    (peak,) = peaks("{}", (3000, 4000))
    assert peak < 2000


def test_memory_does_not_grow_with_the_picture():
    used = peaks('{"width": 8}', (256, 256), (256, 2560))
    result = 4 * 256 * 2560 * 6 / 2**20  # what is given and what is made of it
    assert used[1] - used[0] < result + 60
