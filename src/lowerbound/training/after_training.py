"""The work after training (refit of the prior, health, calibration): its cost, and its extent.

All of it is passes over rows, so that a few timed passes forecast it. Under a time limit, training
stops early enough for it; if it would take a large part of the limit, it uses fewer rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from lowerbound.coding.base import Coded
from lowerbound.coding.rows import Rows, subset, tile_of
from lowerbound.tasks import doctor, metrics
from lowerbound.training.engine.time_limit import TimeLimit
from lowerbound.training.split import Material, Split

SHARE = 0.3  # largest share of a time limit for the work after training, if rows can be left out
FEWEST = 64  # calibration rows that are kept even if they take longer
FEWEST_CROPS = 4  # calibration crops of pictures that are kept
FEWEST_CHECKED = 16  # rows that the health is measured on even if they take longer
PROBED = 4  # rows of a timed pass, if it is slow; else those of a tile
SLOW = 0.05  # seconds of such a pass
TYPICAL_DRAWS = 500 * 32  # draws for the usual contributions of the columns
REFIT_DRAWS = 1000 * 32  # draws by which a refitted prior is judged
HEALTH_PASSES = 5  # passes over the rows that health is measured on
EM_PASSES = 50 * (1 + 4 + 20 + 64) / 64  # iterations of EM, as if all had 64 components
EM_FACTOR = 6.0  # time of such an iteration over that of `_em_probe`
ENDING = 1.0  # seconds to seal and verify the model and to end the process
BYTES_PER_SECOND = 1e8  # of writing and verifying a model
PICTURE_PASSES = 3  # passes that restore a held-out crop


class Extent(NamedTuple):
    """Numbers of rows that the work after training uses.

    Attributes:
        calibration: rows that the scores are calibrated on.
        health: rows of each part that the health is measured on.
    """

    calibration: int
    health: int


class Cost(NamedTuple):
    """Forecast cost of the work after training, in seconds.

    Attributes:
        fixed: seconds that do not depend on the extent.
        calibration: seconds per calibration row.
        health: seconds per row that the health is measured on.
    """

    fixed: float
    calibration: float
    health: float

    def of(self, extent: Extent) -> float:
        """Return the seconds of the work."""
        rows = self.calibration * extent.calibration + self.health * extent.health
        return self.fixed + rows


def full(material: Material) -> Extent:
    """Return the extent without a time limit."""
    rows = min(doctor.ROWS, len(material.valid))
    return Extent(len(material.split.calibration), rows)


def least(material: Material) -> Extent:
    """Return the smallest extent; the scores of models that restore pictures are not used."""
    return Extent(FEWEST if material.coded.each == 1 else FEWEST_CROPS, FEWEST_CHECKED)


def fitting(cost: Cost, extents: tuple[Extent, Extent], seconds: float) -> Extent:
    """Return the largest extent whose work takes at most `seconds`.

    Args:
        cost: the forecast cost.
        extents: the smallest and the largest extent.
        seconds: the time for the work.
    """
    (fewest, whole) = extents
    spare, wanted = seconds - cost.fixed, cost.of(whole) - cost.fixed
    if wanted <= spare:
        return whole
    share = max(0.0, spare / wanted)
    return Extent(
        max(min(fewest.calibration, whole.calibration), int(share * whole.calibration)),
        max(min(fewest.health, whole.health), int(share * whole.health)),
    )


def trimmed(material: Material, extent: Extent) -> Material:
    """Return the material with as many held-out rows as the work after training uses."""
    split = material.split
    calibration = split.calibration[: extent.calibration]
    return material._replace(split=replace(split, calibration=calibration), checked=extent.health)


def cost(model: nn.Module, coded: Coded, split: Split, samples: int, refit: int = 0) -> Cost:
    """Forecast the cost of the work after training from a few timed passes.

    Args:
        model: the model, trained or not, on the CPU.
        coded: the coded rows.
        split: their parts.
        samples: importance samples per score.
        refit: size of the latents whose prior is refitted, or 0.
    """
    rows = subset(coded.rows, split.calibration)
    scored = _per_row(rows, lambda some, n: metrics.log_likelihood(model, some, samples, most=n))
    passed = _per_row(rows, lambda some, n: metrics.elbo(model, some, most=n))
    fixed = ENDING + 4 * sum(p.numel() for p in model.parameters()) / BYTES_PER_SECOND
    if coded.each > 1:  # a model that restores pictures: health is measured by restoring them
        return Cost(fixed, scored, (HEALTH_PASSES + PICTURE_PASSES) * passed)
    fixed += TYPICAL_DRAWS * scored / samples * min(1.0, len(rows) / 500)
    if refit:
        learned = min(10_000, len(split.train))
        em = EM_PASSES * EM_FACTOR * _em_probe(refit) * min(learned, 320_000 // refit)
        fixed += learned * passed + REFIT_DRAWS * scored / samples + em
    return Cost(fixed, scored, HEALTH_PASSES * passed)


def _per_row(rows: Rows, work: Callable[[Rows, int], object]) -> float:
    """Return the seconds that `work` takes per row, timed on a few rows or on a tile.

    Args:
        rows: the rows.
        work: a function of some of the rows and of the largest tile.
    """
    size = min(PROBED, len(rows))
    seconds = [_timed(rows, size, work)]
    if seconds[0] < SLOW:  # fast enough for a whole tile, and for the best of some tries
        size = min(len(rows), tile_of(rows, metrics.TILE))
        seconds = [_timed(rows, size, work) for _ in range(3)]
    return min(seconds) / size


def _timed(rows: Rows, size: int, work: Callable[[Rows, int], object]) -> float:
    """Return the seconds of one call on the first rows."""
    began = time.monotonic()
    work(subset(rows, torch.arange(size)), size)
    return time.monotonic() - began


def _em_probe(latent: int, rows: int = 1000) -> float:
    """Return the seconds per row of the densities of 64 components in `latent` dimensions."""
    z, means = torch.ones(rows, latent).double(), torch.ones(latent, 64).double()
    began = time.monotonic()
    for _ in range(3):
        (z @ means).logsumexp(1)
    return (time.monotonic() - began) / 3 / rows


def reserve(limit: TimeLimit, price: Cost, extents: tuple[Extent, Extent]) -> float:
    """Return the seconds to keep for the work after training under a limit."""
    assert limit.seconds is not None, "without a limit, nothing is kept"
    return price.of(fitting(price, extents, SHARE * limit.seconds))
