"""The adversarial term: who is moved by what, how strongly, and where there is nothing to see."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Laplace

from lowerbound import noise, recipes
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.families import summed
from lowerbound.nn.objectives import adversarial
from lowerbound.nn.objectives.adversarial import (
    Adversarial,
    Discriminator,
    of_discriminator,
    of_generator,
    seen,
    stages,
)
from lowerbound.nn.objectives.elbo import Elbo, Iwae, Map, StickingTheLanding, ThetaPrior
from lowerbound.nn.objectives.spectral import Spectral, matrix
from lowerbound.nn.trace import Trace, from_posterior
from lowerbound.recipes import images
from lowerbound.tasks.objective_settings import OBJECTIVE
from lowerbound.training.objective import objective_of

SHAPE = (1, 9, 8)
CODES = {"logistic", "logistic_mixture", "softmax"}


def data(likelihood="shared", shape=SHAPE, n=6):
    x = torch.rand(n, *shape, generator=noise.generator("pictures", *shape), dtype=torch.float64)
    x = x.round() if likelihood == "bits" else x
    return (255 * x).round() if likelihood in CODES else x


def model(likelihood="shared", shape=SHAPE):
    with noise.isolated("adversarial model"):
        return recipes.conv(shape, 3, [4, 6], likelihood).double()


def keyed(x):
    return noise.Keyed(noise.row_keys(x))


def gradients(loss, module):
    """The gradient of every parameter of `module`, by name; None where none arrives."""
    named = dict(module.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return dict(zip(named, found, strict=True))


def walked(m, x):
    return m(x, Trace(from_posterior(keyed(x)), len(x)))


def test_the_hinge_losses_by_hand():
    real, made = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    # max(0, 1 - D): 0, 0.5, 2; max(0, 1 + D): 0, 1, 2.
    assert of_discriminator(real, made).item() == pytest.approx(2.5 / 3 + 1.0)
    assert of_generator(made).item() == pytest.approx(1 / 3)


def test_each_is_moved_by_its_own_loss_alone():
    x, m = data(), model()
    objective = Adversarial(Elbo(m), SHAPE, 0.4).eval()  # the singular vectors rest
    judge = objective.discriminator
    found = gradients(objective(x, 0, keyed(x)).value, objective)
    ours = {n.removeprefix("objective.model."): g for n, g in found.items() if "objective" in n}

    # The discriminator: its hinge loss, the model's pictures being mere data to it.
    picture = walked(m, x).mean.detach()
    own = of_discriminator(judge(2 * x - 1), judge(2 * picture - 1))
    for name, gradient in gradients(own, judge).items():
        # Within the margins of the hinges what moves the last bias cancels.
        assert gradient.abs().sum() > 0 or name == "2.bias"
        torch.testing.assert_close(found[f"discriminator.{name}"], gradient)

    # The model: its ELBO, and what the discriminator says, weighed by the ratio of the forces.
    px = walked(m, x)
    plain, theirs = Elbo(m)(x, 0, keyed(x)).value, of_generator(judge(2 * px.mean - 1))
    (pull,) = torch.autograd.grad(theirs, px.mean, retain_graph=True)
    (force,) = torch.autograd.grad(-px.log_prob(x).mean(), px.mean, retain_graph=True)
    weight = 0.4 * force.norm() / pull.norm()
    first, second = gradients(plain, m), gradients(theirs, m)
    moved = 0
    for name, gradient in ours.items():
        extra = 0.0 if second[name] is None else weight * second[name]
        torch.testing.assert_close(gradient, first[name] + extra)
        moved += second[name] is not None and bool(second[name].abs().sum() > 0)
    assert moved > 4


def test_without_weight_the_model_is_moved_as_if_nobody_looked():
    x, m = data(), model()
    objective = Adversarial(Elbo(m), SHAPE, lambda step: 0.4 * step).eval()
    plain = gradients(Elbo(m)(x, 0, keyed(x)).value, m)
    silent, heard = (gradients(objective(x, step, keyed(x)).value, objective) for step in (0, 1))
    for name, gradient in plain.items():
        assert torch.equal(silent[f"objective.model.{name}"], gradient)
    changed = [not torch.equal(heard[f"objective.model.{name}"], g) for name, g in plain.items()]
    assert sum(changed) > 4
    # Whatever the weight, the discriminator learns alike.
    for name in objective.discriminator.state_dict():
        if f"discriminator.{name}" in silent:
            same = silent[f"discriminator.{name}"], heard[f"discriminator.{name}"]
            assert torch.equal(*same)


def test_the_value_and_the_elbo_are_those_of_the_wrapped_objective():
    x, m = data(), model()
    plain = Elbo(m, beta=2.0)(x, 0, keyed(x))
    value, terms = Adversarial(Elbo(m, beta=2.0), SHAPE, 0.4)(x, 0, keyed(x))
    assert value.item() == plain.value.item()
    assert set(terms) == {*plain.terms, "adversarial", "discriminator"}
    for name, term in plain.terms.items():
        assert torch.equal(terms[name], term)
    with torch.no_grad():
        quiet = Adversarial(Elbo(m, beta=2.0), SHAPE, 0.4).eval()(x, 0, keyed(x))
    assert quiet.value.item() == plain.value.item()
    assert not m._forward_hooks  # nobody looks on afterwards


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("likelihood", images.LIKELIHOODS)
def test_what_is_seen_is_the_mean_and_the_pull_is_as_strong_as_the_likelihood(likelihood, colours):
    family, _ = images.likelihood_of(likelihood, colours, False)
    shape = 5, family.numbers(colours), 9, 8
    numbers = torch.randn(shape, generator=noise.generator("numbers"), dtype=torch.float64)
    numbers = (0.3 * numbers).requires_grad_()
    px, x = family.double()(numbers), data(likelihood, (colours, 9, 8), 5)
    made, value = seen(px), -px.log_prob(x).mean()
    if not likelihood.startswith("logistic"):  # whose ends are bent
        mean = px.cells.probs if likelihood == "bits" else px.mean  # of bits that is the mode
        torch.testing.assert_close(made.picture, mean)
    assert made.highest == (255 if likelihood in CODES else 1)
    slope = torch.randn(made.picture.shape, generator=noise.generator("slope")).double()
    pulled = adversarial._pull(value, made, slope)
    inputs = made.location
    ours, theirs, along = (
        torch.autograd.grad(of, inputs, retain_graph=True)[0]
        for of in (value, pulled, (made.picture * slope).sum())
    )
    torch.testing.assert_close(theirs.norm(), ours.norm())
    torch.testing.assert_close(theirs / theirs.norm(), along / along.norm())


@pytest.mark.parametrize(
    ("likelihood", "scales"), [("logistic", slice(3, 6)), ("logistic_mixture", slice(40, 70))]
)
def test_codes_are_seen_as_the_mean_where_the_ends_are_far(likelihood, scales):
    family, _ = images.likelihood_of(likelihood, 3, False)
    numbers = torch.randn(2, family.numbers(3), 8, 8, generator=noise.generator("codes"))
    numbers = 0.1 * numbers.double()
    numbers[:, scales] = -4.0  # their logarithms: two codes
    px = family.double()(numbers)
    torch.testing.assert_close(seen(px).picture, px.mean, atol=0.01, rtol=0)
    assert seen(px).picture.std() > 1  # they differ from place to place


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (9, 11), (28, 28), (33, 32), (64, 48)])
def test_a_discriminator_for_any_size(size):
    with noise.isolated("judge"):
        judge = Discriminator(3, size, 4)
    told = judge(torch.rand(2, 3, *size, generator=noise.generator("size")))
    assert told.shape[:2] == (2, 1)
    assert min(told.shape[2:]) >= 4
    assert min(told.shape[2:]) == -(-min(size) // 2 ** stages(size))
    layers = [layer for layer in judge.modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == stages(size) + 1
    for layer in layers:
        largest = torch.linalg.svdvals(matrix(layer.eval()).detach())[0]
        assert largest.item() == pytest.approx(1.0, abs=0.05)


def test_gaps_are_seen_as_the_model_fills_them():
    x = data()
    x[:, :, 2:5, 3] = torch.nan
    with noise.isolated("gaps"):
        m = recipes.conv(SHAPE, 3, [4, 6], "shared", missing=True).double()
    objective = Adversarial(Elbo(m), SHAPE, 0.4).eval()
    terms = objective(x, 0, keyed(x)).terms
    filled = torch.where(x.isnan(), walked(m, x).mean, x)
    judge = objective.discriminator
    own = of_discriminator(judge(2 * filled - 1), judge(2 * walked(m, x).mean - 1))
    torch.testing.assert_close(terms["discriminator"], own.detach())


TRIED = {
    "conv": {"beta": 2.0, "free_bits": 0.1},
    "conv_ladder": {"balance": True, "spectral": 0.01, "theta_prior": "normal:1.0"},
    "nvae": {"spectral": 0.01},
    "vqvae": {},
    "vqvae2": {"theta_prior": "normal:1.0"},
}


@pytest.mark.parametrize("recipe", TRIED)
def test_recipes_of_pictures_and_other_settings(recipe):
    prior = {"prior": "uniform"} if recipes.find(recipe).first_stage else {}
    with noise.isolated(recipe):
        m = recipes.find(recipe).make({"shape": [3, 9, 12], "likelihood": "shared", **prior})
    weights = {**OBJECTIVE, **TRIED[recipe], "adversarial": 0.3}
    objective = objective_of(m, weights, 50, 400)
    before = [m.training, m.state_dict()]
    assert objective.model is m
    assert before[0] is m.training
    x = torch.rand(4, 3, 9, 12, generator=noise.generator("colours"))
    value, terms = objective.train()(x, 150, noise.Stream(noise.generator("draws")))
    value.backward()
    assert {"elbo", "adversarial", "discriminator"} <= set(terms)
    inner = objective.objective if isinstance(objective, Map) else objective
    assert isinstance(inner, Adversarial)
    assert inner.weight(0) == 0.0
    assert inner.weight(100) == 0.3
    assert isinstance(inner.objective, Spectral) == bool(weights["spectral"])
    moved = [bool(p.grad.abs().sum() > 0) for p in inner.discriminator.parameters()]
    assert sum(moved) >= len(moved) - 1  # the last bias rests within the margins
    assert all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None)


def test_one_draw_weighed_by_nothing_is_seen_and_several_are_refused():
    x, m = data(), model()
    for objective in (StickingTheLanding(m), Iwae(m, 1)):
        Adversarial(objective, SHAPE, 0.3)(x, 0, keyed(x)).value.backward()
    with pytest.raises(UsageError, match="one draw per row") as caught:
        Adversarial(Iwae(m, 2), SHAPE, 0.3)(x, 0, keyed(x))
    assert caught.value.code == "E248"


def test_where_there_is_nothing_to_see_it_says_so():
    m = model()
    for shape in [(7,), (1, 7, 9), (3, 28, 4)]:
        with pytest.raises(UsageError, match="8 x 8") as caught:
            Adversarial(Elbo(m), shape, 0.3)
        assert caught.value.code == "E248"
        assert caught.value.fix
    for weight in (0.0, -1.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1") as caught:
            Adversarial(Elbo(m), SHAPE, weight)
        assert caught.value.code == "E240"
    with pytest.raises(UsageError, match="Laplace") as caught:
        seen(summed(Laplace(torch.zeros(2, 1, 8, 8), 1.0)))
    assert caught.value.code == "E248"
    with pytest.raises(UsageError) as caught:
        objective_of(recipes.gaussian(3), {**OBJECTIVE, "adversarial": 0.3}, 50, 400)
    assert caught.value.code == "E248"


def test_the_caller_keeps_the_global_random_state_and_two_discriminators_are_alike():
    m = model()
    before = torch.random.get_rng_state()
    pair = [Adversarial(Elbo(m), SHAPE, 0.3).discriminator for _ in range(2)]
    assert torch.equal(before, torch.random.get_rng_state())
    one, other = (judge.state_dict() for judge in pair)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert Map(Adversarial(Elbo(m), SHAPE, 0.3), [ThetaPrior(Laplace, 1.0)], 5).model is m
