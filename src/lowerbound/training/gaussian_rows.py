"""Fit of a Gaussian to rows with gaps, and how much its covariance is shrunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Expectation-maximisation for rows with gaps: most rounds, and the change of a correlation that
# ends it.
ROUNDS, CHANGE = 40, 1e-3
AT_ONCE = 512  # matrices that are inverted together
SHRINKAGES = 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0
# Rows that it is fitted to; of rows with gaps, many have a matrix of their own to invert.
MOST, MOST_WITH_GAPS = 5_000, 1_500
FOLDS, FEW = 4, 2_000  # folds of the rows; of more rows than `FEW`, only the first is judged


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D), float64."""

    mean: Tensor
    covariance: Tensor


def fitted(x: Tensor) -> Gaussian:
    """Return the Gaussian of greatest likelihood of rows (n, D) with gaps (NaN), float64.

    References:
        Little & Rubin, "Statistical analysis with missing data", 2002, section 11.2.1.
    """
    seen = ~x.isnan()
    count = seen.sum(0).clamp_min(1)
    mean = x.nan_to_num(0.0).sum(0) / count
    scale = (((x - mean).nan_to_num(0.0) ** 2).sum(0) / count).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    z = ((x - mean) / scale).nan_to_num(0.0)
    covariance, middle = _moments(z, z.new_zeros(z.shape[1], z.shape[1]))
    if not seen.all():
        covariance = (z.T @ z) / torch.minimum(count[:, None], count)
        covariance = 0.9 * covariance + 0.1 * torch.eye(len(covariance), dtype=x.dtype)
        middle = torch.zeros_like(mean)
        patterns, at = seen.unique(dim=0, return_inverse=True)
        for _ in range(ROUNDS):
            filled, uncertain = _expected(z, patterns, at, middle, covariance)
            before, (covariance, middle) = covariance, _moments(filled, uncertain)
            if (covariance - before).abs().max() < CHANGE:
                break
    return Gaussian(mean + scale * middle, covariance * scale * scale[:, None])


def _moments(z: Tensor, uncertain: Tensor) -> tuple[Tensor, Tensor]:
    middle = z.mean(0)
    return (z - middle).T @ (z - middle) / len(z) + uncertain, middle


def _expected(
    z: Tensor, patterns: Tensor, at: Tensor, mean: Tensor, cov: Tensor
) -> tuple[Tensor, Tensor]:
    """Return rows with gaps filled by conditional means, and the mean covariance of the gaps.

    A gap is a row and a column of the identity in the matrix that is inverted.

    Args:
        z: (n, D) rows.
        patterns: (P, D) bool, the different sets of columns that are seen together.
        at: (n,) the pattern of each row.
        mean: (D,).
        cov: (D, D).
    """
    eye = torch.eye(len(cov), dtype=z.dtype)
    cov = cov + 1e-4 * eye
    filled, taken = torch.empty_like(z), torch.zeros_like(cov)
    counts = at.bincount(minlength=len(patterns)).to(z)
    for first in range(0, len(patterns), AT_ONCE):
        known = patterns[first : first + AT_ONCE].to(z)
        both = known[:, :, None] * known[:, None]
        inverse = torch.linalg.inv(both * cov + eye * (1 - known)[:, None]) * both
        taken += torch.einsum("pij,p->ij", inverse, counts[first : first + AT_ONCE])
        rows = ((at >= first) & (at < first + AT_ONCE)).nonzero()[:, 0]
        for some in rows.split(AT_ONCE):
            own = at[some] - first
            pull = torch.einsum("nij,nj->ni", inverse[own], known[own] * (z[some] - mean))
            filled[some] = torch.where(known[own] > 0, z[some], mean + pull @ cov)
    return filled, cov - cov @ (taken / len(z)) @ cov


def shrunk(found: Gaussian, share: float) -> Gaussian:
    """Return a Gaussian whose correlations are smaller by a share."""
    diagonal = torch.diag(found.covariance.diagonal().clamp_min(1e-6))
    return Gaussian(found.mean, (1 - share) * found.covariance + share * diagonal)


class Predicted(NamedTuple):
    """Mean and standard deviation of numbers, both (m, N) float64."""

    mean: Tensor
    deviation: Tensor


class Judged(NamedTuple):
    """A fitted Gaussian and what copies of it predict of rows that they were not fitted to.

    Attributes:
        gaussian: fitted to all rows, shrunk by the share of the highest held-out likelihood.
        rows: (m,) index of the judged rows.
        mean: (m, N) predicted mean of each number, given the columns before it.
        deviation: (m, N) its standard deviation.
    """

    gaussian: Gaussian
    rows: Tensor
    mean: Tensor
    deviation: Tensor


def judged(x: Tensor, values: Tensor, predict: Callable[[Gaussian, Tensor], Predicted]) -> Judged:
    """Fit a Gaussian and choose its shrinkage by cross-validation.

    Args:
        x: (n, D) features, NaN where missing.
        values: (n, N) the numbers that are predicted, NaN where missing.
        predict: function of a Gaussian and the indices of rows that returns mean and standard
            deviation of their numbers.
    """
    x = x[: MOST_WITH_GAPS if x[:MOST].isnan().any() else MOST]
    values, n = values[: len(x)], len(x)
    fold = torch.arange(n) % FOLDS
    folds = [fold == each for each in range(FOLDS if n <= FEW else 1)]
    found = [
        (held.nonzero()[:, 0], fitted(x[~held])) for held in folds if held.any() and not held.all()
    ]
    best, most, chosen = SHRINKAGES[0], -math.inf, []
    for share in SHRINKAGES:
        predicted = [(held, *predict(shrunk(each, share), held)) for held, each in found]
        nats = 0.0
        for held, mean, deviation in predicted:
            z = (values[held] - mean) / deviation
            log_p = (-0.5 * z.square() - deviation.log()).clamp_min(-20.0).nan_to_num(0.0)
            nats += float(log_p.sum())
        if nats <= most:  # the likelihood has one maximum in the share
            break
        best, most, chosen = share, nats, predicted
    whole = shrunk(fitted(x), best)
    if not chosen:  # a single row
        every = torch.arange(n)
        return Judged(whole, every, *predict(whole, every))
    parts = [torch.cat(each) for each in zip(*chosen, strict=True)]
    return Judged(whole, *parts)
