"""The meaning of each latent: how rows at its low end differ from rows at its high end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

END = 0.1  # share of the rows at each end of a latent
FEWEST = 20  # rows at each end, where there are as many
_NAMED = 5  # columns of a latent that are told
_IDLE = 0.1  # standard deviation of E[z | x] below which a latent is not in use
_LEAST = 0.15  # effect below which a column does not move
_EXPRESSED = 1e4  # counts of a cell that expressions are told for


class Move(NamedTuple):
    """A column that differs between the two ends of a latent.

    Attributes:
        column: its name.
        effect: how well its values tell the two ends apart: 0 not at all, 1 perfectly; negative
            for a number that is lower at the high end.
        low: its typical value at the low end, as text.
        high: its typical value at the high end.
    """

    column: str
    effect: float
    low: str
    high: str


class LatentMeaning(NamedTuple):
    """A latent dimension and the columns that change with it.

    Attributes:
        latent: its index.
        spread: standard deviation of E[z | x] over the rows; 0 is not in use, 1 is the most.
        nats: mean information that it carries about a row; None if it has no closed form.
        moves: the columns that differ most between its two ends.
    """

    latent: int
    spread: float
    nats: float | None
    moves: tuple[Move, ...]


def latent_meanings(
    z: NDArray[np.floating],
    values: pa.Table | Any,
    names: Sequence[str],
    rates: Sequence[float | None] = (),
    most: int = 12,
) -> list[LatentMeaning]:
    """Return the meaning of the latents in use, those that vary most first.

    Args:
        z: (n, latents) the posterior means of rows.
        values: the same rows: a table of `Schema.canonical`, or a CSR matrix of counts.
        names: of the columns.
        rates: the mean KL of each latent, nats, where it is known.
        most: number of latents to tell at most.
    """
    compare = _of_table(values) if isinstance(values, pa.Table) else _of_counts(values, names)
    spread = z.std(0)
    size = min(len(z) // 2, max(FEWEST, round(END * len(z))))
    found = []
    for j in np.argsort(-spread, kind="stable")[:most]:
        if spread[j] < _IDLE or size < 1:
            break
        order = np.argsort(z[:, j], kind="stable")
        moves = compare(order[:size], order[-size:])
        nats = rates[j] if j < len(rates) else None
        found.append(LatentMeaning(int(j), float(spread[j]), nats, tuple(moves[:_NAMED])))
    return found


Compare = Callable[[NDArray[np.int64], NDArray[np.int64]], list[Move]]


def _of_table(table: pa.Table) -> Compare:
    columns: Mapping[str, Any] = {
        name: _numbers(column) if _is_number(column.type) else _labels(column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }

    def compare(low: NDArray[np.int64], high: NDArray[np.int64]) -> list[Move]:
        moves = []
        for name, (values, words) in columns.items():
            ends = values[low], values[high]
            move = _number(name, *ends) if words is None else _category(name, *ends, words)
            if move is not None and abs(move.effect) >= _LEAST:
                moves.append(move)
        return sorted(moves, key=lambda move: -abs(move.effect))

    return compare


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], None]:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64), None


def _labels(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    coded = column.cast(pa.string()).combine_chunks().fill_null("missing").dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(
        np.int64
    ), coded.dictionary.to_pylist()


def _number(name: str, low: NDArray[np.float64], high: NDArray[np.float64]) -> Move | None:
    """Return the move of a number: 2 AUC - 1, with the medians of both ends."""
    low, high = low[np.isfinite(low)], high[np.isfinite(high)]
    if not (len(low) and len(high)):
        return None
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    effect = float(below.mean() / len(low) - 1.0)
    return Move(name, effect, *(_spelled(float(np.median(end))) for end in (low, high)))


def _spelled(value: float) -> str:
    """Return a number as short text; large ones with commas."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _category(
    name: str, low: NDArray[np.int64], high: NDArray[np.int64], words: Sequence[str]
) -> Move | None:
    """Return the move of a category: total variation, with the commonest level of both ends."""
    shares = [np.bincount(end, minlength=len(words)) / len(end) for end in (low, high)]
    effect = float(np.abs(shares[0] - shares[1]).sum() / 2)
    # If both ends have the same commonest level, the level that changes most says more.
    tops = [int(share.argmax()) for share in shares]
    if tops[0] == tops[1]:
        tops = [int(np.abs(shares[1] - shares[0]).argmax())] * 2
    told = (f"{words[top]} ({share[top]:.0%})" for top, share in zip(tops, shares, strict=True))
    return Move(name, effect, *told)


def _of_counts(matrix: Any, names: Sequence[str]) -> Compare:
    """Compare counts by the expression for a total of 10,000, on a logarithmic scale."""
    totals = np.maximum(np.asarray(matrix.sum(1)).ravel(), 1.0)

    def expression(rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        some = matrix[rows].multiply(_EXPRESSED / totals[rows][:, None]).tocsr()
        mean = np.asarray(some.mean(0)).ravel()
        some.data = np.log1p(some.data)
        centre = np.asarray(some.mean(0)).ravel()
        spread = np.asarray(some.multiply(some).mean(0)).ravel() - centre**2
        return np.stack([mean, centre]), np.maximum(spread, 0.0)

    def compare(low: NDArray[np.int64], high: NDArray[np.int64]) -> list[Move]:
        (a, spread_a), (b, spread_b) = expression(low), expression(high)
        # The difference in pooled standard deviations, squeezed into -1 to 1.
        size = (b[1] - a[1]) / np.sqrt((spread_a + spread_b) / 2 + 0.05)
        effect = np.tanh(size / 2)
        order = np.argsort(-np.abs(effect), kind="stable")[: 2 * _NAMED]
        return [
            Move(str(names[g]), float(effect[g]), f"{a[0][g]:.3g}", f"{b[0][g]:.3g}")
            for g in order
            if abs(effect[g]) >= _LEAST
        ]

    return compare
