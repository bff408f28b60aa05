"""Families of whole rows: mixed tables, missing values, counts that share a library size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.nn.distributions.base import Blocks, Observed, elementwise
from lowerbound.nn.distributions.counts import NegativeBinomial, PoissonLog, ZeroInflated
from lowerbound.nn.distributions.families import (
    Bits,
    Categories,
    Family,
    Gaussian,
    NegativeBinomialFamily,
    Ordinals,
    dispersion,
)
from lowerbound.nn.distributions.level_trees import TreeCategories

FEW = 16  # categorical columns of up to this many levels are padded to one width
COUNTED = 100_000  # rows from which the frequencies of many levels are counted


class Table(Family):
    """Joint of a table's coded columns, each with the family of its kind; NaN is missing.

    Columns of one kind (and of similar size, for categorical ones) are computed together.

    Args:
        families: for every coded column, "real", "count", "binary", "ordinal" or "categorical".
        sizes: number of codes of every coded column; 1 for numbers.
        real: one family for all real columns; a `Gaussian` by default.
        reserved: for every column, the probability of an unseen category (see `Categories`);
            empty where no code is reserved.
        tree_above: number of levels above which a categorical column gets a softmax in two steps,
            see `TreeCategories`; None for one softmax over all levels of every column.

    >>> family = Table(["real", "categorical"], [1, 3])
    >>> numbers = torch.zeros(2, family.numbers(2))
    >>> family(numbers).log_prob(torch.tensor([[0.5, 2.0], [torch.nan, 1.0]])).shape  # nats
    torch.Size([2])
    """

    places: Tensor

    def __init__(
        self,
        families: Sequence[str],
        sizes: Sequence[int],
        real: Family | None = None,
        reserved: Sequence[float] = (),
        tree_above: int | None = None,
    ) -> None:
        super().__init__()
        reserved = reserved or [0.0] * len(families)
        self.members, self.spans = nn.ModuleDict(), []
        trees = {
            i: TreeCategories(size, reserved[i])
            for i, (kind, size) in enumerate(zip(families, sizes, strict=True))
            if kind == "categorical" and tree_above is not None and size > tree_above
        }
        # A column with a tree is a kind of its own: its numbers follow those of the other kinds.
        kinds = [f"tree{i}" if i in trees else kind for i, kind in enumerate(families)]
        made = {f"tree{i}": tree for i, tree in trees.items()}
        starts, self.total = _layout(kinds, sizes, real, made)
        groups: dict[str, list[int]] = {}
        for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
            groups.setdefault(_group(kind, size), []).append(i)
        for group, columns in groups.items():
            kind = kinds[columns[0]]
            self.register_buffer(f"at_{group}", torch.tensor(columns), persistent=False)
            if kind == "categorical":  # `Categories` picks its own numbers
                member: Family = Categories(
                    [sizes[i] for i in columns],
                    [reserved[i] for i in columns],
                    [starts[i] for i in columns],
                )
                self.spans.append((0, self.total))
            else:
                member = made.get(kind) or _member(kind, [sizes[i] for i in columns], real)
                self.spans.append((starts[columns[0]], member.numbers(len(columns))))
            self.members[group] = member
        order = torch.tensor([i for columns in groups.values() for i in columns])
        self.register_buffer("places", order.argsort(), persistent=False)

    def numbers(self, features: int) -> int:
        """Return the number of network outputs: the sum over the columns."""
        return self.total

    def start_from(self, first: Callable[[int], Tensor]) -> None:
        """Initialise columns with a tree by the frequencies of their levels in the data.

        Args:
            first: n -> the first n rows of the training data, (n, columns), or all if fewer.
        """
        trees = {n: m for n, m in self.members.items() if isinstance(m, TreeCategories)}
        if trees:
            x = first(COUNTED)
            for name, tree in trees.items():
                tree.start_from(x[:, int(self.get_buffer(f"at_{name}"))])

    def forward(self, numbers: Tensor) -> Observed:
        """Return the NaN-aware joint of (B, columns)."""
        cells = [
            elementwise(member(numbers.narrow(1, *span)))
            for member, span in zip(self.members.values(), self.spans, strict=True)
        ]
        if len(cells) == 1:
            return Observed(cells[0])
        columns = [self.get_buffer(f"at_{group}") for group in self.members]
        return Observed(Blocks(list(zip(columns, cells, strict=True)), self.places))


def _layout(
    families: Sequence[str],
    sizes: Sequence[int],
    real: Family | None,
    trees: Mapping[str, TreeCategories],
) -> tuple[list[int], int]:
    """Return the index of the first number of every column (or kind), and the total count.

    Saved weights depend on this order: by kind, then categorical columns by magnitude.
    """
    groups: dict[str, list[int]] = {}
    for i, (kind, size) in enumerate(zip(families, sizes, strict=True)):
        name = f"{kind}{(size - 1).bit_length()}" if kind == "categorical" else kind
        groups.setdefault(name, []).append(i)
    starts, end = [0] * len(families), 0
    for columns in groups.values():
        kind = families[columns[0]]
        if kind == "categorical":
            for i in columns:
                starts[i], end = end, end + sizes[i]
            continue
        for i in columns:
            starts[i] = end
        member = trees.get(kind) or _member(kind, [sizes[i] for i in columns], real)
        end += member.numbers(len(columns))
    return starts, end


def _member(kind: str, sizes: Sequence[int], real: Family | None) -> Family:
    """Return the family of the columns of one kind."""
    return real if kind == "real" and real is not None else _MEMBERS[kind](sizes)


def _group(kind: str, size: int) -> str:
    """Return the name of the group of columns that a column is computed with.

    Categorical columns are padded to the widest of their group. Up to `FEW` levels, padding costs
    less than another group. Above, a group holds columns of the same magnitude only, so that one
    column of 1e5 levels does not widen all others.
    """
    if kind != "categorical":
        return kind
    return "categorical" if size <= FEW else f"categorical{(size - 1).bit_length()}"


_MEMBERS = {
    "real": lambda sizes: Gaussian(),
    "count": lambda sizes: NegativeBinomialFamily(),
    "binary": lambda sizes: Bits(),
    "ordinal": Ordinals,
}


class WithMissing(Family):
    """NaN-aware version of a family of elements: a missing element adds 0 nats.

    Args:
        family: a family whose elements are independent.

    >>> p = WithMissing(Gaussian())(torch.zeros(1, 4))
    >>> p.log_prob(torch.full((1, 2), torch.nan))
    tensor([0.])
    """

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def numbers(self, features: int) -> int:
        """Return the number of network outputs that the wrapped family needs."""
        return self.family.numbers(features)

    def forward(self, numbers: Tensor) -> Observed:
        """Return the NaN-aware joint."""
        return Observed(elementwise(self.family(numbers)))


class LibraryCounts(Family):
    """Counts whose mean is a share of the row's total: mu_g = library * softmax(shares)_g.

    The library size (total count of the row) is given, not modelled: the density is
    p(x | z, library).

    References:
        Lopez et al., "Deep generative modeling for single-cell transcriptomics", 2018,
        https://doi.org/10.1038/s41592-018-0229-2

    Args:
        features: G, the number of genes.
        member: "poisson", "nb" or "zinb"; dispersion is one learned number per gene.

    >>> family = LibraryCounts(4)
    >>> family(torch.zeros(1, 4), torch.tensor([[100.0]]).log()).mean
    tensor([[25.0000, 25.0000, 25.0000, 25.0000]])
    """

    def __init__(self, features: int, member: str = "nb") -> None:
        super().__init__()
        self.features, self.member = features, member
        if member != "poisson":
            self.log_dispersion = nn.Parameter(torch.zeros(features))

    def numbers(self, features: int) -> int:
        """Return the number of network outputs: a share (and a gate) per gene."""
        return features * (2 if self.member == "zinb" else 1)

    def forward(self, numbers: Tensor, log_library: Tensor | None = None) -> Observed:
        """Return the NaN-aware counts, with a log library size (B, 1) per row.

        Without `log_library`, the last number of each row is taken. Passing it separately is
        faster: it saves a copy of all numbers.
        """
        if log_library is None:
            numbers, log_library = numbers[:, :-1], numbers[:, -1:]
        shares, *gates = numbers.split(self.features, 1)
        # A share is below 1, so that the mean needs no upper bound; log p is finite for any share.
        log_mean = shares.log_softmax(1) + log_library
        return Observed(self.counts(log_mean, gates))

    def counts(self, log_mean: Tensor, gates: Sequence[Tensor]) -> Distribution:
        """Return the distribution of the elements, for log-means (B, G) and gates, if any."""
        return _COUNTS[self.member](self, log_mean, gates)


_COUNTS = {
    "poisson": lambda f, log_mean, gates: PoissonLog(log_mean),
    "nb": lambda f, log_mean, gates: NegativeBinomial(log_mean, dispersion(f.log_dispersion)),
    "zinb": lambda f, log_mean, gates: ZeroInflated(
        NegativeBinomial(log_mean, dispersion(f.log_dispersion)), gates[0]
    ),
}
