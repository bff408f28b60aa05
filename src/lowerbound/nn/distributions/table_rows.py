"""Families of whole rows: mixed tables, gaps, and counts that share a library size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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

FEW = 16  # levels of a categorical column that are worth padding to


class Table(Family):
    """The joint of a table's coded columns, each with the family of its kind; NaN is missing.

    Columns of one kind (and magnitude) are computed together, whatever their number.

    Args:
        families: the family name of every coded column.
        sizes: the number of codes of every coded column (1 for numbers).
        real: the family of real columns, one for all of them.
        reserved: for every column the probability of an unseen category (see `Categories`), or
            nothing where no code is reserved.
    """

    places: Tensor

    def __init__(
        self,
        families: Sequence[str],
        sizes: Sequence[int],
        real: Family | None = None,
        reserved: Sequence[float] = (),
    ) -> None:
        super().__init__()
        reserved = reserved or [0.0] * len(families)
        self.members, self.spans = nn.ModuleDict(), []
        starts, self.total = _layout(families, sizes, real)
        groups: dict[str, list[int]] = {}
        for i, (kind, size) in enumerate(zip(families, sizes, strict=True)):
            groups.setdefault(_group(kind, size), []).append(i)
        for group, columns in groups.items():
            kind = families[columns[0]]
            self.register_buffer(f"at_{group}", torch.tensor(columns), persistent=False)
            if kind == "categorical":  # which picks its numbers from all of them
                member: Family = Categories(
                    [sizes[i] for i in columns],
                    [reserved[i] for i in columns],
                    [starts[i] for i in columns],
                )
                self.spans.append((0, self.total))
            else:
                member = _member(kind, [sizes[i] for i in columns], real)
                self.spans.append((starts[columns[0]], member.numbers(len(columns))))
            self.members[group] = member
        order = torch.tensor([i for columns in groups.values() for i in columns])
        self.register_buffer("places", order.argsort(), persistent=False)

    def numbers(self, features: int) -> int:
        """The sum of what the members need."""
        return self.total

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
    families: Sequence[str], sizes: Sequence[int], real: Family | None
) -> tuple[list[int], int]:
    """Return where the numbers of every column (or of its whole kind) begin, and their count.

    Saved weights depend on this order: columns by kind, categorical ones by magnitude too.
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
        end += _member(kind, [sizes[i] for i in columns], real).numbers(len(columns))
    return starts, end


def _member(kind: str, sizes: Sequence[int], real: Family | None) -> Family:
    """Return the family of the columns of one kind."""
    return real if kind == "real" and real is not None else _MEMBERS[kind](sizes)


def _group(kind: str, size: int) -> str:
    """Name the columns that are computed together.

    Categorical ones are padded to the widest of their group. Up to `FEW` levels that costs less
    than another group; beyond, only those of the same order of magnitude share one, so that a
    column of 1e5 levels does not make every flag as wide.
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
    """Any family of elements, made NaN-aware: a missing element costs nothing."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def numbers(self, features: int) -> int:
        """What the wrapped family needs."""
        return self.family.numbers(features)

    def forward(self, numbers: Tensor) -> Observed:
        """Return the NaN-aware joint."""
        return Observed(elementwise(self.family(numbers)))


class LibraryCounts(Family):
    """Counts whose mean is a share of the row's total: mu_g = library * softmax(shares)_g.

    The library size (log of the row's total count) is given, not modelled: the density is
    p(x | z, library).

    References:
        Lopez et al., "Deep generative modeling for single-cell transcriptomics", 2018.

    Args:
        features: number of genes.
        member: "poisson", "nb" or "zinb"; dispersion is one learned number per gene.
    """

    def __init__(self, features: int, member: str = "nb") -> None:
        super().__init__()
        self.features, self.member = features, member
        if member != "poisson":
            self.log_dispersion = nn.Parameter(torch.zeros(features))

    def numbers(self, features: int) -> int:
        """Shares (and gates) of every gene; the log-library is not one of them."""
        return features * (2 if self.member == "zinb" else 1)

    def forward(self, numbers: Tensor, log_library: Tensor | None = None) -> Observed:
        """Return the counts of rows with a log-library, (B, 1); by default the last number.

        Among the numbers it costs a copy of them all, and rows of an odd length.
        """
        if log_library is None:
            numbers, log_library = numbers[:, :-1], numbers[:, -1:]
        shares, *gates = numbers.split(self.features, 1)
        # A share is below 1, so the mean needs no ceiling; log p is finite however small it is.
        log_mean = shares.log_softmax(1) + log_library
        return Observed(_COUNTS[self.member](self, log_mean, gates))


_COUNTS = {
    "poisson": lambda f, log_mean, gates: PoissonLog(log_mean),
    "nb": lambda f, log_mean, gates: NegativeBinomial(log_mean, dispersion(f.log_dispersion)),
    "zinb": lambda f, log_mean, gates: ZeroInflated(
        NegativeBinomial(log_mean, dispersion(f.log_dispersion)), gates[0]
    ),
}
