"""The command plot: draw samples, reconstructions and latents of a model of pictures."""

from __future__ import annotations

from importlib import import_module

from lowerbound.cli import parsing
from lowerbound.cli.flags import Data, ModelPath, Name, Number, Out, Policy, Rows
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError, nearest

KINDS = ("samples", "reconstructions", "traversal", "interpolation", "manifold", "levels")
_NEED_DATA = ("reconstructions", "interpolation")


def plot(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    kind: str,
    data: Data = None,
    /,
    *,
    out: Out = None,
    n: Rows = 8,
    shape: Name = None,
    temperature: float = 1.0,
    seed: Number = 0,
    on_bad_file: Policy = None,
    overwrite: bool = False,
) -> Result:
    """Draw pictures from a model of pictures, as a grid (PNG) or an animation (GIF).

    The kinds: samples; reconstructions (of rows of DATA, the originals above them); traversal (one
    latent at a time moves from -3 to 3); interpolation (between the first two rows of DATA);
    manifold (a map of two latents); levels (of a hierarchy: each row keeps the levels so far).

    Examples:
        lowerbound plot digits.vae samples --out samples.png --temperature 0.8
        lowerbound plot digits.vae reconstructions test.npz --out seen.png
        lowerbound plot digits.vae traversal --out moving.gif

    Args:
        model: a folder that `lowerbound fit` saved.
        kind: samples, reconstructions, traversal, interpolation, manifold or levels.
        data: pictures, for the kinds that need them: a file, a folder or a "pattern*".
        out: the file to write: .png, or .gif for a traversal or an interpolation.
        n: pictures per row, and rows of pictures: 8 draws 64 samples.
        shape: height x width of a picture, such as 28x28, if the model was fitted on columns.
        temperature: scale of the prior; below 1 the pictures are closer to the typical ones.
        seed: the random seed of the draws.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
    """
    if kind not in KINDS:
        close = nearest(kind, KINDS) or KINDS[0]
        raise UsageError(
            "E241",
            f"the kind of plot must be one of {', '.join(KINDS)}, got {kind!r}",
            fix=f"lowerbound plot M.vae {close} --out {close}.png",
        )
    if kind in _NEED_DATA and data is None:
        raise UsageError(
            "E232", f"{kind} needs data", fix=f"lowerbound plot M.vae {kind} DATA --out {kind}.png"
        )
    if not 0 < temperature < float("inf"):
        message = f"--temperature must be above 0 and finite, got {temperature}"
        raise UsageError("E240", message, fix="--temperature 0.8")
    work = import_module("lowerbound.cli.work.plot")  # imports torch: --help does not wait
    order = work.Order(
        kind,
        parsing.at_least(n, 2, "-n"),
        parsing.at_least(seed, 0, "--seed"),
        temperature,
        shape,
        on_bad_file,
    )
    return work.plot(model, data, order, out, overwrite)
