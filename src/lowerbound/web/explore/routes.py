"""The addresses that the page asks: rows, colours, filters, changes of a row, selections."""

from __future__ import annotations

import asyncio
import io
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
from anyio import to_thread
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from lowerbound.errors import ResourceError, UsageError
from lowerbound.web.explore import columns as by
from lowerbound.web.explore.changes import Rows
from lowerbound.web.explore.latents import Sliders
from lowerbound.web.explore.rows import Explored
from lowerbound.web.report.pixels import heated
from lowerbound.web.server.answers import dumped
from lowerbound.web.server.requests import invalid, parse_json

_MOST_BODY = 4_000_000  # bytes: a bit for each of five million rows, or the values of a wide row
_HIGHEST = 100  # rows of the table
_PART = 1 << 16  # rows that are written together
_DOWNLOADED = 200_000  # rows that a browser is sent
SUFFIXES = (".csv", ".parquet", ".jsonl")

_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "scatter.js": ("scatter.js", "text/javascript; charset=utf-8"),
    "colours.css": ("../colours.css", "text/css; charset=utf-8"),
}

Save = Callable[[Iterable[pa.Table], Path], Path]


@dataclass(frozen=True)
class Page:
    """The model, the rows and the settings of a page.

    Attributes:
        model: a `lowerbound.Model`.
        explored: the rows.
        name: the name of the model.
        folder: where selections are written.
        save: writes tables to a file that does not exist yet, atomically.
        notes: remarks to show.
    """

    model: Any
    explored: Explored
    name: str
    folder: Path
    save: Save
    notes: tuple[str, ...] = ()


def router(page: Page) -> Router:
    """Return the application of a page."""
    asked = _Asked(page)
    found = [
        Route(f"/{path}", partial(_file, *file), methods=["GET"]) for path, file in _FILES.items()
    ]
    for method, names in {
        "GET": ("about", "points", "colours", "row", "picture", "heat"),
        "POST": ("filter", "what-if", "usual", "decode", "selection", "save", "download"),
    }.items():
        for name in names:
            work = getattr(asked, name.replace("-", "_"))
            found.append(Route(f"/api/{name}", work, methods=[method]))
    return Router(found, redirect_slashes=False)


async def _file(name: str, kind: str, request: Request) -> Response:
    here = resources.files("lowerbound.web.explore")
    if name.startswith("../"):
        here, name = resources.files("lowerbound.web"), name[3:]
    return Response(here.joinpath(name).read_bytes(), headers={"content-type": kind})


def _json(value: Any) -> Response:
    return Response(dumped(value), headers={"content-type": "application/json"})


def _packed(head: Mapping[str, Any], body: bytes) -> Response:
    """Return JSON and bytes together: the length of the JSON, the JSON, and the bytes."""
    text = dumped(head)
    text += b" " * (-len(text) % 4)
    packed = struct.pack("<I", len(text)) + text + body
    return Response(packed, headers={"content-type": "application/octet-stream"})


