"""Labels: by a model that learned some, by labelled neighbours, or as a column of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported where they are first used
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowerbound.coding.base import Coded
from lowerbound.coding.rows import Batch, Dense, Rows
from lowerbound.tasks.draws import score
from lowerbound.tasks.expression import posterior_draws
from lowerbound.tasks.finite import using
from lowerbound.tasks.metrics import ONCE, TILE, by_tiles

NONE = "none of these"  # the label of cells that are unlike those of the training
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


def level_probabilities(
    model: nn.Module, coded: Coded, part: int, codes: Sequence[int], samples: int
) -> NDArray[np.float64]:
    """Return p(level | the other values of the row) for a column of a table, (n, levels).

    It is the density of the row with the level, divided by the sum over all levels. Each density
    is an importance sample of the same draws, whose errors mostly cancel.

    Args:
        model: a model of a table.
        coded: the rows; their own values of the column are not looked at.
        part: the place of the column in a coded row.
        codes: the codes of its levels.
        samples: draws of z for each density.
    """
    rows = coded.rows
    assert isinstance(rows, Dense), "rows of tables are dense"
    log_p = []
    for code in codes:
        x = rows.x.clone()
        x[:, part] = code
        put = Dense(x, rows.context)
        log_p.append(-score(model, put, samples, groups=coded.groups).double())
    return torch.stack(log_p, 1).softmax(1).numpy()


BINS = 10  # of probabilities, in which the calibration error is measured


@dataclass(frozen=True)
class WithoutLabels:
    """Rows of counts without their labels, as those of a query are.

    Args:
        rows: the rows, whose context ends with their labels.
        labels: number of labels.
    """

    rows: Rows
    labels: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def take(self, index: Tensor) -> Batch:
        """Return the rows at `index`, with 0 for every label."""
        x, context = self.rows.take(index)
        assert context is not None, "counts have a context"
        context = context.clone()
        context[:, context.shape[1] - self.labels :] = 0.0
        return Batch(x, context)


def label_logits(model: nn.Module, rows: Rows, draws: int = 25, seed: int = 0) -> Tensor:
    """Return log p(y | z) before normalisation for draws of z, (n, draws, labels).

    Labels that the cells have do not change the draws.

    Args:
        model: a model of counts that learned labels.
        rows: the cells.
        draws: draws of z from the posterior of each cell.
        seed: seed of the draws.
    """
    head: Any = model.get_submodule("likelihood")

    def work(batch: Batch) -> Tensor:
        found = posterior_draws(model, batch, draws, seed)
        return torch.stack([head.logits(z["z"]) for z in found], 1)

    with using(model):
        return by_tiles(model, WithoutLabels(rows, head.sizes[1]), work, TILE, ONCE)


def probabilities(logits: Tensor, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probability of each label, (n, labels): the mean over draws, at a temperature.

    Args:
        logits: (n, draws, labels).
        temperature: divides the logarithm of the mean. Draws of a broad posterior make the mean
            flat, which a temperature of each draw could not undo.
    """
    mean = logits.double().log_softmax(-1).logsumexp(1)
    return (mean / temperature).softmax(-1).numpy()


def tempered(logits: Tensor, labels: NDArray[np.int64]) -> float:
    """Return the likeliest temperature given held-out labels.

    Its logarithm has a standard normal prior, so that a few labels that are all right do not make
    the model sure of everything.

    References:
        Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", 2017,
        https://arxiv.org/abs/1706.04599

    Args:
        logits: (n, draws, labels) of the held-out cells.
        labels: (n,) their labels, from 0.
    """

    def nats(log_temperature: float) -> float:
        p = probabilities(logits, float(np.exp(log_temperature)))
        likely = np.log(p[np.arange(len(labels)), labels].clip(1e-12)).sum()
        return -float(likely) + log_temperature**2 / 2

    best: Any = scipy.optimize.minimize_scalar(nats, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(best.x))


def calibration_error(p: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the expected calibration error of the likeliest labels, from 0 to 1.

    It is the distance of confidence and accuracy, averaged over `BINS` of equally many cells.

    Args:
        p: (n, labels) probabilities.
        labels: (n,) the labels, from 0.
    """
    sure, right = p.max(1), p.argmax(1) == labels
    parts = np.array_split(np.argsort(sure, kind="stable"), min(BINS, len(sure)))
    far = [abs(sure[part].mean() - right[part].mean()) * len(part) for part in parts]
    return float(sum(far) / len(sure))
