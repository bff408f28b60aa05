"""Evaluation: rows are encoded once for all chunks, and models have a place in the plane."""

from __future__ import annotations

import pytest
import torch

from core_parts import LinearGaussian
from lowerbound import noise
from lowerbound.coding.rows import Batch, Dense
from lowerbound.nn.latents.mixture_priors import EncoderReference, Vamp
from lowerbound.nn.model import evaluating
from lowerbound.nn.trace import Encoded, Trace, from_posterior, posterior_mean
from lowerbound.noise import row_keys
from lowerbound.tasks import draws
from lowerbound.tasks.evaluate import Moments
from lowerbound.tasks.latent_use import latent_use, together
from lowerbound.tasks.metrics import log_likelihood, log_weights
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


def test_latents_are_drawn_without_decoding_them(monkeypatch):
    it, x, decoded = model(), rows(10), []
    decode = type(it.likelihood).forward

    def counted(part, h):
        decoded.extend([h] * (part is it.likelihood))
        return decode(part, h)

    monkeypatch.setattr(type(it.likelihood), "forward", counted)
    trace = Trace(posterior_mean, 10)
    assert it(x, trace) is not None
    z = torch.cat([site.z for site in trace.sites.values()], 1)
    assert len(decoded) == 1
    decoded.clear()
    moved = it.levels[-1].advance.register_forward_hook(lambda m, given, out: decoded.append(out))
    assert torch.equal(draws.embed(it, Dense(x)), z)
    assert latent_use(it, Dense(x)).rows == 10
    assert it(x, Trace(posterior_mean, 10, decode=False)) is None
    moved.remove()
    assert not decoded


def test_an_encoding_is_shared_by_traces_of_one_batch_only():
    it = model()
    a, b = rows(3), rows(5)[2:]
    seen = counting(it)
    encoded = Encoded()
    found = [Trace(from_posterior(noise.Keyed(row_keys(a))), 3, k, encoded) for k in (1, 4)]
    for trace in found:
        it(a, trace)
    assert seen == [3]
    fresh = Trace(from_posterior(noise.Keyed(row_keys(a))), 3, 4)
    it(a, fresh)
    assert seen == [3, 3]
    assert torch.equal(fresh.log_ratio(), found[1].log_ratio())
    for x, context in ((b, None), (a, rows(3))):
        with pytest.raises(ValueError, match="one batch"):
            it(x, Trace(posterior_mean, 3, encoded=encoded), context)


def test_a_model_in_evaluation_is_not_written_to_and_its_modes_come_back():
    it = model()
    it.encoder.train()
    modes = [m.training for m in it.modules()]
    with evaluating(it) as device:
        assert device.type == "cpu"
        assert not any(m.training for m in it.modules())
    assert [m.training for m in it.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluating(it):
        raise ZeroDivisionError
    assert [m.training for m in it.modules()] == modes


def test_a_prior_that_borrows_the_encoder_is_not_given_the_rows_features():
    it = model()
    level = it.levels[0]
    level.prior = Vamp(EncoderReference(it.encoder, level.posterior), 3, [4])
    x = rows(3)  # as many as pseudo-inputs
    several = log_likelihood(it, Dense(x), 6, chunk=2, most=3).log_p
    torch.testing.assert_close(several, log_likelihood(it, Dense(x), 6, chunk=6, most=3).log_p)


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
