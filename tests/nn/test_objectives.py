"""What training minimises is what the formulas say, and what it reports is a bound."""

from __future__ import annotations

import itertools
import math
from copy import deepcopy

import pytest
import torch
from torch.distributions import Laplace, Normal

from core_parts import PRIORS, LinearGaussian, linear_model, randomise
from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions import families as fam
from lowerbound.nn.distributions.base import kl_per_dimension
from lowerbound.nn.objectives.elbo import (
    Constant,
    Elbo,
    Iwae,
    Map,
    Ramp,
    StickingTheLanding,
    ThetaPrior,
)
from lowerbound.nn.trace import Trace, from_posterior
from recipe_parts import CHAINED, FOLLOWING, QUANTISED, RECIPES, SAMPLED, WHOLE_BATCH, recipe

WORLD = LinearGaussian()
X = WORLD.data(24)
KEYED = noise.Keyed(noise.row_keys(X))
every_recipe = pytest.mark.parametrize("name", RECIPES)


def kl_of(model, x=X, context=None):
    """KL of every row and latent dimension, and log p(x | z)."""
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), len(x))
    log_p = model(x, trace, context).log_prob(x)
    site = trace.sites["z"]
    return kl_per_dimension(site.q, site.p), log_p


def test_schedules():
    ramp = Ramp(0.5, 2.0, 10)
    assert [ramp(s) for s in (0, 5, 10, 11, 10**9)] == [0.5, 1.25, 2.0, 2.0, 2.0]
    assert Ramp(0.0, 1.0, 0)(1) == 1.0
    assert Constant(0.7)(123) == 0.7


def test_beta_weighs_the_rate_alone_and_follows_its_schedule():
    model = WORLD.model(0.3, 1.4)
    kl, log_p = kl_of(model)
    for beta, step, weight in [(4.0, 0, 4.0), (Ramp(0.0, 1.0, 10), 3, 0.3), (0.0, 0, 0.0)]:
        value, terms = Elbo(model, beta=beta)(X, step, KEYED)
        torch.testing.assert_close(value, -log_p.mean() + weight * kl.sum(1).mean())
        torch.testing.assert_close(terms["elbo"], (log_p - kl.sum(1)).mean())  # never weighted
        assert math.isclose(terms["beta"].item(), weight, rel_tol=1e-6)
    values = [Elbo(model, beta=b)(X, 0, KEYED).value for b in (0.0, 0.5, 1.0, 4.0)]
    assert all(a < b for a, b in itertools.pairwise(values))


@every_recipe
def test_the_loss_is_minus_the_reported_elbo_when_nothing_is_weighted(name):
    """In training and in evaluation: one objective, not two. A penalty is no part of the ELBO."""
    x, context = RECIPES[name].data(12)
    keyed = noise.Keyed(noise.row_keys(x))
    model = recipe(name)
    for mode in (model.train(), model.eval()):
        value, terms = Elbo(mode)(x, 0, keyed, context)
        assert ("penalty" in terms) == (name in QUANTISED)
        penalty = terms.get("penalty", torch.zeros(()))
        torch.testing.assert_close(value.detach(), penalty - terms["elbo"])
        torch.testing.assert_close(terms["elbo"], -terms["distortion"] - terms["rate"])
        if name in FOLLOWING and mode.training:  # the next look is at other codes
            continue
        bits = 200.0 if name in QUANTISED else 2.0  # of codes the whole site counts as one
        for changed in (Elbo(mode, beta=5.0), Elbo(mode, free_bits=bits)):
            loss = changed(x, 0, keyed, context)
            torch.testing.assert_close(loss.terms["elbo"], terms["elbo"])
            # A rate without a closed form is an estimate from one draw, which may lie below 0.
            assert loss.value > value or name in SAMPLED


