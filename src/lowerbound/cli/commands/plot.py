"""The command plot: draw a model and rows, and pictures from a model of pictures."""

from __future__ import annotations

from importlib import import_module

from lowerbound.cli import parsing
from lowerbound.cli.flags import (
    Column,
    Data,
    ModelPath,
    Name,
    Number,
    Out,
    Policy,
    Renames,
    Rows,
)
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError, nearest

OF_ROWS = ("scores", "embedding", "real-vs-drawn", "calibration", "latents")
OF_PICTURES = ("samples", "reconstructions", "traversal", "interpolation", "manifold", "levels")
KINDS = (*OF_ROWS, *OF_PICTURES, "before-after")
_NEED_DATA = ("reconstructions", "interpolation", "before-after", *OF_ROWS)


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
    color: Column = None,
    seed: Number = 0,
    rename: Renames = (),
    on_bad_file: Policy = None,
    overwrite: bool = False,
) -> Result:
    """Draw a model and rows of DATA, or pictures from a model of pictures.

    Of all models, with DATA: scores (their histogram, with the threshold); embedding (a map);
    real-vs-drawn (the columns of DATA and of drawn rows); calibration (the p-values of DATA, which
    should lie on the diagonal); latents (the columns that move with each).

    Of pictures: samples; reconstructions (of rows of DATA, the originals above them); traversal
    (one latent at a time moves from -3 to 3); interpolation (between the first two rows of DATA);
    manifold (a map of two latents); levels (of a hierarchy: each row keeps the levels so far).

    Of models that restore or encode pictures: before-after (pictures of DATA before, after, and
    how unsure the model is, each also in the detail where this is most).

    Examples:
        lowerbound plot fraud.vae scores new.csv --out scores.png
        lowerbound plot fraud.vae embedding new.csv --color country --out map.svg
        lowerbound plot digits.vae traversal --out moving.gif

    Args:
        model: a folder that `lowerbound fit` saved.
        kind: scores, embedding, real-vs-drawn, calibration or latents; of pictures also samples,
            reconstructions, traversal, interpolation, manifold or levels; before-after.
        data: rows, for the kinds that need them: a file, a folder or a "pattern*".
        out: the file to write: .png; also .svg or .pdf for plots of rows, and .gif for a
            traversal or an interpolation.
        n: pictures per row, and rows of pictures: 8 draws 64 samples, or 8 pictures before and
            after.
        shape: height x width of a picture, such as 28x28, if the model was fitted on columns.
        temperature: scale of the prior; below 1 the pictures are closer to the typical ones.
        color: the column that the points of an embedding are coloured by; by default the score.
        seed: the random seed of the draws.
        rename: rename a column of the data to the name in the model; repeat it for more.
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
    if color is not None and kind != "embedding":
        message = f"--color is for the embedding, and the kind is {kind}"
        raise UsageError("E236", message, fix="leave out --color")
    seed = parsing.at_least(seed, 0, "--seed")
    if kind in OF_ROWS:
        rows = import_module("lowerbound.cli.work.plot_rows")  # imports torch
        chosen = rows.Order(kind, seed, color, rename, on_bad_file)
        return rows.plot(model, data, chosen, out, overwrite)
    work = import_module("lowerbound.cli.work.plot")  # imports torch: --help does not wait
    order = work.Order(
        kind,
        parsing.at_least(n, 2, "-n"),
        seed,
        temperature,
        shape,
        on_bad_file,
    )
    return work.plot(model, data, order, out, overwrite)
