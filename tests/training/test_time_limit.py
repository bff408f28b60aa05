"""A time limit covers everything from the start of a fit to the saved model."""

from __future__ import annotations

import math
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from lowerbound.coding.rows import Dense
from lowerbound.coding.tables import TableCoding
from lowerbound.files.read import read
from lowerbound.nn.objectives.elbo import Elbo, Loss
from lowerbound.recipes import gaussian
from lowerbound.training import after_training, forecast
from lowerbound.training.after_training import Cost, Extent
from lowerbound.training.engine import loop
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.history import Pulse
from lowerbound.training.engine.settings import Budget
from lowerbound.training.engine.time_limit import TimeLimit
from lowerbound.training.fit import learn
from lowerbound.training.plan import Plan


def rows(n=400):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3))


def test_the_time_of_earlier_runs_counts():
    limit = TimeLimit(10.0, time.monotonic() - 3)
    assert limit.left() == pytest.approx(7, abs=0.5)
    assert limit.resumed(5.0) == 5.0
    assert limit.resumed(4.0) == 0.0  # an earlier stage of the same run
    assert limit.left() == pytest.approx(2, abs=0.5)
    assert limit.within(None).seconds == pytest.approx(2, abs=0.5)
    assert limit.within(1.0).seconds == 1.0
    assert TimeLimit().within(None).seconds is None
    assert TimeLimit().left() == math.inf


def test_the_work_after_training_uses_fewer_rows_if_it_does_not_fit():
    cost, whole, least = Cost(1.0, 0.001, 0.02), Extent(1000, 500, 10), Extent(50, 16, 4)
    assert cost.of(whole) == pytest.approx(21)
    assert after_training.fitting(cost, (least, whole), 25) == whole
    half = after_training.fitting(cost, (least, whole), 11)
    assert half == Extent(500, 250, 10)
    assert after_training.fitting(cost, (least, whole), 0.5) == least
    few = Extent(20, 5, 2)
    assert after_training.fitting(cost, (few, few), 0.1) == few


def test_part_of_a_tile_takes_as_long_as_all_of_it():
    cost, least, whole = Cost(0.0, 0.01, 0.0, tile=128), Extent(50, 16, 4), Extent(400, 400, 32)
    assert cost.of(Extent(1, 0, 1)) == pytest.approx(1.28)
    fewer = after_training.fitting(cost, (least, whole), 20.0)
    assert fewer.calibration == 128
    assert fewer.samples == 8
    assert cost.of(fewer) < 20


def test_less_time_gives_fewer_calibration_rows_and_says_so(monkeypatch):
    monkeypatch.setattr(after_training, "cost", lambda *_: Cost(0.0, 0.01, 0.1))
    said = []
    limit = TimeLimit(60.0, time.monotonic() - 50)
    model = learn(rows(2000), Plan(preset="fast", max_epochs=1), say=said.append, limit=limit)
    assert model.facts["split"]["calibration"] < 200
    assert len(model.calibration.scores) == model.facts["split"]["calibration"]
    assert any("held-out rows set the threshold" in line for line in said)


class Slow(Elbo):
    """An objective whose steps take 20 ms."""

    def forward(self, *given) -> Loss:
        if self.training:
            time.sleep(0.02)
        return super().forward(*given)


def test_training_ends_in_time_for_the_last_check_and_tells_its_pace(monkeypatch):
    monkeypatch.setattr(loop, "EVERY_BEAT", 0.1)
    looked = loop._Trainer._look

    def slow(self, shown):
        time.sleep(0.3)
        return looked(self, shown)

    monkeypatch.setattr(loop._Trainer, "_look", slow)
    monkeypatch.setattr(
        loop._Trainer, "_forecast_check", lambda self: setattr(self, "closing", 0.3)
    )
    torch.manual_seed(0)
    x, pulses = torch.randn(2000, 3), []
    history = loop.fit(
        Slow(gaussian(3, latent=1, hidden=[8])),
        Dense(x),
        Dense(x[:50]),
        budget=Budget(seconds=1.5),
        engine=Engine(),
        beat=pulses.append,
    )
    assert history.stopped == "time"
    assert 0.9 < history.checks[-1].seconds < 1.7
    assert history.checks[-1].step < 60
    assert all(isinstance(p, Pulse) for p in pulses)
    assert pulses[0].step >= loop.STEADY
    assert pulses[0].seconds_per_step > 0.02
    assert pulses[0].seconds_left < 1.3
    assert 0 < pulses[0].share < pulses[-1].share <= 1


