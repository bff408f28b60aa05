"""Draw rows conditional on some of their values: importance sampling, then tempered moves of z.

The target is p(z | given), which is proportional to p(z) p(given | z). Draws from the prior and
from the encoder's q(z | given) are weighted and resampled. If the weights are poor, the draws go
on through the intermediate targets p(z) p(given | z)^beta by Hamiltonian moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.errors import DataError
from lowerbound.nn.distributions.base import is_certain, is_continuous
from lowerbound.nn.latents.flows import FlowDistribution
from lowerbound.nn.trace import Choose, Site, Trace, from_posterior, from_prior, replay
from lowerbound.recipes.record import Draw, draw_each
from lowerbound.tasks import hamiltonian
from lowerbound.tasks.finite import using

CHUNK = 8192  # draws computed together
PROPOSALS = 32768  # least number of weighted draws
ENOUGH = 0.5  # effective share of n rows above which importance sampling suffices
PARTICLES = 4096  # most chains of moves
FEWEST = 256  # chains below which moves are not started
LEAPFROG = 6
BETWEEN = 3  # most moves at each intermediate target
LAST = 24  # most moves at the end
FORGOTTEN = 0.05  # correlation with former positions below which moves end
STAGES = 200  # most intermediate targets
WORK = 2e13  # floating-point operations that all moves together may take, about


class Conditioned(NamedTuple):
    """Draws conditional on some values, and their effective number.

    Attributes:
        values: (n, ...) rows; the given values are unchanged.
        effective_samples: number of independent draws that the n rows are worth, at most n. If it
            is far below n, many rows share the same z.
        context: (n, ...) the context of each row, or None.
    """

    values: Tensor
    effective_samples: float
    context: Tensor | None = None


@torch.no_grad()
def sample_given(
    model: nn.Module,
    given: Tensor,
    n: int,
    *,
    seed: int = 0,
    context: Tensor | None = None,
    draw: Draw = draw_each,
) -> Conditioned:
    """Draw n rows conditional on the values of `given` that are not NaN.

    Half of the proposals of z are draws from the prior, half from q(z | given); they are weighted
    by p(z) p(given | z) / proposal(z) and resampled. If fewer than n / 2 effective draws remain,
    and z is continuous, the draws are moved through p(z) p(given | z)^beta with beta rising to 1.
    Then the other values are drawn from p(x | z).

    References:
        Owen & Zhou, "Safe and effective importance sampling", 2000 (mixture proposals);
        Del Moral, Doucet & Jasra, "Sequential Monte Carlo samplers", 2006;
        Lee & Whiteley, "Variance estimation in the particle filter", 2018, whose sums over the
        descendants of each first particle give the effective number of draws.

    Args:
        model: a module with ``forward(x, trace, context)``.
        given: (columns,), or one picture, with NaN for values to draw.
        n: number of rows.
        seed: seed of all draws.
        context: (m, ...) contexts to draw from with equal probability, or None. Those of the
            draws are chosen by the given values, too.
        draw: the function that draws rows from the likelihood.

    Raises:
        DataError: E074 if p(given | z) is zero for all draws.
    """
    with using(model) as device:
        source = noise.generator("sample", "given", seed, device=device)
        problem = _Problem(model, given.to(device), context, source)
        found = problem.weighted(max(PROPOSALS, 8 * n))
        if found.effective < ENOUGH * n and found.movable:
            count = min(PARTICLES, max(n, PARTICLES // 2), problem.affordable())
            if count >= FEWEST:
                moved = _Moved(problem, found, count)
                moved.run()
                found = max(found, moved.weighted(), key=lambda each: each.effective)
        z, chosen = found.draw(n, source)
        drawn = problem.rows(z, chosen, draw)
    kept = torch.where(given.isnan(), drawn, given.expand_as(drawn))
    return Conditioned(kept, min(found.effective, float(n)), chosen)


@dataclass
class _Weighted:
    """Draws of z with weights, and the effective number of them.

    Attributes:
        z: positions by site, (N, ...).
        context: (N, ...) or None.
        log_base: (N,) log p(z) - log proposal(z).
        log_given: (N,) log p(given | z).
        effective: the effective number of draws.
        movable: whether all sites are continuous.
    """

    z: dict[str, Tensor]
    context: Tensor | None
    log_base: Tensor
    log_given: Tensor
    effective: float
    movable: bool

    def draw(self, n: int, source: torch.Generator) -> tuple[dict[str, Tensor], Tensor | None]:
        """Resample n draws by their weights, in random order."""
        at = _resampled((self.log_base + self.log_given).softmax(0), n, source)
        at = at[torch.randperm(n, generator=source, device=at.device)]
        return _at(self.z, at), None if self.context is None else self.context[at]


class _Problem:
    """The model, the values that are given, and the source of randomness.

    Args:
        model: a module with ``forward(x, trace, context)``.
        given: one row, NaN where it is open.
        contexts: (m, ...) contexts to draw from, or None.
        source: the source of randomness.
    """

    def __init__(
        self,
        model: nn.Module,
        given: Tensor,
        contexts: Tensor | None,
        source: torch.Generator,
    ) -> None:
        self.model, self.given, self.source = model, given, source
        self.contexts = None if contexts is None else contexts.to(given.device)

    def weighted(self, count: int) -> _Weighted:
        """Return at least `count` weighted draws, half from the prior and half from q."""
        helped = self._has_q()
        parts = [
            self._proposed(helped, by_q=helped and number % 2 == 1)
            for number in range(math.ceil(count / CHUNK))
        ]
        z = {name: torch.cat([part.z[name] for part in parts]) for name in parts[0].z}
        log_base = torch.cat([part.log_base for part in parts])
        log_given = torch.cat([part.log_given for part in parts])
        if not (log_given > -torch.inf).any():
            raise DataError(
                "E074",
                f"the values that are given have probability zero in all {len(log_given):,} draws "
                "of the model",
                fix="give values that occur together in the training data",
            )
        context = None if self.contexts is None else torch.cat([_known(p.context) for p in parts])
        effective = _effective(log_base + log_given)
        return _Weighted(z, context, log_base, log_given, effective, parts[0].movable)

    def _proposed(self, helped: bool, by_q: bool) -> _Weighted:
        """Return `CHUNK` draws with the weights of the mixture of the prior and q.

        Weights against the mixture are at most twice p(given | z), so that a q that is too narrow
        does no harm.
        """
        context = self._some_contexts()
        if by_q:
            trace = self._read(from_posterior(noise.Stream(self.source)), context)
        else:
            trace = Trace(from_prior(self.source), CHUNK, decode=False)
            self.model(None, trace, context)
        z = {name: site.z for name, site in trace.sites.items()}
        log_p, log_given = self.energies(z, context)
        log_base = torch.zeros_like(log_p)
        if helped:
            sites = self._read(replay(z), context).sites.values()
            log_q = torch.stack([_log_q(site) for site in sites]).sum(0)
            log_q = log_q.nan_to_num(-torch.inf, neginf=-torch.inf)
            log_base = log_p - torch.logaddexp(log_p, log_q) + math.log(2)
        movable = all(is_continuous(site.p) for site in trace.sites.values())
        return _Weighted(z, context, log_base, log_given, 0.0, movable)

    def _has_q(self) -> bool:
        """Return whether q(z | given) is finite and has a density for every z."""
        trace = self._read(from_posterior(noise.Stream(self.source)), self._some_contexts())
        if not all(map(_has_density, trace.sites.values())):
            return False
        return all(bool(_log_q(site).isfinite().all()) for site in trace.sites.values())

    def _read(self, choose: Choose, context: Tensor | None) -> Trace:
        """Encode the given values and choose `CHUNK` positions."""
        if context is None:  # one row: it is encoded once
            trace = Trace(choose, 1, CHUNK, decode=False)
            self.model(self.given[None], trace, None)
        else:
            trace = Trace(choose, CHUNK, decode=False)
            self.model(self.given.expand(CHUNK, *self.given.shape), trace, context)
        return trace

    def _some_contexts(self) -> Tensor | None:
        if self.contexts is None:
            return None
        like = {"generator": self.source, "device": self.contexts.device}
        return self.contexts[torch.randint(len(self.contexts), (CHUNK,), **like)]

    def energies(self, z: dict[str, Tensor], context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return log p(z) and log p(given | z), (N,) nats."""
        count = len(next(iter(z.values())))
        trace = Trace(replay(z), count)
        px = self.model(None, trace, context)
        log_given = px.log_prob(self.given.expand(count, *self.given.shape)).double()
        return trace.log_prior().double(), log_given.nan_to_num(-torch.inf, neginf=-torch.inf)

    def rows(self, z: dict[str, Tensor], context: Tensor | None, draw: Draw) -> Tensor:
        """Draw a row from p(x | z) at every position."""
        count, drawn = len(next(iter(z.values()))), []
        for start in range(0, count, CHUNK):
            some = slice(start, start + CHUNK)
            trace = Trace(
                replay({name: each[some] for name, each in z.items()}),
                min(CHUNK, count - start),
            )
            part = None if context is None else context[some]
            px = self.model(None, trace, part)
            drawn.append(draw(px, part, self.source, self.given))
        return torch.cat(drawn)

    def affordable(self) -> int:
        """Return the number of chains whose moves take about `WORK` at most.

        It is a rough bound: every weight is taken to be used once for each place of a picture.
        """
        weights = sum(p.numel() for p in self.model.parameters())
        places = math.prod(self.given.shape[1:])
        return int(WORK / (6 * weights * places * (LEAPFROG + 1) * 2 * LAST))


