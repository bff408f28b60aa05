"""What does a minute give somebody who wants noise removed from photographs?

The 12 pictures of Set12, with Gaussian noise of sigma 25 rounded and cut to eight bits as files
have it, are cleaned by `lowerbound denoise` as a user runs it, in three ways: by photos-denoise,
the model that comes with the library; by a fit of a minute to 8 photographs that starts from it;
and by a fit of a minute from random weights. Beside them are the noisy pictures and the non-local
means of scikit-image, told sigma. photos-denoise has learned from Train400, and the 8 photographs
are the first of BSD68: neither shares a picture with Set12. Nothing was tuned on Set12.

Run: LOWERBOUND_DATA=... python benchmarks/minute.py
Needs scikit-image. Nothing else may run meanwhile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.restoration import denoise_nl_means

import results_file
from lowerbound.files.pictures import image_file
from lowerbound.files.pictures.folders import pictures_in
from picture_scores import codes, psnr

SIGMA, BAR, PHOTOGRAPHS = 25.0, 27.5, 8
SHIPPED = "photos-denoise"
START = {"fitted from photos-denoise": ["--from", SHIPPED], "fitted from random weights": []}


def run(folder: Path, *words: str) -> float:
    """Run a command; return its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lowerbound", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return round(time.perf_counter() - began, 1)


def main() -> None:
    home = Path(os.environ["LOWERBOUND_DATA"]) / "denoise_train400_bsd68_set12"
    files = pictures_in(home / "Set12").files
    clean = {f.name: image_file.decode(f, 1)[..., 0].astype(np.float64) for f in files}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "noisy").mkdir()
        (folder / "photographs").mkdir()
        for file in pictures_in(home / "BSD68").files[:PHOTOGRAPHS]:
            shutil.copy(file, folder / "photographs")
        scores: dict[str, list[float]] = {"noisy": [], "non-local means": []}
        for number, (each, truth) in enumerate(clean.items()):
            noise = np.random.default_rng(number).normal(0.0, SIGMA, truth.shape)
            noisy = codes(truth + noise)
            Image.fromarray(noisy.astype(np.uint8)).save(folder / "noisy" / each)
            sigma = SIGMA / 255
            means = denoise_nl_means(
                noisy / 255, h=0.6 * sigma, sigma=sigma, patch_size=5, patch_distance=6,
                fast_mode=False,
            )  # fmt: skip
            scores["noisy"].append(psnr(noisy, truth))
            scores["non-local means"].append(psnr(codes(255 * means), truth))
        seconds: dict[str, dict[str, float]] = {}
        models = {SHIPPED: SHIPPED}
        for way, words in START.items():
            models[way] = f"{len(models)}.vae"
            options = words or ["--recipe", "denoise", "--set", "noise=gaussian:0-50"]
            fit = ("fit", "photographs", *options, "--time-limit", "60s", "--out", models[way])
            seconds[way] = {"fit": run(folder, *fit)}
        for way, model in models.items():
            took = run(folder, "denoise", model, "noisy", "--out", "made", "--overwrite")
            seconds.setdefault(way, {})["denoise"] = took
            made = {n: image_file.decode(folder / "made" / n, 1)[..., 0] for n in clean}
            scores[way] = [psnr(made[n].astype(np.float64), clean[n]) for n in clean]
            print(way, round(float(np.mean(scores[way])), 2), seconds[way], flush=True)
    means = {way: float(np.mean(each)) for way, each in scores.items()}
    asked = [SHIPPED, "fitted from photos-denoise"]
    results_file.write(
        "minute",
        about=(__doc__ or "").split("\n\nRun:")[0],
        bars={f"{way}, at least {BAR} dB": bool(means[way] >= BAR) for way in asked},
        mean_psnr=means,
        seconds=seconds,
        psnr={way: dict(zip(clean, each, strict=True)) for way, each in scores.items()},
    )


if __name__ == "__main__":
    main()
