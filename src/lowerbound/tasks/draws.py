"""Uses of a trained model on coded rows: embed, reconstruct, sample, impute, explain.

Each is a way to draw z (a `Choose`) and a statistic of p(x | z), for any model with
``forward(x, trace, context)``. Models are not changed: threads can share one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    Normal,
    StudentT,
)

from lowerbound import noise
from lowerbound.coding.rows import Batch, Dense, Rows, subset, tile_of
from lowerbound.columns.base import Scale
from lowerbound.nn.distributions import base
from lowerbound.nn.distributions.base import Blocks, Observed, log_prob_cells
from lowerbound.nn.distributions.chains import FARTHEST, Chain
from lowerbound.nn.distributions.grey_levels import GreyCodes
from lowerbound.nn.distributions.level_trees import TreeCodes
from lowerbound.nn.latents.importance import by_proposal
from lowerbound.nn.trace import Trace, from_prior, posterior_mean, replay
from lowerbound.recipes.record import Draw, draw_each
from lowerbound.tasks.finite import using
from lowerbound.tasks.metrics import TILE, Drawing, by_proposals, by_tiles, log_likelihood
from lowerbound.tasks.parts import by_parts
from lowerbound.tasks.proposals import Weighted, has_gaps, share, weighted

SCORE_SAMPLES = 32
SCORE_WORK = 1e8  # floating-point operations of a pass up to which a score takes all samples
SAMPLE_CHUNK = 8192
EMBEDDED_CELLS = 1 << 21  # values of a tile of wide rows: fewer passes over the first weights
EMBEDDED = 4096  # rows of a tile: one pass each, without draws
COMPLETED = 1024  # rows completed together
IMPUTING = 4096  # draws of z together, for the values of rows with gaps
EXPLAINED_CELLS = 1 << 22  # of rows without one value each, scored together
EXPECTING = 8  # draws of x at each z for the mean cost of a pixel


def samples_worth(work: float) -> int:
    """Return the number of importance samples of a score: fewer for slow networks.

    Networks of hundreds of layers are tens of times slower, and their bound is tighter.

    Args:
        work: floating-point operations of one pass.
    """
    affordable = max(1.0, SCORE_SAMPLES * SCORE_WORK / max(work, SCORE_WORK))
    return max(2, 2 ** math.floor(math.log2(affordable)))


def score(
    model: nn.Module,
    rows: Rows,
    samples: int = SCORE_SAMPLES,
    *,
    most: int = TILE,
    groups: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Return the anomaly score of every row: -log p(x) by importance sampling, (n,) nats.

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        samples: importance samples per row.
        most: rows per pass, see `lowerbound.tasks.few_rows`.
        groups: the columns that code one value, see `log_likelihood`.
    """
    return -log_likelihood(model, rows, samples, most=most, groups=groups).log_p


def embed(model: nn.Module, rows: Rows) -> Tensor:
    """Return E[z | x] of every row, (n, d), with the latents of all levels concatenated."""

    def work(batch: Batch) -> Tensor:
        trace = Trace(posterior_mean, len(batch.x), decode=False)
        model(batch.x, trace, batch.context)
        return torch.cat([site.z.flatten(1) for site in trace.sites.values()], 1)

    def of_part(part: Rows, first: int) -> Tensor:
        return by_tiles(model, part, work, EMBEDDED, EMBEDDED_CELLS)

    with using(model) as device:
        tile = tile_of(rows, EMBEDDED, EMBEDDED_CELLS)
        return by_parts(rows, tile, of_part, device)


def reconstruct(model: nn.Module, rows: Rows) -> Tensor:
    """Return the mean of p(x | E[z | x]) of every row, shaped as x; the mode for categories."""

    def work(batch: Batch) -> Tensor:
        return model(batch.x, Trace(posterior_mean, len(batch.x)), batch.context).mean

    def of_part(part: Rows, first: int) -> Tensor:
        return by_tiles(model, part, work)

    with using(model) as device:
        return by_parts(rows, tile_of(rows, TILE), of_part, device)


