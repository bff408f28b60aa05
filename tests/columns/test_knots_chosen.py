"""The number of knots of a column is chosen by the likelihood of held-out values."""

import numpy as np
import pytest

from lowerbound.columns.numbers import Quantiles


def excess(found, fresh, right):
    """Return by how much -log density of fresh values is above that of their source, in nats."""
    scores = found.forward(fresh)
    log_p = found.log_slope(scores) - scores**2 / 2 - 0.5 * np.log(2 * np.pi)
    return float(np.mean(right(fresh) - log_p))


def normal(x):
    return -(x**2) / 2 - 0.5 * np.log(2 * np.pi)


@pytest.mark.parametrize("rows", [200, 1000, 6000])
def test_values_of_a_normal_distribution_get_few_knots(rows):
    rng = np.random.default_rng(1)
    values, counts = np.unique(rng.normal(size=rows), return_counts=True)
    weight = 0.5 * rows / (rows + 300)
    fresh = rng.normal(size=20_000)
    chosen, all_of_them = (
        make(values, counts, weight) for make in (Quantiles.chosen, Quantiles.fit)
    )
    assert len(chosen.raw) <= rows // 6
    assert excess(chosen, fresh, normal) < 0.7 * excess(all_of_them, fresh, normal)
    assert rows < 6000 or excess(chosen, fresh, normal) < 0.005


def test_values_with_fine_structure_keep_their_knots():
    rng = np.random.default_rng(2)
    values = np.sort(rng.integers(0, 40, 4000) + 0.002 * rng.normal(size=4000))
    chosen = Quantiles.chosen(values, np.ones(4000, np.int64))
    assert len(chosen.raw) > 500


def test_few_values_and_many_are_taken_as_they_are():
    values = np.array([1.0, 2.0, 4.0])
    assert len(Quantiles.chosen(values, np.array([3, 1, 2])).raw) == 3
    many = np.sort(np.random.default_rng(0).normal(size=50_000))
    assert len(Quantiles.chosen(many, np.ones(50_000, np.int64)).raw) == 1000
