"""The laws that every family keeps, whatever its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Gumbel, StudentT

from core_parts import CASES, ELEMENTWISE, built, draw_numbers, masses, randomise, support
from lowerbound import noise
from lowerbound.nn.distributions.base import (
    Unchecked,
    elementwise,
    log_prob_cells,
    sample,
)
from lowerbound.nn.distributions.families import Categories
from lowerbound.nn.distributions.level_trees import TreeCategories
from lowerbound.nn.distributions.table_rows import LibraryCounts, Table
from lowerbound.recipes.cells import AllButLast, LibraryConditional

ROWS = 3
NOT_CODES = [name for name, case in CASES.items() if case.support != "codes"]
CONTINUOUS = [name for name, case in CASES.items() if case.support in ("real", "unit")]
DISCRETE = [name for name, case in CASES.items() if case.support in ("codes", "counts")]

every_family = pytest.mark.parametrize("name", CASES)


def drawn(name: str, n: int) -> torch.Tensor:
    """(n, ROWS, columns) draws of a family with random numbers."""
    _, family, numbers = built(name, ROWS)
    return sample(family(numbers), noise.generator("draws", name), torch.Size([n])).double()


@every_family
def test_the_method_sample_and_a_generator_give_the_same_draws(name):
    before = torch.get_rng_state()
    expected = drawn(name, 5)
    _, family, numbers = built(name, ROWS)
    d = family(numbers.requires_grad_())
    with noise.isolated("draws", name):
        found = d.sample(torch.Size([5]))
    assert torch.equal(found.double(), expected)
    source = noise.generator("draws", name)
    one, other = (sample(d, source) for _ in range(2))
    assert one.shape == other.shape == expected.shape[1:]
    assert not one.requires_grad
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_distributions_without_a_rule_draw_from_the_generator_by_their_own_method():
    before = torch.get_rng_state()
    for d in (Gumbel(torch.zeros(2), torch.ones(2)), StudentT(torch.full((3,), 5.0))):
        one, other = (sample(d, noise.generator("own"), torch.Size([4])) for _ in range(2))
        assert torch.equal(one, other)
        assert one.shape == (4, *d.batch_shape)
    with pytest.raises(NotImplementedError):
        sample(Unchecked(torch.Size([2]), validate_args=False), noise.generator("own"))
    assert torch.equal(torch.get_rng_state(), before)


@every_family
def test_the_density_has_total_mass_one(name):
    case, family, numbers = built(name, ROWS)
    _, mass = masses(case, family(numbers), ROWS)
    torch.testing.assert_close(mass.sum(0), torch.ones_like(mass[0]), rtol=0, atol=3e-5)


@every_family
def test_log_prob_is_the_sum_of_the_cells(name):
    case, family, numbers = built(name, ROWS)
    d, x = family(numbers), drawn(name, 1)[0]
    assert d.log_prob(x).shape == (ROWS,)
    torch.testing.assert_close(d.log_prob(x), log_prob_cells(d, x).sum(1))


@pytest.mark.parametrize("name", NOT_CODES)
def test_the_mean_is_that_of_the_density_and_of_the_samples(name):
    case, family, numbers = built(name, ROWS)
    d = family(numbers)
    x, mass = masses(case, d, ROWS)
    mean = (x[:, None, None] * mass).sum(0)
    torch.testing.assert_close(d.mean, mean, rtol=1e-4, atol=1e-4)
    spread = ((x[:, None, None] - mean) ** 2 * mass).sum(0).sqrt()
    n = 8000
    z = (drawn(name, n).mean(0) - mean) / spread * n**0.5
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("name", NOT_CODES)
def test_the_variance_of_the_samples_is_that_of_the_density(name):
    case, family, numbers = built(name, ROWS)
    x, mass = masses(case, family(numbers), ROWS)
    away = x[:, None, None] - (x[:, None, None] * mass).sum(0)
    variance = (away.square() * mass).sum(0)
    error = ((away**4 * mass).sum(0) - variance.square()).sqrt()
    n = 8000
    z = (drawn(name, n).var(0) - variance) / error * n**0.5
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_cdf_integrates_the_density_and_makes_the_samples_uniform(name):
    case, family, numbers = built(name, ROWS)
    d = family(numbers)
    x, mass = masses(case, d, ROWS)
    below = mass.cumsum(0) - mass / 2
    places = range(2000, 10001, 400)
    grid = x[list(places)][:, None, None].expand(-1, ROWS, case.columns)
    cells = d if "gaps" in name or name == "optimal sigma" else elementwise(d)
    torch.testing.assert_close(cells.cdf(grid), below[list(places)], rtol=0, atol=2e-4)
    uniform = cells.cdf(drawn(name, 2000)).flatten(1)
    p = [stats.kstest(column.numpy(), "uniform").pvalue for column in uniform.T]
    assert min(p) > 1e-4


@pytest.mark.parametrize("name", DISCRETE)
def test_the_cdf_adds_up_the_probabilities(name):
    case, family, numbers = built(name, ROWS)
    d = family(numbers)
    x, mass = masses(case, d, ROWS)
    cells = elementwise(d)
    grid = x[:60, None, None].expand(-1, ROWS, case.columns)
    below = mass.cumsum(0)[:60]
    torch.testing.assert_close(cells.cdf(grid), below, rtol=0, atol=1e-9)
    torch.testing.assert_close(cells.cdf(grid + 0.5), below, rtol=0, atol=1e-9)
    assert (cells.cdf(torch.full_like(grid[0], -1.0)) == 0).all()


@pytest.mark.parametrize("name", DISCRETE)
def test_values_are_drawn_as_often_as_they_are_probable(name):
    case, family, numbers = built(name, ROWS)
    _, mass = masses(case, family(numbers), ROWS)
    n = 4000
    draws = drawn(name, n)
    for row in range(ROWS):
        for column in range(case.columns):
            expected = n * mass[:, row, column].numpy()
            seen = np.bincount(draws[:, row, column].long().numpy(), minlength=len(expected))
            common = expected >= 5
            pairs = [(seen[common], expected[common])]
            if expected[~common].sum() > 1e-6:
                pairs.append(([seen[~common].sum()], [expected[~common].sum()]))
            got, want = (np.concatenate(side) for side in zip(*pairs, strict=True))
            assert np.sum((got - want) ** 2 / want) < stats.chi2.ppf(
                1 - 1e-5, max(1, len(got) - 1)
            )


@every_family
def test_no_value_is_more_probable_than_the_mode(name):
    case, family, numbers = built(name, ROWS)
    d = family(numbers)
    cells = d if "gaps" in name or name == "optimal sigma" else elementwise(d)
    mode = cells.mode.double()
    x, _ = support(case)
    grid = x[:, None, None].expand(-1, ROWS, case.columns)
    best = log_prob_cells(d, grid).amax(0)
    assert (log_prob_cells(d, mode) >= best - 1e-9).all()


@every_family
def test_every_number_and_every_parameter_gets_a_gradient(name):
    case, family, numbers = built(name, 40)
    numbers.requires_grad_()
    family.requires_grad_()
    with noise.isolated("gradient", name):
        x = family(numbers).sample().double()
    family(numbers).log_prob(x).sum().backward()
    assert numbers.grad.isfinite().all()
    used = numbers.grad.abs().sum(0)
    certain = 1 if name.startswith("categories") else 0  # a single class has nothing to learn
    assert (used == 0).sum() == certain
    for parameter in family.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@every_family
def test_float32_agrees_with_float64(name):
    case, family, numbers = built(name, 20)
    with noise.isolated("precision", name):
        x = family(numbers).sample().double()
    wide = log_prob_cells(family(numbers), x)
    family.float()
    narrow = log_prob_cells(family(numbers.float()), x.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-5)


@every_family
def test_every_feature_perturbs_the_density(name):
    case, family, numbers = built(name, 1)
    d = family(numbers)
    with noise.isolated("feature", name):
        x = d.sample().double()
    for column in range(case.columns):
        moved = x.clone()
        if case.support == "codes":
            moved[:, column] = 1 - moved[:, column].clamp_max(1)
        else:
            moved[:, column] += 1
        assert d.log_prob(moved) != d.log_prob(x)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_image_is_its_pixels(name):
    case = CASES[name]
    family = randomise(case.make(), name)
    flat = draw_numbers(case, family, 4, name)
    image = flat.view(4, -1, 1, 1).expand(-1, -1, 2, 3)
    with noise.isolated("image", name):
        x = family(image).sample()
    assert x.shape == (4, case.columns, 2, 3)
    pixels = sum(family(flat).log_prob(x[..., i, j]) for i in range(2) for j in range(3))
    torch.testing.assert_close(family(image).log_prob(x), pixels)


@pytest.mark.parametrize("member", ["poisson", "nb", "zinb"])
def test_a_library_that_stands_beside_the_numbers_is_that_among_them(member):
    torch.manual_seed(0)
    family, net = LibraryCounts(7, member), nn.Linear(5, 7 * (2 if member == "zinb" else 1))
    h = torch.randn(4, 6)
    x = torch.poisson(torch.full((4, 7), 2.0))
    among = family(torch.cat([net(h[:, :-1]), h[:, -1:]], 1)).log_prob(x)
    beside = LibraryConditional(AllButLast(net), family)(h).log_prob(x)
    torch.testing.assert_close(beside, among)


def test_a_tree_of_levels_is_a_density_with_its_reserved_code():
    family = TreeCategories(11, 0.1, rank=3)
    randomise(family, "tree", spread=1.0)
    numbers = torch.randn(4, family.numbers(1), generator=noise.generator("tree numbers")).double()
    cells = elementwise(family(numbers))
    p = torch.cat([cells.log_prob(torch.full((4, 1), float(k))) for k in range(11)], 1).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(4).double())
    torch.testing.assert_close(p[:, 0], torch.full((4,), 0.1).double())
    torch.testing.assert_close(cells.drawn_probs()[:, 1:] * 0.9, p[:, 1:])
    assert torch.equal(cells.mode[:, 0], p[:, 1:].argmax(1) + 1)
    torch.testing.assert_close(cells.cdf(torch.full((4, 1), 5.0))[:, 0], p[:, :6].sum(1))
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0]]).double()
    mixed = torch.stack([0.3 * p[0] + 0.7 * p[1], p[2]])
    assert torch.equal(cells.likeliest(weights)[:, 0], mixed[:, 1:].argmax(1) + 1.0)
    source = noise.generator("tree draws")
    drawn = sample(cells, source, torch.Size([4000]))
    shares = torch.stack([(drawn[:, :, 0] == k).double().mean(0) for k in range(11)], 1)
    assert not shares[:, 0].any()
    torch.testing.assert_close(shares[:, 1:], p[:, 1:] / 0.9, atol=0.035, rtol=0)
    assert torch.equal(cells.log_prob(torch.full((4, 1), 11.0)), torch.full((4, 1), -torch.inf))


def test_a_tree_starts_with_the_frequencies_of_the_levels():
    family = TreeCategories(30, 0.01)
    codes = torch.arange(1, 30).repeat_interleave(torch.arange(1, 30)).float()
    family.start_from(torch.cat([codes, torch.tensor([torch.nan])]))
    p = elementwise(family(torch.zeros(1, family.numbers(1)))).drawn_probs()[0, 1:]
    wanted = torch.arange(1, 30) + 0.5
    torch.testing.assert_close(p, wanted / wanted.sum())


def test_columns_with_and_without_a_tree_share_a_table():
    torch.manual_seed(0)
    family = Table(
        ["categorical", "real", "categorical", "categorical"],
        [40, 1, 3, 50],
        reserved=[0.1, 0, 0.1, 0.1],
        tree_above=30,
    )
    randomise(family, "table of trees", spread=0.1)
    x = torch.tensor([[39.0, 0.5, 2.0, 49.0], [torch.nan, 1.0, torch.nan, 1.0]]).double()
    numbers = torch.randn(2, family.numbers(4)).double()
    whole = family(numbers)
    cells = whole.log_prob_cells(x)
    assert cells[1, [0, 2]].tolist() == [0.0, 0.0]
    for column, size in ((0, 40), (2, 3), (3, 50)):
        each = x[:1].repeat(size, 1)
        each[:, column] = torch.arange(size)
        p = family(numbers[:1].expand(size, -1)).log_prob_cells(each)[:, column].exp()
        torch.testing.assert_close(p.sum(), torch.ones(()).double())
    assert sample(whole, noise.generator("table of trees")).shape == (2, 4)


@pytest.mark.parametrize("sizes", [[4], [4, 3]])
def test_a_reserved_code_has_its_probability_and_is_never_drawn(sizes):
    torch.manual_seed(0)
    family = Categories(sizes, [0.1, 0.0][: len(sizes)])
    numbers = torch.randn(5, sum(sizes))
    before = numbers.clone()
    cells = elementwise(family(numbers))
    assert torch.equal(numbers, before)
    codes = torch.arange(max(sizes)).float()
    each = torch.stack([cells.log_prob(codes[k].expand(5, len(sizes))) for k in range(len(codes))])
    torch.testing.assert_close(each.exp().sum(0), torch.ones(5, len(sizes)))
    assert torch.equal(each, cells.logits.movedim(-1, 0))
    torch.testing.assert_close(each[0, :, 0].exp(), torch.full((5,), 0.1))
    shares = 0.9 * numbers[:, 1:4].softmax(1)
    torch.testing.assert_close(each[1:4, :, 0].exp().T, shares)
    drawn = cells.sample(torch.Size([200]))
    assert (drawn[..., 0] > 0).all()