class _Moved:
    """Chains that are moved from p(z) p(given | z)^beta with a small beta to beta = 1.

    Args:
        problem: the model and what is given.
        start: weighted draws.
        count: number of chains.
    """

    def __init__(self, problem: _Problem, start: _Weighted, count: int) -> None:
        self.problem, self.source = problem, problem.source
        self.beta = _next(start.log_base, start.log_given, 0.0, ENOUGH * count)
        log_w = start.log_base + self.beta * start.log_given
        self.roots = _resampled(log_w.softmax(0), count, self.source)
        self.z = _at(start.z, self.roots)
        self.context = None if start.context is None else start.context[self.roots]
        self.step = 0.3

    def run(self) -> None:
        """Move until beta is 1 and the positions no longer depend on where they started."""
        for _ in range(STAGES):
            self._moves(LAST if self.beta == 1.0 else BETWEEN)
            if self.beta == 1.0:
                return
            log_given = self.problem.energies(self.z, self.context)[1]
            now = _next(torch.zeros_like(log_given), log_given, self.beta, ENOUGH * len(log_given))
            weights = ((now - self.beta) * log_given).softmax(0)
            self._keep(_resampled(weights, len(weights), self.source))
            self.beta = now

    def _keep(self, at: Tensor) -> None:
        self.z, self.roots = _at(self.z, at), self.roots[at]
        self.context = None if self.context is None else self.context[at]

    def _moves(self, most: int) -> None:
        """Move all chains up to `most` times, until they have forgotten their start."""
        begun = _flat(self.z)
        # Momentum of one unit moves each coordinate by its standard deviation over the chains.
        scales = {name: each.std(0, keepdim=True).clamp_min(1e-4) for name, each in self.z.items()}
        for _ in range(most):
            jitter = 0.8 + 0.4 * torch.rand((), generator=self.source, device=begun.device)
            steps = {name: self.step * jitter * scale for name, scale in scales.items()}
            self.z, accepted = hamiltonian.move(self._slope, self.z, steps, LEAPFROG, self.source)
            # Towards an acceptance rate of 0.7, by all chains together.
            self.step *= math.exp(0.7 * (accepted.double().mean().item() - 0.7))
            self.step = min(max(self.step, 1e-4), 1.0)
            if _correlation(begun, _flat(self.z)) < FORGOTTEN:
                return

    def _slope(self, z: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in z.items()}
            log_p, log_given = self.problem.energies(leaves, self.context)
            density = log_p + self.beta * log_given
            slopes = torch.autograd.grad(density.sum(), list(leaves.values()))
        return density.detach(), dict(zip(z, slopes, strict=True))

    def weighted(self) -> _Weighted:
        """Return the chains as draws with equal weights."""
        none = self.roots.new_zeros(len(self.roots), dtype=torch.float64)
        worth = 1.0 if self.beta < 1.0 else _worth(_flat(self.z), self.roots)
        return _Weighted(self.z, self.context, none, none, worth, True)


