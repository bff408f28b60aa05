"""Proposals for importance sampling: their density, their gradient, and what they gain."""

import math

import pytest
import torch
from torch import Size
from torch.distributions import MultivariateNormal

from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.nn.distributions.base import draw, stopped
from lowerbound.nn.latents.importance import (
    CorrelatedNormal,
    Correlations,
    ImportanceProposal,
    by_proposal,
)
from lowerbound.nn.objectives.proposal_bound import ProposalBound
from lowerbound.nn.trace import Trace, from_posterior, from_prior
from lowerbound.tasks.metrics import elbo, log_likelihood
from lowerbound.training.engine import loop
from lowerbound.training.engine.settings import Budget, Optimiser

ROWS, SAMPLES, D = 5, 3, 4


def source(*key):
    return noise.generator("importance", *key)


def parameters():
    loc, raw, mixing = (
        torch.randn(ROWS, *shape, generator=source(str(shape), n))
        for n, shape in enumerate([(D,), (D,), (D, D)])
    )
    return Correlations(loc, (0.5 * raw).exp(), mixing.tril(-1))


def covariance(given):
    root = given.scale[:, :, None] * (torch.eye(D) + given.mixing)
    return root @ root.mT


def drawn(given):
    normals = noise.Stream(source("normals"))
    return draw(CorrelatedNormal(given, SAMPLES), lambda shape, like: normals("z", shape, like))


def oracle(given):
    return MultivariateNormal(
        given.loc.repeat_interleave(SAMPLES, 0),
        covariance(given).repeat_interleave(SAMPLES, 0),
    )


def test_the_density_of_draws_is_that_of_a_normal_with_their_covariance():
    given = parameters()
    z, q = drawn(given)
    torch.testing.assert_close(q.log_prob(z), oracle(given).log_prob(z), rtol=1e-4, atol=1e-4)


def test_draws_have_the_mean_and_the_covariance_of_their_row():
    given, many = parameters(), 40_000
    normals = noise.Stream(source("many"))
    z, _ = draw(CorrelatedNormal(given, many), lambda shape, like: normals("z", shape, like))
    each = z.view(ROWS, many, D)
    assert (each.mean(1) - given.loc).abs().max() < 0.05 * given.scale.max() * D
    found = torch.stack([torch.cov(some.T) for some in each])
    torch.testing.assert_close(found, covariance(given), rtol=0.1, atol=0.1)


