"""The conditionals of one Gaussian, given any subset of its columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALLEST = 1e-9  # variance of a column that the seen ones determine
AT_ONCE = 512  # rows whose matrices are at hand together


class Conditionals:
    """Conditional means and deviations in a Gaussian for a batch of rows, updated per column.

    Rows that observe the same columns in the same order share one Cholesky factor L of the
    covariance in that order. With e = L^-1 (x - mean), the conditional mean of feature k given
    the features j < k is mean_k + sum_j L_kj e_j, and its variance is that of k less sum_j L_kj^2.

    Args:
        gaussian: the Gaussian of D features. A of them are active: others are predicted, but
            nothing is conditioned on them.
        which: (B,) index of the pattern of observed columns of each row, one of U.
        order: (U, A) the active features in the order of each pattern.
        factor: (U, A, A) Cholesky factors.
        pulls: (U, A, N) rows of L of the numbers; 0 for features that are not seen before them.
    """

    def __init__(
        self,
        gaussian: GaussianConditionals,
        which: Tensor,
        order: Tensor,
        factor: Tensor,
        pulls: Tensor,
    ) -> None:
        self.gaussian, self.which = gaussian, which
        self.order, self.factor, self.pulls = order, factor, pulls
        variance = gaussian.covariance.diagonal()[: gaussian.numbers] - pulls.square().sum(1)
        self.deviation = variance.clamp_min(SMALLEST).sqrt()
        self.place = order.argsort(1)
        self.white = pulls.new_zeros(len(which), order.shape[1])

    def see_all(self, x: Tensor) -> None:
        """See all features (B, A) at once, less their means; 0 for those never seen."""
        if len(self.order) == 1:
            own = x[:, self.order[0]].T
            self.white = torch.linalg.solve_triangular(self.factor[0], own, upper=False).T
            return
        for some in torch.arange(len(x), device=x.device).split(AT_ONCE):
            which = self.which[some]
            own = x[some].gather(1, self.order[which])[..., None]
            solved = torch.linalg.solve_triangular(self.factor[which], own, upper=False)
            self.white[some] = solved[..., 0]

    def see(self, column: int, values: Tensor, rows: Tensor) -> None:
        """See a column of some rows.

        Args:
            column: its index.
            values: (R,) its numbers or codes.
            rows: (R,) the rows.
        """
        which = self.which[rows]
        for feature, x in self.gaussian.features_of(column, values):
            place = self.place[which, feature]
            own = self.factor[which, place]
            white = self.white[rows]
            scale = own.gather(1, place[:, None])[:, 0]
            self.white[rows, place] = (x - (own * white).sum(1)) / scale

    def of(self, number: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (R,), of a number of some rows."""
        which = self.which[rows]
        pulls = self.pulls[..., number]
        mean = (self.white[rows] * pulls[which]).sum(1) + self.gaussian.mean[number]
        return mean, self.deviation[which, number]

    def of_all(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (B, N), of all numbers."""
        if len(self.pulls) == 1:
            mean = self.white @ self.pulls[0]
        else:
            some = zip(self.white.split(AT_ONCE), self.which.split(AT_ONCE), strict=True)
            mean = torch.cat([(white[:, None] @ self.pulls[at])[:, 0] for white, at in some])
        return mean + self.gaussian.mean[: self.gaussian.numbers], self.deviation[self.which]


class GaussianConditionals(nn.Module):
    """A Gaussian of the numbers and some codes of a row.

    Args:
        numbers: the columns of numbers, the first features.
        codes: (column, code) of each further feature, which is 1 where the column has the code.
        passive: columns that are predicted, and on which nothing is conditioned.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(
        self,
        numbers: Sequence[int],
        codes: Sequence[Sequence[int]],
        passive: Sequence[int] = (),
    ) -> None:
        super().__init__()
        size, self.numbers = len(numbers) + len(codes), len(numbers)
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(size, dtype=torch.float64))
        columns = [*numbers, *(column for column, _ in codes)]
        active = [i for i, column in enumerate(columns) if column not in passive]
        further: dict[str, Sequence[int]] = {
            "columns": columns,
            "codes": [code for _, code in codes],
            "active": active,
        }
        for name, values in further.items():
            self.register_buffer(name, torch.tensor(values).long(), persistent=False)
        self._features: dict[int, list[tuple[int, int, int | None]]] = {}
        for place, feature in enumerate(active):
            code = None if feature < self.numbers else codes[feature - self.numbers][1]
            self._features.setdefault(columns[feature], []).append((place, feature, code))

    def features_of(self, column: int, values: Tensor) -> list[tuple[int, Tensor]]:
        """Return place and values (R,), less their mean, of the active features of a column."""
        return [
            (place, (values if code is None else values == code).to(self.mean) - self.mean[i])
            for place, i, code in self._features.get(column, ())
        ]

    def begin(self, first: Tensor, later: Tensor, rank: Tensor) -> Conditionals:
        """Return the conditionals of rows before any of their values has been observed.

        Args:
            first: (B, C) bool, the columns that are seen before all others.
            later: (B, C) bool, the columns that are seen after them, in the order of rank.
            rank: (C,) place of each column in the order. A number is conditioned on the first
                columns and on those of lower rank.
        """
        active = self.get_buffer("active")
        own = self.get_buffer("columns")[active]
        patterns, which = _distinct(torch.cat([first[:, own], later[:, own]], 1))
        ahead, after = patterns.chunk(2, 1)
        ranks = torch.where(ahead, rank[own] - len(rank), rank[own])
        order = ranks.argsort(dim=1, stable=True)
        shown = (ahead | after).gather(1, order).to(self.mean)
        features = active[order]
        matrix = self.covariance[features[:, :, None], features[:, None]]
        # What is never seen is a row and a column of the identity in the matrix.
        matrix = matrix * shown[:, :, None] * shown[:, None] + torch.diag_embed(1 - shown)
        factor = _factor(matrix)
        cross = self.covariance[features, : self.numbers] * shown[..., None]
        pulls = torch.linalg.solve_triangular(factor, cross, upper=False)
        target = rank[self.get_buffer("columns")[: self.numbers]]
        earlier = ranks.gather(1, order)[..., None] < target
        return Conditionals(self, which, order, factor, torch.where(earlier, pulls, 0.0))

    def given_earlier(
        self, values: Tensor, codes: Tensor, first: Tensor, later: Tensor, rank: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (B, N), of numbers given the columns before.

        Args:
            values: (B, N) the numbers; arbitrary where they are not seen.
            codes: (B, C) the codes of all columns.
            first: as for `begin`.
            later: likewise.
            rank: likewise.
        """
        active, columns = self.get_buffer("active"), self.get_buffer("columns")
        indicators = codes[:, columns[self.numbers :]] == self.get_buffer("codes")
        x = torch.cat([values.to(self.mean), indicators.to(self.mean)], 1) - self.mean
        seen = (first | later)[:, columns[active]]
        now = self.begin(first, later, rank)
        now.see_all(torch.where(seen, x[:, active], 0.0))
        return now.of_all()


def _distinct(patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows (U, K) of a matrix (B, K), and the index (B,) of each row's."""
    if bool((patterns == patterns[:1]).all()):
        return patterns[:1], torch.zeros(len(patterns), dtype=torch.long, device=patterns.device)
    found, which = patterns.unique(dim=0, return_inverse=True)
    return found, which


def _factor(matrix: Tensor) -> Tensor:
    """Return Cholesky factors (U, A, A); of a matrix that is not positive, of its diagonal."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    diagonal = torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1).clamp_min(SMALLEST).sqrt())
    return torch.where((failed > 0)[..., None, None], diagonal, factor)
