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
from lowerbound.web.server.requests import NUMBERS, Columns, invalid

_PLAIN = (pa.int64(), pa.float64(), pa.null())  # types of numbers in JSON


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

    def score(self, tables: Sequence[pa.Table], by: str = "likelihood") -> list[Any]:
        """Score the rows of several requests in one pass.

        Args:
            tables: the rows of each request.
            by: the measure, as of `Model.score`.

        Returns:
            `Scores` of each request, bit-equal to those of the request alone; or its error.
        """
        return self._in_groups(
            tables,
            lambda some: self._scored_together(some, by),
            lambda table: self._scored(table, by),
        )

    def _in_groups(
        self,
        tables: Sequence[pa.Table],
        together: Callable[[Sequence[pa.Table]], Sequence[Any]],
        single: Callable[[pa.Table], Any],
    ) -> list[Any]:
        """Return the results of several tables, computed together where their types allow it."""
        groups: dict[Any, list[int]] = {}
        for i, table in enumerate(tables):
            groups.setdefault(self._layout(table), []).append(i)
        found: list[Any] = [None] * len(tables)
        for places in groups.values():
            some = [tables[i] for i in places]
            made: Sequence[Any] | None = None
            if len(some) > 1:
                try:
                    made = together(some)
                except LowerboundError:  # of one of them: then each on its own
                    made = None
            if made is None:
                made = [single(table) for table in some]
            for i, result in zip(places, made, strict=True):
                found[i] = result
        return found

    def _layout(self, table: pa.Table) -> frozenset[tuple[str, str]]:
        """Return the names and types of columns; those of numbers in JSON are one type.

        A number is coded as float64 whether it came as 3 or as 3.0.
        """
        kinds = self.columns.known
        return frozenset(
            (name, "number" if kinds.get(name) in NUMBERS and kind in _PLAIN else str(kind))
            for name, kind in zip(table.column_names, table.schema.types, strict=True)
        )

    def _scored_together(self, tables: Sequence[pa.Table], by: str) -> list[Any]:
        found, coded = self.model.score_table(joined(tables), by=by)
        noted = bool(remarks(coded))
        parts, start = [], 0
        for table in tables:
            facts = remarks(self.model.encode(table)[1]) if noted else {}
            parts.append(Scores(found.slice(start, table.num_rows), facts))
            start += table.num_rows
        return parts

    def _scored(self, table: pa.Table, by: str) -> Any:
        try:
            found, coded = self.model.score_table(table, by=by)
        except LowerboundError as error:
            return self.all_problems(table, error)
        return Scores(found, remarks(coded))

    def embed(self, tables: Sequence[pa.Table]) -> list[Any]:
        """Embed the rows of several requests in one pass.

        Args:
            tables: the rows of each request.

        Returns:
            (n, latent) of each request, or its error.
        """
        return self._in_groups(tables, self._embedded_together, self._embedded)

    def _embedded_together(self, tables: Sequence[pa.Table]) -> list[Any]:
        ends = np.cumsum([table.num_rows for table in tables])
        return np.split(self.model.embed(joined(tables)), ends[:-1])

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


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of tables of one layout, one after the other."""
    names = tables[0].column_names
    return pa.concat_tables([t.select(names) for t in tables], promote_options="permissive")


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
