"""Explanations of scores: the columns that add most, with their actual and expected values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lowerbound.coding.tables import Coded, table_of
from lowerbound.errors import UsageError
from lowerbound.files.data import Whole
from lowerbound.tasks import draws
from lowerbound.tasks.finite import finite
from lowerbound.tasks.state import TrainedState

EXPLAINED_ROWS = 100  # rows with the highest scores, explained in addition to the flagged ones


def explain(
    trained: TrainedState, frame: Whole, coded: Coded, chosen: NDArray[np.int64], top: int
) -> pa.Table:
    """Name the columns that add most to the scores of the rows `chosen`.

    Args:
        trained: the model.
        frame: the rows.
        coded: the same rows, coded.
        chosen: indices of rows, (n,).
        top: number of columns to name.

    Returns:
        A table of n rows with four columns for each rank r from 1 to `top`: ``top{r}_column``,
        ``top{r}_nats`` (the contribution of the column given the others, minus its mean for
        normal rows), ``top{r}_value`` and ``top{r}_expected``, the last two as text.

    Raises:
        UsageError: E246 for models of pictures and models with a context.
    """
    groups = trained.coding.groups
    batch = coded.rows.take(torch.from_numpy(chosen))
    if batch.context is not None or batch.x.dim() > 2:
        what = "images" if batch.x.dim() > 2 else "models with a context, such as counts"
        raise UsageError(
            "E246", f"explanations are not available for {what}", fix="leave out --explain"
        )
    surprise = draws.explain(
        trained.model, batch.x, [g.parts for g in groups], trained.importance_samples
    )
    expected = trained.coding.decode(surprise.expected.numpy())
    actual = table_of(frame).take(pa.array(chosen))
    typical = trained.facts.get("typical_nats", {})
    finite(surprise.nats.numpy(), "explanations")
    excess = surprise.nats - torch.tensor([typical.get(g.column, 0.0) for g in groups])
    order = excess.argsort(1, descending=True).numpy()
    columns: dict[str, pa.Array] = {}
    for rank in range(min(top, len(groups))):
        names = [groups[g].column for g in order[:, rank]]
        cells: dict[str, list[Any]] = {
            "column": names,
            "nats": [float(excess[i, g]) for i, g in enumerate(order[:, rank])],
            "value": [_spell(actual[n][i].as_py()) for i, n in enumerate(names)],
            "expected": [_spell(expected[n][i].as_py()) for i, n in enumerate(names)],
        }
        for name, values in cells.items():
            kind = pa.float64() if name == "nats" else pa.string()
            columns[f"top{rank + 1}_{name}"] = pa.array(values, kind)
    return pa.table(columns)


def remarkable(scored: pa.Table) -> NDArray[np.int64]:
    """Return the indices of the rows that are flagged or among the highest-scoring ones."""
    scores = scored["anomaly_score"].to_numpy()
    highest = np.argsort(-scores, kind="stable")[:EXPLAINED_ROWS]
    return np.union1d(np.flatnonzero(scored["is_anomaly"].to_numpy()), highest)


def explained(
    trained: TrainedState, given: tuple[Whole, Coded], scored: pa.Table, top: int
) -> pa.Table:
    """Return `scored` with explanations of the remarkable rows; they are null for other rows."""
    if not top:
        return scored
    chosen = remarkable(scored)
    reasons = explain(trained, *given, chosen, top)
    places = np.full(scored.num_rows, -1)
    places[chosen] = np.arange(len(chosen))
    cells = reasons.take(pa.array(places, mask=places < 0))
    for name, column in zip(cells.column_names, cells.columns, strict=True):
        scored = scored.append_column(name, column)
    return scored


def _spell(value: object) -> str:
    """Return a value as short text."""
    return (
        "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    )
