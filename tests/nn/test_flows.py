"""Maps of latents: their determinants, who sees whom, and the densities of what they draw."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Normal

from core_parts import FLOWS, LinearGaussian, randomise
from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions import base as dist
from lowerbound.nn.latents.flows import OPEN, Autoregressive, FlowDistribution, Planar
from lowerbound.nn.latents.posteriors import Flow
from lowerbound.nn.objectives.elbo import Iwae, StickingTheLanding

every_flow = pytest.mark.parametrize("name", FLOWS)
MASKED = [name for name in FLOWS if name != "planar"]
D, C = 5, 3


def normals(key, *shape):
    return torch.randn(*shape, generator=noise.generator(key), dtype=torch.float64)


def made(name, latent=D, spread=0.6):
    return randomise(FLOWS[name](latent, C), name, spread)


def jacobian(flow, z, context):
    """dy/dz of every row, (B, d, d), by autograd, and the log|det| that the flow says."""
    rows = [
        torch.autograd.functional.jacobian(lambda t, c=c: flow(t[None], c[None])[0][0], row)
        for row, c in zip(z, context, strict=True)
    ]
    return torch.stack(rows), flow(z, context)[1].detach()


@every_flow
@pytest.mark.parametrize("latent", [1, 2, 5])
@pytest.mark.parametrize("spread", [0.3, 0.9])
def test_the_determinant_is_that_of_the_jacobian(name, latent, spread):
    flow = made(name, latent, spread)
    z, context = 2 * normals("z", 12, latent), normals("c", 12, C)
    exact, said = jacobian(flow, z, context)
    sign, log_det = torch.linalg.slogdet(exact)
    assert (sign == 1).all()
    assert said.shape == (12,)
    torch.testing.assert_close(said, log_det, rtol=0, atol=1e-8)
    assert log_det.abs().max() > 1e-3


@pytest.mark.parametrize("name", MASKED)
def test_a_variable_sees_those_before_it_and_the_context(name):
    flow, context = made(name), normals("c", 1, C)
    exact = jacobian(flow, 0.7 * normals("z", 1, D), context)[0][0]
    order = torch.arange(D - 1, -1, -1) if name.endswith("backward") else torch.arange(D)
    sorted_ = exact[order][:, order]
    assert (sorted_.triu(1) == 0).all()
    assert (sorted_.tril() != 0)[torch.ones(D, D).tril().bool()].all()
    z = 0.7 * normals("z", 1, D)
    seen = torch.autograd.functional.jacobian(lambda c: flow(z, c)[0][0], context)[:, 0]
    assert (seen != 0).all()


@every_flow
def test_a_map_of_one_variable_never_turns_back(name):
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    for seed in range(5):
        flow = randomise(FLOWS[name](1, C), f"{name} {seed}", 4.0 if name == "planar" else 0.7)
        y, log_det = flow(z, normals(seed, 1, C).expand(len(z), C))
        slope = ((y[1:] - y[:-1]) / (z[1:] - z[:-1])).squeeze(1)
        assert (slope > 0).all()
        middle = (0.5 * (log_det[1:] + log_det[:-1])).exp()
        assert (slope - middle).abs().mean() < 0.01 * middle.mean()


def test_the_inverse_autoregressive_step_is_the_papers():
    flow = made("autoregressive")
    z, context = normals("z", 6, D), normals("c", 6, C)
    m, s = flow.numbers(z, context).unbind(2)
    sigma = torch.sigmoid(s + OPEN)
    y, log_det = flow(z, context)
    torch.testing.assert_close(y, sigma * z + (1 - sigma) * m)
    torch.testing.assert_close(log_det, sigma.log().sum(1))


def test_a_spline_leaves_far_values_alone_and_a_planar_map_bends_along_one_direction():
    z, context = normals("z", 6, D), normals("c", 1, C).expand(6, C)
    far = torch.where(z > 0, 5.5 + z, z - 5.5)
    y, log_det = made("spline")(far, context)
    assert torch.equal(y, far)
    assert (log_det == 0).all()
    moved = made("planar")(z, context)[0] - z
    assert torch.linalg.matrix_rank(moved.detach()) == 1


@every_flow
def test_sixteen_untrained_steps_keep_their_input_in_sight(name):
    with noise.isolated("untrained", name):
        steps = nn.ModuleList(FLOWS[name](D, C) for _ in range(16))
    z = (3 * normals("z", 50, D)).float().requires_grad_()
    y, total = z, torch.zeros(50)
    for step in steps:
        y, log_det = step(y, normals("c", 50, C).float())
        total = total + log_det
    assert y.isfinite().all()
    assert y.abs().max() < 2 * z.abs().max()
    assert total.abs().max() < 4 * D  # a shrinking of each variable by e^4 at most
    (y.square().sum() + total.sum()).backward()
    assert z.grad.isfinite().all()
    assert (z.grad.abs().amax(1) > 1e-4).all()
    for p in steps.parameters():
        assert p.grad.isfinite().all()
        assert p.grad.any()


@every_flow
def test_extreme_numbers_stay_finite(name):
    for spread in (30.0, 3e3):
        flow = randomise(FLOWS[name](D, C), name, spread).float()
        z = (100 * normals("z", 20, D)).float().requires_grad_()
        y, log_det = flow(z, 10 * normals("c", 20, C).float())
        assert y.isfinite().all()
        assert log_det.isfinite().all()
        (y.sum() + log_det.sum()).backward()
        assert z.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in flow.parameters())


def test_a_planar_map_without_a_direction_has_a_gradient():
    flow = Planar(2, 1).double()
    nn.init.zeros_(flow.net.weight)
    nn.init.zeros_(flow.net.bias)
    y, log_det = flow(normals("z", 4, 2), torch.ones(4, 1, dtype=torch.float64))
    assert (log_det == 0).all()
    (y.sum() + log_det.sum()).backward()
    assert flow.net.bias.grad.isfinite().all()


@every_flow
def test_densities_are_float32_when_networks_run_in_bfloat16(name):
    flow = made(name).float()
    z, context = normals("z", 30, D).float(), normals("c", 30, C).float()
    full = flow(z, context)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = flow(z, context.bfloat16())
    for a, b in zip(full, mixed, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().mean() < 0.1
    exact = made(name)(z.double(), context.double())
    for a, b in zip(full, exact, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)


@every_flow
def test_what_is_saved_are_the_weights_and_they_make_the_same_map(name):
    flow, other = made(name), randomise(FLOWS[name](D, C), "other")
    assert set(flow.state_dict()) == {n for n, _ in flow.named_parameters()}
    other.load_state_dict(flow.state_dict())
    z, context = normals("z", 4, D), normals("c", 4, C)
    assert torch.equal(other(z, context)[0], flow(z, context)[0])


def test_the_library_behind_the_masks_leaves_torchs_checks_on():
    assert "zuko" in sys.modules
    assert Distribution._validate_args
    assert isinstance(vars(Distribution)["arg_constraints"], property)
    with pytest.raises(ValueError, match="scale"):
        Normal(0.0, -1.0)


def flowed(name, rows, latent=2, spread=0.6):
    """The same distribution in every row, by two maps."""
    maps = [randomise(FLOWS[name](latent, C), f"{name} {i}", spread) for i in range(2)]
    loc, scale = normals("loc", 1, latent), 0.3 + normals("scale", 1, latent).abs()
    base = dist.normal(loc.expand(rows, latent), scale.expand(rows, latent))
    return FlowDistribution(base, maps, normals("context", 1, C).expand(rows, C))


def drawn(q, key="draw"):
    return dist.draw(q, lambda shape, like: normals(key, *shape).to(like))


@every_flow
def test_a_draw_comes_with_its_density(name):
    """Against the change of variables by autograd, and as a density: it integrates to 1."""
    q = flowed(name, 8)
    z, source = drawn(q)
    start = dist.reparameterise(q.base, normals("draw", 8, 2))
    torch.testing.assert_close(z, q.push(start)[0])
    torch.testing.assert_close(dist.reparameterise(q, normals("draw", 8, 2)), z)
    whole = lambda t, c: FlowDistribution(q.base, q.maps, c).push(t)  # noqa: E731
    log_det = torch.linalg.slogdet(jacobian(whole, start.detach(), q.context)[0])[1]
    torch.testing.assert_close(source.log_prob(z), q.base.log_prob(start) - log_det)
    n = 20_000
    z, source = drawn(flowed(name, n))
    p = dist.normal(z.mean(0).detach().expand(n, 2), 0.5 * z.std(0).detach().expand(n, 2))
    ratio = (p.log_prob(z) - source.log_prob(z)).exp().detach()
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / n**0.5
    assert ratio.std() < 20


@every_flow
def test_the_density_of_one_variable_is_its_histogram(name):
    n = 40_000
    q = flowed(name, n, 1, 1.0)
    z, source = drawn(q)
    order = z[:, 0].argsort()
    z, log_q = z[order, 0].detach(), source.log_prob(z)[order].detach()
    quantiles = torch.arange(1, n, 2000)
    mass = torch.trapezoid(log_q.exp(), z)
    assert abs(mass - 1) < 0.02
    up_to = torch.cumulative_trapezoid(log_q.exp(), z)[quantiles - 1]
    assert (up_to - quantiles / n).abs().max() < 0.02


def test_another_value_is_refused_and_so_is_the_flow_itself():
    q = flowed("autoregressive", 3)
    z, source = drawn(q)
    for ask in (lambda: q.log_prob(z), lambda: source.log_prob(z.clone())):
        with pytest.raises(UsageError, match="own draws") as caught:
            ask()
        assert caught.value.code == "E246"
    assert source.log_prob(z).shape == (3,)


def test_a_flow_has_a_centre_samples_and_no_closed_kl():
    q = flowed("spline", 4)
    torch.testing.assert_close(dist.centre(q), q.push(q.base.mean)[0])
    assert dist.exact_kl(q, q.base) is None
    assert dist.kl_per_dimension(q, q.base) is None
    with noise.isolated("samples"):
        z = q.sample((3, 5))
    assert z.shape == (3, 5, 4, 2)
    assert z.flatten(0, 2).unique(dim=0).shape == (60, 2)


def inverse(q, z):
    """z_0 by Newton's method: the way back that the flow itself does not have."""
    start = z.clone()
    for _ in range(60):
        missing = z - q.push(start)[0].detach()
        if missing.abs().max() < 1e-12:
            break
        exact, _ = jacobian(
            lambda t, c: FlowDistribution(q.base, q.maps, c).push(t), start, q.context
        )
        start = start + torch.linalg.solve(exact, missing).clamp(-0.5, 0.5)
    assert (q.push(start)[0] - z).abs().max() < 1e-10
    return start


