"""Latents in two dimensions, for a map: UMAP of some rows, and all others among them; or PCA."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.optional import library

FITTED = 20_000  # rows that UMAP is fitted on
FEWEST = 50  # rows below which there are too few neighbours for UMAP
_NEIGHBOURS = 15
_EPOCHS = 200
_BESIDE = 5  # fitted rows that another row is placed among
_DIRECTIONS = 50  # directions of the latents that distances are measured in
_WIDE, _FEWER = 256, 2_000  # latents of which fewer rows give the directions, and how many
_GROUP = 64  # fitted rows of which the nearest is found first
_AT_ONCE = 256  # rows whose distances to all fitted rows are held
_PROJECTED = 1 << 16
_EDGE = 0.0005  # share of the rows at each end of an axis that lie on the edge of the map

Progress = Callable[[float], None]
Floats = NDArray[np.float32]


class Plane(NamedTuple):
    """Rows in two dimensions.

    Attributes:
        points: (n, 2), from -1 to 1.
        by: "umap" or "pca".
        fitted: number of rows that UMAP was fitted on; 0 for PCA.
        explained: share of the variance of the latents that a map by PCA shows; 0 for UMAP.
    """

    points: Floats
    by: str
    fitted: int = 0
    explained: float = 0.0


def has_umap() -> bool:
    """Return whether UMAP is installed; it is not imported."""
    return importlib.util.find_spec("umap") is not None


def plane(z: Floats, by: str, seed: int, progress: Progress = lambda share: None) -> Plane:
    """Place rows on a map.

    Args:
        z: (n, latents) posterior means; may be a memory-mapped file.
        by: "umap" or "pca"; fewer than `FEWEST` rows are placed by PCA.
        seed: of the rows that UMAP is fitted on, and of UMAP itself.
        progress: is told the share that is done.

    Raises:
        ResourceError: E310 if UMAP is not installed.
    """
    centre, axes, shares = _directions(z, seed)
    if by == "pca" or len(z) < FEWEST:
        points = np.empty((len(z), 2), np.float32)
        for some in _parts(len(z), _PROJECTED):
            points[some] = (z[some] - centre) @ axes[:2].T
            progress(some.stop / len(z))
        return Plane(_framed(points), "pca", explained=float(shares[:2].sum()))
    umap = library("umap", "maps by UMAP need", "explore")
    reduced = axes if len(axes) < z.shape[1] else None
    known = np.sort(np.random.default_rng(seed).permutation(len(z))[:FITTED])
    base = _reduced(z[known], centre, reduced)
    placed = _umap(umap, base, seed)
    progress(0.2)
    points = np.empty((len(z), 2), np.float32)
    for some in _parts(len(z), _PROJECTED):
        part = _reduced(z[some], centre, reduced)
        points[some] = _among(part, base, placed)
        progress(0.2 + 0.8 * some.stop / len(z))
    points[known] = placed
    return Plane(_framed(points), "umap", fitted=len(known))


def _parts(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _directions(z: Floats, seed: int) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Return the mean of latents, their main directions, and the share of variance of each."""
    most = FITTED if z.shape[1] <= _WIDE else _FEWER
    rows = np.sort(np.random.default_rng(seed).permutation(len(z))[:most])
    some = np.asarray(z[rows], np.float64)
    centre = some.mean(0)
    _, sizes, axes = np.linalg.svd(some - centre, full_matrices=False)
    if len(axes) < 2:  # a single latent, or a single row: the other axis is empty
        axes = np.concatenate([axes, np.zeros((2 - len(axes), z.shape[1]))])
        sizes = np.append(sizes, np.zeros(2 - len(sizes)))
    axes = axes[:_DIRECTIONS]
    # The sign of an axis is arbitrary: its largest weight is made positive.
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    axes = axes * np.where(signs == 0, 1, signs)[:, None]
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-300)
    return centre.astype(np.float32), axes.astype(np.float32), shares


def _reduced(z: Floats, centre: Floats, axes: Floats | None) -> Floats:
    found = z - centre if axes is None else (z - centre) @ axes.T
    return np.ascontiguousarray(found, np.float32)


def nearest(x: Floats, among: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the nearest rows of `among` to each row of `x`, and their distances, (n, count).

    The distances to all rows are computed. The nearest of each group of rows are found first: the
    nearest `count` rows lie in the `count` groups whose nearest row is nearest.

    Args:
        x: (n, d) rows.
        among: (m, d) rows, at least `count`.
        count: number of neighbours.
    """
    base = torch.from_numpy(among)
    spare = -len(base) % _GROUP
    far = torch.full((spare, base.shape[1]), 1e9)
    padded = torch.cat([base, far])
    while len(padded) < count * _GROUP:
        padded = torch.cat([padded, far.new_full((_GROUP, base.shape[1]), 1e9)])
    squares = padded.square().sum(1)
    columns = padded.T.contiguous()
    places, distances = [], []
    for part in torch.from_numpy(np.ascontiguousarray(x)).split(_AT_ONCE):
        squared = torch.addmm(squares, part, columns, alpha=-2.0)
        groups = squared.view(len(part), -1, _GROUP)
        chosen = groups.amin(2).topk(count, 1, largest=False).indices
        inside = groups.gather(1, chosen[..., None].expand(-1, -1, _GROUP)).flatten(1)
        best = inside.topk(count, 1, largest=False).indices
        found = chosen.gather(1, best // _GROUP) * _GROUP + best % _GROUP
        # The differences: squares of large latents cancel.
        exact = (padded[found] - part[:, None]).square().sum(2).sqrt()
        exact, order = exact.sort(stable=True, dim=1)
        places.append(found.gather(1, order).numpy())
        distances.append(exact.numpy())
    return np.concatenate(places), np.concatenate(distances)


def _umap(umap: Any, base: Floats, seed: int) -> Floats:
    """Return the places of rows by UMAP, the same in every run.

    Its neighbours are computed here: those of UMAP take a minute to compile.
    """
    count = min(_NEIGHBOURS, len(base) - 1)
    known = nearest(base, base, count)
    start = (base @ np.linalg.svd(base, full_matrices=False)[2][:2].T).astype(np.float32)
    if start.shape[1] < 2:
        start = np.concatenate([start, np.zeros_like(start)], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = umap.UMAP(
            n_components=2,
            n_neighbors=count,
            n_epochs=_EPOCHS,
            init=start / max(float(np.abs(start).max()), 1e-12) * 10,
            precomputed_knn=(known[0].astype(np.int32), known[1], None),
            force_approximation_algorithm=True,
            random_state=seed,
            n_jobs=1,
        )
        return np.asarray(made.fit_transform(base), np.float32)


def _among(x: Floats, base: Floats, placed: Floats) -> Floats:
    """Return the places of rows: the mean of those of the nearest fitted rows."""
    places, distances = nearest(x, base, min(_BESIDE, len(base)))
    weights = 1.0 / (distances + 1e-6 * (1.0 + distances[:, -1:]))
    weights /= weights.sum(1, keepdims=True)
    return (placed[places] * weights[..., None]).sum(1)


def _framed(points: Floats) -> Floats:
    """Return points from -1 to 1; the few that are far out lie on the edge."""
    some = points[:: max(1, len(points) // 1_000_000)]
    low, high = np.quantile(some, [_EDGE, 1 - _EDGE], axis=0)
    half = np.maximum((high - low) / 2 * 1.05, 1e-12)
    return np.clip((points - (low + high) / 2) / half, -1, 1).astype(np.float32)