class _Asked:
    """The answers to what the page asks.

    The model computes in one thread of its own; columns are looked at in others.
    """

    def __init__(self, page: Page) -> None:
        self.page, self.model, self.explored = page, page.model, page.explored
        self.rows = Rows(page.model, page.explored)
        about = page.explored.about
        self.sliders = Sliders(page.model, about["latents"], about["latent"])
        explored = page.explored
        self.tables = {
            "rows": explored.rows,
            "scores": explored.scores,
            "values": explored.values,
        }
        self._thread = ThreadPoolExecutor(1, "lowerbound-explore")

    async def _compute(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def about(self, request: Request) -> Response:
        """What the page is about."""
        explored, model = self.explored, self.model
        about = {k: v for k, v in explored.about.items() if k not in ("shape", "dtype")}
        latents = about["latents"]
        sliders = [{k: v for k, v in s.items() if k != "axis"} for s in latents["sliders"]]
        return _json(
            {
                **about,
                "latents": {**latents, "sliders": sliders, "centre": []},
                "name": self.page.name,
                "folder": str(self.page.folder),
                "explains": bool(model.explains) and model.holds == "table",
                "changes": model.holds == "table",
                "page_notes": list(self.page.notes),
                "suffixes": list(SUFFIXES),
                "most_downloaded": _DOWNLOADED,
            }
        )

    async def points(self, request: Request) -> Response:
        """The places of all rows: x of each, then y of each, as float32."""
        points = self.explored.points
        body = await to_thread.run_sync(lambda: np.ascontiguousarray(points.T).tobytes())
        return Response(body, headers={"content-type": "application/octet-stream"})

    async def colours(self, request: Request) -> Response:
        """The colour of every row by a column."""
        column = by.find(self.explored.columns, request.query_params.get("by"))
        head, codes = await to_thread.run_sync(by.colours, column, self.tables)
        return _packed(head, codes.tobytes())

    async def filter(self, request: Request) -> Response:
        """Which rows fulfil conditions, and the highest scores among them."""
        asked = await _document(request)
        conditions = asked.get("conditions")
        if not isinstance(conditions, list):
            raise invalid([{"problem": "conditions must be a list"}])

        def work() -> Response:
            mask = by.selected(conditions, self.explored.columns, self.tables)
            return _packed(
                {
                    "count": int(np.count_nonzero(mask)),
                    "flagged": int(np.count_nonzero(mask & self._flagged())),
                    "highest": [self.rows.scores(place) for place in self._highest(mask)],
                },
                np.packbits(mask, bitorder="little").tobytes(),
            )

        return await to_thread.run_sync(work)

    def _flagged(self) -> NDArray[np.bool_]:
        return self.explored.scores["is_anomaly"].to_numpy(zero_copy_only=False)

    def _highest(self, mask: NDArray[np.bool_]) -> list[int]:
        places = np.flatnonzero(mask)
        scores = self.explored.scores["anomaly_score"].to_numpy()[places]
        if len(places) > _HIGHEST:
            top = np.argpartition(-scores, _HIGHEST)[:_HIGHEST]
            places, scores = places[top], scores[top]
        return places[np.lexsort((places, -scores))].tolist()

    async def row(self, request: Request) -> Response:
        """A row with its reasons, by its place or by its number in the data."""
        given = request.query_params
        name = "at" if "at" in given else "row"
        number = _number(given.get(name))
        place = self.rows.place(number) if name == "at" else self.rows.at(number)

        if "brief" in given:
            return _json(await to_thread.run_sync(self.rows.brief, place))

        def work() -> Response:
            told = self.rows.told(place)
            return _json({**told, "sliders": self.sliders.of(self.explored.z[place])})

        return await self._compute(work)

    async def what_if(self, request: Request) -> Response:
        """A changed row, scored."""
        place, changes = self._changed(await _document(request))
        return _json(await self._compute(self.rows.what_if, place, changes))

    async def usual(self, request: Request) -> Response:
        """The nearest usual row."""
        place, changes = self._changed(await _document(request))
        return _json(await self._compute(self.rows.usual, place, changes))

    def _changed(self, asked: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        changes = asked.get("changes", {})
        if not isinstance(changes, dict):
            raise invalid([{"problem": "changes must be an object of columns and texts"}])
        return self.rows.place(asked.get("at")), changes

    async def decode(self, request: Request) -> Response:
        """The row, cell or picture that sliders stand for."""
        asked = await _document(request)
        offsets = asked.get("offsets")
        if not isinstance(offsets, list) or not all(
            type(each) in (int, float) and math.isfinite(each) and abs(each) < 1e6
            for each in offsets
        ):
            raise invalid([{"problem": "offsets must be a list of numbers"}])
        base = None
        if asked.get("at") is not None:
            base = self.explored.z[self.rows.place(asked["at"])]
        if self.model.holds == "pictures":
            return _png(await self._compute(self.sliders.picture, offsets, base))
        told = await self._compute(self.sliders.table, offsets, base)
        return _json({"values": told})

    async def picture(self, request: Request) -> Response:
        """A picture, as the model takes it."""
        place = self.rows.place(_number(request.query_params.get("at")))
        pixels = self.rows.pixels(place)
        return _png((await self._compute(self.model.shown, pixels))[0])

    async def heat(self, request: Request) -> Response:
        """A picture with its unusual pixels in red."""
        place = self.rows.place(_number(request.query_params.get("at")))
        pixels = self.rows.pixels(place)

        def work() -> NDArray[np.uint8]:
            return heated(self.model.shown(pixels), self.model.heatmaps(pixels))[0]

        return _png(await self._compute(work))

    async def selection(self, request: Request) -> Response:
        """How selected rows differ from all rows."""
        mask = await self._mask(request)

        def work() -> Response:
            count = int(np.count_nonzero(mask))
            flagged = int(np.count_nonzero(mask & self._flagged()))
            told = by.differences(mask, self.explored.columns, self.tables)
            return _json({"count": count, "flagged": flagged, "differences": told})

        return await to_thread.run_sync(work)

    async def save(self, request: Request) -> Response:
        """Write selected rows to a file of the folder."""
        target = self._target(request.query_params.get("name", ""))
        mask = await self._mask(request)
        count = _some(mask)

        def work() -> Path:
            try:
                return self.page.save(self._selected(mask), target)
            except UsageError as error:  # its fix is for the command line
                raise ResourceError(
                    "E354", error.message, fix="choose another name, or start with --out-dir"
                ) from None

        path = await to_thread.run_sync(work)
        return _json({"path": str(path), "rows": count})

    async def download(self, request: Request) -> Response:
        """Selected rows as the content of a file."""
        suffix = Path(self._target(request.query_params.get("name", "")).name).suffix
        mask = await self._mask(request)
        if _some(mask) > _DOWNLOADED:
            raise ResourceError(
                "E354",
                f"a browser is sent {_DOWNLOADED:,} rows at most",
                fix="write them to a file",
            )
        body = await to_thread.run_sync(lambda: content(self._selected(mask), suffix))
        return Response(body, headers={"content-type": "application/octet-stream"})

    def _target(self, name: str) -> Path:
        """Return the file of a name.

        Raises:
            ResourceError: E354 if it is not the name of a file that can be written.
        """
        plain = 0 < len(name) <= 120 and name == os.path.basename(name) and name.isprintable()
        if not plain or name.startswith(".") or not name.lower().endswith(SUFFIXES):
            raise ResourceError(
                "E354",
                f"a selection is written to a file of one folder whose name ends in "
                f"{', '.join(SUFFIXES)}; got {name[:80]!r}",
                fix="selected.csv",
            )
        return self.page.folder / name

    async def _mask(self, request: Request) -> NDArray[np.bool_]:
        """Return which rows are selected, from a bit for each."""
        body = await _body(request)
        total = self.explored.total
        if len(body) != (total + 7) // 8:
            raise invalid([{"problem": f"it must have a bit for each of the {total:,} rows"}])
        bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")
        return bits[:total].astype(bool)

    def _selected(self, mask: NDArray[np.bool_]) -> Iterator[pa.Table]:
        """Yield selected rows part by part: their numbers, scores and values."""
        for start in range(0, len(mask), _PART):
            some = pa.array(mask[start : start + _PART])
            if not some.true_count:
                continue
            scores = self.explored.scores.slice(start, _PART).filter(some)
            front = [name for name in ("row", "file") if name in scores.column_names]
            rest = ["anomaly_score", "p_value", "is_anomaly"]
            columns = {name: scores[name] for name in (*front, *rest)}
            of = self.tables["rows" if self.model.holds == "table" else "values"]
            of = of.slice(start, _PART).filter(some)
            for name in of.column_names:
                if name not in ("none", "pixels"):
                    free = name if name not in columns else f"{name} of input"
                    columns[free] = of[name]
            yield pa.table(columns)


def content(tables: Iterable[pa.Table], suffix: str) -> bytes:
    """Return rows as the content of a file.

    Args:
        tables: the rows, one table at least.
        suffix: one of `SUFFIXES`.
    """
    whole = pa.concat_tables(list(tables))
    file = io.BytesIO()
    if suffix == ".parquet":
        parquet.write_table(whole, file)
    elif suffix == ".csv":
        arrow_csv.write_csv(whole, file)
    else:
        for part in lines([whole]):
            file.write(part)
    return file.getvalue()


def lines(tables: Iterable[pa.Table]) -> Iterator[bytes]:
    """Yield rows as JSON objects, one a line; what JSON lacks is null or text."""
    for table in tables:
        for row in table.to_pylist():
            yield dumped(row) + b"\n"


def _some(mask: NDArray[np.bool_]) -> int:
    """Return the number of selected rows.

    Raises:
        ResourceError: E354 if there are none.
    """
    count = int(np.count_nonzero(mask))
    if not count:
        raise ResourceError("E354", "no rows are selected", fix="select rows on the map")
    return count


def _png(pixels: NDArray[np.uint8]) -> Response:
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(file, "PNG")
    return Response(file.getvalue(), headers={"content-type": "image/png"})


def _number(text: str | None) -> int:
    try:
        return int(str(text))
    except ValueError:
        problem = f"the row must be a whole number, got {str(text)[:40]!r}"
        raise invalid([{"problem": problem}]) from None


async def _body(request: Request) -> bytes:
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > _MOST_BODY:
            raise ResourceError("E321", "the body of a request is too large", fix="send less")
    return found


async def _document(request: Request) -> dict[str, Any]:
    """Return the object that the body of a request holds.

    Raises:
        LowerboundError: E263 or E322 for a body that is no such JSON.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise invalid([{"problem": "it must be JSON"}])
    found = parse_json(await _body(request), 8, 10_000)
    if not isinstance(found, dict):
        raise invalid([{"problem": "it must be an object"}])
    return found
