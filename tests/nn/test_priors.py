"""Priors that learn with the model: what they are, whom they borrow from, what is saved."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from core_parts import encode, randomise
from lowerbound import Model, noise, recipes
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.nn.distributions import base as dist
from lowerbound.nn.distributions import families as fam
from lowerbound.nn.latents.flows import Planar
from lowerbound.nn.latents.mixture_priors import (
    EncoderReference,
    Exemplar,
    KeyRecorder,
    Vamp,
    start_from,
)
from lowerbound.nn.latents.posteriors import Flow, Plain
from lowerbound.nn.latents.priors import FlowPrior, StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Concat, Empty, Single, trunk
from lowerbound.nn.objectives.elbo import Elbo, Iwae
from lowerbound.nn.trace import Trace, from_posterior, from_prior
from lowerbound.tasks.metrics import log_likelihood
from lowerbound.training.engine.flat import Flat
from lowerbound.training.fit import learn
from lowerbound.training.plan import Plan

FEATURES, LATENT, K = 3, 2, 5


def draws(n, *shape, key="x"):
    return torch.randn(n, *shape, generator=noise.generator(key))


def build(make, posterior=None):
    """A model whose prior is `make`(encoder, posterior); gives the encoder that it ends with."""
    with noise.isolated("built"):
        encoder = Single(trunk([FEATURES, 8]))
        posterior = posterior or Plain(nn.Linear(8, 2 * LATENT))
        encoder, prior = make(encoder, posterior)
        level = Level("z", prior, posterior, Concat(trunk([LATENT, 8])))
        net = nn.Linear(8, FEATURES)
        return LatentModel(encoder, [level], fam.Conditional(net, fam.FixedSigma(0.5)), Empty())


def vamp(encoder, posterior):
    return encoder, Vamp(EncoderReference(encoder, posterior), K, [FEATURES])


def exemplar(encoder, posterior):
    reading = KeyRecorder(encoder)
    return reading, Exemplar(EncoderReference(encoder, posterior), K, [FEATURES], reading.last)


def posterior_at(model, x):
    trace = Trace(from_posterior(noise.Stream(noise.generator("q"))), len(x))
    model(x, trace)
    return trace.sites["z"].q


def prior_of(model, rows=1):
    return model.levels[0].prior(torch.zeros(rows, 0))


def test_the_vamp_prior_is_the_mean_of_the_models_own_posteriors():
    model = build(vamp).eval()
    z = draws(7, LATENT, key="z")
    q = posterior_at(model, model.levels[0].prior.raw)
    by_hand = torch.stack(
        [
            torch.stack(
                [
                    torch.distributions.Normal(m, s).log_prob(v).sum()
                    for m, s in zip(q.mean, q.stddev, strict=True)
                ]
            )
            .exp()
            .mean()
            .log()
            for v in z
        ]
    )
    torch.testing.assert_close(prior_of(model, 7).log_prob(z), by_hand)


@pytest.mark.parametrize("make", [vamp, exemplar])
def test_what_is_borrowed_is_registered_once_and_saved_once(make):
    model, plain = build(make), build(lambda e, q: (e, StandardNormal(LATENT)))
    own = {n for n, _ in model.levels[0].prior.named_parameters()}
    assert own == ({"raw"} if make is vamp else {"raw_scale"})
    count = sum(p.numel() for p in plain.parameters())
    added = sum(p.numel() for p in model.levels[0].prior.parameters())
    assert sum(p.numel() for p in model.parameters()) == count + added
    # safetensors refuses tensors that share memory
    saved = load(save(model.state_dict()))
    places = [t.data_ptr() for t in model.state_dict().values() if t.numel()]
    assert len(places) == len(set(places))
    with noise.isolated("another"):
        again = build(make)
    randomise(again, "again").float()
    again.load_state_dict(saved)
    z, h = draws(4, LATENT, key="z"), torch.zeros(4, 0)
    for m in (model, again):
        m.eval()
    assert torch.equal(model.levels[0].prior(h).log_prob(z), again.levels[0].prior(h).log_prob(z))


@pytest.mark.parametrize("make", [vamp, exemplar])
def test_a_copy_borrows_from_the_copy(make):
    model = build(make).eval()
    copy = deepcopy(model)
    before = prior_of(model).log_prob(torch.zeros(1, LATENT))
    with torch.no_grad():
        for p in copy.encoder.parameters():
            p.zero_()
    assert torch.equal(prior_of(model).log_prob(torch.zeros(1, LATENT)), before)
    assert not torch.equal(prior_of(copy).log_prob(torch.zeros(1, LATENT)), before)


@pytest.mark.parametrize("make", [vamp, exemplar])
def test_flat_parameters_are_shared_once_and_seen_by_the_prior(make):
    model = build(make)
    z = torch.zeros(1, LATENT)
    before = prior_of(model).log_prob(z)
    flat = Flat(model)
    (values,) = flat.values
    assert len(values) == sum(p.numel() for p in model.parameters())
    assert torch.equal(prior_of(model).log_prob(z), before)
    with torch.no_grad():
        values.mul_(0.5)
    assert not torch.equal(prior_of(model).log_prob(z), before)
    prior_of(model).log_prob(z).backward()
    assert all(p.grad.any() for p in model.encoder.parameters())
    assert flat.norm() > 0


def test_pseudo_inputs_are_encoded_once_per_walk_whatever_the_rows():
    model, seen = build(vamp), []
    model.encoder.register_forward_hook(lambda m, given, out: seen.append(len(given[0])))
    x = draws(64, FEATURES)
    trace = Trace(from_posterior(noise.Stream(noise.generator("k"))), 64, 7)
    model(x, trace)
    trace.kl()
    assert seen == [64, K]
    seen.clear()
    model(None, Trace(from_prior(noise.generator("z")), 1000))
    assert seen == [K]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.0, 3.0)])
def test_pseudo_inputs_stay_in_the_range_and_go_on_learning_at_its_ends(bounds):
    module = Vamp(encode, 6, [4], bounds)
    assert (module.inputs() - sum(bounds) / 2).abs().max() < 0.5 * (bounds[1] - bounds[0])
    with torch.no_grad():
        module.raw.copy_(torch.linspace(-0.6, 1.6, 24).view(6, 4))
    u = module.inputs()
    assert ((u > bounds[0]) & (u < bounds[1])).all()
    assert (u.flatten().diff() > 0).all()
    middle = (module.raw > 0.4) & (module.raw < 0.6)
    straight = bounds[0] + (bounds[1] - bounds[0]) * module.raw
    torch.testing.assert_close(u[middle], straight[middle], atol=0.02, rtol=0)
    u.sum().backward()
    assert (module.raw.grad > 1e-3).all()


def test_pseudo_inputs_begin_at_rows_of_the_data():
    x = draws(4, FEATURES)
    x[1, 1] = torch.nan
    free = Vamp(encode, 3, [FEATURES])
    free.start_from(x)
    assert torch.equal(free.inputs(), x[:3].nan_to_num(0.5))
    few = Vamp(encode, 9, [FEATURES])
    before = few.raw.detach().clone()
    few.start_from(x)
    assert torch.equal(few.raw[4:], before[4:])
    held = Vamp(encode, 3, [FEATURES], (0.0, 1.0))
    held.start_from(torch.full((3, FEATURES), 0.5))
    torch.testing.assert_close(held.inputs(), torch.full((3, FEATURES), 0.5), atol=0.01, rtol=0)


def test_a_mixture_of_posteriors_that_are_not_normal_is_refused_by_name():
    flowing = Flow(Plain(nn.Linear(8, 2 * LATENT)), [Planar(LATENT, 8)])
    model = build(vamp, flowing)
    with pytest.raises(UsageError, match="FlowDistribution"):
        prior_of(model)
    for make, count in ((Vamp, 0), (Exemplar, 1)):
        with pytest.raises(UsageError, match="components"):
            make(encode, count, [FEATURES])


def mixture_at(model, x, z):
    """Log of the mean over x of N(z; mu(x), s^2 I), for one z."""
    scale = model.levels[0].prior.raw_scale.exp()
    centre = posterior_at(model, x).mean
    parts = torch.distributions.Normal(centre, scale).log_prob(z).sum(1)
    return parts.exp().mean().log()


def test_an_exemplar_is_left_out_of_its_own_prior_while_training():
    model = build(exemplar)
    x = draws(K + 3, FEATURES)
    model.levels[0].prior.start_from(x)
    with torch.no_grad():
        model.levels[0].prior.raw_scale.fill_(-0.3)
    everyone = list(range(K))
    for samples in (1, 3):
        trace = Trace(from_posterior(noise.Stream(noise.generator("k"))), len(x), samples)
        model.train()(x, trace)
        site = trace.sites["z"]
        model.eval()
        for row, (z, log_p) in enumerate(zip(site.z, site.p.log_prob(site.z), strict=True)):
            others = [k for k in everyone if k != row // samples]
            torch.testing.assert_close(log_p, mixture_at(model, x[others], z))
        trace = Trace(from_posterior(noise.Stream(noise.generator("k"))), len(x), samples)
        model.eval()(x, trace)
        site = trace.sites["z"]
        for z, log_p in zip(site.z, site.p.log_prob(site.z), strict=True):
            torch.testing.assert_close(log_p, mixture_at(model, x[:K], z))


def test_nobody_is_left_out_of_what_is_drawn_nor_where_there_is_nobody_else():
    model = build(exemplar).train()
    x = draws(4, FEATURES)
    model.levels[0].prior.start_from(x)
    model.encoder(x, None)
    model.encoder.last()
    p = prior_of(model, 6)
    assert torch.equal(p.mixture_distribution.logits, torch.full((6, K), -torch.tensor(K).log()))
    same = x[:1].expand(3, -1)
    model.levels[0].prior.start_from(same)
    value, _ = Elbo(model)(same, 0, noise.Stream(noise.generator("same")))
    assert value.isfinite()


@pytest.mark.parametrize("make", [vamp, exemplar])
def test_it_trains_by_either_objective_and_scores(make):
    model = build(make)
    x = draws(32, FEATURES)
    model.levels[0].prior.start_from(x)
    for objective in (Elbo(model), Iwae(model, 4), Iwae(model, 4, dreg=False)):
        model.zero_grad()
        loss = objective(x, 0, noise.Stream(noise.generator("train")))
        loss.value.backward()
        assert all(p.grad.any() and p.grad.isfinite().all() for p in model.parameters())
    found = log_likelihood(model, Dense(x), 64)
    assert found.log_p.isfinite().all()
    assert (found.effective_samples > 1).all()


def test_a_learned_prior_gains_on_clustered_data():
    """Two clusters far apart: a normal prior pays for the gap between their codes."""
    centres = torch.tensor([[-2.0, 2.0, 0.0], [2.0, -2.0, 1.0]])
    x = centres[torch.arange(128) % 2] + 0.3 * draws(128, FEATURES)
    bounds = {}
    for name, make in {
        "standard": lambda e, q: (e, StandardNormal(LATENT)),
        "vamp": vamp,
        "flow": lambda e, q: (e, FlowPrior(LATENT, 4, [16])),
        "exemplar": exemplar,
    }.items():
        model = build(make)
        if name in ("vamp", "exemplar"):
            model.levels[0].prior.start_from(x)
        source = noise.Stream(noise.generator("fit"))
        optimiser = torch.optim.Adam(model.parameters(), 2e-2)
        for step in range(50):
            optimiser.zero_grad()
            Elbo(model)(x, step, source).value.backward()
            optimiser.step()
        bounds[name] = log_likelihood(model, Dense(x), 64).mean
    best = max(bounds, key=bounds.get)
    assert best != "standard", bounds
    assert bounds["vamp"] > bounds["standard"], bounds
    assert bounds["flow"] > bounds["standard"], bounds


def flow(latent=3):
    return randomise(FlowPrior(latent, 3, [8]), "a flow", 0.3)


def test_a_coupling_is_undone_and_its_log_det_is_that_of_the_jacobian():
    for step in flow().steps:
        z = draws(5, 3, key="z").double()
        y, log_det = step(z)
        torch.testing.assert_close(step.back(y), z)
        for row in range(5):
            jacobian = torch.autograd.functional.jacobian(lambda v, s=step: s(v)[0], z[row])
            torch.testing.assert_close(log_det[row], torch.linalg.slogdet(jacobian).logabsdet)
        assert ((y != z).any(0) == torch.isin(torch.arange(3), step.moving)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_a_flows_draws_come_from_its_density_at_any_temperature(temperature):
    """E[f(z)] over draws against quadrature, for functions that see shape and dependence."""
    p = dist.tempered(flow(2)(torch.zeros(1, 0)), temperature)
    t = torch.linspace(-14, 14, 561, dtype=torch.float64)
    points = torch.cartesian_prod(t, t)
    mass = p.log_prob(points).exp() * (t[1] - t[0]) ** 2
    assert abs(mass.sum() - 1) < 1e-3
    with noise.isolated("flow draws"):
        z = p.sample((40_000,))[:, 0]
    for f in (
        lambda v: v[:, 0].tanh(),
        lambda v: (v[:, 0] * v[:, 1]).tanh(),
        lambda v: v[:, 1].cos(),
    ):
        mean = (mass * f(points)).sum()
        sd = ((mass * f(points) ** 2).sum() - mean**2).sqrt()
        assert abs(f(z).mean() - mean) < 4.5 * sd / 200
    torch.testing.assert_close(p.log_prob(z[:3, None])[:, 0], p.log_prob(z[:3]))


def test_a_flow_of_one_variable_is_a_normal():
    module = FlowPrior(1)
    assert not module.steps
    log_p = module(torch.zeros(2, 0)).log_prob(torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(log_p, torch.distributions.Normal(0, 1).log_prob(torch.arange(2.0)))


def test_a_flows_density_stays_in_float32_when_its_networks_run_in_bfloat16():
    module = flow(2).float()
    z = draws(64, 2, key="z")
    with torch.autocast("cpu", torch.bfloat16):
        log_p = module(torch.zeros(64, 0)).log_prob(z)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p, module(torch.zeros(64, 0)).log_prob(z), atol=0.1, rtol=0.03)


NAMES = ("standard", "mixture", "flow", "vamp", "exemplar")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_a_prior_by_name(name):
    arguments = {"features": FEATURES, "latent": 2, "hidden": [8], "missing": True}
    arguments |= {"prior": name, "pseudo_inputs": 4}
    models = []
    for key in ("a", "b"):
        with noise.isolated(key):
            models.append(recipes.find("gaussian").make(arguments))
    a, b = models
    x = draws(16, FEATURES)
    start_from(a.levels[0].prior, lambda n: x[:n])
    Elbo(a)(x, 0, noise.Stream(noise.generator("step"))).value.backward()
    assert all(p.grad.any() for p in a.parameters())
    b.load_state_dict(load(save(a.state_dict())))
    for model in models:
        model.eval()
    scores = [log_likelihood(model, Dense(x), 8).log_p for model in models]
    assert torch.equal(*scores)


def test_the_weights_of_a_seed_do_not_depend_on_the_prior():
    built = {}
    for name in NAMES:
        with noise.isolated("seed"):
            built[name] = recipes.gaussian(FEATURES, 2, [8], prior=name, pseudo_inputs=4)
    for name in NAMES[1:]:
        both = (built[n].likelihood.parameters() for n in ("standard", name))
        assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))
    with pytest.raises(UsageError, match="vamp"):
        recipes.gaussian(FEATURES, prior="vampp")


@pytest.mark.parametrize("name", ["vamp", "exemplar", "flow"])
def test_a_chosen_prior_is_learned_saved_and_kept(name, tmp_path):
    x = draws(120, FEATURES).numpy()
    settings = {"prior": name, "pseudo_inputs": 5, "hidden": [8]}
    plan = Plan(recipe="sigma", settings=settings, preset="fast", max_epochs=2, latent=2)
    trained = learn(x, plan)
    assert trained.arguments["prior"] == name
    trained.save(tmp_path / "m.vae")
    again = Model.load(tmp_path / "m.vae")
    assert (again.anomaly_score(x) == trained.anomaly_score(x)).all()
    assert type(again.model.levels[0].prior).__name__.lower().startswith(name)
    drawn = again.samples(5).table
    assert drawn.num_rows == 5