@pytest.mark.parametrize("name", ["autoregressive", "planar", "spline"])
def test_the_path_derivative_is_the_slope_of_the_density(name):
    """Against central differences of log q(z), the flow inverted numerically."""
    q = flowed(name, 3)
    z, source = drawn(q)
    stopped = dist.stopped(source)
    torch.testing.assert_close(stopped.log_prob(z), source.log_prob(z))
    (slope,) = torch.autograd.grad(stopped.log_prob(z).sum(), z, retain_graph=True)
    z, step = z.detach(), 1e-5
    for i in range(2):
        sides = []
        for sign in (1, -1):
            moved = z.clone()
            moved[:, i] += sign * step
            start = inverse(q, moved)
            sides.append(q.base.log_prob(start) - q.push(start)[1])
        found = (sides[0] - sides[1]).detach() / (2 * step)
        torch.testing.assert_close(slope[:, i], found, atol=1e-4, rtol=1e-4)


def test_the_path_derivative_reaches_parameters_through_the_draw_only():
    q = flowed("autoregressive", 6)
    z, source = drawn(q)
    by_path = dist.stopped(source).log_prob(z)
    parameters = [p for m in q.maps for p in m.parameters()]
    (slope,) = torch.autograd.grad(by_path.sum(), z, retain_graph=True)
    got = torch.autograd.grad(by_path.sum(), parameters, retain_graph=True)
    expected = torch.autograd.grad((z * slope).sum(), parameters)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        assert not dist.stopped(source).log_prob(z).requires_grad


