"""How good, how new and how sharp generated pictures are; all pictures are (n, H, W) of 8 bits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lowerbound import noise

Pictures = NDArray[np.uint8]

FEATURES = 128  # of the classifier's last hidden layer
_BATCH = 128
_TOGETHER = 500  # pictures whose distances are computed together
_LAPLACE = torch.tensor([[[[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]]])


class Classifier(nn.Module):
    """Two convolutions and two linear layers over pictures of 28 x 28; what it sees, it tells."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 49, FEATURES), nn.ReLU()),
        )
        self.last = nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.seen(x))


def _unit(pictures: Pictures) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).float()[:, None] / 255


def classifier(
    pictures: Pictures, labels: NDArray[np.int64], epochs: int, seed: int
) -> Classifier:
    """Train a classifier: Adam, a learning rate that falls to 0 in a straight line."""
    with noise.isolated("classifier", seed):
        net = Classifier()
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        steps = epochs * (len(pictures) // _BATCH)
        fall = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
        for _ in range(epochs):
            order = torch.randperm(len(pictures)).numpy()
            for i in range(len(pictures) // _BATCH):
                chosen = order[i * _BATCH : (i + 1) * _BATCH]
                told = net(_unit(pictures[chosen]))
                optimiser.zero_grad()
                F.cross_entropy(told, torch.from_numpy(labels[chosen])).backward()
                optimiser.step()
                fall.step()
    return net.eval().requires_grad_(False)


def accuracy(net: Classifier, pictures: Pictures, labels: NDArray[np.int64]) -> float:
    """Return the share of pictures that get their label."""
    told = [net(_unit(part)).argmax(1).numpy() for part in _parts(pictures)]
    return float((np.concatenate(told) == labels).mean())


def features(net: Classifier, pictures: Pictures) -> NDArray[np.float64]:
    """Return what the classifier sees in every picture, (n, FEATURES)."""
    return np.concatenate([net.seen(_unit(part)).double().numpy() for part in _parts(pictures)])


def _parts(pictures: Pictures) -> list[Pictures]:
    return np.array_split(pictures, max(1, len(pictures) // _TOGETHER))


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the Frechet distance between the normals with the moments of two sets of features.

    |m - n|^2 + tr(A + B - 2 (A B)^1/2). The trace of the root is that of (A^1/2 B A^1/2)^1/2,
    whose matrix is symmetric: its eigenvalues are real, and those below 0 are rounding.

    References:
        Dowson & Landau, "The Frechet distance between multivariate normal distributions", 1982;
        Heusel et al., "GANs trained by a two time-scale update rule", 2017, with other features.
    """
    apart = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    both = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    return float(apart @ apart + np.trace(first) + np.trace(second) - 2 * np.sqrt(both).sum())


def to_nearest(pictures: Pictures, known: Pictures) -> NDArray[np.float64]:
    """Return the distance of every picture to its nearest known one, (n,) grey levels.

    The nearest is found in float32; its distance is then computed in whole numbers: 0 is a copy.
    """
    flat = [torch.from_numpy(x.reshape(len(x), -1).astype(np.float32)) for x in (pictures, known)]
    square = flat[1].square().sum(1)
    nearest = [
        torch.addmm(square, part, flat[1].T, alpha=-2).argmin(1)
        for part in flat[0].split(_TOGETHER)
    ]
    found = known[torch.cat(nearest).numpy()]
    apart = pictures.astype(np.int64) - found
    return np.sqrt(np.square(apart).reshape(len(apart), -1).sum(1))


class Newness(NamedTuple):
    """How far pictures are from those that were learned.

    Attributes:
        ratio: the median distance to the nearest learned picture over that of test pictures:
            about 1 for new pictures, 0 for copies.
        copies: the share that is a learned picture, bit by bit.
    """

    ratio: float
    copies: float


def newness(pictures: Pictures, known: Pictures, usual: NDArray[np.float64]) -> Newness:
    """Compare pictures with test ones, whose distances `to_nearest` are `usual`."""
    found = to_nearest(pictures, known)
    return Newness(float(np.median(found) / np.median(usual)), float((found == 0).mean()))


def sharpness(pictures: Pictures) -> float:
    """Return the mean over pictures of the variance of the Laplacian, of grey levels in [0, 1]."""
    edges = [F.conv2d(_unit(part), _LAPLACE).flatten(1).var(1) for part in _parts(pictures)]
    return float(torch.cat(edges).mean())


class Judge:
    """Measures pictures beside those of a test set.

    Args:
        net: the classifier whose features tell.
        known: the pictures that were learned.
        test: those that were not.
    """

    def __init__(self, net: Classifier, known: Pictures, test: Pictures) -> None:
        self.net, self.known = net, known
        self.seen, self.sharp = features(net, test), sharpness(test)
        self.usual = to_nearest(test, known)

    def alike(self, pictures: Pictures) -> float:
        """Return the Frechet distance to the test set."""
        return frechet(features(self.net, pictures), self.seen)

    def all_of(self, pictures: Pictures) -> dict[str, float]:
        """Return every measure; sharpness is a multiple of the test set's."""
        new = newness(pictures, self.known, self.usual)
        return {
            "frechet": self.alike(pictures),
            "nearest_ratio": new.ratio,
            "copies": new.copies,
            "sharpness": sharpness(pictures) / self.sharp,
        }
