"""The command explore: a page on this machine to look at a model and at rows."""

from __future__ import annotations

import os
from importlib import import_module

from lowerbound.cli import parsing
from lowerbound.cli.flags import (
    Data,
    Folder,
    Heard,
    ModelPath,
    Name,
    Number,
    Policy,
    Renames,
    Rows,
)
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result
from lowerbound.errors import ResourceError, UsageError

MAPS = ("umap", "pca")


def explore(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    data: Data,
    /,
    *,
    n: Rows | None = None,
    map: Name = None,
    seed: Number = 0,
    port: Number = 0,
    host: str = "127.0.0.1",
    open: bool = False,
    out_dir: Folder = None,
    cache: Folder = None,
    rename: Renames = (),
    on_bad_file: Policy = None,
    voice: Heard = SILENT,
) -> Result:
    """Look at rows in a browser: a map, reasons, what-if, nearest usual rows, latents.

    The page runs on this machine only and loads nothing from elsewhere. It shows up to five
    million rows, coloured and filtered by any column or by the score. Values of a row can be
    changed to see the new score at once; rows selected on the map can be written to a file.
    Scores and map are kept for the next start. Ctrl-C ends the page.

    Examples:
        lowerbound explore fraud.vae new.csv --open
        lowerbound explore photos.vae new/ --map pca
        lowerbound explore fraud.vae new.parquet -n 1000000 --port 8090

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to look at: a file, a folder or a "pattern*".
        n: look at this many rows at most, drawn at random; by default 5,000,000.
        map: umap or pca; by default umap where umap-learn is installed.
        seed: the random seed of the map, and of the rows if there are more than -n.
        port: the port to listen on; 0 chooses a free one.
        host: an address of this machine that others cannot reach.
        open: open the page in the default browser.
        out_dir: the folder that selections are written to; by default the current one.
        cache: the folder in which scores and map are kept; by default ~/.cache/lowerbound/explore.
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        voice: receives the address.
    """
    if map is not None:
        parsing.one_of(map, MAPS, "--map")
    number = parsing.at_least(port, 0, "--port")
    if number > 65535:
        raise UsageError("E240", f"--port must be at most 65535, got {number}", fix="--port 0")
    folder = os.path.abspath(out_dir or ".")
    if not os.path.isdir(folder):
        raise ResourceError(
            "E302", f"{folder[:200]!r} is not a folder", fix=f"mkdir -p {folder[:200]}"
        )
    work = import_module("lowerbound.cli.work.explore")  # imports torch: --help does not wait
    order = work.Order(
        rows=None if n is None else parsing.at_least(n, 1, "-n"),
        map=map,
        seed=parsing.at_least(seed, 0, "--seed"),
        port=number,
        host=host,
        open=open,
        folder=folder,
        cache=cache,
        rename=rename,
        on_bad_file=on_bad_file,
    )
    return work.run(model, data, order, voice)
