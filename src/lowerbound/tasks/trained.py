"""A trained model with everything it needs to meet raw data again, in memory and on disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lowerbound import bundle
from lowerbound.coding.rows import subset
from lowerbound.coding.tables import Coded, restore
from lowerbound.errors import DataError, ModelFileError, UsageError, nearest
from lowerbound.files import containers
from lowerbound.files.data import Whole
from lowerbound.files.read import read
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import RECIPES, Recipe, find, images
from lowerbound.tasks import cards
from lowerbound.tasks import draws as tasks
from lowerbound.tasks.calibration import Alarm, Calibration
from lowerbound.tasks.evaluate import Evaluation
from lowerbound.tasks.explain import explained
from lowerbound.tasks.measures import Likelihood, Scoring, kept
from lowerbound.tasks.restore_picture import Draws, Pages, restore_page
from lowerbound.tasks.scoring import scoring_of
from lowerbound.tasks.state import TrainedState

FEW = 30  # independent draws below which conditional samples deserve a warning
PICTURES_AT_ONCE = 1024  # that are decoded together


class Samples(NamedTuple):
    """Rows drawn from a model.

    Attributes:
        table: the rows.
        effective_samples: what the draws are worth, where they were conditional; else None.
    """

    table: pa.Table
    effective_samples: float | None = None


def warn_of_few(drawn: Samples, n: int) -> None:
    """Warn where n conditional rows are worth only a few independent ones."""
    worth = drawn.effective_samples
    if worth is not None and worth < min(FEW, n):
        warnings.warn(
            f"the {n} rows are worth {worth:.1f} independent ones: the model hardly ever draws "
            "such values",
            stacklevel=3,
        )


class Model(TrainedState):
    """A trained model: raw rows in, scores, samples, embeddings and imputations out."""

    def encode(self, data: object) -> tuple[Whole, Coded]:
        """Read and code `data`: a path, an array, a dataframe or data that were read."""
        frame = read(data, wanted=self.coding.wanted())
        return frame, self._coded(frame)

    def _coded(self, frame: Whole) -> Coded:
        """Code rows, and refuse gaps that the likelihood cannot leave out."""
        coded = self.coding.encode(frame)
        if coded.missing and self.coding.shape:
            images.likelihood_of(self.arguments["likelihood"], self.arguments["shape"][0], True)
        return coded

    def anomaly_score(self, data: object, samples: int | None = None) -> NDArray[np.float64]:
        """Return -log p of every coded row, (n,) nats: higher is rarer.

        The density is that of the coded row, where every column has the same scale. In raw units
        a column's Jacobian would make a row look rare for lying where a unit is stretched;
        `evaluate` reports the density of the raw values, Jacobians included.

        Args:
            data: rows.
            samples: draws of z for each row; by default `importance_samples`.
        """
        return self.score_coded(self.encode(data)[1], samples)

    def score(
        self,
        data: object,
        *,
        by: str = "likelihood",
        explain: int = 0,
        false_discovery_rate: float | None = None,
    ) -> Any:
        """Score every row: the higher, the more unusual.

        Args:
            data: rows: a path, a data frame, an array, ...
            by: "likelihood" (-log p), "typicality" (its distance from what normal rows have, in
                either direction) or "levels" (of models with several levels of latents: what the
                lowest level says of a row beyond what those above predict).
            explain: number of columns to name that add most to the scores of the flagged rows and
                of the highest-scoring others.
            false_discovery_rate: flag rows so that at most this share of the flags is false
                (Benjamini-Hochberg), instead of those above the threshold of the fit.

        Returns:
            One line per row, as the kind of table that `data` is (a structured array where that
            is an array): anomaly_score (nats), p_value, is_anomaly, and for rank r the reasons
            ``top{r}_column``, ``top{r}_nats``, ``top{r}_value`` and ``top{r}_expected``.

        Raises:
            UsageError: E241 for an unknown `by`, E258 where the model cannot be scored by it, E236
                where the score has no parts to explain.
        """
        frame = read(data, wanted=self.coding.wanted())
        table, _ = self.score_table(
            frame, by=by, explain=explain, false_discovery_rate=false_discovery_rate
        )
        return containers.beside(frame, table)

    def score_coded(self, coded: Coded, samples: int | None = None) -> NDArray[np.float64]:
        """Return the anomaly scores of rows that are coded already."""
        return Likelihood(samples or self.importance_samples)(self.model, coded)

    def log_likelihood(self, data: object, samples: int | None = None) -> NDArray[np.float64]:
        """Return log p of every raw row, (n,) nats, every transform's Jacobian included."""
        coded = self.encode(data)[1]
        return coded.log_jacobian - self.score_coded(coded, samples)

    def scoring(self, by: str = "likelihood") -> Scoring:
        """Return a way of scoring rows, calibrated: a name in `lowerbound.tasks.scoring.WAYS`.

        Raises:
            UsageError: E241 for an unknown name, E258 where the model cannot be scored by it.
        """
        return scoring_of(self, by)

    def score_table(
        self,
        data: object,
        *,
        by: str = "likelihood",
        explain: int = 0,
        false_discovery_rate: float | None = None,
    ) -> tuple[pa.Table, Coded]:
        """Score rows as `score` does; return an Arrow table, and the coded rows.

        Returns:
            An Arrow table with one line per row, and the coded rows.

        Raises:
            UsageError: as `scoring`, and E236 where explanations would not be of the score.
        """
        way = self.scoring(by)
        if explain:
            way.check_parted("--explain")
        frame, coded = self.encode(data)
        scores = way.measure(self.model, coded)
        cut = None if false_discovery_rate is None else way.cut(scores, false_discovery_rate)
        return explained(self, (frame, coded), way.flag(scores, cut), explain), coded

    def embed(self, data: object) -> NDArray[np.float32]:
        """Return E[z | x] of every row, (n, latent); of codes, their vectors side by side."""
        return self.embed_coded(self.encode(data)[1])

    def embed_coded(self, coded: Coded) -> NDArray[np.float32]:
        """Return E[z | x] of rows that are coded already."""
        return tasks.embed(self.model, coded.rows).numpy()

    def reconstruct(self, data: object) -> Any:
        """Return the mean of p(x | E[z | x]) of every row, as the kind of table that `data` is."""
        frame, coded = self.encode(data)
        return containers.like(frame, self.reconstruct_coded(coded))

    def reconstruct_coded(self, coded: Coded) -> pa.Table:
        """Return rows that are coded already as the model would have them."""
        rows = coded.rows
        if not self.coding.shape:
            return self.coding.decode(tasks.reconstruct(self.model, rows).numpy())
        # Decoded in parts: what the model gives takes four bytes per pixel, a picture one.
        parts = torch.arange(len(rows)).split(PICTURES_AT_ONCE)
        found = [tasks.reconstruct(self.model, subset(rows, part)).numpy() for part in parts]
        return pa.concat_tables([self.coding.decode(values) for values in found])

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        where: dict[str, object] | None = None,
    ) -> Any:
        """Draw n rows from the model, as the kind of table that it was fitted on.

        A warning says so where conditional rows are worth fewer than `FEW` independent ones.

        Args:
            n: number of rows.
            seed: of the draws.
            temperature: of the prior; 1 is the model's own distribution.
            top_k: of a learned prior of codes: draw from that many of the likeliest only.
            where: values that given columns must have.

        Raises:
            UsageError: as `samples`.
        """
        drawn = self.samples(n, seed=seed, temperature=temperature, top_k=top_k, where=where)
        warn_of_few(drawn, n)
        return self.as_fitted(drawn.table)

    def as_fitted(self, table: pa.Table) -> Any:
        """Return rows of the model as the kind of table that it was fitted on."""
        if self.coding.shape:
            return containers.pictures(table, self.coding.shape)
        seen = containers.seen(self.facts)
        return containers.wrap(seen.kind, containers.completed(seen.kind, table, seen.names))

    def samples(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        where: dict[str, object] | None = None,
    ) -> Samples:
        """Draw n rows as an Arrow table: z from the prior, every value from its likelihood.

        Args:
            n: number of rows.
            seed: of the draws.
            temperature: of the prior; 1 is the model's own distribution.
            top_k: of a learned prior of codes: draw from so many of the likeliest only.
            where: values that given columns must have.

        Raises:
            UsageError: E240 for n below 1, E243 for a column that is not modelled, E256 for top_k
                where there are no codes.
        """
        if n < 1:
            raise UsageError("E240", f"n must be a positive integer, got {n}", fix="-n 1000")
        if where:
            drawn = tasks.sample_given(self.model, self._given(where), n, seed=seed)
            return Samples(
                self.coding.decode(drawn.values.numpy(), bounded=True), drawn.effective_samples
            )
        values = tasks.sample(self.model, n, seed=seed, temperature=temperature, top_k=top_k)
        return Samples(self.coding.decode(values.numpy(), bounded=True))

    def _given(self, where: dict[str, object]) -> torch.Tensor:
        """Code one row whose other cells are missing."""
        known = {group.column for group in self.coding.groups}
        for name in where:
            if name not in known:
                near = nearest(name, known)
                raise UsageError(
                    "E243",
                    f"the model has no column {name!r}"
                    + (f"; found a similar name: {near!r}" if near else ""),
                    fix=f"--where {near}=VALUE" if near else "lowerbound info M.vae lists them",
                )
        row = pa.table({name: pa.array([where.get(name)]) for name in sorted(known)})
        coded = self._coded(read(row))
        if coded.unseen:
            name = next(iter(coded.unseen))
            raise DataError(
                "E074",
                f"training never saw the value {where[name]!r} in column {name!r}",
                fix="lowerbound info M.vae lists the categories",
            )
        return coded.rows.take(torch.zeros(1, dtype=torch.long)).x[0]

    def impute(self, data: object, *, draws: int | None = None, seed: int = 0) -> Any:
        """Return `data` with its missing values filled; observed values come back as they were.

        The result is of the kind that `data` is. A column keeps its type unless that cannot hold
        the filled values.

        Args:
            data: rows.
            draws: None fills in the expected value (of categories, the likeliest); a number M
                returns M completed copies, one below the other and numbered by the column
                ``draw``; of an array, (M, n, ...).
            seed: of the draws.
        """
        frame, coded = self.encode(data)
        filled = self.impute_coded(frame, coded, draws=draws, seed=seed)
        if draws is None:
            return containers.like(frame, filled)
        return containers.copies(frame, filled, draws)

    def impute_coded(
        self, frame: Whole, coded: Coded, *, draws: int | None = None, seed: int = 0
    ) -> pa.Table:
        """Return rows that are coded already with their missing cells filled."""
        # Of pictures every cell is a group of its own.
        groups = () if self.coding.shape else [group.parts for group in self.coding.groups]
        if draws is None:
            values = tasks.impute(self.model, coded.rows, groups=groups).numpy()
            return self.coding.filled(frame, values)
        if draws < 1:
            raise UsageError(
                "E240", f"draws must be a positive integer, got {draws}", fix="--draws 5"
            )
        drawn = tasks.impute_draws(
            self.model, coded.rows, draws, groups=groups, seed=seed, start=frame.start
        )
        values = drawn.numpy()
        copies = [self.coding.filled(frame, values[:, m]) for m in range(draws)]
        return pa.concat_tables(
            [c.append_column("draw", pa.array([m] * len(c))) for m, c in enumerate(copies)]
        )

    def restore(
        self,
        picture: NDArray[Any],
        *,
        mask: NDArray[Any] | None = None,
        samples: int = 8,
        draws: int = 0,
        seed: int = 0,
    ) -> Pages:
        """Denoise, enlarge, complete or segment one picture, as the model was fitted to do.

        Args:
            picture: (H, W) or (H, W, C) of 8 or 16 bits, of any size.
            mask: (H, W), true where a hole is; for models of the recipe inpaint, which need it.
            samples: number of draws that the result is the mean of.
            draws: number of draws to return besides the result.
            seed: of the draws.

        Returns:
            The result and the draws in the bits of `picture`, the uncertainty of every pixel as
            8 bits, and its mean (codes of 8 bits; nats of entropy for classes).

        Raises:
            UsageError: E247 for a model that restores nothing, E231 for a picture of another kind.
        """
        if self.recipe.restoration is None:
            able = [name for name, each in RECIPES.items() if each.restoration]
            raise UsageError(
                "E247",
                f"a model of the recipe {self.recipe.name!r} restores no pictures",
                fix=f"fit a model with one of the recipes {', '.join(able)}",
            )
        page = np.asarray(picture)
        if page.dtype not in (np.uint8, np.uint16) or page.ndim not in (2, 3):
            raise UsageError(
                "E231",
                f"picture must be (H, W) or (H, W, C) of uint8 or uint16, got {page.dtype} of "
                f"shape {page.shape}",
                fix="numpy.asarray(PIL.Image.open(PATH))",
            )
        page = page[..., None] if page.ndim == 2 else page
        hole = None if mask is None else np.asarray(mask, bool)
        return restore_page(self, page, Draws(samples, draws, seed), hole)

    def evaluate(
        self, data: object, *, samples: int | None = None, ais: bool = False
    ) -> dict[str, Any]:
        """Return likelihood estimates on `data`, nats per row of the raw values.

        Args:
            data: rows.
            samples: importance samples per row; by default four times `importance_samples`.
            ais: also run annealed importance sampling on the first rows.
        """
        evaluation = Evaluation(self, samples, ais)
        evaluation.add(self.encode(data)[1])
        return evaluation.report()

    def decode_latents(self, z: NDArray[np.floating]) -> pa.Table:
        """Return the rows that given latents stand for."""
        values = tasks.decode(self.model, torch.as_tensor(np.asarray(z), dtype=torch.float32))
        return self.coding.decode(values.numpy())

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to the folder `path`, all of it or nothing, and return its full path."""
        return bundle.save(
            path,
            documents={**self.documents(), "card.md": cards.card(self)},
            weights=self.model.state_dict(),
            overwrite=overwrite,
        )

    def documents(self) -> dict[str, Any]:
        """Return all but the weights as plain JSON values, by the name of their file."""
        return {
            "config.json": {"recipe": self.recipe.name, "arguments": self.arguments},
            "schema.json": self.coding.document(),
            "calibration.json": {
                "scores": self.calibration.scores.tolist(),
                "alarm": self.alarm._asdict(),
                "further": {by: way.document() for by, way in self.further.items()},
            },
            "metrics.json": self.facts,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as what the model file holds: plain values and arrays."""
        weights = {name: t.cpu().numpy() for name, t in self.model.state_dict().items()}
        own = None if self.recipe.name in RECIPES else self.recipe
        return restored, (self.documents(), weights, "cpu", "this model", own)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "cpu",
        recipe: Recipe | Callable[..., LatentModel] | None = None,
    ) -> Model:
        """Read a saved model, every digest checked first.

        A model file never names code to import: a model of a recipe of your own is loaded by
        handing that recipe over.

        Args:
            path: the folder that `save` wrote.
            device: where the model goes, such as "cpu" or "cuda".
            recipe: the recipe that the model was built by, where it is not one of ours.

        Raises:
            ModelFileError: E1xx for anything that is not an intact model of a known format; E141
                for a recipe that is not known here, or is not the one that was handed over.
        """
        saved = bundle.load(path)
        return restored(saved.documents, saved.weights, device, str(path), recipe)


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    recipe: Recipe | Callable[..., LatentModel] | None = None,
) -> Model:
    """Load a model that `Model.save` or ``lowerbound fit`` wrote, every digest checked first.

    Args:
        path: the folder.
        device: where the model goes, such as "cpu" or "cuda".
        recipe: the recipe that the model was built by, where it is not one of lowerbound's: a
            model file never names code to import.

    Raises:
        ModelFileError: E1xx for anything that is not an intact model of a known format.
    """
    return Model.load(path, device, recipe)


