"""Train the weights of `photos-denoise`, the denoiser of grey photographs inside the package.

The recipe `denoise`, fitted to the 400 grey crops of Train400 with Gaussian noise of any standard
deviation from 5 to 50 codes of 8 bits. No test picture takes part: the kept weights are those
that are best on pictures held out of Train400. A killed run continues: the same command.

Run: LOWERBOUND_DATA=... python benchmarks/photos_denoise.py --time-limit 25m
The model is written to --out; `--ship` replaces the package's own by it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

import lowerbound
from lowerbound import bundle
from lowerbound.bundle import shipped
from lowerbound.tasks import cards

TRAINING = Path("denoise_train400_bsd68_set12", "Train400")
SETTINGS = {"noise": "gaussian:5-50", "width": 24}


def trained(options: argparse.Namespace) -> lowerbound.Model:
    """Train, or continue a run that was stopped, and save the model to --out."""
    return lowerbound.fit(
        options.data / TRAINING,
        "denoise",
        out=options.out,
        settings=SETTINGS,
        preset="best",
        time_limit=options.time_limit,
        precision=options.precision,
        callbacks=[lambda check: print(check, flush=True)],
        say=print,
    )


CARD = """
## Training

For grey photographs with Gaussian noise whose standard deviation is 5 to 50 codes of 8 bits.
Trained by `python benchmarks/photos_denoise.py --time-limit {limit} --precision {precision}` on
Train400, 400 grey crops of 180 x 180 pixels of the Berkeley segmentation set, from
https://github.com/cszn/DnCNN (Martin et al., 2001; Zhang et al., 2017). No picture of BSD68,
BSD100, Set12 or Set14 took part.

The training pictures are provided for research and are not redistributed; the weights contain no
picture.
"""


def ship(model: lowerbound.Model, options: argparse.Namespace) -> Path:
    """Save the model inside the package, with the note on its training in its card."""
    note = CARD.format(limit=options.time_limit, precision=options.precision)
    return bundle.save(
        Path(shipped.__file__).parent / f"{shipped.NAMES[0]}.vae",
        documents={**model.documents(), "card.md": cards.card(model) + note},
        weights=model.model.state_dict(),
        overwrite=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", default="25m", help="of training")
    parser.add_argument("--precision", default="bfloat16", help="of training: or float32")
    parser.add_argument("--data", type=Path, default=os.environ.get("LOWERBOUND_DATA", "data"))
    parser.add_argument("--out", type=Path, default=Path("photos-denoise.vae"))
    parser.add_argument("--ship", action="store_true", help="save it inside the package, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = lowerbound.load(options.out) if options.out.exists() else trained(options)
    if options.ship:
        print(ship(model, options))


if __name__ == "__main__":
    main()
