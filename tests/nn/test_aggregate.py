"""Objectives of the aggregate posterior: q(z) against enumeration, MMD against pairs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from core_parts import LinearGaussian, encode, linear_model, randomise
from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions import families as fam
from lowerbound.nn.distributions.base import kl_per_dimension, normal
from lowerbound.nn.latents.flows import Planar
from lowerbound.nn.latents.posteriors import Flow
from lowerbound.nn.objectives.aggregate import (
    BetaTc,
    InfoMmd,
    decompose,
    gaussian,
    inverse_multiquadratic,
    mmd,
    stratified,
    weighted,
)
from lowerbound.nn.objectives.elbo import Elbo, Ramp
from lowerbound.nn.trace import Trace, from_posterior

WORLD = LinearGaussian()
X = WORLD.data(12)
KEYED = noise.Keyed(noise.row_keys(X))
N, B = 6, 4


def densities(n=N, points=5):
    """q(z | x_j) of n examples at draws of the first one, (points, n)."""
    q = encode(torch.randn(n, 4, generator=noise.generator("six"), dtype=torch.float64))
    z = q.mean[:1] + q.stddev[:1] * torch.randn(points, 2, generator=noise.generator("z")).double()
    return q.base_dist.log_prob(z[:, None]).sum(2)


def column_zero(batch, examples):
    """The weights as in much public code: strides of M + 1 = B, where the diagonal needs B + 1."""
    m = batch - 1
    weights = torch.full((batch, batch), 1 / m, dtype=torch.float64)
    weights.view(-1)[:: m + 1] = 1 / examples
    weights.view(-1)[1 :: m + 1] = (examples - m) / (examples * m)
    weights[m - 1, 0] = (examples - m) / (examples * m)
    return weights.log()


def expected_ratio(weights, row):
    """E[q^(z)] / q(z), over all batches that hold z's own example (number 0) in the given row."""
    p = densities().exp()
    log_w = weights(B, N)[row]
    total, count = torch.zeros(len(p), dtype=torch.float64), 0
    for others in itertools.permutations(range(1, N), B - 1):
        batch = [*others[:row], 0, *others[row:]]
        total += (p[:, batch] * log_w.exp()).sum(1)
        count += 1
    return total / count / p.mean(1)


@pytest.mark.parametrize("row", range(B))
def test_the_stratified_estimate_of_the_aggregate_posterior_is_unbiased(row):
    torch.testing.assert_close(expected_ratio(stratified, row), torch.ones(5).double())


def test_the_weights_in_column_zero_are_biased_and_the_test_sees_it():
    ratios = torch.stack([expected_ratio(column_zero, row) for row in range(B)])
    # At these sizes two of its rows happen to be right, own and other weight being equal.
    assert (ratios[2:] > 1.15).all()
    assert (ratios.mean(0) > 1.05).all()
    sums = column_zero(B, 10_000).exp().sum(1)
    assert abs(sums - 1).max() > 0.3


@pytest.mark.parametrize(("batch", "examples"), [(4, 6), (2, 2), (5, 5), (64, 10_000), (1, 9)])
def test_the_weights_are_those_of_the_paper(batch, examples):
    w = stratified(batch, examples).exp()
    torch.testing.assert_close(w.sum(1), torch.ones(batch).double())
    if batch == 1:
        return
    m = batch - 1
    torch.testing.assert_close(w.diagonal(), torch.full((batch,), 1 / examples).double())
    special = (examples - m) / (examples * m)
    for row in w:
        rest = sorted(row.tolist())
        expected = sorted([1 / examples, special, *[1 / m] * (m - 1)])
        assert rest == pytest.approx(expected)


def test_weighted_sampling_is_the_log_mean_less_log_n():
    p = densities()[:, :B]
    got = (p + weighted(B, N)[0]).logsumexp(1)
    torch.testing.assert_close(got, p.exp().mean(1).log() - math.log(N))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UsageError, match="examples"):
        stratified(5, 4)


def exact_weights(batch, examples):
    return torch.full((batch, batch), -math.log(batch), dtype=torch.float64)


