"""The one model in which everything is known: log p(x), p(z | x), and the optimum."""

from __future__ import annotations

import pytest
import torch
from torch import Size, Tensor

from core_parts import LinearGaussian, linear_model
from lowerbound import noise
from lowerbound.nn.distributions import families as fam
from lowerbound.nn.distributions.base import exact_kl, normal
from lowerbound.nn.objectives.elbo import Elbo, Iwae
from lowerbound.nn.trace import Trace, from_posterior

WORLD = LinearGaussian()
X = WORLD.data(16)


def stream(*key):
    return noise.Stream(noise.generator(*key))


class SigmaPoints:
    """Noise of 2 d points per row whose mean and covariance are exactly 0 and I.

    Averages of quadratic functions over them are exact, and in this model log p(x | z) is one.
    """

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        d = shape[1]
        eye = torch.eye(d, dtype=like.dtype) * d**0.5
        return torch.cat([eye, -eye]).repeat(shape[0] // (2 * d), 1)


def log_weights(model, x, k, source):
    trace = Trace(from_posterior(source), len(x), k)
    log_p = model(x, trace).log_prob(x.repeat_interleave(k, 0))
    return (log_p + trace.log_ratio()).view(len(x), k)


def exact_elbo(model, x):
    points = x.repeat_interleave(2 * WORLD.latent, 0)
    return Elbo(model)(points, 0, SigmaPoints()).terms["elbo"]


def test_at_the_true_posterior_every_weight_is_p_of_x():
    model = WORLD.model()
    log_w = log_weights(model, X, 10, stream("exact"))
    torch.testing.assert_close(log_w, WORLD.log_p(X)[:, None].expand(-1, 10))
    torch.testing.assert_close(exact_elbo(model, X), WORLD.log_p(X).mean())
    bound = Iwae(model, 4)(X, 0, stream("bound"))
    torch.testing.assert_close(-bound.value, WORLD.log_p(X).mean())


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.6), (0.4, 1.0), (-0.3, 0.5)])
def test_the_gap_is_the_kl_to_the_true_posterior(shift, stretch):
    model = WORLD.model(shift, stretch)
    mean, variance = WORLD.posterior(X)
    scale = variance.sqrt().expand_as(mean)
    q, truth = normal(mean + shift, stretch * scale), normal(mean, scale)
    kl = exact_kl(q, truth).mean()
    assert kl > 0.05
    gap = WORLD.log_p(X).mean() - exact_elbo(model, X)
    assert abs(gap - kl) < 1e-8


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.6), (0.4, 1.0), (0.5, 1.3)])
def test_more_samples_tighten_the_bound_from_below(shift, stretch):
    model = WORLD.model(shift, stretch)
    x = X.repeat_interleave(250, 0)
    log_w = log_weights(model, x, 32, stream("tighten", shift, stretch)).detach()
    truth = WORLD.log_p(x)
    bounds = [log_w[:, 0]]
    bounds += [log_w[:, :k].logsumexp(1) - torch.tensor(float(k)).log() for k in (4, 8, 16, 32)]
    steps = zip([*bounds[:-1], bounds[-1]], [*bounds[1:], truth], strict=True)
    for low, high in steps:
        gain = high - low
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
    assert abs(bounds[0].mean() - exact_elbo(model, X)) < 4.5 * bounds[0].std() / len(x) ** 0.5


def test_the_mean_weight_is_p_of_x_itself():
    log_w = log_weights(WORLD.model(0.2, 1.4), X, 4000, stream("weights")).detach()
    w = (log_w - WORLD.log_p(X)[:, None]).exp()
    assert ((w.mean(1) - 1) / w.std(1) * 4000**0.5).abs().max() < 4.5


def test_the_reported_value_is_the_bound_with_either_gradient():
    model = WORLD.model(0.3, 1.5)
    for k in (1, 7):
        keyed = noise.Keyed(noise.row_keys(X))
        log_w = log_weights(model, X, k, keyed)
        bound = (log_w.logsumexp(1) - torch.tensor(float(k)).log()).mean()
        for dreg in (True, False):
            value, terms = Iwae(model, k, dreg=dreg)(X, 0, keyed)
            torch.testing.assert_close(-value, bound)
            torch.testing.assert_close(terms["bound"], bound.detach())
            torch.testing.assert_close(terms["elbo"], log_w.mean().detach())
            torch.testing.assert_close(terms["elbo"], -terms["distortion"] - terms["rate"])


