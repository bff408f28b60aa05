"""The map between the codes and the raw values of a number."""

import numpy as np
import pytest

from lowerbound.columns.base import Scale


@pytest.mark.parametrize(
    ("scale", "code", "raw"),
    [
        (Scale(), 0.3, 0.3),
        (Scale((-1.0, 1.0), (10.0, 30.0)), 0.0, 20.0),
        (Scale((-1.0, 1.0), (10.0, 30.0)), 3.0, 50.0),  # beyond the knots
        (Scale((0.0, 1.0, 2.0), (0.0, 1.0, 11.0)), 1.5, 6.0),
        (Scale((0.0, 1.0), (0.0, 2.0), log=True), 1.0, np.exp(2.0)),
    ],
)
def test_there_and_back(scale, code, raw):
    assert scale.raw_of(np.array([code]))[0] == pytest.approx(raw)
    assert scale.coded_of(np.array([raw]))[0] == pytest.approx(code)


def test_only_a_linear_map_keeps_the_mean():
    assert Scale((-1.0, 1.0), (10.0, 30.0)).linear
    assert not Scale((0.0, 1.0, 2.0), (0.0, 1.0, 11.0)).linear
    assert not Scale(log=True).linear
