"""The two ends of every KL, and the ways in which a trace draws between them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MixtureSameFamily, Normal, kl_divergence

from core_parts import PRIORS, randomise
from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions import base as dist
from lowerbound.nn.latents.flows import FlowDistribution
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.trace import Trace, from_posterior, from_prior, posterior_mean, replay
from recipe_parts import QUANTISED, RECIPES, SAMPLED, recipe

N = 20_000
H = torch.zeros(3, 0, dtype=torch.float64)
every_prior = pytest.mark.parametrize("name", PRIORS)


def prior(name, rows=3):
    return PRIORS[name]().double()(H[:1].expand(rows, 0))


def posterior(rows=3):
    """A posterior with means and scales that no symmetry could hide."""
    f = torch.randn(rows, 4, generator=noise.generator("features"), dtype=torch.float64)
    plain = randomise(Plain(nn.Linear(4, 4)), "plain")
    return plain(f[:, :0], f, None).q


def spread(d, n):
    """Each row's normal n times over, one after the other."""
    return dist.normal(*(v.repeat_interleave(n, 0) for v in (d.base_dist.loc, d.base_dist.scale)))


def grid():
    t = torch.linspace(-9, 9, 361, dtype=torch.float64)
    return torch.cartesian_prod(t, t), (t[1] - t[0]) ** 2


@every_prior
def test_a_prior_has_total_mass_one_and_the_moments_of_its_samples(name):
    p = prior(name, rows=1)
    points, area = grid()
    mass = p.log_prob(points).exp() * area
    torch.testing.assert_close(mass.sum(), torch.tensor(1.0).double(), atol=1e-4, rtol=0)
    mean = (mass[:, None] * points).sum(0)
    variance = (mass[:, None] * (points - mean) ** 2).sum(0)
    z = dist.sample(p, noise.generator("prior", name), torch.Size([N]))[:, 0]
    assert ((z.mean(0) - mean) / variance.sqrt() * N**0.5).abs().max() < 4.5
    error = (((points - mean) ** 4 * mass[:, None]).sum(0) - variance**2).sqrt()
    assert ((z.var(0) - variance) / error * N**0.5).abs().max() < 4.5


@every_prior
def test_a_prior_serves_every_row_alike_and_all_of_it_learns(name):
    module = PRIORS[name]().double()
    z = torch.randn(1, 2, generator=noise.generator("z"), dtype=torch.float64)
    log_p = module(H).log_prob(z.expand(3, 2))
    assert log_p.shape == (3,)
    assert (log_p == log_p[0]).all()
    if not list(module.parameters()):
        return
    log_p.sum().backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).all() for p in module.parameters())


def test_extreme_parameters_of_a_prior_keep_it_finite():
    for name in ("learned", "mixture"):
        for value in (-1e4, 1e4):
            module = PRIORS[name]()
            with torch.no_grad():
                for p in module.parameters():
                    p.fill_(value)
            log_p = module(H).log_prob(H.new_ones(3, 2))
            log_p.sum().backward()
            assert log_p.isfinite().all()
            assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("name", ["standard normal", "learned"])
def test_the_kl_is_exact_and_that_of_the_models_own_samples(name):
    q, p = posterior(), prior(name)
    own = [p for p in (q, p) if isinstance(p, Independent)]
    by_torch = kl_divergence(*(Normal(d.base_dist.loc, d.base_dist.scale) for d in own)).sum(1)
    exact = dist.exact_kl(q, p)
    torch.testing.assert_close(exact, by_torch)
    torch.testing.assert_close(dist.kl_per_dimension(q, p).sum(1), exact)
    assert (exact > 0.01).all()
    wrong_way = dist.exact_kl(p, q)
    assert ((wrong_way - exact).abs() > 0.01).all()
    # As a trace draws them: KL(q || p) = E_q[log q - log p].
    trace = Trace(from_posterior(noise.Stream(noise.generator("kl"))), 3, N)
    many = [spread(d, N) for d in (q, p)]
    trace.draw("z", many[1], many[0])
    ratio = -trace.log_ratio().view(3, N)
    assert ((ratio.mean(1) - exact) / ratio.std(1) * N**0.5).abs().max() < 4.5