def test_long_checks_look_at_fewer_rows():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = gaussian(3, latent=1, hidden=[8])

        def forward(self, x, trace, context=None):
            time.sleep(0.01)
            return self.model(x, trace, context)

    x = torch.randn(300, 3)
    budget = Budget(seconds=1.0, epochs=1)
    trainer = loop._Trainer(
        Elbo(Late()), (Dense(x), Dense(x)), (budget, loop.Optimiser()), 0, (Engine(), loop.ALONE)
    )
    trainer._forecast_check()
    assert len(trainer.valid) == loop.FEWEST_CHECKED
    assert trainer.tile == loop.FEWEST_CHECKED


def pulse(step, steps, each, left):
    return Pulse(step, steps, 128, each, left, step / 10)


class Inputs:
    """What a forecast reads of a fit's inputs."""

    def __init__(self, limit, coding=None):
        self.limit, self.coding, self.said = TimeLimit(limit), coding, []
        self.team, self.beat, self.say = loop.ALONE, None, self.said.append


def test_a_fit_says_at_its_start_that_its_steps_will_not_suffice():
    inputs = Inputs(60.0)
    told = forecast.Forecast(Plan(), inputs, 1000)
    told(pulse(4, 4000, 2.0, 50.0))
    told(pulse(5, 4000, 2.0, 48.0))
    first, warning = inputs.said
    assert first.startswith(
        "forecast   at most 50 s of training (29 steps of 128 rows, 64 rows/s)"
    )
    assert "only about 29 steps fit into the time limit of 60 s" in warning
    assert "--time-limit 20m, or a smaller network: --preset fast" in warning


@pytest.mark.parametrize(("limit", "steps"), [(None, 4000), (60.0, 20)])
def test_enough_steps_or_all_of_them_are_no_reason_to_warn(limit, steps):
    inputs = Inputs(limit)
    forecast.Forecast(Plan(), inputs, 1000)(pulse(4, steps, 0.01, (steps - 4) * 0.01))
    assert len(inputs.said) == 1


def test_columns_of_many_levels_are_named():
    rng = np.random.default_rng(0)
    words = [f"m{i}" for i in rng.integers(0, 6000, 40_000)]
    table = pa.table({"shop": words, "x": rng.normal(size=40_000)})
    coding = TableCoding.fit(read(table), types={}, drop=(), transform="standard")
    size = coding.arguments()["sizes"][0]
    assert forecast.costly_columns(coding, 10**6) == [("shop", size)]
    assert forecast.costly_columns(coding, 10**8) == []
    inputs = Inputs(None, coding)
    forecast.Forecast(Plan(), inputs, 10**6)(pulse(4, 100, 0.1, 10))
    assert f"shop ({size:,} levels)" in inputs.said[1]
    assert "--drop shop" in inputs.said[1]


@pytest.mark.nightly
@pytest.mark.parametrize("settings", [{}, {"latent": "auto"}, {"recipe": "ladder"}])
def test_a_fit_ends_within_its_limit(settings, tmp_path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60_000, 2))
    x = z @ rng.normal(size=(2, 8)) + 0.3 * rng.normal(size=(60_000, 8))
    began = time.monotonic()
    model = learn(x, Plan(time_limit=15, **settings))
    model.save(tmp_path / "m.vae")
    assert time.monotonic() - began < 15 * 1.05
