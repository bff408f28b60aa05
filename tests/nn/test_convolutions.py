"""Convolutional models of images of any size, whatever their likelihood."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowerbound import noise, recipes
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import log_prob_cells, sample
from lowerbound.nn.networks.convolutions import (
    CropPadding,
    Decoder,
    Encoder,
    LearnedStart,
    PadToMultiple,
    Upsampling,
)
from lowerbound.nn.objectives.elbo import Elbo, Iwae
from lowerbound.nn.trace import Trace, from_posterior, from_prior
from lowerbound.recipes.images import LIKELIHOODS

SIZES = [(28, 28), (32, 32), (33, 47), (64, 64), (1, 1), (5, 3), (2, 9)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def images(likelihood, shape, rows=6):
    source = noise.generator("images", likelihood, shape)
    x = torch.rand(rows, *shape, generator=source)
    if "logistic" in likelihood:
        return (256 * x).floor()
    return x.round() if likelihood == "bits" else x


def model(likelihood="bits", shape=(1, 9, 7), **other):
    arguments = {"shape": list(shape), "latent": 3, "channels": [4, 5], **other}
    with noise.isolated("conv", likelihood):
        return recipes.find("conv").make({**arguments, "likelihood": likelihood})


@every_size
def test_a_decoder_gives_back_the_size_that_the_encoder_took(size):
    for channels in ([4], [3, 5], [2, 3, 4, 5]):
        with noise.isolated("size"):
            encoder = Encoder(2, size, channels)
            decoder = Decoder(6, size, channels)
            head = Upsampling(channels[0], 3, size)
            x = torch.randn(2, 2, *size, requires_grad=True)
        f = encoder(x)
        assert f.shape == (2, encoder.features)
        image = head(decoder(torch.ones(2, 6)))
        assert image.shape == (2, 3, *size)
        f.square().sum().backward()
        assert (x.grad != 0).all()  # no pixel is left out at an odd border
        for c in range(3):  # and every pixel that comes out is made from something
            assert (image[0, c] != head.bias[c]).all()


@every_size
def test_what_is_put_around_an_image_is_taken_away_again(size):
    x = torch.randn(2, 3, *size, generator=noise.generator("around"))
    for multiple in (1, 2, 8):
        enlarge, crop = PadToMultiple(size, multiple), CropPadding(size, multiple)
        large = enlarge(x)
        assert large.shape[2:] == enlarge.size
        assert all(n % multiple == 0 for n in enlarge.size)
        assert all(n - m < multiple for n, m in zip(enlarge.size, size, strict=True))
        assert torch.equal(crop(large), x)
        torch.testing.assert_close(large.amax((2, 3)), x.amax((2, 3)))


def test_a_learned_start_is_the_same_for_all_rows():
    start = LearnedStart(3, 2, 2)
    h = start(None, 5)
    assert h.shape == (5, 3, 2, 2)
    assert torch.equal(h[0], h[4])
    h.sum().backward()
    assert (start.state.grad == 5).all()


@every_likelihood
@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 8, 12)], ids=str)
def test_a_model_learns_and_all_of_it_takes_part(likelihood, shape):
    x = images(likelihood, shape)
    m = model(likelihood, shape)
    objective, source = Elbo(m), noise.Stream(noise.generator("steps"))
    optimiser = torch.optim.Adam(m.parameters(), 1e-2)
    values = []
    for step in range(12):
        optimiser.zero_grad()
        loss = objective(x, step, source)
        loss.value.backward()
        if step == 0:
            for name, p in m.named_parameters():
                assert p.grad is not None, name
                assert p.grad.isfinite().all(), name
                assert p.grad.any(), name
        optimiser.step()
        values.append(loss.value.item())
    assert min(values[-3:]) < values[0]


@every_likelihood
@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 8, 12)], ids=str)
def test_a_model_draws_values_of_its_own_kind_at_a_temperature(likelihood, shape):
    m = model(likelihood, shape).eval()
    source = noise.generator("draws")
    with torch.no_grad():
        trace = Trace(from_prior(source, 0.5), 100)
        px = m(None, trace)
        x = sample(px, source)
        z = trace.sites["z"].z
    assert x.shape == px.mean.shape == px.mode.shape == (100, *shape)
    assert abs(z.std() - 0.5) < 0.1
    if likelihood == "bits":
        assert set(x.unique().tolist()) <= {0.0, 1.0}
    elif likelihood == "continuous_bernoulli":
        assert x.min() >= 0
        assert x.max() <= 1
    elif "logistic" in likelihood:
        assert torch.equal(x, x.round().clamp(0, 255))
    log_p = px.log_prob(x)
    assert log_p.shape == (100,)
    cells = log_prob_cells(px, x)
    assert cells.shape == x.shape
    torch.testing.assert_close(cells.flatten(1).sum(1), log_p)


@every_likelihood
def test_weights_survive_a_file_bit_for_bit(likelihood):
    x = images(likelihood, (1, 9, 7))
    first, second = model(likelihood).eval(), model(likelihood, latent=3)
    with torch.no_grad():
        for p in second.parameters():
            p.add_(1.0)
    second.load_state_dict(first.state_dict())
    keyed = noise.Keyed(noise.row_keys(x))
    a, b = (m(x, Trace(from_posterior(keyed), 6)).log_prob(x) for m in (first, second.eval()))
    assert torch.equal(a, b)


@every_likelihood
def test_densities_stay_in_float32_under_autocast(likelihood):
    x = images(likelihood, (1, 9, 7))
    m = model(likelihood).eval()
    keyed = noise.Keyed(noise.row_keys(x))
    full = Elbo(m)(x, 0, keyed).value
    with torch.autocast("cpu", torch.bfloat16):
        trace = Trace(from_posterior(keyed), 6)
        log_p = m(x, trace).log_prob(x)
        mixed = Elbo(m)(x, 0, keyed).value
    assert trace.kl().dtype == log_p.dtype == mixed.dtype == torch.float32
    assert abs(mixed - full) < 0.02 * abs(full) + 0.5


@every_likelihood
def test_missing_pixels_cost_nothing_and_are_seen_as_missing(likelihood):
    x = images(likelihood, (1, 9, 7))
    m = model(likelihood, missing=True).eval()
    with_gaps = x.clone()
    with_gaps[:, :, 2:5] = torch.nan
    with_gaps[5] = torch.nan
    keyed = noise.Keyed(noise.row_keys(with_gaps))
    trace = Trace(from_posterior(keyed), 6)
    px = m(with_gaps, trace)
    log_p = px.log_prob(with_gaps)
    cells = log_prob_cells(px, x)
    kept = cells.masked_fill(with_gaps.isnan(), 0.0).flatten(1).sum(1)
    torch.testing.assert_close(log_p, kept)
    assert log_p[5] == 0
    value = Elbo(m.train())(with_gaps, 0, keyed).value
    value.backward()
    assert all(p.grad.isfinite().all() for p in m.parameters())


def test_networks_see_values_between_minus_1_and_1():
    for likelihood in LIKELIHOODS:
        seen = []
        m = model(likelihood)
        first = next(layer for layer in m.encoder.modules() if isinstance(layer, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        top = 255.0 if "logistic" in likelihood or likelihood == "softmax" else 1.0
        x = torch.full((2, 1, 9, 7), top)
        x[0] = 0.0
        m(x, Trace(from_prior(noise.generator("z")), 2))
        assert seen[0].shape[1] == 1
        # An odd border is filled with zeros: the middle of the range.
        torch.testing.assert_close(seen[0][0], torch.full_like(seen[0][0], -1.0))
        torch.testing.assert_close(seen[0][1], torch.full_like(seen[0][1], 1.0))


@pytest.mark.parametrize("k", [1, 5])
def test_the_importance_weighted_bound_of_images(k):
    x = images("logistic", (3, 8, 12))
    m = model("logistic", (3, 8, 12))
    value, terms = Iwae(m, k)(x, 0, noise.Keyed(noise.row_keys(x)))
    value.backward()
    assert terms["bound"] >= terms["elbo"] - 1e-2
    assert all(p.grad.any() for p in m.parameters())


def test_what_is_no_image_is_refused():
    for arguments, said in [
        ({"shape": [28, 28]}, "channels, height, width"),
        ({"shape": [1, 0, 28]}, "channels, height, width"),
        ({"shape": [1, 8, 8], "channels": []}, "channels"),
        ({"shape": [1, 8, 8], "latent": 0}, "latent"),
        ({"shape": [1, 8, 8], "likelihood": "logistics"}, "logistic"),
        ({"shape": [3, 8, 8], "likelihood": "logistic_mixture", "missing": True}, "missing"),
    ]:
        with pytest.raises(UsageError, match=said):
            recipes.find("conv").make(arguments)


def test_a_mixture_prior_takes_the_place_of_the_normal_one():
    m = model(components=3)
    x = images("bits", (1, 9, 7))
    assert Elbo(m)(x, 0, noise.Keyed(noise.row_keys(x))).value.isfinite()