def _recipe_of(name: str, own: Recipe | Callable[..., LatentModel] | None, origin: str) -> Recipe:
    """Return the recipe that a model file names."""
    if own is None and name in RECIPES:
        return RECIPES[name]
    if own is None:
        raise ModelFileError(
            "E141",
            f"{origin} was built by the recipe {name!r}, which is not one of lowerbound's "
            f"({', '.join(RECIPES)}); a model file never names code to import",
            fix=f"in Python, hand the recipe over: lowerbound.load(PATH, recipe={name})",
            recipe=name,
        )
    recipe = find(own)
    if recipe.name != name:
        raise ModelFileError(
            "E141",
            f"{origin} was built by the recipe {name!r}, and {recipe.name!r} was handed over",
            fix=f"lowerbound.load(PATH, recipe={name})"
            if name not in RECIPES
            else "lowerbound.load(PATH)",
            recipe=name,
        )
    return recipe


def restored(
    documents: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    device: str = "cpu",
    origin: str = "this model",
    own: Recipe | Callable[..., LatentModel] | None = None,
) -> Model:
    """Return the model whose `Model.documents` and weights these are."""
    config, calibration = documents["config.json"], documents["calibration.json"]
    recipe = _recipe_of(config["recipe"], own, origin)
    model = recipe.make(config["arguments"])
    weights = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(
            "E140",
            f"{origin}: the weights do not fit the recipe {config['recipe']!r}",
            fix="fit the model again with this version",
            reason=str(error)[:500],
        ) from None
    return Model(
        recipe=recipe,
        arguments=config["arguments"],
        coding=restore(documents["schema.json"], recipe.restoration),
        model=model.to(device).eval(),
        calibration=Calibration(np.asarray(calibration["scores"], np.float64)),
        alarm=Alarm(**calibration["alarm"]),
        facts=documents["metrics.json"],
        further=kept(calibration.get("further", {})),
    )