def test_free_bits_average_over_the_batch_first():
    model = randomise(WORLD.model(), "free bits")
    kl, log_p = kl_of(model)
    mean = kl.mean(0)
    bits = mean.mean().item()  # one dimension of two lies below
    assert (mean < bits).sum() == 1
    per_sample = kl.clamp_min(bits).mean(0)
    assert (per_sample - mean.clamp_min(bits)).sum() > 1e-3  # the stronger constraint differs
    value = Elbo(model, free_bits=bits)(X, 0, KEYED).value
    torch.testing.assert_close(value, -log_p.mean() + mean.clamp_min(bits).sum())
    weighted = Elbo(model, beta=0.5, free_bits=bits)(X, 0, KEYED).value
    torch.testing.assert_close(weighted, -log_p.mean() + 0.5 * mean.clamp_min(bits).sum())


def test_without_a_closed_form_free_bits_are_those_of_the_whole_site():
    model = WORLD.model(0.2, 1.3)
    model.levels[0].prior = PRIORS["mixture"]()
    trace = Trace(from_posterior(KEYED), len(X))
    log_p = model(X, trace).log_prob(X)
    rate = trace.kl().mean().item()
    for bits in (0.5 * rate, 2 * rate):
        value = Elbo(model, free_bits=bits)(X, 0, KEYED).value
        torch.testing.assert_close(value, -log_p.mean() + max(rate, bits))


def test_free_bits_take_the_price_off_a_cheap_dimension_only():
    model = randomise(WORLD.model(), "free bits")
    kl, log_p = kl_of(model)
    bits = kl.mean(0).mean().item()
    dear = int(kl.mean(0).argmax())
    model.zero_grad()
    Elbo(model, free_bits=bits)(X, 0, KEYED).value.backward()
    got = model.levels[0].posterior.conditional.net.bias.grad.clone()
    kl, log_p = kl_of(model)
    model.zero_grad()
    (-log_p.mean() + kl[:, dear].mean()).backward()
    torch.testing.assert_close(got, model.levels[0].posterior.conditional.net.bias.grad)


@pytest.mark.parametrize("target", [0.05, 40.0])
def test_capacity_pulls_the_rate_to_its_target_from_either_side(target):
    model = WORLD.model(0.2, 0.9)
    kl, log_p = kl_of(model)
    objective = Elbo(model, beta=3.0, capacity=Ramp(0.0, target, 4))
    for step, goal in [(0, 0.0), (2, target / 2), (4, target), (9, target)]:
        expected = -log_p.mean() + 3.0 * (kl.sum(1).mean() - goal).abs()
        torch.testing.assert_close(objective(X, step, KEYED).value, expected)
    optimiser = torch.optim.SGD(model.levels.parameters(), lr=1e-4)
    (objective(X, 9, KEYED).value + log_p.mean()).backward()  # the distortion cancels
    optimiser.step()
    moved = kl_of(model)[0].sum(1).mean() - kl.sum(1).mean()
    assert moved.item() * (target - kl.sum(1).mean().item()) > 0


def test_impossible_settings_are_refused():
    model = WORLD.model()
    for wrong in (
        lambda: Elbo(model, free_bits=-1.0),
        lambda: Elbo(model, free_bits=1.0, capacity=Ramp(0, 1, 1)),
        lambda: Iwae(model, 0),
        lambda: ThetaPrior(Normal, 1.0, "no such.*").log_prob(model),
    ):
        with pytest.raises(UsageError):
            wrong()


# Those whose training loss looks at the whole batch have tests of their own.
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in WHOLE_BATCH])
def test_the_loss_is_the_mean_over_rows_whatever_the_batch(name):
    x, context = RECIPES[name].data(5)
    model, keys = recipe(name), noise.row_keys(x)

    def loss(rows, objective):
        given = None if context is None else context[rows]
        return objective(x[rows], 0, noise.Keyed(keys[rows]), given).value

    every = list(range(5))
    for objective in (Elbo(model), Iwae(model, 3, dreg=name not in CHAINED)):
        whole = loss(every, objective)
        parts = torch.stack([loss([i], objective) for i in every])
        torch.testing.assert_close(parts.mean(), whole)
        torch.testing.assert_close(loss(every[::-1], objective), whole)
        torch.testing.assert_close(loss(every * 3, objective), whole)


