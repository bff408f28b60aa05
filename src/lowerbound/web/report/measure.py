"""The numbers of a report, from the public methods of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.errors import LowerboundError, UsageError
from lowerbound.tasks import before_after
from lowerbound.tasks.parts import side_by_side
from lowerbound.web.values import Numbers, rows_at, values_of

# Rows that each part looks at: together they keep a report of 100,000 rows within ten seconds.
SCORED = {"table": 10_000, "cells": 500, "pictures": 300}
DRAWN = {"table": 1_000, "cells": 250, "pictures": 16}
DRIFTED = {"table": 1_000, "cells": 250, "pictures": 2}
MAPPED = 4_000
COMPARED = 1_000
HIGHEST = 10
_CLOSE = 30  # rows at least, to compare drawn rows with
_HIDDEN_COLUMNS, _HIDDEN_VALUES, _HIDDEN_DRAWS = 16, 640, 10
_MAP_COLUMNS = 24
_STEPS = 7
_CHAIN_OF_PICTURES = 8
_REPLICATES = 5
_FEW_LATENTS = 64  # of more, one alone hardly changes a picture


@dataclass
class Measured:
    """The numbers of a report.

    Attributes:
        model: the model, a `lowerbound.Model`.
        holds: "table", "cells" or "pictures".
        origin: the name of the data, or "" if none were given.
        total: number of rows of the data.
        scored: the scores of the rows that were looked at: anomaly_score, p_value, is_anomaly;
            None without data.
        places: index in the data of each of these rows.
        values: their columns, for maps and plots: numbers as float64, others as text.
        highest: the rows with the highest scores, with their reasons.
        heat: pictures and heat maps of the highest rows, (n, H, W, C) and (n, H, W).
        points: (n, 2) the embedding of the first rows in two dimensions.
        explained: share of the variance of the embedding that the two dimensions show.
        drawn: drawn rows, as `values`.
        compared: the report of `Model.compare`, or None.
        coverage: the coverage of each column.
        replicated: the statistics of each gene among counted and drawn cells, or None.
        drift: the drift of the data, or None.
        meanings: what each latent stands for.
        traversals: for each latent, decoded rows or pictures from its low to its high end.
        directions: whether `traversals` are along the main directions of all latents together.
        pictures: further pictures by name: samples, originals and reconstructions.
        examples: pictures before and after, of a model that restores or encodes them, or None.
        skipped: why a part is not there, by its name.
        seconds: the time that each part took.
    """

    model: Any
    holds: str
    origin: str = ""
    total: int = 0
    scored: pa.Table | None = None
    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    values: pa.Table | None = None
    highest: list[dict[str, Any]] = field(default_factory=list)
    heat: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None
    points: Numbers | None = None
    explained: float = 0.0
    drawn: pa.Table | None = None
    compared: dict[str, Any] | None = None
    coverage: Sequence[Any] = ()
    replicated: pa.Table | None = None
    drift: dict[str, Any] | None = None
    meanings: Sequence[Any] = ()
    traversals: dict[int, Any] = field(default_factory=dict)
    directions: bool = False
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    examples: before_after.Examples | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the fit."""
        return self.model.facts

    @property
    def scores(self) -> Numbers:
        """The scores of the rows that were looked at, nats."""
        assert self.scored is not None, "scores are asked for with data only"
        return self.scored["anomaly_score"].to_numpy()


