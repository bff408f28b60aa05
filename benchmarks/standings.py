"""How methods stand against each other over many tables: ranks, wins, losses and the best other.

Input is what `anomaly_auroc.py` writes for a split: table -> method -> {"auroc": mean x 100, ...}.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple

Cells = Mapping[str, Mapping[str, Mapping[str, Any]]]

LEVEL = 0.5  # AUROC x 100: a smaller difference is neither a win nor a loss


class Against(NamedTuple):
    """Ours against one other method.

    Attributes:
        wins: tables on which ours is higher by more than `LEVEL`.
        losses: tables on which it is lower by more than that.
        mean: mean difference, ours minus the other.
        worst: the table with the largest loss, and the difference there.
    """

    wins: int
    losses: int
    mean: float
    worst: tuple[str, float]


def auroc(cells: Cells, table: str) -> dict[str, float]:
    """Return method -> AUROC x 100 on a table."""
    return {method: cell["auroc"] for method, cell in cells[table].items()}


def ranks(cells: Cells) -> dict[str, float]:
    """Return method -> mean rank over the tables: 1 is the best, and ties share their ranks.

    >>> cells = {"t": {"a": {"auroc": 9.0}, "b": {"auroc": 9.0}, "c": {"auroc": 1.0}}}
    >>> ranks(cells)
    {'a': 1.5, 'b': 1.5, 'c': 3.0}
    """
    each: dict[str, list[float]] = {}
    for name in cells:
        found = auroc(cells, name)
        for method, own in found.items():
            above = sum(other > own for other in found.values())
            level = sum(other == own for other in found.values())
            each.setdefault(method, []).append(above + (level + 1) / 2)
    return {method: fmean(found) for method, found in each.items()}


def against(cells: Cells, ours: str = "ours") -> dict[str, Against]:
    """Return other method -> how ours stands against it."""
    gaps: dict[str, dict[str, float]] = {}
    for name in cells:
        found = auroc(cells, name)
        own = found.pop(ours)
        for method, other in found.items():
            gaps.setdefault(method, {})[name] = own - other
    return {
        method: Against(
            sum(gap > LEVEL for gap in found.values()),
            sum(gap < -LEVEL for gap in found.values()),
            fmean(found.values()),
            min(found.items(), key=lambda pair: pair[1]),
        )
        for method, found in gaps.items()
    }


def best_other(cells: Cells, table: str, ours: str = "ours") -> tuple[str, float] | None:
    """Return the best other method on a table and its AUROC x 100; None if there is none."""
    found = auroc(cells, table)
    found.pop(ours, None)
    return max(found.items(), key=lambda pair: pair[1]) if found else None


def behind(cells: Cells, method: str, by: float, ours: str = "ours") -> dict[str, float]:
    """Return table -> difference, of the tables on which ours is behind a method by more."""
    gaps = {name: found[ours] - found[method] for name in cells for found in [auroc(cells, name)]}
    return {name: gap for name, gap in gaps.items() if gap < -by}
