"""The work after training (refit of the prior, health, calibration): its cost, and its extent.

All of it is passes over rows, so that a few timed passes forecast it. Under a time limit, training
stops early enough for it; if it would take a large part of the limit, it uses fewer rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from lowerbound.coding.rows import Rows, subset, tile_of
from lowerbound.nn.model import LatentModel
from lowerbound.tasks import doctor, metrics
from lowerbound.training.engine.time_limit import TimeLimit
from lowerbound.training.split import FitInputs

SHARE = 0.3  # largest share of a time limit for the work after training, if rows can be left out
FEWEST = 50  # calibration rows that are kept even if they take longer
FEWEST_CROPS = 4  # calibration crops of pictures that are kept
FEWEST_SAMPLES = 4  # importance samples per score that are kept
FEWEST_CHECKED = 16  # rows that the health is measured on even if they take longer
PROBED = 4  # rows of the first timed pass; later ones have up to those of a tile
PROBING = 0.5  # seconds after which no further pass is timed
TYPICAL_DRAWS = 500 * 32  # draws for the usual contributions of the columns
REFIT_DRAWS = 1000 * 32  # draws by which a refitted prior is judged
HEALTH_PASSES = 5  # passes over the rows that health is measured on
EM_PASSES = 50 * (1 + 4 + 20 + 64) / 64  # iterations of EM, as if all had 64 components
EM_FACTOR = 6.0  # time of such an iteration over that of `_em_probe`
ENDING = 1.0  # seconds to seal and verify the model and to end the process
MOST_WAITING = 3.0  # largest factor on the time of the end, for a busy machine
BYTES_PER_SECOND = 1e8  # of writing and verifying a model
PICTURE_PASSES = 3  # passes that restore a held-out crop


class Extent(NamedTuple):
    """Numbers of rows and draws that the work after training uses.

    Attributes:
        calibration: rows that the scores are calibrated on.
        health: rows of each part that the health is measured on.
        samples: importance samples per score.
    """

    calibration: int
    health: int
    samples: int


class Cost(NamedTuple):
    """Forecast cost of the work after training, in seconds.

    Attributes:
        fixed: seconds that do not depend on the extent.
        draw: seconds per importance sample of a row.
        health: seconds per row that the health is measured on.
        tile: rows that are computed together; part of a tile takes as long as all of it.
    """

    fixed: float
    draw: float
    health: float
    tile: int = 1

    def of(self, extent: Extent) -> float:
        """Return the seconds of the work."""
        rows, checked = (self.tile * math.ceil(count / self.tile) for count in extent[:2])
        return self.fixed + self.draw * extent.samples * rows + self.health * checked


def full(inputs: FitInputs, samples: int) -> Extent:
    """Return the extent without a time limit, with `samples` draws per score."""
    rows = min(doctor.ROWS, len(inputs.valid))
    return Extent(len(inputs.split.calibration), rows, samples)


def least(inputs: FitInputs, samples: int) -> Extent:
    """Return the smallest extent; the scores of models that restore pictures are not used."""
    whole = full(inputs, samples)
    rows = FEWEST if inputs.coded.each == 1 else FEWEST_CROPS
    return Extent(
        min(rows, whole.calibration),
        min(FEWEST_CHECKED, whole.health),
        min(FEWEST_SAMPLES, samples),
    )


def fitting(cost: Cost, extents: tuple[Extent, Extent], seconds: float) -> Extent:
    """Return the largest extent whose work takes at most `seconds`.

    Rows are left out first, then samples.

    Args:
        cost: the forecast cost.
        extents: the smallest and the largest extent.
        seconds: the time for the work.
    """
    fewest, whole = extents
    spare, wanted = seconds - cost.fixed, cost.of(whole) - cost.fixed
    if wanted <= spare:
        return whole
    share = max(0.0, spare / wanted)
    calibration, health = (
        min(most, max(few, int(share * most) // cost.tile * cost.tile))
        for few, most in zip(fewest[:2], whole[:2], strict=True)
    )
    extent = Extent(calibration, health, whole.samples)
    while cost.of(extent) > seconds and extent.samples > fewest.samples:
        extent = extent._replace(samples=max(extent.samples // 2, fewest.samples))
    # The rows of a tile that is computed in any case are free.
    rows = min(whole.calibration, cost.tile * math.ceil(extent.calibration / cost.tile))
    return extent._replace(calibration=rows)


def trimmed(inputs: FitInputs, extent: Extent) -> FitInputs:
    """Return the inputs with as many held-out rows as the work after training uses."""
    split = inputs.split
    calibration = split.calibration[: extent.calibration]
    return inputs._replace(split=replace(split, calibration=calibration), checked=extent.health)


def cost(
    model: LatentModel, inputs: FitInputs, samples: int, refit: int = 0, by_levels: bool = False
) -> Cost:
    """Forecast the cost of the work after training from a few timed passes.

    Args:
        model: the model, trained or not, on the CPU.
        inputs: the rows and their split.
        samples: importance samples per score.
        refit: size of the latents whose prior is refitted, or 0.
        by_levels: whether scores by levels, which take half the samples, are calibrated too.
    """
    coded, split = inputs.coded, inputs.split
    rows = subset(coded.rows, split.calibration)
    tile = tile_of(coded.rows, metrics.TILE)
    began, worked = time.monotonic(), time.thread_time()
    scored = _per_row(rows, lambda some, n: metrics.log_likelihood(model, some, samples, most=n))
    passed = _per_row(rows, lambda some, n: metrics.elbo(model, some, most=n))
    # Above 1 where other processes use the same cores.
    waiting = (time.monotonic() - began) / max(time.thread_time() - worked, 1e-9)
    ending = ENDING + 4 * sum(p.numel() for p in model.parameters()) / BYTES_PER_SECOND
    fixed = ending * min(max(waiting, 1.0), MOST_WAITING)
    if coded.each > 1:  # a model that restores pictures: health is measured by restoring them
        return Cost(fixed, scored / samples, (HEALTH_PASSES + PICTURE_PASSES) * passed, tile)
    if not inputs.coding.shape:  # columns, whose usual contributions are measured
        fixed += TYPICAL_DRAWS * scored / samples * min(1.0, len(rows) / 500)
    if by_levels:
        scored *= 1.5
    if refit:
        learned = min(10_000, len(split.train))
        em = EM_PASSES * EM_FACTOR * _em_probe(refit) * min(learned, 320_000 // refit)
        fixed += learned * passed + REFIT_DRAWS * scored / samples + em
    return Cost(fixed, scored / samples, HEALTH_PASSES * passed, tile)


def _per_row(rows: Rows, work: Callable[[Rows, int], object]) -> float:
    """Return the seconds that `work` takes per row: the best of growing numbers of rows.

    Args:
        rows: the rows.
        work: a function of some of the rows and of the largest tile.
    """
    tile = min(len(rows), tile_of(rows, metrics.TILE))
    best, spent = math.inf, 0.0
    for size in (PROBED, PROBED, 4 * PROBED, tile, tile):
        some = min(size, tile)
        took = _timed(rows, some, work)
        best, spent = min(best, took / some), spent + took
        if spent > PROBING:
            break
    return best


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
