"""Grey levels: masses that sum to 1 at any scale, channels that see each other, honest means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import ContinuousBernoulli, Independent

from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import elementwise, log_prob_cells, tempered
from lowerbound.nn.distributions.grey_levels import (
    ContinuousBernoulliLogits,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
)
from lowerbound.nn.distributions.pixels import ContinuousBits, LogisticMixture, Logistics
from lowerbound.nn.distributions.table_rows import WithMissing
from lowerbound.tasks.metrics import bits_per_dimension

CODES = torch.arange(256, dtype=torch.float64)
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def numbers(family, rows, channels, key, spread=0.5, space=()):
    shape = (rows, family.numbers(channels), *space)
    return spread * torch.randn(shape, generator=noise.generator(key), dtype=torch.float64)


def pmf(loc, scale, levels):
    """The masses by plain differences of the cdf: right where nothing cancels."""
    edges = torch.arange(levels - 1, dtype=torch.float64) + 0.5
    below = ((edges - loc[..., None]) / scale[..., None]).sigmoid()
    ends = below.new_zeros(below[..., :1].shape)
    return torch.cat([below, ends + 1], -1) - torch.cat([ends, below], -1)


@both_precisions
def test_the_256_masses_sum_to_1_at_any_location_and_scale(dtype):
    locs = torch.tensor([-1e4, -3.0, 0.0, 0.5, 17.3, 127.5, 254.6, 255.0, 300.0, 1e5], dtype=dtype)
    scales = torch.tensor([1e-6, 1e-3, 0.1, 1.0, 30.0, 1e3, 1e7], dtype=dtype)
    loc, scale = torch.cartesian_prod(locs, scales).unbind(1)
    d = DiscretizedLogistic(loc, scale)
    log_p = d.log_prob(CODES.to(dtype)[:, None])
    assert log_p.dtype == dtype
    assert log_p.isfinite().all()
    total = log_p.double().exp().sum(0)
    # A code's edge is known to 1e-7 of its size: what one bin loses, its neighbour must have.
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-6)


@both_precisions
def test_a_mass_is_the_difference_of_the_cdf(dtype):
    loc = torch.tensor([-40.0, 3.2, 100.0, 254.9, 280.0], dtype=dtype)
    scale = torch.tensor([20.0, 0.3, 4.0, 15.0, 60.0], dtype=dtype)
    found = DiscretizedLogistic(loc, scale).log_prob(CODES.to(dtype)[:, None]).double().exp()
    wanted = pmf(loc.double(), scale.double(), 256).T
    torch.testing.assert_close(
        found, wanted, rtol=1e-5 if dtype is torch.float32 else 1e-9, atol=1e-9
    )


def test_far_codes_cost_their_distance_and_have_a_gradient():
    """Where the two sigmoids are equal to the last digit, their difference is not lost."""
    loc = torch.full((4,), 10.0, requires_grad=True)
    scale = torch.tensor([0.05, 0.1, 1.0, 5.0], requires_grad=True)
    log_p = DiscretizedLogistic(loc, scale).log_prob(torch.full((4,), 200.0))
    wanted = -(199.5 - loc) / scale + (-torch.expm1(-1 / scale)).log()
    torch.testing.assert_close(log_p, wanted)
    slopes = torch.autograd.grad(log_p.sum(), [loc, scale])
    torch.testing.assert_close(slopes[0], 1 / scale)
    assert all(s.isfinite().all() for s in slopes)


def test_other_numbers_of_levels_close_their_own_ends():
    for levels in (2, 5, 32):
        d = DiscretizedLogistic(torch.tensor([1.2]).double(), torch.tensor([2.0]).double(), levels)
        codes = torch.arange(levels, dtype=torch.float64)
        torch.testing.assert_close(d.log_prob(codes).exp(), pmf(d.loc, d.scale, levels)[0])
        wide = DiscretizedLogistic(d.loc, 40 * d.scale, levels)
        # The rarest code has a mass of 0.003: that it is not among so many draws is out of reach.
        assert wide.sample((40_000,)).unique().tolist() == codes.tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_codes_are_drawn_as_often_as_they_are_probable_at_a_temperature(temperature):
    loc, scale = torch.tensor([2.0, 128.3, 251.0]).double(), torch.tensor([3.0, 2.0, 9.0]).double()
    d = tempered(Independent(DiscretizedLogistic(loc, scale), 0), temperature)
    with noise.isolated("codes"):
        draws = d.sample((4000,)).long().numpy()
    for i in range(3):
        expected = 4000 * pmf(loc[i], scale[i] * temperature, 256).numpy()  # narrower below 1
        seen = np.bincount(draws[:, i], minlength=256)
        common = expected >= 5
        got = [*seen[common], seen[~common].sum()]
        want = [*expected[common], expected[~common].sum()]
        assert stats.chisquare(got, np.array(want) * 4000 / np.sum(want)).pvalue > 1e-4


def test_mean_mode_and_cdf_by_enumeration():
    generator = noise.generator("grid")
    loc = torch.cat([torch.rand(40, generator=generator) * 300 - 20, torch.tensor([-9.0, 999.0])])
    scale = torch.cat([torch.logspace(-2, 3, 40), torch.tensor([0.2, 90.0])])
    d = DiscretizedLogistic(loc.double(), scale.double())
    mass = pmf(d.loc, d.scale, 256)
    torch.testing.assert_close(d.mean, (mass * CODES).sum(1), rtol=0, atol=2e-5)
    best = d.log_prob(d.mode).exp()
    torch.testing.assert_close(best, mass.amax(1))
    grid = CODES[:, None]
    torch.testing.assert_close(d.cdf(grid), mass.cumsum(1).T)
    torch.testing.assert_close(d.cdf(grid + 0.7), d.cdf(grid))
    assert (d.cdf(torch.tensor(-1.0)) == 0).all()


def tiny_mixture(rows=3, channels=3, components=2, levels=4):
    family = LogisticMixture(channels, components, levels)
    return elementwise(family(numbers(family, rows, channels, "mixture", 1.2)))


def pixels(levels, channels):
    axis = torch.arange(levels, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * channels).view(-1, channels)


def test_the_masses_of_a_coloured_pixel_sum_to_1_and_match_the_papers_formula():
    d = tiny_mixture()
    x = pixels(4, 3)
    log_p = d.log_prob(x[:, None]).sum(2)
    assert log_p.shape == (64, 3)
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(3).double())
    half = 1.5
    for row in range(3):
        for i in (0, 7, 37, 63):
            total = 0.0
            for k in range(2):
                a = d.coupling[row, k]
                unit = (x[i] - half) / half  # the paper's pixels lie in [-1, 1]
                shift = [0 * a[0], a[0] * unit[0], a[1] * unit[0] + a[2] * unit[1]]
                loc = d.loc[row, k] + half * torch.stack(shift)
                mass = pmf(loc, d.scale[row, k], 4)
                here = [mass[c, int(x[i, c])] for c in range(3)]
                total += d.log_weights[row, k].exp() * here[0] * here[1] * here[2]
            torch.testing.assert_close(log_p[i, row].exp(), total)


def test_a_cell_is_its_channel_given_the_channels_before():
    d = tiny_mixture()
    x = pixels(4, 3)
    cells = d.log_prob(x[:, None]).exp().view(4, 4, 4, 3, 3)  # r, g, b, row, channel
    for channel, axis in enumerate(range(3)):
        total = cells[..., channel].sum(axis)
        torch.testing.assert_close(total, torch.ones_like(total))
    below = d.cdf(x[:, None]).view(4, 4, 4, 3, 3)
    for channel in range(3):
        torch.testing.assert_close(below[..., channel], cells[..., channel].cumsum(channel))


def test_coloured_pixels_are_drawn_as_often_as_they_are_probable():
    d = tiny_mixture()
    with noise.isolated("pixels"):
        draws = d.sample((4000,))
    assert draws.shape == (4000, 3, 3)
    code = (draws * torch.tensor([16.0, 4.0, 1.0])).sum(2).long()
    mass = d.log_prob(pixels(4, 3)[:, None]).sum(2).exp()
    for row in range(3):
        seen = np.bincount(code[:, row], minlength=64)
        expected = (4000 * mass[:, row]).numpy()
        common = expected >= 5
        got, want = (
            [*seen[common], seen[~common].sum()],
            [*expected[common], expected[~common].sum()],
        )
        assert stats.chisquare(got, np.array(want) * 4000 / np.sum(want)).pvalue > 1e-4


def test_the_mean_of_a_mixture_is_exact_for_grey_and_near_for_colours():
    grey = tiny_mixture(channels=1, components=3, levels=256)
    mass = grey.log_prob(CODES[:, None, None]).exp()
    mean = (mass * CODES[:, None, None]).sum(0)
    torch.testing.assert_close(grey.mean, mean, rtol=0, atol=2e-5)
    best = grey.log_prob(grey.mode)
    torch.testing.assert_close(best.exp(), mass.amax(0))
    scale = torch.full((1, 2, 3), 6.0).double()
    loc = torch.tensor([[[100.0, 120.0, 90.0], [150.0, 110.0, 130.0]]]).double()
    coupling = torch.tensor([[[0.7, -0.3, 0.5], [0.1, 0.6, -0.8]]]).double()
    colour = DiscretizedLogisticMixture(torch.tensor([[0.3, -0.2]]).double(), loc, scale, coupling)
    with noise.isolated("colours"):
        draws = colour.sample((20_000,))
    error = draws.std(0) / 20_000**0.5
    assert ((draws.mean(0) - colour.mean) / error).abs().max() < 4.5


def test_the_mode_of_a_coloured_pixel_is_the_likeliest_channel_by_channel():
    d = tiny_mixture(rows=6)
    cells = d.log_prob(pixels(4, 3)[:, None]).view(4, 4, 4, 6, 3)
    mode = d.mode.long()
    for row in range(6):
        r, g, b = mode[row].tolist()
        assert cells[:, 0, 0, row, 0].argmax() == r
        assert cells[r, :, 0, row, 1].argmax() == g
        assert cells[r, g, :, row, 2].argmax() == b


def test_a_temperature_narrows_a_mixtures_components_and_keeps_their_weights():
    d = tiny_mixture(channels=1, levels=256)
    cool = tempered(d, 0.25)
    torch.testing.assert_close(cool.scale, d.scale / 4)
    torch.testing.assert_close(cool.log_weights, d.log_weights)
    with noise.isolated("cool"):
        draws = cool.sample((8000,))[..., 0]
    torch.testing.assert_close(
        cool.log_prob(CODES[:, None, None]).exp().sum(0).squeeze(), torch.ones(3).double()
    )
    error = draws.std(0) / 8000**0.5
    assert ((draws.mean(0) - cool.mean[:, 0]) / error).abs().max() < 4.5


@both_precisions
def test_images_of_codes_are_their_pixels(dtype):
    for family, channels in [
        (Logistics(), 3),
        (LogisticMixture(3, 4), 3),
        (LogisticMixture(1), 1),
    ]:
        one = numbers(family, 2, channels, "one").to(dtype)
        image = one[..., None, None].expand(-1, -1, 3, 2)
        with noise.isolated("image"):
            x = family(image).sample()
        assert x.shape == (2, channels, 3, 2)
        assert x.dtype == dtype
        assert (x == x.round()).all()
        assert x.min() >= 0
        assert x.max() <= 255
        log_p = family(image).log_prob(x)
        assert log_p.shape == (2,)
        each = sum(family(one).log_prob(x[..., i, j]) for i in range(3) for j in range(2))
        torch.testing.assert_close(log_p, each)
        torch.testing.assert_close(log_prob_cells(family(image), x).flatten(1).sum(1), log_p)
        assert family(image).mean.shape == family(image).mode.shape == x.shape


def test_float32_log_probabilities_of_a_mixture_are_those_of_float64():
    family = LogisticMixture(3, 10)
    wide = numbers(family, 50, 3, "wide", 1.5)
    with noise.isolated("wide"):
        x = family(wide).sample()
    narrow = log_prob_cells(family(wide.float()), x.float())
    torch.testing.assert_close(
        narrow.double(), log_prob_cells(family(wide), x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("value", [-1e4, -40.0, 40.0, 1e4])
def test_extreme_numbers_of_a_network_keep_everything_finite(value):
    for family, channels in [(Logistics(), 3), (LogisticMixture(3, 4), 3), (ContinuousBits(), 3)]:
        raw = torch.full((2, family.numbers(channels)), value, requires_grad=True)
        x = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
        x = x if isinstance(family, ContinuousBits) else 255 * x
        log_p = family(raw).log_prob(x)
        log_p.sum().backward()
        assert log_p.isfinite().all()
        assert raw.grad.isfinite().all()


def test_every_number_of_a_mixture_gets_a_gradient():
    family = LogisticMixture(3, 4)
    raw = numbers(family, 30, 3, "gradient").requires_grad_()
    with noise.isolated("gradient"):
        x = family(raw).sample()
    family(raw).log_prob(x).sum().backward()
    assert raw.grad.isfinite().all()
    assert raw.grad.any(0).all()


def test_missing_pixels_of_grey_images_cost_nothing():
    family = LogisticMixture(1, 3)
    raw = numbers(family, 2, 1, "gaps", space=(2, 2))
    x = torch.tensor([[[[3.0, torch.nan], [200.0, 255.0]]], [[[torch.nan] * 2] * 2]]).double()
    log_p = WithMissing(family)(raw).log_prob(x)
    cells = log_prob_cells(family(raw), x.nan_to_num(0.0))[0, 0]
    torch.testing.assert_close(log_p[0], cells[0, 0] + cells[1].sum())
    assert log_p[1] == 0


LOGITS = torch.tensor([-200.0, -20.0, -2.0, -0.31, -0.29, -1e-3, 0.0, 1e-5, 0.3, 1.7, 15.0, 90.0])


def test_the_continuous_bernoulli_integrates_to_1_with_its_moments():
    d = ContinuousBernoulliLogits(LOGITS.double())
    n = 200_000
    x = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    mass = d.log_prob(x).exp() / n
    torch.testing.assert_close(mass.sum(0), torch.ones(12).double(), rtol=0, atol=1e-6)
    mean = (mass * x).sum(0)
    torch.testing.assert_close(d.mean, mean, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(d.variance, (mass * (x - mean) ** 2).sum(0), rtol=1e-4, atol=1e-9)
    below = mass.cumsum(0)[n // 3 - 1]
    torch.testing.assert_close(d.cdf(x[n // 3 - 1] + 0.5 / n), below, rtol=0, atol=1e-6)
    u = torch.tensor([[0.05], [0.5], [0.99]]).double()
    torch.testing.assert_close(d.cdf(d.icdf(u)), u.expand(-1, 12))


def test_the_continuous_bernoulli_is_torchs_where_torch_is_right():
    logits = torch.tensor([-9.0, -3.0, -0.5, 0.4, 2.0, 8.0]).double()
    ours, theirs = ContinuousBernoulliLogits(logits), ContinuousBernoulli(logits=logits)
    x = torch.linspace(0, 1, 7).double()[:, None]
    for name in ("log_prob", "cdf", "icdf"):
        torch.testing.assert_close(getattr(ours, name)(x), getattr(theirs, name)(x))
    for name in ("mean", "variance"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())


def test_the_continuous_bernoulli_keeps_its_digits_in_float32_near_a_half():
    narrow = torch.linspace(-0.4, 0.4, 4001)
    ours, exact = ContinuousBernoulliLogits(narrow), ContinuousBernoulliLogits(narrow.double())
    theirs = ContinuousBernoulli(logits=narrow)
    x = torch.tensor(0.8)
    worst = [
        (d.log_prob(x).double() - exact.log_prob(x.double())).abs().max() for d in (ours, theirs)
    ]
    assert worst[0] < 4e-7 < 5e-6 < worst[1]  # torch's is why there is a class of our own
    assert (ours.mean.double() - exact.mean).abs().max() < 2e-6
    raw = torch.tensor([-0.3, -0.1, 0.0, 0.1, 0.3], requires_grad=True)
    ContinuousBernoulliLogits(raw).log_prob(x).sum().backward()
    torch.testing.assert_close(raw.grad, x - ContinuousBernoulliLogits(raw.detach()).mean)


def test_bits_per_dimension():
    """A uniform guess among 256 codes costs 8 bits."""
    nats = torch.tensor([784 * math.log(256)]).double()
    torch.testing.assert_close(bits_per_dimension(nats, 784), torch.tensor([8.0]).double())
    assert bits_per_dimension(3 * math.log(2), 6) == pytest.approx(0.5)
    wide = Logistics()(torch.tensor([[0.0, 9.0]]).double()).log_prob(torch.tensor([[100.0]]))
    assert bits_per_dimension(-wide, 1) > 8
    with pytest.raises(UsageError, match="dimensions"):
        bits_per_dimension(1.0, 0)
