"""Densities and their gradients against 50-digit arithmetic, far beyond ordinary data."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Laplace, LogNormal, Normal

from core_parts import PLAIN
from lowerbound.nn.distributions import counts as cnt
from lowerbound.nn.distributions import scales

mp.mp.dps = 50
TEN = math.log(10.0)
COUNTS = [0.0, 1.0, 3.0, 1e3, 1e6]
VALUES = [*COUNTS, -3.0, -1e6]
LOGITS = [-1e4, -100.0, -10.0, -0.1, 0.0, 1.0, 30.0, 1e4]
MEANS = [TEN * k for k in range(-8, 9)]
DISPERSIONS = [TEN * k for k in range(-8, 13)]
SCALES = [1e-4, 1e-2, 0.3, 1.0, 50.0, 1e4, 1e6]
PLACES = [-1e8, -1e3, -1.0, -1e-8, 0.0, 0.5, 1e3, 1e6, 1e8]


def normal(x, mu, sigma):
    return -(((x - mu) / sigma) ** 2) / 2 - mp.log(sigma) - mp.log(2 * mp.pi) / 2


def laplace(x, mu, b):
    return -abs(x - mu) / b - mp.log(2 * b)


def student(x, mu, sigma, df):
    ratio = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(df * mp.pi) / 2
    return ratio - mp.log(sigma) - (df + 1) / 2 * mp.log1p(((x - mu) / sigma) ** 2 / df)


def poisson(x, log_mean):
    return x * log_mean - mp.exp(log_mean) - mp.loggamma(x + 1)


def negative_binomial(x, log_mean, log_theta):
    mu, theta = mp.exp(log_mean), mp.exp(log_theta)
    ways = mp.loggamma(x + theta) - mp.loggamma(theta) - mp.loggamma(x + 1)
    return ways - theta * mp.log1p(mu / theta) + x * mp.log(mu / (mu + theta))


def zero_inflated(x, log_mean, log_theta, gate):
    open_ = -mp.log1p(mp.exp(gate)) + negative_binomial(x, log_mean, log_theta)
    return open_ if x else mp.log(mp.exp(-mp.log1p(mp.exp(-gate))) + mp.exp(open_))


def bernoulli(x, logit):
    return -mp.log1p(mp.exp(-logit if x else logit))


def categorical(x, *logits):
    return logits[int(x)] - mp.log(mp.fsum(mp.exp(each) for each in logits))


def ordinal(x, location, first, second, third):
    ends = [mp.ninf, first, second, third, mp.inf]
    low, high = ends[int(x)] - location, ends[int(x) + 1] - location
    # From the side on which the difference does not cancel.
    if low + high > 0:
        low, high = -high, -low
    at = [mp.mpf(0) if v == mp.ninf else 1 / (1 + mp.exp(-v)) for v in (low, high)]
    return mp.log(at[1] - at[0])


class Grid(NamedTuple):
    make: Callable[..., Distribution]
    reference: Callable[..., mp.mpf]
    axes: list[list[float]]


CUTS = [[-1e4, -2.0], [-1.999, 0.5], [0.625, 3e3]]
GRIDS = {
    "normal": Grid(
        lambda m, s: Normal(m, s, validate_args=False), normal, [VALUES, PLACES, SCALES]
    ),
    "laplace": Grid(
        lambda m, b: Laplace(m, b, validate_args=False), laplace, [VALUES, PLACES, SCALES]
    ),
    "log-normal": Grid(
        lambda m, s: LogNormal(m, s, validate_args=False),
        lambda x, mu, sigma: normal(mp.log(x), mu, sigma) - mp.log(x),
        [[1e-8, 1.0, 3.0, 1e3, 1e6], [-18.0, -1.0, 0.0, 5.0, 18.0], [1e-2, 0.3, 1.0, 20.0]],
    ),
    "student": Grid(
        lambda m, s, df: cnt.StudentTCdf(df, m, s, validate_args=False),
        student,
        [VALUES, PLACES[::2], SCALES, [2.01, 9.4, 150.0, 1002.0]],
    ),
    "bernoulli": Grid(cnt.BernoulliLogits, bernoulli, [[0.0, 1.0], LOGITS]),
    "categorical": Grid(
        lambda *logits: cnt.Codes(torch.stack(logits, -1)),
        categorical,
        [[0.0, 1.0, 2.0], LOGITS, LOGITS[::3], LOGITS[1::3]],
    ),
    "ordinal": Grid(
        lambda place, *cuts: cnt.Codes(cnt.ordered_logits(place, torch.stack(cuts, -1))),
        ordinal,
        [[0.0, 1.0, 2.0, 3.0], LOGITS, *CUTS],
    ),
    "poisson": Grid(cnt.PoissonLog, poisson, [COUNTS, MEANS]),
    "negative binomial": Grid(
        cnt.NegativeBinomial, negative_binomial, [COUNTS, MEANS, DISPERSIONS]
    ),
    "zero-inflated": Grid(
        lambda m, t, g: cnt.ZeroInflated(cnt.NegativeBinomial(m, t), g),
        zero_inflated,
        [COUNTS, MEANS[::4], DISPERSIONS[::5], LOGITS],
    ),
}


def evaluate(grid: Grid) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    """Points, parameters, log p and its gradients, all in float32."""
    x, *parameters = torch.tensor(list(itertools.product(*grid.axes))).unbind(1)
    parameters = [p.clone().requires_grad_() for p in parameters]
    log_p = grid.make(*parameters).log_prob(x)
    return x, parameters, log_p, list(torch.autograd.grad(log_p.sum(), parameters))


def disagreement(got: float, exact: mp.mpf) -> float:
    """Relative error, absolute where the exact value is below one."""
    return float(abs(got - exact) / max(abs(exact), 1))


@pytest.mark.parametrize("name", GRIDS)
def test_log_densities_are_exact_and_gradients_finite(name):
    grid = GRIDS[name]
    x, parameters, log_p, gradients = evaluate(grid)
    assert log_p.dtype == torch.float32
    assert log_p.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)
    points = zip(x.tolist(), *(p.tolist() for p in parameters), log_p.tolist(), strict=True)
    wrong = []
    for *point, got in points:
        exact = grid.reference(*map(mp.mpf, point))
        if disagreement(got, exact) > 1e-5:
            wrong.append((point, got, mp.nstr(exact, 10)))
    assert not wrong, wrong[:5]


@pytest.mark.parametrize("name", GRIDS)
def test_gradients_are_exact(name):
    """On a random part of the grid: numerical derivatives in 50 digits are slow."""
    grid = GRIDS[name]
    x, parameters, _, gradients = evaluate(grid)
    chosen = random.Random(name).sample(range(len(x)), min(60, len(x)))
    wrong = []
    for i in chosen:
        point = [mp.mpf(x[i].item()), *(mp.mpf(p[i].item()) for p in parameters)]
        if name == "laplace" and point[0] == point[1]:
            continue  # the density has a corner there
        for which, gradient in enumerate(gradients, start=1):
            order = [0] * len(point)
            order[which] = 1
            at, fixed = point[which], point
            exact = mp.diff(
                lambda v, at=which, fixed=fixed: grid.reference(*fixed[:at], v, *fixed[at + 1 :]),
                at,
                h=max(abs(at), 1) * mp.mpf(10) ** -20,
            )
            if disagreement(gradient[i].item(), exact) > 1e-4:
                wrong.append((which, [mp.nstr(v, 8) for v in point], gradient[i].item(), exact))
    assert not wrong, wrong[:5]


EXTREMES = [0.0, 1e-8, 1.0, 9.3, 18.4, 18.5, 27.6, 1e2, 1e4, 1e8]
EXTREMES += [-v for v in EXTREMES[1:]]


@pytest.mark.parametrize("name", PLAIN)
def test_whatever_the_network_says_value_and_gradient_are_finite(name):
    case = PLAIN[name]
    family = case.make()
    width = family.numbers(case.columns)
    if "sigma" in name or width == case.columns:
        combinations = [(v,) * width for v in EXTREMES]
    elif name in {"categories", "tree of categories"}:  # too many for all combinations
        combinations = [
            (a, b, *[c] * (width - 2)) for a in EXTREMES for b in EXTREMES for c in (a, 0.0)
        ]
    else:
        each = itertools.product(EXTREMES, repeat=width // case.columns)
        combinations = [[v for v in e for _ in range(case.columns)] for e in each]
    xs = {
        "codes": [0.0, 1.0],
        "counts": COUNTS,
        "real": VALUES,
    }[case.support]
    numbers = torch.tensor(combinations, dtype=torch.float32).requires_grad_()
    for x in xs:
        values = torch.full((len(numbers), case.columns), x)
        if name == "categories":
            values[:, 0] = 0.0  # has a single class
        log_p = family(numbers).log_prob(values)
        assert log_p.isfinite().all()
        (gradient,) = torch.autograd.grad(log_p.sum(), numbers)
        assert gradient.isfinite().all()


def test_more_dispersion_tends_to_the_poisson():
    x, log_mean = torch.tensor([0.0, 3.0, 50.0, 1e3]), torch.tensor([-3.0, 1.0, 4.0, 6.9])
    limit = cnt.PoissonLog(log_mean).log_prob(x)
    away = [
        (cnt.NegativeBinomial(log_mean, log_mean.new_full((4,), t)).log_prob(x) - limit).abs()
        for t in (2.0, 5.0, 9.0, 14.0, 24.0)
    ]
    assert all((b <= a).all() for a, b in itertools.pairwise(away))
    assert away[-1].max() < 1e-4


def test_the_two_forms_of_the_negative_binomial_meet():
    edge = math.log(cnt.LARGE_DISPERSION)
    x = torch.tensor([0.0, 1.0, 17.0, 1e4, 1e6], dtype=torch.float64)
    log_theta = torch.tensor([[edge - 1e-9], [edge + 1e-9]], dtype=torch.float64)
    log_p = cnt.NegativeBinomial(torch.tensor(3.0).double(), log_theta.requires_grad_()).log_prob(
        x
    )
    torch.testing.assert_close(log_p[0], log_p[1], rtol=1e-8, atol=1e-8)
    for column in range(len(x)):
        (g,) = torch.autograd.grad(log_p[:, column].sum(), log_theta, retain_graph=True)
        torch.testing.assert_close(g[0], g[1], rtol=1e-6, atol=1e-6)


def test_the_cdf_of_counts_against_sums_in_50_digits():
    for mean, theta in [(0.01, 0.3), (5.0, 1e-3), (40.0, 2.0), (300.0, 1e6)]:
        log_mean, log_theta = (torch.tensor(v).double().log() for v in (mean, theta))
        for k in (0, 2, 30, 310):
            exact = mp.fsum(
                mp.exp(negative_binomial(mp.mpf(i), mp.log(mean), mp.log(theta)))
                for i in range(k + 1)
            )
            got = cnt.NegativeBinomial(log_mean, log_theta).cdf(torch.tensor(float(k)))
            assert disagreement(got.item(), exact) < 1e-8
            exact = mp.fsum(mp.exp(poisson(mp.mpf(i), mp.log(mean))) for i in range(k + 1))
            got = cnt.PoissonLog(log_mean.float()).cdf(torch.tensor(float(k)))
            assert disagreement(got.item(), exact) < 3e-5


def test_a_scale_is_left_alone_inside_its_range_and_never_leaves_it():
    low, high = math.log(1e-2), math.log(1e6)
    inside = torch.linspace(low + 1, high - 1, 400, dtype=torch.float64)
    assert (scales.soft_clip(inside, low, high) - inside).abs().max() < 1e-4
    raw = torch.linspace(-60, 60, 20001, dtype=torch.float64)
    scale = scales.scale_of(raw)
    assert (scale.diff() >= 0).all()
    assert scale.min() >= 1e-2 * (1 - 1e-9)
    assert scale.max() <= 1e6 * (1 + 1e-9)
    wild = torch.tensor([-3e38, -1e30, -1e8, 1e8, 1e30, 3e38], requires_grad=True)
    scale = scales.scale_of(wild)
    assert torch.allclose(scale, torch.tensor([1e-2] * 3 + [1e6] * 3))
    (gradient,) = torch.autograd.grad(scale.sum(), wild)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("log_theta", [-3.0, 0.5, 9.0, 25.0, 70.0])
@pytest.mark.parametrize("per_column", [False, True])
def test_the_gradient_of_a_zero_count_is_that_of_its_formula(log_theta, per_column):
    log_mean = torch.linspace(-4.0, 6.0, 15, dtype=torch.float64).view(3, 5).requires_grad_()
    shape = (5,) if per_column else (3, 5)
    theta = (log_theta + torch.linspace(-0.5, 0.5, math.prod(shape)).double()).view(shape)
    theta.requires_grad_()
    x = torch.tensor([[0.0, 0, 1, 0, 7], [0, 2, 0, 0, 0], [0, 0, 0, 0, 30]], dtype=torch.float64)

    def plain(log_mean, log_theta):
        at_zero = -log_theta.exp() * torch.log1p((log_mean - log_theta).exp())
        others = cnt._counted(x, log_mean, log_theta)
        return torch.where(x == 0, at_zero, others)

    def ours(log_mean, log_theta):
        return cnt.NegativeBinomial(log_mean, log_theta).log_prob(x)

    weights = torch.linspace(0.5, 1.5, 15, dtype=torch.float64).view(3, 5)
    expected = torch.autograd.grad((weights * plain(log_mean, theta)).sum(), (log_mean, theta))
    found = torch.autograd.grad((weights * ours(log_mean, theta)).sum(), (log_mean, theta))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-9)
    if log_theta < 20:  # beyond, the plain formula's own terms cancel
        torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-7)
        torch.autograd.gradgradcheck(ours, (log_mean, theta), atol=1e-4)
    assert all(gradient.isfinite().all() for gradient in found)


def test_the_zero_inflated_logarithm_is_the_sum_of_both_ways_to_be_zero():
    x = torch.tensor([0.0, 0.0, 0.0, 1.0, 4.0], dtype=torch.float64)
    gate = torch.tensor([-30.0, 0.3, 25.0, -2.0, 3.0], dtype=torch.float64)
    base = cnt.NegativeBinomial(torch.full_like(x, 0.7), torch.full_like(x, 0.2))
    inflated = gate.sigmoid()
    expected = (inflated * (x == 0) + (1 - inflated) * base.log_prob(x).exp()).log()
    torch.testing.assert_close(cnt.ZeroInflated(base, gate).log_prob(x), expected)
