"""p-values, thresholds and false discoveries."""

import numpy as np
import pytest

from lowerbound.errors import UsageError
from lowerbound.tasks.calibration import Calibration, discovery_cut


def test_p_values_are_ranks():
    calibration = Calibration.of(np.array([3.0, 1.0, 2.0, 4.0]))
    p = calibration.p_values(np.array([0.0, 2.0, 2.5, 9.0]))
    assert p.tolist() == [1.0, 0.8, 0.6, 0.2]


def test_p_values_are_valid_on_exchangeable_rows():
    rng = np.random.default_rng(0)
    below = []
    for _ in range(400):
        calibration = Calibration.of(rng.standard_t(2, 99))
        below.append(calibration.p_values(rng.standard_t(2, 50)) <= 0.1)
    rate = np.mean(below)
    assert rate == pytest.approx(0.1, abs=0.012)


def test_realised_alarm_rate_is_within_its_interval():
    rng, inside = np.random.default_rng(1), 0
    for _ in range(200):
        alarm = Calibration.of(rng.normal(size=500)).alarm(0.05)
        realised = np.mean(rng.normal(size=200_000) > alarm.threshold)
        inside += alarm.low <= realised <= alarm.high
    assert inside >= 0.94 * 200 - 6


def test_an_alarm_rate_finer_than_the_rows_says_so_by_its_interval():
    alarm = Calibration.of(np.arange(50.0)).alarm(0.001)
    assert alarm.threshold == 49.0
    assert alarm.rate == pytest.approx(1 / 51)
    assert alarm.high > 0.05


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 7.0])
def test_impossible_alarm_rates_are_refused(rate):
    with pytest.raises(UsageError, match="alarm_rate must be between 0 and 1"):
        Calibration.of(np.arange(5.0)).alarm(rate)


def test_scores_that_are_not_finite_do_not_calibrate():
    assert Calibration.of(np.array([1.0, np.nan, np.inf, 2.0])).scores.tolist() == [1.0, 2.0]


def test_benjamini_hochberg_by_hand():
    p = np.array([0.01, 0.5, 0.02, 0.035, 0.9])
    assert (p <= discovery_cut(p, 0.06)).tolist() == [True, False, True, True, False]
    assert not (p <= discovery_cut(p, 0.01)).any()


def test_false_discovery_rate_is_controlled():
    rng, shares = np.random.default_rng(2), []
    for _ in range(300):
        calibration = Calibration.of(rng.normal(size=1000))
        scores = np.concatenate([rng.normal(size=180), rng.normal(4.0, 1.0, 20)])
        p = calibration.p_values(scores)
        flagged = p <= discovery_cut(p, 0.2)
        shares.append(flagged[:180].sum() / max(1, flagged.sum()))
    assert np.mean(shares) < 0.22
