"""Classical detectors on NumPy and scikit-learn, with PyOD's default settings and semantics.

Every method is a function (X_train, X_test, seed) -> scores, higher = more anomalous.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import skew
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from lowerbound.coding.tables import TableCoding
from lowerbound.files.read import read


def knn(X_train, X_test, seed):
    """Distance to the fifth neighbour."""
    neighbours = NearestNeighbors(n_neighbors=5).fit(X_train)
    return neighbours.kneighbors(X_test)[0][:, -1]


def knn_coded(X_train, X_test, seed):
    """The same on our coding of the columns: what the coding alone is worth."""
    coding = TableCoding.fit(read(X_train), types={}, drop=(), transform="blend")
    parts = [coding.encode(read(X)) for X in (X_train, X_test)]
    train, test = (part.rows.x.nan_to_num().numpy() for part in parts)
    return knn(train, test, seed)


def lof(X_train, X_test, seed):
    """Local outlier factor of new rows, twenty neighbours."""
    return -LocalOutlierFactor(n_neighbors=20, novelty=True).fit(X_train).score_samples(X_test)


def iforest(X_train, X_test, seed):
    """One hundred isolation trees of at most 256 rows each."""
    return -IsolationForest(n_estimators=100, random_state=seed).fit(X_train).score_samples(X_test)


def ocsvm(X_train, X_test, seed):
    """One-class support vectors, radial kernel with gamma = 1/d and nu = 1/2."""
    machine = OneClassSVM(kernel="rbf", gamma="auto", nu=0.5, cache_size=1000)
    return -machine.fit(X_train).decision_function(X_test)


def pca(X_train, X_test, seed):
    """Sum over components of the distance to the component, divided by its variance share."""
    scaler = StandardScaler().fit(X_train)
    model = PCA(svd_solver="full").fit(scaler.transform(X_train))
    keep = model.explained_variance_ratio_ > 1e-12  # a null direction would divide by zero
    weight = 1.0 / model.explained_variance_ratio_[keep]
    chunks = pairwise_distances_chunked(scaler.transform(X_test), model.components_[keep])
    return np.concatenate([chunk @ weight for chunk in chunks])


def _tail(sorted_column, column):
    """-log of the share of rows at or below each value."""
    return -np.log(np.searchsorted(sorted_column, column, side="right") / len(sorted_column))


def ecod(X_train, X_test, seed):
    """Empirical tail probabilities per column; the test rows join the empirical distribution."""
    everything = np.concatenate([X_train, X_test])
    scores = np.zeros(len(X_test))
    for j in range(everything.shape[1]):
        column, new = everything[:, j], X_test[:, j]
        left = _tail(np.sort(column), new)
        right = _tail(np.sort(-column), -new)
        side = np.sign(np.nan_to_num(skew(column)))
        skewed = -left * np.sign(side - 1) + right * np.sign(side + 1)
        scores += np.maximum(skewed, np.maximum(left, right))
    return scores


def znorm(X_train, X_test, seed):
    """Squared distance to the mean in standard units: what the paper's VAE column amounts to."""
    return np.square(X_test).sum(axis=1)


BASELINES = {
    "KNN": knn,
    "KNN, our coding": knn_coded,
    "LOF": lof,
    "IForest": iforest,
    "OCSVM": ocsvm,
    "PCA": pca,
    "ECOD": ecod,
    "ZNorm": znorm,
}
DETERMINISTIC = frozenset(BASELINES) - {"IForest"}
