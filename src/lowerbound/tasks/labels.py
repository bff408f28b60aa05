"""Transfer labels from labelled cells to others, by their neighbours in latent space."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 15
LEVEL = 0.05  # p-value at or below which a cell has none of the labels


class Transferred(NamedTuple):
    """Labels of cells.

    Attributes:
        label: (n,) the likeliest label, None for none of these.
        probability: (n,) its share among the neighbours, the nearest of which count most.
        p_value: (n,) how usual a cell is that far from the labelled ones.
    """

    label: NDArray[np.object_]
    probability: NDArray[np.float64]
    p_value: NDArray[np.float64]


def transferred(
    reference: NDArray[np.floating],
    labels: NDArray[np.object_],
    query: NDArray[np.floating],
    *,
    neighbours: int = NEIGHBOURS,
    level: float = LEVEL,
) -> Transferred:
    """Return the labels of cells by their nearest labelled neighbours.

    A cell has none of the labels where it is further from the labelled cells than all but a share
    `level` of these are from each other: its conformal p-value, of the mean distance to the
    neighbours, is at most `level`. Of cells like the labelled ones, a share `level` is so, too.

    Args:
        reference: (m, latent) embedding of the labelled cells.
        labels: (m,) their labels, None where there is none.
        query: (n, latent) embedding of the others.
        neighbours: number of neighbours.
        level: share of cells like the labelled ones that get no label.
    """
    known = np.array([label is not None for label in labels])
    cells, names = reference[known], labels[known]
    levels, codes = np.unique(names.astype(str), return_inverse=True)
    count = min(neighbours, len(cells) - 1)
    nearest = import_module("sklearn.neighbors").NearestNeighbors(n_neighbors=count).fit(cells)
    own = np.sort(nearest.kneighbors()[0].mean(1))
    far, at = nearest.kneighbors(query)
    # As many labelled cells or more are as far from the others, and the cell itself.
    beyond = len(own) - np.searchsorted(own, far.mean(1), side="left")
    p = (1 + beyond) / (1 + len(own))
    width = np.maximum(far[:, -1:], 1e-12)
    weight = np.exp(-0.5 * (far / width) ** 2)
    votes = np.zeros((len(query), len(levels)))
    for rank in range(count):
        votes[np.arange(len(query)), codes[at[:, rank]]] += weight[:, rank]
    votes /= votes.sum(1, keepdims=True)
    best = votes.argmax(1)
    label = levels[best].astype(object)
    label[p <= level] = None
    return Transferred(label, votes[np.arange(len(query)), best], p)
