"""The work of the verb score: score data part by part and collect totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lowerbound.cli.outputs import walked, with_ids
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Remarks
from lowerbound.files.data import Data, Whole
from lowerbound.tasks.calibration import Coarse
from lowerbound.tasks.explain import explained
from lowerbound.tasks.measures import Scoring

if TYPE_CHECKING:
    from lowerbound.coding.base import Coded
    from lowerbound.tasks.trained import Model

SHOWN = 5  # number of rows that are printed


class Scored:
    """Scores of data part by part, and totals over all parts.

    Args:
        trained: the model.
        way: the method of scoring.
        ids: names of the columns that identify rows.
        explain: the number of columns to name per row.

    Attributes:
        rows: the number of rows scored.
        flagged: the number of anomalies among them.
        remarks: notes and counts from reading and coding.
        last: the part scored last, coded, and its scores.
        highest: the rows with the highest scores so far, plain values.
        coarse: the calibration rows that a false discovery rate takes, if there are too few.
    """

    def __init__(self, trained: Model, way: Scoring, ids: Sequence[str], explain: int) -> None:
        self.trained, self.way, self.ids, self.explain = trained, way, ids, explain
        self.rows = self.flagged = 0
        self.remarks = Remarks()
        self.last: tuple[Whole, Coded, pa.Table] | None = None
        self.highest: list[dict[str, Any]] = []
        self.coarse: Coarse | None = None

    def tables(
        self, given: Data, rate: float | None, voice: Voice, *, plain: bool = False
    ) -> Iterator[pa.Table]:
        """Yield the scores of every part.

        Args:
            given: the rows.
            rate: flag at this false discovery rate, or None. This needs the scores of all rows
                first, 8 bytes each, so that the data are read twice.
            voice: receives the progress.
            plain: yield the scores only, as array files have room for numbers only.
        """
        self.remarks = Remarks(given)
        every = cut = None
        if rate is not None:
            every = [self._measure(coded) for _, coded in walked(given, self.trained, voice)]
            together = np.concatenate(every)
            cut, self.coarse = self.way.cut(together, rate), self.way.too_coarse(together, rate)
            if self.coarse is not None:
                self.remarks.notes[str(self.coarse)] = None
        for number, (frame, coded) in enumerate(walked(given, self.trained, voice)):
            nats = self._measure(coded) if every is None else every[number]
            scores = self.way.flag(nats, cut)
            scores = explained(self.trained, (frame, coded), scores, self.explain)
            table = with_ids(frame, self.ids, scores)
            self._count(frame, coded, scores, table)
            yield scores if plain else table

    def _measure(self, coded: Coded) -> Any:
        return self.way.scores(self.trained.model, coded)

    def _count(self, frame: Whole, coded: Coded, scores: pa.Table, table: pa.Table) -> None:
        self.rows += scores.num_rows
        self.flagged += int(scores["is_anomaly"].to_numpy().sum())
        self.remarks.add(coded)
        self.last = frame, coded, scores
        order = np.argsort(-table["anomaly_score"].to_numpy(), kind="stable")[:SHOWN]
        self._show(table.take(pa.array(order)).to_pylist())

    def absorb(self, facts: Mapping[str, Any]) -> None:
        """Add the totals of a file that was scored in another process."""
        self.rows += facts["rows"]
        self.flagged += facts["flagged"]
        self.remarks.absorb(facts)
        self._show(facts["highest"])

    def _show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        plain = [{key: plain_value(value) for key, value in row.items()} for row in rows]
        known = sorted([*self.highest, *plain], key=lambda row: row["row"])
        known.sort(key=lambda row: -row["anomaly_score"])
        self.highest = known[:SHOWN]


def plain_value(value: Any) -> Any:
    """Return a value of a table as a JSON value."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
