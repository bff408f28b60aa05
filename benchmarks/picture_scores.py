"""What restored pictures and masks are measured by, as published comparisons have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from lowerbound.files.pictures import image_file

Grey = NDArray[np.floating]  # (H, W), 0 to 255
BINS = 15  # of the calibration error

_LUMA = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601, as MATLAB's rgb2ycbcr


def luma(path: Path) -> Grey:
    """Return Y of YCbCr, 16 to 235, rounded to whole codes; of a grey file, its own pixels.

    Pixels of a grey file are left at 0 to 255, as in the evaluation code of published tables:
    that alone gives their bicubic baseline on Set14, which has one.
    """
    pixels = image_file.decode(path).astype(np.float64)
    return pixels[..., 0] if pixels.shape[2] == 1 else np.rint(16 + pixels @ _LUMA)


def luma_of_grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return Y of grey pixels of 8 bits, as shares of 255."""
    return ((16 + pixels * (219 / 255)) / 255).astype(np.float32)


def codes(picture: Grey) -> Grey:
    """Return what a file of 8 bits would hold."""
    return np.rint(picture).clip(0, 255)


def psnr(guess: Grey, truth: Grey) -> float:
    """Return the peak signal over noise of a picture, dB."""
    return float(10 * np.log10(255**2 / np.square(guess - truth).mean()))


def ssim(guess: Grey, truth: Grey) -> float:
    """Return the structural similarity: Wang et al., 2004, with their Gaussian window."""
    similar = structural_similarity(
        guess,
        truth,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    return float(similar)  # pyright: ignore[reportArgumentType] - a number, without `full`


def counts(guess: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, int]:
    """Return what Dice needs to know of one mask; the counts of several add up."""
    return {
        "both": int((guess & truth).sum()),
        "guessed": int(guess.sum()),
        "true": int(truth.sum()),
    }


def dice(masks: list[dict[str, int]]) -> float:
    """Return 2 |A & B| / (|A| + |B|) of the pixels of all masks together."""
    both, guessed, true = (sum(m[key] for m in masks) for key in ("both", "guessed", "true"))
    return 2 * both / max(1, guessed + true)


def reliability(p: NDArray[np.floating], truth: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return per bin of confidence: pixels, and the sums of confidence and of right guesses.

    Args:
        p: probability of the foreground.
        truth: where it is.
    """
    confidence = np.maximum(p, 1 - p).ravel()
    right = ((p > 0.5) == truth).ravel()
    place = ((confidence - 0.5) * 2 * BINS).astype(int).clip(0, BINS - 1)
    sums = {"pixels": np.ones_like(confidence), "confidence": confidence, "right": right}
    return {k: np.bincount(place, v, BINS).tolist() for k, v in sums.items()}


def calibration_error(pictures: list[dict[str, list[float]]]) -> float:
    """Return the expected calibration error: Guo et al., 2017, of all pixels together."""
    total: dict[str, Any] = {
        k: np.sum([each[k] for each in pictures], 0) for k in ("pixels", "confidence", "right")
    }
    gap = np.abs(total["confidence"] - total["right"])
    return float(gap.sum() / total["pixels"].sum())
