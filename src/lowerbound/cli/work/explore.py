"""The work of the verb explore: prepare the rows, or find them prepared, and serve the page."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import webbrowser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from lowerbound import bundle
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, check_apart, spell_path
from lowerbound.cli.progress import Silence, Voice
from lowerbound.cli.result import Result
from lowerbound.files.paths import named
from lowerbound.files.write import atomic_write, write_tables
from lowerbound.optional import library
from lowerbound.web.server.settings import listen

_LIBRARIES = ("fastapi", "uvicorn")


@dataclass(frozen=True)
class Order:
    """Settings of a page.

    Attributes:
        rows: number of rows at most, or None.
        map: "umap", "pca", or None for umap where it is installed.
        seed: of the map, and of the rows that are drawn from more.
        port: the port to listen on; 0 chooses a free one.
        host: the address to listen on.
        open: open the page in a browser.
        folder: where selections are written.
        cache: the folder of prepared rows, or None for that of the user.
        rename: THEIRS=OURS pairs.
        on_bad_file: skip or fail, for unreadable pictures, or None.
    """

    rows: int | None = None
    map: str | None = None
    seed: int = 0
    port: int = 0
    host: str = "127.0.0.1"
    open: bool = False
    folder: str = "."
    cache: str | None = None
    rename: Mapping[str, str] | Sequence[str] = ()
    on_bad_file: str | None = None


def run(model: Any, data: Any, order: Order, voice: Voice) -> Result:
    """Prepare the rows and serve the page until a signal ends it.

    Raises:
        ResourceError: E310 without the libraries of the extra `explore`, E320 if the address
            cannot be listened on, E350 for one that others can reach, E352 for an unusable cache.
        UsageError: E270 for a model that restores pictures.
    """
    for name in _LIBRARIES:
        library(name, "explore needs", "explore")
    if order.map == "umap":
        library("umap", "maps by UMAP need", "explore")
    process = import_module("lowerbound.web.explore.process")
    process.check_host(order.host)
    trained = load(model)
    import_module("lowerbound.web.explore.rows").check(trained)
    with listen(order.host, order.port) as listening:
        page, facts, temporary = prepared(trained, model, data, order, voice)
        try:
            secret = process.new_secret()
            address = process.address(listening, secret)
            voice.close()
            for line in _told(page.explored.about, facts):
                voice.say(line)
            if isinstance(voice, Silence):  # the page has no other address
                print(address, file=sys.stderr, flush=True)
            voice.say(f"open    {address}   (Ctrl-C ends it)")
            if order.open:
                webbrowser.open(address)
            process.serve(process.server(page, secret, voice.say, order.host), listening)
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
    return Result({"address": address, **facts}, lines=["the page has ended"])


def prepared(
    trained: Any, model: Any, data: Any, order: Order, voice: Voice
) -> tuple[Any, dict[str, Any], Path | None]:
    """Return a page, facts about it, and the folder to remove at the end, if there is one.

    Args:
        trained: the model.
        model: its path, or the model.
        data: the rows.
        order: settings.
        voice: receives the progress.
    """
    rows = import_module("lowerbound.web.explore.rows")
    planes = import_module("lowerbound.web.explore.plane")
    caches = import_module("lowerbound.web.explore.cache")
    routes = import_module("lowerbound.web.explore.routes")
    clock, installed = Clock(), planes.has_umap()
    by = order.map or ("umap" if installed else "pca")

    def make(folder: Path) -> None:
        given = walk_for(trained, data, order.rename, order.on_bad_file)
        wanted = rows.Order(order.rows, order.seed, by)
        rows.prepare(trained, given, wanted, folder, voice.show)

    entry = caches.entry(order.cache, _key(model, data, order, by), make)
    explored = rows.Explored.load(entry.folder)
    notes = [entry.note] if entry.note else []
    if order.map is None and not installed:
        notes.append("umap-learn is not installed, so the map is drawn by PCA: pip install "
                     "'lowerbound[explore]'")  # fmt: skip
    name = Path(model).name if isinstance(model, str | os.PathLike) else trained.recipe.name

    def save(tables: Iterable[pa.Table], target: Path) -> Path:
        check_apart(target, data)
        if target.suffix.lower() != ".jsonl":
            return write_tables(tables, target)

        def write(file: BinaryIO) -> None:
            for line in routes.lines(tables):
                file.write(line)

        return atomic_write(target, write)

    page = routes.Page(trained, explored, name, Path(order.folder), save, tuple(notes))
    about = explored.about
    facts = {
        "rows": about["rows"],
        "total": about["total"],
        "flagged": about["flagged"],
        "map": about["map"]["by"],
        "cached": entry.found,
        "folder": str(entry.folder) if entry.kept else None,
        "seconds": clock(),
        "notes": [*about["notes"], *notes],
    }
    return page, facts, None if entry.kept else entry.folder


def _told(about: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return what was prepared, as lines."""
    rows, total = about["rows"], about["total"]
    some = f"{rows:,} rows" if rows == total else f"{rows:,} of {total:,} rows, drawn at random"
    made = "found in the cache" if facts["cached"] else f"scored in {facts['seconds']:.0f} s"
    placed = about["map"]
    fitted = f", fitted on {placed['fitted']:,}" if placed["fitted"] < rows else ""
    by = f"UMAP{fitted}" if placed["by"] == "umap" else f"PCA ({placed['explained']:.0%})"
    lines = [f"{some}, {about['flagged']:,} above the threshold; map by {by}; {made}"]
    if facts["folder"] is not None:
        lines.append(f"kept in {spell_path(facts['folder'])}")
    return [*lines, *(f"! {note}" for note in facts["notes"])]


def _key(model: Any, data: Any, order: Order, by: str) -> str | None:
    """Return the name of the prepared rows, or None if model or data are not files."""
    sources = named(data)
    if not isinstance(model, str | os.PathLike) or not sources:
        return None
    facts = {
        "model": bundle.load(model).digest,
        "files": [each for source in sources for each in _files(source)],
        "rename": dict(order.rename) if isinstance(order.rename, Mapping) else [*order.rename],
        "bad files": order.on_bad_file,
        "rows": order.rows,
        "seed": order.seed,
        "map": by,
    }
    return import_module("lowerbound.web.explore.cache").key_of(facts)


def _files(source: str) -> list[tuple[str, int, int]]:
    """Return path, size and time of change of every file that a path stands for."""
    found = []
    places = [source] if os.path.lexists(source) else sorted(glob.glob(source, recursive=True))
    for place in places:
        if os.path.isdir(place):
            names = [os.path.join(top, name) for top, _, some in os.walk(place) for name in some]
        else:
            names = [place]
        for name in sorted(names):
            try:
                status = os.stat(name)
            except OSError:
                continue
            found.append((os.path.abspath(name), status.st_size, status.st_mtime_ns))
    return found
