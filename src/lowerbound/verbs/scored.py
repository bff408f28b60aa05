"""The walk of the verb score: part by part, with what is to be told about all rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lowerbound.data.source import Frame, Stream
from lowerbound.explaining import explained
from lowerbound.progress import Voice
from lowerbound.scoring import Scoring
from lowerbound.verbs.outputs import beside, walked
from lowerbound.verbs.result import Remarks

if TYPE_CHECKING:
    from lowerbound.data.coded import Coded
    from lowerbound.trained import Trained

SHOWN = 5  # rows of a result that people see


class Scored:
    """Rows as they are scored, and what they come to.

    Args:
        trained: the model.
        way: how to score.
        ids: names of the columns that only tell rows apart.
        explain: how many columns to name.

    Attributes:
        rows: how many have been scored.
        flagged: how many of them are anomalies.
        remarks: what reading and coding came across.
        last: the part that was scored last, coded, and its scores.
    """

    def __init__(self, trained: Trained, way: Scoring, ids: Sequence[str], explain: int) -> None:
        self.trained, self.way, self.ids, self.explain = trained, way, ids, explain
        self.rows = self.flagged = 0
        self.remarks = Remarks()
        self.last: tuple[Frame, Coded, pa.Table] | None = None
        self._top: pa.Table | None = None

    def tables(
        self, given: Frame | Stream, rate: float | None, voice: Voice, *, plain: bool = False
    ) -> Iterator[pa.Table]:
        """Yield the scores of every part.

        Args:
            given: the rows.
            rate: flag at this rate of false discoveries; that needs the scores of all rows first,
                8 bytes for each, so that the data are read twice.
            voice: hears how it goes.
            plain: leave out all but the scores, for which alone arrays have room.
        """
        self.remarks = Remarks(given.notes)
        every = None if rate is None else [self._measured(part) for part in walked(given, voice)]
        cut = None
        if every is not None and rate is not None:
            cut = self.way.cut(np.concatenate(every), rate)
        for number, part in enumerate(walked(given, voice)):
            frame, coded = self.trained.encode(part)
            nats = self._measure(coded) if every is None else every[number]
            scores = self.way.flag(nats, cut)
            scores = explained(self.trained, (frame, coded), scores, self.explain)
            table = beside(frame, self.ids, scores)
            self._count(frame, coded, scores, table)
            yield scores if plain else table

    def _measured(self, part: Frame) -> Any:
        return self._measure(self.trained.encode(part)[1])

    def _measure(self, coded: Coded) -> Any:
        return self.way.measure(self.trained.model, coded)

    def _count(self, frame: Frame, coded: Coded, scores: pa.Table, table: pa.Table) -> None:
        self.rows += scores.num_rows
        self.flagged += int(scores["is_anomaly"].to_numpy().sum())
        self.remarks.add(coded)
        self.last = frame, coded, scores
        known = table if self._top is None else pa.concat_tables([self._top, _highest(table)])
        self._top = _highest(known)

    @property
    def highest(self) -> list[dict[str, Any]]:
        """The rows with the highest scores so far, plain values."""
        rows = [] if self._top is None else self._top.to_pylist()
        return [{key: plain_value(value) for key, value in row.items()} for row in rows]


def _highest(table: pa.Table) -> pa.Table:
    order = np.argsort(-table["anomaly_score"].to_numpy(), kind="stable")[:SHOWN]
    return table.take(pa.array(order))


def plain_value(value: Any) -> Any:
    """Return a cell as a JSON value."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