def test_with_exact_aggregates_the_parts_are_those_of_quadrature():
    """MI + TC + the marginals' KL = KL, each part against integrals over a grid."""
    q = encode(torch.randn(N, 4, generator=noise.generator("parts"), dtype=torch.float64))
    p = normal(torch.full((N, 2), 0.3).double(), torch.full((N, 2), 1.2).double())
    t = torch.linspace(-9, 9, 451, dtype=torch.float64)
    step = (t[1] - t[0]).item()
    each = q.base_dist.log_prob(t[:, None, None].expand(-1, N, 2)).exp()  # (T, N, 2)
    joint = torch.einsum("an,bn->ab", each[:, :, 0], each[:, :, 1]) / N
    margins = each.mean(1)
    product = margins[:, None, 0] * margins[None, :, 1]
    log_prior = p.base_dist.log_prob(t[:, None, None].expand(-1, N, 2))[:, 0]
    area, tiny = step**2, 1e-300
    tc = (joint * ((joint + tiny).log() - (product + tiny).log())).sum() * area
    dimension = (margins * ((margins + tiny).log() - log_prior)).sum() * step
    entropy = (-0.5 * math.log(2 * math.pi * math.e) - q.stddev.log()).sum(1).mean()
    mi = entropy - (joint * (joint + tiny).log()).sum() * area
    kl = kl_per_dimension(q, p).sum(1).mean()
    torch.testing.assert_close(mi + tc + dimension, kl, atol=1e-6, rtol=0)
    source, count = noise.generator("many"), 4000
    found = [[], [], []]
    for _ in range(count // 100):
        eps = torch.randn(100, N, 2, generator=source, dtype=torch.float64)
        for e in eps:
            parts = decompose(q, p, q.mean + q.stddev * e, exact_weights(N, N))
            for values, part in zip(found, parts, strict=True):
                values.append(part.mean())
    for values, truth in zip(found, (mi, tc, dimension), strict=True):
        sample = torch.stack(values)
        assert abs(sample.mean() - truth) < 4.5 * sample.std() / count**0.5
        assert truth > 0.02


@pytest.mark.parametrize("weights", [stratified, weighted])
def test_the_parts_sum_to_the_sampled_rate_of_every_row(weights):
    model = WORLD.model(0.3, 1.4)
    trace = Trace(from_posterior(KEYED), len(X))
    model(X, trace)
    site = trace.sites["z"]
    parts = decompose(site.q, site.p, site.z, weights(len(X), 100))
    torch.testing.assert_close(sum(parts), -trace.log_ratio())


def test_beta_tc_weighs_each_part_and_reports_the_plain_elbo():
    model = WORLD.model(0.3, 1.4)
    plain = Elbo(model)(X, 0, KEYED).terms
    one = BetaTc(model, 40, tc=1.0)(X, 0, KEYED)
    parts = [one.terms[name] for name in ("mi", "tc", "dimension")]
    torch.testing.assert_close(one.value.detach(), plain["distortion"] + sum(parts))
    value, terms = BetaTc(model, 40, mi=0.5, tc=Ramp(0.0, 6.0, 4), dimension=2.0)(X, 2, KEYED)
    expected = plain["distortion"] + 0.5 * parts[0] + 3.0 * parts[1] + 2.0 * parts[2]
    torch.testing.assert_close(value.detach(), expected)
    for name in ("elbo", "distortion", "rate"):
        torch.testing.assert_close(terms[name], plain[name])
    for p in model.parameters():
        p.grad = None
    value.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


class TwoSites(nn.Module):
    """A program with two groups of latents."""

    def forward(self, x, trace, context=None):
        for name in "ab":
            trace.draw(name, normal(0 * x, 0 * x + 1), normal(x, 0 * x + 1))
        return normal(x, 0 * x + 1)


def test_what_has_no_aggregate_posterior_is_refused():
    model = WORLD.model()
    level = model.levels[0]
    level.posterior = Flow(level.posterior, [Planar(WORLD.latent, WORLD.features).double()])
    with pytest.raises(UsageError, match="FlowDistribution"):
        BetaTc(model, 40)(X, 0, KEYED)
    two = TwoSites()
    for objective in (BetaTc(two, 40), InfoMmd(two)):
        with pytest.raises(UsageError, match="2 levels"):
            objective(X, 0, KEYED)
    with pytest.raises(UsageError, match="mmd"):
        InfoMmd(model, mmd=-1.0)


def test_one_row_has_a_finite_loss():
    model = WORLD.model(0.3, 1.4)
    x, keyed = X[:1], noise.Keyed(noise.row_keys(X[:1]))
    value, terms = InfoMmd(model, mmd=5.0)(x, 0, keyed)
    torch.testing.assert_close(value.detach(), -terms["elbo"])
    value, terms = BetaTc(model, 40)(x, 0, keyed)
    assert value.isfinite()


KERNELS = {"imq": inverse_multiquadratic, "rbf": gaussian}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_kernel_is_one_at_zero_and_falls(kernel):
    values = kernel(torch.linspace(0, 50, 51), 3)
    assert values[0] == 1
    assert (values.diff() < 0).all()
    assert (values > 0).all()


def test_mmd_is_the_mean_over_pairs_and_unbiased():
    """Of the Gaussian kernel all expectations are known: E k(a, b) for normal a and b."""
    d, n, m = 2, 4, 5
    shift, scale = torch.tensor([0.8, -0.3]).double(), torch.tensor([1.3, 0.6]).double()

    def expected(mean, variance):
        width = d + variance  # E exp(-u^2 / 2d), u ~ N(mean, variance)
        return ((d / width).sqrt() * (-mean.square() / (2 * width)).exp()).prod()

    zero = torch.zeros(d).double()
    truth = expected(zero, 2 * scale**2) + expected(zero, zero + 2)
    truth = truth - 2 * expected(shift, scale**2 + 1)
    source = noise.generator("mmd")
    found = []
    for _ in range(4000):
        a = shift + scale * torch.randn(n, d, generator=source, dtype=torch.float64)
        b = torch.randn(m, d, generator=source, dtype=torch.float64)
        found.append(mmd(a, b, gaussian))
    sample = torch.stack(found)
    assert abs(sample.mean() - truth) < 4.5 * sample.std() / len(sample) ** 0.5
    assert truth > 3 * sample.std() / len(sample) ** 0.5
    assert sample.min() < 0  # as an unbiased estimate must be, now and then
    pairs = [gaussian((x - y).square().sum(), d) for x, y in itertools.permutations(a, 2)]
    others = [gaussian((x - y).square().sum(), d) for x, y in itertools.permutations(b, 2)]
    across = [gaussian((x - y).square().sum(), d) for x in a for y in b]
    by_hand = sum(pairs) / len(pairs) + sum(others) / len(others) - 2 * sum(across) / len(across)
    torch.testing.assert_close(mmd(a, b, gaussian), by_hand)


def test_infovae_adds_mmd_to_a_weighted_rate_and_reports_the_plain_elbo():
    model = WORLD.model(0.3, 1.4)
    plain = Elbo(model)(X, 0, KEYED).terms
    alpha, scaling = 0.7, 5.0  # the paper's letters
    value, terms = InfoMmd(model, beta=1 - alpha, mmd=alpha + scaling - 1)(X, 0, KEYED)
    gap = terms["mmd"]
    expected = plain["distortion"] + (1 - alpha) * plain["rate"] + (alpha + scaling - 1) * gap
    torch.testing.assert_close(value.detach(), expected)
    for name in ("elbo", "distortion", "rate"):
        torch.testing.assert_close(terms[name], plain[name])
    again = InfoMmd(model, beta=1 - alpha, mmd=alpha + scaling - 1)(X, 0, KEYED)
    assert torch.equal(again.value, value)  # the prior's draws are those of the given noise
    ramp = InfoMmd(model, beta=Ramp(0.0, 1.0, 10), mmd=Ramp(0.0, 4.0, 10))(X, 5, KEYED)
    torch.testing.assert_close(
        ramp.value.detach(), plain["distortion"] + 0.5 * plain["rate"] + 2.0 * gap
    )


def test_mmd_falls_as_the_aggregate_posterior_comes_to_the_prior():
    x = WORLD.data(400, "mmd")
    keyed = noise.Keyed(noise.row_keys(x))
    gaps = [InfoMmd(WORLD.model(s))(x, 0, keyed).terms["mmd"].item() for s in (0.0, 0.5, 1.0)]
    assert abs(gaps[0]) < 0.005  # the data are the model's own: q(z) = p(z)
    assert 0.01 < gaps[1] < gaps[2]


def total_correlation(model, x):
    keyed = noise.Keyed(noise.row_keys(x))
    return BetaTc(model, len(x), weights=exact_weights)(x, 0, keyed).terms["tc"].item()


def test_training_with_a_heavy_tc_lowers_the_total_correlation():
    x = WORLD.data(256, "tc")
    mixed = torch.randn(5, 5, generator=noise.generator("mix"), dtype=torch.float64)
    x = x @ mixed
    reached = {}
    for weight in (1.0, 30.0):
        with noise.isolated("tc"):
            model = linear_model(5, 2, fam.FixedSigma(1.0))
        randomise(model, "tc", 0.3)
        objective = BetaTc(model, len(x), tc=weight)
        optimiser = torch.optim.Adam(model.parameters(), 2e-2)
        source = noise.Stream(noise.generator("train"))
        order = noise.generator("order")
        for step in range(150):
            rows = torch.randperm(len(x), generator=order)[:64]
            optimiser.zero_grad()
            objective(x[rows], step, source).value.backward()
            optimiser.step()
        reached[weight] = total_correlation(model, x)
    assert reached[30.0] < reached[1.0] - 0.005, reached
