"""Conditional draws: exact against known models, exactly what was asked, or a reason."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import nn

import lowerbound
from core_parts import LinearGaussian
from lowerbound.columns.schema import infer
from lowerbound.errors import DataError, LowerboundError, UsageError
from lowerbound.nn.distributions.families import Conditional, FeatureSigma, Gaussian
from lowerbound.nn.distributions.table_rows import Table, WithMissing
from lowerbound.nn.latents import priors
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Concat, Empty, Single
from lowerbound.nn.trace import Trace, replay
from lowerbound.tasks import conditioning
from lowerbound.tasks.conditioning import sample_given

NAN = float("nan")


# --- exactness, against models whose conditionals are known --------------------------------------


def linear(sigma):
    world = LinearGaussian(sigma=sigma)
    model = world.model()
    model.likelihood.family = WithMissing(model.likelihood.family)
    return world, model


def conditional(world, given):
    """Return the mean and deviation of the open columns, exactly."""
    w = world.loadings
    cov = w @ w.T + world.sigma**2 * torch.eye(world.features, dtype=torch.float64)
    at = ~given.isnan()
    gain = cov[~at][:, at] @ torch.linalg.inv(cov[at][:, at])
    mean = world.offset[~at] + gain @ (given - world.offset)[at]
    return mean, (cov[~at][:, ~at] - gain @ cov[at][:, ~at]).diagonal().sqrt()


@pytest.mark.parametrize("sigma", [0.625, 0.1])
@pytest.mark.parametrize("away", [{3: 1.0}, {1: -1.0, 3: 1.0}, {3: 4.0}, {1: 4.0, 4: -4.0}])
def test_conditionals_of_a_linear_model_are_exact(sigma, away):
    world, model = linear(sigma)
    spread = (world.loadings.square().sum(1) + sigma**2).sqrt()
    given = torch.full((5,), NAN, dtype=torch.float64)
    for column, deviations in away.items():
        given[column] = world.offset[column] + deviations * spread[column]
    n = 1000
    drawn = sample_given(model, given, n, seed=1)
    mean, deviation = conditional(world, given)
    others, kept = drawn.values[:, given.isnan()], drawn.values[:, ~given.isnan()]
    assert torch.equal(kept, given[~given.isnan()].expand(n, -1))
    assert drawn.effective_samples > 0.4 * n
    error = 4.5 / drawn.effective_samples**0.5
    assert ((others.mean(0) - mean) / deviation).abs().max() < error
    assert (others.std(0) / deviation - 1).abs().max() < error


def one_level(prior, latent, likelihood):
    read = Single(nn.Identity())
    posterior = Plain(nn.Linear(2, 2 * latent))
    return LatentModel(
        read, [Level("z", prior, posterior, Concat(nn.Identity()))], likelihood, Empty()
    )


def with_rare_class():
    """z ~ N(0, 1), x = z + 0.35 e, and a class with log odds 6 z - 18: one row in 600 or so."""
    family = Table(["real", "categorical"], [1, 2], real=Gaussian(0.01))
    net = nn.Linear(1, family.numbers(2))
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [6.0]]))
        net.bias.copy_(torch.tensor([0.0, -1.05, 0.0, -18.0]))
    return one_level(priors.StandardNormal(1), 1, Conditional(net, family))


def on_a_grid(model, given):
    """Return p(x | z) on a fine grid of z, and the probabilities of its points given the row."""
    z = torch.linspace(-8, 8, 20001)[:, None]
    trace = Trace(replay({"z": z}), len(z))
    px = model(None, trace, None)
    log_w = trace.log_prior() + px.log_prob(given.expand(len(z), 2))
    return px, log_w.double().softmax(0)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_numbers_given_a_class(level):
    model, given = with_rare_class(), torch.tensor([NAN, level])
    px, weights = on_a_grid(model, given)
    mean = (weights * px.mean[:, 0]).sum().item()
    noise = px.cells.blocks[0][1].stddev[0, 0].item()
    spread = ((weights * (px.mean[:, 0] - mean) ** 2).sum().item() + noise**2) ** 0.5
    drawn = sample_given(model, given, 2000, seed=2)
    assert drawn.effective_samples > 500
    error = 4.5 * spread / drawn.effective_samples**0.5
    assert drawn.values[:, 0].mean().item() == pytest.approx(mean, abs=error)
    assert drawn.values[:, 0].std().item() == pytest.approx(spread, rel=0.08)


@pytest.mark.parametrize("number", [0.0, 3.0, 4.0])
def test_classes_given_a_number(number):
    model, given = with_rare_class(), torch.tensor([number, NAN])
    px, weights = on_a_grid(model, given)
    share = (weights * px.cells.blocks[1][1].probs[:, 0, 1]).sum().item()
    drawn = sample_given(model, given, 4000, seed=2)
    assert (drawn.values[:, 1] == 1).double().mean().item() == pytest.approx(share, abs=0.03)


def with_two_modes(share):
    """A mixture of two far groups in the first column, the second column alike in both."""
    prior, family = priors.Mixture(2, 2), FeatureSigma(2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([1 - share, share]).log())
        prior.loc.copy_(torch.tensor([[-4.0, 0.0], [4.0, 0.0]]))
        family.log_sigma.fill_(-4.0)
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.eye(2))
        net.bias.zero_()
    return one_level(prior, 2, Conditional(net, WithMissing(family)))


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_moves_keep_the_shares_of_far_modes(share):
    """The likelihood is sharp, so that the draws are moved; moves never cross between modes."""
    drawn = sample_given(with_two_modes(share), torch.tensor([NAN, 2.5]), 2000, seed=3)
    right = (drawn.values[:, 0] > 0).double().mean().item()
    error = 4.5 * (share * (1 - share) / drawn.effective_samples) ** 0.5
    assert right == pytest.approx(share, abs=error)
    assert 100 < drawn.effective_samples < 1900  # fewer than the rows: modes are inherited


def test_draws_without_moves_say_what_they_are_worth(monkeypatch):
    monkeypatch.setattr(conditioning, "WORK", 0.0)
    world, model = linear(0.02)
    given = torch.full((5,), NAN, dtype=torch.float64)
    given[3] = world.offset[3] + 4.0
    assert sample_given(model, given, 1000).effective_samples < 100


def test_impossible_values_are_refused():
    model = with_rare_class()
    with pytest.raises(DataError, match="probability zero") as error:
        sample_given(model, torch.tensor([NAN, 5.0]), 10)
    assert error.value.code == "E074"


# --- what is asked is what is drawn, or refused --------------------------------------------------


def table(n=400):
    rng = np.random.default_rng(4)
    x = rng.normal(size=n)
    days = np.datetime64("2024-01-01") + rng.integers(0, 90, n)
    return pa.table(
        {
            "x": x,
            "narrow": pa.array((x + rng.normal(size=n)).astype(np.float32)),
            "whole": rng.integers(100, 200, n),
            "calls": rng.negative_binomial(1, 0.2, n),
            "price": pa.array([Decimal(f"{v:.2f}") for v in np.exp(x)], pa.decimal128(10, 2)),
            "often": np.where(rng.random(n) < 0.6, 0.0, np.round(np.exp(x), 3)),
            "place": rng.choice(["a", "b", "c"], n),
            "grade": pa.array(rng.choice([1, 2], n), pa.int8()),
            "yes": rng.random(n) < 0.3,
            "day": pa.array(days),
            "time": pa.array(days.astype("datetime64[us]") + rng.integers(0, 86400, n) * 10**6),
        }
    )


SCHEMA = infer(table(), transform="blend")


@pytest.mark.parametrize(
    ("column", "value", "cell"),
    [
        ("x", 1.2345678901234567, 1.2345678901234567),
        ("x", "1.5", 1.5),
        ("x", 1, 1.0),
        ("x", np.float32(0.5), 0.5),
        ("narrow", 0.1, float(np.float32(0.1))),
        ("whole", 150.0, 150),
        ("whole", "150", 150),
        ("calls", 3.0, 3),
        ("calls", np.int8(3), 3),
        ("price", "1.25", Decimal("1.25")),
        ("often", 0, 0.0),
        ("often", 1.5, 1.5),
        ("place", "b", "b"),
        ("grade", 2.0, 2),
        ("grade", "2", 2),
        ("yes", True, True),
        ("day", "2024-02-29", dt.date(2024, 2, 29)),
        ("day", dt.date(2024, 2, 29), dt.date(2024, 2, 29)),
        ("time", "2024-02-29T12:34:56", dt.datetime(2024, 2, 29, 12, 34, 56)),
        ("time", pd.Timestamp("2024-02-29 12:34"), dt.datetime(2024, 2, 29, 12, 34)),
    ],
)  # fmt: skip
def test_a_value_is_kept_exactly_in_the_type_of_its_column(column, value, cell):
    asked = SCHEMA.asked({column: value})
    assert asked.cells[column].to_pylist() == [cell]
    assert asked.cells[column].type == table()[column].type
    assert asked.notes == ()


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("x", 60.0, "E074"),
        ("x", -60, "E074"),
        ("x", None, "E245"),
        ("x", NAN, "E245"),
        ("x", pd.NA, "E245"),
        ("x", "", "E245"),
        ("x", "abc", "E032"),
        ("x", True, "E032"),
        ("x", dt.date(2024, 2, 29), "E032"),
        ("x", float("inf"), "E030"),
        ("x", "1e999", "E030"),
        ("x", 10**400, "E030"),
        ("x", [1.0, 2.0], "E245"),
        ("x", object(), "E032"),
        ("whole", 150.5, "E032"),
        ("whole", 99, "E074"),
        ("calls", -3, "E035"),
        ("calls", 2.5, "E032"),
        ("calls", 10_000, "E074"),
        ("price", "1.255", "E032"),
        ("price", -1, "E074"),
        ("often", -0.5, "E074"),
        ("place", "never", "E074"),
        ("place", None, "E245"),
        ("place", 7, "E074"),
        ("grade", 3, "E074"),
        ("grade", 1.5, "E074"),
        ("day", "2025-02-29", "E032"),
        ("day", "2031-02-28", "E074"),
        ("day", "2024-02-28T12:00", "E074"),
        ("day", 5, "E032"),
        ("day", None, "E245"),
        ("time", "1999-01-01", "E074"),
        ("nope", 1, "E243"),
    ],
)
def test_a_value_that_cannot_be_drawn_is_refused(column, value, code):
    with pytest.raises(LowerboundError) as error:
        SCHEMA.asked({column: value})
    assert error.value.code == code
    assert column in error.value.message
    assert error.value.fix


def test_all_problems_are_named_at_once():
    with pytest.raises(UsageError) as error:
        SCHEMA.asked({"x": 60.0, "place": "never", "yes": True, "nope": 1})
    assert error.value.code == "E233"
    assert [p["code"] for p in error.value.details["problems"]] == ["E074", "E074", "E243"]


def test_a_value_just_beyond_the_range_is_drawn_with_a_remark():
    most = max(table()["x"].to_pylist())
    asked = SCHEMA.asked({"x": most + 0.1})
    assert asked.cells["x"].to_pylist() == [most + 0.1]
    assert "extrapolate" in asked.notes[0]


@pytest.fixture(scope="module")
def fitted():
    return lowerbound.VAE(preset="fast", max_epochs=3, device="cpu").fit(table())


def test_every_row_has_the_values_that_were_asked(fitted):
    where = {"x": 1.2345678901234567, "narrow": 0.1, "place": "b", "day": "2024-02-29", "price": 2}
    drawn = fitted.sample(50, where=where)
    assert drawn.schema.types == fitted.sample(2).schema.types
    assert set(drawn["x"].to_pylist()) == {1.2345678901234567}
    assert set(drawn["narrow"].to_pylist()) == {float(np.float32(0.1))}
    assert set(drawn["price"].to_pylist()) == {Decimal("2.00")}
    assert set(drawn["day"].to_pylist()) == {dt.date(2024, 2, 29)}
    assert set(drawn["place"].to_pylist()) == {"b"}
    assert len(set(drawn["whole"].to_pylist())) > 10


def test_conditions_are_not_combined_with_a_temperature(fitted):
    with pytest.raises(UsageError) as error:
        fitted.sample(5, where={"x": 0.0}, temperature=0.5)
    assert error.value.code == "E236"


def test_remarks_reach_the_user(fitted):
    with pytest.warns(UserWarning, match="extrapolate"):
        fitted.sample(5, where={"x": max(table()["x"].to_pylist()) + 0.1})