WORLD = LinearGaussian()
X = WORLD.data(24).repeat(20, 1)


def flow_world(kind):
    """The linear-Gaussian model with two maps on a posterior that is off, in float64."""
    model = WORLD.model(0.3, 1.3)
    maps = [FLOWS[kind](WORLD.latent, WORLD.features) for _ in range(2)]
    for i, m in enumerate(maps):
        randomise(m, f"{kind} {i}", 0.3)
    model.levels[0].posterior = Flow(model.levels[0].posterior, maps)
    return model


def gradients(model, objective, runs, key):
    """The encoder's gradients in independent runs, (runs, parameters)."""
    found = []
    for i in range(runs):
        model.zero_grad()
        objective(X, 0, noise.Stream(noise.generator(key, i))).value.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.levels.parameters()]))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["autoregressive", "planar"])
@pytest.mark.parametrize("bound", ["elbo", "iwae"])
def test_gradients_by_the_path_are_unbiased_with_a_flow(kind, bound):
    """The same noise for both estimators: only their difference has to vanish on average."""
    model, runs = flow_world(kind), 25
    by_path = StickingTheLanding(model) if bound == "elbo" else Iwae(model, 4)
    plain = Iwae(model, 1 if bound == "elbo" else 4, dreg=False)
    a, b = (gradients(model, o, runs, "flow") for o in (plain, by_path))
    gap = a - b
    assert (gap.mean(0) / gap.std(0).clamp_min(1e-12) * runs**0.5).abs().max() < 5
    assert (b.mean(0) / gap.std(0).clamp_min(1e-12) * runs**0.5).abs().max() > 30


