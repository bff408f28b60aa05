"""Five measures of disentanglement, from 0 to 1: the match of single latents and single factors.

Each is the variant of `disentanglement_lib` (Locatello et al., "Challenging common assumptions in
the unsupervised learning of disentangled representations", 2019), with its sample sizes as
defaults, so that the numbers are comparable with that study. Differences from the original papers
are noted in the functions. Codes are the means E[z | x]. The results depend only on the codes and
the seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from lowerbound.errors import UsageError

Codes = NDArray[np.floating]
Factors = NDArray[np.integer]

BINS = 20
INACTIVE = 0.05  # standard deviation below which a code counts as constant
CHUNK = 8192  # rows encoded together


@dataclass(frozen=True)
class World:
    """Factors of variation, and the codes of a model for them.

    For a model and `reproductions.sprites.Sprites` it is ``World(sprites.sizes, lambda f:
    tasks.embed(model, subset(sprites, sprites.index(torch.from_numpy(f)))).numpy())``.

    Attributes:
        sizes: number of values of every factor.
        represent: (n, factors) values -> (n, d) codes.
    """

    sizes: Sequence[int]
    represent: Callable[[Factors], Codes]

    def draw(self, n: int, seed: int = 0) -> tuple[Codes, Factors]:
        """Return the codes, (n, d), and factors, (n, f), of n independent draws."""
        factors = self.values(np.random.default_rng(seed), n)
        return self.codes(factors), factors

    def values(self, source: np.random.Generator, *shape: int) -> Factors:
        """Return uniform draws of all factors, (*shape, f)."""
        return np.stack([source.integers(size, size=shape) for size in self.sizes], -1)

    def codes(self, factors: Factors) -> Codes:
        """Return the codes of factors, (n, f), computed in chunks."""
        parts = [self.represent(factors[i : i + CHUNK]) for i in range(0, len(factors), CHUNK)]
        return np.concatenate(parts)


def mutual_information_gap(codes: Codes, factors: Factors, bins: int = BINS) -> float:
    """Return the mean over factors of (largest - second largest MI with a code) / entropy.

    Codes are discretised into equal bins of their range. Chen et al. use the entropies of q(z | x)
    instead of its mean, and on dSprites only four factors, without the shape: their numbers are
    not comparable with these.

    References:
        Chen, Li, Grosse & Duvenaud, "Isolating sources of disentanglement in variational
        autoencoders", 2018, eq. 6.

    Args:
        codes: (n, d) means, d at least 2; 10,000 rows in the study.
        factors: (n, f); one that does not vary is left out.
        bins: the number of bins of each code.
    """
    codes, factors = _checked(codes, factors)
    edges = [np.histogram_bin_edges(code, bins)[:-1] for code in codes.T]
    cut = [np.digitize(code, edge) for code, edge in zip(codes.T, edges, strict=True)]
    gaps = []
    for factor in factors.T:
        shared = [mutual_info_score(code, factor) for code in cut]
        gaps.append(_gap(np.array(shared)) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def _gap(values: NDArray[np.floating]) -> float:
    """Return the largest minus the second largest value."""
    least, most = np.sort(values)[-2:]
    return float(most - least)


class Dci(NamedTuple):
    """Disentanglement, completeness, and informativeness (accuracy on held-out rows)."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(
    codes: Codes, factors: Factors, *, train: int = 10_000, test: int = 5_000, seed: int = 0
) -> Dci:
    """Return DCI from the importances of gradient-boosted trees, one classifier per factor.

    Disentanglement is 1 - entropy (to base f) of a code's importances over factors, averaged with
    the code's share of all importance as weight. Completeness is the same for a factor over codes
    (to base d). Eastwood and Williams use lasso or random forests, and report an error instead of
    the accuracy.

    References:
        Eastwood & Williams, "A framework for the quantitative evaluation of disentangled
        representations", 2018.

    Args:
        codes: (n, d) means.
        factors: (n, f); one that does not vary where it is learned is left out.
        train: the number of rows to train the trees on.
        test: the number of further rows to test them on.
        seed: of the trees.
    """
    codes, factors = _checked(codes, factors, train + test, train)
    importance, right = [], []
    for factor in factors.T:
        trees = GradientBoostingClassifier(random_state=seed)
        trees.fit(codes[:train], factor[:train])
        importance.append(np.abs(trees.feature_importances_))
        right.append(
            np.mean(trees.predict(codes[train : train + test]) == factor[train : train + test])
        )
    matrix = np.stack(importance, 1)  # (d, f)
    return Dci(_concentration(matrix), _concentration(matrix.T), float(np.mean(right)))


