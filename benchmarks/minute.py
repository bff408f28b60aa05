"""What does a minute of fitting give on eight photographs, with and without the package's weights?

The task is to denoise the 12 pictures of Set12 at sigma 25, with noise that is neither rounded nor
cut, from one fixed seed for each picture, as in restoration.py. Four models are compared:
`photos-denoise` without a fit; two fits of a minute from its weights, to the first 8 pictures of
BSD68, which those weights have not seen: for any noise as it is, and for `noise=gaussian:25`; and
the recipe from nothing on the same 8. No choice was made by Set12.

Run: LOWERBOUND_DATA=... python benchmarks/minute.py [--seconds 60]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lowerbound
import results_file
from lowerbound.bundle import shipped
from lowerbound.files.pictures import image_file
from lowerbound.files.pictures.folders import pictures_in
from lowerbound.recipes.restoration import FOLD, multiple_of
from lowerbound.tasks import restore
from picture_scores import codes, psnr

SIGMA, DRAWS, PHOTOGRAPHS, BAR = 25.0, 8, 8, 27.5
DENOISING = "denoise_train400_bsd68_set12"
NAME = shipped.NAMES[0]
FITS: dict[str, dict[str, Any]] = {
    "a minute from photos-denoise": {"from_": NAME},
    "a minute from photos-denoise, gaussian:25": {
        "from_": NAME,
        "settings": {"noise": "gaussian:25"},
    },
    "a minute from nothing": {"recipe": "denoise"},
}


def scored(model: lowerbound.Model, folder: Path, stored: bool = False) -> dict[str, float]:
    """Return the PSNR in dB of each restored picture.

    Args:
        model: a model that removes noise.
        folder: clean grey pictures.
        stored: round and cut the noisy pictures to 8 bits, as in files.
    """
    scores = {}
    for number, path in enumerate(pictures_in(folder).files):
        clean = image_file.decode(path, 1)[..., 0].astype(np.float64)
        noisy = clean + np.random.default_rng(number).normal(0.0, SIGMA, clean.shape)
        noisy = codes(noisy) if stored else noisy
        given = torch.from_numpy(noisy[None] / 255).float()
        found = restore.restore(model.model, given, draws=DRAWS, multiple=multiple_of(FOLD))
        scores[path.name] = psnr(codes(255 * found.mean[0].astype(np.float64)), clean)
    return scores


def told(name: str, scores: dict[str, float], **more: Any) -> dict[str, Any]:
    """Return the scores of a model and their mean, and print the mean."""
    mean = float(np.mean(list(scores.values())))
    print(f"{name}: {mean:.2f} dB", flush=True)
    return {"psnr": mean, "psnr_of_each": scores, **more}


def fitted(name: str, options: argparse.Namespace, photographs: list[Path]) -> dict[str, Any]:
    """Fit a model within the time limit, save it, and return its scores."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "photographs"
        given.mkdir()
        for path in photographs:
            shutil.copy(path, given)
        began = time.monotonic()
        model = lowerbound.fit(
            given,
            out=Path(folder) / "mine.vae",
            time_limit=options.seconds,
            **FITS[name],
        )
        seconds = time.monotonic() - began
    steps = model.facts["history"]["checks"][-1]["step"]
    return told(name, scored(model, options.set12), seconds=seconds, steps=steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each fit, all included")
    parser.add_argument("--data", type=Path, default=os.environ.get("LOWERBOUND_DATA", "data"))
    options = parser.parse_args()
    options.set12 = options.data / DENOISING / "Set12"
    files = pictures_in(options.data / DENOISING / "BSD68").files[:PHOTOGRAPHS]
    model = lowerbound.load(NAME)
    results = {
        NAME: told(NAME, scored(model, options.set12)),
        f"{NAME}, noisy files of 8 bits": told("8 bits", scored(model, options.set12, True)),
        **{name: fitted(name, options, files) for name in FITS},
    }
    first = "a minute from photos-denoise"
    path = results_file.write(
        "minute",
        setting={
            "sigma": SIGMA,
            "draws": DRAWS,
            "photographs": [path.name for path in files],
            "seconds": options.seconds,
            "bar": BAR,
        },
        bars={f"{name} at least {BAR} dB": results[name]["psnr"] >= BAR for name in (NAME, first)},
        results=results,
    )
    print(path)


if __name__ == "__main__":
    main()
