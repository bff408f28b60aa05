"""Differential expression: genes whose rates differ between two groups of cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
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
_LEAST_Z, _MOST_Z = 1000, 50  # draws of z of a group at least, and of a cell at most


@dataclass(frozen=True)
class Comparison:
    """What is tested of each gene.

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
        lfc: the median of the log2 fold change of the mean rate over draws.
        low: its quantile of 2.5 %.
        high: its quantile of 97.5 %.
        probability: the share of draws whose log2 fold change is beyond +-delta.
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
    which most differ in any tissue of several types. The expected false discovery rate of a list
    of genes is the mean of their posterior probabilities of no change. There are no p-values.

    References:
        Boyeau, Lopez, Regier, Gayoso, Jordan & Yosef, "Deep generative models for detecting
        differential expression in single cells", 2019, https://doi.org/10.1101/794289
        Rubin, "The Bayesian bootstrap", 1981, https://doi.org/10.1214/aos/1176345338

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
    total = torch.zeros((), device=device)
    weights = torch.zeros(test.draws, 1, device=device)
    for part, real in tiles(rows, tile_of(rows, TILE, ONCE)):
        batch = part.to(device)
        assert batch.context is not None, "counts have a context"
        context = at.context(batch.context)
        weight = torch.empty(test.draws, real, device=device).exponential_(generator=source)
        chosen = torch.randint(each, weight.shape, generator=source, device=device)
        weights = weights + weight.sum(1, keepdim=True)
        for number, z in enumerate(posterior_draws(model, batch, each, test.seed)):
            px = model(None, Trace(replay(z), len(batch.x)), context)
            total = total + weight.where(chosen == number, 0.0) @ at.rates(px, context)[:real]
    return (total / weights).float().cpu()


def _summary(first: Tensor, second: Tensor, test: Comparison) -> Changes:
    """Return the summary of draws of the mean rates of both groups, (draws, genes) each."""
    draws, genes = first.shape
    quantiles, beyond = np.empty((3, genes)), np.empty(genes)
    for start in range(0, genes, _GENES):
        some = slice(start, start + _GENES)
        one, other = (torch.log2(rate[:, some] + test.pseudocount) for rate in (first, second))
        ratios = (one - other).numpy()
        quantiles[:, some] = np.quantile(ratios, [0.5, 0.025, 0.975], axis=0)
        beyond[some] = (np.abs(ratios) > test.delta).sum(0)
    probability = beyond / draws
    # Half a draw more on either side: the odds of all or of none are finite.
    odds = np.log(beyond + 0.5) - np.log(draws - beyond + 0.5)
    rates = np.stack([rate.double().mean(0).numpy() for rate in (first, second)])
    return Changes(*quantiles, probability, odds, expected_false_discoveries(probability), rates)


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
    """What was counted in a group of cells, (genes,) each.

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
