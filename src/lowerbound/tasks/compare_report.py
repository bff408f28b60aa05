"""The report on rows drawn from a model of a table, by the measures of `compare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.coding.large import needed
from lowerbound.coding.tables import TableCoding
from lowerbound.columns.arrow import snippet
from lowerbound.columns.categories import Category
from lowerbound.columns.schema import Schema
from lowerbound.errors import DataError, UsageError, nearest
from lowerbound.files.data import Data, Table
from lowerbound.files.stream import Stream
from lowerbound.tasks.compare import (
    Estimate,
    aligned,
    auc,
    c2st,
    impossible,
    nearness,
    pair_errors,
    relabelled,
    shape_errors,
    utility,
)
from lowerbound.tasks.state import TrainedState

FEWEST = 30  # rows of a table: three folds of fewer say nothing
_MOST_ROWS, _MOST_CELLS = 20_000, 1 << 22  # of each table
_TARGET_LEVELS = 50  # boosted trees learn each apart
_SHARED = 0.05  # of the real rows, which may be learned rows by chance


def table_coding(trained: TrainedState) -> TableCoding:
    """Return the coding of a model of a table.

    Raises:
        UsageError: E246 for a model of counts or of pictures, E247 for one that restores pictures.
    """
    if isinstance(trained.coding, TableCoding):
        return trained.coding
    if trained.recipe.restoration is not None:
        raise UsageError(
            "E247",
            f"compare needs a model of a table, and the recipe {trained.recipe.name!r} "
            f"{trained.recipe.restoration.does}",
            fix=trained.recipe.restoration.use(),
        )
    kind = "pictures" if trained.coding.shape else "counts of cells"
    raise UsageError(
        "E246",
        f"compare needs a model of a table, and this is a model of {kind}",
        fix="lowerbound evaluate M.vae REAL measures how well it fits rows",
    )


def most_rows(coding: TableCoding) -> int:
    """Return the number of rows of each table that a report uses at most."""
    return max(FEWEST, min(_MOST_ROWS, _MOST_CELLS // max(1, len(coding.groups))))


def check_target(target: str | None, schema: Schema) -> None:
    """Raise an error for a target that cannot be predicted from other columns of the model.

    Raises:
        UsageError: E203, E249.
    """
    if target is None:
        return
    modelled = schema.modelled
    if target not in modelled:
        near = nearest(target, modelled)
        raise UsageError(
            "E203",
            f"--target names the column {snippet(target)}, which the model does not draw",
            fix=f"--target {near}" if near else "lowerbound info M.vae lists the columns",
            column=target,
        )
    if len(modelled) < 2:
        raise UsageError(
            "E249",
            f"--target {snippet(target)} is the only column of the model: no other predicts it",
            fix="leave out --target",
        )
    column = next(column for column in schema.columns if column.name == target)
    if isinstance(column, Category) and len(column.levels) > _TARGET_LEVELS:
        raise UsageError(
            "E249",
            f"--target {snippet(target)} has {len(column.levels):,} levels; at most "
            f"{_TARGET_LEVELS} are predicted",
            fix="--target with a column of fewer levels, or of numbers",
        )


def some_rows(given: Data, coding: TableCoding, seed: int) -> Table:
    """Return the rows of a table that a report uses: all, or some that are chosen at random.

    Raises:
        DataError: E044 for too few rows.
    """
    if given.rows < FEWEST:
        raise DataError(
            "E044",
            f"{given.origin} has {given.rows:,} row{'s' * (given.rows != 1)}; at least {FEWEST} "
            "are needed to compare drawn rows with",
            fix="give more rows",
            rows=given.rows,
        )
    most, less = most_rows(coding), needed(given, coding)
    if isinstance(less, Stream):
        frame = less.sample(most, seed).to_table()
    else:
        frame = less.whole().to_table()
        if frame.rows > most:
            chosen = np.random.default_rng(seed).choice(frame.rows, most, replace=False)
            frame = frame.take(np.sort(chosen))
    if frame.rows == given.rows:
        return frame
    used = (
        f"{frame.rows:,} of {given.rows:,} rows of {given.origin}, drawn at random, are compared"
    )
    return replace(frame, notes=(*frame.notes, used))


def checked_count(n: int, coding: TableCoding) -> int:
    """Return a number of rows to draw.

    Raises:
        UsageError: E240 if it is out of range.
    """
    most = most_rows(coding)
    if FEWEST <= n <= most:
        return n
    message = f"n must be between {FEWEST} and {most:,}, got {n:,}"
    raise UsageError("E240", message, fix=f"-n {most if n > most else FEWEST}")


def check_apart(real: pa.Table, learned: pa.Table) -> None:
    """Raise an error if real and learned rows are the same.

    Raises:
        UsageError: E236.
    """
    if real.equals(learned):
        raise UsageError(
            "E236",
            "REAL and --learned are the same rows, so that privacy cannot be measured",
            fix="REAL: rows that the model did not learn from; --learned: those that it did",
        )


@dataclass(frozen=True)
class Compared:
    """The tables of a report, of the columns of `Schema.canonical`.

    Attributes:
        real: rows that the model did not learn from.
        drawn: rows of the model.
        learned: rows that it learned from, or None.
        scores: of learned and of real rows, nats; None without learned rows.
        notes: on how the rows were read.
    """

    real: pa.Table
    drawn: pa.Table
    learned: pa.Table | None = None
    scores: tuple[NDArray[np.float64], ...] | None = None
    notes: Sequence[str] = ()


_SHOWN = 5  # of the worst columns and pairs


def report(tables: Compared, target: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Return all measures of drawn rows as plain values.

    Args:
        tables: the rows.
        target: the column to predict, for `utility`.
        seed: of all random choices.

    Returns:
        Measures by name, and: `intervals`, the ends of 95 % intervals; `by_chance`, the value of a
        distance for two samples of one distribution; `meanings`, a sentence on each measure;
        `worst`, the columns, pairs and impossible pairs that are furthest off; `rows`, the
        numbers of rows; `notes`.

    Raises:
        UsageError: E249 for a target of one value.
    """
    made = _Report(tables, seed)
    made.add_likeness()
    made.add_impossible()
    if target is not None:
        made.add_utility(target)
    if tables.learned is not None:
        made.add_privacy(tables.learned)
    return made.document()


