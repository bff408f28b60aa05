"""Fresh rows are flagged as often as stated, and their p-values are uniform.

`benchmarks/alarm_rates.py` fits the models; the fast test fits a few tiny ones.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import benchmark_modules
from lowerbound import VAE, fit
from lowerbound.tasks import cards

ROOT = Path(__file__).parents[2]
MANY = 3.5  # standard errors that no kind of table may be off
BY_CHANCE = 4  # of 24 shares that may be more than two standard errors off


@pytest.fixture(scope="module")
def alarm_rates():
    """Return the benchmark, which is not part of the package."""
    return benchmark_modules.loaded("alarm_rates")


def check(summaries):
    """Assert that all shares are as stated, and p-values uniform or too large."""
    found = summaries.values()
    off = [abs(rate["errors_off"]) for each in found for rate in each["rates"].values()]
    assert max(off) < MANY
    assert sum(value > 2 for value in off) <= BY_CHANCE
    above = [level["errors_off"] for each in found for level in each["levels"].values()]
    assert max(above) < MANY
    assert min(each["uniform"] for each in found) > 0.05 / 3 / len(summaries)


@pytest.mark.parametrize("kind", ["gaussian", "ties"])
def test_alarms_of_few_small_fits_are_as_rare_as_stated(alarm_rates, kind):
    fits = [alarm_rates.measure(kind, seed, 60, epochs=2) for seed in range(8)]
    found = alarm_rates.summary(fits)
    assert {each["calibration"] for each in fits} == {6}
    for rate in found["rates"].values():
        assert abs(rate["errors_off"]) < 4
    for level in found["levels"].values():
        assert level["errors_off"] < 4


def test_the_measured_rates_are_as_stated():
    document = json.loads((ROOT / "benchmarks/results/alarm_rates.json").read_text())
    assert len(document["results"]) == 8
    check({kind: each["summary"] for kind, each in document["results"].items()})


@pytest.mark.nightly
def test_alarms_of_all_kinds_of_tables_are_as_rare_as_stated(alarm_rates):
    found = {}
    for kind in alarm_rates.KINDS:
        fits = [
            alarm_rates.measure(kind, seed, alarm_rates.SIZES[seed % 4])
            for seed in range(alarm_rates.FITS)
        ]
        found[kind] = alarm_rates.summary(fits)
    check(found)


def test_a_rate_that_cannot_be_reached_is_told_in_python():
    x, lines = np.random.default_rng(0).normal(size=(100, 2)), []
    model = fit(x, preset="fast", max_epochs=1, alarm_rate=0.01, say=lines.append)
    assert model.alarm.rate == 1 / 11
    told = "10 calibration rows cannot resolve an alarm rate of 1.000%, which takes 99"
    assert lines[-1] == model.alarm_doubt
    assert model.alarm_doubt.startswith(told)
    assert told in cards.card(model)
    model = VAE(preset="fast", max_epochs=1, alarm_rate=0.1).fit(x).trained_
    assert model.alarm_doubt == ""
    assert "cannot resolve" not in cards.card(model)


def test_coarse_p_values_warn_in_python():
    rng = np.random.default_rng(0)
    model = fit(rng.normal(size=(100, 2)), preset="fast", max_epochs=1)
    odd = np.r_[rng.normal(size=(49, 2)), [[50.0, -50.0]]]
    needed = math.ceil(50 / 0.2) - 1
    with pytest.warns(UserWarning, match=f"too coarse .* {needed} to flag a single row"):
        table = model.score(odd, false_discovery_rate=0.2)
    assert not table["is_anomaly"].any()
