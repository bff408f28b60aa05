"""The coding of counts, as of single cells: counts, library size and covariates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import scipy
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lowerbound.coding.base import Coded, Conditions, Group, table_of
from lowerbound.coding.context import LABEL, Context, Factor, split_kinds
from lowerbound.coding.filling import filled
from lowerbound.coding.rows import Sparse
from lowerbound.columns.arrow import floats, is_number, listed, plain
from lowerbound.columns.numbers import Count, Numeric
from lowerbound.columns.schema import matched, no_column
from lowerbound.errors import DataError, UsageError, each_of, nearest
from lowerbound.files.data import Matrix, Whole
from lowerbound.files.pictures.options import ANY, Wanted
from lowerbound.noise import derive

ABSENT = 0.1  # share of the model's genes that may be missing from new cells
_MOST_LOST = 0.99  # share of the counts of training that missing genes are taken to have at most
TOTAL = "total"  # the name of the row's total in conditions of samples
DEPTHS = 4096  # totals that a model keeps, of all profiles together
MOST = 2**24  # largest count that float32 holds exactly with all smaller ones
_LEAST_DEPTHS = 16  # of each profile


class Profile(NamedTuple):
    """Training rows of the same levels, from which the contexts of drawn rows are drawn.

    Attributes:
        codes: the level of each factor.
        rows: the number of rows.
        totals: of some of the rows, evenly spaced among all of them in increasing order.
        numbers: the coded numbers of these rows, for each of them one per measure.
    """

    codes: tuple[int, ...]
    rows: int
    totals: tuple[int, ...]
    numbers: tuple[tuple[float, ...], ...] = ()

    def as_values(self) -> dict[str, Any]:
        """Return plain JSON values, which `restored` reads."""
        made = {"codes": list(self.codes), "rows": self.rows, "totals": list(self.totals)}
        return {**made, "numbers": [list(each) for each in self.numbers]}

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Profile:
        """Rebuild a profile from plain values."""
        return cls(
            tuple(values["codes"]),
            values["rows"],
            tuple(map(int, values["totals"])),
            tuple(tuple(map(float, each)) for each in values["numbers"]),
        )


@dataclass(frozen=True)
class CountsCoding:
    """The coding of the recipe `counts`: raw counts, with log library size as context.

    The context of a row is its log library size and then its covariates; see `Context`.

    Args:
        names: the columns (genes), in the model's order.
        covariates: what the counts are conditional on besides their total.
        profiles: levels, totals and numbers of training rows; None for models of versions
            before 1.0, which do not know them.
        layer: the layer of an AnnData with the counts; "" chooses it.
        shares: of each gene in all counts of training, to complete the total of a row that lacks
            some genes; () for models of versions before 1.0.
        labels: the column of labels that is modelled together with the counts, and its levels.
    """

    names: tuple[str, ...]
    covariates: Context = Context()
    profiles: tuple[Profile, ...] | None = None
    layer: str = ""
    shares: tuple[float, ...] = ()
    labels: Factor | None = None

    @classmethod
    def fit(
        cls, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> CountsCoding:
        """Take every column of `frame` that is not dropped, and check that it holds counts.

        Raises:
            UsageError: E249 for `types` other than covariates.
            DataError: E031 where one is missing, E033 where it has no value, and as `encode`.
        """
        coding = cls.seen([frame], frame.names, types=types, drop=drop)
        rows = coding.encode(frame).rows
        assert isinstance(rows, Sparse), "counts are stored as a sparse matrix"
        assert rows.context is not None, "counts have a context"
        coding = replace(coding, layer=frame.layer).with_shares(rows.matrix.sum(0))
        return coding.with_profiles(rows.context)

    @classmethod
    def seen(
        cls,
        parts: Iterable[Whole],
        names: Sequence[str],
        *,
        types: Mapping[str, str],
        drop: Sequence[str],
    ) -> CountsCoding:
        """Return the coding of all columns that are not dropped, reading only the covariates.

        Args:
            parts: the rows.
            names: of the columns.
            types: the kinds of the columns of covariates and of labels, by name.
            drop: names to leave out.

        Raises:
            UsageError: E249 for `types` other than covariates and one column of labels, E203 for
                an unknown name.
            DataError: E031 where one is missing, E033 where it has no value.
        """
        kinds, others = split_kinds(types)
        labels = {name: kind for name, kind in others.items() if kind == LABEL}
        others = {name: kind for name, kind in others.items() if kind != LABEL}
        if others or len(labels) > 1:
            wrong = listed([f"{n}={k}" for n, k in (others or labels).items()])
            raise UsageError(
                "E249",
                "the recipe counts knows the kinds batch, covariate and one label only, since all "
                f"other columns are counts: not {wrong}",
                fix="--batch COLUMN, --covariate COLUMN, --labels COLUMN, or leave it out",
            )
        found = Context.seen({**kinds, **labels}, parts).covariates
        left = {*matched(drop, names, "drop"), *kinds, *labels}
        label = found[-1] if labels else None
        assert label is None or isinstance(label, Factor), "labels are levels"
        context = Context(found[: len(kinds)])
        return cls(tuple(n for n in names if n not in left), context, labels=label)

    def with_shares(self, sums: ArrayLike) -> CountsCoding:
        """Return the coding with the share of each gene in the counts of training.

        Args:
            sums: (genes,) the counts of each gene in all training rows together.
        """
        each = np.asarray(sums, np.float64).ravel()
        shares = each / max(each.sum(), 1.0)
        return replace(self, shares=tuple(float(f"{share:.4g}") for share in shares))

    def with_profiles(self, context: Tensor) -> CountsCoding:
        """Return the coding with the contexts of training rows, to draw rows of such contexts.

        Args:
            context: (n, 1 + width) of the training rows, as `encode` gives it.
        """
        totals = np.rint(np.exp(context[:, 0].double().numpy())).astype(np.int64)
        codes, numbers, known = [], [], np.ones(len(totals), dtype=bool)
        for each, span in self.covariates.spans():
            values = context[:, 1:][:, span]
            if isinstance(each, Factor):
                share, code = values.max(1)
                known &= (share == 1).numpy()  # others have no level of their own
                codes.append(code.numpy())
            else:
                numbers.append(values[:, 0].double().numpy())
        rows = np.flatnonzero(known)
        if not len(rows):  # no row has a level of every factor
            return replace(self, profiles=None)
        levels = np.stack([*codes, np.zeros_like(totals)], 1)[rows]
        found, own = np.unique(levels, axis=0, return_inverse=True)
        most = max(DEPTHS // len(found), _LEAST_DEPTHS)
        profiles = [
            _profile(tuple(group[:-1]), rows[own.ravel() == place], totals, numbers, most)
            for place, group in enumerate(found.tolist())
        ]
        return replace(self, profiles=tuple(profiles))

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> CountsCoding:
        """Rebuild a coding from its `document`, or from that of a version before 1.0."""
        names = tuple(document["names"])
        if "covariates" in document:
            kept = document.get("profiles")
            profiles = None if kept is None else tuple(Profile.restored(each) for each in kept)
            context = Context.restored(document["covariates"])
            shares = tuple(map(float, document.get("shares", ())))
            label = document.get("labels")
            own = None if label is None else Context.restored([label]).factors[0]
            return cls(names, context, profiles, document.get("layer", ""), shares, own)
        batches, depths = document.get("batches"), document.get("depths")
        batch = Factor(document.get("batch", ""), batches or {}, document.get("dtype", "string"))
        context = Context((batch,) if batches else ())
        if depths is None:
            return cls(names, context)
        profiles = [
            Profile((i,) if batches else (), rows, tuple(map(int, depths[name])))
            for i, (name, rows) in enumerate((batches or {"": 1}).items())
        ]
        return cls(names, context, tuple(profiles))

    @property
    def shape(self) -> tuple[int, ...]:
        """(): rows are not images."""
        return ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The columns, one part each."""
        return tuple(Group(name, (i,)) for i, name in enumerate(self.names))

    @property
    def gaps(self) -> bool:
        """False: counts are never missing."""
        return False

    def arguments(self) -> dict[str, Any]:
        """The number of columns, and of the numbers of covariates where there are any."""
        sizes = {"batches": self.covariates.width}
        sizes["labels"] = 0 if self.labels is None else self.labels.width
        return {"features": len(self.names), **{n: size for n, size in sizes.items() if size}}

    def places(self, genes: Sequence[str] | None) -> list[int]:
        """Return the positions of genes, in their order; of all genes for None.

        Raises:
            UsageError: E243 for a gene that the model does not have.
        """
        if genes is None:
            return list(range(len(self.names)))
        known = {name: place for place, name in enumerate(self.names)}
        unknown = [gene for gene in genes if gene not in known]
        if unknown:
            near = nearest(unknown[0], self.names)
            raise UsageError(
                "E243",
                f"the model has no gene {listed(unknown)}",
                fix=f"did you mean {near!r}?" if near else "lowerbound info M.vae --json has all",
            )
        return [known[gene] for gene in genes]

    def wanted(self) -> Wanted:
        """The layer that the counts are read from."""
        return replace(ANY, layer=self.layer)

    def encode(self, frame: Whole) -> Coded:
        """Return the counts with log library size and the covariates as context.

        Genes that are missing from `frame`, at most a tenth, are NaN, which a likelihood leaves
        out, and counted in a note. The library size is then that of the other genes, divided by
        their share in the counts of training.

        Raises:
            DataError: E031 for more missing columns, E073 for values that are no counts.
        """
        place = {name: i for i, name in enumerate(frame.names)}
        there = np.array([name in place for name in self.names], dtype=bool)
        notes = () if there.all() else (self._absent(there, frame),)
        known = np.flatnonzero(there)
        found = scipy.sparse.csr_matrix(
            _columns(frame, [place[self.names[i]] for i in known]), dtype=np.float64
        )
        shape = (frame.rows, len(self.names))
        matrix = scipy.sparse.csr_matrix(
            (found.data, known[found.indices], found.indptr), shape=shape
        )
        _check_counts(matrix, frame, self.names)
        totals = np.asarray(matrix.sum(1)).ravel()
        absent = tuple(np.flatnonzero(~there).tolist())
        lost = min(sum(self.shares[i] for i in absent if self.shares), _MOST_LOST)
        logs = np.log(np.maximum(totals, 1.0)) - np.log1p(-lost)
        context = torch.from_numpy(logs.astype(np.float32))[:, None]
        others = self.covariates.encode(frame, self.names)
        nothing = np.zeros(len(totals))
        context = torch.cat([context, others.values, self.given_labels(frame)], 1)
        return Coded(
            Sparse(matrix, context, absent),
            lambda: nothing,
            nothing,
            unseen=others.unseen,
            clipped=others.clipped,
            missing=others.missing,
            notes=notes,
        )

    def given_labels(self, frame: Whole) -> Tensor:
        """Return 1 for the label of each row, (n, labels); rows without a known one have 0s."""
        if self.labels is None or self.labels.name not in frame.annotations.column_names:
            return torch.zeros(frame.rows, 0 if self.labels is None else self.labels.width)
        rows = torch.cat([torch.eye(self.labels.width), torch.zeros(1, self.labels.width)])
        return rows[self.labels.codes(frame.annotations[self.labels.name])]

    def _absent(self, there: NDArray[np.bool_], frame: Whole) -> str:
        """Return a note on missing genes, or raise E031 if they are too many."""
        absent = [name for name, is_there in zip(self.names, there, strict=True) if not is_there]
        genes = "genes" if isinstance(frame, Matrix) else "columns"
        message = (
            f"{len(absent):,} of {len(self.names):,} {genes} of the model are missing from "
            f"{frame.origin}"
        )
        if len(absent) <= ABSENT * len(self.names):
            return f"{message}; the likelihood leaves them out: {listed(absent)}"
        raise DataError(
            "E031",
            f"{message}: {listed(absent)}; {frame.origin} has {listed(list(frame.names), 3)}",
            fix=f"give the counts of all {genes} of the model, under the same names; up to "
            f"{ABSENT:.0%} may be missing",
            columns=absent,
            count=len(absent),
        )

    def decode(self, values: NDArray[np.floating], *, bounded: bool = False) -> pa.Table:
        """Return drawn counts as integer columns."""
        whole = np.rint(np.asarray(values, np.float64)).astype(np.int64)
        return pa.table({name: whole[:, i] for i, name in enumerate(self.names)})

    def means(self, values: NDArray[np.floating]) -> pa.Table:
        """Return means as columns of floats, whose sum is the total of the row."""
        wide = np.asarray(values, np.float64)
        return pa.table({name: wide[:, i] for i, name in enumerate(self.names)})

    def drawn(self, values: NDArray[np.floating], context: Tensor | None) -> pa.Table:
        """Return drawn rows as the covariates, if the model has any, and integer columns."""
        table = self.decode(values, bounded=True)
        if context is None:
            return table
        for name, column in reversed(self.covariates.decode(context[:, 1:]).items()):
            table = table.add_column(0, name, column)
        return table

    def contexts(self, n: int, seed: int, given: Conditions | None = None) -> Tensor | None:
        """Return contexts of rows to draw: totals, levels and numbers together, as in training.

        Args:
            n: number of rows.
            seed: seed of the draws.
            given: conditions on covariates and the total.

        Returns:
            (n, 1 + width): log total and covariates; None for models that keep no profiles.
        """
        if self.profiles is None:
            return None
        draws = np.random.default_rng(derive("contexts", seed))
        asked: Mapping[str, float] = {} if given is None else given.context
        least = 0.0 if given is None else float(given.row.nansum())
        total = self._total(asked)
        rows, weights = np.zeros(len(self.profiles)), []
        for code, profile in enumerate(self.profiles):
            depths, near = np.asarray(profile.totals, np.int64), self._nearness(profile, asked)
            weights.append(near if total else near * (depths >= least))
            if len(depths) and self._matches(profile, asked):
                share = weights[code].mean() * (_near(depths, total) if total else 1.0)
                rows[code] = profile.rows * share
        if not rows.any():
            raise DataError(
                "E074",
                f"the counts that are given add up to {least:,.0f}, and no row of the training "
                "data had such a total",
                fix="give smaller counts",
            )
        codes = draws.choice(len(self.profiles), n, p=rows / rows.sum())
        place = draws.random(n)
        totals, made = np.full(n, total or 0.0), torch.zeros(n, self.covariates.width)
        for code, profile in enumerate(self.profiles):
            own = np.flatnonzero(codes == code)
            if len(own):
                chosen = _by_weight(weights[code], place[own])
                made[own] = self._coded(profile, chosen)
                if total is None:
                    totals[own] = np.asarray(profile.totals, np.int64)[chosen]
        logs = torch.from_numpy(np.log(np.maximum(totals, 1.0)).astype(np.float32))[:, None]
        none = torch.zeros(n, 0 if self.labels is None else self.labels.width)
        return torch.cat([logs, self.covariates.imposed(made, asked), none], 1)

    def _total(self, asked: Mapping[str, float]) -> float | None:
        """Return the total that is asked, if any: a covariate may have that name."""
        return None if TOTAL in self.covariates.names else asked.get(TOTAL)

    def _matches(self, profile: Profile, asked: Mapping[str, float]) -> bool:
        """Return whether the levels of a profile are those that are asked."""
        each = zip(self.covariates.factors, profile.codes, strict=True)
        return all(asked.get(factor.name, code) == code for factor, code in each)

    def _nearness(self, profile: Profile, asked: Mapping[str, float]) -> NDArray[np.float64]:
        """Return a weight for each row that a profile keeps: by asked numbers, 1 without any."""
        weight = np.ones(len(profile.totals))
        for place, measure in enumerate(self.covariates.measures):
            if measure.name in asked and len(weight):
                values = np.asarray([each[place] for each in profile.numbers])
                weight = weight * _kernel(values, asked[measure.name])[0]
        return weight

    def _coded(self, profile: Profile, chosen: NDArray[np.int64]) -> Tensor:
        """Return the covariates of chosen rows of a profile, (n, width)."""
        made = torch.zeros(len(chosen), self.covariates.width)
        numbers = torch.tensor(profile.numbers)
        codes, places = iter(profile.codes), iter(range(len(self.covariates.measures)))
        for each, span in self.covariates.spans():
            if isinstance(each, Factor):
                made[:, span] = each.coded(next(codes))
            else:
                made[:, span] = numbers[torch.from_numpy(chosen), next(places)][:, None]
        return made

    def asked(self, where: Mapping[str, object]) -> Conditions:
        """Return counts, covariates and a total as conditions of samples.

        The total is called "total", unless a gene or a covariate has that name.

        Raises:
            LowerboundError: E243 for an unknown column, E245 for a missing value, E032 and E035
                for values that are no counts, E074 for a level, number or total that training has
                not seen; E233 for several of them.
        """
        places = {name: i for i, name in enumerate(self.names)}
        row, cells = torch.full((len(places),), torch.nan), {}
        context: dict[str, float] = {}

        def take(name: str) -> None:
            if name in places:
                found = Count(name=name, kind="count", dtype="int64", high=MOST).asked(where[name])
                row[places[name]], cells[name] = float(found.codes[0]), found.cell
            elif self.profiles is not None and name in self.covariates.names:
                context[name], cells[name] = self.covariates.asked(name, where[name])
            elif self.profiles is not None and name == TOTAL:
                context[TOTAL] = self._asked_total(where[name])
            else:
                extra = [] if self.profiles is None else [TOTAL, *self.covariates.names]
                raise no_column(name, [*extra, *places])

        each_of(where, take, "conditions")
        self._check_context(context, float(row.nansum()))
        return Conditions(row, cells, (), context)

    def _check_context(self, context: Mapping[str, float], given: float) -> None:
        """Refuse levels and a total that no rows have together, or too small a total."""
        if self.profiles is None:
            return
        total = self._total(context)
        factors = [each for each in self.covariates.factors if each.name in context]
        levels = [list(each.levels)[int(context[each.name])] for each in factors]
        own = [d for p in self.profiles if self._matches(p, context) for d in p.totals]
        if len(factors) > 1 and not own:
            told = [f"{f.name} = {level!r}" for f, level in zip(factors, levels, strict=True)]
            raise DataError(
                "E074",
                f"the training data did not contain rows with {' and '.join(told)}",
                fix="leave out one of the conditions",
            )
        if total is None:
            return
        if factors and not (own and min(own) <= total <= max(own)):
            seen = f"go from {min(own):,} to {max(own):,}" if own else "are not known"
            raise DataError(
                "E074",
                f"the training data did not contain a total of {total:,} in the batch "
                f"{' and '.join(map(repr, levels))}: its totals {seen}",
                fix="leave out the total or the batch",
            )
        if given > total:
            raise DataError(
                "E074",
                f"the counts that are given add up to {given:,.0f}, more than the total {total:,}",
                fix="give a larger total, or smaller counts",
            )

    def _asked_total(self, value: object) -> int:
        seen = [depth for each in self.profiles or () for depth in each.totals]
        column = Numeric(
            name=TOTAL,
            kind="real",
            dtype="int64",
            mean=0.0,
            std=1.0,
            low=min(seen),
            high=max(seen),
            whole=True,
        )
        return int(column.asked(value).cell[0].as_py())

    def filled(self, frame: Whole, values: NDArray[np.floating]) -> pa.Table:
        """Return the rows of `frame` with missing values replaced by the decoded `values`."""
        return filled(table_of(frame), self.decode(values))

    def document(self) -> dict[str, Any]:
        """Return the columns' names, the covariates and the contexts of training rows."""
        document: dict[str, Any] = {"coding": "counts", "names": list(self.names)}
        document["covariates"] = self.covariates.documents()
        if self.layer:
            document["layer"] = self.layer
        if self.shares:
            document["shares"] = list(self.shares)
        if self.labels is not None:
            document["labels"] = self.labels.document()
        if self.profiles is not None:
            document["profiles"] = [each.as_values() for each in self.profiles]
        return document