class _Report:
    """The measures so far, with their sentences.

    Args:
        tables: the rows.
        seed: of all random choices.
    """

    def __init__(self, tables: Compared, seed: int) -> None:
        self.tables, self.seed = tables, seed
        self.values: dict[str, float] = {}
        self.intervals: dict[str, list[float]] = {}
        self.by_chance: dict[str, float] = {}
        self.meanings: dict[str, str] = {}
        self.worst: dict[str, list[dict[str, Any]]] = {}
        self.further: dict[str, Any] = {}
        self.notes = [*tables.notes, *_of_gaps(tables.real)]

    def _add(self, name: str, value: float | Estimate, meaning: str) -> None:
        if isinstance(value, Estimate):
            self.intervals[name] = [value.low, value.high]
            value = value.value
        self.values[name], self.meanings[name] = value, meaning

    def add_likeness(self) -> None:
        """Add the classifier's test and the errors of columns and of pairs."""
        real, drawn, seed = self.tables.real, self.tables.drawn, self.seed
        told = c2st(real, drawn, seed=seed)
        self._add(
            "c2st",
            told.score,
            "1 means that a classifier cannot tell drawn from real rows, 0 that it always can; "
            f"its AUC is {told.auc.value:.3f}",
        )
        self.further["c2st_auc"] = told.auc.value
        same = relabelled(real, drawn, seed)
        self._add_errors("shape_error", "columns", shape_errors(real, drawn), shape_errors(*same))
        pairs, chance = (pair_errors(*each, seed=seed) for each in ((real, drawn), same))
        self._add_errors("pair_error", "pairs", pairs, chance)

    def _add_errors(
        self, name: str, what: str, errors: Mapping[Any, float], chance: Mapping[Any, float]
    ) -> None:
        if not errors:  # a single column has no pairs
            return
        whole = {"columns": "values of a column", "pairs": "dependence of two columns"}[what]
        usual = float(np.mean([chance.get(key, 0.0) for key in errors]))
        self.by_chance[name] = usual
        self._add(
            name,
            float(np.mean(list(errors.values()))),
            f"mean distance of the {whole}, from 0 to 1; chance alone gives {usual:.4f}, and near "
            "that is good",
        )
        excess = {key: error - chance.get(key, 0.0) for key, error in errors.items()}
        top = sorted(excess, key=lambda key: -excess[key])[:_SHOWN]
        self.worst[what] = [
            {
                "columns": [key] if isinstance(key, str) else list(key),
                "error": errors[key],
                "by_chance": chance.get(key, 0.0),
            }
            for key in top
        ]

    def add_impossible(self) -> None:
        """Add the share of rows with combinations that no real row has."""
        real, learned = self.tables.real, self.tables.learned
        every = real if learned is None else pa.concat_tables([real, learned])
        found = impossible(every, self.tables.drawn, seed=self.seed)
        self._add(
            "impossible",
            found.share,
            f"share of drawn rows with two values that none of {every.num_rows:,} real rows has "
            "together, though 10 would by chance; near 0 is good",
        )
        self.worst["impossible"] = [
            {**pair._asdict(), "columns": list(pair.columns), "levels": list(pair.levels)}
            for pair in found.pairs[:_SHOWN]
        ]

    def add_utility(self, target: str) -> None:
        """Add how well a predictor that learned from drawn rows does on real ones."""
        real, drawn, learned = self.tables.real, self.tables.drawn, self.tables.learned
        rng = np.random.default_rng(self.seed)
        half, rest = np.array_split(rng.permutation(real.num_rows), 2)
        test = real.take(pa.array(half))
        known = real.take(pa.array(rest)) if learned is None else learned
        count = min(known.num_rows, drawn.num_rows)
        some = [t.take(pa.array(rng.permutation(t.num_rows)[:count])) for t in (drawn, known)]
        ours, theirs = (utility(each, test, target, seed=self.seed) for each in some)
        self.further["utility_measure"] = ours.measure
        self._add(
            "utility",
            ours.value,
            f"{ours.measure} of {snippet(target)[1:-1]} predicted in real rows after learning "
            "from drawn rows; near that of real rows is good",
        )
        self._add(
            "utility_real",
            theirs.value,
            f"the same after learning from {theirs.rows:,} real rows",
        )

    def add_privacy(self, learned: pa.Table) -> None:
        """Add how near drawn rows are to learned ones, and whether the score tells them apart."""
        real, drawn = self.tables.real, self.tables.drawn
        known, others, new = (set(map(bytes, v.x + 0.0)) for v in aligned(learned, real, drawn))
        shared, copied = (len(each & known) / max(1, len(each)) for each in (others, new))
        if shared > _SHARED and shared > 2 * copied:
            self.notes.append(
                f"{shared:.0%} of the distinct rows of REAL are also learned rows: the measures "
                "of privacy need rows that the model did not learn from"
            )
        near = nearness(drawn, learned, real, seed=self.seed)
        self._add(
            "dcr_share",
            near.dcr_share,
            "share of drawn rows nearer to a learned row than to a held-out one; 0.5 is good, "
            "more means copies",
        )
        self._add(
            "nearest_ratio",
            near.nearest_ratio,
            "median distance to the nearest learned row over that to the second; for held-out "
            f"rows {near.held_out_ratio:.3f}, and less means copies",
        )
        self.further["held_out_ratio"] = near.held_out_ratio
        if near.rows < max(learned.num_rows, real.num_rows):
            self.notes.append(
                f"distances are to {near.rows:,} learned and {near.rows:,} held-out rows, drawn "
                "at random"
            )
        if self.tables.scores is not None:
            self._add(
                "membership_auc",
                auc(*self.tables.scores),
                "AUC of telling learned from held-out rows by their score; 0.5 is good, at most "
                "0.52 is wanted",
            )

    def document(self) -> dict[str, Any]:
        """Return the report as plain values."""
        tables = self.tables
        rows = {"real": tables.real.num_rows, "drawn": tables.drawn.num_rows}
        if tables.learned is not None:
            rows["learned"] = tables.learned.num_rows
        return {
            "rows": rows,
            "columns": tables.real.num_columns,
            **self.values,
            **self.further,
            "intervals": self.intervals,
            "by_chance": self.by_chance,
            "meanings": self.meanings,
            "worst": self.worst,
            "notes": self.notes,
        }


def _of_gaps(real: pa.Table) -> Iterator[str]:
    """Yield the sentence on missing values, if there are any."""
    gaps = {name: real.column(name).null_count for name in real.column_names}
    count = sum(gaps.values())
    if count:
        among = sum(1 for each in gaps.values() if each)
        yield (
            f"REAL has {count:,} missing values in {among} column{'s' * (among != 1)}, and drawn "
            "rows have none: they are a level of their own in categories, and left out in numbers"
        )
