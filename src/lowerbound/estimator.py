"""VAE, the scikit-learn estimator.

>>> import numpy as np
>>> X = np.random.default_rng(0).normal(size=(200, 3))
>>> vae = VAE(latent=2, max_epochs=2).fit(X)
>>> vae.anomaly_score(X).shape, vae.transform(X).shape
((200,), (200, 2))
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from lowerbound.errors import DataError, UsageError
from lowerbound.files import containers
from lowerbound.files.data import Whole
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import Recipe
from lowerbound.tasks.calibration import Alarm
from lowerbound.tasks.explain import explain
from lowerbound.tasks.trained import Model
from lowerbound.training.callbacks import Callback, checked_callbacks
from lowerbound.training.fit import learn
from lowerbound.training.plan import Plan, with_covariates

RandomState = int | np.random.RandomState | None


class VAE(OutlierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A variational autoencoder for tables: anomaly scores, embeddings, samples, imputations.

    It estimates log p(row) of rows with numbers, categories, dates and missing values; all other
    results are derived from this density. Data frames, Arrow tables, paths, arrays and sparse
    matrices are accepted, and results have the type of the input. The columns of a data frame are
    matched by name: their order does not matter, and unknown columns are ignored.

    `score_samples`, `decision_function` and `predict` have scikit-learn's sign (higher is more
    normal); `anomaly_score` has the opposite sign. They use the density of the coded row, in which
    every column has the same scale; `score` and `evaluate` use the density of the raw values.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, https://arxiv.org/abs/1312.6114

    Args:
        recipe: the model: "table", "gaussian", "beta", "sigma", "iaf", "ladder", "binary" or
            "counts"; for arrays of pictures, (n, H, W) with or without channels, "conv",
            "conv_ladder", "nvae", "vqvae" or "vqvae2"; or a recipe of your own.
        settings: arguments of the recipe and of the objective (beta, free_bits), by name.
        preset: "fast", "balanced" or "best".
        latent: size of z; None for a default that depends on the data, "auto" for the number of
            dimensions in use.
        types: kinds of columns, {column: kind}; the kinds of other columns are inferred.
        batch: names of columns of levels that the model is conditional on, such as the donor of
            a cell; for the recipe counts.
        covariates: names of columns of numbers that the model is conditional on.
        labels: name of a column of labels that some rows have, see `lowerbound.fit`.
        drop: names of columns to leave out.
        scaling: scaling of numbers: "standard", "quantile", or "blend" (the mean of both).
        alarm_rate: share of normal rows that `predict` may label as outliers.
        max_epochs: largest number of epochs; None for that of the preset.
        time_limit: largest time of the whole fit, in seconds or as text such as "10m"; None for no
            limit.
        learning_rate: largest learning rate of Adam; None for that of the preset.
        random_state: an integer for reproducible results, a ``RandomState``, or None for
            different results every time. The global random state is neither read nor changed.
        device: "cpu", "cuda", ...; None for a GPU if there is one.
        precision: precision of matrix products in training, "float32" or "bfloat16".
        callbacks: functions that are called after every check on the held-out rows, as those of
            `lowerbound.fit`; the fit ends if one returns True. None for no callbacks.

    Attributes:
        trained_: the `lowerbound.Model` of the estimator.
        offset_: `decision_function` is `score_samples` minus this.
        alarm_: the threshold on `anomaly_score`, with the false-alarm rate that it gives; with
            few rows it differs from `alarm_rate`, and ``trained_.alarm_doubt`` says why.
        health_: measurements of the model and the verdict on it.
        history_: the history of the training.
        latent_: the size of z.
        n_features_in_: number of columns (or pixels) seen in `fit`.
        feature_names_in_: names of the columns seen in `fit`, if they have names.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn requires every option to be a named parameter
        self,
        recipe: str | Recipe | Callable[..., LatentModel] = Plan.recipe,
        *,
        settings: Mapping[str, Any] | None = None,
        preset: str = Plan.preset,
        latent: int | str | None = None,
        types: Mapping[str, str] | None = None,
        batch: str | Sequence[str] | None = None,
        covariates: str | Sequence[str] | None = None,
        labels: str | None = None,
        drop: Sequence[str] | None = None,
        scaling: str = Plan.transform,
        alarm_rate: float | str = Plan.alarm_rate,
        max_epochs: int | None = None,
        time_limit: float | str | None = None,
        learning_rate: float | None = None,
        random_state: RandomState = Plan.seed,
        device: str | None = None,
        precision: str = Plan.precision,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.preset = preset
        self.latent = latent
        self.types = types
        self.batch = batch
        self.covariates = covariates
        self.labels = labels
        self.drop = drop
        self.scaling = scaling
        self.alarm_rate = alarm_rate
        self.max_epochs = max_epochs
        self.time_limit = time_limit
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.callbacks = callbacks

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def fit(self, X: Any, y: object = None) -> VAE:
        """Fit the model to X and calibrate its scores on held-out rows.

        Args:
            X: rows: a data frame, Arrow table, path, array or sparse matrix; NaN is missing.
            y: ignored.

        Returns:
            The fitted estimator.

        Raises:
            UsageError: E2xx for a parameter with a wrong value.
            DataError: E0xx if the data cannot be used.
            NumericError: E4xx if training diverges.
        """
        plan = plan_of(self.get_params(deep=False))
        pictures = plan.recipe.of_pictures
        frame, named = containers.admit(X, estimator=self, rows=2, pictures=pictures)
        if not plan.recipe.sparse:
            containers.refuse_huge(frame)
        trained = learn(frame, plan, callbacks=checked_callbacks(self.callbacks))
        trained.facts["input"] = containers.noted(frame.native, named)
        return self._hold(trained)

    def _hold(self, trained: Model) -> VAE:
        """Set the fitted attributes from a trained model."""
        seen = containers.seen(trained.facts)
        vars(self).pop("feature_names_in_", None)
        if seen.named:
            self.feature_names_in_ = np.asarray(seen.names, dtype=object)
        self.n_features_in_ = len(seen.names) or math.prod(trained.coding.shape)
        self.trained_ = trained
        return self

    @property
    def offset_(self) -> float:
        """The threshold of `score_samples` below which rows are outliers, nats."""
        return -self.trained_.alarm.threshold

    @property
    def alarm_(self) -> Alarm:
        """The threshold on `anomaly_score`, the false-alarm rate it gives, and its interval."""
        return self.trained_.alarm

    @property
    def health_(self) -> dict[str, Any]:
        """Measurements of the model, with "verdict" and its explanation, "lines"."""
        return self.trained_.facts["health"]

    @property
    def history_(self) -> dict[str, Any]:
        """The history of the training: "checks", "best", "stopped", "skipped"."""
        return self.trained_.facts["history"]

    @property
    def latent_(self) -> int:
        """The size of z."""
        return self.trained_.latent

    @property
    def _n_features_out(self) -> int:
        return self.latent_

    def _read(self, X: Any) -> Whole:
        """Return X as data whose columns have the names seen in `fit`."""
        check_is_fitted(self)
        pictures, wanted = bool(self.trained_.coding.shape), self.trained_.coding.wanted()
        frame, named = containers.admit(X, estimator=self, pictures=pictures, wanted=wanted)
        if pictures:  # the coding checks their shape
            return frame
        if not self.trained_.recipe.sparse:
            containers.refuse_huge(frame)
        seen = containers.seen(self.trained_.facts)
        return containers.matched(frame, named, seen, type(self).__name__)

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the embedding E[z | x] of every row, (n, latent)."""
        frame = self._read(X)
        return self.trained_.embed(frame)

    def inverse_transform(self, Z: Any) -> Any:
        """Decode embeddings to rows, as the type of container seen in `fit`.

        Args:
            Z: (n, latent) embeddings.

        Raises:
            DataError: E081 if the number of columns is not the size of z.
        """
        check_is_fitted(self)
        z = np.asarray(check_array(Z, estimator=self, input_name="Z"), np.float32)
        if z.shape[1] != self.latent_:
            raise DataError(
                "E081",
                f"Z has {z.shape[1]} columns, but the model has {self.latent_} latent dimensions",
                fix="pass what transform returned",
                given=z.shape[1],
                expected=self.latent_,
            )
        return self.trained_.as_fitted(self.trained_.decode_latents(z))

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """Return -log p(coded row) of every row, (n,) nats: higher is more anomalous.

        This is an importance-sampling estimate whose draws are keyed to the content of the row: it
        depends only on the row and the model, not on the other rows or their order.
        """
        frame = self._read(X)
        return self.trained_.anomaly_score(frame)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Return log p(coded row) of every row, (n,) nats: higher is more normal."""
        return -self.anomaly_score(X)

    def score(self, X: Any, y: object = None) -> float:
        """Return the mean of log p(row), nats per row, the objective of a grid search.

        It is the density of the raw values, so that models with different codings are comparable.
        It differs from the mean of `score_samples` by the mean log-Jacobian of the coding.
        """
        frame = self._read(X)
        _, coded = self.trained_.encode(frame)
        return float((coded.log_jacobian - self.trained_.score_coded(coded)).mean())

    def p_value(self, X: Any) -> NDArray[np.float64]:
        """Return the conformal p-value of every row, (n,).

        For rows exchangeable with those of `fit`, it is at most a with probability at most a.
        """
        scores = self.anomaly_score(X)
        return self.trained_.calibration.p_values(scores)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return `score_samples` minus `offset_`, (n,) nats: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return -1 for outliers and 1 for other rows, (n,), by the threshold of `alarm_`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def score_table(
        self,
        X: Any,
        *,
        by: str = "likelihood",
        explain: int = 0,
        false_discovery_rate: float | None = None,
    ) -> Any:
        """Return a table with anomaly_score, p_value and is_anomaly of every row.

        Args:
            X: rows.
            by: "likelihood", "typicality" or "levels", as in `lowerbound.Model.score`.
            explain: number of columns to name, those that add most to the score; for the outliers
                and the other highest-scoring rows.
            false_discovery_rate: flag rows by the Benjamini-Hochberg procedure at this rate,
                instead of the rows above the threshold.

        Returns:
            A table of the same type as X, with a line per row; a structured array for an array.
        """
        frame, rate = self._read(X), false_discovery_rate
        return self.trained_.score(frame, by=by, explain=explain, false_discovery_rate=rate)

    def explain(self, X: Any, top: int = 3) -> Any:
        """Name the columns that add most to each row's anomaly score.

        Args:
            X: rows.
            top: number of columns to name.

        Returns:
            A table of the same type as X (a structured array for an array) with a line per row
            and four columns per rank r: ``top{r}_column``, ``top{r}_nats`` (the contribution of
            the column given the others), ``top{r}_value`` and ``top{r}_expected``.

        Raises:
            UsageError: E246 for models of pictures and models with a context.
        """
        frame = self._read(X)
        coded = self.trained_.coding.encode(frame)
        reasons = explain(self.trained_, frame, coded, np.arange(frame.rows), top)
        return containers.results_of(frame, reasons)

    def reconstruct(self, X: Any) -> Any:
        """Return the mean of p(x | E[z | x]) of every row, as the same type as X."""
        frame = self._read(X)
        return self.trained_.reconstruct(frame)

    def impute(self, X: Any, *, draws: int | None = None, random_state: RandomState = None) -> Any:
        """Return X with its missing values filled; observed values are unchanged.

        Args:
            X: rows.
            draws: None fills in the expected value (for categories, the likeliest level). A
                number returns that many completed copies, concatenated and numbered by the column
                ``draw``; for an array, the result is (draws, n, ...).
            random_state: seed of the draws; None for that of the estimator.
        """
        frame = self._read(X)
        return self.trained_.impute(frame, draws=draws, seed=self._draw_seed(random_state))

    def sample(
        self,
        n_samples: int = 1,
        *,
        where: Mapping[str, object] | None = None,
        temperature: float = 1.0,
        random_state: RandomState = None,
    ) -> Any:
        """Draw rows from the model, as the type of container seen in `fit`.

        Args:
            n_samples: number of rows.
            where: values of columns, by name, on which to condition.
            temperature: factor of the scale of the prior; 1 is the model's own distribution.
            random_state: seed of the draws; None for that of the estimator. With an integer, the
                same rows are drawn every time.
        """
        check_is_fitted(self)
        return self.trained_.sample(
            n_samples,
            seed=self._draw_seed(random_state),
            temperature=temperature,
            where={str(name): value for name, value in (where or {}).items()},
        )

    def _draw_seed(self, random_state: RandomState) -> int:
        return seed_of(self.random_state if random_state is None else random_state)

    def evaluate(self, X: Any, *, samples: int = 128, ais: bool = False) -> dict[str, Any]:
        """Return estimates of the likelihood of X, nats per row, with a standard error.

        Args:
            X: rows.
            samples: importance samples per row.
            ais: also run annealed importance sampling on the first rows (slow).
        """
        frame = self._read(X)
        return self.trained_.evaluate(frame, samples=samples, ais=ais)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to the folder `path` atomically, and return its absolute path."""
        check_is_fitted(self)
        return self.trained_.save(path, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "cpu",
        recipe: Recipe | Callable[..., LatentModel] | None = None,
    ) -> VAE:
        """Load a model that `save` or ``lowerbound fit`` wrote, after checking all its digests.

        Args:
            path: the folder that `save` wrote.
            device: device of the model, such as "cpu" or "cuda".
            recipe: the recipe that built the model; needed only if it is your own.

        Raises:
            ModelFileError: E1xx if the folder is not an intact model of a known format.
        """
        trained = Model.load(path, device, recipe)
        plan = {**trained.facts["plan"], **({} if recipe is None else {"recipe": recipe})}
        plan.pop("start", None)  # the estimator starts every fit from random weights
        plan |= {"scaling": plan.pop("transform"), "random_state": plan.pop("seed")}
        return cls(**plan)._hold(trained)


