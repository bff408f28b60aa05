"""Deep hierarchies of images: their levels, cells and flows, and what keeps them stable."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from lowerbound import noise, recipes
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import UnitNormal, sample
from lowerbound.nn.networks.residual_cells import (
    CheckpointedSequential,
    MaskedConvolution,
    MaskedShift,
    SqueezeExcite,
    decoder_cell,
    encoder_cell,
)
from lowerbound.nn.objectives.elbo import Elbo, Iwae, Ramp, balanced
from lowerbound.nn.objectives.spectral import Spectral, matrix
from lowerbound.nn.trace import Trace, from_posterior, from_prior

SMALL = {"shape": [1, 7, 6], "groups": [2, 1], "channels": 3, "latent_channels": 2}
VARIANTS = {
    "plain": {},
    "no gates": {"squeeze_excite": False},
    "absolute posterior": {"residual": False},
    "flows": {"flows": 1},
    "weight norm": {"weight_normalised": True},
    "recomputed": {"checkpointing": True},
    "many cells": {"cells": 2, "blocks": 2},
    "no blocks": {"blocks": 0, "groups": [1]},
    "colours": {"shape": [3, 5, 8], "likelihood": "logistic_mixture"},
    "codes": {"likelihood": "logistic", "missing": True},
    "optimal": {"likelihood": "optimal"},
}
every_variant = pytest.mark.parametrize("name", VARIANTS)


def model(name="plain", **other):
    with noise.isolated("nvae"):
        return recipes.find("nvae").make({**SMALL, **VARIANTS[name], **other})


def data(name="plain", rows=8):
    shape = VARIANTS[name].get("shape", SMALL["shape"])
    kinds = torch.rand(2, *shape, generator=noise.generator("x", *shape)).round()
    x = kinds.repeat(rows // 2, 1, 1, 1)
    return 255 * x if "logistic" in VARIANTS[name].get("likelihood", "") else x


def traced(m, x):
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), len(x))
    return m(x, trace), trace


@pytest.mark.parametrize(
    ("shape", "blocks", "coarsest"),
    [
        ([1, 28, 28], 2, (4, 4)),
        ([3, 32, 32], 1, (8, 8)),
        ([1, 33, 47], 1, (9, 12)),
        ([3, 64, 64], 3, (4, 4)),
    ],
)
def test_levels_and_sizes(shape, blocks, coarsest):
    m = model(shape=shape, blocks=blocks, groups=[1, 2], channels=2)
    x = torch.rand(2, *shape, generator=noise.generator("sizes")).round()
    px, trace = traced(m, x)
    sizes = {name: tuple(site.z.shape[1:]) for name, site in trace.sites.items()}
    h, w = coarsest
    assert sizes == {"z0.0": (2, h, w), "z1.0": (2, 2 * h, 2 * w), "z1.1": (2, 2 * h, 2 * w)}
    assert px.mean.shape == (2, *shape)
    assert px.log_prob(x).shape == (2,)


@every_variant
def test_all_of_a_model_takes_part_and_it_learns(name):
    m, x = model(name), data(name)
    source = noise.Stream(noise.generator("steps"))
    objective = Elbo(m, beta=0.1)
    optimiser = torch.optim.Adamax(m.parameters(), 3e-2)
    values = []
    for step in range(10):
        optimiser.zero_grad()
        loss = objective(x, step, source)
        loss.value.backward()
        if step == 0:
            for parameter, p in m.named_parameters():
                assert p.grad is not None, parameter
                assert p.grad.isfinite().all(), parameter
                assert p.grad.any(), parameter
        optimiser.step()
        values.append(loss.value.item())
    assert max(values[-3:]) < values[0] - 0.03 * abs(values[0])


@every_variant
def test_which_kls_are_exact(name):
    _, trace = traced(model(name).eval(), data(name))
    exact = {site: found.exact_kl() is not None for site, found in trace.sites.items()}
    assert set(exact.values()) == {name != "flows"}
    first, *others = trace.sites.values()
    assert isinstance(first.p.base_dist, UnitNormal)
    assert not any(isinstance(site.p.base_dist, UnitNormal) for site in others)
    if name == "flows":
        return
    for site in trace.sites.values():
        q, p = site.q.base_dist, site.p.base_dist
        wide = [torch.distributions.Normal(d.loc.double(), d.scale.double()) for d in (q, p)]
        torch.testing.assert_close(
            site.kl().double(), kl_divergence(*wide).flatten(1).sum(1), rtol=1e-4, atol=1e-4
        )


def test_a_posterior_moves_with_its_prior():
    """Eq. 2 of the paper: in the state's direction too, unless residual is off."""
    for name, moves in [("plain", True), ("absolute posterior", False)]:
        m, x = model(name).eval(), data()
        _, before = traced(m, x)
        with torch.no_grad():
            m.levels[1].prior.net[1].bias.add_(1.0)
        _, after = traced(m, x)
        sites = [t.sites["z0.1"] for t in (before, after)]
        shift = (sites[1].q.mean - sites[0].q.mean).abs().min()
        assert (shift > 0.9) == moves


