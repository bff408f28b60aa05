"""Verbs that make one picture of another: denoise, upscale, inpaint, segment."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound.cli import parsing
from lowerbound.cli.flags import Data, Model, Name, Number, Out, Place
from lowerbound.cli.models import load
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError

if TYPE_CHECKING:
    from lowerbound.tasks.trained import Trained


def denoise(  # noqa: PLR0913 - a verb's arguments are its flags
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    draws: Number = 0,
    samples: Number = 8,
    seed: Number = 0,
    on_bad_file: Name = None,
    overwrite: bool = False,
) -> Result:
    """Take the noise out of pictures, and say how sure each pixel is.

    For a model that `fit --recipe denoise` made. Pictures may have any size; of colours, a model
    of grey pictures cleans each channel by itself.

    Examples:
        lowerbound denoise clean.vae noisy/ --out cleaned
        lowerbound denoise clean.vae noisy/ --out cleaned --draws 3

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of them or a "pattern*".
        out: a folder: a PNG of the same name for each picture, and its uncertainty (255 is a
            standard deviation of 64 codes) in the sub-folder uncertainty.
        draws: also write this many draws of what the picture may have been.
        samples: draws that the result is the mean of.
        seed: of the draws.
        on_bad_file: skip leaves out unreadable files, fail stops at the first; by default up to
            1 % of them are skipped.
        overwrite: replace an earlier output.
    """
    chosen = draws, samples, seed, on_bad_file
    return _restored(model, data, "denoise", out, overwrite, chosen)


def upscale(  # noqa: PLR0913 - a verb's arguments are its flags
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    scale: Number | None = None,
    draws: Number = 0,
    samples: Number = 8,
    seed: Number = 0,
    on_bad_file: Name = None,
    overwrite: bool = False,
) -> Result:
    """Enlarge pictures two, three or four times, with the detail that the model expects.

    For a model that `fit --recipe upscale --set scale=4` made.

    Examples:
        lowerbound upscale large.vae small/ --out enlarged
        lowerbound upscale large.vae small/ --out enlarged --scale 2 --draws 3

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of them or a "pattern*".
        out: a folder: a PNG of the same name for each picture, and its uncertainty (255 is a
            standard deviation of 64 codes) in the sub-folder uncertainty.
        scale: how many times larger: what the model was fitted for, or an error.
        draws: also write this many draws of what the picture may have been.
        samples: draws that the result is the mean of.
        seed: of the draws.
        on_bad_file: skip leaves out unreadable files, fail stops at the first; by default up to
            1 % of them are skipped.
        overwrite: replace an earlier output.
    """
    trained = _for(model, "upscale")
    known = int(trained.arguments["scale"])
    if scale is not None and parsing.at_least(scale, 2, "--scale") != known:
        raise UsageError(
            "E243",
            f"the model enlarges {known} times, and --scale is {scale}",
            fix=f"--scale {known}, or fit a model with --set scale={scale}",
        )
    chosen = draws, samples, seed, on_bad_file
    return _restored(trained, data, "upscale", out, overwrite, chosen)


def inpaint(  # noqa: PLR0913 - a verb's arguments are its flags
    model: Model,
    data: Data,
    /,
    *,
    mask: Place = None,
    out: Out = None,
    draws: Number = 0,
    samples: Number = 8,
    seed: Number = 0,
    on_bad_file: Name = None,
    overwrite: bool = False,
) -> Result:
    """Fill the holes of pictures; what is not in a hole stays as it is, bit by bit.

    For a model that `fit --recipe inpaint` made.

    Examples:
        lowerbound inpaint whole.vae torn/ --mask holes/ --out filled
        lowerbound inpaint whole.vae torn/ --mask holes/ --out filled --draws 3

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of them or a "pattern*".
        mask: where the holes are, white: one picture for all, or a folder with one of the same
            name for each.
        out: a folder: a PNG of the same name for each picture, and its uncertainty (255 is a
            standard deviation of 64 codes) in the sub-folder uncertainty.
        draws: also write this many draws of what may have been in the holes.
        samples: draws that the result is the mean of.
        seed: of the draws.
        on_bad_file: skip leaves out unreadable files, fail stops at the first; by default up to
            1 % of them are skipped.
        overwrite: replace an earlier output.
    """
    if mask is None:
        raise UsageError("E232", "inpaint needs --mask: where the holes are", fix="--mask holes/")
    chosen = draws, samples, seed, on_bad_file
    return _restored(model, data, "inpaint", out, overwrite, chosen, mask)


def segment(  # noqa: PLR0913 - a verb's arguments are its flags
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    draws: Number = 0,
    samples: Number = 8,
    seed: Number = 0,
    on_bad_file: Name = None,
    overwrite: bool = False,
) -> Result:
    """Tell what every pixel shows, as masks in the colours of those that were learned from.

    For a model that `fit --recipe segment --targets MASKS` made.

    Examples:
        lowerbound segment cells.vae slides/ --out masks
        lowerbound segment cells.vae slides/ --out masks --draws 3

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of them or a "pattern*".
        out: a folder: a mask of the same name for each picture, and its uncertainty (255 where
            all classes are alike: the entropy over its highest) in the sub-folder uncertainty.
        draws: also write this many plausible masks.
        samples: draws whose mean probabilities decide.
        seed: of the draws.
        on_bad_file: skip leaves out unreadable files, fail stops at the first; by default up to
            1 % of them are skipped.
        overwrite: replace an earlier output.
    """
    chosen = draws, samples, seed, on_bad_file
    return _restored(model, data, "segment", out, overwrite, chosen)


def _for(model: Any, command: str) -> Trained:
    """Load a model, and refuse one that was made for something else."""
    trained = load(model)
    if trained.command != command:
        raise UsageError(
            "E247",
            f"{command} needs a model of the recipe {command!r}, and this one is of "
            f"{trained.recipe.name!r}",
            fix=f"lowerbound fit PICTURES --recipe {command} --out M.vae",
        )
    return trained


def _restored(  # noqa: PLR0913, PLR0917 - what the four verbs share
    model: Any,
    data: Any,
    command: str,
    out: Any,
    overwrite: bool,
    chosen: tuple[Any, Any, Any, str | None],
    mask: Any = None,
) -> Result:
    """Run a verb once its flags are checked."""
    draws, samples, seed, on_bad_file = chosen
    work = import_module("lowerbound.cli.work.restore")  # torch: --help does not wait for it
    order = work.Order(
        parsing.at_least(draws, 0, "--draws"),
        parsing.at_least(samples, 1, "--samples"),
        parsing.at_least(seed, 0, "--seed"),
        on_bad_file or "auto",
        mask,
    )
    target = None if out is None else work.check_folder(out, overwrite, data)
    return work.run(_for(model, command), data, order, target, overwrite)
