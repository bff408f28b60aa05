"""The ladder: its shape, its batch norm, and everything that once took a model for one level."""

from __future__ import annotations

import pytest
import torch

from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import moments
from lowerbound.nn.latents.priors import Mixture, StandardNormal
from lowerbound.nn.trace import Trace, from_posterior, from_prior, posterior_mean, replay
from lowerbound.recipes.hierarchies import SPREAD, BatchNorm, halved
from lowerbound.tasks import draws as tasks
from lowerbound.tasks import latent_use, metrics
from lowerbound.tasks.conditioning import sample_given
from lowerbound.training.plan import Plan
from lowerbound.training.refit_prior import refit_prior
from recipe_parts import recipe


def ladder(**arguments):
    with noise.isolated("ladder"):
        return recipes.ladder(4, **{"latents": [3, 2], "hidden": [8, 7], **arguments})


def rows(n=40):
    return torch.randn(n, 4, generator=noise.generator("rows"))


def used(model):
    """The model after some training batches, so that running moments are not the first ones."""
    model.train()
    for i in range(5):
        x = 2 * rows(64) + i
        model(x, Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 64))
    return model.eval()


def test_sizes_go_from_the_data_upwards_and_levels_from_the_top_down():
    model = ladder(latents=[5, 3, 2], hidden=[9, 8, 7])
    assert [level.name for level in model.levels] == ["z3", "z2", "z1"]
    trace = Trace(posterior_mean, 6)
    model(rows(6), trace)
    assert [tuple(site.z.shape) for site in trace.sites.values()] == [(6, 2), (6, 3), (6, 5)]
    assert [f.shape[1] for f in model.encoder(rows(6), None)] == [7, 8, 9]
    assert halved(64, 5) == [64, 32, 16, 8, 4]
    assert halved(3, 4) == [3, 1, 1, 1]


def test_widths_and_sizes_that_do_not_fit():
    three = ladder(latents=[5, 3, 2], hidden=[9])
    assert [f.shape[1] for f in three.encoder(rows(6), None)] == [9, 9, 9]
    by_default = ladder(latents=(), hidden=[9, 9, 9])
    assert [level.posterior.conditional.net.out_features for level in by_default.levels] == [
        8,
        16,
        32,
    ]
    with pytest.raises(UsageError, match=r"one width per level of latents \(1\), got 2") as caught:
        ladder(latents=[5])
    assert caught.value.code == "E237"


def test_the_merge_uses_the_generative_prior_and_x_sees_the_last_level_alone():
    model = ladder().eval()
    x = rows(6)
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 6)
    px = model(x, trace)
    top, low = trace.sites.values()
    loc, scale = moments(low.p)
    below = model.levels[1].posterior.conditional(model.encoder(x, None)[1])
    precision = below.stddev**-2 + scale**-2
    torch.testing.assert_close(low.q.stddev, precision**-0.5)
    assert isinstance(model.levels[0].prior, StandardNormal)
    torch.testing.assert_close(loc, model.levels[1].prior(model.levels[0].advance(x, top.z)).mean)
    again = Trace(replay({"z2": top.z + 1, "z1": low.z}), 6)
    assert torch.equal(model(None, again).mean, px.mean)
    assert (again.sites["z1"].p.mean != low.p.mean).any()


def score(model, x, samples=4):
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), len(x), samples)
    with torch.no_grad():
        log_p = model(x, trace).log_prob(x.repeat_interleave(samples, 0))
        return (log_p + trace.log_ratio()).view(-1, samples).logsumexp(1)


def test_scores_with_batch_norm_do_not_depend_on_the_batch_nor_change_the_model():
    model, x = used(ladder()), rows(9)
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    assert len(norms) == 8  # two layers each way at each of two levels
    assert all((m.running_mean != 0).any() for m in norms)
    before = {n: b.clone() for n, b in model.named_buffers()}
    whole = score(model, x)
    assert torch.equal(score(model, x), whole)
    torch.testing.assert_close(torch.cat([score(model, x[i : i + 1]) for i in range(9)]), whole)
    order = [4, 0, 8, 1, 7, 3, 2, 6, 5]
    torch.testing.assert_close(score(model, x[order]), whole[order])
    full = metrics.log_likelihood(model, Dense(x), 8)
    torch.testing.assert_close(
        metrics.log_likelihood(model, Dense(x), 8, chunk=3).log_p, full.log_p
    )
    assert all(torch.equal(before[n], b) for n, b in model.named_buffers())
    alone = model(None, Trace(from_prior(noise.generator("samples")), 3)).mean
    assert alone.shape == (3, 4)
    model.train()
    assert (score(model, x) - whole).abs().max() > 1e-3  # the batch counts in training


def test_one_row_is_a_batch_that_trains():
    model = used(ladder()).train()
    norm = BatchNorm(3).double()
    x = torch.randn(50, 3, generator=noise.generator("norm"), dtype=torch.float64)
    torch.testing.assert_close(norm(x).mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
    before = norm.running_mean.clone()
    alone = norm(x[:1])
    torch.testing.assert_close(alone, norm.eval()(x[:1]))
    assert torch.equal(norm.running_mean, before)
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(rows(1)))), 1)
    loss = trace.kl().sum() if model(rows(1), trace) is None else -trace.log_ratio().sum()
    loss.backward()
    assert loss.isfinite()


