"""The continuous ranked probability score (CRPS): how close draws are to the values that came."""

from __future__ import annotations

import torch
from torch import Tensor


def crps(draws: Tensor, truth: Tensor, codes: Tensor | None = None) -> Tensor:
    """Return the CRPS of draws of each value, E|x - truth| - E|x - x'| / 2; lower is better.

    x and x' are independent draws. The distance of codes is 1 if they differ. No other
    distribution has a lower expected score than the one that the truth comes from.

    References:
        Gneiting & Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007,
        eq. 21 and 22, https://doi.org/10.1198/016214506000001437

    Args:
        draws: (n, M, columns), M >= 2; pairs of different draws are compared.
        truth: (n, columns), NaN where not known.
        codes: (columns,) bool, which columns hold codes of categories; None for none.

    Returns:
        (n, columns) in the unit of the values, NaN where the truth is.

    >>> crps(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0]]))
    tensor([[0.]])
    """
    count = draws.shape[1]
    ordered = draws.sort(1).values
    weights = 2.0 * torch.arange(1, count + 1, device=draws.device) - count - 1
    pairs = torch.einsum("nmc,m->nc", ordered, weights.to(draws)) / (count * (count - 1))
    found = (draws - truth[:, None]).abs().mean(1) - pairs
    if codes is None or not codes.any():
        return found
    of_codes, levels = draws[..., codes], truth[:, codes]
    wrong = (of_codes != levels[:, None]).to(draws).mean(1)
    alike = sum((of_codes == of_codes[:, m : m + 1]).sum(1) - 1 for m in range(count))
    differing = 1.0 - alike / (count * (count - 1))
    found[:, codes] = torch.where(levels.isnan(), torch.nan, wrong - differing / 2)
    return found
