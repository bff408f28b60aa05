"""Nearest usual rows: the smallest change that brings an unusual row under the threshold.

The change is smallest in columns first: no fewer columns suffice, among the values that are tried.
Of these, it is smallest in nats: the score falls as little as it must. Values that are tried are
drawn from the model given the other columns, drawn without them, and all levels of a category;
numbers then move as near to the given ones as the threshold allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.coding.base import Coded, table_of
from lowerbound.coding.filling import filled
from lowerbound.coding.rows import Dense
from lowerbound.coding.tables import TableCoding
from lowerbound.columns.arrow import computable, pc, rewrapped
from lowerbound.errors import UsageError
from lowerbound.files.data import Whole
from lowerbound.tasks.completion import LATENTS, Completion
from lowerbound.tasks.measures import Likelihood
from lowerbound.tasks.state import TrainedState

GIVEN = 8  # draws of a column given the others
USUAL = 32  # rows drawn from the model, whose values are tried
LEVELS = 64  # levels of a category up to which all are tried
PAIRED = 10  # columns whose pairs are tried: those that bring the score down most
TRIED = 3  # values of each column of a pair that are tried together
STEPS = 64  # points between a given number and a usual one


class Found(NamedTuple):
    """The nearest usual row of one row, coded.

    Attributes:
        columns: the names of the changed columns, those that were tried first in front.
        codes: (parts,) the coded row.
        score: its score, nats.
    """

    columns: tuple[str, ...]
    codes: Tensor
    score: float


@dataclass
class _Change:
    """Changed columns, the values that were tried for them, and the scores with these."""

    columns: tuple[int, ...]
    codes: Tensor  # (n, parts) whole rows
    scores: NDArray[np.float64]  # (n,)
    order: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.order = np.argsort(self.scores, kind="stable")

    @property
    def lowest(self) -> float:
        """The lowest score."""
        return float(self.scores[self.order[0]])

    def nearest(self, threshold: float) -> int | None:
        """Return the values whose score is highest among those under the threshold."""
        under = self.order[self.scores[self.order] <= threshold]
        return int(under[-1]) if len(under) else None


def check(trained: TrainedState) -> TableCoding:
    """Return the coding of the table that a model is of.

    Raises:
        UsageError: E246 for other models.
    """
    if not isinstance(trained.coding, TableCoding):
        raise UsageError(
            "E246",
            "nearest usual rows are searched for models of tables only",
            fix="`score` works for all models that score rows",
        )
    return trained.coding


class Search:
    """Searches the nearest usual rows of a model.

    Args:
        trained: a model of a table.

    Raises:
        UsageError: E246 for other models.
    """

    def __init__(self, trained: TrainedState) -> None:
        self.trained, self.coding = trained, check(trained)
        self.threshold = trained.alarm.threshold
        self.groups = self.coding.groups
        self.parts = [torch.tensor(group.parts) for group in self.groups]
        scales = self.coding.scales
        by = trained.facts.get("completes", LATENTS)
        places = [group.parts for group in self.groups]
        self.completion = Completion(trained.model, by, places, scales)
        self.measure = Likelihood(trained.importance_samples)
        self.real = [
            len(group.parts) == 1 and scales[group.parts[0]] is not None for group in self.groups
        ]

    def scores(self, codes: Tensor, surcharge: float) -> NDArray[np.float64]:
        """Return the scores of coded rows, (n,) nats."""
        groups = [group.parts for group in self.groups]
        n = len(codes)
        coded = Coded(Dense(codes), lambda: np.zeros(n), np.full(n, surcharge), groups=groups)
        return self.measure(self.trained.model, coded)

    def written(self, codes: Tensor) -> Tensor:
        """Return the codes of the values that coded rows stand for: rounded, within the range."""
        table = self.coding.decode(codes.numpy(), bounded=True)
        return torch.from_numpy(self.coding.schema.encode(table).values)

    def nearest(self, x: Tensor, surcharge: float, usual: Tensor) -> Found | None:
        """Return the nearest usual row of an unusual one; None if none was found.

        Args:
            x: (parts,) the coded row.
            surcharge: nats that its score has for changed constants that stay.
            usual: (n, parts) coded rows that the model has drawn.
        """
        observed = [g for g, parts in enumerate(self.parts) if not x[parts].isnan().all()]
        given = self._given([x] * len(observed), [[g] for g in observed])
        alone = [
            ((g,), self._values(x, g, values, usual))
            for g, values in zip(observed, given, strict=True)
        ]
        singles = self._tried(x, surcharge, alone)
        if (found := self._best(x, surcharge, singles)) is not None:
            return found
        singles.sort(key=lambda change: change.lowest)
        two = list(combinations(singles[:PAIRED], 2))
        names = [(a.columns[0], b.columns[0]) for a, b in two]
        given = self._given([x] * len(two), names)
        pairs = [
            (both, torch.cat([values, self._pair(a, b)]))
            for both, values, (a, b) in zip(names, given, two, strict=True)
        ]
        tried = self._tried(x, surcharge, pairs)
        if (found := self._best(x, surcharge, tried)) is not None:
            return found
        return self._many(x, surcharge, usual, observed, tried or singles)

    def _values(self, x: Tensor, group: int, given: Tensor, usual: Tensor) -> Tensor:
        """Return rows in which one column has other values, (n, parts)."""
        parts = self.parts[group]
        values = [given[:, parts], usual[:, parts]]
        first = self.coding.schema.parts[int(parts[0])]
        if len(parts) == 1 and not self.real[group] and first.size <= LEVELS:
            codes = torch.arange(int(first.unknown), max(first.size, 2))
            values.append(codes[:, None].to(x.dtype))
        return self._with(x, parts, torch.cat(values))

    def _given(self, rows: Sequence[Tensor], changes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return draws of columns given the others, and their expected values.

        Args:
            rows: (parts,) a row for each change.
            changes: the columns to draw in each.

        Returns:
            (n, parts) rows for each change.
        """
        if not changes:
            return []
        open_ = torch.stack(list(rows))
        for row, groups in zip(open_, changes, strict=True):
            for group in groups:
                row[self.parts[group]] = torch.nan
        expected = self.completion.point(Dense(open_))[:, None]
        drawn = self.completion.draws(Dense(open_), GIVEN)
        both = torch.cat([expected, drawn], 1).to(open_.dtype)
        both = self.written(both.flatten(0, 1)).view_as(both)
        found = []
        for row, values, groups in zip(rows, both, changes, strict=True):
            # Only the columns that were left open: others may be beyond the range of draws.
            made = row.repeat(len(values), 1)
            for group in groups:
                made[:, self.parts[group]] = values[:, self.parts[group]]
            found.append(made)
        return found

    @staticmethod
    def _with(x: Tensor, parts: Tensor, values: Tensor) -> Tensor:
        rows = x.repeat(len(values), 1)
        rows[:, parts] = values
        return rows

    def _pair(self, a: _Change, b: _Change) -> Tensor:
        """Return rows that have the best values of two changes, (n, parts)."""
        rows, second = [], self.parts[b.columns[0]]
        for i, j in product(a.order[:TRIED], b.order[:TRIED]):
            row = a.codes[i].clone()
            row[second] = b.codes[j][second]
            rows.append(row)
        return torch.stack(rows)

    def _tried(
        self, x: Tensor, surcharge: float, changes: Sequence[tuple[tuple[int, ...], Tensor]]
    ) -> list[_Change]:
        """Return the changes with the scores of all values, computed together."""
        kept = []
        for columns, rows in changes:
            # A value that is the given one is no change, and neither is one that is missing.
            other = torch.ones(len(rows), dtype=torch.bool)
            for g in columns:
                new, old = rows[:, self.parts[g]], x[self.parts[g]]
                same = (new == old) | (new.isnan() & old.isnan())
                other &= ~same.all(1) & ~new.isnan().all(1)
            if other.any():
                kept.append((columns, rows[other]))
        if not kept:
            return []
        scores = self.scores(torch.cat([rows for _, rows in kept]), surcharge)
        ends = np.cumsum([len(rows) for _, rows in kept])[:-1]
        return [
            _Change(columns, rows, some)
            for (columns, rows), some in zip(kept, np.split(scores, ends), strict=True)
        ]

    def _best(self, x: Tensor, surcharge: float, changes: Sequence[_Change]) -> Found | None:
        """Return the change under the threshold whose score is highest, moved near the row."""
        found: list[Found] = []
        for change in changes:
            at = change.nearest(self.threshold)
            if at is not None:
                row, score = change.codes[at], float(change.scores[at])
                row, score = self._nearer(x, surcharge, change.columns, row, score)
                found.append(Found(self._names(change.columns), row, score))
        return max(found, key=lambda each: each.score, default=None)

    def _names(self, columns: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.groups[g].column for g in columns)

    def _nearer(
        self, x: Tensor, surcharge: float, columns: Sequence[int], row: Tensor, score: float
    ) -> tuple[Tensor, float]:
        """Move the changed numbers of a usual row towards the given ones, one after another."""
        for g in columns:
            parts = self.parts[g]
            if not self.real[g] or bool(x[parts].isnan().any()):
                continue
            shares = torch.linspace(0, 1, STEPS + 1)[1:-1, None]
            rows = row.repeat(len(shares), 1)
            rows[:, parts] = row[parts] + shares * (x[parts] - row[parts])
            rows[:, parts] = self.written(rows)[:, parts]
            tried = self._tried(x, surcharge, [((g,), rows)])
            if tried and (at := tried[0].nearest(self.threshold)) is not None:
                new = float(tried[0].scores[at])
                if new > score:
                    row, score = tried[0].codes[at], new
        return row, score

    def _many(
        self,
        x: Tensor,
        surcharge: float,
        usual: Tensor,
        observed: Sequence[int],
        begun: Sequence[_Change],
    ) -> Found | None:
        """Change one column after another, each time the one that brings the score down most."""
        if not begun:
            return None
        best = min(begun, key=lambda change: change.lowest)
        while best.lowest > self.threshold and len(best.columns) < len(observed):
            row, rest = best.codes[best.order[0]], set(observed).difference(best.columns)
            wider = [(*best.columns, g) for g in sorted(rest)]
            given = self._given([x] * len(wider), wider)
            changes = []
            for columns, values in zip(wider, given, strict=True):
                parts = self.parts[columns[-1]]
                also = self._with(row, parts, usual[:GIVEN, parts])
                changes.append((columns, torch.cat([values, also])))
            tried = self._tried(x, surcharge, changes)
            if not tried:
                return None
            best = min(tried, key=lambda change: change.lowest)
        if best.lowest > self.threshold:
            return None
        return self._without_needless(x, surcharge, best)

    def _without_needless(self, x: Tensor, surcharge: float, change: _Change) -> Found:
        """Give back each value that need not change."""
        row, score = change.codes[change.order[0]], change.lowest
        columns = list(change.columns)
        for g in change.columns:
            back = row.clone()
            back[self.parts[g]] = x[self.parts[g]]
            new = float(self.scores(back[None], surcharge)[0])
            if new <= self.threshold and len(columns) > 1:
                row, score = back, new
                columns.remove(g)
        row, score = self._nearer(x, surcharge, columns, row, score)
        return Found(self._names(columns), row, score)