def test_cutting_the_parameters_along_the_way_would_be_biased(monkeypatch):
    """The tempting shortcut: log q of the draw with the same z_0 and detached parameters."""
    model, runs = flow_world("autoregressive"), 40
    plain = gradients(model, Iwae(model, 1, dreg=False), runs, "flow")

    def shortcut(source):
        q = source.q
        frozen = [partial(torch.func.functional_call, m, _detached(m)) for m in q.maps]
        frozen = [lambda z, c, f=f: f((z, c)) for f in frozen]
        base = dist.stopped(q.base)
        log_q = (
            base.log_prob(source.start)
            - FlowDistribution(base, frozen, q.context).push(source.start)[1]
        )
        return type(source)(q, source.start, source.z, log_q)

    monkeypatch.setattr(dist, "stopped", _either(shortcut))
    gap = plain - gradients(model, StickingTheLanding(model), runs, "flow")
    assert (gap.mean(0) / gap.std(0).clamp_min(1e-12) * runs**0.5).abs().max() > 20


def _detached(module):
    return {n: p.detach() for n, p in module.named_parameters()}


def _either(shortcut):
    usual = dist.stopped
    return lambda d: shortcut(d) if hasattr(d, "start") else usual(d)


def test_a_richer_posterior_comes_nearer_to_the_true_one():
    """log p(x) minus the ELBO is KL(q || posterior): a flow closes a gap that a normal cannot."""
    truth = torch.distributions.MultivariateNormal(
        torch.zeros(2).double(), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    )
    gaps = {}
    for name, kind in [("normal", None), ("iaf", Autoregressive)]:
        with noise.isolated("gap", name):
            maps = [] if kind is None else [kind(2, 1, [16], backward=i == 1) for i in range(2)]
            loc, log_scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        maps = nn.ModuleList(maps).double()
        parts = nn.ParameterList([loc, log_scale]).double()
        one = torch.ones(1, 1).double()
        optimiser = torch.optim.Adam([*maps.parameters(), *parts], lr=0.05)
        for step in range(100):
            n = 64 if step < 99 else 5000
            base = dist.normal(parts[0].expand(n, 2), parts[1].exp().expand(n, 2))
            z, source = drawn(FlowDistribution(base, list(maps), one.expand(n, 1)), step)
            kl = (source.log_prob(z) - truth.log_prob(z)).mean()
            optimiser.zero_grad()
            kl.backward()
            optimiser.step()
        gaps[name] = kl.item()
    best = -0.5 * np.log(1 - 0.9**2)  # of a diagonal normal: the mutual information
    assert abs(gaps["normal"] - best) < 0.05 * best
    assert gaps["iaf"] < 0.1 * best
