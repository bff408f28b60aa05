"""The commands that restore pictures: denoise, upscale, inpaint and segment."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lowerbound.cli import parsing
from lowerbound.cli.flags import Data, ModelPath, Number, Out, Place, Policy
from lowerbound.cli.models import load
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError
from lowerbound.files import paths

if TYPE_CHECKING:
    from lowerbound.tasks.trained import Model


@dataclass(frozen=True)
class Common:
    """The flags that all four commands take.

    Attributes:
        draws: also write this many random draws: other pictures or masks that fit the input.
        samples: the result is the mean of this many draws; for masks, of their probabilities.
        seed: the seed of the draws.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
    """

    draws: Number = 0
    samples: Number = 8
    seed: Number = 0
    on_bad_file: Policy = None
    overwrite: bool = False


Flags = Annotated[Common, Parameter(name="*")]
_DEFAULT = Common()


def denoise(
    model: ModelPath, data: Data, /, *, out: Out = None, flags: Flags = _DEFAULT
) -> Result:
    """Remove the noise from pictures, and write how uncertain each pixel is.

    Needs a model of `fit --recipe denoise`. Pictures may have any size. A model of grey
    pictures denoises each channel of a colour picture by itself.

    Examples:
        lowerbound denoise clean.vae noisy/ --out cleaned
        lowerbound denoise clean.vae noisy/ --out cleaned --draws 3

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of pictures or a "pattern*".
        out: a folder: a PNG of the same name for each picture, and its uncertainty (255 is a
            standard deviation of 64 grey levels of 8 bits) in the sub-folder uncertainty.
        flags: see `Common`.
    """
    return _restore(model, data, "denoise", out, flags)


def upscale(
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    scale: Number | None = None,
    flags: Flags = _DEFAULT,
) -> Result:
    """Enlarge pictures two, three or four times, with the detail that the model expects.

    Needs a model of `fit --recipe upscale --set scale=4`.

    Examples:
        lowerbound upscale large.vae small/ --out enlarged
        lowerbound upscale large.vae small/ --out enlarged --scale 2 --draws 3

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of pictures or a "pattern*".
        out: a folder: a PNG of the same name for each picture, and its uncertainty (255 is a
            standard deviation of 64 grey levels of 8 bits) in the sub-folder uncertainty.
        scale: the factor to enlarge by; it must be the factor that the model was fitted for.
        flags: see `Common`.
    """
    trained = _load_for(model, "upscale")
    known = int(trained.coding.document()["scale"])
    if scale is not None and parsing.at_least(scale, 2, "--scale") != known:
        raise UsageError(
            "E247",
            f"--scale must be {known}, which the model was fitted for, got {scale}",
            fix=f"--scale {known}, or fit a model with --set scale={scale}",
        )
    return _restore(trained, data, "upscale", out, flags)


def inpaint(
    model: ModelPath,
    data: Data,
    /,
    *,
    mask: Place = None,
    out: Out = None,
    flags: Flags = _DEFAULT,
) -> Result:
    """Fill the holes of pictures; pixels outside the holes keep their exact values.

    Needs a model of `fit --recipe inpaint`.

    Examples:
        lowerbound inpaint whole.vae torn/ --mask holes/ --out filled
        lowerbound inpaint whole.vae torn/ --mask holes/ --out filled --draws 3

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of pictures or a "pattern*".
        mask: a picture that is white where the holes are: one for all pictures, or a folder with
            one of the same name for each picture.
        out: a folder: a PNG of the same name for each picture, and its uncertainty (255 is a
            standard deviation of 64 grey levels of 8 bits) in the sub-folder uncertainty.
        flags: see `Common`.
    """
    if mask is None:
        raise UsageError("E232", "inpaint needs --mask: where the holes are", fix="--mask holes/")
    return _restore(model, data, "inpaint", out, flags, mask)


def segment(
    model: ModelPath, data: Data, /, *, out: Out = None, flags: Flags = _DEFAULT
) -> Result:
    """Write the class of every pixel, as masks in the colours of the training masks.

    Needs a model of `fit --recipe segment --targets MASKS`.

    Examples:
        lowerbound segment cells.vae slides/ --out masks
        lowerbound segment cells.vae slides/ --out masks --draws 3

    Args:
        model: a folder that `lowerbound fit` saved.
        data: a picture, a folder of pictures or a "pattern*".
        out: a folder: a mask of the same name for each picture, and its uncertainty (the entropy
            of the classes; 255 where all are equally likely) in the sub-folder uncertainty.
        flags: see `Common`.
    """
    return _restore(model, data, "segment", out, flags)


def _load_for(model: Any, command: str) -> Model:
    """Load a model; raise an error if it is of another recipe.

    Raises:
        UsageError: E247.
    """
    trained = load(model)
    if trained.command != command:
        raise UsageError(
            "E247",
            f"{command} needs a model of the recipe {command!r}, got one of "
            f"{trained.recipe.name!r}",
            fix=f"lowerbound fit PICTURES --recipe {command} --out M.vae",
        )
    return trained


def _restore(  # noqa: PLR0913, PLR0917 - model, data, place and flags of four commands
    model: Any, data: Any, command: str, out: Any, flags: Common, mask: Any = None
) -> Result:
    """Check the flags and restore the pictures."""
    work = import_module("lowerbound.cli.work.restore")  # imports torch: --help does not wait
    order = work.Order(
        work.Draws(
            draws=parsing.at_least(flags.draws, 0, "--draws"),
            samples=parsing.at_least(flags.samples, 1, "--samples"),
            seed=parsing.at_least(flags.seed, 0, "--seed"),
        ),
        flags.on_bad_file or "auto",
        mask,
    )
    given = paths.named_in(data, mask)
    target = None if out is None else work.check_folder(out, flags.overwrite, given)
    return work.run(_load_for(model, command), data, order, target, flags.overwrite)