def _concentration(matrix: NDArray[np.floating]) -> float:
    """Return the mean over rows of 1 - entropy, each row weighted by its share of the whole."""
    if matrix.shape[1] == 1:
        return 1.0
    each = 1 - entropy(matrix.T + 1e-11, base=matrix.shape[1])
    total = matrix.sum()
    return float((each * matrix.sum(1)).sum() / total) if total else 0.0


def sap(
    codes: Codes, factors: Factors, *, train: int = 10_000, test: int = 5_000, seed: int = 0
) -> float:
    """Return the mean over factors of (best - second best accuracy of one code alone).

    Factors are classes, predicted from one code by a linear support-vector machine (C = 0.01,
    balanced classes). Even perfect codes score below 1: the second best code still reaches chance
    level, and a linear classifier cannot separate the inner ones of three or more classes. Kumar
    et al. use the R^2 of a linear regression for continuous factors.

    References:
        Kumar, Sattigeri & Balakrishnan, "Variational inference of disentangled latent concepts
        from unlabeled observations", 2018, section 3.

    Args:
        codes: (n, d) means, d at least 2.
        factors: (n, f); one that does not vary where it is learned is left out.
        train: the number of rows to train the machines on.
        test: the number of further rows to test them on.
        seed: of the machines.
    """
    codes, factors = _checked(codes, factors, train + test, train)
    gaps = []
    for factor in factors.T:
        scores = []
        for code in codes.T:
            machine = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
            with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
                machine.fit(code[:train, None], factor[:train])
            told = machine.predict(code[train : train + test, None])
            scores.append(np.mean(told == factor[train : train + test]))
        gaps.append(_gap(np.array(scores)))
    return float(np.mean(gaps))


class VoteScore(NamedTuple):
    """Accuracy of a classifier that predicts the fixed factor.

    Attributes:
        train: the accuracy on the training votes.
        test: the accuracy on further votes, which is the score.
        active: the number of codes that vary.
    """

    train: float
    test: float
    active: int


@dataclass(frozen=True)
class Votes:
    """Numbers of votes, and of rows per vote.

    Attributes:
        train: the number of votes to train the classifier on.
        test: the number of votes to test it on.
        batch: the number of rows per vote.
        variance: the number of rows for the global variances of `factor_vae`.
    """

    train: int = 10_000
    test: int = 5_000
    batch: int = 64
    variance: int = 10_000


def factor_vae(world: World, votes: Votes | None = None, seed: int = 0) -> VoteScore:
    """Return the accuracy of a majority vote by the code that varies least.

    One factor is fixed per vote and predicted from that code. Variances are relative to the
    global ones. Codes with a standard deviation below 0.05 do not vote and do not count as
    active; in `disentanglement_lib` all codes do.

    References:
        Kim & Mnih, "Disentangling by factorising", 2018, section 4.

    Args:
        world: the factors and the model.
        votes: sample sizes.
        seed: of all draws.
    """
    votes = votes or Votes()
    source = np.random.default_rng(seed)
    spread = world.codes(world.values(source, votes.variance)).var(0, ddof=1)
    active = np.flatnonzero(np.sqrt(spread) >= INACTIVE)
    if not len(active):
        return VoteScore(0.0, 0.0, 0)
    table = np.zeros((len(active), len(world.sizes)), np.int64)
    accuracy = []
    for count in (votes.train, votes.test):
        fixed, values = _with_one_fixed(world, source, count, votes.batch)
        local = _grouped(world, values).var(1, ddof=1)[:, active] / spread[active]
        least = local.argmin(1)
        if not accuracy:
            np.add.at(table, (least, fixed), 1)
        accuracy.append(float(np.mean(table.argmax(1)[least] == fixed)))
    return VoteScore(accuracy[0], accuracy[1], len(active))