def test_scaling_the_data_shifts_the_bound_by_the_jacobian_and_keeps_the_rate():
    model = WORLD.model(0.2, 1.3)
    scaled = linear_model(WORLD.features, WORLD.latent, fam.FixedSigma(2 * WORLD.sigma))
    scaled.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "sigma" not in k}, strict=False
    )
    with torch.no_grad():
        scaled.levels[0].posterior.conditional.net.weight.mul_(0.5)
        for p in scaled.likelihood.net.parameters():
            p.mul_(2.0)
    a, b = Elbo(model)(X, 0, KEYED).terms, Elbo(scaled)(2 * X, 0, KEYED).terms
    torch.testing.assert_close(b["rate"], a["rate"])
    torch.testing.assert_close(b["distortion"], a["distortion"] + WORLD.features * math.log(2.0))


def test_beta_with_unit_variance_is_the_variance_of_the_likelihood():
    """beta KL - log N(x; mu, 1) has the gradient of sigma^2 (KL - log N(x; mu, sigma^2))."""
    model = WORLD.model(0.2, 1.3)
    unit = linear_model(WORLD.features, WORLD.latent, fam.FixedSigma(1.0))
    unit.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "sigma" not in k}, strict=False
    )
    variance = WORLD.sigma**2
    Elbo(unit, beta=variance)(X, 0, KEYED).value.backward()
    Elbo(model)(X, 0, KEYED).value.backward()
    for a, b in zip(unit.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, variance * b.grad)


@pytest.mark.parametrize("dreg", [True, False])
def test_iwae_with_one_sample_is_between_nothing_and_more_samples(dreg):
    model = WORLD.model(0.4, 1.6)
    x = X.repeat_interleave(200, 0)
    stream = noise.Stream(noise.generator("k"))
    with torch.no_grad():
        terms = [Iwae(model, k, dreg=dreg)(x, 0, stream).terms for k in (1, 5, 25)]
    assert terms[0]["bound"] == terms[0]["elbo"]
    assert terms[0]["bound"] < terms[1]["bound"] < terms[2]["bound"] < WORLD.log_p(x).mean()