def gradients(model, objective, x, source) -> tuple[Tensor, Tensor]:
    """Gradients of the encoder and of the decoder, each as one vector."""
    model.zero_grad()
    objective(x, 0, source).value.backward()
    encoder = [p.grad.flatten() for p in model.levels.parameters()]
    decoder = [p.grad.flatten() for p in model.likelihood.parameters()]
    return torch.cat(encoder), torch.cat(decoder)


def repeated(model, k, repeats, key) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder gradients, plain and doubly reparameterised, of independent runs; decoder check."""
    rows, decoder_gap = [], []
    for i in range(repeats):
        plain = gradients(model, Iwae(model, k, dreg=False), X, stream(key, i))
        dreg = gradients(model, Iwae(model, k, dreg=True), X, stream(key, i))
        rows.append(torch.stack([plain[0], dreg[0]]))
        decoder_gap.append((plain[1] - dreg[1]).abs().max())
    both = torch.stack(rows)
    return both[:, 0], both[:, 1], torch.stack(decoder_gap)


def test_the_doubly_reparameterised_gradient_is_unbiased():
    n = 500
    plain, dreg, decoder_gap = repeated(WORLD.model(0.4, 1.5), 6, n, "unbiased")
    gap = plain - dreg
    z = gap.mean(0) / gap.std(0) * n**0.5
    assert z.abs().max() < 4.5
    # The test can see a wrong gradient: the mean itself is far from zero in units of the error.
    assert (dreg.mean(0) / gap.std(0) * n**0.5).abs().max() > 30
    assert decoder_gap.max() < 1e-12  # the decoder's gradient is the ordinary one


def test_the_doubly_reparameterised_gradient_is_less_noisy_with_many_samples():
    plain, dreg, _ = repeated(WORLD.model(0.1, 1.1), 64, 100, "noise")
    assert dreg.var(0).sum() < 0.2 * plain.var(0).sum()


def test_with_one_sample_the_iwae_gradient_is_that_of_the_sampled_elbo():
    model, keyed = WORLD.model(0.4, 1.5), noise.Keyed(noise.row_keys(X))
    got = gradients(model, Iwae(model, 1, dreg=False), X, keyed)
    model.zero_grad()
    (-log_weights(model, X, 1, keyed).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in model.levels.parameters()])
    torch.testing.assert_close(got[0], expected)


def test_training_reaches_probabilistic_pca():
    """Tipping & Bishop, 1999: the optimum has the top eigenvectors and the mean of the rest."""
    x = WORLD.data(400, "train")
    with noise.isolated("untrained"):
        model = linear_model(WORLD.features, WORLD.latent, fam.SharedSigma())
    objective, source = Elbo(model), stream("train")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    steps = 600
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        optimiser.zero_grad()
        objective(x, step, source).value.backward()
        optimiser.step()
        schedule.step()
    covariance = torch.cov(x.T, correction=0)
    values = torch.linalg.eigvalsh(covariance).flip(0)
    kept, rest = values[: WORLD.latent], values[WORLD.latent :].mean()
    logs = kept.log().sum() + (WORLD.features - WORLD.latent) * rest.log()
    best = -0.5 * (WORLD.features * (torch.tensor(2 * torch.pi).log() + 1) + logs)
    w = model.likelihood.net.weight
    sigma = model.likelihood.family(torch.zeros(1, WORLD.features).double()).stddev[0, 0]
    fitted = w @ w.T + sigma**2 * torch.eye(WORLD.features)
    offset = model.likelihood.net.bias
    reached = torch.distributions.MultivariateNormal(offset, fitted).log_prob(x).mean()
    assert reached <= best + 1e-9
    assert reached > best - 0.005
    assert abs(sigma.square() - rest) < 0.02 * rest
    points = x.repeat_interleave(2 * WORLD.latent, 0)
    elbo = Elbo(model)(points, 0, SigmaPoints()).terms["elbo"]
    assert reached - 0.01 < elbo <= reached
