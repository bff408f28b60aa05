"""The CRPS of draws against its closed form, and what is chosen by it."""

import math

import pytest
import torch

from lowerbound.noise import generator
from lowerbound.tasks.crps import crps


def test_of_normal_draws_of_a_normal_value():
    source = generator("crps")
    draws, truth = (
        torch.randn(4000, 32, 1, generator=source),
        torch.randn(4000, 1, generator=source),
    )
    # Gneiting & Raftery 2007, eq. 5: its expectation is 1 / sqrt(pi).
    assert crps(draws, truth).mean().item() == pytest.approx(1 / math.sqrt(math.pi), abs=0.02)
    wider = crps(1.5 * draws, truth).mean()
    assert wider > crps(draws, truth).mean()


def test_of_codes_it_is_half_of_the_brier_score():
    source = generator("crps of codes")
    p = torch.tensor([0.2, 0.5, 0.3])
    draws = p.expand(3000, -1).multinomial(40, replacement=True, generator=source).float()
    truth = torch.full((3000, 1), 2.0)
    brier = ((p - torch.tensor([0.0, 0.0, 1.0])) ** 2).sum().item()
    found = crps(draws[..., None], truth, torch.tensor([True]))
    assert found.mean().item() == pytest.approx(brier / 2, abs=0.01)


def test_unknown_values_have_none():
    draws, truth = torch.zeros(2, 3, 2), torch.tensor([[0.0, torch.nan], [torch.nan, 1.0]])
    found = crps(draws, truth, torch.tensor([False, True]))
    assert torch.equal(found.isnan(), truth.isnan())
    assert found[0, 0] == 0.0
    assert found[1, 1] == 1.0