def test_the_formula_is_in_standard_deviations_and_zero_only_at_the_prior():
    p = dist.normal(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    scale = torch.linspace(0.05, 4, 80, dtype=torch.float64)
    for mu in (-1.5, 0.0, 0.7):
        q = dist.normal(torch.full((80, 1), mu).double(), scale[:, None])
        kl = dist.exact_kl(q, p)
        torch.testing.assert_close(kl, (scale**2 + mu**2 - 1) / 2 - scale.log())
        assert (kl >= 0).all()
        assert abs(scale[kl.argmin()] - 1) < 0.05
    assert dist.exact_kl(p, p).item() == 0.0
    for name in ("standard normal", "learned"):
        same = prior(name)
        assert dist.exact_kl(same, same).abs().max() < 1e-12


def test_a_mixture_has_no_closed_form_and_its_estimate_is_unbiased():
    q, p = posterior(1), prior("mixture", 1)
    assert dist.exact_kl(q, p) is None
    assert dist.kl_per_dimension(q, p) is None
    points, area = grid()
    log_q = q.log_prob(points)
    truth = (log_q.exp() * (log_q - p.log_prob(points))).sum() * area
    stream = noise.Stream(noise.generator("mixture"))
    trace = Trace(from_posterior(stream), N)
    trace.draw("z", prior("mixture", N), spread(q, N))
    kl = trace.kl()
    assert kl.shape == (N,)
    assert abs(kl.mean() - truth) < 4.5 * kl.std() / N**0.5


def test_reparameterised_draws_have_the_moments_and_the_density_of_q():
    q = posterior(1)
    trace = Trace(from_posterior(noise.Stream(noise.generator("moments"))), N)
    z = trace.draw("z", prior("standard normal", N), spread(q, N))
    centred = (z - q.mean) / q.stddev
    assert (centred.mean(0) * N**0.5).abs().max() < 4.5
    assert ((centred.var(0) - 1) * (N / 2) ** 0.5).abs().max() < 4.5
    site = trace.sites["z"]
    torch.testing.assert_close(site.log_q, q.log_prob(z))
    assert torch.equal(trace.log_prior(), site.p.log_prob(z))
    assert torch.equal(trace.log_ratio(), site.p.log_prob(z) - site.log_q)


def test_a_draw_carries_the_gradient_of_its_mean_and_scale():
    loc, scale = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    eps = torch.tensor([[0.5, -2.0]])
    dist.reparameterise(dist.normal(loc, scale), eps).sum().backward()
    assert torch.equal(loc.grad, torch.ones(1, 2))
    assert torch.equal(scale.grad, eps)
    cut = dist.stopped(dist.normal(loc, scale))
    assert not cut.log_prob(eps).requires_grad


@every_prior
def test_temperature_widens_about_the_centre(name):
    p = prior(name, rows=1)
    for temperature in (0.5, 1.7):
        wide = dist.tempered(p, temperature)
        points, area = grid()
        mass = wide.log_prob(points).exp() * area
        assert abs(mass.sum() - 1) < 1e-3
        if name == "flow":  # has no moments in closed form: see test_priors.py
            continue
        mixed = isinstance(p, MixtureSameFamily)
        spread = wide.variance - (p.variance if mixed else temperature**2 * p.variance)
        if mixed:  # the components widen, their means stay
            inner = p.mixture_distribution.probs[..., None] * p.component_distribution.variance
            torch.testing.assert_close(spread, (temperature**2 - 1) * inner.sum(1))
        else:
            torch.testing.assert_close(spread, torch.zeros_like(spread))
        torch.testing.assert_close(wide.mean, p.mean)
    with noise.isolated("t"):
        plain = p.sample()
    with noise.isolated("t"):
        again = p.sample()
    assert torch.equal(again, plain)
    drawn = from_prior(noise.generator("t"), 1.0)("z", p, None).z
    assert torch.equal(drawn, plain)


def test_what_has_no_rule_is_refused_by_name():
    other = torch.distributions.Gumbel(torch.zeros(2), torch.ones(2))
    for ask in (
        lambda: dist.reparameterise(other, torch.zeros(2)),
        lambda: dist.stopped(other),
        lambda: dist.tempered(other, 0.5),
    ):
        with pytest.raises(UsageError, match="Gumbel"):
            ask()


@pytest.mark.parametrize("name", RECIPES)
def test_replay_is_exact_and_the_kl_of_a_recipe_has_a_closed_form(name):
    model = recipe(name).eval()
    x, context = RECIPES[name].data(7)
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 7)
    px = model(x, trace, context)
    exact = [site.exact_kl() is not None for site in trace.sites.values()]
    assert exact == [name not in SAMPLED] * len(exact)
    zs = {name: site.z for name, site in trace.sites.items()}
    again = model(None, Trace(replay(zs), 7), context)
    assert torch.equal(again.log_prob(x), px.log_prob(x))
    middle = Trace(posterior_mean, 7)
    model(x, middle, context)
    assert all(torch.equal(site.z, dist.centre(site.q)) for site in middle.sites.values())
    rest = Trace(replay({}, otherwise=from_prior(noise.generator("rest"))), 7)
    model(None, rest, context)
    free = Trace(from_prior(noise.generator("rest")), 7)
    model(None, free, context)
    assert list(rest.sites) == list(free.sites) == list(trace.sites)
    assert all(torch.equal(rest.sites[n].z, site.z) for n, site in free.sites.items())


