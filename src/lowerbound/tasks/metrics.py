"""Estimates of log p(x), all in nats per example."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.coding.rows import TILE_VALUES, Batch, Rows, subset, tile_of, tiles
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import is_certain, is_continuous
from lowerbound.nn.latents.importance import by_proposal
from lowerbound.nn.trace import Choose, Encoded, Trace, from_posterior, from_prior, replay
from lowerbound.tasks import hamiltonian, proposals
from lowerbound.tasks.finite import using
from lowerbound.tasks.parts import by_parts

T = TypeVar("T", float, Tensor)

TILE = 128  # rows computed together; fixed, so that results do not depend on the number of rows
CHUNK = 32  # importance samples computed together
RARE = 0.05  # nats: standard error of draws from the prior, above which those from q are tried
# Values of a tile of wide rows (thousands of columns) with one draw per row. Such tiles hold more
# rows than tiles with many draws, or reading the widest weights for each tile would dominate.
ONCE = TILE_VALUES * CHUNK


@torch.no_grad()
def by_tiles(
    model: nn.Module,
    rows: Rows,
    work: Callable[[Batch], Tensor],
    most: int = TILE,
    flat: int = 0,
) -> Tensor:
    """Apply `work` to tiles of fixed size in evaluation mode, and concatenate the results.

    Args:
        model: the model.
        rows: the n rows.
        work: function of a tile of rows, (B, ...), that returns one result per row.
        most: rows per tile.
        flat: values per tile, see `tile_of`.

    Returns:
        (n, ...) results, on the CPU.
    """
    tile = tile_of(rows, most, flat)
    with using(model) as device:
        # Write results into one tensor: a list of small ones would fragment the memory that the
        # following tiles reuse.
        made, end = None, 0
        for batch, real in tiles(rows, tile):
            some = work(batch.to(device))[:real]
            if made is None:
                made = torch.empty(len(rows), *some.shape[1:], dtype=some.dtype)
            made[end : end + real] = some
            end += real
    assert made is not None, "there are rows"
    return made


class RowKeys:
    """The keys of rows by which their draws are keyed, for tiles that come in order.

    Equal rows have equal draws if these are keyed by the values of the row: its score is then a
    function of the row. In a mean over rows they would share one error, and in a sample they would
    be one point many times: draws are keyed by the row's number there.

    Args:
        numbers: (n,) the numbers of the rows; None keys by values.
    """

    def __init__(self, numbers: Tensor | None) -> None:
        self.numbers, self.done = numbers, 0

    def __call__(self, batch: Batch) -> Tensor:
        """Return the keys of the next tile, (B,) int64."""
        if self.numbers is None:
            return noise.row_keys(*batch)
        index = torch.arange(self.done, self.done + len(batch.x))
        self.done += len(batch.x)
        number = self.numbers[index.clamp_max(len(self.numbers) - 1)]
        return noise.row_keys(number[:, None].to(batch.x.device))


Drawing = Callable[[int], Choose]  # index of the first draw -> how z is drawn from there on


def by_proposals(
    model: nn.Module,
    rows: Rows,
    work: Callable[[Batch, Drawing], tuple[Tensor, Tensor]],
    most: int = TILE,
    flat: int = 0,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    start: int | None = None,
) -> Tensor:
    """Apply `work` to tiles of rows by draws from q(z | x), and from better proposals if needed.

    Rows with missing values for which q is a poor proposal are collected from all tiles, and get
    a refined proposal each: such rows are few, and a fit costs as much as many draws.

    Args:
        model: the model.
        rows: the n rows.
        work: function of a tile of rows and of the way to draw z. It returns one result per row,
            (B, ...), and the shares of effective samples, (B,).
        most: rows per tile.
        flat: values per tile, see `tile_of`.
        groups: the columns that code one value, see `proposals.has_gaps`. None: q is always used.
        start: number of the first row, see `log_likelihood`.

    Returns:
        (n, ...) results, on the CPU.
    """
    numbers = None if start is None else torch.arange(start, start + len(rows))
    usual = _Proposing(model, work, groups, numbers)
    found = by_tiles(model, rows, usual, most, flat)
    poor = torch.cat(usual.poor)[: len(rows)].nonzero()[:, 0]
    if not len(poor):
        return found
    numbers, some = None if numbers is None else numbers[poor], subset(rows, poor)
    fitted = _fitted(model, some)
    refined = _Proposing(model, work, None, numbers, fitted)
    other = by_tiles(model, some, refined, max(most, TILE))
    share, before = torch.cat(refined.shares)[: len(poor)], torch.cat(usual.shares)[poor]
    better = proposals.preferred(share, before)
    found[poor[better]] = other[better]
    return found


class _Proposing:
    """Maps tiles of rows, in order, to the results of `work`; see `by_proposals`.

    Args:
        model: the model.
        work: see `by_proposals`.
        groups: see `by_proposals`.
        numbers: (n,) the number of each row, by which its draws are keyed. None: all rows have
            the same quasi-random draws, or draws keyed by their values if the model has no
            proposal, as in versions without one.
        fitted: the refined proposals of all rows, to draw from them.

    Attributes:
        shares: of effective samples, (B,) for every tile.
        poor: whether q is a poor proposal for a row with missing values, (B,) for every tile.
    """

    def __init__(
        self,
        model: nn.Module,
        work: Callable[[Batch, Drawing], tuple[Tensor, Tensor]],
        groups: Sequence[Sequence[int]] | None,
        numbers: Tensor | None,
        fitted: proposals.Fitted | None = None,
    ) -> None:
        self.model, self.work, self.groups, self.fitted = model, work, groups, fitted
        self.done = 0
        shared = numbers is None and by_proposal(model) is not model
        self.keys = None if shared else RowKeys(numbers)
        self.points = noise.SharedPoints()
        self.shares: list[Tensor] = []
        self.poor: list[Tensor] = []

    def __call__(self, batch: Batch) -> Tensor:
        keys = None if self.keys is None else self.keys(batch)
        rule: Callable[[noise.Noise], Choose] = from_posterior
        if self.fitted is not None:
            rule = partial(proposals.proposing, self._next(self.fitted, len(batch.x)))

        def drawing(first: int) -> Choose:
            if keys is None:
                return rule(self.points.part(len(batch.x), first))
            return rule(noise.Keyed(keys, first))

        result, share = self.work(batch, drawing)
        poor = torch.zeros_like(share, dtype=torch.bool)
        if self.groups is not None:
            poor = proposals.weak(batch, share)
            poor &= proposals.has_gaps(batch.x.flatten(1), self.groups)
        self.shares.append(share.cpu())
        self.poor.append(poor.cpu())
        return result

    def _next(self, fitted: proposals.Fitted, rows: int) -> proposals.Fitted:
        """Return the refined proposals of the next tile, whose last row may be repeated."""
        last = len(next(iter(fitted.values()))[0]) - 1
        at = torch.arange(self.done, self.done + rows).clamp_max(last)
        self.done += rows
        return {name: (loc[at], scale[at]) for name, (loc, scale) in fitted.items()}


@torch.no_grad()
def _fitted(model: nn.Module, rows: Rows) -> proposals.Fitted:
    """Return the refined proposals of all rows, by tiles larger than those of many draws."""
    parts: list[proposals.Fitted] = []
    with using(model) as device:
        for batch, real in tiles(rows, tile_of(rows, TILE)):
            found = proposals.refined(model, batch.to(device))
            parts.append({n: (a[:real], b[:real]) for n, (a, b) in found.items()})
    return {
        name: (torch.cat([p[name][0] for p in parts]), torch.cat([p[name][1] for p in parts]))
        for name in parts[0]
    }


class LogLikelihood(NamedTuple):
    """Importance-sampling estimates of log p(x).

    Attributes:
        log_p: (n,) nats: log (1/k) sum_i w_i, a lower bound in expectation.
        standard_error: (n,) of log_p by the delta method: sd(w) / (sqrt(k) mean(w)).
        effective_samples: (n,) (sum w)^2 / sum w^2; near 1 if q(z | x) is a poor proposal.
    """

    log_p: Tensor
    standard_error: Tensor
    effective_samples: Tensor

    @property
    def mean(self) -> float:
        """Mean log p(x), nats per example."""
        return self.log_p.double().mean().item()

    @property
    def mean_standard_error(self) -> float:
        """Standard error of `mean`, from the variation over examples and importance samples."""
        n = len(self.log_p)
        return (self.log_p.double().std(correction=min(1, n - 1)) / math.sqrt(n)).item()


def log_weights(model: nn.Module, batch: Batch, samples: int, first: int = 0) -> Tensor:
    """Return log w = log p(x, z) - log q(z | x), (B, samples), for keyed draws of z.

    Args:
        model: a module with ``forward(x, trace, context)``.
        batch: rows of data.
        samples: number of draws.
        first: index of the first draw, so that chunks of draws can be combined.
    """
    normals = noise.Keyed(noise.row_keys(*batch), first)
    return _weighted(model, batch, from_posterior(normals), samples)[0]


def _weighted(
    model: nn.Module,
    batch: Batch,
    choose: Choose,
    samples: int,
    encoded: Encoded | None = None,
) -> tuple[Tensor, bool]:
    """Return `log_weights`, and whether q(z | x) is deterministic."""
    trace = Trace(choose, len(batch.x), samples, encoded)
    px = by_proposal(model)(batch.x, trace, batch.context)
    log_p = px.log_prob(batch.x.repeat_interleave(samples, 0))
    certain = all(is_certain(site.q) for site in trace.sites.values() if site.q is not None)
    return (log_p + trace.log_ratio()).view(-1, samples), certain


def log_likelihood(
    model: nn.Module,
    rows: Rows,
    samples: int = 128,
    *,
    chunk: int = CHUNK,
    most: int = TILE,
    start: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> LogLikelihood:
    """Estimate log p(x) of every row by importance sampling from q(z | x).

    The estimate of a row depends only on the row and the model, unless `start` is given. Sums are
    accumulated in float64 over chunks of samples, so memory does not grow with `samples`; rows
    are encoded once for all chunks. Rows that take few values are estimated by many draws from the
    prior: see `proposals`.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", 2016, section 3.

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        samples: k.
        chunk: samples per pass.
        most: rows per pass; fewer are used if rows are large pictures.
        start: number of the first row, by which draws are then keyed: equal rows have independent
            errors, for an honest mean over rows. None keys them by the values of the row.
        groups: the columns that code one value, see `proposals.has_gaps`: rows with missing
            values then get better proposals where q is poor. None: none has.

    Raises:
        UsageError: E240 for fewer than one sample.
    """
    if samples < 1:
        raise UsageError(
            "E240", f"samples must be a positive integer, got {samples}", fix="samples=1"
        )

    estimator = _ImportanceSampling(model, samples, chunk)
    few = _of_few_values(model, rows, most)
    if few is None:
        flat = ONCE // min(samples, chunk)

        def of_part(part: Rows, first: int) -> Tensor:
            begun = None if start is None else start + first
            return by_proposals(model, part, estimator, most, flat, groups=groups, start=begun)

        with using(model) as device:
            found = by_parts(rows, tile_of(rows, most, flat), of_part, device)
        return _estimate(found, samples)
    rare = few.standard_error > RARE
    if rare.any():  # the posterior may propose better than the prior
        some = subset(rows, rare.nonzero()[:, 0])
        own = by_proposals(model, some, estimator, most, groups=groups, start=start)
        found = _estimate(own, samples)
        better = found.standard_error < few.standard_error[rare]
        for mine, other in zip(few, found, strict=True):
            mine[rare] = torch.where(better, other, mine[rare])
    return few


# Whether q(z | x) is deterministic, as for codes. It follows from the parts of the model, and to
# find out takes a third of the score of one row.
_CERTAIN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class _ImportanceSampling:
    """Maps tiles of rows to the log-sums of their weights and squared weights, (B, 2).

    Args:
        model: a module with ``forward(x, trace, context)``.
        samples: draws per row.
        chunk: draws per pass.
    """

    def __init__(self, model: nn.Module, samples: int, chunk: int) -> None:
        self.model, self.samples, self.chunk = model, samples, chunk

    def __call__(self, batch: Batch, drawing: Drawing) -> tuple[Tensor, Tensor]:
        encoded = Encoded()
        once = batch.x.new_full((len(batch.x),), -torch.inf, dtype=torch.float64)
        twice = once.clone()
        if self.model not in _CERTAIN:
            _CERTAIN[self.model] = _weighted(self.model, batch, drawing(0), 1, encoded)[1]
        for first in range(0, self.samples, self.chunk):
            k = min(self.chunk, self.samples - first)
            drawn = 1 if _CERTAIN[self.model] else k
            log_w = _weighted(self.model, batch, drawing(first), drawn, encoded)[0]
            log_w = log_w.double().expand(-1, k)
            once = torch.logaddexp(once, log_w.logsumexp(1))
            twice = torch.logaddexp(twice, (2 * log_w).logsumexp(1))
        sums = torch.stack([once, twice], 1)
        return sums, _effective(sums, self.samples) / self.samples


@torch.no_grad()
def _of_few_values(model: nn.Module, rows: Rows, most: int) -> LogLikelihood | None:
    """Return the estimates by draws from the prior, or None where rows take many values."""
    with using(model) as device:
        draws = proposals.PriorDraws.suit(
            model, rows.take(torch.zeros(1, dtype=torch.long)).to(device), device
        )
        if draws is None:
            return None
        found = by_tiles(model, rows, lambda batch: draws.sums(batch.x), 64 * most)
    return _estimate(found, proposals.POOL)


def _estimate(sums: Tensor, samples: int) -> LogLikelihood:
    """Return the estimates from the log-sums of w and of w^2, (n, 2)."""
    effective = _effective(sums, samples)
    error = ((1 / effective - 1 / samples).clamp_min(0)).sqrt()
    return LogLikelihood(sums[:, 0] - math.log(samples), error, effective)


def _effective(sums: Tensor, samples: int) -> Tensor:
    """Return the effective sample sizes, (n,), from log-sums of w and of w^2, (n, 2)."""
    return (2 * sums[:, 0] - sums[:, 1]).exp().clamp(1.0, samples)


class Bound(NamedTuple):
    """The plain ELBO of every row and its terms, (n,) nats each: elbo = -distortion - rate."""

    elbo: Tensor
    distortion: Tensor
    rate: Tensor


def elbo(
    model: nn.Module, rows: Rows, samples: int = 1, most: int = TILE, start: int | None = None
) -> Bound:
    """Return the ELBO of every row from `samples` draws of z, with exact KL where available.

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        samples: draws per row.
        most: rows per pass.
        start: number of the first row, see `log_likelihood`.
    """

    def of_part(part: Rows, first: int) -> Tensor:
        begun = None if start is None else start + first
        keys = RowKeys(None if begun is None else torch.arange(begun, begun + len(part)))

        def work(batch: Batch) -> Tensor:
            trace = Trace(from_posterior(noise.Keyed(keys(batch))), len(batch.x), samples)
            px = model(batch.x, trace, batch.context)
            log_p = px.log_prob(batch.x.repeat_interleave(samples, 0))
            both = torch.stack([-log_p, trace.kl()], 1).double()
            return both.view(-1, samples, 2).mean(1)

        return by_tiles(model, part, work, most, ONCE // samples)

    with using(model) as device:
        tile = tile_of(rows, most, ONCE // samples)
        distortion, rate = by_parts(rows, tile, of_part, device).unbind(1)
    return Bound(-distortion - rate, distortion, rate)


def bits_per_dimension(nats: T, dimensions: int) -> T:
    """Return `nats` per example in bits per dimension: nats / (dimensions log 2).

    Args:
        nats: a number or a tensor, such as -log p(x) of images.
        dimensions: number of dimensions of an example: channels x height x width.

    Raises:
        UsageError: E240 for fewer than one dimension.
    """
    if dimensions < 1:
        raise UsageError(
            "E240", f"dimensions must be a positive integer, got {dimensions}", fix="dimensions=1"
        )
    return nats / (dimensions * math.log(2))


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Attributes:
        chains: independent chains per row.
        temperatures: number of intermediate distributions, on a sigmoidal schedule.
        leapfrog: leapfrog steps of one Hamiltonian move.
    """

    chains: int = 8
    temperatures: int = 500
    leapfrog: int = 10


