"""Which recipe suits large pictures: one level of latents, or a ladder? Equal seconds for both.

The pictures of Train400, and their mirror images, at 128 x 128; what is compared is the bound on
held-out rows, nats per pixel, higher is better. It decides what `lowerbound fit FOLDER` takes.

Run: LOWERBOUND_DATA=... OMP_NUM_THREADS=1 python benchmarks/picture_choice.py [--seconds 60]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import results_file
from lowerbound import Plan
from lowerbound.files.pictures.folders import pictures_in
from lowerbound.files.read import read
from lowerbound.recipes import suggest
from lowerbound.training.fit import learn

SIDE = 128


def pictures(folder: Path) -> np.ndarray:
    """Return the pictures of a folder and their mirror images, (n, 1, SIDE, SIDE) uint8."""
    made = []
    for path in pictures_in(folder).files:
        with Image.open(path) as picture:
            x = np.asarray(picture.convert("L").resize((SIDE, SIDE)))
        made += [x, x[:, ::-1]]
    return np.stack(made)[:, None]


def measured(x: np.ndarray, plan: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Fit one recipe and return its held-out bound."""
    made = learn(read(x), Plan(**{**plan, "time_limit": seconds}))
    history = made.facts["history"]
    best = history["checks"][history["best"]]
    return {
        "plan": plan,
        "steps": history["checks"][-1]["step"],
        "seconds": history["checks"][-1]["seconds"],
        "valid_bound_per_pixel": best["valid_bound"] / SIDE**2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of every fit")
    parser.add_argument("--data", type=Path, default=os.environ.get("LOWERBOUND_DATA", "data"))
    options = parser.parse_args()
    x = pictures(options.data / "denoise_train400_bsd68_set12" / "Train400")
    plans = {
        "conv": {"recipe": "conv", "settings": {"channels": [16, 32, 64, 64, 64]}},
        "ladder": suggest(read(x[:2]), {"time_limit": options.seconds}).plan,
    }
    results = {name: measured(x, plan, options.seconds) for name, plan in plans.items()}
    for name, found in results.items():
        print(f"{name:7s} {found['valid_bound_per_pixel']:.4f} after {found['steps']} steps")
    print(results_file.write("picture_choice", results=results))


if __name__ == "__main__":
    main()