def counterfactuals(
    trained: TrainedState, frame: Whole, coded: Coded, usual: pa.Table
) -> tuple[pa.Table, list[tuple[str, ...]]]:
    """Return the nearest usual rows, and the names of the columns that each changes.

    Args:
        trained: a model of a table.
        frame: the rows.
        coded: the same rows, coded.
        usual: rows that the model has drawn.

    Returns:
        The rows, those that are usual as they were; and for each row the changed columns, () for
        a usual row and for one for which none was found.
    """
    search = Search(trained)
    table = table_of(frame)
    x = coded.rows.take(torch.arange(len(coded.rows))).x
    scores = search.measure(trained.model, coded)
    drawn = torch.from_numpy(search.coding.schema.encode(usual).values)
    constants = search.coding.schema.changed_constants(table)
    rows = x.clone()
    changed: list[tuple[str, ...]] = [()] * len(x)
    for i in np.flatnonzero(scores > search.threshold):
        # A constant with another value is a change that no column of the model can undo.
        odd = tuple(name for name, mask in constants.items() if mask[i])
        plain = float(search.scores(x[i][None], 0.0)[0])
        surcharge = float(coded.surcharge[i])
        if odd and plain <= search.threshold:
            changed[i] = odd
            continue
        found = search.nearest(x[i], surcharge, drawn)
        if odd and (found is None or len(found.columns) > len(odd)):
            other = search.nearest(x[i], 0.0, drawn)
            if other is not None and (
                found is None or len(other.columns) + len(odd) < len(found.columns)
            ):
                found = other._replace(columns=(*other.columns, *odd))
        if found is not None:
            rows[i], changed[i] = found.codes, found.columns
    return _written_into(search.coding, table, rows, changed), changed


def _written_into(
    coding: TableCoding, table: pa.Table, codes: Tensor, changed: Sequence[tuple[str, ...]]
) -> pa.Table:
    """Return a table with the changed values; all others are as they were."""
    decoded = coding.schema.decode(codes.numpy(), bounded=True, like=table)
    numbers = [c.name for c in coding.schema.columns if c.kind in {"real", "positive", "count"}]
    for name in dict.fromkeys(name for names in changed for name in names):
        mask = pa.array([name in names for names in changed])
        own, given = table[name].type, computable(table[name])
        if pa.types.is_dictionary(given.type):
            given = given.cast(given.type.value_type)
        opened = pc.if_else(mask, pa.scalar(None, given.type), given)
        new = filled(pa.table({name: opened}), decoded.select([name]), numbers)[name]
        whole = pc.if_else(mask, new, given.cast(new.type))
        whole = rewrapped(whole, own) if new.type == given.type else whole
        table = table.set_column(table.column_names.index(name), name, whole)
    return table
