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


def test_a_rate_that_cannot_be_reached_names_the_rows_it_takes_and_the_rate_used():
    told = Calibration.of(np.arange(50.0)).unreachable(0.001)
    assert told.startswith("50 calibration rows cannot resolve an alarm rate of 0.100%")
    assert "takes 999" in told
    assert "flags 1.96% of normal rows" in told
    assert Calibration.of(np.arange(999.0)).unreachable(0.001) == ""
    assert Calibration.of(np.arange(998.0)).unreachable(0.001) != ""


@pytest.mark.parametrize(("n", "rate", "k"), [(99, 0.29, 29), (999, 0.001, 1), (19, 0.05, 1)])
def test_rates_that_are_whole_numbers_of_rows_are_reached_exactly(n, rate, k):
    assert Calibration.of(np.arange(float(n))).alarm(rate).rate == k / (n + 1)


MASS = np.array([0.5, 0.25, 0.15, 0.07, 0.03])  # of the scores 0 to 4


@pytest.mark.parametrize("n", [12, 30, 100])
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.2])
def test_the_rate_of_tied_scores_is_the_share_that_is_flagged(n, rate):
    rng, stated, flagged, inside = np.random.default_rng([n, int(1000 * rate)]), [], [], 0
    for _ in range(1500):
        alarm = Calibration.of(rng.choice(5, n, p=MASS).astype(float)).alarm(rate)
        share = MASS[np.arange(5) > alarm.threshold].sum()
        inside += alarm.low - 1e-9 <= share <= alarm.high + 1e-9
        stated.append(alarm.rate)
        flagged.append(share)
    off = np.array(stated) - flagged
    assert abs(off.mean()) < 3 * off.std() / len(off) ** 0.5 + 0.02 * np.mean(flagged)
    assert inside >= 0.94 * len(off)


def test_equal_scores_flag_no_row_and_say_so():
    alarm = Calibration.of(np.ones(200)).alarm(0.05)
    assert (alarm.threshold, alarm.rate, alarm.low) == (1.0, 0.0, 0.0)
    assert 0 < alarm.high < 0.02


def test_no_calibration_rows_flag_nothing():
    assert Calibration.of(np.array([])).alarm(0.05) == (np.inf, 0.0, 0.0, 1.0)


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


@pytest.mark.parametrize("highest", [1, 3])
@pytest.mark.parametrize(("tested", "rate"), [(100, 0.05), (640, 0.1), (7, 0.01)])
def test_p_values_that_are_too_coarse_name_the_calibration_rows_that_suffice(
    highest, tested, rate
):
    scores = np.r_[np.zeros(tested - highest), np.full(highest, 9.0)]
    few = Calibration.of(np.linspace(0.0, 1.0, 10))
    coarse = few.too_coarse(scores, rate)
    assert coarse is not None
    assert (coarse.held_out, coarse.tested, coarse.highest) == (10, tested, highest)
    needed = coarse.needed(highest)
    told = str(coarse)
    assert f"{needed:,}" in told
    assert f"{coarse.needed():,} to flag a single row" in told or highest == 1
    for rows, flagged in [(needed - 1, 0), (needed, highest)]:
        p = Calibration.of(np.linspace(0.0, 1.0, rows)).p_values(scores)
        assert (p <= discovery_cut(p, rate)).sum() == flagged
    assert Calibration.of(np.linspace(0.0, 1.0, needed)).too_coarse(scores, rate) is None


def test_fine_p_values_that_flag_nothing_are_not_called_coarse():
    calibration = Calibration.of(np.linspace(0.0, 1.0, 999))
    assert calibration.too_coarse(np.full(20, 0.5), 0.1) is None
    assert "not even all 20 rows" in str(calibration.too_coarse(np.full(20, 9.0), 0.0001))


def test_false_discovery_rate_is_controlled():
    rng, shares = np.random.default_rng(2), []
    for _ in range(300):
        calibration = Calibration.of(rng.normal(size=1000))
        scores = np.concatenate([rng.normal(size=180), rng.normal(4.0, 1.0, 20)])
        p = calibration.p_values(scores)
        flagged = p <= discovery_cut(p, 0.2)
        shares.append(flagged[:180].sum() / max(1, flagged.sum()))
    assert np.mean(shares) < 0.22
