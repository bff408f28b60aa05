"""Gaps filled by the VAE, by the chain of columns, and by both."""

import numpy as np
import pandas as pd
import pytest
import torch

import lowerbound
from lowerbound.coding.rows import Dense
from lowerbound.tasks.completion import BOTH, CHAIN, LATENTS, Completion
from lowerbound.training import row_stage


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    size = rng.normal(size=300)
    table = pd.DataFrame(
        {
            "size": size,
            "price": np.exp(size + 0.3 * rng.normal(size=300)),
            "kind": np.where(size + 0.5 * rng.normal(size=300) > 0, "large", "small"),
            "gain": np.where(rng.random(300) < 0.5, 0.0, rng.normal(5, 1, 300)),
        }
    )
    return table, lowerbound.fit(table, preset="fast", max_epochs=20)


def completion(fitted, by):
    table, model = fitted
    gaps = table.copy()
    for place, name in enumerate(table):
        gaps.loc[gaps.index % 5 == place, name] = None
    rows = model.encode(gaps)[1].rows
    groups = [group.parts for group in model.coding.groups]
    return rows, Completion(model.model, by, groups, model.coding.scales)


@pytest.mark.parametrize("by", [LATENTS, CHAIN, BOTH])
def test_given_values_stay_and_gaps_are_filled(fitted, by):
    rows, way = completion(fitted, by)
    gaps = rows.x.isnan()
    some = gaps.any(1)
    for made in (way.point(rows), *way.draws(rows, 3).unbind(1)):
        assert torch.equal(made[~gaps], rows.x[~gaps])
        assert made[some][:, :3].isfinite().all()


def test_the_mixture_takes_draws_of_both_in_turn(fitted):
    rows, both = completion(fitted, BOTH)
    gaps = rows.x.isnan().any(1)
    drawn = both.draws(rows, 5, seed=2)[gaps]
    for by, own in ((LATENTS, drawn[:, ::2]), (CHAIN, drawn[:, 1::2])):
        alone = completion(fitted, by)[1].draws(Dense(rows.x[gaps]), own.shape[1], seed=2)
        assert torch.equal(own.nan_to_num(), alone.nan_to_num())


def test_its_point_lies_between_those_of_both(fitted):
    rows, both = completion(fitted, BOTH)
    one, other = (completion(fitted, by)[1].point(rows) for by in (LATENTS, CHAIN))
    mixed = both.point(rows)
    for column in (0, 1):
        low, high = torch.minimum(one, other)[:, column], torch.maximum(one, other)[:, column]
        assert (mixed[:, column] >= low - 1e-5).all()
        assert (mixed[:, column] <= high + 1e-5).all()
    agreed = one[:, 2] == other[:, 2]
    assert torch.equal(mixed[agreed, 2], one[agreed, 2])


def test_the_closest_to_hidden_values_is_chosen(fitted, monkeypatch):
    table, model = fitted
    rows = Dense(model.encode(table)[1].rows.x[:120])
    groups = [group.parts for group in model.coding.groups]
    truth = rows.x.repeat(row_stage.COPIES, 1)[: row_stage.COMPARED]

    def given(good):
        def draws(self, rest, count, **where):
            return (truth + (0 if self.by == good else 3))[:, None].repeat(1, count, 1)

        monkeypatch.setattr(Completion, "draws", draws)
        return row_stage.completes(model.model, rows, groups, 0)

    assert given(LATENTS) == LATENTS
    assert given(CHAIN) == CHAIN


def test_rows_are_drawn_by_the_model_under_which_held_out_rows_are_likelier(fitted):
    table, model = fitted
    valid = Dense(model.encode(table)[1].rows.x[:100])
    assert row_stage.draws(model.model, valid) in {LATENTS, CHAIN}
    before, one = model.facts["draws"], {}
    for by in (LATENTS, CHAIN):
        model.facts["draws"] = by
        one[by] = model.sample(50)
    model.facts["draws"] = before
    assert not one[LATENTS].equals(one[CHAIN])
    assert model.sample(50).equals(one[before])