def measure(
    model: Any, data: object = None, *, learned: object = None, rows: int | None = None,
    seed: int = 0,
) -> Measured:  # fmt: skip
    """Compute the numbers of a report.

    Args:
        model: a `lowerbound.Model`.
        data: rows to report on, or None.
        learned: the rows of the fit: with them, the privacy of drawn rows is measured.
        rows: number of rows to score at most; by default `SCORED`.
        seed: of all random choices.

    Raises:
        UsageError: E270 for a model that restores pictures, and data that are no picture files.
    """
    found = Measured(model, model.holds)
    work = _Work(found, seed)
    if model.command:
        if data is not None:
            work.restore(data)
        return found
    given = None
    if data is not None:
        given = model.some(data, rows or SCORED[found.holds], seed=seed)
        found.origin, found.total, found.places = given.frame.origin, given.total, given.places
        work.part("scores", lambda: work.score(given.frame))
    work.part("samples", work.sample)
    parts = {"map": lambda: work.embed(None if given is None else given.frame)}
    if given is not None:
        parts |= {
            "coverage": lambda: work.cover(given.frame),
            "drift": lambda: work.drift(given.frame),
            "compare": lambda: work.compare(given.frame, learned),
            "replicates": lambda: work.replicate(given.frame),
            "highest": lambda: work.explain(given.frame),
        }
    work.parts(parts)
    return found


