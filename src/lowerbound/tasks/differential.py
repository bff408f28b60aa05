"""Differential expression: genes whose rates differ between two groups of cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.coding.context import annotation, levels_of
from lowerbound.coding.rows import Rows, tile_of, tiles
from lowerbound.columns.arrow import listed
from lowerbound.errors import UsageError, nearest
from lowerbound.files.data import Columnar, Data
from lowerbound.nn.trace import Trace, replay
from lowerbound.tasks.expression import At, posterior_draws
from lowerbound.tasks.finite import using
from lowerbound.tasks.metrics import ONCE, TILE

MOST = 20_000  # cells of a group that are looked at
_GENES = 512  # whose quantiles are computed together
_WORTH = 2.0  # counts of a gene in a group that the model's own rate is worth
_LEAST_Z, _MOST_Z = 1000, 50  # draws of z of a group at least, and of a cell at most
_NORMAL = 1.959964  # the quantile of 97.5 % of a normal distribution
_NULLS, _PASSES = 10, 200  # genes without a change that are added, and passes of the EM algorithm
_FINEST, _LEAST_ERROR = 0.05, 1e-3  # scale of small changes, and standard error of all at least
_HALVINGS = 40  # of an interval that holds a quantile


@dataclass(frozen=True)
class Comparison:
    """The options of a test for differential expression.

    Args:
        delta: the change is of interest where the log2 fold change is beyond +-delta.
        pseudocount: is added to the rates of both groups, so that genes that are hardly expressed
            do not have large fold changes; in the unit of the rates, counts per cell of the
            library size at which they are compared.
        draws: draws of the mean rates of both groups.
        seed: of all draws.

    Raises:
        UsageError: E240 for a number out of range.
    """

    delta: float = 0.25
    pseudocount: float = 0.1
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("delta", 0.0), ("pseudocount", 0.0), ("draws", 10)):
            value = getattr(self, name)
            if not least <= value < np.inf:
                raise UsageError(
                    "E240",
                    f"{name} must be at least {least:g} and finite, got {value}",
                    fix=f"{name}={Comparison.__dataclass_fields__[name].default}",
                )


class Changes(NamedTuple):
    """The changes of genes from the second group to the first, (genes,) each.

    Attributes:
        lfc: the median of the posterior of the log2 fold change of the mean rate.
        low: its quantile of 2.5 %.
        high: its quantile of 97.5 %.
        probability: that the log2 fold change is above delta, or that it is below -delta,
            whichever is larger: a gene of an unknown direction has no probable change.
        bayes_factor: the natural logarithm of the odds of this probability.
        false_discovery_rate: the expected share of genes without such a change among this gene and
            all with a higher probability.
        rates: (2, genes) the mean rate in each group.
    """

    lfc: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    probability: NDArray[np.float64]
    bayes_factor: NDArray[np.float64]
    false_discovery_rate: NDArray[np.float64]
    rates: NDArray[np.float64]


def changes(model: nn.Module, first: Rows, second: Rows, at: At, test: Comparison) -> Changes:
    """Compare the mean rates of two groups of cells.

    A draw of the mean rate of a group has a random weight for each cell and a draw of z from the
    posterior of each, decoded at the context of `at` (the Bayesian bootstrap): it knows how much
    cells and their latents differ, so that a gene that varies within both groups alike is no
    change. Means are compared, and not pairs of cells as in the "change" mode of scvi-tools, of
    which most differ in any tissue of several types.

    The decoder is wrong for some genes, and sure of genes of few counts. Each mean rate is
    therefore multiplied by a draw of the error of the model for this gene and group, a number of
    mean 1 (a gamma distribution of the shape `_WORTH`) before the counts of the group are seen,
    and of the posterior given these counts and those the model expects. For genes of many counts
    the means are then those of the counts, and for those of few counts they are uncertain.

    The fold changes of most genes are near 0, which the draws of a single gene do not know: of
    13,000 uncertain genes some seem to change by chance. The distribution of the true fold
    changes of all genes is therefore estimated, as a mixture of normal distributions of mean 0,
    and the posterior of each gene is given this prior (adaptive shrinkage). The expected false
    discovery rate of a list of genes is the mean of their posterior probabilities of no change.
    There are no p-values.

    References:
        Boyeau, Lopez, Regier, Gayoso, Jordan & Yosef, "Deep generative models for detecting
        differential expression in single cells", 2019, https://doi.org/10.1101/794289
        Rubin, "The Bayesian bootstrap", 1981, https://doi.org/10.1214/aos/1176345338
        Stephens, "False discovery rates: a new deal", 2017,
        https://doi.org/10.1093/biostatistics/kxw041

    Args:
        model: a module with ``forward(x, trace, context)``, of counts.
        first: the cells of one group.
        second: the cells that they are compared with.
        at: where rates are decoded.
        test: what is tested.
    """
    with using(model):
        means = [
            _means(model, rows, at, test, name)
            for name, rows in (("first", first), ("second", second))
        ]
    return _summary(means[0], means[1], test)


@torch.no_grad()
def _means(model: nn.Module, rows: Rows, at: At, test: Comparison, name: str) -> Tensor:
    """Return draws of the mean rates of a group, (draws, genes)."""
    device = next(model.parameters()).device
    source = noise.generator("differential", name, test.seed, device=device)
    each = min(_MOST_Z, -(-_LEAST_Z // len(rows)))
    own = replace(at, given={}, library=None)
    total = torch.zeros((), device=device)
    weights = torch.zeros(test.draws, 1, device=device)
    seen = _Seen()
    for part, real in tiles(rows, tile_of(rows, TILE, ONCE)):
        batch = part.to(device)
        assert batch.context is not None, "counts have a context"
        contexts = [place.context(batch.context) for place in (at, own)]
        weight = torch.empty(test.draws, real, device=device).exponential_(generator=source)
        chosen = torch.randint(each, weight.shape, generator=source, device=device)
        weights = weights + weight.sum(1, keepdim=True)
        expected = torch.zeros((), device=device)
        for number, z in enumerate(posterior_draws(model, batch, each, test.seed)):
            rates, mean = (
                at.rates(model(None, Trace(replay(z), len(batch.x)), context), context)[:real]
                for context in contexts
            )
            total = total + weight.where(chosen == number, 0.0) @ rates
            expected = expected + mean / each
        seen = seen.with_cells(at.chosen(batch.x)[:real], expected)
    return (seen.errors(test.draws, source) * total / weights).float().cpu()


class _Seen(NamedTuple):
    """Sums of the counts of a group, and of those that the model expects, (genes,) each.

    Attributes:
        counts: the sum of the counts.
        expected: the sum of the counts that the model expects at their own contexts.
        squares: the sum of the squared differences.
    """

    counts: Tensor = torch.zeros(())
    expected: Tensor = torch.zeros(())
    squares: Tensor = torch.zeros(())

    def with_cells(self, x: Tensor, expected: Tensor) -> _Seen:
        """Return the sums with those of further cells; missing genes add nothing."""
        known = ~x.isnan()
        far = torch.where(known, x - expected, 0.0)
        more = (x.nan_to_num(0.0), expected * known, far.square())
        return _Seen(*(old.to(new) + new.sum(0) for old, new in zip(self, more, strict=True)))

    def errors(self, draws: int, source: torch.Generator) -> Tensor:
        """Draw the true rates of genes as multiples of those of the model, (draws, genes)."""
        # Counts that vary more than Poisson ones say as much as fewer counts.
        spread = (self.squares / self.expected.clamp_min(1e-9)).clamp_min(1.0)
        spread = torch.where(self.expected > 0, spread, 1.0)
        shape = _WORTH + self.counts / spread
        shapes = shape.expand(draws, -1).contiguous()
        drawn = torch._standard_gamma(shapes, generator=source)  # pyright: ignore
        return drawn / (_WORTH + self.expected / spread)


def _summary(first: Tensor, second: Tensor, test: Comparison) -> Changes:
    """Return the summary of draws of the mean rates of both groups, (draws, genes) each."""
    found = np.empty((3, first.shape[1]))
    for start in range(0, first.shape[1], _GENES):
        some = slice(start, start + _GENES)
        one, other = (torch.log2(rate[:, some] + test.pseudocount) for rate in (first, second))
        found[:, some] = np.quantile((one - other).numpy(), [0.5, 0.025, 0.975], axis=0)
    posterior = shrunk(found[0], (found[2] - found[1]) / (2 * _NORMAL))
    up, down = 1 - posterior.below(test.delta), posterior.below(-test.delta)
    probability = np.clip(np.maximum(up, down), 0.0, 1.0)
    least = 0.5 / test.draws  # the odds of all or of none are finite
    odds = np.log(probability + least) - np.log(1 - probability + least)
    rates = np.stack([rate.double().mean(0).numpy() for rate in (first, second)])
    wrong = expected_false_discoveries(probability)
    low, middle, high = (posterior.quantile(share) for share in (0.025, 0.5, 0.975))
    return Changes(middle, low, high, probability, odds, wrong, rates)


class Mixtures(NamedTuple):
    """A mixture of normal distributions for each gene, (genes, components) each.

    Attributes:
        weights: the share of each component.
        means: the mean of each.
        scales: the standard deviation of each.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    scales: NDArray[np.float64]

    def below(self, at: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a number of at most `at`, (genes,)."""
        far = (np.broadcast_to(at, len(self.means))[:, None] - self.means) / self.scales
        return (self.weights * scipy.special.ndtr(far)).sum(1)

    def quantile(self, share: float) -> NDArray[np.float64]:
        """Return the quantile of each gene, (genes,), by bisection."""
        low, high = ((self.means + s * 9 * self.scales) for s in (-1, 1))
        low, high = low.min(1), high.max(1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            under = self.below(middle) < share
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return (low + high) / 2


def shrunk(found: NDArray[np.float64], errors: NDArray[np.float64]) -> Mixtures:
    """Return the posterior of true values, given estimates and their standard errors.

    The prior is a mixture of normal distributions of mean 0 on a grid of scales, the smallest
    nearly 0; its weights are those of the largest likelihood of all estimates, with `_NULLS`
    values of 0 in addition (Stephens, 2017).

    Args:
        found: (genes,) the estimates.
        errors: (genes,) their standard errors.
    """
    errors = np.maximum(errors, _LEAST_ERROR)
    steps = np.ceil(2 * np.log2(max(np.abs(found).max(initial=0.0), _FINEST) / _FINEST)) + 1
    scales = np.array([1e-3, *(_FINEST * 2 ** (np.arange(steps + 1) / 2))])
    variance = scales**2 + errors[:, None] ** 2
    log_p = -0.5 * (found[:, None] ** 2 / variance + np.log(variance))
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    share = np.full(len(scales), 1 / len(scales))
    for _ in range(_PASSES):
        own = share * p
        own /= own.sum(1, keepdims=True)
        sums = own.sum(0)
        sums[0] += _NULLS
        share = sums / sums.sum()
    weights = share * p
    kept = scales**2 / variance
    return Mixtures(
        weights / weights.sum(1, keepdims=True),
        kept * found[:, None],
        np.sqrt(kept) * errors[:, None],
    )


def expected_false_discoveries(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the expected false discovery rate of each gene's list: it and all more probable ones.

    It is the mean of the posterior error probabilities 1 - p over the list (Newton, Noueiry,
    Sarkar & Ahlquist, "Detecting differential gene expression with a semiparametric hierarchical
    mixture method", 2004). Genes of equal probability are in one list.

    Args:
        probability: (genes,) posterior probabilities of a change.
    """
    order = np.argsort(-probability, kind="stable")
    errors = np.cumsum(1 - probability[order])
    # The list of a gene ends with the last one of the same probability.
    end = np.searchsorted(-probability[order], -probability[order], side="right")
    found = np.empty_like(errors)
    found[order] = errors[end - 1] / end
    return found


class Observed(NamedTuple):
    """Statistics of the counts of a group of cells, (genes,) each.

    Attributes:
        mean: the mean of the counts, scaled to the library size at which rates are compared.
        share: the share of cells with a count above 0.
    """

    mean: NDArray[np.float64]
    share: NDArray[np.float64]


def observed(rows: Rows, at: At) -> Observed:
    """Return what was counted in cells."""
    total, above, seen = 0.0, 0.0, 0
    for batch, real in tiles(rows, tile_of(rows, TILE, ONCE)):
        x = batch.x[:real].double().nan_to_num(0.0)  # genes that the cells do not have
        size = x.sum(1, keepdim=True).clamp_min(1)
        scaled = at.chosen(x) * ((at.library or size) / size)
        total = total + scaled.sum(0).numpy()
        above = above + (at.chosen(x) > 0).double().sum(0).numpy()
        seen += real
    return Observed(np.asarray(total) / seen, np.asarray(above) / seen)


class Grouped(NamedTuple):
    """Two groups of cells.

    Attributes:
        first: the cells of one group.
        second: the cells of the other.
        sizes: the number of cells of each in the data, of which at most `MOST` are here.
    """

    first: Columnar
    second: Columnar
    sizes: tuple[int, int]


def grouped(given: Data, by: str, first: str, second: str | None, seed: int = 0) -> Grouped:
    """Return two groups of cells, at most `MOST` of each, chosen at random.

    Args:
        given: the cells.
        by: the annotation that names the group of each cell.
        first: a group.
        second: the other one; None for all other cells that have a group.
        seed: of the choice.

    Raises:
        DataError: E031 where there is no such annotation.
        UsageError: E280 for a group without cells, or two that are the same.
    """
    if first == second:
        raise UsageError(
            "E280",
            f"both groups are {first!r}: there is nothing to compare",
            fix="choose another --against, or leave it out for all other cells",
        )
    kept = _Kept(seed), _Kept(seed)
    known: dict[str, None] = {}
    for part in given.parts():
        codes, words = levels_of(annotation(part, by, given.names), by)
        known |= dict.fromkeys(words)
        assert isinstance(part, Columnar), "cells have columns"
        labels = np.array([*words, None], dtype=object)[codes]
        others = [label is not None and label != first for label in labels]
        kept[0].add(part, labels == first)
        kept[1].add(part, np.array(others) if second is None else labels == second)
    for name, some in ((first, kept[0]), (second, kept[1])):
        if not some.total:
            near = None if name is None else nearest(name, list(known))
            raise UsageError(
                "E280",
                f"no cell has {by} = {name!r}; its groups are {listed(list(known))}"
                if name is not None
                else f"all cells have {by} = {first!r}: there are no others to compare with",
                fix=f"did you mean {near!r}?" if near else f"choose a group of {by}",
            )
    return Grouped(kept[0].joined(), kept[1].joined(), (kept[0].total, kept[1].total))


class _Kept:
    """At most `MOST` random rows of those that are added part by part."""

    def __init__(self, seed: int) -> None:
        self.seed, self.total = seed, 0
        self.parts: list[tuple[Columnar, NDArray[np.float64]]] = []

    def add(self, part: Columnar, wanted: NDArray[np.bool_]) -> None:
        """Add the rows of a part where `wanted` holds."""
        at = np.flatnonzero(wanted)
        if not len(at):
            return
        self.total += len(at)
        numbers = torch.from_numpy(at + part.start)
        keys = noise.uniforms(numbers, 1, "groups", self.seed)[:, 0].numpy()
        self.parts.append((part.take(at), keys))
        if sum(len(keys) for _, keys in self.parts) > 2 * MOST:
            self._shrink()

    def _shrink(self) -> None:
        keys = np.concatenate([keys for _, keys in self.parts])
        first, *others = (part for part, _ in self.parts)
        chosen = np.sort(np.argsort(keys, kind="stable")[:MOST])
        self.parts = [(first.joined(others).take(chosen), keys[chosen])]

    def joined(self) -> Columnar:
        """Return the rows."""
        self._shrink()
        return replace(self.parts[0][0], start=0)
