"""A missing cell costs nothing, and the rest of its row is scored by the exact marginal."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from core_parts import GAPS, LIBRARIES, TABLE_FAMILIES, TABLE_SIZES, built, randomise, table_family
from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import log_prob_cells
from lowerbound.nn.distributions.table_rows import Table
from lowerbound.nn.networks.mlp import (
    CodeFeatures,
    FilledReader,
    TableFeatures,
    ValueDropout,
    lent,
)

NAMES = [*GAPS, *LIBRARIES, "optimal sigma"]


def holes(x: torch.Tensor, key: str) -> torch.Tensor:
    """Which cells to hide: about a third, of several columns one or more per row but never all."""
    hidden = torch.rand(x.shape, generator=noise.generator("holes", key)) < 0.33
    if x.shape[1] == 1:
        hidden[0], hidden[-1] = True, False
    else:
        hidden[:, 0], hidden[:, 1] = True, False
    return hidden


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_cell_costs_exactly_nothing(name):
    _, family, numbers = built(name, 12)
    d = family(numbers)
    with noise.isolated("missing", name):
        x = d.sample().double()
    hidden = holes(x, name)
    cells = log_prob_cells(d, x)
    gapped = log_prob_cells(d, x.masked_fill(hidden, torch.nan))
    assert (gapped[hidden] == 0).all()
    # To the last bit of float64 but one: with AVX-512 torch's softplus and logaddexp round
    # differently at the end of a vector, and counts that are not zero are computed side by side.
    ulp = {"rtol": 4.5e-16, "atol": 0.0} if x.dtype == gapped.dtype else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(gapped[~hidden], cells[~hidden], **ulp)
    expected = cells.masked_fill(hidden, 0).sum(1)
    torch.testing.assert_close(d.log_prob(x.masked_fill(hidden, torch.nan)), expected, **ulp)
    assert (d.log_prob(torch.full_like(x, torch.nan)) == 0).all()


@pytest.mark.parametrize("name", GAPS)
def test_a_missing_cell_teaches_nothing_and_never_makes_a_nan(name):
    _, family, numbers = built(name, 12)
    numbers.requires_grad_()
    family.requires_grad_()
    with noise.isolated("missing", name):
        x = family(numbers).sample().double()
    family(numbers).log_prob(torch.full_like(x, torch.nan)).sum().backward()
    assert (numbers.grad == 0).all()
    assert all((p.grad == 0).all() for p in family.parameters() if p.grad is not None)
    hidden = holes(x, name)
    numbers.grad = None
    family(numbers).log_prob(x.masked_fill(hidden, torch.nan)).sum().backward()
    assert numbers.grad.isfinite().all()
    alone = numbers.detach().requires_grad_()
    log_prob_cells(family(alone), x)[~hidden].sum().backward()
    torch.testing.assert_close(numbers.grad, alone.grad)


def small_table(rows: int) -> tuple[Table, torch.Tensor]:
    family = randomise(Table(["categorical", "binary", "ordinal"], [3, 2, 3]), "small table")
    numbers = torch.randn(
        rows, family.numbers(3), dtype=torch.float64, generator=noise.generator("small table")
    )
    return family.requires_grad_(False), numbers


def test_a_row_of_codes_has_total_probability_one_and_gaps_are_its_marginals():
    family, numbers = small_table(5)
    d = family(numbers)
    ranges = [range(3), range(2), range(3)]
    every = torch.tensor(list(itertools.product(*ranges)), dtype=torch.float64)
    log_p = torch.stack([d.log_prob(row.expand(5, 3)) for row in every])
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(5, dtype=torch.float64))
    for column, code in [(0, 2.0), (1, 1.0), (2, 0.0)]:
        alone = torch.full((5, 3), torch.nan, dtype=torch.float64)
        alone[:, column] = code
        marginal = log_p[every[:, column] == code].logsumexp(0)
        torch.testing.assert_close(d.log_prob(alone), marginal)


def test_a_table_is_its_columns_whatever_their_order():
    """Kinds are computed together, and the categorical ones by size: no column may be swapped."""
    family = randomise(table_family(), "table").requires_grad_(False)
    source = noise.generator("table numbers")
    count = family.numbers(len(TABLE_FAMILIES))
    numbers = torch.randn(6, count, generator=source, dtype=torch.float64)
    d = family(numbers)
    with noise.isolated("table"):
        x = d.sample((500,)).double()
        again = d.sample()
    assert again.shape == (6, len(TABLE_FAMILIES))
    for column, (kind, size) in enumerate(zip(TABLE_FAMILIES, TABLE_SIZES, strict=True)):
        values = x[..., column]
        if kind == "real":
            assert (values != values.round()).any()
            continue
        assert (values == values.round()).all()
        assert values.min() == 0
        assert (values < size).all() or kind == "count"
        assert values.max() >= min(size - 1, 40) or kind == "count"
    assert d.mean.shape == d.mode.shape == d.cdf(x[0]).shape == (6, len(TABLE_FAMILIES))
    for column in range(len(TABLE_FAMILIES)):
        moved = x[0].clone()
        moved[:, column] = 1 - moved[:, column].clamp_max(1)
        before, after = log_prob_cells(d, x[0]), log_prob_cells(d, moved)
        changed = (before != after).any(0)
        assert changed[column]
        assert changed.sum() == 1


def test_a_wide_column_does_not_widen_the_narrow_ones():
    narrow, wide = 40, 100_000
    family = Table(["categorical"] * (narrow + 1), [3] * narrow + [wide])
    numbers = torch.zeros(8, family.numbers(narrow + 1))
    d = family(numbers)
    held = sum(block.logits.numel() for _, block in d.cells.blocks)
    assert held < 2 * numbers.numel()
    log_p = log_prob_cells(d, torch.ones(8, narrow + 1))
    torch.testing.assert_close(log_p[:, 0], torch.full((8,), -torch.tensor(3.0).log()))
    torch.testing.assert_close(log_p[:, -1], torch.full((8,), -torch.tensor(1e5).log()))


def test_single_codes_are_certain():
    family = Table(["categorical", "ordinal"], [1, 1])
    d = family(torch.randn(4, family.numbers(2), generator=noise.generator("single")))
    torch.testing.assert_close(d.log_prob(torch.zeros(4, 2)), torch.zeros(4))
    assert (d.log_prob(torch.full((4, 2), torch.nan)) == 0).all()


def test_what_the_encoder_reads_of_a_gap():
    x = torch.tensor([[1.0, torch.nan], [0.0, 2.0]])
    assert FilledReader(2, False)(x).tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert FilledReader(2, True)(x).tolist() == [[1.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0]]
    codes = CodeFeatures([2, 3])(x)
    assert codes.tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0]]


def test_the_encoder_tells_every_value_and_every_gap_apart():
    reader = TableFeatures(TABLE_FAMILIES, TABLE_SIZES, indicators=True)
    base = torch.ones(1, len(TABLE_FAMILIES))
    seen = reader(base)
    assert seen.shape == (1, reader.width)
    for column in range(len(TABLE_FAMILIES)):
        for value in (0.0, torch.nan):
            other = base.clone()
            other[0, column] = value
            assert reader(other).isfinite().all()
            assert not torch.equal(reader(other), seen)


def test_cells_are_hidden_from_the_encoder_at_the_given_rate_and_only_in_training():
    hidden, x = ValueDropout(0.2), torch.zeros(200, 50)
    with pytest.raises(UsageError, match="no generator was lent") as caught:
        hidden(x)
    assert caught.value.code == "E246"
    with lent(nn.Sequential(hidden), noise.generator("hidden")):
        share = hidden(x).isnan().double().mean().item()
        assert ValueDropout(0.0)(x) is x
    with pytest.raises(UsageError):
        hidden(x)
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 10_000) ** 0.5
    assert hidden.eval()(x) is x