class _Work:
    """The parts of a report, each of which adds its numbers to `found`."""

    def __init__(self, found: Measured, seed: int) -> None:
        self.found, self.model, self.seed = found, found.model, seed

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Do one part; if the model does not support it, note why."""
        began = time.monotonic()
        try:
            work()
        except UsageError as error:
            self.found.skipped[name] = error.message
        except LowerboundError as error:
            if name in ("scores", "samples"):
                raise
            self.found.skipped[name] = error.message
        self.found.seconds[name] = time.monotonic() - began

    def parts(self, parts: Mapping[str, Callable[[], None]]) -> None:
        """Do parts that do not depend on each other, each on one processor."""
        side_by_side(lambda name: self.part(name, parts[name]), parts)
        self.found.skipped = dict(sorted(self.found.skipped.items()))

    def _some(self, frame: Any, most: int) -> Any:
        return self.model.some(frame, most, seed=self.seed).frame

    def restore(self, data: Any) -> None:
        """Show pictures before and after; `data` may be `before_after.Examples`."""
        began = time.monotonic()
        if not isinstance(data, before_after.Examples):
            data = before_after.examples(self.model, data, seed=self.seed)
        self.found.examples = data
        self.found.origin, self.found.total = data.origin, data.total
        self.found.seconds["pictures"] = time.monotonic() - began

    def score(self, frame: Any) -> None:
        """Score the rows."""
        found = self.found
        found.scored = self.model.score_table(frame)[0]
        found.values = values_of(self.model, frame, _MAP_COLUMNS).table

    def explain(self, frame: Any) -> None:
        """Explain the rows with the highest scores; draw where pictures are unusual."""
        found = self.found
        order = np.argsort(-found.scores, kind="stable")[:HIGHEST]
        table = found.scored
        assert table is not None, "rows are scored before they are explained"
        top = table.take(pa.array(order)).to_pylist()
        names = list(frame.files)
        found.highest = [
            {"row": int(found.places[i]), **({"file": names[i]} if names else {}), **row}
            for i, row in zip(order, top, strict=True)
        ]
        rows = rows_at(frame, order)
        if found.holds == "pictures":
            found.heat = self.model.shown(rows), self.model.heatmaps(rows)
        elif self.model.explains:
            why = self.model.score_table(rows, explain=3)[0].to_pylist()
            for row, reasons in zip(found.highest, why, strict=True):
                row.update({k: v for k, v in reasons.items() if k.startswith("top")})

    def drift(self, frame: Any) -> None:
        """Compare the rows with the held-out rows of the fit."""
        self.found.drift = self.model.drift(self._some(frame, DRIFTED[self.found.holds]))

    def sample(self) -> None:
        """Draw rows, and pictures to look at."""
        found, model = self.found, self.model
        if found.holds == "pictures":
            samples = model.sample(DRAWN["pictures"], seed=self.seed)
            found.pictures["samples"] = model.shown(samples)
            return
        drawn = model.samples(DRAWN[found.holds], seed=self.seed).table
        found.drawn = model.canonical(drawn) if found.holds == "table" else drawn

    def embed(self, frame: Any) -> None:
        """Place the rows on a map, and say what each latent stands for."""
        found, model = self.found, self.model
        if frame is None:
            frame = model.some(model.samples(2 * COMPARED, seed=self.seed).table, MAPPED).frame
            found.values = values_of(self.model, frame, _MAP_COLUMNS).table
        else:
            frame = rows_at(frame, np.arange(min(MAPPED, frame.rows)))
        z = np.asarray(model.embed(frame), np.float64).reshape(frame.rows, -1)
        found.points, found.explained = model.plane(frame)
        if found.holds == "pictures":
            found.pictures["thumbnails"] = model.shown(frame)
            some = rows_at(frame, np.arange(min(_CHAIN_OF_PICTURES, frame.rows)))
            found.pictures["originals"] = model.shown(some)
            found.pictures["reconstructions"] = model.shown(model.reconstruct(some))
        found.meanings = model.latent_meanings(frame)
        self.part("traversals", lambda: self._traverse(z))

    def _traverse(self, z: Numbers) -> None:
        """Decode the mean row while one latent moves from its low to its high end."""
        found, model = self.found, self.model
        if found.holds == "pictures" and z.shape[1] > _FEW_LATENTS:
            found.directions = True
            self._traverse_directions(z)
            return
        centre, low, high = z.mean(0), *np.quantile(z, [0.02, 0.98], axis=0)
        for meaning in found.meanings:
            j = meaning.latent
            moved = np.repeat(centre[None], _STEPS, 0)
            moved[:, j] = np.linspace(low[j], high[j], _STEPS)
            decoded = model.decode_latents(moved)
            if found.holds == "pictures":
                found.traversals[j] = model.shown(model.as_fitted(decoded))
            elif found.holds == "table":
                found.traversals[j] = decoded

    def _traverse_directions(self, z: Numbers) -> None:
        """Decode the mean picture while it moves along each of the main directions of all."""
        centre = z.mean(0)
        _, sizes, axes = np.linalg.svd(z - centre, full_matrices=False)
        for rank, axis in enumerate(axes[:_CHAIN_OF_PICTURES]):
            reach = 2.0 * sizes[rank] / np.sqrt(len(z))
            moved = centre + np.linspace(-reach, reach, _STEPS)[:, None] * axis
            decoded = self.model.decode_latents(moved)
            self.found.traversals[rank] = self.model.shown(self.model.as_fitted(decoded))

    def compare(self, frame: Any, learned: object) -> None:
        """Compare drawn rows with the given ones."""
        if self.found.holds != "table" or frame.rows < _CLOSE:
            return
        some = self._some(frame, COMPARED)
        self.found.compared = self.model.compare(
            some, learned=learned, seed=self.seed, drawn=self.found.drawn
        )

    def cover(self, frame: Any) -> None:
        """Hide values, and see how often they are where the model expects them."""
        if self.found.holds != "table":
            return
        names = [c["name"] for c in self.model.columns if c["name"] in self._modelled()]
        if len(names) > _HIDDEN_COLUMNS:
            rng = np.random.default_rng(self.seed)
            chosen = np.sort(rng.choice(len(names), _HIDDEN_COLUMNS, replace=False))
            names = [names[i] for i in chosen]
        self.found.coverage = self.model.coverage(
            frame,
            columns=names,
            most=max(20, min(100, _HIDDEN_VALUES // max(1, len(names)))),
            draws=_HIDDEN_DRAWS,
            seed=self.seed,
        )

    def replicate(self, frame: Any) -> None:
        """Compare counts of genes with those that the model draws for the same cells."""
        if self.found.holds == "cells":
            self.found.replicated = self.model.predictive_checks(
                frame, draws=_REPLICATES, seed=self.seed
            )

    def _modelled(self) -> set[str]:
        drawn = self.found.drawn
        return set() if drawn is None else set(drawn.column_names)