@torch.no_grad()
def decode(model: nn.Module, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Return the mean of p(x | z) for latents (n, d), all levels in the order of `embed`."""
    with using(model) as device:
        # One row is enough to learn the shapes of the levels.
        trace = Trace(from_prior(noise.generator("decode", device=device)), 1, decode=False)
        model(None, trace, None if context is None else context[:1])
        shapes = {name: site.z.shape[1:] for name, site in trace.sites.items()}
        parts = z.split([shape.numel() for shape in shapes.values()], 1)
        zs = {n: part.view(len(z), *shapes[n]) for n, part in zip(shapes, parts, strict=True)}
        return model(None, Trace(replay(zs), len(z)), context).mean


@torch.no_grad()
def sample(
    model: nn.Module,
    n: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    context: Tensor | None = None,
    draw: Draw = draw_each,
) -> Tensor:
    """Draw n rows: z from the prior, then every value from its likelihood, (n, ...).

    Args:
        model: a module with ``forward(x, trace, context)``.
        n: number of rows.
        seed: seed of all draws.
        temperature: factor of the scale of the prior.
        top_k: draw every code from this many of the likeliest ones; None for all codes.
        context: (n, ...) or None.
        draw: the function that draws rows from the likelihood.

    Raises:
        UsageError: E246 if the prior supports no temperature, E256 if it has no codes.
    """
    draws = []
    with using(model) as device:
        source = noise.generator("sample", seed, device=device)
        choose = from_prior(source, temperature, top_k)
        for start in range(0, n, SAMPLE_CHUNK):
            count = min(SAMPLE_CHUNK, n - start)
            given = None if context is None else context[start : start + count]
            draws.append(draw(model(None, Trace(choose, count), given), given, source))
    return torch.cat(draws)


@torch.no_grad()
def impute(
    model: nn.Module,
    rows: Rows,
    *,
    groups: Sequence[Sequence[int]] = (),
    samples: int = 128,
    scales: Sequence[Scale | None] = (),
) -> Tensor:
    """Fill missing values with E[x_missing | x_observed], or the likeliest level of a category.

    Draws of z from q(z | x_observed) are weighted by p(x_observed, z) / q(z | x_observed).

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        groups: the columns that code one value, such as a number and its atoms: the value is
            missing if all of them are NaN, and only rows with a missing value are filled.
        samples: draws of z per row.
        scales: for each column, the map to raw values, whose mean is then taken; None for codes.
            Without any, the mean is that of the coded values.

    Returns:
        (n, ...) coded rows; observed values are unchanged.

    References:
        Mattei & Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data
        sets", 2019, section 3.3.
    """
    curved = {i: scale for i, scale in enumerate(scales) if scale and not scale.linear}

    def work(batch: Batch, found: Weighted) -> Tensor:
        weights = found.weights.to(batch.x.dtype)
        centre = average(found.px, weights)
        if curved:
            each = spread(found.px, _strata(weights))
            for column, scale in curved.items():
                # Beyond `FARTHEST`, the mean would be that of a few extreme draws.
                codes = each[:, column].clamp(-FARTHEST, FARTHEST).view_as(weights).double()
                raw = torch.from_numpy(scale.raw_of(codes.cpu().numpy())).to(weights)
                mean = (raw.double().cpu() * weights.double().cpu()).sum(1)
                centre[:, column] = torch.from_numpy(scale.coded_of(mean.numpy())).to(weights)
        return torch.where(batch.x.isnan(), centre, batch.x)

    filled, gaps = _with_gaps(rows, groups)
    if len(gaps):
        some, most = subset(rows, gaps), max(1, IMPUTING // samples)

        def of_part(part: Rows, first: int) -> Tensor:
            return _by_weights(model, part, work, samples, most, groups=())

        with using(model) as device:
            filled[gaps] = by_parts(some, tile_of(rows, most), of_part, device)
    return filled


@torch.no_grad()
def draw_rows(
    rows: nn.Module, given: Tensor, n: int, *, seed: int = 0, temperature: float = 1.0
) -> Tensor:
    """Draw n rows of a table column by column, given some of their values, (n, columns).

    The draws are exact: each open value comes from its conditional given all values before it.

    Args:
        rows: a model of rows without latents, whose likelihood is a `Chain`.
        given: (columns,) coded values, NaN where open.
        n: number of rows.
        seed: seed of all draws.
        temperature: log-probabilities are divided by it; 1 is the model's own distribution.
    """
    with using(rows) as device:
        source = noise.generator("sample", "rows", seed, device=device)
        chain, drawn = chain_of(rows), []
        for start in range(0, n, SAMPLE_CHUNK):
            count = min(SAMPLE_CHUNK, n - start)
            open_ = given.to(device).expand(count, -1)
            drawn.append(chain.draw(open_, source, temperature))
    values = torch.cat(drawn)
    return torch.where(given.isnan(), values, given.expand_as(values))


def determined(rows: nn.Module, x: Tensor) -> Tensor:
    """Fill the missing values that another value of the row determines, (n, columns)."""
    with torch.no_grad():
        return chain_of(rows).determined(x)


@torch.no_grad()
def dependent(
    rows: nn.Module, x: Tensor, drawn: Tensor, *, seed: int = 0, start: int = 0
) -> Tensor:
    """Return rows that another model has drawn or filled, in which every dependency holds.

    Values that others determine are replaced. Rows that still break a dependency, with a given
    value, are drawn by the chain.

    Args:
        rows: a model of rows without latents, whose likelihood is a `Chain`.
        x: (n, columns) coded rows as they were given, NaN where a value was open.
        drawn: (n, columns) the complete rows.
        seed: seed of the draws.
        start: index of the first row, if these are a part of a larger table.
    """
    chain = chain_of(rows)
    if not chain.has_dependencies:
        return drawn
    free = x.isnan()
    drawn = chain.consistent(drawn, free)
    broken = (chain.breaks(drawn, free) & free.any(1)).nonzero()[:, 0]
    if len(broken):
        key = noise.derive("broken", seed)  # not the draws of complete rows once more
        drawn[broken] = complete_draws(rows, x[broken], 1, seed=key, start=start)[:, 0]
    return drawn


def complete(rows: nn.Module, x: Tensor) -> Tensor:
    """Fill missing values with E[value | observed], or the likeliest code, by a chain of columns.

    Args:
        rows: a model of rows without latents, whose likelihood is a `Chain`.
        x: (n, columns) coded rows; observed values are unchanged.
    """

    def of_part(part: Rows, first: int) -> Tensor:
        values = part.take(torch.arange(len(part))).x
        with torch.no_grad():
            return torch.cat([chain_of(rows).expected(some) for some in values.split(COMPLETED)])

    with using(rows):
        done = by_parts(Dense(x), COMPLETED, of_part, x.device)
    return dependent(rows, x, done)


def complete_draws(
    rows: nn.Module, x: Tensor, draws: int, *, seed: int = 0, start: int = 0
) -> Tensor:
    """Return `draws` completed copies of every row by a chain of columns, (n, draws, columns).

    Args:
        rows: a model of rows without latents, whose likelihood is a `Chain`.
        x: (n, columns) coded rows.
        draws: copies of each row.
        seed: seed of the draws.
        start: index of the first row, if these are a part of a larger table.
    """
    source, done = noise.generator("complete", seed, start, device=x.device), []
    with using(rows):
        for some in x.split(max(1, SAMPLE_CHUNK // draws)):
            drawn = chain_of(rows).draw(some.repeat_interleave(draws, 0), source)
            done.append(drawn.view(len(some), draws, -1))
    return torch.cat(done)


def chain_of(rows: nn.Module) -> Chain:
    """Return the chain of a model of rows without latents."""
    found = rows.get_submodule("likelihood")
    assert isinstance(found, Chain), "rows are drawn from a chain"
    return found


def _by_weights(
    model: nn.Module,
    rows: Rows,
    work: Callable[[Batch, Weighted], Tensor],
    samples: int,
    most: int = 32,
    groups: Sequence[Sequence[int]] | None = None,
    start: int | None = None,
) -> Tensor:
    """Apply `work` to tiles of rows and weighted draws of z, see `by_proposals`."""

    def weigh(batch: Batch, drawing: Drawing) -> tuple[Tensor, Tensor]:
        found = weighted(model, batch, drawing(0), samples)
        return work(batch, found), share(found.log_w)

    return by_proposals(model, rows, weigh, most, groups=groups, start=start)


def _with_gaps(rows: Rows, groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return all rows, and the indices of those with missing values."""
    x = rows.take(torch.arange(len(rows))).x
    return x, has_gaps(x.flatten(1), groups).nonzero()[:, 0]


@torch.no_grad()
def impute_draws(
    model: nn.Module,
    rows: Rows,
    draws: int,
    *,
    groups: Sequence[Sequence[int]] = (),
    samples: int = 128,
    seed: int = 0,
    start: int = 0,
) -> Tensor:
    """Return `draws` completed copies of every row, (n, draws, ...): multiple imputation.

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        draws: copies of each row.
        groups: the columns that code one value, as in `impute`.
        samples: draws of z per row, from which those of the copies are resampled.
        seed: seed of the draws.
        start: index of the first row, if these are a part of a larger table.
    """
    source = noise.generator("impute", seed, start, device=next(model.parameters()).device)

    def work(batch: Batch, found: Weighted) -> Tensor:
        chosen = found.weights.multinomial(draws, replacement=True, generator=source)
        place = (
            chosen + samples * torch.arange(len(batch.x), device=chosen.device)[:, None]
        ).flatten()
        z = {name: each[place] for name, each in found.z.items()}
        context = None if batch.context is None else batch.context.repeat_interleave(draws, 0)
        values = base.sample(model(None, Trace(replay(z), len(place)), context), source)
        values = values.view(len(batch.x), draws, *batch.x.shape[1:])
        return torch.where(batch.x.isnan()[:, None], values, batch.x[:, None])

    x, gaps = _with_gaps(rows, groups)
    filled = x.repeat_interleave(draws, 0).view(len(x), draws, *x.shape[1:])
    if len(gaps):
        # Draws of each row of its own: the copies of a table would otherwise depend on each other.
        some = subset(rows, gaps)
        filled[gaps] = _by_weights(model, some, work, samples, groups=(), start=start)
    return filled


@singledispatch
def average(px: Distribution, weights: Tensor) -> Tensor:
    """Return the centre of the mixture sum_s w_s p(x | z_s): its mean, or the likeliest level.

    Args:
        px: likelihood whose batch axis is rows x samples.
        weights: (rows, samples), summing to 1.
    """
    return _mix(px.mean, weights)


def _strata(weights: Tensor) -> Tensor:
    """Return a standard normal quantile for each draw of z, (rows x samples,), in mixed order."""
    count = weights.shape[1]
    step = next(k for k in range(round(0.618 * count) or 1, count + 2) if math.gcd(k, count) == 1)
    shares = (torch.arange(count, dtype=torch.float64) * step % count + 0.5) / count
    return torch.special.ndtri(shares).to(weights).repeat(len(weights))


@singledispatch
def spread(px: Distribution, z: Tensor) -> Tensor:
    """Return one value of each number at normal quantiles z; of codes, the likeliest.

    Args:
        px: likelihood whose batch axis is as long as z.
        z: (B,) quantiles of the standard normal distribution.
    """
    return average(px, torch.ones(len(z), 1, device=z.device))


@spread.register(Normal)
@spread.register(StudentT)
@spread.register(Laplace)
def _(px: Normal | StudentT | Laplace, z: Tensor) -> Tensor:
    return px.mean + px.stddev * z.view(-1, *[1] * (px.mean.dim() - 1))


@spread.register
def _(px: Independent, z: Tensor) -> Tensor:
    return spread(px.base_dist, z)


@spread.register
def _(px: Observed, z: Tensor) -> Tensor:
    return spread(px.cells, z)


@spread.register
def _(px: Blocks, z: Tensor) -> Tensor:
    return px.gather([spread(d, z) for _, d in px.blocks])


def _mix(values: Tensor, weights: Tensor) -> Tensor:
    """Average over samples: (rows x samples, ...) -> (rows, ...)."""
    each = values.unflatten(0, weights.shape)
    return (each * weights.view(*weights.shape, *[1] * (each.dim() - 2))).sum(1)


@average.register
def _(px: Independent, weights: Tensor) -> Tensor:
    return average(px.base_dist, weights)


@average.register
def _(px: Observed, weights: Tensor) -> Tensor:
    return average(px.cells, weights)


@average.register
def _(px: Blocks, weights: Tensor) -> Tensor:
    return px.gather([average(d, weights) for _, d in px.blocks])


@average.register
def _(px: Categorical, weights: Tensor) -> Tensor:
    return _mix(px.probs, weights).argmax(-1).to(weights.dtype)


@average.register
def _(px: TreeCodes, weights: Tensor) -> Tensor:
    return px.likeliest(weights)


@average.register
def _(px: GreyCodes, weights: Tensor) -> Tensor:
    return _mix(px.mean, weights)


@average.register
def _(px: Bernoulli, weights: Tensor) -> Tensor:
    return (_mix(px.probs, weights) > 0.5).to(weights.dtype)


def cell_nats(model: nn.Module, rows: Rows, samples: int = SCORE_SAMPLES) -> Tensor:
    """Return E[-log p(x_c | z)] of every value, (n, columns) nats, under the posterior.

    Missing values give 0. One pass serves all columns. The mean of a column over normal rows is
    the baseline above which `explain` reports a contribution.
    """

    def work(batch: Batch, found: Weighted) -> Tensor:
        px, weights = found.px, found.weights.to(batch.x.dtype)
        cells = log_prob_cells(px, batch.x.repeat_interleave(samples, 0))
        return -_mix(cells, weights)

    return _by_weights(model, rows, work, samples)


def pixel_excess(model: nn.Module, rows: Rows, samples: int = SCORE_SAMPLES) -> Tensor:
    """Return the excess of every pixel's -log p over its expected value, (n, H, W) nats.

    The difference of -log p(pixel | z) and its mean under p(x | z) is averaged over draws from
    the posterior with their importance weights, and summed over the channels of a pixel. It is
    near 0 for pixels as the model expects them, noise included, and 0 for missing pixels.
    """

    def work(batch: Batch, found: Weighted) -> Tensor:
        px, weights = found.px, found.weights.to(batch.x.dtype)
        seen = log_prob_cells(px, batch.x.repeat_interleave(samples, 0))
        usual = torch.zeros_like(seen)
        source = noise.generator("excess", device=batch.x.device)
        for _ in range(EXPECTING):
            usual += log_prob_cells(px, base.sample(px, source)) / EXPECTING
        excess = _mix(usual - seen, weights).masked_fill(batch.x.isnan(), 0.0)
        return excess.sum(1) if excess.dim() == 4 else excess

    # One picture at a time, so that its draws do not depend on the other pictures.
    return _by_weights(model, rows, work, samples, most=1)


class Surprise(NamedTuple):
    """The contribution of each group of columns to the anomaly score of each row.

    Attributes:
        nats: (n, groups), -log p(x_group | the other groups); 0 if the group is missing.
        expected: (n, columns), the centre of p(x_group | the other groups).
    """

    nats: Tensor
    expected: Tensor


def explain(
    model: nn.Module, x: Tensor, groups: Sequence[Sequence[int]], samples: int = SCORE_SAMPLES
) -> Surprise:
    """Return the contribution of each group of columns: the decrease of the score without it.

    By the chain rule, -log p(x) + log p(x without g) = -log p(x_g | x without g), so the numbers
    are nats and do not depend on any baseline.

    Args:
        model: a module with ``forward(x, trace, context)``.
        x: (n, columns) coded rows.
        groups: the columns that code one value, such as the parts of a date.
        samples: importance samples per row.
    """
    hidden = [[], *map(list, groups)]  # nothing first, for the score of the whole row
    scores = x.new_empty(len(hidden), len(x), dtype=torch.float64)
    expected = torch.full_like(x, torch.nan)
    together = max(1, EXPLAINED_CELLS // x.numel())  # one fit then serves poor rows of all groups
    by_draws = _score_and_centre if by_proposal(model) is not model else _refined_score_and_centre
    for first in range(0, len(hidden), together):
        some = hidden[first : first + together]
        rest = x.expand(len(some), *x.shape).clone()
        for rows, columns in zip(rest, some, strict=True):
            rows[:, columns] = torch.nan
        found, centres = by_draws(model, Dense(rest.flatten(0, 1)), groups, samples)
        scores[first : first + together] = found.view(len(some), len(x))
        for centre, columns in zip(centres.view_as(rest), some, strict=True):
            expected[:, columns] = centre[:, columns]
    missing = torch.stack([x[:, columns].isnan().all(1) for columns in hidden[1:]], 1)
    nats = (scores[0] - scores[1:]).T.to(x.dtype)
    return Surprise(nats.masked_fill(missing, 0.0), expected)


def _score_and_centre(
    model: nn.Module, rows: Rows, groups: Sequence[Sequence[int]], samples: int
) -> tuple[Tensor, Tensor]:
    """Return the score of every row, (n,) nats, and its expected values, (n, columns).

    All rows have the same draws of one proposal, so that most of the error of two scores is in
    both, and cancels in their difference; better proposals for some rows would undo that.
    """

    def work(batch: Batch, found: Weighted) -> Tensor:
        nats = math.log(samples) - found.log_w.double().logsumexp(1, keepdim=True)
        centre = average(found.px, found.weights.to(batch.x.dtype))
        return torch.cat([nats, centre.double()], 1)

    most = max(1, IMPUTING // samples)

    def of_part(part: Rows, first: int) -> Tensor:
        return _by_weights(model, part, work, samples, most)

    with using(model) as device:
        found = by_parts(rows, tile_of(rows, most), of_part, device)
    return found[:, 0], found[:, 1:].to(torch.float32)


def _refined_score_and_centre(
    model: nn.Module, rows: Rows, groups: Sequence[Sequence[int]], samples: int
) -> tuple[Tensor, Tensor]:
    """Return the same, by better proposals for the rows that need them."""
    return score(model, rows, samples, groups=groups), impute(model, rows, samples=samples)
