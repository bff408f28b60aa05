"""A library size that is integrated out: against dense quadrature, sums and draws."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse

import lowerbound
from lowerbound import noise
from lowerbound.nn.distributions.base import Observed, log_prob_cells, sample
from lowerbound.nn.distributions.counts import sample_of_total
from lowerbound.nn.distributions.learned_library import LearnedLibraryCounts

MEMBERS = ("poisson", "nb", "zinb")
every_member = pytest.mark.parametrize("member", MEMBERS)


def family(member, genes=3, covariates=2, loc=1.5, log_scale=-0.5):
    made = LearnedLibraryCounts(genes, member, covariates).double()
    with torch.no_grad():
        made.bias.copy_(torch.tensor([loc, log_scale]))
        made.weight.copy_(torch.tensor([[0.3, -0.2], [0.1, 0.2]])[:, :covariates])
        if member != "poisson":
            made.log_dispersion.copy_(torch.linspace(-0.5, 1.0, genes))
    return made


def numbers(made, rows, seed=0):
    source = noise.generator("learned library", seed)
    width = made.numbers(made.features)
    each = torch.randn(rows, width, generator=source, dtype=torch.float64)
    return each, torch.eye(2, dtype=torch.float64)[torch.arange(rows) % 2]


def dense(d, x, points=4001):
    """log p(x) by the trapezium rule over 9 standard deviations."""
    t = torch.linspace(-9.0, 9.0, points, dtype=torch.float64)
    log_p = torch.stack(
        [
            Observed(d.counts(d.loc + d.log_scale.exp() * step)).log_prob(x)
            - 0.5 * step**2
            - 0.5 * math.log(2 * math.pi)
            for step in t
        ]
    )
    return log_p.logsumexp(0) + (t[1] - t[0]).log()


@every_member
@pytest.mark.parametrize("loc", [0.0, 2.0, 7.0])
def test_the_integral_is_that_of_dense_quadrature(member, loc):
    made = family(member, 5, loc=loc)
    given = numbers(made, 40)
    d = made(*given)
    x = sample(d, noise.generator("x", member))
    x[0] = 0
    x[1] = 3 * x[1]
    x[2, :3] = torch.nan
    with torch.no_grad():
        found, exact = d.log_prob(x), dense(d, x)
    torch.testing.assert_close(found[1:], exact[1:], atol=2e-3, rtol=1e-4)
    assert abs(found[0] - exact[0]) < 0.05  # nothing at all where hundreds are expected


@every_member
def test_the_density_sums_to_one(member):
    made = family(member, 2, loc=0.5, log_scale=-1.0)
    with torch.no_grad():
        d = made(*numbers(made, 2))
        grid = torch.cartesian_prod(*[torch.arange(90.0, dtype=torch.float64)] * 2)
        for row in range(2):
            part = LearnedLibraryCounts.forward(
                made, *(each[row : row + 1].expand(len(grid), -1) for each in numbers(made, 2))
            )
            assert part.log_prob(grid).exp().sum() == pytest.approx(1.0, abs=2e-3)
    assert d.batch_shape == (2,)
    assert d.event_shape == (2,)


@every_member
def test_a_missing_count_is_summed_over(member):
    made = family(member, 2, loc=0.5, log_scale=-1.0)
    one = [each[:1] for each in numbers(made, 2)]
    with torch.no_grad():
        gone = torch.tensor([[2.0, torch.nan]], dtype=torch.float64)
        every = torch.stack([torch.full((200,), 2.0), torch.arange(200.0)], 1).double()
        whole = made(*(each.expand(200, -1) for each in one)).log_prob(every).logsumexp(0)
        assert made(*one).log_prob(gone).item() == pytest.approx(whole.item(), abs=2e-3)
        cells = log_prob_cells(made(*one), gone)
        assert cells.shape == (1, 2)
        assert cells[0, 1] == 0


@every_member
def test_gradients_are_those_of_the_integral(member):
    made = family(member, 4)
    given = numbers(made, 6)
    x = sample(made(*given), noise.generator("g", member))

    def gradients(log_p):
        made.zero_grad()
        log_p(made(*given)).sum().backward()
        return {name: p.grad.clone() for name, p in made.named_parameters()}

    one = gradients(lambda d: d.log_prob(x))
    other = gradients(lambda d: dense(d, x, 801))
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], atol=2e-2, rtol=1e-2)


@every_member
def test_draws_have_the_mean_and_the_spread_of_the_library(member):
    made = family(member, 3, loc=4.0, log_scale=-1.0)
    shares, batch = (each[:1] for each in numbers(made, 1))
    with torch.no_grad():
        d = made(shares.expand(60_000, -1), batch.expand(60_000, -1))
        x = sample(d, noise.generator("draws", member))
        error = x.std(0) / 60_000**0.5
        assert ((x.mean(0) - d.mean[0]).abs() < 5 * error).all()
        assert sample(made(shares, batch), None, torch.Size([3])).shape == (3, 1, 3)
        some = made(shares.expand(50, -1), batch.expand(50, -1))
        fixed = sample_of_total(some.drawn(torch.Generator()), torch.full((50,), 70.0),
                                torch.Generator())  # fmt: skip
        assert (fixed.sum(1) == 70).all()


def test_a_fit_learns_the_depth_of_each_batch():
    rng = np.random.default_rng(0)
    site = rng.integers(0, 2, 600)
    depth = rng.lognormal(np.log(np.array([80.0, 400.0])[site]), 0.3)
    shares = rng.dirichlet(np.full(10, 3.0))
    frame = {f"g{j}": rng.poisson(depth * shares[j]) for j in range(10)}
    frame["site"] = np.array(["a", "b"])[site]
    how = {"preset": "fast", "max_epochs": 200, "latent": 2, "device": "cpu"}
    learned = lowerbound.fit(frame, "counts", batch="site", settings={"library": "learned"}, **how)
    likely = learned.model.likelihood.family
    with torch.no_grad():
        loc = likely.weight[0] + likely.bias[0]
        scale = (likely.weight[1] + likely.bias[1]).exp()
    np.testing.assert_allclose(loc, np.log([80, 400]), atol=0.15)
    np.testing.assert_allclose(scale, 0.3, atol=0.12)
    given = lowerbound.fit(frame, "counts", batch="site", **how)
    # log p(x) = log p(total) + log p(x | total), nearly: the given total is not a count of it.
    deep = {name: np.asarray(values)[:50] for name, values in frame.items()}
    assert learned.log_likelihood(deep).mean() < given.log_likelihood(deep).mean()
    strange = {**deep, "site": np.array(["a"] * 50)}
    shallow = site[:50] == 1
    assert (
        learned.log_likelihood(strange)[shallow] < learned.log_likelihood(deep)[shallow] - 3
    ).all()
    assert learned.embed(deep).shape == (50, 2)
    rates = learned.expression(deep, batch="a", draws=2).mean
    total = sum(np.asarray(rates[f"g{j}"]) for j in range(10))
    np.testing.assert_allclose(total, 1e4, rtol=1e-4)
    drawn = learned.samples(200).table
    totals = sum(drawn[f"g{j}"].to_numpy() for j in range(10))
    sites = np.array(drawn["site"].to_pylist())
    assert totals[sites == "b"].mean() > 3 * totals[sites == "a"].mean()
    assert np.isfinite(learned.predictive_checks(deep)["zeros_replicated"].to_numpy()).all()


def test_sparse_counts_without_covariates_have_a_library_size_too():
    x = sparse.csr_matrix(np.random.default_rng(0).poisson(3.0, (200, 6)))
    model = lowerbound.fit(
        x, "counts", settings={"library": "learned"}, preset="fast", max_epochs=2, device="cpu"
    )
    assert np.isfinite(model.anomaly_score(x)).all()
    with pytest.raises(lowerbound.errors.UsageError) as error:
        lowerbound.fit(x, "counts", settings={"library": "guessed"}, max_epochs=1)
    assert error.value.code == "E241"
