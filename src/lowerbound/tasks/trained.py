"""The trained model: scores, samples and other uses on raw data, saving and loading."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lowerbound import bundle, noise
from lowerbound.bundle.documents import invalid
from lowerbound.coding.counts import CountsCoding
from lowerbound.coding.large import needed
from lowerbound.coding.pictures import PictureCoding
from lowerbound.coding.rows import Rows, subset
from lowerbound.coding.tables import Coded, Coding, TableCoding, restore, table_of
from lowerbound.columns.arrow import listed, snippet
from lowerbound.columns.categories import Category
from lowerbound.errors import LowerboundError, ModelFileError, UsageError, nearest
from lowerbound.files import containers
from lowerbound.files.data import Matrix, Whole
from lowerbound.files.read import read, walk
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import RECIPES, Recipe, find, images
from lowerbound.tasks import (
    autoencode,
    building,
    cards,
    compare_report,
    contents,
    counterfactual,
    notebook,
)
from lowerbound.tasks import check as checking
from lowerbound.tasks import draws as tasks
from lowerbound.tasks import drift as drifting
from lowerbound.tasks.calibration import Alarm, Calibration
from lowerbound.tasks.completion import CHAIN, LATENTS, Completion
from lowerbound.tasks.conditioning import sample_given
from lowerbound.tasks.coverage import ColumnCoverage, column_coverage
from lowerbound.tasks.differential import Comparison, changes, grouped, observed
from lowerbound.tasks.evaluate import Evaluation
from lowerbound.tasks.explain import explained
from lowerbound.tasks.expression import At, expression
from lowerbound.tasks.few_rows import same_in_passes_of
from lowerbound.tasks.finite import finite
from lowerbound.tasks.labels import label_logits, level_probabilities, probabilities
from lowerbound.tasks.latent_meaning import LatentMeaning, latent_meanings
from lowerbound.tasks.measures import Likelihood, Scoring, kept
from lowerbound.tasks.metrics import TILE
from lowerbound.tasks.plots import Plots, plane
from lowerbound.tasks.predictive_checks import predictive_checks
from lowerbound.tasks.restore_picture import Draws, Pages, restore_page
from lowerbound.tasks.scoring import scoring_of
from lowerbound.tasks.some_rows import SomeRows, some_rows
from lowerbound.tasks.state import HeldOut, TrainedState

FEW = 30  # effective samples below which conditional sampling gives a warning
PAIRS = 1 << 16  # contexts from which conditional draws choose
CONTEXTS = 256  # contexts of training rows, of which the middle one serves to decode latents
PICTURES_AT_ONCE = 1024  # pictures decoded together
LIBRARY = 1e4  # the total at which rates of two groups of cells are compared


class Samples(NamedTuple):
    """Rows drawn from a model.

    Attributes:
        table: the rows.
        effective_samples: effective sample size of conditional draws; None for other draws.
        notes: remarks for the user.
    """

    table: pa.Table
    effective_samples: float | None = None
    notes: Sequence[str] = ()


class Expression(NamedTuple):
    """Normalised expression of cells.

    Attributes:
        mean: the rate of every gene in every cell: the mean over posterior draws.
        sd: the standard deviation over these draws.
    """

    mean: Any
    sd: Any


def warn_of_few(drawn: Samples, n: int) -> None:
    """Warn if the effective sample size of n conditional rows is small; pass on remarks."""
    for note in drawn.notes:
        warnings.warn(note, stacklevel=3)
    worth = drawn.effective_samples
    if worth is not None and worth < min(FEW, n / 2):
        warnings.warn(
            f"the effective sample size of the {n} rows is {worth:.1f}: the given values are rare "
            "under the model",
            stacklevel=3,
        )


class Model(TrainedState):
    """A trained model and its methods: score, embed, impute, reconstruct, sample, save, load."""

    def encode(self, data: object) -> tuple[Whole, Coded]:
        """Read and code `data`: a path, an array, a data frame, or data that are already read."""
        frame = read(data, wanted=self.coding.wanted())
        return frame, self._coded(frame)

    def read_rows(self, data: object) -> pa.Table:
        """Return rows as an Arrow table, read as `score` reads them.

        Args:
            data: a path, an array or a data frame.
        """
        return table_of(read(data, wanted=self.coding.wanted()))

    def problems(self, data: object) -> list[LowerboundError]:
        """Return everything that keeps rows from being scored; [] if they can be.

        Args:
            data: rows, as of `score`, which raises the first of these errors.
        """
        try:
            frame = read(data, wanted=self.coding.wanted())
            if isinstance(self.coding, TableCoding):
                return self.coding.problems(frame)
            self._coded(frame)
        except LowerboundError as error:
            return [error]
        return []

    def _coded(self, frame: Whole) -> Coded:
        """Code rows; raise an error for missing pixels if the likelihood does not support them."""
        coded = self.coding.encode(frame)
        if coded.missing and self.coding.shape:
            images.likelihood_of(self.arguments["likelihood"], self.arguments["shape"][0], True)
        return coded

    def anomaly_score(self, data: object, samples: int | None = None) -> NDArray[np.float64]:
        """Return -log p of every coded row, (n,) nats: higher is more unusual.

        The density is that of the coded row, in which every column has the same scale, because
        the density of raw values depends on the units of the columns. `evaluate` and
        `log_likelihood` report the density of the raw values.

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
        """Score every row: higher is more unusual.

        Args:
            data: rows: a path, a data frame, an array, ...
            by: "likelihood" (-log p), "typicality" (the distance of -log p from its mean over
                held-out rows) or "levels" (for models with several levels of latents: the
                information about a row that only the lowest level has).
            explain: number of columns to name, those that add most to the score; for the flagged
                rows and the other highest-scoring rows.
            false_discovery_rate: flag rows by the Benjamini-Hochberg procedure, so that the
                expected share of normal rows among the flagged ones is at most this, instead of
                the rows above the threshold of the fit. A warning is given if no row is flagged
                because the calibration rows are too few for this rate.

        Returns:
            A table of the same type as `data` (a structured array for an array) with a line per
            row: anomaly_score (nats), p_value, is_anomaly, and for each rank r
            ``top{r}_column``, ``top{r}_nats``, ``top{r}_value`` and ``top{r}_expected``.

        Raises:
            UsageError: E241 for an unknown `by`, E258 if the model cannot be scored by it, E236 if
                `explain` is given and the score is not a sum of contributions.
        """
        frame = read(data, wanted=self.coding.wanted())
        table, _ = self.score_table(
            frame, by=by, explain=explain, false_discovery_rate=false_discovery_rate
        )
        return containers.results_of(frame, table)

    def score_coded(self, coded: Coded, samples: int | None = None) -> NDArray[np.float64]:
        """Return the anomaly scores of rows that are coded already."""
        scores = Likelihood(samples or self.importance_samples)(self.model, coded)
        return finite(scores, "scores")

    def log_likelihood(self, data: object, samples: int | None = None) -> NDArray[np.float64]:
        """Return log p of every raw row, (n,) nats, including the Jacobians of the scalings."""
        coded = self.encode(data)[1]
        return coded.log_jacobian - self.score_coded(coded, samples)

    def scoring(self, by: str = "likelihood") -> Scoring:
        """Return the calibrated scoring `by`, a name in `lowerbound.tasks.scoring.WAYS`.

        Raises:
            UsageError: E241 for an unknown name, E258 if the model cannot be scored by it.
        """
        return scoring_of(self, by)

    def expect_few_rows(self) -> None:
        """Make scores of few rows at a time fast, as a service needs; the scores stay the same.

        A pass computes 128 rows together, even for one row, since products of another shape may
        round in another order. Here, smaller passes are tried on drawn rows, which takes about a
        second. Those whose scores have the same bits are used from now on.
        """
        drawn = self.samples(TILE, seed=0).table
        coded = self.encode(drawn)[1]
        self.passes = same_in_passes_of(self.model, coded, self.importance_samples)

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
            UsageError: as `score`.
        """
        way = self.scoring(by)
        if explain:
            way.check_parted("--explain")
        frame, coded = self.encode(data)
        scores = way.scores(self.model, coded)
        cut = None
        if false_discovery_rate is not None:
            cut = way.cut(scores, false_discovery_rate)
            if coarse := way.too_coarse(scores, false_discovery_rate):
                warnings.warn(str(coarse), stacklevel=2)
        return explained(self, (frame, coded), way.flag(scores, cut), explain), coded

    def embed(self, data: object) -> NDArray[np.float32]:
        """Return E[z | x] of every row, (n, latent); for codes, their vectors concatenated."""
        return self.embed_coded(self.encode(data)[1])

    def plane(self, data: object) -> tuple[NDArray[np.float64], float]:
        """Return the embedding in the plane of its two main directions, for maps.

        Args:
            data: rows: a path, a data frame, an array, ...

        Returns:
            The points, (n, 2), and the share of the variance of the embedding that they show.
        """
        return plane(np.asarray(self.embed(data), np.float64))

    def embed_coded(self, coded: Coded) -> NDArray[np.float32]:
        """Return E[z | x] of rows that are coded already."""
        return finite(tasks.embed(self.model, coded.rows).numpy(), "latents")

    def reconstruct(self, data: object) -> Any:
        """Return the mean of p(x | E[z | x]) of every row, as the same type as `data`."""
        frame, coded = self.encode(data)
        return containers.like(frame, self.reconstruct_coded(coded))

    def reconstruct_coded(self, coded: Coded) -> pa.Table:
        """Return the reconstructions of rows that are coded already, as an Arrow table."""
        rows = coded.rows
        if not self.coding.shape:
            return self.coding.means(self._reconstructed(rows))
        # Decode in parts: the model returns four bytes per pixel, a picture takes one.
        parts = torch.arange(len(rows)).split(PICTURES_AT_ONCE)
        found = (self._reconstructed(subset(rows, part)) for part in parts)
        return pa.concat_tables([self.coding.means(values) for values in found])

    def _reconstructed(self, rows: Rows) -> NDArray[np.float32]:
        return finite(tasks.reconstruct(self.model, rows).numpy(), "reconstructions")

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        where: dict[str, object] | None = None,
    ) -> Any:
        """Draw n rows from the model, as the type of table that it was fitted on.

        A warning is given if the effective sample size of conditional rows is below `FEW`.

        Args:
            n: number of rows.
            seed: seed of the draws.
            temperature: factor of the scale of the prior; of a chain of columns, the number that
                log-probabilities are divided by. 1 is the model's own distribution.
            top_k: for a learned prior of codes, draw every code from this many of the likeliest.
            where: values of columns, by name, on which to condition.

        Raises:
            UsageError: as `samples`.
        """
        drawn = self.samples(n, seed=seed, temperature=temperature, top_k=top_k, where=where)
        warn_of_few(drawn, n)
        return self.as_fitted(drawn.table)

    def as_fitted(self, table: pa.Table) -> Any:
        """Convert rows of the model to the type of table that it was fitted on."""
        if self.coding.shape:
            return containers.pictures(table, self.coding.shape)
        return containers.wrap(containers.seen(self.facts), table)

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
            seed: seed of the draws.
            temperature: factor of the scale of the prior; of a chain of columns, the number that
                log-probabilities are divided by. 1 is the model's own distribution.
            top_k: for a learned prior of codes, draw every code from this many of the likeliest.
            where: values of columns, by name, on which to condition.

        Raises:
            UsageError: E240 for n below 1, E243 for a column that is not modelled, E245 for a
                condition that is a missing value, E256 for top_k if the prior has no codes.
            DataError: E074 for a level that training has not seen or a value beyond its range,
                E030, E032 or E035 for a value that is not of the column's kind.
        """
        if n < 1:
            raise UsageError("E240", f"n must be a positive integer, got {n}", fix="-n 1000")
        if where:
            if temperature != 1.0 or top_k is not None:
                raise UsageError(
                    "E236",
                    "where cannot be combined with temperature or top_k",
                    fix="leave one of them out",
                )
            asked = self.coding.asked(where)
            if self.coding.shape:  # the pixels without a condition are missing
                images.likelihood_of(
                    self.arguments["likelihood"], self.arguments["shape"][0], True
                )
            if (rows := self._row_model) is not None:
                values = tasks.draw_rows(rows, asked.row, n, seed=seed)
                table = asked.imposed(self._drawn(values, None))
                return Samples(table, float(n), asked.notes)
            context = self.coding.contexts(PAIRS, seed, asked)
            drawn = sample_given(
                self.model, asked.row, n, seed=seed, context=context, draw=self.recipe.draw
            )
            values = self._dependent(asked.row.expand_as(drawn.values), drawn.values, seed)
            table = self._drawn(values, drawn.context)
            return Samples(asked.imposed(table), drawn.effective_samples, asked.notes)
        if (rows := self._row_model) is not None and top_k is None:
            open_ = torch.full((len(self.arguments["sizes"]),), torch.nan)
            values = tasks.draw_rows(rows, open_, n, seed=seed, temperature=temperature)
            return Samples(self._drawn(values, None))
        context = self.coding.contexts(n, seed)
        values = tasks.sample(
            self.model,
            n,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            context=context,
            draw=self.recipe.draw,
        )
        values = self._dependent(torch.full_like(values, torch.nan), values, seed)
        return Samples(self._drawn(values, context))

    def _dependent(self, given: torch.Tensor, values: torch.Tensor, seed: int) -> torch.Tensor:
        """Return rows drawn from the VAE in which all dependencies between columns hold."""
        rows = self.model.rows
        return values if rows is None else tasks.dependent(rows, given, values, seed=seed)

    @property
    def _row_model(self) -> torch.nn.Module | None:
        """The chain of columns, if rows are drawn from it."""
        return self.model.rows if self.facts.get("draws", CHAIN) == CHAIN else None

    def _drawn(self, values: torch.Tensor, context: torch.Tensor | None) -> pa.Table:
        return self.coding.drawn(finite(values.numpy(), "draws", infinite=True), context)

    def impute(self, data: object, *, draws: int | None = None, seed: int = 0) -> Any:
        """Return `data` with its missing values filled; observed values are unchanged.

        The result has the same type as `data`. A column keeps its type unless that type cannot
        hold the filled values.

        Args:
            data: rows.
            draws: None fills in the expected value (for categories, the likeliest level). A
                number M returns M completed copies, concatenated and numbered by the column
                ``draw``; for an array, the result is (M, n, ...).
            seed: seed of the draws.

        Raises:
            UsageError: E240 for `draws` below 1.
        """
        frame, coded = self.encode(data)
        filled = self.impute_coded(frame, coded, draws=draws, seed=seed)
        if draws is None:
            return containers.like(frame, filled)
        return containers.copies(frame, filled, draws)

    def impute_coded(
        self, frame: Whole, coded: Coded, *, draws: int | None = None, seed: int = 0
    ) -> pa.Table:
        """Return rows that are coded already with their missing values filled; see `impute`."""
        # The pixels of a picture are missing independently, so they need no groups.
        groups = () if self.coding.shape else [group.parts for group in self.coding.groups]
        scales = self.coding.scales if isinstance(self.coding, TableCoding) else ()
        by = self.facts.get("completes", LATENTS)
        completion = Completion(self.model, by, groups, scales)
        if draws is None:
            values = completion.point(coded.rows).numpy()
            finite(values, "values", infinite=True, groups=groups)
            return self.coding.filled(frame, values)
        if draws < 1:
            raise UsageError(
                "E240", f"draws must be a positive integer, got {draws}", fix="--draws 5"
            )
        values = completion.draws(coded.rows, draws, seed=seed, start=frame.start).numpy()
        finite(values.reshape(-1, *values.shape[2:]), "draws", infinite=True, groups=groups)
        copies = [self.coding.filled(frame, values[:, m]) for m in range(draws)]
        return pa.concat_tables(
            [c.append_column("draw", pa.array([m] * len(c))) for m, c in enumerate(copies)]
        )

    def counterfactual(self, data: object) -> Any:
        """Return the nearest usual row of every row: the smallest change that makes it usual.

        The change is smallest in columns first, then in nats: the score falls as little as it
        must to be at most the threshold. Rows that are not flagged stay as they are, and values
        that are not changed are equal.

        Args:
            data: rows: a path, a data frame, an array, ...

        Returns:
            The rows as the same type as `data`, with the columns ``score_before`` and
            ``score_after`` (nats), and ``changed``, the names of the changed columns as text,
            joined by ", "; it is empty for a row that is usual, and for one for which no usual
            row was found, whose score stays above the threshold.

        Raises:
            UsageError: E246 for a model that is not of a table.
        """
        frame = read(data, wanted=self.coding.wanted())
        table, changed = self.counterfactual_table(frame)
        told = pa.array([", ".join(names) for names in changed], pa.string())
        return containers.like(frame, table.append_column("changed", told))

    def counterfactual_table(self, data: object) -> tuple[pa.Table, list[tuple[str, ...]]]:
        """Return nearest usual rows as an Arrow table; see `counterfactual`.

        Returns:
            The rows with ``score_before`` and ``score_after``, and the names of the columns that
            each row changes.
        """
        frame, coded = self.encode(data)
        counterfactual.check(self)
        usual = self.samples(counterfactual.USUAL).table
        table, changed = counterfactual.counterfactuals(self, frame, coded, usual)
        before, after = self.score_coded(coded), self.score_coded(self.encode(table)[1])
        scores = {"score_before": before, "score_after": after}
        for name, values in scores.items():
            if name in table.column_names:
                place = table.column_names.index(name)
                names = [*table.column_names]
                names[place] = f"{name} of input"
                table = table.rename_columns(names)
            table = table.append_column(name, pa.array(values))
        return table, changed

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
        if self.recipe.restoration is None or self.encodes:
            known = RECIPES.items()
            able = [name for name, r in known if r.restoration and r.restoration.paired]
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

    def latents_of(self, picture: NDArray[Any]) -> NDArray[np.float32]:
        """Encode one picture of any size, with a model of the recipe autoencoder.

        Args:
            picture: (H, W) or (H, W, C) of 8 or 16 bits, with the channels of the model.

        Returns:
            (latent, h, w), E[z | x], whose h and w are H and W over the downscale, rounded up.

        Raises:
            UsageError: E247 for another model, E231 for a picture of another kind.
        """
        page, channels = np.asarray(picture), autoencode.sizes_of(self).channels
        page = page[..., None] if page.ndim == 2 else page
        known = page.ndim == 3 and page.shape[-1] == channels
        if page.dtype not in (np.uint8, np.uint16) or not known:
            raise UsageError(
                "E231",
                f"picture must be (H, W, {channels}) of uint8 or uint16, got {page.dtype} of "
                f"shape {page.shape}",
                fix="numpy.asarray(PIL.Image.open(PATH))",
            )
        return autoencode.encode_page(self, page).mean

    def picture_of(
        self, latents: NDArray[Any], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Decode one map of latents, with a model of the recipe autoencoder.

        Args:
            latents: (latent, h, w), as from `latents_of`.
            size: (height, width) of the picture, to leave out what was added to fill the map.

        Returns:
            (H, W, C) of 8 bits, E[x | z].

        Raises:
            UsageError: E247 for another model.
            DataError: E090 for an array that does not hold latents of this model.
        """
        return autoencode.decode_page(self, np.asarray(latents), size)

    def evaluate(
        self, data: object, *, samples: int | None = None, ais: bool = False
    ) -> dict[str, Any]:
        """Return likelihood estimates on `data`, nats per row of the raw values.

        Args:
            data: rows.
            samples: importance samples per row; by default four times `importance_samples`.
            ais: also run annealed importance sampling on the first 64 rows (slow).

        Returns:
            The estimates by name, such as elbo, distortion, rate and iw_nll.
        """
        evaluation = Evaluation(self, samples, ais)
        frame, coded = self.encode(data)
        evaluation.add(coded, frame.classes)
        return evaluation.report()

    def compare(
        self,
        real: object,
        *,
        learned: object = None,
        target: str | None = None,
        n: int | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Compare drawn rows with real ones: likeness, usefulness and privacy.

        Of each table, at most 20,000 rows are used, fewer of wide tables; of more, these are
        chosen at random.

        Args:
            real: rows that the model did not learn from.
            learned: rows that it did; only with them privacy is measured.
            target: a column to predict; only with it the usefulness is measured.
            n: number of rows to draw; by default as many as `real` has.
            seed: seed of the draws and of all random choices.

        Returns:
            Plain values. Measures by name: c2st, shape_error, pair_error, impossible, utility,
            utility_real, dcr_share, nearest_ratio and membership_auc; ``meanings`` has a sentence
            on each, ``intervals`` the ends of 95 % intervals, ``by_chance`` the errors of two
            samples of one distribution, ``worst`` the columns and pairs that are furthest off.

        Raises:
            UsageError: E246 or E247 for a model that is not of a table, E203 and E249 for an
                unusable target, E240 for n out of range, E236 for `learned` equal to `real`.
            DataError: E031 for rows without a column of the model, E044 for too few rows.
        """
        coding = self.check_comparable(target)
        wanted, source = coding.wanted(), noise.derive("compare", seed) % (1 << 32)
        frame = compare_report.some_rows(walk(real, wanted=wanted), coding, source)
        count = compare_report.checked_count(frame.rows if n is None else n, coding)
        rows = coding.schema.canonical(frame.table, frame.origin)
        known = scores = None
        if learned is not None:
            other = compare_report.some_rows(walk(learned, wanted=wanted), coding, source)
            known = coding.schema.canonical(other.table, other.origin)
            compare_report.check_apart(rows, known)
            scores = tuple(self.score_coded(coding.encode(each)) for each in (other, frame))
            frame = replace(frame, notes=(*frame.notes, *other.notes))
        drawn = coding.schema.canonical(self.samples(count, seed=seed).table)
        tables = compare_report.Compared(rows, drawn, known, scores, frame.notes)
        return notebook.Comparison(compare_report.report(tables, target, source))

    def check_comparable(self, target: str | None = None) -> TableCoding:
        """Return the coding of the table that the model is of.

        Raises:
            UsageError: as `compare`, for the model and the target.
        """
        coding = compare_report.table_coding(self)
        compare_report.check_target(target, coding.schema)
        return coding

    def drift(
        self, data: object, *, level: float = drifting.LEVEL, ignore: Sequence[str] = ()
    ) -> notebook.Drift:
        """Test whether rows are like the held-out rows of the fit, by columns and by scores.

        The null hypothesis is that these rows and the held-out rows, which calibrate the scores,
        are drawn from one distribution. Numbers, dates and ordered levels are compared by the
        Kolmogorov-Smirnov test, the levels of categories and the gaps by exact tests of their
        shares, scores as numbers, and alarms by their beta-binomial distribution. The p-values of
        all columns, scores and alarms are corrected together by Holm's method: the probability
        that any of them is called drifted is at most `level` if nothing changed.

        The size of a drift, from 0 to 1, is the largest difference of the shares of rows up to
        some value, of one level, or without a value. With many rows, a drift may be sure and so
        small that it does not matter.

        Args:
            data: rows. Of a table that is not in memory 100,000 are looked at, and 20,000 of all
                are scored, drawn at random.
            level: probability of any false alarm, in (0, 1).
            ignore: columns that are not tested, such as a date that always moves on.

        Returns:
            Plain values: ``rows``, ``held_out`` (their numbers), ``level``; ``columns``, a list
            with the most drifted first, of dicts with column, drift, p_value, adjusted_p_value,
            drifted, nats (what the column adds to the mean score beyond its mean in held-out
            rows; None if unknown) and told (the difference in words); ``scores`` with the same
            keys and mean and held_out_mean, nats; ``alarms`` with flagged, share, expected,
            p_value, adjusted_p_value and drifted; ``notes``.

        Raises:
            UsageError: E240 for a level out of range, E203 for an unknown column of `ignore`,
                E247 for a model that restores pictures.
            DataError: E0xx for rows that cannot be used.
        """
        checking.Limits(level=level)
        ignored = drifting.check_ignored(self, ignore)
        drifting.check_scorable(self)
        sample = drifting.sampled(walk(data, wanted=self.coding.wanted()))
        found = drifting.report(self, self.encode(sample.frame), level, ignored)
        return notebook.Drift({**found, "notes": [*sample.notes, *found["notes"]]})

    def check(  # noqa: PLR0913 - independent limits, all with defaults
        self,
        data: object,
        *,
        max_drift: float = drifting.MOST_DRIFT,
        level: float = drifting.LEVEL,
        max_alarm_rate: float | None = None,
        max_p99: float | None = None,
        ignore: Sequence[str] = (),
    ) -> checking.CheckReport:
        """Check this model on rows, as a gate of a pipeline: schema, drift, alarms and latency.

        A column fails if its drift is sure (see `drift`) and larger than `max_drift`. So do the
        scores. Columns that are missing, cannot be read or are in another unit fail; the
        others are tested all the same, but rows are scored only if there is no such problem.

        Args:
            data: rows.
            max_drift: largest drift that does not matter, from 0 to 1.
            level: probability of any false alarm of the tests, in (0, 1).
            max_alarm_rate: largest share of flagged rows; None tests whether it is above that
                of the fit.
            max_p99: largest 99th percentile of the time to score one row, seconds; None does
                not measure it.
            ignore: columns whose drift does not matter.

        Returns:
            The report: `passed`, `problems`, `notes`, `drift`, `latency`, `as_dict()`, and
            `raise_if_failed()`, which raises all problems as one error, E604.

        Raises:
            UsageError: E240 for a limit out of range, E203 for an unknown column of `ignore`,
                E247 for a model that restores pictures.
            DataError: E0xx for data that cannot be read at all.

        >>> import numpy as np, lowerbound
        >>> x = np.random.default_rng(0).normal(size=(500, 2))
        >>> model = lowerbound.fit(x, preset="fast", max_epochs=2)
        >>> model.check(x).passed, model.check(x + 3).passed
        (True, False)
        """
        limits = checking.Limits(max_drift, level, max_alarm_rate, max_p99, tuple(ignore))
        given = walk(data, wanted=self.coding.wanted())
        return checking.check(self, self, given, limits)

    def expression(
        self,
        data: object,
        *,
        batch: object = None,
        library: float | None = 1e4,
        draws: int = 25,
        genes: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Expression:
        """Return normalised expression: the rate of every gene in every cell, with its spread.

        Rates are counts per cell of the given total, without noise of counting and without extra
        zeros. They are the mean over draws of z from the posterior of the cell. With `batch`, all
        cells are shown as the model expects them in one batch, whichever they are from.

        Args:
            data: cells: a path, an AnnData, a data frame, ...
            batch: a level of the only batch of the model, or values of several covariates by
                name, such as ``{"donor": "a", "pct_mito": 5}``; None keeps each cell's own.
            library: the total that the rates of all genes of the model add up to; None keeps
                each cell's own total.
            draws: draws of z for each cell.
            genes: the genes to return; None for all of the model.
            seed: seed of the draws.

        Returns:
            The means and the standard deviations over draws: two tables of the type of `data`,
            Arrow tables for an AnnData (`lowerbound.cells.expression` writes its layers).

        Raises:
            UsageError: E246 for a model that is not of counts, E243 for an unknown gene or
                covariate, E279 for a batch without the name of its column, E240 for a number
                out of range.
            DataError: E074 for a level that training has not seen.
        """
        at = self.decoded_at(batch, library, genes)
        frame, coded = self.encode(data)
        return Expression(
            *(containers.like(frame, t) for t in self.expression_coded(coded, at, draws, seed))
        )

    def expression_coded(
        self, coded: Coded, at: At, draws: int = 25, seed: int = 0
    ) -> tuple[pa.Table, pa.Table]:
        """Return the rates of cells that are coded already, and their spread, as Arrow tables."""
        rates = expression(self.model, coded.rows, at, draws=draws, seed=seed)
        names = [self.counts_coding.names[place] for place in at.genes or ()]
        found = [finite(each.numpy(), "rates") for each in rates]
        mean, sd = (pa.table(dict(zip(names, each.T, strict=True))) for each in found)
        return mean, sd

    def decoded_at(
        self, batch: object, library: float | None, genes: Sequence[str] | None = None
    ) -> At:
        """Return where the rates of cells are decoded; see `expression`."""
        coding = self.counts_coding
        given = coding.covariates.named(batch)
        codes = {name: coding.covariates.asked(name, value)[0] for name, value in given.items()}
        return At(coding.covariates, codes, library, tuple(coding.places(genes)))

    @property
    def counts_coding(self) -> CountsCoding:
        """The coding of a model of counts.

        Raises:
            UsageError: E246 for other models.
        """
        if not isinstance(self.coding, CountsCoding):
            raise UsageError(
                "E246",
                f"this is for models of counts, and not of the recipe {self.recipe.name!r}",
                fix="lowerbound fit CELLS.h5ad --recipe counts",
            )
        return self.coding

    def differential_expression(  # noqa: PLR0913 - independent options
        self,
        data: object,
        groupby: str,
        group1: str,
        group2: str | None = None,
        *,
        batch: object = None,
        draws: int = 1000,
        delta: float = 0.25,
        seed: int = 0,
    ) -> pa.Table:
        """Compare the expression of every gene between two groups of cells.

        Posterior draws of the mean rates of both groups give the log2 fold change of every gene
        from `group2` to `group1`, the probability that it is above `delta` (or below -`delta`, if
        that is larger), and the expected false discovery rate of a list of genes. These are
        posterior probabilities under the model, not p-values.

        References:
            Boyeau et al., "Deep generative models for detecting differential expression in single
            cells", 2019, https://doi.org/10.1101/794289

        Args:
            data: cells: a path, an AnnData, a data frame, ...
            groupby: the annotation (column of `obs`, or of a table) with the group of each cell.
            group1: a group.
            group2: the group it is compared with; None for all other cells that have one.
            batch: decode both groups at this batch, see `expression`; None at each cell's own.
            draws: draws of the mean rates.
            delta: smallest log2 fold change of interest.
            seed: seed of the draws.

        Returns:
            A row per gene, the most probable change first: gene, lfc (median), lfc_low and
            lfc_high (the 95 % interval), probability, bayes_factor (logarithm of the odds, in
            nats), false_discovery_rate, rate1 and rate2 (the mean rates), and of the counts mean1,
            mean2 (per 10,000) and share1, share2 (cells with a count).

        Raises:
            UsageError: E280 for a group without cells, E240 for a number out of range, and as
                `expression`.
            DataError: E031 for an unknown annotation.
        """
        at = self.decoded_at(batch, LIBRARY)
        asked = Comparison(delta, draws=draws, seed=seed)
        given = walk(data, wanted=self.coding.wanted())
        groups = grouped(given, groupby, group1, group2, seed)
        rows = [self._coded(part).rows for part in (groups.first, groups.second)]
        found = changes(self.model, rows[0], rows[1], at, asked)
        seen = [observed(part, at) for part in rows]
        finite(found.rates, "rates")
        table = pa.table(
            {
                "gene": pa.array(self.counts_coding.names),
                "lfc": found.lfc,
                "lfc_low": found.low,
                "lfc_high": found.high,
                "probability": found.probability,
                "bayes_factor": found.bayes_factor,
                "false_discovery_rate": found.false_discovery_rate,
                "rate1": found.rates[0],
                "rate2": found.rates[1],
                "mean1": seen[0].mean,
                "mean2": seen[1].mean,
                "share1": seen[0].share,
                "share2": seen[1].share,
            }
        )
        order = np.lexsort([-np.abs(found.lfc), -found.probability])
        return table.take(pa.array(order))

    def label_probabilities(
        self, data: object, *, column: str | None = None, draws: int = 25, seed: int = 0
    ) -> pa.Table:
        """Return the probability of each label for every row.

        Of cells, by a model that learned labels: the mean over draws of z from the posterior of
        the cell, which does not see its label, at the temperature that the held-out labelled
        cells of the fit have chosen. Of a table, for any column of levels: p(level | the other
        values of the row) by the model's density, for which the row's own level is not looked at.

        Args:
            data: cells or rows: a path, an AnnData, a data frame, ...
            column: for models of tables: the column whose levels are the labels.
            draws: of cells: draws of z for each.
            seed: seed of the draws.

        Returns:
            A line per row: label, the likeliest, probability, and a column for each label.

        Raises:
            UsageError: E246 for a model without labels, E243 for a column that it does not have.
        """
        coded = self.encode(data)[1]
        return self.label_probabilities_coded(coded, draws, seed, column=column)

    def label_probabilities_coded(
        self, coded: Coded, draws: int = 25, seed: int = 0, *, column: str | None = None
    ) -> pa.Table:
        """Return the probabilities of the labels of rows that are coded already."""
        if column is not None or isinstance(self.coding, TableCoding):
            levels, p = self._levels_of(coded, column)
        else:
            levels, p = self._learned_labels(coded, draws, seed)
        p = finite(p, "probabilities")
        label = pa.array(np.array(levels, object)[p.argmax(1)])
        columns = {"label": label, "probability": p.max(1)}
        columns |= {level: p[:, place] for place, level in enumerate(levels)}
        return pa.table(columns)

    def _learned_labels(
        self, coded: Coded, draws: int, seed: int
    ) -> tuple[list[str], NDArray[np.float64]]:
        """Return the labels that the model learned, and their probabilities, (n, labels)."""
        labels = self.counts_coding.labels
        if labels is None:
            raise UsageError(
                "E246",
                "the model learned no labels",
                fix="lowerbound fit CELLS.h5ad --labels COLUMN",
            )
        temperature = self.facts.get("labels", {}).get("temperature", 1.0)
        logits = label_logits(self.model, coded.rows, draws, seed)
        return list(labels.levels), probabilities(logits, temperature)

    def _levels_of(
        self, coded: Coded, column: str | None
    ) -> tuple[list[str], NDArray[np.float64]]:
        """Return the levels of a column of a table, and their probabilities, (n, levels)."""
        if not isinstance(self.coding, TableCoding):
            raise UsageError(
                "E246",
                f"a model of the recipe {self.recipe.name!r} has no columns of levels",
                fix="leave --column out: it is for models of tables",
            )
        found = [c for c in self.coding.schema.columns if isinstance(c, Category)]
        names = [each.name for each in found]
        if column not in names:
            near = nearest(column or "", names)
            asked = "none is named" if column is None else f"{column!r} is none of these"
            raise UsageError(
                "E246" if column is None else "E243",
                f"labels of a table are the levels of one of its columns, and {asked}: "
                f"{listed(names)}",
                fix=f"--column {shlex.quote(near or (names or ['COLUMN'])[0])}",
            )
        chosen = found[names.index(column)]
        part = next(g.parts[0] for g in self.coding.groups if g.column == column)
        first = int(chosen.kind == "categorical")  # code 0 is that of unknown levels
        codes = range(first, first + len(chosen.levels))
        samples = self.importance_samples
        return list(chosen.levels), level_probabilities(self.model, coded, part, codes, samples)

    def predictive_checks(self, data: object, *, draws: int = 10, seed: int = 0) -> pa.Table:
        """Compare counts with counts that the model draws for the same cells.

        A gene whose observed value is far from the drawn ones, in units of their standard
        deviation, shows what the likelihood does not describe, such as too many zeros.

        Args:
            data: cells: a path, an AnnData, a data frame, ...
            draws: how many times all cells are drawn.
            seed: seed of the draws.

        Returns:
            A row per gene: gene, and for each of zeros (the share of cells without a count), mean
            and variance of the counts: the observed value, ``zeros_replicated``, its mean over
            the draws, and ``zeros_sd``, its standard deviation over them.

        Raises:
            UsageError: E246 for a model that is not of counts, E240 for fewer than two draws.
        """
        names = self.counts_coding.names
        rows = self.encode(data)[1].rows
        columns: dict[str, Any] = {"gene": pa.array(names)}
        found = predictive_checks(self.model, rows, draws=draws, seed=seed)
        for name, each in found.items():
            finite(each.replicated, "draws")
            columns[name] = each.observed
            columns[f"{name}_replicated"], columns[f"{name}_sd"] = each.replicated, each.sd
        return pa.table(columns)

    def decode_latents(self, z: NDArray[np.floating]) -> pa.Table:
        """Return the mean of p(x | z) for latents z, (n, latent), as an Arrow table.

        Counts of cells are those for a median total of the training rows.
        """
        wanted = torch.as_tensor(np.asarray(z), dtype=torch.float32)
        context = self.coding.contexts(CONTEXTS, 0)
        if context is not None:
            middle = context[:, 0].argsort()[len(context) // 2]
            context = context[middle].expand(len(wanted), -1)
        values = tasks.decode(self.model, wanted, context)
        return self.coding.means(finite(values.numpy(), "values"))

    def __repr__(self) -> str:
        """Return the model, its data, its verdict and its columns as text."""
        return notebook.text_of_model(self)

    def _repr_html_(self) -> str:
        """Return the model as HTML, for notebooks."""
        return notebook.html_of_model(self)

    @property
    def plot(self) -> Plots:
        """Plots of this model as matplotlib axes: scores, calibration, embedding, and others."""
        return Plots(self)

    def some(
        self, data: object, most: int, *, seed: int = 0, keep: Sequence[str] = ()
    ) -> SomeRows:
        """Read rows for this model: all of `data`, or `most` of them, drawn at random.

        Args:
            data: rows: a path, a data frame, an array, ...
            most: number of rows to read at most.
            seed: seed of the draw.
            keep: columns to read in addition to those of the model.

        Returns:
            The rows, which every method takes as data, their places in `data`, and the number of
            rows of `data`.
        """
        given = walk(data, wanted=self.coding.wanted())
        wanted = needed(given, self.coding)
        if not set(keep) <= set(wanted.names):
            wanted = given
        return some_rows(wanted, most, seed)

    def canonical(self, data: object) -> pa.Table:
        """Return the modelled columns of rows, each in one type, as an Arrow table.

        Numbers are float64, dates seconds since 1970 as float64, and categories text.

        Args:
            data: rows: a path, a data frame, an array, ...

        Raises:
            UsageError: E246 or E247 for a model that is not of a table.
        """
        frame = read(data, wanted=self.coding.wanted())
        coding = compare_report.table_coding(self)
        return coding.schema.canonical(frame.to_table().table, frame.origin)

    def coverage(
        self,
        data: object,
        *,
        columns: Sequence[str] | None = None,
        most: int = 100,
        draws: int = 20,
        seed: int = 0,
    ) -> list[ColumnCoverage]:
        """Hide each column in turn, and say how often its values are as the model expects.

        Args:
            data: rows that the model did not learn from.
            columns: names of the columns to hide; by default all that are modelled.
            most: number of rows that are used at most, drawn at random.
            draws: draws of every hidden value.
            seed: seed of all draws.

        Returns:
            The coverage of every column: of numbers by the central 80 % interval.

        Raises:
            UsageError: E246 or E247 for a model that is not of a table.
        """
        coding = compare_report.table_coding(self)
        frame = self.some(data, most, seed=seed).frame.to_table()
        truth = coding.schema.canonical(frame.table, frame.origin)
        modelled = coding.schema.modelled
        names = [name for name in columns or modelled if name in modelled]
        if len(modelled) < 2:  # there is nothing to predict the only column from
            return []
        hidden = []
        for name in names:
            column = frame.table.column_names.index(name)
            gap = pa.nulls(frame.rows, frame.table.schema.field(name).type)
            hidden.append(frame.table.set_column(column, name, gap))
        every = replace(frame, table=pa.concat_tables(hidden), files=(), labels=())
        filled = self.impute_coded(*self.encode(every), draws=draws, seed=seed)
        drawn = coding.schema.canonical(filled, frame.origin)
        found, rows = [], frame.rows
        for place, name in enumerate(names):
            copies = [
                drawn[name].slice(copy * every.rows + place * rows, rows) for copy in range(draws)
            ]
            found.append(column_coverage(name, truth[name], copies, seed))
        return [each for each in found if each is not None]

    def latent_meanings(self, data: object, *, most: int = 12) -> list[LatentMeaning]:
        """Say what each latent stands for: how rows at its low and at its high end differ.

        Args:
            data: rows: a path, a data frame, an array, ...
            most: number of latents to tell at most, those that vary most.

        Returns:
            The latents in use, with the columns that move with each. Latents of pictures have no
            columns: decode them by `decode_latents`.
        """
        frame, coded = self.encode(data)
        z = self.embed_coded(coded)
        rates = self.facts.get("health", {}).get("rate_per_dimension", ())
        if isinstance(self.coding, TableCoding):
            values = self.coding.schema.canonical(frame.to_table().table, frame.origin)
            return latent_meanings(z, values, values.column_names, rates, most)
        if isinstance(frame, Matrix):
            return latent_meanings(z, frame.matrix.tocsr(), frame.columns, rates, most)
        nothing = pa.table({"none": pa.nulls(len(z), pa.float64())})
        return latent_meanings(z, nothing, ("none",), rates, most)

    def heatmaps(self, data: object) -> NDArray[np.float32]:
        """Return where pictures are unusual: the excess nats of every pixel, (n, H, W).

        It is the pixel's -log p minus its expected value: near 0 for pixels as the model expects
        them, above 0 where a picture is unusual.

        Args:
            data: pictures: a folder, an array, ...

        Raises:
            UsageError: E246 for a model that is not of pictures.
        """
        if not isinstance(self.coding, PictureCoding):
            raise UsageError(
                "E246",
                "heat maps need a model of pictures",
                fix="score with explain=3 names the columns that make a row unusual",
            )
        rows = self.encode(data)[1].rows
        return finite(
            tasks.pixel_excess(self.model, rows, self.importance_samples).numpy(), "heat maps"
        )

    def shown(self, data: object) -> NDArray[np.uint8]:
        """Return pictures as (n, H, W, C) of 8 bits, to be looked at.

        Args:
            data: pictures: a folder, an array, drawn pictures, ...

        Raises:
            UsageError: E246 for a model that is not of pictures.
        """
        if not isinstance(self.coding, PictureCoding):
            raise UsageError("E246", "only a model of pictures has pictures to show")
        frame = read(data, wanted=self.coding.wanted())
        return self.coding.shown(self.coding.raw(frame))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to the folder `path` atomically, and return its absolute path."""
        return bundle.save(
            path,
            documents={**self.documents(), "card.md": cards.card(self)},
            weights=self.model.state_dict(),
            overwrite=overwrite,
        )

    def documents(self) -> dict[str, Any]:
        """Return everything except the weights as plain JSON values, by file name."""
        return {
            "config.json": {"recipe": self.recipe.name, "arguments": self.arguments},
            "schema.json": self.coding.document(),
            "calibration.json": {
                "scores": self.calibration.scores.tolist(),
                "alarm": self.alarm._asdict(),
                "further": {by: way.document() for by, way in self.further.items()},
                "held_out": self.held_out.document(),
            },
            "metrics.json": self.facts,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling, by the content of the model file: plain values and arrays."""
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
        """Load a saved model after checking all its digests.

        A model file never names code to import, so a model of your own recipe is loaded by
        passing that recipe.

        Args:
            path: the folder that `save` wrote, or the name of a model inside the package.
            device: device of the model, such as "cpu" or "cuda".
            recipe: the recipe that built the model; needed only if it is your own.

        Raises:
            ModelFileError: E1xx if the folder is not an intact model of a known format; E141 for
                an unknown recipe, or one that differs from `recipe`.
        """
        saved = bundle.load(path)
        return restored(saved.documents, saved.weights, device, str(path), recipe)


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    recipe: Recipe | Callable[..., LatentModel] | None = None,
) -> Model:
    """Load a model that `Model.save` or ``lowerbound fit`` wrote, after checking all its digests.

    Args:
        path: the folder, or the name of a model inside the package, such as "photos-denoise".
        device: device of the model, such as "cpu" or "cuda".
        recipe: the recipe that built the model; needed only if it is your own, because a model
            file never names code to import.

    Raises:
        ModelFileError: E1xx if the folder is not an intact model of a known format; E141 for an
            unknown recipe, or one that differs from `recipe`.
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
            fix=f"in Python, pass the recipe: lowerbound.load(PATH, recipe={name})",
            recipe=name,
        )
    recipe = find(own)
    if recipe.name != name:
        raise ModelFileError(
            "E141",
            f"{origin} was built by the recipe {name!r}, but {recipe.name!r} was passed",
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
    """Build a model from its `Model.documents` and weights.

    Raises:
        ModelFileError: E116 for content that no fit writes, E140 if the weights do not fit the
            recipe, E141 for an unknown recipe.
    """
    contents.check(documents)
    config, calibration = documents["config.json"], documents["calibration.json"]
    recipe, arguments = _recipe_of(config["recipe"], own, origin), config["arguments"]
    if own is None:
        building.check_arguments(recipe, arguments, arrays)
    try:
        coding = restore(documents["schema.json"], recipe.restoration)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise invalid("schema.json", f"cannot be used: {snippet(error, 200)}") from None
    building.check_coding(recipe, arguments, coding)
    model = building.build(recipe, arguments, arrays, origin)
    return Model(
        recipe=recipe,
        arguments=arguments,
        coding=coding,
        model=model.to(device).eval(),
        calibration=Calibration(np.asarray(calibration["scores"], np.float64)),
        alarm=Alarm.restored(calibration["alarm"]),
        facts=documents["metrics.json"],
        further=kept(calibration.get("further", {})),
        held_out=_held_out(calibration.get("held_out", {}), coding),
    )


def _held_out(document: Mapping[str, Any], coding: Coding) -> HeldOut:
    """Return the distributions of held-out columns, which must be those of the coding."""
    found = HeldOut.restored(document)
    parts = {} if coding.shape else {group.column: len(group.parts) for group in coding.groups}
    for name, column in found.columns.items():
        if parts.get(name) != len(column.parts):
            raise invalid(
                "calibration.json", f"is wrong at 'held_out.columns': {snippet(name)} does not fit"
            )
    return found
