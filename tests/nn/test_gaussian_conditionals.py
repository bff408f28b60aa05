"""A Gaussian given some of its columns, against the formula for a subset."""

import pytest
import torch

from lowerbound.nn.distributions.gaussian_conditionals import GaussianConditionals
from lowerbound.noise import generator

D = 5  # three numbers, and two codes of column 3
ROWS, COLUMNS = 12, 4


def made(source, passive=()):
    root = torch.randn(D, D, generator=source, dtype=torch.float64)
    gaussian = GaussianConditionals([0, 1, 2], [(3, 1), (3, 2)], passive)
    gaussian.mean.copy_(torch.randn(D, generator=source, dtype=torch.float64))
    gaussian.covariance.copy_(root @ root.T + 0.1 * torch.eye(D))
    return gaussian


def by_formula(gaussian, features, seen, number):
    """Mean and standard deviation of a number given the seen features, by one solve."""
    mean, cov = gaussian.mean, gaussian.covariance
    own = cov[number, seen] @ torch.linalg.inv(cov[seen][:, seen])
    variance = cov[number, number] - own @ cov[seen, number]
    return (mean[number] + own @ (features[seen] - mean[seen])).item(), variance.sqrt().item()


@pytest.mark.parametrize("rows", [ROWS, 1])
@pytest.mark.parametrize("ahead", [0.0, 0.3], ids=["none first", "some first"])
@pytest.mark.parametrize("gaps", [0.0, 0.4], ids=["whole", "gaps"])
@pytest.mark.parametrize("passive", [[], [1]], ids=["all active", "one passive"])
def test_given_the_columns_before(rows, ahead, gaps, passive):
    source = generator("given earlier", int(10 * gaps), int(10 * ahead), len(passive))
    gaussian = made(source, passive)
    values = torch.randn(rows, 3, generator=source, dtype=torch.float64)
    codes = torch.randint(0, 3, (rows, COLUMNS), generator=source)
    known = torch.rand(rows, COLUMNS, generator=source) >= gaps
    first = known & (torch.rand(rows, COLUMNS, generator=source) < ahead)
    order = [2, 3, 0, 1]
    rank = torch.tensor(order).argsort()
    found = gaussian.given_earlier(values, codes, first, known & ~first, rank)
    # The same, one column after another, as rows are drawn.
    now = gaussian.begin(first, known & ~first, rank)
    every = torch.arange(rows)

    def see(column, at):
        own = codes[at, column] if column == 3 else values[at, column]
        now.see(column, own, at)

    for column in order:
        see(column, every[first[:, column]])
    features = torch.cat([values, (codes[:, 3:] == torch.tensor([1, 2])).double()], 1)
    for place, column in enumerate(order):
        if column < 3:
            one = now.of(column, every)
            for i in every[~first[:, column]].tolist():
                seen = [c for c in order[:place] if known[i, c]]
                seen = {*seen, *(c for c in range(COLUMNS) if first[i, c])} - set(passive)
                own = [f for f, c in enumerate([0, 1, 2, 3, 3]) if c in seen]
                expected = by_formula(gaussian, features[i], own, column)
                assert [each[i, column].item() for each in found] == pytest.approx(expected)
                assert [each[i].item() for each in one] == pytest.approx(expected)
        see(column, every[known[:, column] & ~first[:, column]])


def test_a_matrix_that_is_not_positive_gives_finite_numbers():
    gaussian = GaussianConditionals([0, 1], [])
    gaussian.covariance.copy_(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    known = torch.ones(1, 2, dtype=torch.bool)
    found = gaussian.given_earlier(
        torch.ones(1, 2), known.long(), ~known, known, torch.tensor([0, 1])
    )
    assert all(each.isfinite().all() for each in found)