def test_normalised_heads_begin_with_means_of_unit_spread_in_every_level_and_prior():
    model, x = (
        ladder(latents=[4, 3, 2], hidden=[8, 8, 8], batch_norm_heads=True).train(),
        rows(200),
    )
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 200)
    model(x, trace)
    below = [
        level.posterior.conditional(f)
        for level, f in zip(model.levels, model.encoder(x, None), strict=True)
    ]
    for made in (*below, *(site.p for site in list(trace.sites.values())[1:])):
        loc, scale = moments(made)
        one = torch.ones(loc.shape[1])
        torch.testing.assert_close(loc.std(0, correction=0), one, atol=0.02, rtol=0)
        spread = scale.log().std(0, correction=0)
        torch.testing.assert_close(spread, SPREAD * one, atol=0.02, rtol=0)


def test_without_batch_norm_there_is_none():
    assert not [m for m in ladder(batch_norm=False).modules() if isinstance(m, BatchNorm)]


@pytest.mark.parametrize("name", ["ladder", "ladder without batch norm", "iaf iaf"])
def test_latents_of_all_levels_go_there_and_back(name):
    model, x = recipe(name).eval(), rows(12)
    z = tasks.embed(model, Dense(x))
    assert z.shape == (12, 5 if name.startswith("ladder") else 2)
    torch.testing.assert_close(tasks.decode(model, z), tasks.reconstruct(model, Dense(x)))
    use = latent_use.latent_use(model, Dense(x))
    assert len(use.active) == z.shape[1]
    torch.testing.assert_close(use.activity, z.double().var(0, correction=0))
    assert use.rate.isnan().all() == name.startswith("iaf")


@pytest.mark.parametrize("name", ["ladder", "iaf iaf"])
def test_tasks_on_gaps(name):
    model, x = recipe(name).eval(), rows(6)
    x[0, 1] = x[3, 2] = torch.nan
    filled = tasks.impute(model, Dense(x), samples=16)
    assert filled.isfinite().all()
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])
    draws = tasks.impute_draws(model, Dense(x), 3, samples=16)
    assert draws.isfinite().all()
    assert (draws[0, :, 1] != draws[0, 0, 1]).any()
    given = torch.tensor([0.5, torch.nan, torch.nan, torch.nan])
    assert (sample_given(model, given, 5).values[:, 0] == 0.5).all()
    surprise = tasks.explain(model, x, [[0], [1], [2, 3]], samples=8)
    assert surprise.nats.isfinite().all()
    settings = metrics.Annealing(chains=2, temperatures=5, leapfrog=2)
    batch = Dense(rows(3)).take(torch.arange(3))
    assert metrics.ais(model, batch, settings).log_p.isfinite().all()


def test_the_top_levels_prior_is_refitted_where_that_is_better():
    arguments = {"features": 4, "latents": [3, 2], "hidden": [8, 7]}
    model = used(ladder())
    with torch.no_grad():  # a posterior of z_2 far from N(0, 1)
        model.levels[0].posterior.conditional.net.bias += torch.tensor([3.0, -3.0, -1.0, -1.0])
    x = Dense(rows(200))
    better, resolved = refit_prior(recipes.find("ladder"), (model, arguments), x, x, 0)
    assert resolved["components"] >= 1
    assert isinstance(better.levels[0].prior, Mixture)
    gain = metrics.log_likelihood(better, x, 32).mean - metrics.log_likelihood(model, x, 32).mean
    assert gain > 1.0
    again = recipes.find("ladder").make(resolved)
    again.load_state_dict(better.state_dict())


def test_a_recipe_without_components_keeps_its_prior():
    assert "components" not in recipes.find("nvae").parameters
    model = ladder()
    kept = refit_prior(recipes.find("nvae"), (model, {}), Dense(rows()), Dense(rows()), 0)
    assert kept[0] is model


def test_the_size_of_a_hierarchy_is_chosen_from_the_data_or_said_once():
    from lowerbound.training.fit import _in_use, resolve

    class Columns:
        def arguments(self):
            return {"features": 16, "missing": False}

    def sizes(**plan):
        return resolve(Plan(recipe="ladder", preset="fast", **plan), Columns())["latents"]

    assert sizes() == [8, 4]
    assert sizes(latent="auto") == [8, 4]
    assert sizes(latent=10) == [10, 5]
    assert sizes(settings={"hidden": [8, 8, 8]}, latent=10) == [10, 5, 2]
    assert sizes(settings={"latents": [6, 6]}) == [6, 6]
    with pytest.raises(UsageError, match="latents") as caught:
        sizes(settings={"latents": [6, 6]}, latent=10)
    assert caught.value.code == "E236"
    active = torch.tensor([True, False, False, False, True, True])
    assert _in_use({"latents": [4, 2]}, active) == {"latents": [2, 1]}
    assert _in_use({"latents": [2, 4]}, ~active) == {"latents": [1, 3]}
    assert _in_use({"latent": 6}, active) == {"latent": 3}