# By scikit-learn's convention, `__init__` stores parameters unchanged and `fit` validates them.
# Grid searches may pass NumPy numbers.


def plan_of(parameters: Mapping[str, Any]) -> Plan:
    """Return the plan for the parameters of an estimator.

    Args:
        parameters: the result of ``VAE().get_params(deep=False)``.

    Raises:
        UsageError: E240, E241 or E245 for a wrong parameter.
    """
    chosen = {name: _plain(value) for name, value in parameters.items() if name != "callbacks"}
    for name, (fits, wanted) in _WANTED.items():
        if not fits(chosen[name]):
            message = f"{name} must be {wanted}, got {chosen[name]!r}"
            raise UsageError("E245", message, fix=f"leave out {name} for its default")
    drop = chosen.pop("drop")
    given = [chosen.pop(name) for name in ("batch", "covariates")]
    labels = chosen.pop("labels")
    types = {str(name): kind for name, kind in (chosen.pop("types") or {}).items()}
    return Plan(
        settings={name: _plain(v) for name, v in (chosen.pop("settings") or {}).items()},
        types=with_covariates(types, given[0] or (), given[1] or (), labels),
        drop=(drop,) if isinstance(drop, str) else tuple(map(str, () if drop is None else drop)),
        transform=chosen.pop("scaling"),
        seed=seed_of(chosen.pop("random_state")),
        **chosen,
    )


