"""Sliders over latents: what each stands for, its range, and the row or picture that it draws."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.errors import LowerboundError, UsageError
from lowerbound.web.explore.columns import spelled_date

_MOST = 12  # sliders
_FEW = 64  # latents of a picture; of more, one alone hardly changes it
_LOOKED_AT = 20_000
_DIRECTED = 1_000  # rows that give the main directions
_GENES = 30  # of a cell that are told
_REACH = 1.5  # how far a slider reaches beyond the range of 96 % of the rows

Floats = NDArray[np.floating]


def described(model: Any, sample: Any, z: Floats, seed: int) -> dict[str, Any]:
    """Return the sliders of a model, as plain JSON values.

    Args:
        model: a `lowerbound.Model`.
        sample: a few rows, as every method of the model takes them.
        z: (n, latents) posterior means of all rows.
        seed: of the rows whose latents give the ranges.

    Returns:
        ``centre``, and ``sliders``: each with its name, its direction among the latents, its range
        of offsets from the centre, and the columns that move with it; or ``refused``, why there
        are none.
    """
    places = np.sort(np.random.default_rng(seed).permutation(len(z))[:_LOOKED_AT])
    some = np.asarray(z[places], np.float64)
    centre = some.mean(0)
    try:
        model.decode_latents(centre[None])
        if model.holds == "pictures" and z.shape[1] > _FEW:
            sliders = _directions(some - centre)
        else:
            dates = {each["name"] for each in model.columns if each["kind"] == "datetime"}
            meanings = model.latent_meanings(sample, most=_MOST)
            sliders = _single(meanings, some - centre, dates if model.holds == "table" else ())
    except LowerboundError as error:
        return _none(error.message)
    except (RuntimeError, ValueError):  # codes: there is nothing between two of them
        return _none("the latents of this model cannot be moved one by one")
    if not sliders:
        return _none("no latent is in use")
    return {"centre": centre.tolist(), "sliders": sliders}


def _none(why: str) -> dict[str, Any]:
    return {"refused": why, "sliders": [], "centre": []}


def _single(
    meanings: Sequence[Any], offsets: Floats, dates: Collection[str]
) -> list[dict[str, Any]]:
    """Return a slider for each latent in use; `dates` are columns whose values are seconds."""
    found = []
    for meaning in meanings:
        low, high = np.quantile(offsets[:, meaning.latent], [0.02, 0.98]) * _REACH
        if high - low < 1e-9:
            continue
        found.append(
            {
                "name": f"z{meaning.latent}",
                "axis": {str(meaning.latent): 1.0},
                "low": float(low),
                "high": float(high),
                "spread": meaning.spread,
                "nats": meaning.nats,
                "moves": [
                    move._asdict()
                    | (
                        {end: spelled_date(getattr(move, end)) for end in ("low", "high")}
                        if move.column in dates
                        else {}
                    )
                    for move in meaning.moves
                ],
            }
        )
    return found


def _directions(offsets: Floats) -> list[dict[str, Any]]:
    """Return a slider for each of the main directions of all latents together."""
    some = offsets[:: max(1, len(offsets) // _DIRECTED)]
    _, sizes, axes = np.linalg.svd(some, full_matrices=False)
    found = []
    for rank, axis in enumerate(axes[:_MOST]):
        spread = float(sizes[rank] / np.sqrt(len(some)))
        if spread < 1e-9:
            break
        found.append(
            {
                "name": f"direction {rank + 1}",
                "axis": {str(j): float(w) for j, w in enumerate(axis)},
                "low": -2.5 * spread,
                "high": 2.5 * spread,
                "spread": spread,
                "nats": None,
                "moves": [],
            }
        )
    return found


class Sliders:
    """Rows and pictures that sliders stand for.

    Args:
        model: a `lowerbound.Model`.
        about: what `described` returned.
        latent: number of latents.
    """

    def __init__(self, model: Any, about: Mapping[str, Any], latent: int) -> None:
        self.model, self.refused = model, about.get("refused", "")
        self.centre = np.asarray(about["centre"], np.float64)
        self.axes = np.zeros((len(about["sliders"]), latent))
        for row, slider in zip(self.axes, about["sliders"], strict=True):
            for place, weight in slider["axis"].items():
                row[int(place)] = weight
        self._middle: pa.Table | None = None

    def of(self, z: Floats) -> list[float]:
        """Return where the sliders stand for the latents of a row, (latents,)."""
        if self.refused:
            return []
        return (self.axes @ (np.asarray(z, np.float64) - self.centre)).tolist()

    def _latents(self, offsets: Sequence[float], base: Floats | None) -> Floats:
        """Return latents: those of a row in every direction that has no slider."""
        if self.refused:
            raise UsageError("E255", self.refused)
        if len(offsets) != len(self.axes):
            raise UsageError(
                "E231",
                f"there are {len(self.axes)} sliders, got {len(offsets)} values",
                fix="reload the page",
            )
        moved = np.asarray(offsets, np.float64) @ self.axes
        if base is None:
            return self.centre + moved
        rest = np.asarray(base, np.float64) - self.centre
        return self.centre + moved + rest - (self.axes @ rest) @ self.axes

    def table(self, offsets: Sequence[float], base: Floats | None) -> list[dict[str, Any]]:
        """Return the row that the sliders stand for: names and values.

        Args:
            offsets: a value for each slider.
            base: (latents,) of the row that they started from, or None.

        Raises:
            UsageError: E231 for another number of values, E255 for a model without sliders.
        """
        z = self._latents(offsets, base)
        decoded = self.model.decode_latents(z[None])
        if self.model.holds == "cells":
            return self._genes(decoded)
        row = decoded.to_pylist()[0]
        return [{"name": name, "value": _spelled(value)} for name, value in row.items()]

    def picture(self, offsets: Sequence[float], base: Floats | None) -> NDArray[np.uint8]:
        """Return the picture that the sliders stand for, (H, W, C); see `table`."""
        decoded = self.model.decode_latents(self._latents(offsets, base)[None])
        return self.model.shown(self.model.as_fitted(decoded))[0]

    def _genes(self, decoded: pa.Table) -> list[dict[str, Any]]:
        """Return the genes that differ most from the cell in the middle."""
        usual, names = self._middle, decoded.column_names
        if usual is None:
            self._middle = usual = self.model.decode_latents(self.centre[None])
        now = np.array([float(decoded[name][0].as_py() or 0) for name in names])
        middle = np.array([float(usual[name][0].as_py() or 0) for name in names])
        change = np.log2((now + 0.1) / (middle + 0.1))
        weight = np.abs(change) * np.sqrt(np.maximum(now, middle))
        order = np.argsort(-weight, kind="stable")[:_GENES]
        return [
            {"name": names[g], "value": f"{now[g]:.3g}", "middle": f"{middle[g]:.3g}"}
            for g in order
        ]


def _spelled(value: Any) -> str:
    if value is None:
        return "missing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
