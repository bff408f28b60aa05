"""Pictures of any size as maps of latents, and back, in tiles and as a whole."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from lowerbound import noise, recipes
from lowerbound.coding.augmentations import OnlySize
from lowerbound.coding.rows import Batch, Dense
from lowerbound.errors import UsageError
from lowerbound.nn.trace import Trace, from_prior, posterior_mean
from lowerbound.recipes.autoencoders import reach
from lowerbound.tasks.autoencode import (
    Latents,
    Sizes,
    decode,
    decoded,
    encode,
    posterior,
    quality,
    size_of,
)
from recipe_parts import recipe


def rough(downscale=4, channels=1, depth=1):
    """A small model whose weights are so large that every pixel matters, and its sizes."""
    small = {"channels": channels, "downscale": downscale, "width": 4, "depth": depth, "latent": 3}
    with noise.isolated("rough autoencoder"):
        model = recipes.find("autoencoder").make(small)
        for weight in model.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, 0.0, 0.15)
    return model.eval(), Sizes(channels, 3, downscale, reach(depth, downscale))


def picture(*shape):
    return torch.rand(shape, generator=noise.generator("picture", shape))


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (16, 16), (33, 47), (130, 20)])
@pytest.mark.parametrize("downscale", [2, 8])
def test_pictures_of_any_size_have_latents(downscale, size):
    model, sizes = rough(downscale, channels=3)
    found = encode(model, picture(3, *size), sizes, tile=32)
    wanted = (3, *(-(-n // downscale) for n in size))
    assert found.mean.shape == found.scale.shape == wanted
    assert np.isfinite(found.mean).all()
    assert (found.scale > 0).all()
    again = decode(model, torch.from_numpy(found.mean), sizes, tile=32)
    assert again.shape == (3, wanted[1] * downscale, wanted[2] * downscale)
    assert np.isfinite(again).all()


@pytest.mark.parametrize(("downscale", "depth"), [(2, 1), (4, 2), (8, 1)])
def test_tiles_fit_together(downscale, depth):
    model, sizes = rough(downscale, depth=depth)
    x = picture(1, 150, 210)
    whole, tiled = (encode(model, x, sizes, tile=size) for size in (256, 32))
    for one, other in zip(whole, tiled, strict=True):
        assert np.abs(one - other).max() < 1e-4 * np.abs(one).max()
    z = torch.from_numpy(whole.mean)
    one, other = (decode(model, z, sizes, tile=size) for size in (256, 32))
    assert np.abs(one - other).max() < 1e-4 * np.abs(one).max()


@pytest.mark.parametrize(("downscale", "depth"), [(4, 1), (8, 1), (4, 2)])
def test_tiles_equal_the_whole_away_from_the_edges(downscale, depth):
    """At the edges, tiles see a mirrored picture where the whole sees zeros."""
    model, sizes = rough(downscale, depth=depth)
    x = picture(1, 208, 240)
    inner = -(-sizes.reach // downscale)
    away = (..., slice(inner, -inner), slice(inner, -inner))
    with torch.no_grad():
        q = posterior(model, x[None], downscale)
        direct = decoded(model, q.mean)
    tiled = encode(model, x, sizes, tile=32)
    assert tiled.mean[away].size
    np.testing.assert_allclose(tiled.mean[away], q.mean[0].numpy()[away], atol=1e-4)
    np.testing.assert_allclose(tiled.scale[away], q.stddev[0].numpy()[away], rtol=1e-4)
    edge = inner * downscale
    away = (..., slice(edge, -edge), slice(edge, -edge))
    again = decode(model, q.mean[0], sizes, tile=32)
    np.testing.assert_allclose(again[away], direct[0].numpy()[away], atol=1e-4)


def test_the_reach_is_that_of_the_networks():
    """A pixel at the stated distance changes a latent, and one beyond it does not."""
    model, sizes = rough(4, depth=2)
    model.double()
    x = picture(1, 1, 160, 160).double().requires_grad_()
    for maps in (posterior(model, x, 4).mean, posterior(model, x, 4).stddev):
        (gradient,) = torch.autograd.grad(maps[0, :, 20, 20].sum(), x)
        seen = gradient[0, 0].abs().sum(1).nonzero().flatten()
        first, last = int(seen.min()), int(seen.max())
        assert 80 - first <= sizes.reach
        assert last - 83 <= sizes.reach
        assert max(80 - first, last - 83) > sizes.reach - 4
    z = torch.zeros(1, 3, 40, 40).double().requires_grad_()
    (gradient,) = torch.autograd.grad(decoded(model, z)[0, 0, 80, 80], z)
    seen = gradient[0].abs().sum((0, 2)).nonzero().flatten()
    assert int(max(20 - seen.min(), seen.max() - 20)) <= -(-sizes.reach // 4)


def test_bits_are_the_divergence_from_the_prior():
    source = noise.generator("bits")
    mean = torch.randn(3, 5, 4, generator=source)
    scale = torch.rand(3, 5, 4, generator=source) + 0.1
    one = Independent(Normal(mean, scale), 3)
    nats = kl_divergence(one, Independent(Normal(torch.zeros_like(mean), 1.0), 3))
    assert Latents(mean.numpy(), scale.numpy()).bits == pytest.approx(nats.item() / np.log(2))


def test_the_measured_quality_is_that_of_the_walk():
    model, x = recipe("autoencoder").eval(), picture(5, 1, 8, 8)
    rows = Dense(x, size_of(x, 4))
    found = quality(model, rows)
    trace = Trace(posterior_mean, 5)
    with torch.no_grad():
        mean = model(x, trace, size_of(x, 4)).mean.clamp(0, 1)
    wanted = -10 * (mean - x).double().square().mean().log10()
    assert found.psnr == pytest.approx(wanted.item(), abs=1e-4)
    rate = trace.kl().sum().item() / np.log(2) / (5 * 64)
    assert found.bits_per_pixel == pytest.approx(rate, rel=1e-4)
    assert 0 < found.small_psnr < 30


def test_only_the_size_is_given():
    x = picture(2, 3, 16, 32)
    batch = OnlySize(8)(Batch(x), noise.generator("size"))
    assert batch.x is x
    assert batch.context.shape == (2, 0, 2, 4)
    assert torch.equal(size_of(x, 8), batch.context)


def test_pictures_are_drawn_in_the_size_that_is_asked():
    model = recipe("autoencoder")
    trace = Trace(from_prior(noise.generator("z")), 3)
    px = model(None, trace, torch.zeros(3, 0, 5, 2))
    assert trace.sites["z"].z.shape == (3, 2, 5, 2)
    assert px.mean.shape == (3, 1, 20, 8)
    with pytest.raises(UsageError, match="E247"):
        model(None, Trace(from_prior(noise.generator("z")), 2))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"downscale": 3}, "downscale must be one of 2, 4, 8, 16"),
        ({"latent": 0}, "latent must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"likelihood": "logistic"}, "got 'logistic'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, told):
    with pytest.raises(UsageError, match=told):
        recipes.find("autoencoder").make(arguments)