def _plain(value: Any) -> Any:
    """Convert a NumPy scalar to a Python scalar; return other values unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def seed_of(random_state: RandomState) -> int:
    """Return an integer seed for a random state.

    Args:
        random_state: an integer is returned as it is; a ``RandomState`` gives a draw; None gives
            fresh entropy.

    Raises:
        UsageError: E245 for any other value.
    """
    if random_state is None:
        return secrets.randbits(31)
    if isinstance(random_state, Integral):
        return int(random_state)
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError:
        raise UsageError(
            "E245",
            f"random_state must be an integer from 0, a RandomState or None, got {random_state!r}",
            fix="random_state=0",
        ) from None


def _one_of(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types) and not isinstance(value, bool)


_NOTHING = type(None)
_WANTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "recipe": (
        lambda value: isinstance(value, str | Recipe) or callable(value),
        "the name of a recipe, a Recipe, or a function that builds a model",
    ),
    "preset": (_one_of(str), "the name of a preset"),
    "scaling": (_one_of(str), '"blend", "standard" or "quantile"'),
    "settings": (_one_of(_NOTHING, Mapping), "a dict"),
    "types": (_one_of(_NOTHING, Mapping), "a dict of columns and kinds"),
    "batch": (_one_of(_NOTHING, Sequence, np.ndarray), "a column name, or a list of them"),
    "covariates": (_one_of(_NOTHING, Sequence, np.ndarray), "a column name, or a list of them"),
    "labels": (_one_of(_NOTHING, str), "a column name or None"),
    "drop": (_one_of(_NOTHING, Sequence, np.ndarray), "a list of column names"),
    "latent": (_one_of(_NOTHING, str, Integral), 'a whole number, "auto" or None'),
    "alarm_rate": (_one_of(str, Real), 'a number or "0.1%"'),
    "max_epochs": (_one_of(_NOTHING, Integral), "a whole number or None"),
    "time_limit": (_one_of(_NOTHING, str, Real), 'a number of seconds, "10m" or None'),
    "learning_rate": (_one_of(_NOTHING, Real), "a number or None"),
    "device": (_one_of(_NOTHING, str), "the name of a device or None"),
}