def test_the_path_derivative_is_that_of_the_density_in_z_alone():
    given = parameters()
    z, q = drawn(given)
    free = z.detach().requires_grad_()
    (wanted,) = torch.autograd.grad(oracle(given).log_prob(free).sum(), free)
    leaf = z.detach().requires_grad_()
    q.z = leaf
    (found,) = torch.autograd.grad(stopped(q).log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def model(kind="gaussian"):
    with noise.isolated("weights"):
        if kind == "table":
            return recipes.table(["real"] * 3 + ["categorical"], [1, 1, 1, 3], latent=3, gaps=0.0)
        return recipes.gaussian(4, latent=2)


def test_a_proposal_begins_as_the_posterior():
    it = model().eval()
    it.proposal = ImportanceProposal.like(it).eval()
    x = torch.randn(6, 4, generator=source("rows"))
    both = []
    for way in (it, by_proposal(it)):
        trace = Trace(from_posterior(noise.Stream(source("same"))), 6, 8)
        px = way(x, trace)
        log_p = px.log_prob(x.repeat_interleave(8, 0))
        both.append(log_p + trace.log_ratio())
        assert list(trace.sites) == ["z"]
    torch.testing.assert_close(*both)


def test_without_data_a_model_with_a_proposal_draws_from_its_prior():
    it = model().eval()
    before = it(None, Trace(from_prior(source("prior")), 5)).mean
    it.proposal = ImportanceProposal.like(it).eval()
    after = by_proposal(it)(None, Trace(from_prior(source("prior")), 5)).mean
    torch.testing.assert_close(before, after)


def rows(n, *key):
    """Rows on a curve, whose posteriors have correlated latents."""
    z = torch.randn(n, 2, generator=source(*key))
    x = torch.stack([z[:, 0], z[:, 0] + z[:, 1], z.prod(1), z[:, 1].square()], 1)
    return x + 0.3 * torch.randn(n, 4, generator=source(*key, "noise"))


@pytest.fixture(scope="module")
def fitted():
    """A trained model, and the same one with a proposal fitted to it."""
    from lowerbound.nn.objectives.elbo import Elbo

    with noise.isolated("weights"):
        it = recipes.gaussian(4, latent=2, sigma=0.3)
    budget, optimiser = Budget(epochs=20, patience=20), Optimiser(learning_rate=3e-3)
    loop.fit(
        Elbo(it), Dense(rows(4000, 1)), Dense(rows(500, 2)), budget=budget, optimiser=optimiser
    )
    with noise.isolated("proposal"):
        it.proposal = ImportanceProposal.like(it)
    it.requires_grad_(False)
    it.proposal.requires_grad_(True)
    weights = {name: value.clone() for name, value in it.state_dict().items()}
    loop.fit(
        ProposalBound(it),
        Dense(rows(4000, 1)),
        Dense(rows(500, 2)),
        budget=budget,
        optimiser=optimiser,
    )
    return it.eval(), weights


def test_fitting_a_proposal_leaves_the_model_as_it_is(fitted):
    it, weights = fitted
    for name, value in it.state_dict().items():
        same = torch.equal(value, weights[name])
        assert same != name.startswith("proposal."), name


def test_scores_by_a_proposal_are_nearer_to_the_truth(fitted):
    it, _ = fitted
    x = Dense(rows(300, 3))
    exact = log_likelihood(it, x, 8192, start=0).log_p
    own = log_likelihood(it, x, 16)
    proposal, it.proposal = it.proposal, None
    usual = log_likelihood(it, x, 16)
    it.proposal = proposal
    gain = (own.log_p - exact).abs().median() / (usual.log_p - exact).abs().median()
    assert gain < 0.7
    assert own.effective_samples.median() > usual.effective_samples.median()


def test_estimates_by_a_proposal_are_unbiased(fitted):
    """The mean of exp(estimate - log p) over independent estimates is 1."""
    it, _ = fitted
    x = rows(20, 4)
    exact = log_likelihood(it, Dense(x), 1 << 15, start=0).log_p
    again = Dense(x.repeat_interleave(400, 0))
    found = log_likelihood(it, again, 8, start=0).log_p.view(20, 400)
    ratio = (found - exact[:, None]).exp()
    error = ratio.std(1) / math.sqrt(400)
    assert ((ratio.mean(1) - 1).abs() < 4.5 * error + 0.02).all()


def test_a_score_by_a_proposal_depends_on_the_row_alone(fitted):
    it, _ = fitted
    x = rows(300, 5)
    whole = log_likelihood(it, Dense(x), 16).log_p
    order = torch.randperm(300, generator=source("order"))
    assert torch.equal(log_likelihood(it, Dense(x[order]), 16).log_p, whole[order])
    assert torch.equal(log_likelihood(it, Dense(x[7:8]), 16).log_p, whole[7:8])
    by_chunks = log_likelihood(it, Dense(x), 16, chunk=5).log_p
    torch.testing.assert_close(by_chunks, whole, rtol=0, atol=1e-5)


def test_the_elbo_of_a_model_with_a_proposal_is_that_of_its_posterior(fitted):
    it, _ = fitted
    x = Dense(rows(50, 6))
    with_it = elbo(it, x, start=0).elbo
    proposal, it.proposal = it.proposal, None
    assert torch.equal(elbo(it, x, start=0).elbo, with_it)
    it.proposal = proposal


def test_rows_have_the_same_points_and_sites_have_others():
    points = noise.SharedPoints("key")
    some = points.part(3)("z", Size([24, 5]), torch.zeros(()))
    assert torch.equal(some.view(3, 8, 5)[0], some.view(3, 8, 5)[2])
    later = points.part(2, 8)("z", Size([8, 5]), torch.zeros(()))
    whole = noise.SharedPoints("key").part(1)("z", Size([16, 5]), torch.zeros(()))
    torch.testing.assert_close(torch.cat([some[:8], later[:4]]), whole[:12])
    other = points.part(3)("y", Size([24, 5]), torch.zeros(()))
    assert (other - some).abs().min() > 0
    wide = points.part(1)("w", Size([4, 4000]), torch.zeros(()))
    assert abs(wide.std() - 1) < 0.05


def test_shared_points_are_standard_normal_and_even():
    points = noise.SharedPoints("even").part(1)("z", Size([1024, 3]), torch.zeros(()))
    assert points.mean(0).abs().max() < 0.01
    assert (points.std(0) - 1).abs().max() < 0.02
    assert torch.corrcoef(points.T)[0, 1].abs() < 0.02


def test_random_gaps_are_hidden_from_some_rows_only():
    it = model("table")
    it.proposal = ImportanceProposal.like(it)
    seen = []
    encoder = it.proposal.encoder
    handle = encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    objective = ProposalBound(it, [[0, 1], [2], [3]]).train()
    x = torch.tensor([[0.1, 0.2, 0.3, 1.0]]).repeat(400, 1)
    objective(x, 0, noise.Stream(source("hide")))
    objective.eval()(x, 0, noise.Stream(source("hide")))
    handle.remove()
    gone = seen[0].isnan()
    assert 0.15 < gone.any(1).float().mean() < 0.3
    assert torch.equal(gone[:, 0], gone[:, 1])
    assert not seen[1].isnan().any()
    assert not it.encoder.training
    assert it.proposal.training is False