@every_variant
def test_weights_survive_a_file_bit_for_bit(name):
    m, x = model(name), data(name)
    Elbo(m)(x, 0, noise.Keyed(noise.row_keys(x)))  # running statistics move
    other = model(name, **({} if name != "recomputed" else {"checkpointing": False}))
    other.load_state_dict(m.state_dict())
    with torch.no_grad():
        (a, _), (b, _) = traced(m.eval(), x), traced(other.eval(), x)
    assert torch.equal(a.log_prob(x), b.log_prob(x))


def test_scores_do_not_depend_on_neighbours():
    m, x = model().eval(), data()
    whole = traced(m, x)[0].log_prob(x)
    torch.testing.assert_close(traced(m, x[2:4])[0].log_prob(x[2:4]), whole[2:4])


def test_draws_at_a_temperature():
    m = model().eval()
    for temperature in (0.4, 1.0):
        source = noise.generator("draws")
        with torch.no_grad():
            trace = Trace(from_prior(source, temperature), 300)
            x = sample(m(None, trace), source)
        assert x.shape == (300, 1, 7, 6)
        for site in trace.sites.values():
            z = (site.z - site.p.mean) / site.p.stddev
            assert abs(z.std() - temperature) < 0.05


def test_several_importance_samples_of_a_row():
    m, x = model("flows").eval(), data("flows")
    value, terms = Iwae(m, 3, dreg=False)(x, 0, noise.Keyed(noise.row_keys(x)))
    assert value.isfinite()
    assert terms["bound"] >= terms["elbo"]


def test_densities_stay_in_float32_under_autocast():
    m, x = model("flows").eval(), data("flows")
    full = traced(m, x)[0].log_prob(x)
    with torch.autocast("cpu", torch.bfloat16):
        px, trace = traced(m, x)
        log_p, kl = px.log_prob(x), trace.kl()
    assert log_p.dtype == kl.dtype == torch.float32
    torch.testing.assert_close(log_p, full, rtol=0.05, atol=0.5)


def kept_bytes(m, x):
    """Bytes of activations that a training step keeps for its gradient."""
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = Elbo(m)(x, 0, noise.Keyed(noise.row_keys(x))).value
    value.backward()
    return total, value.detach()


def test_recomputing_gives_the_same_numbers_in_less_memory():
    x = data()
    plain, again = model(cells=2), model(cells=2, checkpointing=True)
    assert any(isinstance(module, CheckpointedSequential) for module in again.modules())
    for _ in range(2):
        (kept, a), (less, b) = kept_bytes(plain, x), kept_bytes(again, x)
        assert torch.equal(a, b)
        assert less < 0.5 * kept
    for (name, p), (_, q) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    for name, buffer in plain.state_dict().items():  # running statistics count a batch once
        assert torch.equal(buffer, again.state_dict()[name]), name


def test_cells_start_near_their_skip_connections():
    with noise.isolated("cells"):
        x = torch.randn(4, 4, 6, 6)
        cells = [encoder_cell(4, True), decoder_cell(4, True), decoder_cell(4, False)]
        down, up = encoder_cell(4, True, halve=True), decoder_cell(4, True, double=True)
    for cell in cells:
        y = cell(x)
        assert y.shape == x.shape
        torch.testing.assert_close(y, x + 0.1 * cell.branch(x))
        assert 0 < (y - x).std() < 0.3
    assert down(x).shape == (4, 8, 3, 3)
    assert up(x).shape == (4, 2, 12, 12)


