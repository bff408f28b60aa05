"""A Gaussian conditioned on one column after another, against the formula for a subset."""

import pytest
import torch

from lowerbound.nn.distributions.gaussian_conditionals import GaussianConditionals
from lowerbound.noise import generator

D = 5  # three numbers, and two codes of column 3


@pytest.fixture
def gaussian():
    source = generator("gaussian conditionals")
    root = torch.randn(D, D, generator=source, dtype=torch.float64)
    made = GaussianConditionals([0, 1, 2], [(3, 1), (3, 2)])
    made.mean.copy_(torch.randn(D, generator=source, dtype=torch.float64))
    made.covariance.copy_(root @ root.T + 0.1 * torch.eye(D))
    return made


def by_formula(gaussian, features, seen, number):
    """Mean and variance of a number given the seen features, by one solve."""
    mean, cov = gaussian.mean, gaussian.covariance
    own = cov[number, seen] @ torch.linalg.inv(cov[seen][:, seen])
    deviation = features[seen] - mean[seen]
    return mean[number] + own @ deviation, cov[number, number] - own @ cov[seen, number]


@pytest.mark.parametrize("columns", [[], [0], [3], [2, 3], [3, 0]], ids=str)
def test_any_subset_in_any_order(gaussian, columns):
    rows = torch.randn(4, 3, generator=generator("rows"), dtype=torch.float64)
    codes = torch.tensor([0, 1, 2, 1])
    now = gaussian.start(4)
    for column in columns:
        values = codes if column == 3 else rows[:, column]
        now = gaussian.see(now, column, values, torch.ones(4, dtype=torch.bool))
    assert len(now.covariance) == 1  # the rows share it
    mean, deviation = gaussian.of(now, 1)
    features = torch.cat([rows, (codes[:, None] == torch.tensor([1, 2])).double()], 1)
    seen = [i for i in (0, 1, 2) if i in columns] + [3, 4] * (3 in columns)
    for i in range(4):
        expected = by_formula(gaussian, features[i], seen, 1)
        assert mean[i].item() == pytest.approx(expected[0].item(), abs=1e-9)
        assert deviation[i].item() ** 2 == pytest.approx(expected[1].item(), abs=1e-9)


def test_rows_may_see_different_columns(gaussian):
    rows = torch.randn(2, 3, generator=generator("rows"), dtype=torch.float64)
    now = gaussian.start(2)
    for column, seen in ((0, [True, False]), (2, [True, True])):
        now = gaussian.see(now, column, rows[:, column], torch.tensor(seen))
    mean, deviation = gaussian.of(now, 1)
    for i, seen in enumerate(([0, 2], [2])):
        expected = by_formula(gaussian, rows[i], seen, 1)
        assert mean[i].item() == pytest.approx(expected[0].item(), abs=1e-9)
        assert deviation[i].item() ** 2 == pytest.approx(expected[1].item(), abs=1e-9)


def test_nothing_is_conditioned_on_a_passive_column():
    made = GaussianConditionals([0, 1], [], passive=[0])
    made.covariance.copy_(torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    seen = torch.ones(1, dtype=torch.bool)
    now = made.see(made.start(1), 0, torch.tensor([3.0]), seen)
    assert made.of(now, 1)[0].item() == 0.0
    now = made.see(made.start(1), 1, torch.tensor([2.0]), seen)
    assert made.of(now, 0)[0].item() == pytest.approx(1.8)
