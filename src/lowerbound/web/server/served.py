"""A loaded model with what clients need to know of it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lowerbound.errors import LowerboundError, UsageError
from lowerbound.tasks.trained import Model, load
from lowerbound.web.server.requests import NUMBERS, Columns, JsonRows, as_table, invalid

_NUMBERS = ("int", "float", "null")  # kinds of values of columns of numbers in JSON

Given = JsonRows | pa.Table  # the rows of a request


class Scores(NamedTuple):
    """The scores of one request.

    Attributes:
        table: a line for each row.
        facts: counts and notes from coding the rows.
    """

    table: pa.Table
    facts: dict[str, Any]


class Served:
    """A model that is served.

    Args:
        model: the model.
        digest: SHA-256 of its manifest.
        name: its name in the Open Inference Protocol.

    Attributes:
        columns: the columns of its rows.
        example: a row drawn from the model, with a value for each column.
    """

    def __init__(self, model: Model, digest: str, name: str) -> None:
        self.model, self.digest, self.name = model, digest, name
        if not model.columns:
            raise UsageError(
                "E262",
                f"a model of pictures (recipe {model.recipe.name!r}) is not served: requests are "
                "rows of a table",
                fix=f"lowerbound {model.command or 'score'} M.vae PICTURES --out "
                + ("made" if model.command else "scores.csv"),
            )
        known = {column["name"]: column["kind"] for column in model.columns}
        required = [column["name"] for column in model.columns if column["required"]]
        self.columns = Columns(known, required, model.read_rows)
        self.example = self._example()
        model.expect_few_rows()
        self.loaded = time.time()

    @classmethod
    def load(cls, path: str, name: str) -> Served:
        """Load a model, check all its digests, and score a row.

        Raises:
            ModelFileError: E1xx if it is no intact model.
            UsageError: E262 for a model that is not of rows.
        """
        manifest = Path(path, "manifest.json")
        while True:  # again if another model took its place meanwhile
            before = _digest(manifest)
            served = cls(load(path), before, name)
            if _digest(manifest) == before:
                break
        served.score([pa.Table.from_pylist([served.example])])
        return served

    def _example(self) -> dict[str, Any]:
        """Return a drawn row as JSON would have it; unknown values are None."""
        drawn = self.model.samples(1, seed=0).table.to_pylist()[0]
        row = {name: drawn.get(name) for name in self.columns.known}
        return {name: _plain(value) for name, value in row.items()}

    def score(self, requests: Sequence[Given], by: str = "likelihood") -> list[Any]:
        """Score the rows of several requests in one pass.

        Args:
            requests: the rows of each request.
            by: the measure, as of `Model.score`.

        Returns:
            `Scores` of each request, bit-equal to those of the request alone; or its error.
        """
        return self._in_groups(
            requests,
            lambda some: self._scored_together(some, by),
            lambda rows: self._scored(as_table(rows), by),
        )

    def _in_groups(
        self,
        requests: Sequence[Given],
        together: Callable[[Sequence[Given]], Sequence[Any]],
        single: Callable[[Given], Any],
    ) -> list[Any]:
        """Return the results of requests, computed together where the types of rows allow it."""
        groups: dict[Any, list[int]] = {}
        for i, rows in enumerate(requests):
            groups.setdefault(self._layout(rows), []).append(i)
        found: list[Any] = [None] * len(requests)
        for places in groups.values():
            some = [requests[i] for i in places]
            made: Sequence[Any] | None = None
            if len(some) > 1:
                try:
                    made = together(some)
                except LowerboundError:  # of one of them: then each on its own
                    made = None
            if made is None:
                made = [single(rows) for rows in some]
            for i, result in zip(places, made, strict=True):
                found[i] = result
        return found

    def _layout(self, rows: Given) -> frozenset[tuple[str, str]]:
        """Return the names and types of columns; those of numbers in JSON are one type.

        A number is coded as float64 whether it came as 3 or as 3.0.
        """
        kinds = self.columns.known
        if isinstance(rows, JsonRows):
            return frozenset(
                (name, "number" if kinds[name] in NUMBERS and kind in _NUMBERS else kind)
                for name, (kind, _) in rows.columns.items()
            )
        types = zip(rows.column_names, rows.schema.types, strict=True)
        return frozenset((name, str(kind)) for name, kind in types)

    def _scored_together(self, requests: Sequence[Given], by: str) -> list[Any]:
        found, coded = self.model.score_table(joined(requests), by=by)
        parts, start = [], 0
        for rows in requests:
            end = start + rows.num_rows
            odd = any(start <= row < end for row in coded.odd)
            # What is said of a request is about its own rows, so they are coded alone.
            facts = remarks(self.model.encode(as_table(rows))[1]) if odd else {}
            parts.append(Scores(found.slice(start, rows.num_rows), facts))
            start = end
        return parts

    def _scored(self, table: pa.Table, by: str) -> Any:
        try:
            found, coded = self.model.score_table(table, by=by)
        except LowerboundError as error:
            return self.all_problems(table, error)
        return Scores(found, remarks(coded))

    def embed(self, requests: Sequence[Given]) -> list[Any]:
        """Embed the rows of several requests in one pass.

        Args:
            requests: the rows of each request.

        Returns:
            (n, latent) of each request, or its error.
        """
        return self._in_groups(
            requests, self._embedded_together, lambda rows: self._embedded(as_table(rows))
        )

    def _embedded_together(self, requests: Sequence[Given]) -> list[Any]:
        ends = np.cumsum([rows.num_rows for rows in requests])
        return np.split(self.model.embed(joined(requests)), ends[:-1])

    def _embedded(self, table: pa.Table) -> Any:
        try:
            return self.model.embed(table)
        except LowerboundError as error:
            return self.all_problems(table, error)

    def all_problems(self, table: pa.Table, first: LowerboundError) -> LowerboundError:
        """Return all problems of rows as one error, in place of the first.

        Args:
            table: the rows.
            first: the error of their first problem.
        """
        found = self.model.problems(table)
        if len(found) < 2:
            return first
        return invalid(
            [
                {
                    **{k: each.details[k] for k in ("row", "column") if k in each.details},
                    "code": each.code,
                    "problem": each.message,
                }
                for each in found
            ]
        )


def joined(requests: Sequence[Given]) -> pa.Table:
    """Return the rows of requests of one layout, one after the other."""
    of_json = [rows for rows in requests if isinstance(rows, JsonRows)]
    if len(of_json) == len(requests):
        return JsonRows.joined(of_json).table
    names = as_table(requests[0]).column_names
    tables = [as_table(rows).select(names) for rows in requests]
    return pa.concat_tables(tables, promote_options="permissive")


def remarks(coded: Any) -> dict[str, Any]:
    """Return what was noted while rows were coded: notes, and counts of values by column."""
    found = {"notes": list(coded.notes), "unseen": coded.unseen, "clipped": coded.clipped}
    return {name: value for name, value in found.items() if value}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


class Holder:
    """The model that is served now; another takes its place atomically.

    Args:
        path: path of the model.
        name: its name.
    """

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name
        self.now: Served | None = None
        self._loading = threading.Lock()

    def load(self) -> Served:
        """Load the model from its path, and serve it from now on.

        Requests that have begun keep the model that they began with. If the new one cannot be
        loaded, the old one stays.

        Raises:
            LowerboundError: if the model cannot be loaded.
        """
        with self._loading:
            self.now = fresh = Served.load(self.path, self.name)
            return fresh
