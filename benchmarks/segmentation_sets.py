"""The pictures of benchmarks/segmentation.py, and who learns from which of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SLICES, FOLDS = 30, 5
BAND = 384  # rows of a slice that are learned from; those below decide what is kept
SHARE = 0.8  # of the nuclei that are learned from
HELD = 10  # one in so many of these decides what is kept

Pages = Sequence[NDArray]  # (H, W, 1) each


@dataclass(frozen=True)
class Part:
    """Pictures and where their foreground is, 1.0 and 0.0, (H, W, 1) both."""

    pictures: Pages
    masks: Pages


@dataclass(frozen=True)
class Case:
    """What one fit sees.

    Attributes:
        train: to learn from.
        valid: that decide which weights are kept.
        test: that are looked at once, at the end.
        unlabelled: the pictures of all that may be learned from, their masks left out: those to
            learn from, and those that decide.
    """

    train: Part
    valid: Part
    test: Part
    unlabelled: tuple[Pages, Pages]


def membranes(folder: Path, fold: int, labels: int) -> Case:
    """Return one fold of the ISBI slices; the foreground is the membrane.

    The slices of a fold are neighbours in the tissue: others would all but show them.
    """
    with np.load(folder / "seg_isbi2012_membrane" / "isbi2012.npz") as file:
        pictures, masks = file["train_image"][..., None], 1 - file["train_label"][..., None]
    masks = masks.astype(np.float32)
    tested = np.array_split(np.arange(SLICES), FOLDS)[fold]
    others = np.random.default_rng(fold).permutation(np.setdiff1d(np.arange(SLICES), tested))
    known = others[:labels]
    return Case(
        Part(pictures[known, :BAND], masks[known, :BAND]),
        Part(pictures[known, BAND:], masks[known, BAND:]),
        Part(pictures[tested], masks[tested]),
        (pictures[others, :BAND], pictures[others, BAND:]),
    )


def nuclei(folder: Path) -> Case:
    """Return the grey pictures of the Data Science Bowl 2018, the foreground their nuclei."""
    with np.load(folder / "seg_dsb2018_nuclei256" / "dsb2018_gray256.npz") as file:
        pictures = file["images"][..., None]
        masks = (file["instances"] > 0).astype(np.float32)[..., None]
    order = np.random.default_rng(0).permutation(len(pictures))
    learned, tested = np.split(order, [round(SHARE * len(order))])
    held, known = np.split(learned, [len(learned) // HELD])
    parts = [Part(pictures[index], masks[index]) for index in (known, held, tested)]
    return Case(parts[0], parts[1], parts[2], (pictures[known], pictures[held]))