def beta_vae(world: World, votes: Votes | None = None, seed: int = 0) -> VoteScore:
    """Return the accuracy of a linear classifier on mean |z - z'| over pairs that share a factor.

    References:
        Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational
        framework", 2017, section 3.

    Args:
        world: the factors and the model.
        votes: sample sizes; a vote takes `batch` pairs.
        seed: of all draws and of the classifier.
    """
    votes = votes or Votes()
    source = np.random.default_rng(seed)
    points, labels = [], []
    for count in (votes.train, votes.test):
        fixed, first = _with_one_fixed(world, source, count, votes.batch, shared=False)
        second = world.values(source, count, votes.batch)
        row = np.arange(count)
        second[row, :, fixed] = first[row, :, fixed]
        points.append(np.abs(_grouped(world, first) - _grouped(world, second)).mean(1))
        labels.append(fixed)
    classifier = LogisticRegression(random_state=seed, max_iter=1000)
    # Only the accuracy matters, not the convergence.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        classifier.fit(points[0], labels[0])
    scores = [classifier.score(p, fixed) for p, fixed in zip(points, labels, strict=True)]
    codes, _ = world.draw(votes.variance, seed)
    return VoteScore(scores[0], scores[1], int((codes.std(0, ddof=1) >= INACTIVE).sum()))


def _with_one_fixed(
    world: World, source: np.random.Generator, count: int, batch: int, *, shared: bool = True
) -> tuple[NDArray[np.int64], Factors]:
    """Return a factor for every vote, and values of all factors, (count, batch, f).

    If `shared`, that factor has the same value in all rows of the vote.
    """
    able = np.flatnonzero(np.asarray(world.sizes) > 1)
    if len(able) < 2:
        raise UsageError(
            "E240",
            f"the number of factors that vary must be at least 2, got {len(able)}",
            fix="a world of 2 factors or more",
        )
    fixed = able[source.integers(len(able), size=count)]
    values = world.values(source, count, batch)
    if shared:
        row = np.arange(count)
        values[row, :, fixed] = values[row, :1, fixed]
    return fixed, values


def _grouped(world: World, values: Factors) -> Codes:
    """Return the codes of (count, batch, f) values, (count, batch, d)."""
    return world.codes(values.reshape(-1, values.shape[-1])).reshape(*values.shape[:2], -1)


def _checked(
    codes: Codes, factors: Factors, rows: int = 2, learned: int | None = None
) -> tuple[Codes, Factors]:
    """Return codes and the factors that vary in the first `learned` rows (default all)."""
    if len(codes) != len(factors) or len(codes) < rows:
        raise UsageError(
            "E237",
            f"codes and factors must have equally many rows, at least {rows}, got {len(codes)} "
            f"and {len(factors)}",
            fix="give as many of both, or smaller train and test",
        )
    if codes.shape[1] < 2:
        raise UsageError(
            "E240",
            f"the number of latents must be at least 2, got {codes.shape[1]}",
            fix="a model of 2 latents or more",
        )
    factors = factors[:, (factors[:learned] != factors[:1]).any(0)]
    if not factors.shape[1]:
        raise UsageError(
            "E240",
            "the number of factors that vary must be at least 1, got 0",
            fix="draw the factors at random",
        )
    return codes, factors