def ais(
    model: nn.Module, batch: Batch, settings: Annealing | None = None, seed: int = 0
) -> LogLikelihood:
    """Estimate log p(x) by annealed importance sampling from the prior to the posterior.

    The intermediate distributions are p(z) p(x | z)^b; the transitions are Hamiltonian Monte
    Carlo, with a step size per chain that adapts to its acceptance rate. Unlike
    `log_likelihood`, the estimate does not depend on q(z | x) and is reliable if q is a poor
    proposal. It supports any number of levels of continuous latents.

    References:
        Neal, "Annealed importance sampling", 2001; Wu, Burda, Salakhutdinov & Grosse, "On the
        quantitative analysis of decoder-based generative models", 2017.

    Args:
        model: a module with ``forward(x, trace, context)``.
        batch: rows of data.
        settings: length and number of chains.
        seed: seed of the chains.

    Raises:
        UsageError: E255 if latents are codes, for which Hamiltonian moves are not defined.
    """
    settings = settings or Annealing()
    with using(model):
        source = noise.generator("ais", seed, device=batch.x.device)
        log_w = _Chains(model, batch, settings, source).run()
    k = settings.chains
    once, twice = log_w.logsumexp(1), (2 * log_w).logsumexp(1)
    effective = (2 * once - twice).exp().clamp(1.0, k)
    error = ((1 / effective - 1 / k).clamp_min(0)).sqrt()
    return LogLikelihood(once - math.log(k), error, effective)