def _log_q(site: Site) -> Tensor:
    assert site.q is not None, "the encoder was given a row"
    return site.q.log_prob(site.z).double()


def _has_density(site: Site) -> bool:
    """Return whether q of a site can be evaluated anywhere, which that of a flow cannot."""
    assert site.q is not None, "the encoder was given a row"
    return (
        is_continuous(site.p)
        and not is_certain(site.q)
        and not isinstance(site.q, FlowDistribution)
    )


def _known(context: Tensor | None) -> Tensor:
    assert context is not None, "each part has a context"
    return context


def _at(z: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: each[index] for name, each in z.items()}


def _flat(z: dict[str, Tensor]) -> Tensor:
    """Return positions as (chains, coordinates)."""
    return torch.cat([each.flatten(1) for each in z.values()], 1).double()


def _effective(log_w: Tensor) -> float:
    """Return (sum w)^2 / sum w^2."""
    return (1 / log_w.softmax(0).square().sum()).item()


def _next(log_base: Tensor, log_given: Tensor, beta: float, wanted: float) -> float:
    """Return the largest next beta, up to 1, that keeps `wanted` effective draws."""

    def keeps(new: float) -> bool:
        return _effective(log_base + (new - beta) * log_given) >= wanted

    # Draws of probability zero have weight zero at any beta above the old one.
    if keeps(1.0):
        return 1.0
    low, high = beta, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return max(low, beta + (1 - beta) * 1e-6)


