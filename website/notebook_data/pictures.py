# Small made-up pictures in folders with the names that this guide uses. Put your own there.
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def draw(folder, count, seed, side=72, mask=False):
    """Write pictures of a bright square on a shaded ground, or the masks of the squares."""
    Path(folder).mkdir(exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        top, left = rng.integers(side // 8, side // 2, 2)
        ground = np.linspace(20, 90, side)[:, None, None] + rng.uniform(0, 40, (1, side, 3))
        inside = np.zeros((side, side), bool)
        inside[top : top + side // 3, left : left + side // 3] = True
        picture = 255 * inside if mask else np.where(inside[..., None], 220, ground)
        Image.fromarray(np.uint8(picture)).save(f"{folder}/{i:02d}.png")


draw("photos", 24, seed=0)
draw("new", 4, seed=1)
draw("noisy", 4, seed=2)
draw("small", 4, seed=3, side=24)
draw("torn", 4, seed=4)
draw("holes", 4, seed=4, mask=True)
draw("slides", 12, seed=5)
draw("masks", 12, seed=5, mask=True)
np.save("digits.npy", load_digits().images)
