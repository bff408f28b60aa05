"""Plots of a model and of rows, as matplotlib axes: `Model.plot`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound import optional
from lowerbound.columns.arrow import snippet
from lowerbound.errors import UsageError, nearest

ROWS = 10_000  # rows that a plot looks at, at most
_DRAWN = 2_000
_COLUMNS = 12  # of a plot of many columns
_LEVELS = 8
_BINS = 30
_ACROSS = 4  # plots of columns side by side
_BLUE, _ORANGE, _GREY = "#2f6fb3", "#c2570c", "#7a838c"


class Plots:
    """Plots of one model; each returns the matplotlib axes that it drew on.

    Args:
        model: the `Model`.
        figure: makes a figure of a size in inches, for plots that are given no axes; by default
            one of pyplot, which notebooks show.

    >>> import lowerbound, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> model = lowerbound.fit(x, preset="fast", max_epochs=1)
    >>> model.plot.scores(x).get_xlabel()
    'anomaly score, nats'
    """

    def __init__(
        self, model: Any, figure: Callable[[tuple[float, float]], Any] | None = None
    ) -> None:
        self._model, self._figure = model, figure or new_figure

    def _axes(self, ax: Any) -> Any:
        return self._figure((7.0, 4.5)).subplots() if ax is None else ax

    def scores(self, data: object, *, ax: Any = None) -> Any:
        """Draw the histogram of the anomaly scores of rows, with the threshold of the alarm.

        Args:
            data: rows: a path, a data frame, an array, ...; of more than 10,000, some are drawn
                at random.
            ax: axes to draw on; by default those of a new figure.
        """
        model, ax = self._model, self._axes(ax)
        frame = model.some(data, ROWS).frame
        scores = model.score_table(frame)[0]["anomaly_score"].to_numpy()
        threshold = model.alarm.threshold
        end = float(max(np.quantile(scores, 0.999), min(scores.max(), _finite(threshold))))
        edges = np.linspace(scores.min(), max(end, scores.min() + 1e-9), 61)
        for some, colour, label in (
            (scores <= threshold, _BLUE, "usual"),
            (scores > threshold, _ORANGE, "above the threshold"),
        ):
            ax.hist(scores[some].clip(max=end), edges, color=colour, label=label)
        if math.isfinite(threshold):
            ax.axvline(threshold, color="black", linestyle="--", linewidth=1)
        ax.set_yscale("symlog")
        flagged = float((scores > threshold).mean())
        ax.set(
            xlabel="anomaly score, nats",
            ylabel="rows",
            title=f"{flagged:.2%} of {len(scores):,} above the threshold",
        )
        ax.legend(frameon=False)
        return ax

    def calibration(self, data: object, *, ax: Any = None) -> Any:
        """Draw the share of rows whose p-value is below each level: the diagonal is right.

        Args:
            data: rows that the model did not learn from; of more than 10,000, some are drawn at
                random.
            ax: axes to draw on; by default those of a new figure.
        """
        model, ax = self._model, self._axes(ax)
        frame = model.some(data, ROWS).frame
        p = np.sort(model.score_table(frame)[0]["p_value"].to_numpy())
        ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, label="as it should be")
        # What chance allows, of these rows and of the held-out rows of the fit (95 %).
        level = np.linspace(0, 1, 101)
        known = max(1, len(model.calibration.scores))
        reach = 1.96 * np.sqrt(level * (1 - level) * (1 / len(p) + 1 / known))
        ax.fill_between(level, level - reach, level + reach, color=_GREY, alpha=0.2, linewidth=0)
        ax.step(
            p, np.arange(1, len(p) + 1) / len(p), where="post", color=_BLUE, label="these rows"
        )
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel="p-value",
            ylabel="share of rows with a lower one",
            title=f"p-values of {len(p):,} rows",
        )
        ax.legend(frameon=False, loc="upper left")
        return ax

    def embedding(self, data: object, *, color: str | None = None, ax: Any = None) -> Any:
        """Draw rows on the plane of the two main directions of their embedding.

        Args:
            data: rows; of more than 10,000, some are drawn at random.
            color: a column to colour the points by; by default the anomaly score.
            ax: axes to draw on; by default those of a new figure.

        Raises:
            UsageError: E203 if there is no such column.
        """
        model, ax = self._model, self._axes(ax)
        frame = model.some(data, ROWS, keep=() if color is None else (color,)).frame
        points = model.plane(frame)[0]
        if color is None:
            values: Any = model.score_table(frame)[0]["anomaly_score"].to_numpy()
        else:
            values = _column(frame, color)
        style = {"s": 6 if len(points) > 1500 else 14, "linewidths": 0, "alpha": 0.8}
        if isinstance(values, list):
            levels, counts = np.unique(values, return_counts=True)
            kept = [str(level) for level in levels[np.argsort(-counts)][:_LEVELS]]
            words = np.array([word if word in kept else "others" for word in values])
            for level in [*kept, *(["others"] if "others" in words else [])]:
                some = words == level
                ax.scatter(points[some, 0], points[some, 1], label=level, **style)
            ax.legend(title=color, frameon=False, markerscale=2, fontsize="small")
        else:
            finite = values[np.isfinite(values)]
            low, high = np.quantile(finite, [0.02, 0.98]) if len(finite) else (0.0, 1.0)
            drawn = ax.scatter(
                points[:, 0], points[:, 1], c=values, cmap="viridis", vmin=low, vmax=high, **style
            )
            ax.figure.colorbar(drawn, ax=ax, label=color or "anomaly score, nats")
        ax.set(xlabel="first direction", ylabel="second direction", xticks=[], yticks=[])
        ax.set_title(f"{len(points):,} rows as the model sees them")
        return ax

    def real_vs_drawn(
        self,
        data: object,
        *,
        columns: Sequence[str] | None = None,
        seed: int = 0,
        axes: Any = None,
    ) -> Any:
        """Draw the distribution of each column among the given rows and among drawn ones.

        Of cells, the mean count of every gene among drawn cells over that among the given ones.

        Args:
            data: rows; of more than 10,000, some are drawn at random.
            columns: names of columns; by default the first twelve.
            seed: of the draws.
            axes: one axes for each column; by default those of a new figure.

        Returns:
            An array of axes, one for each column; of cells, one axes.

        Raises:
            UsageError: E203 if there is no such column, E246 for a model of pictures.
        """
        model = self._model
        if model.holds == "pictures":
            raise UsageError(
                "E246",
                "real-vs-drawn compares columns, and a model of pictures has none",
                fix="lowerbound plot M.vae samples --out samples.png",
            )
        frame = model.some(data, ROWS).frame
        if model.holds == "cells":
            return self._genes(frame, seed, axes)
        real = model.canonical(frame)
        drawn = model.canonical(model.samples(min(_DRAWN, max(frame.rows, 100)), seed=seed).table)
        names = list(columns or real.column_names[:_COLUMNS])
        for name in names:
            if name not in real.column_names:
                raise _no_column(name, real.column_names)
        if axes is None:
            rows = math.ceil(len(names) / _ACROSS)
            across = min(_ACROSS, len(names))
            size = (3.2 * across, 2.4 * rows)
            axes = self._figure(size).subplots(rows, across, squeeze=False).flatten()
            for empty in axes[len(names) :]:
                empty.set_axis_off()
        axes = np.atleast_1d(axes)
        for ax, name in zip(axes, names, strict=False):
            _draw_pair(ax, name, real[name], drawn[name])
        axes[0].legend(frameon=False, fontsize="small")
        return axes[: len(names)]

    def _genes(self, frame: Any, seed: int, ax: Any) -> Any:
        model, ax = self._model, self._axes(ax)
        names = [column["name"] for column in model.columns]
        drawn = model.samples(min(500, max(frame.rows, 100)), seed=seed).table
        place = {name: i for i, name in enumerate(frame.columns)}
        matrix = frame.matrix.tocsc()
        known = [name for name in names if name in place and name in drawn.column_names]
        real = np.asarray(matrix[:, [place[name] for name in known]].mean(0)).ravel()
        made = np.array([float(np.mean(drawn[name].to_numpy())) for name in known])
        least = 0.5 / max(1, frame.rows)
        ax.loglog(real + least, made + least, ".", color=_BLUE, markersize=3, alpha=0.6)
        ends = [least, float(max(real.max(), made.max())) * 1.5 + least]
        ax.plot(ends, ends, color=_GREY, linewidth=1)
        ax.set(
            xlabel="mean count, given cells",
            ylabel="mean count, drawn cells",
            title=f"{len(known):,} genes",
        )
        return ax

    def latents(self, data: object, *, ax: Any = None) -> Any:
        """Draw which columns move with each latent: the darker, the more.

        Args:
            data: rows; of more than 10,000, some are drawn at random.
            ax: axes to draw on; by default those of a new figure.

        Returns:
            The axes. Of pictures, whose latents have no columns, it shows how much each varies.
        """
        model, ax = self._model, self._axes(ax)
        meanings = model.latent_meanings(model.some(data, ROWS).frame)
        columns: dict[str, float] = {}
        for meaning in meanings:
            for move in meaning.moves:
                columns[move.column] = max(columns.get(move.column, 0.0), abs(move.effect))
        names = [f"z{meaning.latent}" for meaning in meanings]
        if not columns:
            ax.bar(names, [meaning.spread for meaning in meanings], color=_BLUE)
            ax.set(xlabel="latent", ylabel="spread of E[z | x]", title="latents in use")
            return ax
        kept = sorted(columns, key=lambda name: -columns[name])[:20]
        effects = np.zeros((len(kept), len(names)))
        for at, meaning in enumerate(meanings):
            for move in meaning.moves:
                if move.column in kept:
                    effects[kept.index(move.column), at] = abs(move.effect)
        drawn = ax.imshow(effects, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(kept)), kept)
        ax.figure.colorbar(drawn, ax=ax, label="how strongly")
        ax.set(xlabel="latent", title="columns that move with each latent")
        return ax


def new_figure(size: tuple[float, float]) -> Any:
    """Return a new figure of pyplot, which notebooks show."""
    pyplot = optional.library("matplotlib.pyplot", "plots need", "plots")
    return pyplot.figure(figsize=size, layout="constrained")


def plane(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return points in the plane of the two largest principal components, (n, 2).

    Args:
        z: (n, latents) embeddings.

    Returns:
        The points, and the share of the variance that they show.
    """
    centred = z - z.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    if len(axes) < 2:  # a single latent: the other axis is empty
        axes = np.concatenate([axes, np.zeros((2 - len(axes), z.shape[1]))])
    # The sign of an axis is arbitrary: its largest weight is made positive.
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    points = centred @ (axes * np.where(signs == 0, 1, signs)[:, None])[:2].T
    power = sizes**2
    return points, float(power[:2].sum() / max(power.sum(), 1e-300))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _column(frame: Any, name: str) -> NDArray[np.float64] | list[str]:
    """Return a column of rows: numbers, or text."""
    known = frame.annotations
    if name in known.column_names:
        column = known[name]
    elif name in frame.names and hasattr(frame, "matrix"):
        return frame.matrix[:, list(frame.names).index(name)].toarray()[:, 0].astype(np.float64)
    else:
        raise _no_column(name, [*known.column_names, *frame.names])
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return ["missing" if each is None else str(each) for each in column.to_pylist()]


