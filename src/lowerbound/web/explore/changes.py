"""One row: its values and reasons, what if it were another, and the nearest usual row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from lowerbound.errors import ResourceError, UsageError
from lowerbound.web.explore.columns import spelled_date
from lowerbound.web.explore.rows import Explored, pictures

_REASONS = 5


class Rows:
    """Scores, reasons and changes of single rows.

    Args:
        model: a `lowerbound.Model`.
        explored: the rows.
    """

    def __init__(self, model: Any, explored: Explored) -> None:
        self.model, self.explored = model, explored
        self.holds = model.holds

    def place(self, given: object) -> int:
        """Return a place among the rows of the page.

        Raises:
            ResourceError: E353 if there is no such row.
        """
        total = self.explored.total
        if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < total:
            raise ResourceError(
                "E353",
                f"there is no row {str(given)[:40]} on this page, which has {total:,} rows",
                fix="give the number of a row of the data, counted from 0",
            )
        return given

    def at(self, number: int) -> int:
        """Return the place of the row with a number in the data, counted from 0.

        Raises:
            ResourceError: E353 if the page does not have this row.
        """
        numbers = self.explored.scores["row"].to_numpy()
        place = int(np.searchsorted(numbers, number))
        if place >= len(numbers) or numbers[place] != number:
            return self.place(-1 if number < 0 else max(number, len(numbers)))
        return place

    def told(self, place: int) -> dict[str, Any]:
        """Return a row: its values, its score and its reasons, as plain JSON values."""
        found = self.brief(place)
        if self.holds == "table" and self.model.explains:
            found["reasons"] = self._scored(self._row(place))["reasons"]
        return found

    def brief(self, place: int) -> dict[str, Any]:
        """Return the scores and the values of a row, without its reasons."""
        return self.scores(place) | {"values": self._values(place)}

    def scores(self, place: int) -> dict[str, Any]:
        """Return the scores of a row, and its number or its file."""
        scores = self.explored.scores
        found = {"at": place, "row": scores["row"][place].as_py()}
        if "file" in scores.column_names:
            found["file"] = scores["file"][place].as_py()
        for name in ("anomaly_score", "p_value", "is_anomaly"):
            found[name] = scores[name][place].as_py()
        return found

    def _values(self, place: int) -> list[dict[str, Any]]:
        """Return the values of a row, as text."""
        explored = self.explored
        tables = {"rows": explored.rows, "scores": explored.scores, "values": explored.values}
        found = []
        for column in explored.columns:
            if column.table == "scores":
                continue
            if column.stored:
                value = spelled(explored.rows[column.name][place].as_py())
            else:
                value = spelled(tables[column.table][column.source][place].as_py())
                if column.kind == "date" and value is not None:
                    value = spelled_date(value)
            found.append({"key": column.key, "name": column.name, "value": value, "of": column.of})
        return found

    def _row(self, place: int, changes: Mapping[str, Any] | None = None) -> pa.Table:
        """Return one row as a table, with some of its values replaced.

        Args:
            place: its place.
            changes: text of the new values by name of the column; None is a missing value.

        Raises:
            UsageError: E246 if the rows have no columns, E203 for an unknown column.
        """
        if self.holds != "table":
            raise UsageError(
                "E246",
                "values can be changed in rows of a table only",
                fix="a model of a table",
            )
        row = self.explored.rows.slice(place, 1)
        known = {column.name: column for column in self.explored.columns if column.stored}
        for name, value in (changes or {}).items():
            if name not in known:
                raise UsageError("E203", f"there is no column {str(name)[:80]!r}")
            if value is not None and not isinstance(value, str):
                raise UsageError("E231", f"the value of {name[:80]!r} must be text or null")
            number = row.column_names.index(name)
            row = row.set_column(number, name, _cell(value, row.schema.field(name).type))
        return row

    def what_if(self, place: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Score a row as if some of its values were others.

        The scores are those of `lowerbound.Model.score` for the changed row, to the last bit.

        Args:
            place: its place.
            changes: text of the new values by name of the column; None is a missing value.

        Raises:
            LowerboundError: for values that cannot be scored.
        """
        return self._scored(self._row(place, changes))

    def _scored(self, row: pa.Table) -> dict[str, Any]:
        explains = self.model.explains
        table, coded = self.model.score_table(row, explain=_REASONS if explains else 0)
        found = table.to_pylist()[0]
        reasons = []
        for rank in range(1, _REASONS + 1):
            if found.get(f"top{rank}_column") is None:
                break
            reasons.append(
                {key: found[f"top{rank}_{key}"] for key in ("column", "nats", "value", "expected")}
            )
        told = {key: found[key] for key in ("anomaly_score", "p_value", "is_anomaly")}
        return {**told, "reasons": reasons, "notes": list(coded.notes), "unseen": coded.unseen}

    def usual(self, place: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the nearest usual row: the smallest change that brings the row under threshold.

        Args:
            place: its place.
            changes: values that are replaced before, as of `what_if`.
        """
        row = self._row(place, changes)
        table, (changed,) = self.model.counterfactual_table(row)
        names = [f"score_{when}" for when in ("before", "after")]
        before, after = (table[name][0].as_py() for name in names)
        threshold = self.model.alarm.threshold
        return {
            "before": before,
            "after": after,
            "found": bool(after <= threshold),
            "changes": [
                {
                    "column": name,
                    "from": spelled(row[name][0].as_py()),
                    "to": spelled(table[name][0].as_py()),
                }
                for name in changed
            ],
        }

    def pixels(self, place: int) -> Any:
        """Return the pixels of a picture as they were read, (1, ...).

        Raises:
            UsageError: E246 if the rows are no pictures.
        """
        if self.holds != "pictures":
            raise UsageError("E246", "only a model of pictures has pictures to show")
        about = self.explored.about
        return pictures(self.explored.rows, [place], about["shape"], about["dtype"])


def spelled(value: Any) -> str | None:
    """Return a value as text that reads back as the same value; None if it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _cell(value: str | None, kind: pa.DataType) -> pa.Array:
    """Return a value that a form holds as text in the type of its column, where it fits."""
    if value is None:
        return pa.array([None], kind)
    text = pa.array([value])
    if pa.types.is_boolean(kind):
        return text.cast(kind) if value.lower() in ("true", "false", "0", "1") else text
    for wanted in (kind, pa.float64()) if pa.types.is_integer(kind) else (kind,):
        try:
            return pa.array([value.strip()]).cast(wanted)
        except (pa.ArrowException, ValueError):
            continue
    return text  # the model says why it cannot be read
