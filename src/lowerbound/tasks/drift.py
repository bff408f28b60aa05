"""Differences between rows and those that a model was calibrated on, column by column."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lowerbound.coding.base import Coded
from lowerbound.tasks import draws, notebook
from lowerbound.tasks.state import TrainedState

KNOWN = 500  # held-out rows at most, from which a fit takes the usual nats of each column
_FEWEST = 2


class ColumnDrift(NamedTuple):
    """The drift of one column.

    Attributes:
        column: its name.
        nats: the mean information of its values given the latents, minus the mean of the held-out
            rows of the fit, nats per row: above 0, the values are more surprising than usual.
        p_value: of a difference this large between two samples of one distribution (two-sided
            z-test, with Holm's correction for the number of columns).
        missing: share of missing values.
        missing_before: share of missing values of the training rows.
    """

    column: str
    nats: float
    p_value: float
    missing: float
    missing_before: float


class Drift(NamedTuple):
    """How rows differ from the held-out rows of a fit.

    Attributes:
        distance: largest distance of the two distributions of scores, from 0 to 1
            (Kolmogorov-Smirnov).
        p_value: of a distance this large between two samples of one distribution.
        columns: the drift of every column, the largest first; empty where the fit kept no usual
            nats of columns, as for pictures.
        rows: number of rows compared.
    """

    distance: float
    p_value: float
    columns: tuple[ColumnDrift, ...]
    rows: int

    def __str__(self) -> str:
        """Return the distance of the scores, and the columns that differ, as text."""
        told = [f"{self.rows:,} rows: scores differ by {self.distance:.3f}, p {self.p_value:.2g}"]
        told += [
            f"{c.column:24} {c.nats:+8.3f} nats  p {c.p_value:.2g}" for c in self.columns[:20]
        ]
        return "\n".join(told)

    def _repr_html_(self) -> str:
        rows = [(c.column, f"{c.nats:+.3f}", f"{c.p_value:.2g}") for c in self.columns[:50]]
        head = str(self).partition("\n")[0]
        shown = notebook.table(("column", "nats", "p-value"), rows) if rows else ""
        return f"<p><b>{head}</b></p>{shown}"


def drift(trained: TrainedState, coded: Coded, scores: NDArray[np.float64]) -> Drift:
    """Compare rows with the held-out rows of the fit.

    Args:
        trained: the model.
        coded: the rows.
        scores: their anomaly scores, or those of more rows of the same data, (n,) nats.
    """
    # Imported here, since it takes a second.
    from scipy import stats  # noqa: PLC0415

    known = trained.calibration.scores
    # A distance is a maximum over few values here: with many rows the asymptotic p-value is exact
    # enough, and with few the exact one is fast.
    found: Any = stats.ks_2samp(known, scores)
    return Drift(
        float(found.statistic), float(found.pvalue), _columns(trained, coded), len(scores)
    )


def _columns(trained: TrainedState, coded: Coded) -> tuple[ColumnDrift, ...]:
    typical = trained.facts.get("typical_nats", {})
    if not typical or trained.coding.shape or len(coded.rows) < _FEWEST:
        return ()
    groups = trained.coding.groups
    each = draws.cell_nats(trained.model, coded.rows).flatten(1).double().numpy()
    nats = np.stack([each[:, list(group.parts)].sum(1) for group in groups], 1)
    usual = np.array([typical.get(group.column, np.nan) for group in groups])
    excess = nats.mean(0) - usual
    known = min(KNOWN, max(1, len(trained.calibration.scores)))
    variance = nats.var(0, ddof=1)
    if trained.holds == "cells":
        # The nats of a rare gene come from few cells, which may be in one of the two samples only:
        # the variance of values from 0 to a maximum is at most the mean times the maximum.
        variance = np.maximum(variance, np.maximum(usual, nats.mean(0)) * nats.max())
    error = np.sqrt(variance * (1 / len(nats) + 1 / known))
    z = np.abs(excess) / np.maximum(error, 1e-12)
    p = holm(2 * special.ndtr(-z))
    before = {column["name"]: column for column in trained.columns}
    rows = len(coded.rows)
    told = [
        ColumnDrift(
            group.column,
            float(excess[i]),
            float(p[i]),
            coded.missing.get(group.column, 0) / rows,
            float(before.get(group.column, {}).get("missing", 0.0)),
        )
        for i, group in enumerate(groups)
        if np.isfinite(excess[i])
    ]
    return tuple(sorted(told, key=lambda each: (each.p_value, -abs(each.nats))))


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values corrected for their number by Holm's step-down procedure.

    References:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    p = np.nan_to_num(np.asarray(p_values, np.float64), nan=1.0)
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected
