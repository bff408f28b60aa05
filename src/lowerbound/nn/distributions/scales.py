"""Scales and bounded numbers from a network's free ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE_FLOOR = 1e-2  # of standardised data: a hundredth of a column's standard deviation
SCALE_CEILING = 1e6
SHARPNESS = 8.0  # of a soft clip's ends; a power of two, so that it costs no digit


def soft_clip(raw: Tensor, low: float, high: float) -> Tensor:
    """Return `raw` held between `low` and `high` by smooth ends.

    A distance of 1 from either end changes the value by less than 1e-4, and the gradient never
    becomes NaN for a finite input. Each end is a maximum smoothed by log(e^a + e^b), which gives
    back the larger one to its last digit where the other is far away.
    """
    raised = torch.logaddexp(SHARPNESS * raw, raw.new_tensor(SHARPNESS * low))
    return torch.logaddexp(-raised, raw.new_tensor(-SHARPNESS * high)) / -SHARPNESS


def scale_of(raw: Tensor, floor: float = SCALE_FLOOR, ceiling: float = SCALE_CEILING) -> Tensor:
    """Return exp(raw) held softly between `floor` and `ceiling`: a scale from a free number."""
    return soft_clip(raw, math.log(floor), math.log(ceiling)).exp()


def above(raw: Tensor, floor: float) -> Tensor:
    """Return floor + softplus(raw + c), c such that raw 0 gives floor + 1.

    Unlike an exponential it grows in a straight line, so that one wild step of the network cannot
    throw a scale across orders of magnitude: what per-element scales need to train fast.
    """
    return floor + F.softplus(raw + math.log(math.e - 1))