@singledispatch
def _columns(frame: Whole, places: Sequence[int]) -> Any:
    """Return the columns at these positions as one matrix, dense or sparse."""
    table = table_of(frame)
    return np.column_stack([_numbers(table.column(i), table.column_names[i]) for i in places])


def _numbers(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    """Return the values of a column of counts, NaN where missing."""
    if is_number(column.type):
        return np.asarray(column.to_numpy(), np.float64)
    try:
        return floats(plain(column), name)
    except DataError as error:
        raise DataError(
            "E073",
            f"column {name!r} does not hold counts: {error.message}",
            fix=f"leave it out: --drop {name}, or give it as a batch: --batch {name}",
            column=name,
        ) from error


@_columns.register
def _(frame: Matrix, places: Sequence[int]) -> Any:
    return frame.matrix[:, list(places)]


def _profile(
    codes: tuple[int, ...],
    rows: NDArray[np.int64],
    totals: NDArray[np.int64],
    numbers: Sequence[NDArray[np.float64]],
    most: int,
) -> Profile:
    """Return the profile of training rows of the same levels, with at most `most` of them.

    Rows with equal totals are put in the order of their numbers, so that the profile does not
    depend on the order of the rows.
    """
    keys = [column[rows] for column in reversed(numbers)]
    kept = _spaced(rows[np.lexsort([*keys, totals[rows]])], most)
    own = np.stack([column[kept] for column in numbers], 1).tolist() if numbers else []
    return Profile(codes, len(rows), tuple(totals[kept].tolist()), tuple(map(tuple, own)))


def _by_weight(weights: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index of a row for each number in [0, 1), in proportion to the weights."""
    fitting = np.flatnonzero(weights)
    if (weights[fitting] == 1).all():
        return fitting[(place * len(fitting)).astype(int)]
    ends = weights[fitting].cumsum()
    return fitting[np.searchsorted(ends, place * ends[-1], "right").clip(0, len(fitting) - 1)]


def _spaced(ordered: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` of sorted numbers, evenly spaced in rank."""
    if len(ordered) <= most:
        return ordered
    return ordered[((np.arange(most) + 0.5) * len(ordered) / most).astype(int)]


def _near(depths: NDArray[np.int64], total: float) -> float:
    """Return the density of log totals near one, by a kernel estimate that vanishes nowhere."""
    weight, width = _kernel(np.log(np.maximum(depths, 1)), np.log(total))
    return float(weight.mean() / width)


def _kernel(values: NDArray[np.float64], at: float) -> tuple[NDArray[np.float64], float]:
    """Return the weights of values near one, and the width of the kernel."""
    width = 1.06 * values.std() * len(values) ** -0.2 + 0.02
    return np.exp(-np.minimum(0.5 * ((at - values) / width) ** 2, 600.0)), width


def _check_counts(matrix: scipy.sparse.csr_matrix, frame: Whole, names: Sequence[str]) -> None:
    data = matrix.data
    bad = ~np.isfinite(data) | (data < 0) | (data != np.floor(data))
    if not bad.any():
        return
    first = int(bad.argmax())
    row = int(np.searchsorted(matrix.indptr, first, side="right")) - 1
    looks_logged = np.isfinite(data).all() and data.min() >= 0 and data.max() < 20
    raise DataError(
        "E073",
        f"{frame.origin}: {int(bad.sum())} values are not counts, the first is "
        f"{data[first]:.6g} in row {row}, column {names[matrix.indices[first]]!r}"
        + ("; the values look log-normalised" if looks_logged else ""),
        fix="give the raw counts, or use --recipe table",
    )
