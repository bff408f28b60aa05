"""Columns of millions of rows as numbers, dates or levels: colours, filters and differences."""

from __future__ import annotations

import datetime
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.errors import UsageError

pc: Any = importlib.import_module("pyarrow.compute")  # type checkers cannot see its functions

LEVELS = 8  # of a category that have a colour of their own
STEPS = 63  # colours of a number
_MOST_LEVELS = 2_000  # of a category: a column of more is text
_SHOWN_LEVELS = 500  # that can be chosen from
_LOOKED_AT = 200_000  # rows that quantiles are taken of
_COMPARED = 20_000  # rows by which two sets of rows are compared
_NAMED = 12  # columns in which a selection differs
_LEAST = 0.1  # effect below which a column does not differ

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Column:
    """A column that rows can be coloured and filtered by.

    Attributes:
        key: names it in requests.
        name: is shown.
        table: "rows", "scores" or "values".
        source: its name in this table.
        kind: "number", "date" (seconds since 1970), "category" or "text".
        of: its kind in the model, such as "count"; "" if it is not modelled.
        stored: its Arrow type in ``rows``, as text; "" if it is not there.
        missing: number of rows without a value.
        low: the 2 % quantile of a number or a date.
        high: the 98 % quantile.
        least: the lowest value.
        most: the highest value.
        levels: the commonest levels of a category with their numbers of rows.
        distinct: number of levels.
    """

    key: str
    name: str
    table: str
    source: str
    kind: str
    of: str = ""
    stored: str = ""
    missing: int = 0
    low: float | None = None
    high: float | None = None
    least: float | None = None
    most: float | None = None
    levels: Sequence[Sequence[Any]] = field(default_factory=list)
    distinct: int = 0


_NUMBERS = ("real", "positive", "count")
SCORE, P_VALUE, VERDICT = "score", "p", "verdict"


def canonical(model: Any, table: pa.Table) -> pa.Table:
    """Return the columns that rows hold as text or in another form: dates, numbers in text."""
    kinds = {column["name"]: column["kind"] for column in model.columns if column["required"]}
    wanted = []
    for field_ in table.schema:
        kind = kinds.get(field_.name, "")
        if kind == "datetime" or (kind in _NUMBERS and not _is_number(field_.type)):
            wanted.append(field_.name)
    return model.canonical(table).select(wanted) if wanted else pa.table({})


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def described(
    tables: Mapping[str, pa.Table], known: Sequence[Mapping[str, Any]], holds: str
) -> list[dict[str, Any]]:
    """Return what is known of all columns, as plain JSON values.

    Args:
        tables: "rows", "scores" and "values".
        known: the columns of the model, as of `Model.columns`.
        holds: what the model is of, as of `Model.holds`.
    """
    found = [
        Column(SCORE, "anomaly score", "scores", "anomaly_score", "number"),
        Column(P_VALUE, "p-value", "scores", "p_value", "number"),
        Column(VERDICT, "verdict", "scores", "is_anomaly", "category"),
    ]
    if "file" in tables["scores"].column_names:
        found.append(Column("file", "file", "scores", "file", "text"))
    kinds = {each["name"]: each["kind"] for each in known} if holds == "table" else {}
    rows, values = tables["rows"], tables["values"]
    own = [name for name in rows.column_names if name not in ("none", "pixels")]
    names = own if holds == "table" else [n for n in values.column_names if n != "none"]
    for i, name in enumerate(names):
        inside = name in values.column_names
        table = "values" if inside else "rows"
        stored = str(rows.schema.field(name).type) if name in own else ""
        kind = kinds.get(name, "")
        shown = _kind_of((values if inside else rows).schema.field(name).type, kind)
        found.append(Column(f"c{i}", name, table, name, shown, kind, stored))
    return [asdict(_measured(column, tables)) for column in found]


def _kind_of(stored: pa.DataType, kind: str) -> str:
    if kind == "datetime" or pa.types.is_temporal(stored):
        return "date"
    if kind in ("binary", "categorical", "ordinal"):
        return "category"
    if _is_number(stored) or pa.types.is_decimal(stored):
        return "number"
    return "text" if kind in ("id", "text") else "category"


