"""Passes of few rows whose scores have the same bits as in passes of many.

A pass computes `TILE` rows together, however few there are, because matrix products of another
shape may round in another order: a row's score must not depend on the other rows. Whether smaller
products do round otherwise depends on the kernels of the machine, not on the values: it is tried
on rows that the model has drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lowerbound.coding.base import Coded
from lowerbound.nn.model import LatentModel
from lowerbound.tasks import draws
from lowerbound.tasks.metrics import TILE
from lowerbound.tasks.proposals import takes_few_values

SIZES = (4, 8, 16, 32, 64)


def same_in_passes_of(
    model: LatentModel, coded: Coded, samples: int, sizes: Sequence[int] = SIZES
) -> tuple[int, ...]:
    """Return the sizes of passes in which rows have the same scores as in passes of `TILE` rows.

    Args:
        model: the model, on a CPU.
        coded: rows to try, at least `TILE`, of all kinds that are scored.
        samples: draws of z for each row.
        sizes: the sizes to try.
    """
    device = next(model.parameters()).device
    if device.type != "cpu" or len(coded.rows) < TILE or takes_few_values(model, device):
        return ()

    def scores(most: int) -> Tensor:
        return draws.score(model, coded.rows, samples, most=most, groups=coded.groups)

    whole = scores(TILE)
    return tuple(size for size in sizes if torch.equal(scores(size), whole))