class _Chains:
    """The chains of one AIS run: positions of every site, and their step sizes."""

    def __init__(
        self, model: nn.Module, batch: Batch, settings: Annealing, source: torch.Generator
    ) -> None:
        self.model, self.settings, self.source = model, settings, source
        self.rows, self.k = len(batch.x), settings.chains
        self.x = batch.x.repeat_interleave(self.k, 0)
        self.context = batch.context
        trace = Trace(from_prior(source), self.rows, self.k, decode=False)
        with torch.no_grad():
            model(None, trace, batch.context)
        for name, site in trace.sites.items():
            if not is_continuous(site.p):
                raise UsageError(
                    "E255",
                    f"annealed importance sampling needs continuous latents, and those of "
                    f"{name!r} are codes",
                    fix="leave --ais out",
                )
        self.z = {name: site.z.detach() for name, site in trace.sites.items()}
        self.step = batch.x.new_full((self.rows * self.k,), 0.1, dtype=torch.float64)

    def energies(self, z: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return log p(z) and log p(x | z), (rows x chains,)."""
        trace = Trace(replay(z), self.rows, self.k)
        log_x = self.model(None, trace, self.context).log_prob(self.x)
        return trace.log_prior(), log_x

    def run(self) -> Tensor:
        """Return the log-weights, (rows, chains)."""
        t = torch.linspace(-4, 4, self.settings.temperatures + 1).sigmoid().double()
        betas = ((t - t[0]) / (t[-1] - t[0])).tolist()
        log_w = torch.zeros_like(self.step)
        for before, now in zip(betas[:-1], betas[1:], strict=True):
            with torch.no_grad():
                log_w += (now - before) * self.energies(self.z)[1].double()
            self.move(now)
        return log_w.view(self.rows, self.k)

    def slope(self, z: dict[str, Tensor], beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the log-density at inverse temperature beta, and its gradient by site."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in z.items()}
            log_z, log_x = self.energies(leaves)
            density = log_z.double() + beta * log_x.double()
            slopes = torch.autograd.grad(density.sum(), list(leaves.values()))
        return density.detach(), dict(zip(z, slopes, strict=True))

    def move(self, beta: float) -> None:
        """Make one Hamiltonian move at inverse temperature beta and adapt the step sizes."""
        shaped = {
            n: self.step.to(v.dtype).view(-1, *[1] * (v.dim() - 1)) for n, v in self.z.items()
        }
        self.z, accept = hamiltonian.move(
            lambda z: self.slope(z, beta), self.z, shaped, self.settings.leapfrog, self.source
        )
        # Adapt to an acceptance rate of 0.65, the optimum for Hamiltonian Monte Carlo.
        self.step *= torch.where(accept, 1.02, 0.98 ** (0.65 / 0.35))
        self.step.clamp_(1e-4, 2.0)