def test_squeeze_and_excitation_gates_channels_by_all_of_them():
    with noise.isolated("gate"):
        gate, x = SqueezeExcite(5), torch.randn(2, 5, 3, 3)
    ratio = (gate(x) / x).flatten(2)
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    assert ((ratio > 0) & (ratio < 1)).all()
    moved = x.clone()
    moved[:, 0] += 5
    assert ((gate(moved) / moved).flatten(2)[:, 1, 0] != ratio[:, 1, 0]).any()


@pytest.mark.parametrize("backward", [False, True])
def test_a_masked_shift_has_a_triangular_jacobian_with_ones_on_its_diagonal(backward):
    with noise.isolated("shift"):
        shift = MaskedShift(2, 3, backward).double()
        z, f = torch.randn(2, 2, 4, 3).double(), torch.randn(2, 3, 4, 3).double()
        with torch.no_grad():
            shift.last.weight.mul_(10)
    y, log_det = shift(z, f)
    assert (log_det == 0).all()
    jacobian = torch.autograd.functional.jacobian(lambda v: shift(v[None], f[:1])[0][0], z[0])
    # Variables in the order in which they are drawn: by row, column, then channel.
    square = jacobian.permute(1, 2, 0, 4, 5, 3).reshape(24, 24)
    square = square.flip(0, 1) if backward else square
    torch.testing.assert_close(square.diagonal(), torch.ones(24).double())
    assert (square.triu(1) == 0).all()
    assert (square[1:, 0] != 0).sum() >= 10  # the first is seen by all in reach
    assert square[1, 0] != 0  # a later channel of the same pixel is one of them
    other = shift(z, f + 1)[0]
    assert (other != y).any((1, 2, 3)).all()


def test_flows_leave_the_draws_density_as_it_was():
    m, x = model("flows").eval(), data("flows")
    _, trace = traced(m, x)
    for site in trace.sites.values():
        base = site.source.q.base
        torch.testing.assert_close(site.log_q, base.log_prob(site.source.start))
        assert not torch.equal(site.z, site.source.start)


def kernels(m):
    found = [matrix(layer) for layer in m.modules()]
    return [kernel for kernel in found if kernel is not None]


def test_a_kernels_matrix_is_what_its_layer_multiplies_a_patch_with():
    with noise.isolated("matrix"):
        layers = [nn.Conv2d(2, 3, 3, 1, 1), MaskedConvolution(2, (2, 4), 3, True, False)]
        depthwise = MaskedConvolution(2, (4, 4), 3, False, True, depthwise=True)
        up, patch, pixel = nn.ConvTranspose2d(2, 3, 4), torch.randn(1, 2, 3, 3), torch.randn(2)
    for layer in layers:
        middle = layer(patch)[0, :, 1, 1] - layer.bias
        torch.testing.assert_close(matrix(layer) @ patch.flatten(), middle)
    four = patch.repeat(1, 2, 1, 1)
    middle = depthwise(four)[0, :, 1, 1] - depthwise.bias
    torch.testing.assert_close((matrix(depthwise) * four[0].flatten(1)).sum(1), middle)
    spread = up(pixel[None, :, None, None])[0] - up.bias[:, None, None]
    kernel = matrix(up).view(3, 2, 4, 4)
    torch.testing.assert_close(torch.einsum("oihw,i->ohw", kernel, pixel), spread)
    assert matrix(nn.Linear(2, 2)) is None


@pytest.mark.parametrize("name", ["plain", "flows", "weight norm"])
def test_the_spectral_penalty_is_the_largest_singular_values_and_scales(name):
    m, x = model(name), data(name)
    plain = Elbo(m)
    objective = Spectral(plain, 0.5, iterations=30)
    keyed = noise.Keyed(noise.row_keys(x))
    optimiser = torch.optim.SGD(m.parameters(), 1e-2)
    for step in range(2):  # the vectors follow the weights
        optimiser.zero_grad()
        objective(x, step, keyed).value.backward()
        optimiser.step()
    exact = sum(torch.linalg.svdvals(k.detach().double())[0] for k in kernels(m))
    layers = [layer for layer in m.modules() if isinstance(layer, nn.BatchNorm2d)]
    scales = sum(layer.weight.detach().abs().max() for layer in layers)
    value, terms = objective(x, 2, keyed)
    torch.testing.assert_close(terms["spectral"].double(), exact + scales, rtol=2e-3, atol=0)
    torch.testing.assert_close(
        objective.singular_values().sum().double(), exact, rtol=2e-3, atol=0
    )
    without = plain.eval()(x, 2, keyed)
    value, terms = objective.eval()(x, 2, keyed)
    torch.testing.assert_close(value, without.value + 0.5 * terms["spectral"])
    torch.testing.assert_close(terms["elbo"], without.terms["elbo"])  # is never weighted


