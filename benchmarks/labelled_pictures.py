"""The pictures of the benchmarks, with their labels, below LOWERBOUND_DATA."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reproductions.datasets import DATASETS

FOLDERS = {"mnist": "mnist", "fashion-mnist": "fashion_mnist"}
_HEADER = 8  # bytes before the labels of an idx file


class Labelled(NamedTuple):
    """Pictures (n, H, W) of 8 bits and their labels (n,), in the official split."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class Cells(NamedTuple):
    """Solar cells: pictures (n, 64, 64) of 8 bits, and the probability of a defect of each."""

    pictures: np.ndarray
    defect: np.ndarray


def folder() -> Path:
    return Path(os.environ.get("LOWERBOUND_DATA") or ".")


def _labels(name: str, part: str) -> np.ndarray:
    packed = (folder() / FOLDERS[name] / f"{part}-labels-idx1-ubyte.gz").read_bytes()
    return np.frombuffer(gzip.decompress(packed), np.uint8, offset=_HEADER).astype(np.int64)


def labelled(name: str) -> Labelled:
    """Return "mnist" or "fashion-mnist": 60,000 pictures to learn from and 10,000 to test."""
    parts = DATASETS[name](0)
    return Labelled(
        np.concatenate([np.asarray(parts.train), np.asarray(parts.valid)]),
        _labels(name, "train"),
        np.array(parts.test),  # a copy, which torch may take: the file's bytes are read-only
        _labels(name, "t10k"),
    )


def solar_cells() -> Cells:
    """Return the electroluminescence pictures of ELPV (Deitsch et al., 2019), 64 x 64."""
    with np.load(folder() / "ad_elpv_solar64" / "elpv_64.npz") as stored:
        return Cells(stored["images"], stored["defect_probability"])
