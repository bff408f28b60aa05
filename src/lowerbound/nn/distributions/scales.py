"""Smooth maps from real numbers to bounded numbers and to positive scales."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE_FLOOR = 1e-2  # for standardised data: 1% of a column's standard deviation
SCALE_CEILING = 1e6
SHARPNESS = 8.0  # of the ends of a soft clip; a power of two, so that scaling is exact


def soft_clip(raw: Tensor, low: float, high: float) -> Tensor:
    """Return `raw` bounded to [low, high] with smooth ends.

    At a distance of 1 from either end the value changes by less than 1e-4, and the gradient is
    finite for every finite input. Each end is the smooth maximum log(e^a + e^b), which equals the
    larger of two distant numbers exactly.
    """
    raised = torch.logaddexp(SHARPNESS * raw, raw.new_tensor(SHARPNESS * low))
    return torch.logaddexp(-raised, raw.new_tensor(-SHARPNESS * high)) / -SHARPNESS


def scale_of(raw: Tensor, floor: float = SCALE_FLOOR, ceiling: float = SCALE_CEILING) -> Tensor:
    """Return exp(raw), softly bounded to [floor, ceiling]: a scale from a real number."""
    return soft_clip(raw, math.log(floor), math.log(ceiling)).exp()


def above(raw: Tensor, floor: float) -> Tensor:
    """Return floor + softplus(raw + c), with c such that raw = 0 gives floor + 1.

    It grows linearly, unlike an exponential, so that one large step of the network cannot change a
    scale by orders of magnitude. Scales per element train faster with it.
    """
    return floor + F.softplus(raw + math.log(math.e - 1))