def test_the_gradient_of_the_spectral_penalty_is_that_of_the_singular_values():
    m = model(groups=[1], blocks=0)
    objective = Spectral(Elbo(m), 1.0, iterations=300)
    objective.penalty().backward()
    found = {name: p.grad for name, p in m.named_parameters() if p.grad is not None}
    m.zero_grad(set_to_none=True)
    exact = sum(torch.linalg.svdvals(k)[0] for k in kernels(m))
    exact.backward()
    compared = 0
    for name, p in m.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=0.02, atol=0.02)
            compared += 1
    assert compared == len(kernels(m))


def test_singular_vectors_are_kept_in_checkpoints_and_rest_in_evaluation():
    m = model()
    first, second = Spectral(Elbo(m), 0.1), Spectral(Elbo(m), 0.1)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    assert {"left_0", "right_0"} <= set(state)
    first.eval().penalty()
    assert all(torch.equal(state[name], value) for name, value in first.state_dict().items())
    for value in second.buffers():
        if value.is_floating_point():
            value.add_(1.0)
    second.load_state_dict(state)
    torch.testing.assert_close(second.eval().singular_values(), first.singular_values())
    assert first.model is m
    with pytest.raises(UsageError, match="needs a model with convolutions"):
        Spectral(Elbo(recipes.gaussian(3)), 0.1)


def test_balancing_weighs_groups_by_their_rate_and_size_while_beta_is_below_1():
    m, x = model(groups=[1, 2]), data()
    keyed = noise.Keyed(noise.row_keys(x))
    _, trace = traced(m, x)
    kl = torch.stack([site.kl().mean() for site in trace.sites.values()])
    numel = [site.z[0].numel() for site in trace.sites.values()]
    assert numel[1] == numel[2] == 4 * numel[0]
    gamma = (kl + 0.01) / torch.tensor([numel[0], numel[1] / 2, numel[1] / 2])
    gamma = (gamma / gamma.mean()).detach()
    torch.testing.assert_close(balanced(trace), (gamma * kl).sum())
    slopes = [
        torch.autograd.grad(cost, m.levels[0].posterior.conditional.net.bias, retain_graph=True)[0]
        for cost in (balanced(trace), (gamma * kl).sum())
    ]
    torch.testing.assert_close(*slopes)
    balancing, plain = (Elbo(m, beta=Ramp(0.0, 1.0, 10), balance=b) for b in (True, False))
    for step, differs in [(5, True), (10, False), (20, False)]:
        a, b = balancing(x, step, keyed), plain(x, step, keyed)
        assert (abs(a.value - b.value) > 1e-3) == differs
        torch.testing.assert_close(a.terms["elbo"], b.terms["elbo"])
    torch.testing.assert_close(
        balancing(x, 5, keyed).value,
        -traced(m, x)[0].log_prob(x).mean() + 0.5 * (gamma * kl).sum(),
    )
    with pytest.raises(UsageError, match="free_bits and balance"):
        Elbo(m, free_bits=0.1, balance=True)


def test_what_is_no_hierarchy_is_refused():
    for arguments, said in [
        ({"shape": [28, 28]}, "channels, height, width"),
        ({"shape": [1, 8, 8], "groups": []}, "groups"),
        ({"shape": [1, 8, 8], "groups": [1, 0]}, "groups"),
        ({"shape": [1, 8, 8], "blocks": -1}, "blocks"),
        ({"shape": [1, 8, 8], "latent_channels": 0}, "latent_channels"),
    ]:
        with pytest.raises(UsageError, match=said):
            recipes.find("nvae").make(arguments)