def _no_column(name: str, known: Sequence[str]) -> UsageError:
    near = nearest(name, known)
    return UsageError(
        "E203",
        f"there is no column {snippet(name)}",
        fix=f"did you mean {near!r}?" if near else "lowerbound info M.vae lists the columns",
        column=name,
    )


def _draw_pair(ax: Any, name: str, real: pa.ChunkedArray, drawn: pa.ChunkedArray) -> None:
    """Draw one column among given and among drawn rows."""
    if pa.types.is_floating(real.type) or pa.types.is_integer(real.type):
        both = [each.to_numpy(zero_copy_only=False).astype(np.float64) for each in (real, drawn)]
        both = [each[np.isfinite(each)] for each in both]
        every = np.concatenate(both)
        if len(every):
            low, high = np.quantile(every, [0.005, 0.995])
            edges = np.linspace(low, max(high, low + 1e-9), _BINS + 1)
            for values, colour, label in zip(
                both, (_BLUE, _ORANGE), ("real", "drawn"), strict=True
            ):
                if len(values):
                    weights = np.full(len(values), 100 / len(values))
                    style: dict[str, Any] = {"weights": weights, "color": colour, "label": label}
                    ax.hist(values.clip(low, high), edges, histtype="step", **style)
        ax.set_ylabel("%")
    else:
        words = [
            ["missing" if w is None else w for w in each.to_pylist()] for each in (real, drawn)
        ]
        levels, counts = np.unique(words[0], return_counts=True)
        kept = [str(level) for level in levels[np.argsort(-counts)][:_LEVELS]]
        for shift, some, colour, label in (
            (-0.2, words[0], _BLUE, "real"),
            (0.2, words[1], _ORANGE, "drawn"),
        ):
            shares = [100 * sum(w == level for w in some) / max(1, len(some)) for level in kept]
            ax.barh(np.arange(len(kept)) + shift, shares, 0.4, color=colour, label=label)
        ax.set_yticks(range(len(kept)), [level[:18] for level in kept], fontsize="small")
        ax.invert_yaxis()
        ax.set_xlabel("%")
    ax.set_title(name[:30], fontsize="medium")
