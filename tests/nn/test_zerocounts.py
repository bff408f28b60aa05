"""log p of a count of zero and its written-down gradient, against autograd of the formula."""

import itertools
import math

import pytest
import torch

from lowerbound.nn.distributions import counts as counting
from lowerbound.nn.distributions import zero_counts

MEANS = [-30.0, -8.0, -1.0, 0.0, 2.5, 9.0]
DISPERSIONS = [-5.0, 0.0, 3.0, 20.0, 70.0]
GATES = [-200.0, -95.0, -30.0, -4.0, 0.0, 3.0, 40.0, 300.0]


def grid(*axes: list[float]) -> list[torch.Tensor]:
    columns = torch.tensor(list(itertools.product(*axes)), dtype=torch.float64).unbind(1)
    return [column.clone().requires_grad_() for column in columns]


def formula(log_mean, log_theta, gate=None):
    """log p(0) as it is written in books, where nothing is far beyond another."""
    log_p = -log_theta.exp() * torch.log1p((log_mean - log_theta).exp())
    return (
        log_p if gate is None else torch.logaddexp(gate, log_p) - torch.logaddexp(gate, 0 * gate)
    )


@pytest.mark.parametrize("axes", [(MEANS, DISPERSIONS), (MEANS, DISPERSIONS, GATES)])
def test_value_and_gradients_are_those_of_the_formula(axes):
    given = grid(*axes)
    moderate = given[1] < 10  # beyond, the formula's own terms cancel
    weights = torch.linspace(-1.5, 2.0, len(given[0]), dtype=torch.float64)
    expected, found = formula(*given), zero_counts.log_p0(*given)
    torch.testing.assert_close(found[moderate], expected[moderate], rtol=1e-7, atol=1e-9)
    slopes = [torch.autograd.grad((weights * v).sum(), given) for v in (expected, found)]
    for by_formula, written in zip(*slopes, strict=True):
        assert written.isfinite().all()
        torch.testing.assert_close(written[moderate], by_formula[moderate], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axes", [(MEANS, DISPERSIONS), (MEANS, DISPERSIONS, GATES)])
def test_float32_is_as_near_to_the_exact_numbers_as_its_digits_allow(axes):
    exact = grid(*axes)
    given = [part.detach().float().requires_grad_() for part in exact]
    precise, found = zero_counts.log_p0(*exact), zero_counts.log_p0(*given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), precise, rtol=1e-5, atol=3e-5)
    slopes = torch.autograd.grad(precise.sum(), exact), torch.autograd.grad(found.sum(), given)
    size = 1 + precise.detach().abs()  # by log theta, terms of this size cancel
    for by_exact, by_float in zip(*slopes, strict=True):
        torch.testing.assert_close(by_float / size, by_exact / size, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_shared_parameters_get_the_sum_of_the_gradients(gated):
    log_mean = torch.linspace(-3, 2, 12, dtype=torch.float64).view(4, 3).requires_grad_()
    log_theta = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    gate = torch.tensor([[0.3], [-2.0], [1.0], [-90.0]], dtype=torch.float64, requires_grad=True)
    given = (log_mean, log_theta, *[gate] * gated)
    assert torch.autograd.gradcheck(zero_counts.log_p0, given, atol=1e-6)
    assert torch.autograd.gradgradcheck(zero_counts.log_p0, given, atol=1e-4)
    assert torch.equal(
        zero_counts.log_p0(*given), zero_counts.log_p0(*(p.detach() for p in given))
    )


def test_neither_zeros_nor_empty_batches_need_a_gradient():
    log_mean, log_theta = torch.zeros(0, 3), torch.zeros(3)
    assert zero_counts.log_p0(log_mean, log_theta, torch.zeros(0, 3)).shape == (0, 3)
    with torch.no_grad():
        value = zero_counts.log_p0(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(-500.0))
    assert value.item() == pytest.approx(-math.log(2.0))


COUNTS = torch.tensor([[0, 1, 0], [3, 0, 0], [0, 0, 0], [7, 2, 1]], dtype=torch.float64)


def parameters(gated, theta):
    rng = torch.Generator().manual_seed(1)
    shapes = [(4, 3), (3,) if theta == "column" else (4, 3), *[(4, 3)] * gated]
    made = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    return [x.requires_grad_() for x in made]


def distribution(log_mean, log_theta, gate=None):
    base = counting.NegativeBinomial(log_mean, log_theta)
    return base if gate is None else counting.ZeroInflated(base, gate)


def plain(log_mean, log_theta, gate=None):
    """log p of COUNTS with every cell computed both ways, for autograd."""
    found = counting._counted(COUNTS, log_mean, log_theta.expand(4, 3))
    if gate is not None:
        found = found - zero_counts.softplus(gate)
    return torch.where(COUNTS == 0, formula(log_mean, log_theta, gate), found)


@pytest.mark.parametrize("theta", ["column", "cell"])
@pytest.mark.parametrize("gated", [False, True])
def test_counts_among_zeros_have_the_gradients_of_the_formula(gated, theta):
    given = parameters(gated, theta)
    found, expected = distribution(*given).log_prob(COUNTS), plain(*given)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    one_each = torch.tensor([[0.5], [-1.0], [2.0], [0.3]], dtype=torch.float64)
    for weights in (one_each, COUNTS + 0.1, torch.ones(3, 4, dtype=torch.float64).T):
        slopes = [
            torch.autograd.grad((weights * each).sum(), given, retain_graph=True)
            for each in (expected, found, found)  # and once more
        ]
        for by_formula, written, again in zip(*slopes, strict=True):
            torch.testing.assert_close(written, by_formula, rtol=1e-8, atol=1e-10)
            assert torch.equal(written, again)
    by_row = torch.autograd.grad(distribution(*given).log_prob(COUNTS).sum(1) @ one_each, given)
    by_cell = torch.autograd.grad((one_each * expected).sum(), given)
    torch.testing.assert_close(by_row, by_cell, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("theta", ["column", "cell"])
@pytest.mark.parametrize("gated", [False, True])
def test_gradients_of_counts_among_zeros_can_be_differentiated(gated, theta):
    given = parameters(gated, theta)

    def log_p(*known):
        return distribution(*known).log_prob(COUNTS)

    assert torch.autograd.gradcheck(log_p, given, atol=1e-6)
    assert torch.autograd.gradgradcheck(log_p, given, atol=1e-4)
    assert torch.equal(log_p(*given), log_p(*(x.detach() for x in given)))
    for check, close in ((torch.autograd.gradcheck, 1e-6), (torch.autograd.gradgradcheck, 1e-4)):
        for i, free in enumerate(given):  # the others held, as a dispersion may be
            held = [x.detach() for x in given]
            assert check(lambda x, i=i, h=held: log_p(*h[:i], x, *h[i + 1 :]), [free], atol=close)


def test_counts_and_parameters_are_broadcast_and_may_lie_in_any_order():
    mean, theta, gate = parameters(True, "column")
    cells = distribution(mean, theta, gate).log_prob(COUNTS)
    both = distribution(mean, theta, gate).log_prob(torch.stack([COUNTS, COUNTS.flip(0)]))
    torch.testing.assert_close(both[0], cells)
    few = distribution(mean, theta, gate[:1]).log_prob(COUNTS[:1])
    wide = [x[:1].expand(4, 3) for x in (gate, COUNTS)]
    torch.testing.assert_close(few, distribution(mean, theta, wide[0]).log_prob(wide[1]))
    turned = [x.detach().T.contiguous().T.requires_grad_() for x in (mean, gate)]
    other = distribution(turned[0], theta, turned[1]).log_prob(COUNTS.T.contiguous().T)
    torch.testing.assert_close(other, cells)
    one = torch.autograd.grad((cells * COUNTS).sum(), [mean, gate])
    two = torch.autograd.grad((other * COUNTS).sum(), turned)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("counts", [[1.0, 7.0, 4096.0], [1.0, 5000.0], [0.5, 2.0], [3.0]])
def test_factorials_are_those_of_the_gamma_function(counts):
    x = torch.tensor(counts, dtype=torch.float64)
    expected = torch.tensor([math.lgamma(value + 1) for value in counts], dtype=torch.float64)
    torch.testing.assert_close(counting._log_factorial(x), expected, rtol=1e-12, atol=1e-12)


def test_dispersions_of_columns_and_of_cells_give_the_same():
    torch.manual_seed(0)
    x = torch.poisson(torch.full((6, 5), 2.0, dtype=torch.float64))
    log_mean = torch.randn(6, 5, dtype=torch.float64)
    log_theta = torch.tensor([-2.0, 0.0, 1.5, 9.0, 12.0], dtype=torch.float64, requires_grad=True)
    every = log_theta.detach().expand(6, 5).clone().requires_grad_()
    shared = counting.NegativeBinomial(log_mean, log_theta).log_prob(x)
    spelled = counting.NegativeBinomial(log_mean, every).log_prob(x)
    torch.testing.assert_close(shared, spelled, rtol=1e-12, atol=1e-12)
    (by_column,) = torch.autograd.grad(shared.sum(), log_theta)
    (by_cell,) = torch.autograd.grad(spelled.sum(), every)
    torch.testing.assert_close(by_column, by_cell.sum(0), rtol=1e-9, atol=1e-9)