def descend(model, objective, decay=0.0):
    """One plain SGD step of a copy of the model; the new parameters."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
    objective(X, 0, KEYED).value.backward()
    optimiser.step()
    return list(model.parameters())


def test_a_normal_prior_on_theta_is_weight_decay():
    scale, examples = 0.3, 24
    model = WORLD.model(0.2, 1.2)
    other = deepcopy(model)
    got = descend(model, Map(Elbo(model), [ThetaPrior(Normal, scale)], examples))
    expected = descend(other, Elbo(other), decay=1 / (scale**2 * examples))
    start = WORLD.model(0.2, 1.2).parameters()
    for a, b, before in zip(got, expected, start, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert not torch.equal(a, before)


def test_map_adds_minus_the_log_prior_of_the_chosen_parameters_per_example():
    model = WORLD.model(0.2, 1.2)
    plain = Elbo(model)(X, 0, KEYED)
    encoder, decoder = (
        ThetaPrior(Normal, 2.0, "levels.*"),
        ThetaPrior(Laplace, 0.5, "likelihood.*"),
    )
    value, terms = Map(Elbo(model), [encoder, decoder], 50)(X, 0, KEYED)
    log_theta = sum(Normal(0.0, 2.0).log_prob(p).sum() for p in model.levels.parameters())
    log_theta += sum(Laplace(0.0, 0.5).log_prob(p).sum() for p in model.likelihood.parameters())
    torch.testing.assert_close(value, plain.value - log_theta / 50)
    torch.testing.assert_close(terms["log_theta"], log_theta.detach())
    torch.testing.assert_close(terms["elbo"], plain.terms["elbo"])


def test_a_laplace_prior_pulls_every_weight_of_its_group_equally():
    model = WORLD.model(0.2, 1.2)
    plain, scale, examples = deepcopy(model), 0.25, 40
    Elbo(plain)(X, 0, KEYED).value.backward()
    prior = ThetaPrior(Laplace, scale, "likelihood.*weight")
    Map(Elbo(model), [prior], examples)(X, 0, KEYED).value.backward()
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        pull = a.detach().sign() / (scale * examples) if name == "likelihood.net.weight" else 0 * a
        torch.testing.assert_close(a.grad, b.grad + pull.detach())


def test_map_without_priors_is_maximum_likelihood():
    model = WORLD.model(0.2, 1.2)
    value, terms = Map(Iwae(model, 3), [], 24)(X, 0, KEYED)
    torch.testing.assert_close(value, Iwae(model, 3)(X, 0, KEYED).value)
    assert terms["log_theta"] == 0


def test_the_optimal_sigma_is_the_best_and_its_loss_is_the_closed_form():
    mu = torch.randn(6, 4, generator=noise.generator("mu"), dtype=torch.float64)
    x = mu + 0.3 * torch.randn(6, 4, generator=noise.generator("x"), dtype=torch.float64)
    family = fam.OptimalSigma().train()
    nll = -family(mu).log_prob(x).mean()
    best = (x - mu).square().mean().sqrt()
    grid = torch.linspace(0.1, 0.9, 801, dtype=torch.float64)
    losses = torch.stack([-fam.FixedSigma(s)(mu).log_prob(x).mean() for s in grid.tolist()])
    assert abs(grid[losses.argmin()] - best) < 1e-3
    torch.testing.assert_close(nll, 2 * ((2 * math.pi * best**2).log() + 1), rtol=1e-6, atol=0)
    assert nll <= losses.min()
    assert math.isclose(family.variance.item(), best.item() ** 2, rel_tol=1e-6)


def test_the_optimal_sigma_is_frozen_in_evaluation_and_remembers_gaps():
    family = fam.OptimalSigma().train()
    mu = torch.zeros(50, 3)
    for i in range(300):
        x = 0.5 * torch.randn(50, 3, generator=noise.generator("sigma", i))
        family(mu).log_prob(x.masked_fill(x > 9, torch.nan))
    before = family.variance.clone()
    assert abs(before.item() - 0.25) < 0.02
    family(mu).log_prob(torch.full_like(mu, torch.nan))  # says nothing of sigma
    assert torch.equal(family.variance, before)
    family.eval()
    x = torch.tensor([[0.1, torch.nan, 5.0], [0.2, 0.3, -1.0]])
    both = family(mu[:2]).log_prob(x)
    assert both.isfinite().all()
    torch.testing.assert_close(both[:1], family(mu[:1]).log_prob(x[:1]))
    assert torch.equal(family.variance, before)


def test_a_wild_first_step_is_forgotten_by_the_optimal_sigma_of_a_short_fit():
    family = fam.OptimalSigma().train()
    errors = [30.0, 3.0, *[0.5] * 13]
    for error in errors:
        family(torch.zeros(4, 2)).log_prob(torch.full((4, 2), error))
    # The mean in which batch t counts as t (t + 1) (t + 2) (t + 3).
    weights = torch.tensor([math.prod(range(t, t + 4)) for t in range(1, 16)]).double()
    mean = (weights * torch.tensor(errors).double().square()).sum() / weights.sum()
    assert math.isclose(family.variance.item(), mean.item(), rel_tol=1e-5)
    assert family.variance < 0.35  # 62 on average, 0.25 at the end


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, 1e30, torch.nan])
def test_a_batch_that_training_skips_does_not_spoil_the_optimal_sigma(value):
    family = fam.OptimalSigma().train()
    family(torch.zeros(4, 2)).log_prob(torch.full((4, 2), 0.5))
    family(torch.full((4, 2), value)).log_prob(torch.zeros(4, 2))
    assert family.variance == 0.25
    assert family.eval()(torch.zeros(1, 2)).log_prob(torch.zeros(1, 2)).isfinite()


@pytest.mark.parametrize("error", [0.0, 1e-30, 1e-4])
def test_a_perfect_reconstruction_does_not_break_the_optimal_sigma(error):
    mu = torch.zeros(5, 2, requires_grad=True)
    log_p = fam.OptimalSigma().train()(mu).log_prob(torch.full((5, 2), error))
    assert log_p.isfinite().all()
    log_p.sum().backward()
    assert mu.grad.isfinite().all()


class SigmaPoints:
    """Noise whose mean and covariance are exactly 0 and I over 2 d copies of every row."""

    def __call__(self, name, shape, like):
        eye = torch.eye(shape[1], dtype=like.dtype) * shape[1] ** 0.5
        return torch.cat([eye, -eye]).repeat(shape[0] // (2 * shape[1]), 1)


def gradient(model, objective, x, source):
    model.zero_grad()
    objective(x, 0, source).value.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_sticking_the_landing_has_the_exact_gradient_on_average(beta):
    """In this model the exact gradient is that over sigma points: log p(x | z) is quadratic."""
    model, runs = WORLD.model(0.4, 1.5), 250
    exact = gradient(model, Elbo(model, beta=beta), X.repeat_interleave(4, 0), SigmaPoints())
    objective = StickingTheLanding(model, beta=beta)
    found = torch.stack(
        [
            gradient(model, objective, X, noise.Stream(noise.generator("stl", i)))
            for i in range(runs)
        ]
    )
    error = found.std(0) / runs**0.5
    assert ((found.mean(0) - exact) / error.clamp_min(1e-12)).abs().max() < 4.5
    assert (exact / error).abs().max() > 30  # a wrong gradient would be seen


def test_sticking_the_landing_has_no_noise_at_the_true_posterior():
    model = WORLD.model()

    def encoder(objective):
        model.zero_grad()
        objective(X, 0, KEYED).value.backward()
        return torch.cat([p.grad.flatten() for p in model.levels.parameters()])

    assert encoder(StickingTheLanding(model)).abs().max() < 1e-9
    assert encoder(Iwae(model, 1, dreg=False)).abs().max() > 1e-2


def test_sticking_the_landing_reports_the_elbo_of_its_draws():
    model = WORLD.model(0.4, 1.5)
    value, terms = StickingTheLanding(model, beta=Ramp(0.0, 2.0, 10))(X, 5, KEYED)
    sampled = Iwae(model, 1)(X, 0, KEYED).terms
    for name in ("elbo", "distortion", "rate"):
        torch.testing.assert_close(terms[name], sampled[name])
    torch.testing.assert_close(value.detach(), -terms["elbo"])  # beta is 1 at step 5


def test_sticking_the_landing_is_unbiased_where_a_posterior_depends_on_an_earlier_draw():
    """Unlike the doubly reparameterised gradient: without weights, a cut score is 0 on average."""
    model, runs = recipe("ladder without batch norm").double().eval(), 150
    x = RECIPES["ladder without batch norm"].data(6)[0].double()
    pairs = torch.stack(
        [
            torch.stack(
                [
                    gradient(model, make(model), x, noise.Stream(noise.generator("levels", i)))
                    for make in (Elbo, StickingTheLanding)
                ]
            )
            for i in range(runs)
        ]
    )
    gap = pairs[:, 0] - pairs[:, 1]
    error = gap.std(0) / runs**0.5
    seen = error > 1e-9
    assert (gap.mean(0)[seen] / error[seen]).abs().max() < 4.5
    assert gap.mean(0)[~seen].abs().max() < 1e-9
    assert (pairs[:, 1].mean(0)[seen] / error[seen]).abs().max() > 30
