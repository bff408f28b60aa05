"""The commands encode and decode: pictures of any size as maps of latents, and back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lowerbound.cli.flags import Data, Heard, ModelPath, Out, Policy
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result


def _work() -> Any:
    """Import the work; only now, because it imports torch."""
    return import_module("lowerbound.cli.work.autoencode")


def encode(
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    on_bad_file: Policy = None,
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Write pictures as maps of latents, for work on a small copy of them that decodes again.

    Needs a model of `fit --recipe autoencoder`. Pictures may have any size; large ones are
    encoded in tiles. The latents are the means of q(z | x), float32 of the shape (latent, height /
    downscale, width / downscale), rounded up.

    Examples:
        lowerbound encode photos.vae photos/ --out latents
        lowerbound encode photos.vae photos/ --out latents.npy

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of pictures or a "pattern*".
        out: a folder, with an .npy file for each picture and latents.json, by which decode knows
            their sizes; or one .npy file of all of them, if they have one size.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        voice: receives the progress.
    """
    return _work().encode(model, data, on_bad_file, out, overwrite, voice)


def decode(
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Write the pictures that maps of latents stand for: the means of p(x | z), as PNG files.

    Needs the model that has encoded them.

    Examples:
        lowerbound decode photos.vae latents --out pictures
        lowerbound decode photos.vae latents.npy --out pictures

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a folder of .npy files, such as `lowerbound encode` writes, one such file of (latent,
            height, width), or one of several maps.
        out: a folder, with a PNG file for each map.
        overwrite: replace an earlier output.
        voice: receives the progress.
    """
    return _work().decode(model, data, out, overwrite, voice)