def _measured(column: Column, tables: Mapping[str, pa.Table]) -> Column:
    """Return a column with its range or its levels."""
    cells = vector(column, tables)
    parts = asdict(column)
    if column.kind in ("number", "date"):
        numbers = cells.to_numpy(zero_copy_only=False)
        some = numbers[:: max(1, len(numbers) // _LOOKED_AT)]
        some = some[np.isfinite(some)]
        bad = int(len(numbers) - np.count_nonzero(np.isfinite(numbers)))
        parts["missing"] = bad
        if len(some):
            parts["low"], parts["high"] = map(float, np.quantile(some, [0.02, 0.98]))
            parts["least"], parts["most"] = float(np.nanmin(numbers)), float(np.nanmax(numbers))
        return Column(**parts)
    parts["missing"] = cells.null_count
    if column.kind == "text":
        return Column(**parts)
    counts = pc.value_counts(cells.drop_null())
    words, sizes = counts.field("values").to_pylist(), counts.field("counts").to_numpy()
    parts["distinct"] = len(words)
    if len(words) > min(_MOST_LEVELS, max(len(cells) // 2, LEVELS)):
        return Column(**{**parts, "kind": "text"})
    order = sorted(range(len(words)), key=lambda i: (-sizes[i], words[i]))[:_SHOWN_LEVELS]
    return Column(**{**parts, "levels": [[words[i], int(sizes[i])] for i in order]})


def vector(column: Column, tables: Mapping[str, pa.Table]) -> pa.ChunkedArray:
    """Return the values of a column: float64 of numbers and dates, else text."""
    cells = tables[column.table][column.source]
    if column.key == VERDICT:
        return pc.if_else(cells, "above the threshold", "usual")
    kind = cells.type
    if column.kind == "date" and pa.types.is_temporal(kind):
        if pa.types.is_time(kind) or pa.types.is_duration(kind):
            return cells.cast(pa.int64() if kind.bit_width == 64 else pa.int32()).cast(
                pa.float64()
            )
        ticks = cells.cast(pa.timestamp("us")).cast(pa.int64())
        return pc.divide(ticks.cast(pa.float64()), 1e6)
    if column.kind in ("number", "date"):
        return cells.cast(pa.float64())
    if pa.types.is_string(kind):
        return cells
    return _spelled(cells)


def _spelled(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as text."""
    try:
        return cells.cast(pa.string())
    except (pa.ArrowException, ValueError):
        words = [None if each is None else str(each) for each in cells.to_pylist()]
        return pa.chunked_array([pa.array(words, pa.string())])


def find(columns: Sequence[Column], key: object) -> Column:
    """Return the column of a key.

    Raises:
        UsageError: E203 if there is none.
    """
    for column in columns:
        if column.key == key:
            return column
    raise UsageError("E203", f"there is no column {str(key)[:80]!r}", fix="reload the page")


def colours(
    column: Column, tables: Mapping[str, pa.Table]
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Return the colour of every row by a column, and its legend.

    Args:
        column: the column.
        tables: "rows", "scores" and "values".

    Returns:
        The legend as plain JSON values, and a code for each row. Of numbers and dates, the codes
        are 0 to `STEPS` - 1 from low to high, and `STEPS` is a missing value; of others, the place
        of the level in the legend.
    """
    cells = vector(column, tables)
    head = {"name": column.name, "kind": column.kind, "missing": column.missing}
    if column.kind in ("number", "date"):
        numbers = cells.to_numpy(zero_copy_only=False).astype(np.float64)
        low, high = column.low, column.high
        if column.key == P_VALUE:  # the small ones matter
            with np.errstate(divide="ignore"):
                numbers = np.log10(np.maximum(numbers, 1e-12))
            low, high = float(np.floor(numbers.min())), 0.0
        if column.key == SCORE and high is not None:
            high = float(np.quantile(numbers[:: max(1, len(numbers) // _LOOKED_AT)], 0.995))
        low, high = (0.0, 1.0) if low is None or high is None else (low, high)
        share = (numbers - low) / max(high - low, 1e-300)
        codes = np.full(len(numbers), STEPS, np.uint8)
        good = np.isfinite(share)
        codes[good] = np.clip(share[good] * STEPS, 0, STEPS - 1).astype(np.uint8)
        return {**head, "low": low, "high": high, "log": column.key == P_VALUE}, codes
    if column.kind == "text" and not column.levels:
        codes = np.where(cells.is_null().to_numpy(), 1, 0).astype(np.uint8)
        return {**head, "levels": ["other values", "missing"], "plain": True}, codes
    shown = [word for word, _ in column.levels[:LEVELS]]
    if column.key == VERDICT:  # each verdict has its own colour
        shown = ["usual", "above the threshold"]
    places = pc.index_in(cells, pa.array(shown, pa.string())).fill_null(len(shown))
    codes = places.to_numpy(zero_copy_only=False).astype(np.uint8)
    codes[cells.is_null().to_numpy()] = len(shown) + 1
    counts = np.bincount(codes, minlength=len(shown) + 2)
    levels = [*shown, "other levels", "missing"]
    return {**head, "levels": levels, "counts": counts.tolist()}, codes


def selected(
    conditions: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    tables: Mapping[str, pa.Table],
) -> Mask:
    """Return which rows fulfil all conditions, (n,).

    Args:
        conditions: each with the ``key`` of a column, and ``low`` and ``high`` of a number or a
            date, ``levels`` of a category (None is a missing value), or ``contains`` of a text.
        columns: all columns.
        tables: "rows", "scores" and "values".

    Raises:
        UsageError: E203 for an unknown column, E231 for a condition that is none.
    """
    mask = np.ones(tables["scores"].num_rows, bool)
    for condition in conditions:
        if not isinstance(condition, Mapping):
            raise _no_condition("a condition must be an object")
        column = find(columns, condition.get("key"))
        cells = vector(column, tables)
        if column.kind in ("number", "date"):
            numbers = cells.to_numpy(zero_copy_only=False)
            low, high = (_bound(condition.get(end)) for end in ("low", "high"))
            with np.errstate(invalid="ignore"):
                mask &= (numbers >= (-math.inf if low is None else low)) & (
                    numbers <= (math.inf if high is None else high)
                )
        elif condition.get("contains") is not None:
            text = condition["contains"]
            if not isinstance(text, str):
                raise _no_condition("contains must be text")
            found = pc.match_substring(cells, text, ignore_case=True).fill_null(False)
            mask &= found.to_numpy(zero_copy_only=False)
        else:
            levels = condition.get("levels")
            if not isinstance(levels, list) or not all(
                each is None or isinstance(each, str) for each in levels
            ):
                raise _no_condition("levels must be a list of texts")
            words = pa.array([each for each in levels if each is not None], pa.string())
            inside = pc.is_in(cells, words).to_numpy(zero_copy_only=False)
            if None in levels:
                inside = inside | cells.is_null().to_numpy(zero_copy_only=False)
            mask &= inside
    return mask


def _bound(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _no_condition("low and high must be numbers")
    return float(value)


def _no_condition(problem: str) -> UsageError:
    return UsageError("E231", f"a filter cannot be used: {problem}", fix="reload the page")


def differences(
    mask: Mask, columns: Sequence[Column], tables: Mapping[str, pa.Table]
) -> list[dict[str, Any]]:
    """Return how selected rows differ from all rows: the columns that differ most, first.

    Args:
        mask: which rows are selected.
        columns: all columns.
        tables: "rows", "scores" and "values".

    Returns:
        For each column its name, the effect (0 none, 1 the two sets have no value in common;
        negative for lower numbers), and the typical value of all and of the selected rows.
    """
    rng = np.random.default_rng(0)
    chosen = _some(np.flatnonzero(mask), rng)
    every = _some(np.arange(len(mask)), rng)
    if not len(chosen):
        return []
    found = []
    for column in columns:
        if column.kind == "text" or column.key == VERDICT:
            continue
        cells = vector(column, tables)
        both = [cells.take(pa.array(rows)) for rows in (every, chosen)]
        make = _numbers if column.kind in ("number", "date") else _categories
        told = make(*both)
        if told is None or abs(told[0]) < _LEAST:
            continue
        effect, usual, here = told
        if column.kind == "date":
            usual, here = spelled_date(usual), spelled_date(here)
        found.append(
            {"name": column.name, "effect": effect, "all": str(usual), "selected": str(here)}
        )
    return sorted(found, key=lambda each: -abs(each["effect"]))[:_NAMED]


def _some(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= _COMPARED else np.sort(rng.choice(rows, _COMPARED, replace=False))


def _numbers(every: pa.ChunkedArray, chosen: pa.ChunkedArray) -> tuple[float, Any, Any] | None:
    """Return 2 AUC - 1, and both medians."""
    both = [each.to_numpy(zero_copy_only=False).astype(np.float64) for each in (every, chosen)]
    a, b = (each[np.isfinite(each)] for each in both)
    if not (len(a) and len(b)):
        return None
    a = np.sort(a)
    below = np.searchsorted(a, b, "left") + np.searchsorted(a, b, "right")
    return float(below.mean() / len(a) - 1.0), *(_short(float(np.median(x))) for x in (a, b))


def _categories(every: pa.ChunkedArray, chosen: pa.ChunkedArray) -> tuple[float, Any, Any] | None:
    """Return the total variation, and the share of the level that changes most."""
    both = []
    for each in (every, chosen):
        counts = pc.value_counts(each.fill_null("missing"))
        sizes = counts.field("counts").to_numpy() / max(1, len(each))
        both.append(dict(zip(counts.field("values").to_pylist(), sizes, strict=True)))
    levels = sorted(set(both[0]) | set(both[1]))
    moves = {level: both[1].get(level, 0.0) - both[0].get(level, 0.0) for level in levels}
    if not moves:
        return None
    top = max(moves, key=lambda level: abs(moves[level]))
    first, second = (f"{top}: {shares.get(top, 0.0):.0%}" for shares in both)
    return sum(abs(move) for move in moves.values()) / 2, first, second


def _short(value: float) -> Any:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def spelled_date(seconds: object) -> str:
    """Return seconds since 1970 as a date and a time."""
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(
            seconds=float(str(seconds).replace(",", ""))
        )
    except (OverflowError, ValueError):
        return str(seconds)
    return moment.isoformat(" ", "seconds")
