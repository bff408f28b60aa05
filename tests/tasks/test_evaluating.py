"""Evaluation: rows are encoded once for all chunks, and models have a place in the plane."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core_parts import LinearGaussian
from lowerbound import noise
from lowerbound.coding.rows import Batch, Dense
from lowerbound.nn.latents.mixture_priors import Borrowed, Vamp
from lowerbound.nn.partial import encoded_once, undecoded
from lowerbound.nn.trace import Trace, posterior_mean
from lowerbound.tasks import draws
from lowerbound.tasks.evaluate import Moments
from lowerbound.tasks.latent_use import latent_use, together
from lowerbound.tasks.metrics import elbo, log_likelihood, log_weights, rate_distortion
from recipe_parts import RECIPES, recipe

WORLD = LinearGaussian()


def counting(model):
    """Count the rows that the encoder's network computes."""
    seen = []
    net = model.encoder.net
    net.register_forward_hook(lambda m, given, out: seen.append(len(given[0])))
    return seen


def model():
    return recipe("gaussian").eval()


def rows(n):
    return torch.randn(n, 4, generator=noise.generator("rows"))


def test_rows_are_encoded_once_for_all_chunks_of_samples():
    it = model()
    seen = counting(it)
    x = rows(10)
    found = log_likelihood(it, Dense(x), 100, chunk=7, most=4)
    assert seen == [4, 4, 4]
    parts = [log_weights(it, Batch(x), k, f).detach() for f, k in [(0, 64), (64, 36)]]
    by_hand = torch.cat(parts, 1).double().logsumexp(1) - torch.tensor(100.0).double().log()
    torch.testing.assert_close(found.log_p, by_hand, atol=1e-5, rtol=0)


def test_latents_are_looked_at_without_decoding_them(monkeypatch):
    it, x, decoded = model(), rows(10), []
    decode = type(it.likelihood).forward

    def counted(part, h):
        decoded.extend([h] * (part is it.likelihood))
        return decode(part, h)

    monkeypatch.setattr(type(it.likelihood), "forward", counted)
    trace = Trace(posterior_mean, 10)
    it(x, trace)
    z = torch.cat([site.z for site in trace.sites.values()], 1)
    assert len(decoded) == 1
    decoded.clear()
    torch.testing.assert_close(draws.embed(it, Dense(x)), z)
    before = latent_use(it, Dense(x))
    assert not decoded
    with undecoded(it):
        assert it(x, Trace(posterior_mean, 10)) is None
        assert torch.equal(latent_use(it, Dense(x)).rate, before.rate)
        assert "forward" in vars(it.likelihood)
        assert "forward" in vars(it.levels[-1].advance)
    assert "forward" not in vars(it.likelihood)
    assert "forward" not in vars(it.levels[-1].advance)
    with pytest.raises(ZeroDivisionError), undecoded(it):
        raise ZeroDivisionError
    assert it(x, Trace(posterior_mean, 10)) is not None
    with undecoded(nn.Linear(2, 2)) as nothing:
        assert nothing is None


def test_other_rows_are_read_as_always_and_nothing_is_left_behind():
    it = model()
    a, b = rows(3), rows(5)[2:]
    seen = counting(it)
    with encoded_once(it):
        first = it.encoder(a, None)[0]
        assert it.encoder(a, None)[0] is first
        torch.testing.assert_close(it.encoder(b, None)[0], it.encoder.net(b))
        assert it.encoder(a, None)[0] is first
        assert it.encoder(a, rows(3))[0] is not first
        with encoded_once(it):
            assert it.encoder(a, None)[0] is first
        assert it.encoder(a, None)[0] is first
    assert "forward" not in vars(it.encoder)
    seen.clear()
    it.encoder(a, None)
    assert seen == [3]
    with encoded_once(nn.Linear(2, 2)) as nothing:
        assert nothing is None
    with pytest.raises(ZeroDivisionError), encoded_once(it):
        raise ZeroDivisionError
    assert "forward" not in vars(it.encoder)


def test_a_prior_that_borrows_the_encoder_is_not_given_the_rows_features():
    it = model()
    level = it.levels[0]
    level.prior = Vamp(Borrowed(it.encoder, level.posterior), 3, [4])
    x = rows(3)  # as many as pseudo-inputs
    several = log_likelihood(it, Dense(x), 6, chunk=2, most=3).log_p
    torch.testing.assert_close(several, log_likelihood(it, Dense(x), 6, chunk=6, most=3).log_p)


def test_the_place_of_a_model_is_its_mean_rate_and_distortion():
    x = WORLD.data(300)
    models = [WORLD.model(shift, stretch) for shift, stretch in [(0.0, 1.0), (0.0, 2.0)]]
    exact, wide = rate_distortion(iter(models), Dense(x), samples=4)
    bound = elbo(models[0], Dense(x), samples=4)
    assert exact.rate == pytest.approx(bound.rate.mean().item())
    assert exact.distortion == pytest.approx(bound.distortion.mean().item())
    assert exact.rate_error == pytest.approx(bound.rate.std().item() / 300**0.5)
    # At the true posterior rate + distortion is -log p(x), and a wider posterior says less.
    truth = -WORLD.log_p(x).mean().item()
    assert abs(exact.rate + exact.distortion - truth) < 4 * exact.distortion_error
    assert wide.rate < exact.rate
    assert wide.distortion > exact.distortion
    (one,) = rate_distortion(models[:1], Dense(x[:1]))
    assert one.rate_error == 0


@pytest.mark.parametrize("name", ["ladder", "vqvae", "iaf iaf", "gaussian"])
def test_the_use_of_latents_over_parts_is_that_over_all(name):
    it, x = recipe(name).eval(), RECIPES[name].data(50)[0]
    whole = latent_use(it, Dense(x))
    parts = [latent_use(it, Dense(part)) for part in x.split([20, 1, 29])]
    found = together(parts)
    assert found.rows == whole.rows == 50
    assert whole.counted.all() == (name == "vqvae")
    for one, other in zip(found[:3], whole[:3], strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    assert torch.equal(found.active, whole.active)


def test_moments_of_parts_are_those_of_all():
    x = 1e6 + torch.randn(1000, generator=noise.generator("moments"), dtype=torch.float64)
    moments = Moments()
    for part in x.split([1, 300, 2, 697]):
        moments.add(part)
    assert moments.count == 1000
    assert moments.mean == pytest.approx(x.mean().item(), rel=1e-14)
    assert moments.standard_error == pytest.approx(x.std().item() / 1000**0.5, rel=1e-9)