@pytest.mark.parametrize("name", RECIPES)
def test_samples_of_a_row_follow_one_another_and_are_encoded_once(name):
    model = recipe(name).eval()
    x, context = RECIPES[name].data(5)
    keys = noise.row_keys(x)
    seen = []
    handle = model.encoder.register_forward_hook(lambda m, given, out: seen.append(len(given[0])))
    trace = Trace(from_posterior(noise.Keyed(keys)), 5, 3)
    log_p = model(x, trace, context).log_prob(x.repeat_interleave(3, 0)).view(5, 3)
    handle.remove()
    # A prior over pseudo-inputs has the model's encoder read those, once as well.
    assert seen == ([5, 3] if "vamp" in name else [5])
    for s in range(3):
        single = Trace(from_posterior(noise.Keyed(keys, first=s)), 5)
        torch.testing.assert_close(model(x, single, context).log_prob(x), log_p[:, s])
        torch.testing.assert_close(single.kl(), trace.kl().view(5, 3)[:, s])


def test_the_kl_moves_the_mean_at_the_defaults_of_every_recipe():
    from lowerbound.nn.objectives.elbo import Elbo

    for name in RECIPES:
        if name in QUANTISED:  # whose KL is that of a point mass: see test_codes.py
            continue
        model = recipe(name)
        x, context = RECIPES[name].data(16)
        trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 16)
        model(x, trace, context)
        site = next(iter(trace.sites.values()))
        normal = site.q.base if isinstance(site.q, FlowDistribution) else site.q
        (slope,) = torch.autograd.grad(site.kl().sum(), normal.base_dist.loc, retain_graph=True)
        if name not in SAMPLED:  # d KL(N(mu, s) || N(m, t)) / d mu = (mu - m) / t^2
            torch.testing.assert_close(slope, (normal.mean - site.p.mean) / site.p.variance)
        assert (slope != 0).all()
        terms = Elbo(model)(x, 0, noise.Keyed(noise.row_keys(x)), context).terms
        assert math.isclose(terms["rate"].item(), trace.kl().mean().item(), rel_tol=1e-5)
