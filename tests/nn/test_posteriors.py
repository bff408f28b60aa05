"""Rules of posteriors against their equations, and what a hierarchy of them may be trained by."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core_parts import DEPENDENT, POSTERIORS, PRIORS, RELATIVE, randomise
from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions import base as dist
from lowerbound.nn.distributions import families as fam
from lowerbound.nn.distributions.families import Conditional, LatentGaussian
from lowerbound.nn.latents.posteriors import Informed, Plain, Precision, Residual
from lowerbound.nn.latents.priors import StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Concat, Empty, Single
from lowerbound.nn.objectives import elbo
from lowerbound.nn.objectives.elbo import Elbo, Iwae, StickingTheLanding
from lowerbound.nn.trace import Trace, from_posterior, from_prior, path_derivative
from lowerbound.recipes.hierarchies import BottomUp, MarkovUpdate
from lowerbound.tasks.objective_settings import OBJECTIVE
from lowerbound.training.objective import objective_of
from recipe_parts import RECIPES, recipe

H, F, D = 3, 4, 2
every_posterior = pytest.mark.parametrize("name", POSTERIORS)


def normals(key, *shape):
    return torch.randn(*shape, generator=noise.generator(key), dtype=torch.float64)


def prior(rows, latent=D):
    """The same normal in every row, away from N(0, 1)."""
    loc, scale = 0.6 * normals("p loc", 1, latent), 0.5 + normals("p scale", 1, latent).abs()
    return dist.normal(loc.expand(rows, latent), scale.expand(rows, latent))


def made(name, rows=5, same=False):
    """A posterior with random weights, its prior, and q for random states and features."""
    rule = randomise(POSTERIORS[name](H, F, D), name)
    n = 1 if same else rows
    h, f = (normals(key, n, width).expand(rows, width) for key, width in [("h", H), ("f", F)])
    p = prior(rows)
    return rule, p, rule(h, f, p)


def drawn(q, key="draw"):
    return dist.draw(q, lambda shape, like: normals(key, *shape).to(like))


@every_posterior
def test_a_posterior_is_a_density_and_its_kl_that_of_its_draws(name):
    n = 20_000
    _, p, (q, penalty) = made(name, n, same=True)
    assert penalty == 0.0
    assert q.batch_shape + q.event_shape == (n, D)
    z, source = drawn(q)
    log_q = source.log_prob(z).detach()
    assert log_q.shape == (n,)
    narrow = dist.normal(z.mean(0).detach().expand(n, D), 0.5 * z.std(0).detach().expand(n, D))
    ratio = (narrow.log_prob(z.detach()) - log_q).exp()
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / n**0.5
    exact = dist.exact_kl(q, p)
    assert (exact is None) == ("flow" in name)
    if exact is not None:
        sampled = log_q - p.log_prob(z.detach())
        assert abs(sampled.mean() - exact[0]) < 4.5 * sampled.std() / n**0.5


@every_posterior
def test_a_row_does_not_see_its_neighbours_and_all_weights_learn(name):
    rule, p, (q, _) = made(name)
    z, source = drawn(q)
    log_q = source.log_prob(z)
    h, f, eps = normals("h", 5, H), normals("f", 5, F), normals("draw", 5, D)
    for i in range(5):
        alone = rule(h[i : i + 1], f[i : i + 1], prior(1)).q
        one, known = dist.draw(alone, lambda shape, like, i=i: eps[i : i + 1])
        torch.testing.assert_close(one, z[i : i + 1])
        torch.testing.assert_close(known.log_prob(one), log_q[i : i + 1])
    (log_q - p.log_prob(z)).sum().backward()
    assert all(w.grad.isfinite().all() and w.grad.any() for w in rule.parameters())


@every_posterior
def test_extreme_weights_stay_finite(name):
    for spread in (1e2, 1e4):
        rule = randomise(POSTERIORS[name](H, F, D), name, spread).float()
        q = rule(normals("h", 9, H).float(), normals("f", 9, F).float(), _float(prior(9))).q
        z, source = drawn(q)
        log_q = source.log_prob(z)
        assert z.isfinite().all()
        assert log_q.isfinite().all()
        log_q.sum().backward()
        assert all(w.grad.isfinite().all() for w in rule.parameters())


def _float(p):
    return dist.normal(*(value.float() for value in dist.moments(p)))


@every_posterior
def test_densities_are_float32_when_networks_run_in_bfloat16(name):
    rule = randomise(POSTERIORS[name](H, F, D), name).float()
    h, f, p = normals("h", 9, H).float(), normals("f", 9, F).float(), _float(prior(9))
    full = drawn(rule(h, f, p).q)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = drawn(rule(h, f.bfloat16(), p).q)
        log_q = mixed[1].log_prob(mixed[0])
    assert mixed[0].dtype == log_q.dtype == torch.float32
    assert (log_q - full[1].log_prob(full[0])).abs().mean() < 0.2


def image_prior():
    loc, scale = normals("p loc", 3, 2, 4, 5), 0.5 + normals("p scale", 3, 2, 4, 5).abs()
    return dist.normal(loc, scale)


def test_a_residual_posterior_is_the_papers():
    """Vahdat & Kautz, 2020, eq. 2 and the KL of eq. 3, for vectors and for images."""
    net = randomise(nn.Conv2d(5, 4, 1), "net")
    h, f, p = normals("h", 3, 2, 4, 5), normals("f", 3, 3, 4, 5), image_prior()
    q = Residual(net)(h, f, p).q
    shift, raw = net(torch.cat([h, f], 1)).chunk(2, 1)
    loc, scale = dist.moments(p)
    torch.testing.assert_close(q.mean, loc + shift)
    torch.testing.assert_close(q.stddev, scale * raw.exp(), rtol=1e-4, atol=0)
    stretch = q.stddev / scale
    kl = 0.5 * (shift.square() / scale.square() + stretch.square() - stretch.square().log() - 1)
    torch.testing.assert_close(dist.exact_kl(q, p), kl.sum((1, 2, 3)))
    vector = Residual(randomise(nn.Linear(H + F, 2 * D), "v"))
    assert vector(normals("h", 2, H), normals("f", 2, F), prior(2)).q.event_shape == (D,)


def test_a_residual_of_zero_is_the_prior_itself():
    net = nn.Linear(H + F, 2 * D).double()
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    for p in (prior(3), StandardNormal(D).double()(normals("h", 3, H))):
        q = Residual(net)(normals("h", 3, H), normals("f", 3, F), p).q
        assert dist.exact_kl(q, p).abs().max() < 1e-12


def test_a_precision_posterior_is_the_papers():
    """Sonderby et al., 2016, eq. 17-19: the normalised product of the two normals."""
    net = randomise(nn.Conv2d(3, 4, 1), "net")
    f, p = normals("f", 3, 3, 4, 5), image_prior()
    q = Precision(net)(normals("h", 3, 2, 4, 5), f, p).q
    below = LatentGaussian()(net(f))
    (mu, sigma), (mu_p, sigma_p) = dist.moments(below), dist.moments(p)
    variance = 1 / (sigma**-2 + sigma_p**-2)
    torch.testing.assert_close(q.stddev, variance.sqrt())
    torch.testing.assert_close(q.mean, variance * (mu * sigma**-2 + mu_p * sigma_p**-2))
    z = normals("z", 7, 3, 2, 4, 5)
    constant = q.log_prob(z) - p.log_prob(z) - below.log_prob(z)  # Bayes: evidence alone is left
    torch.testing.assert_close(constant, constant[:1].expand(7, -1))


def test_the_precision_merge_is_stable_where_one_side_says_nothing():
    f = torch.ones(1, 1)
    for raw, shown in [(40.0, "prior"), (-40.0, "data")]:
        net = nn.Linear(1, 2)
        with torch.no_grad():
            net.weight.zero_()
            net.bias.copy_(torch.tensor([0.3, raw]))
        p = dist.normal(torch.full((1, 1), -2.0), torch.full((1, 1), 0.5))
        q = Precision(net)(f, f, p).q
        assert abs(q.mean.item() - {"prior": -2.0, "data": 0.3}[shown]) < 1e-3
        assert q.stddev.item() <= 0.5


@pytest.mark.parametrize("name", sorted(RELATIVE))
def test_a_posterior_that_starts_from_its_prior_needs_a_normal_one(name):
    mixture = PRIORS["mixture"]().double()(normals("h", 2, H))
    with pytest.raises(UsageError, match="DiagonalMixture") as caught:
        POSTERIORS[name](H, F, D).double()(normals("h", 2, H), normals("f", 2, F), mixture)
    assert caught.value.code == "E246"


SIGMA, SPREAD = 1.0, 0.3


class Chain:
    """z_2 ~ N(0, I), z_1 | z_2 and x | z_1 linear and normal: log p(x) by linear algebra."""

    def __init__(self, posterior):
        with noise.isolated("chain"):
            net, likelihood = nn.Linear(2, 6), nn.Linear(3, 5)
            levels = [
                Level(
                    "z2", StandardNormal(2), Plain(nn.Linear(5, 4)), MarkovUpdate(nn.Identity())
                ),
                Level(
                    "z1",
                    Conditional(net, LatentGaussian()),
                    posterior,
                    MarkovUpdate(nn.Identity()),
                ),
            ]
            encoder = BottomUp([nn.Linear(5, 5), nn.Linear(5, 5)])
            family = Conditional(likelihood, fam.FixedSigma(SIGMA))
            self.model = LatentModel(encoder, levels, family, Empty())
        randomise(self.model, "chain", SPREAD)
        self.model.likelihood.family.sigma.fill_(SIGMA)  # exactly, in float64
        with torch.no_grad():
            net.weight[3:] = 0.0  # the spread of z_1 does not depend on z_2
            for level in levels:  # posteriors that are off, but wide enough for proposals
                rule = getattr(level.posterior, "inner", level.posterior)
                head = rule.conditional.net
                head.weight[len(head.weight) // 2 :] *= 0.1
                head.bias[len(head.weight) // 2 :] = 0.5
        spread = torch.diag(net.bias[3:].detach().exp() ** 2)
        w, v = net.weight[:3].detach(), likelihood.weight.detach()
        covariance = v @ (w @ w.T + spread) @ v.T + SIGMA**2 * torch.eye(5)
        mean = v @ net.bias[:3].detach() + likelihood.bias.detach()
        self.x = torch.distributions.MultivariateNormal(mean, covariance)

    def data(self, n):
        with noise.isolated("chain data"):
            return self.x.sample((n,))


CHAINS = {
    "plain": lambda: Plain(nn.Linear(5, 6)),
    "informed": lambda: Informed(nn.Linear(7, 6)),
    "residual": lambda: Residual(nn.Linear(7, 6)),
    "precision": lambda: Precision(nn.Linear(5, 6)),
    "flow": lambda: POSTERIORS["autoregressive flow"](2, 5, 3),
    "flow on residual": lambda: POSTERIORS["flow on residual"](2, 5, 3),
}
every_chain = pytest.mark.parametrize("name", CHAINS)


@every_chain
def test_the_mean_weight_in_a_hierarchy_is_p_of_x_itself(name):
    chain, k = Chain(CHAINS[name]()), 6000
    x = chain.data(6)
    trace = Trace(from_posterior(noise.Stream(noise.generator("weights"))), 6, k)
    with torch.no_grad():
        log_p = chain.model(x, trace).log_prob(x.repeat_interleave(k, 0))
    log_w = (log_p + trace.log_ratio()).view(6, k)
    w = (log_w - chain.x.log_prob(x)[:, None]).exp()
    effective = w.sum(1).square() / w.square().sum(1)
    assert effective.min() > 50  # or the test would say little
    assert ((w.mean(1) - 1) / w.std(1) * k**0.5).abs().max() < 4.5
    gap = trace.kl() + trace.log_ratio()
    assert abs(gap.mean()) <= 4.5 * gap.std() / len(gap) ** 0.5


@every_chain
def test_every_level_is_compared_with_the_prior_that_the_draw_above_gives(name):
    chain = Chain(CHAINS[name]())
    x = chain.data(4)
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 4)
    chain.model(x, trace)
    top, low = trace.sites["z2"], trace.sites["z1"]
    given = chain.model.levels[1].prior(top.z)
    torch.testing.assert_close(low.p.mean, given.mean)
    total = sum(
        site.log_q - site.p.log_prob(site.z) if site.exact_kl() is None else site.exact_kl()
        for site in (top, low)
    )
    torch.testing.assert_close(trace.kl(), total)


def walk(model, x, choose=from_posterior, samples=1):
    trace = Trace(choose(noise.Keyed(noise.row_keys(x))), len(x), samples)
    model(x, trace)
    return trace


@every_chain
def test_a_chain_is_found_by_what_happened(name):
    chain = Chain(CHAINS[name]())
    x = chain.data(4)
    reads = name in DEPENDENT
    assert walk(chain.model, x).chained() == ("z1" if reads else None)
    assert walk(chain.model, x, path_derivative, 3).chained() == ("z1" if reads else None)
    with torch.no_grad():
        assert walk(chain.model, x).chained() is None
    free = Trace(from_prior(noise.generator("free")), 4)
    chain.model(None, free)
    assert free.chained() is None
    for part in (chain.model.encoder, chain.model.levels[0]):  # z_2 does not depend on weights
        part.requires_grad_(False)
    assert walk(chain.model, x).chained() is None


def test_a_chain_over_three_levels_is_found_at_its_first_link():
    with noise.isolated("three"):
        levels = [
            Level(n, StandardNormal(2), rule, Concat(nn.Linear(width + 2, 3)))
            for n, width, rule in [
                ("a", 0, Plain(nn.Linear(4, 4))),
                ("b", 3, Plain(nn.Linear(4, 4))),
                ("c", 3, Residual(nn.Linear(7, 4))),
            ]
        ]
        family = Conditional(nn.Linear(3, 4), fam.FixedSigma(1.0))
        model = LatentModel(Three(nn.Linear(4, 4)), levels, family, Empty()).double()
    assert walk(model, normals("x", 5, 4)).chained() == "c"


class Three(Single):
    def forward(self, x, context):
        return super().forward(x, context) * 3


@every_chain
def test_the_doubly_reparameterised_gradient_is_refused_where_it_is_biased(name):
    chain = Chain(CHAINS[name]())
    x, objective = chain.data(4), Iwae(chain.model, 3)
    keyed = noise.Keyed(noise.row_keys(x))
    if name not in DEPENDENT:
        objective(x, 0, keyed).value.backward()
        return
    with pytest.raises(UsageError, match="'z1' depends on a draw of an earlier level") as caught:
        objective(x, 0, keyed)
    assert caught.value.code == "E246"
    assert "dreg=False" in caught.value.fix
    plain = Iwae(chain.model, 3, dreg=False)(x, 0, keyed)
    plain.value.backward()
    with torch.no_grad():  # the value is a bound all the same
        torch.testing.assert_close(objective(x, 0, keyed).value, plain.value.detach())


def gradients(model, objective, x, runs):
    found = []
    for i in range(runs):
        model.zero_grad()
        objective(x, 0, noise.Stream(noise.generator("chain", i))).value.backward()
        parts = [*model.encoder.parameters(), *model.levels.parameters()]
        found.append(torch.cat([p.grad.flatten() for p in parts]))
    return torch.stack(found)


@pytest.mark.parametrize("name", ["residual", "precision"])
def test_what_is_refused_is_biased_and_what_is_not_is_not(name, monkeypatch):
    """The same noise for both estimators, in standard errors of their mean difference."""
    chain, runs = Chain(CHAINS[name]()), 60
    x = chain.data(20).repeat(15, 1)

    def bias(ours, theirs):
        gap = gradients(chain.model, ours, x, runs) - gradients(chain.model, theirs, x, runs)
        return (gap.mean(0) / gap.std(0).clamp_min(1e-12) * runs**0.5).abs().max()

    one, many = (Iwae(chain.model, k, dreg=False) for k in (1, 10))
    assert bias(StickingTheLanding(chain.model), one) < 4.5
    monkeypatch.setattr(elbo, "_refuse_chains", lambda trace: None)
    assert bias(Iwae(chain.model, 10), many) > 6


def test_the_gradient_of_the_bound_in_a_hierarchy_is_that_of_its_formula():
    chain = Chain(CHAINS["residual"]())
    x = chain.data(6)
    keyed = noise.Keyed(noise.row_keys(x))
    trace = Trace(from_posterior(keyed), 6, 4)
    log_p = chain.model(x, trace).log_prob(x.repeat_interleave(4, 0))
    bound = (log_p + trace.log_ratio()).view(6, 4).logsumexp(1).mean()
    expected = torch.autograd.grad(-bound, list(chain.model.parameters()))
    Iwae(chain.model, 4, dreg=False)(x, 0, keyed).value.backward()
    for p, gradient in zip(chain.model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.mark.parametrize("name", ["gaussian", "iaf iaf", "ladder", "counts nb"])
def test_the_objective_of_a_fit_takes_the_gradient_that_is_unbiased(name):
    model = recipe(name)
    model.train()
    weights = {**OBJECTIVE, "iwae": 5}
    before = {n: b.clone() for n, b in model.named_buffers()}
    state = torch.get_rng_state()
    objective = objective_of(model, weights, 100, 100)
    assert objective.dreg == (name != "ladder")
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], b) for n, b in model.named_buffers())
    x, context = RECIPES[name].data(6)
    objective(x, 0, noise.Keyed(noise.row_keys(x)), context).value.backward()


@every_chain
def test_the_elbo_moves_every_weight_of_a_hierarchy(name):
    chain = Chain(CHAINS[name]())
    x = chain.data(8)
    Elbo(chain.model)(x, 0, noise.Keyed(noise.row_keys(x))).value.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in chain.model.parameters())
