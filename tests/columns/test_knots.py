"""Places among sorted numbers are those that numpy finds, whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from lowerbound.columns.knots import Knots

_RNG = np.random.default_rng(0)
SETS = {
    "normal": _RNG.normal(size=1000),
    "heavy tails": _RNG.standard_cauchy(1000),
    "ten orders of magnitude": np.exp(4 * _RNG.normal(size=1000)),
    "two": np.array([-1.0, 3.0]),
    "one": np.array([2.0]),
    "the largest": np.array([-1.7e308, 0.0, 1.0, 1.7e308]),
    "the smallest": np.array([0.0, 5e-324, 1e-323]),
    "neighbours": 1 + 2.3e-16 * np.arange(10),
}


@pytest.mark.parametrize("knots", SETS.values(), ids=SETS)
def test_places_are_those_of_numpy(knots):
    knots = np.unique(knots)
    near = _RNG.choice(knots, 20_000) * (1 + 1e-3 * _RNG.normal(size=20_000))
    sides = [np.nextafter(knots, np.inf), np.nextafter(knots, -np.inf)]
    values = np.concatenate([near, knots, *sides, [-np.inf, np.inf, 0.0, -0.0]])
    at, many = Knots(knots), np.searchsorted(knots, values)
    assert np.array_equal(at.below(values), many)
    assert np.array_equal(at.below(values[::20]), many[::20])  # few are searched for otherwise


def test_not_a_number_has_a_place_too():
    for times in (1, 5000):
        at = Knots(np.arange(5.0)).below(np.array([np.nan, 2.5] * times))
        assert 0 <= at[0] <= 5
        assert at[1] == 3


def test_no_values_have_no_places():
    assert Knots(np.arange(5.0)).below(np.empty(0)).shape == (0,)