def _resampled(weights: Tensor, n: int, source: torch.Generator) -> Tensor:
    """Return n indices drawn by their weights, systematically: with the least variance."""
    first = torch.rand((), generator=source, dtype=torch.float64, device=weights.device)
    points = (torch.arange(n, device=weights.device) + first) / n
    ends = weights.double().cumsum(0)
    return torch.searchsorted(ends / ends[-1], points).clamp_max(len(weights) - 1)


def _correlation(before: Tensor, after: Tensor) -> float:
    """Return the largest correlation of a coordinate with its former values."""
    before, after = before - before.mean(0), after - after.mean(0)
    size = (before.square().sum(0) * after.square().sum(0)).sqrt().clamp_min(1e-300)
    return ((before * after).sum(0) / size).abs().max().item()


def _worth(features: Tensor, roots: Tensor) -> float:
    """Return the effective number of chains, by the variation between families of chains.

    Chains of one root are counted as one draw as far as they are still similar. The coordinate
    with the fewest effective draws counts.

    Args:
        features: (chains, coordinates).
        roots: (chains,) the draw that each chain descends from.
    """
    centred = features - features.mean(0)
    own = roots.unique(return_inverse=True)[1]
    sums = centred.new_zeros(int(own.max()) + 1, centred.shape[1]).index_add_(0, own, centred)
    alone = centred.square().sum(0)
    return (len(features) * alone / sums.square().sum(0).clamp_min(1e-300)).min().item()
