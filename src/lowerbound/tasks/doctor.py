"""Diagnosis of a trained model: measurements, and a verdict in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, Normal, StudentT

from lowerbound import noise
from lowerbound.coding.rows import Batch, Rows, subset
from lowerbound.nn.distributions.base import Blocks, Observed, is_continuous
from lowerbound.nn.distributions.codewords import perplexity, units
from lowerbound.nn.distributions.families import Family
from lowerbound.nn.trace import Trace, from_posterior, posterior_mean
from lowerbound.tasks import latent_use, metrics

ROWS = 4096
COLLAPSED_RATE = 0.1  # nats: below this the latents carry almost no information
WIDE_GAP = 0.15  # of the held-out ELBO, per row
IDLE_CODES = 0.5  # share of a codebook that may be unused without a warning
TOO_WIDE, TOO_NARROW = 0.7, 1.4  # robust size of residuals in sigma that gives a warning
AT_FLOOR = 1.3  # a sigma of at most this many times the floor is held up by it
REPEATED = 0.3  # share of equal values that makes most residuals of a column nearly zero
STUDENTS = (2.5, 4.0, 8.0)  # degrees of freedom that are compared with a normal
HEAVY = 0.05  # nats per value that a Student-t must gain over a normal for tails to be heavy


@dataclass(frozen=True)
class LevelUse:
    """Use of one level of latents.

    Attributes:
        name: name of the level.
        rate: mean KL, nats per row.
        active: number of latent dimensions, or codes, in use.
        latent: number of latent dimensions, or codes, in total.
        perplexity: exp of the entropy of the use of codes; None for continuous latents.
    """

    name: str
    rate: float
    active: int
    latent: int
    perplexity: float | None = None


@dataclass(frozen=True)
class Health:
    """Measurements of a trained model, and the verdict on it.

    Attributes:
        active: number of latent dimensions in use.
        latent: number of latent dimensions in total.
        rate: mean KL, nats per row.
        rate_per_dimension: mean KL of each latent dimension, nats; None if it has no closed form.
        levels: the use of each level, coarse to fine.
        train_elbo: mean plain ELBO of training rows, nats.
        valid_elbo: mean plain ELBO of held-out rows, nats.
        spread: robust size of (x - mean) / sigma over held-out numbers: 1 is right, above 1 the
            likelihood is too narrow; None if there are no such numbers.
        verdict: "healthy", "warning" or "collapsed".
        lines: the verdict in sentences, the most severe first.
    """

    active: int
    latent: int
    rate: float
    rate_per_dimension: list[float | None]
    levels: list[LevelUse]
    train_elbo: float
    valid_elbo: float
    spread: float | None
    verdict: str
    lines: list[str]

    def as_dict(self) -> dict[str, object]:
        """Return the attributes as plain JSON values."""
        return asdict(self)


def examine(
    model: nn.Module,
    train: Rows,
    valid: Rows,
    values: int | None = None,
    options: Collection[str] = (),
) -> Health:
    """Diagnose a trained model on training and on held-out rows.

    For a model of codes, the units in use are the codes of its codebooks.

    Args:
        model: a trained model.
        train: training rows.
        valid: held-out rows.
        values: number of possible values of each element of x, such as 256 for pixels; None if
            the elements are continuous or differ.
        options: names of the recipe's arguments. The advice mentions `floor` and `likelihood`
            only if the recipe has them.
    """
    train, valid = _some(train), _some(valid)
    use = latent_use.latent_use(model, valid)
    bound, learned = (metrics.elbo(model, rows, start=0) for rows in (valid, train))
    rate = bound.rate.mean().item()
    valid_elbo, train_elbo = bound.elbo.mean().item(), learned.elbo.mean().item()
    residuals = _residuals(model, valid)
    spread = None if residuals is None else residuals.spread
    floor = max((f.floor for f in model.modules() if isinstance(f, Family)), default=0.0)
    misfit = [] if residuals is None else _misfit(residuals, floor, options)
    active, latent = int(use.active.sum()), len(use.active)
    levels = _levels(model, valid, use)
    gap = train_elbo - valid_elbo
    if all(level.perplexity is None for level in levels):
        worst, lines = _verdict((active, latent), rate, gap, valid_elbo, (spread, misfit))
    else:
        worst, lines = _verdict_of_codes(levels, rate, gap, valid_elbo)
    idle = [] if worst == "collapsed" else _idle(levels)
    if idle:
        worst, lines = "warning", [*idle, *(line.removeprefix("OK: ") for line in lines)]
    cells = valid.take(torch.zeros(1, dtype=torch.long)).x.numel()
    guessed = _guessed(-valid_elbo / cells, values)
    if guessed:
        worst = "warning" if worst == "healthy" else worst
        lines = [*guessed, *(line.removeprefix("OK: ") for line in lines)]
    return Health(
        active=active,
        latent=latent,
        rate=rate,
        rate_per_dimension=[None if math.isnan(r) else r for r in use.rate.tolist()],
        levels=levels,
        train_elbo=train_elbo,
        valid_elbo=valid_elbo,
        spread=spread,
        verdict=worst,
        lines=lines,
    )


def of_restoring(health: Health, measured: str, doubt: str = "") -> Health:
    """Return the health of a model that restores pictures, judged by its error on held-out pairs.

    Unused latents are no fault of such a model: if the given picture determines the result, the
    latents carry no information.

    Args:
        health: the health that `examine` returned.
        measured: the quality of restored held-out pairs, in words.
        doubt: how it falls short of a baseline, as "no better than ..."; empty if it does not.
    """
    use = f"latents carry {health.rate:.2f} nats; held-out ELBO {health.valid_elbo:.2f}"
    if not doubt:
        return replace(health, verdict="healthy", lines=[f"OK: {measured}; {use}."])
    advice = f"WARNING: {doubt}. Longer training or more pictures may help."
    return replace(health, verdict="warning", lines=[advice, f"{measured}; {use}."])


def _some(rows: Rows) -> Rows:
    return subset(rows, torch.arange(min(ROWS, len(rows))))


def _levels(model: nn.Module, rows: Rows, use: latent_use.LatentUse) -> list[LevelUse]:
    """Return the use of every level; `use` holds the units of all levels in order."""
    sizes: dict[str, int] = {}
    coded: dict[str, bool] = {}

    keys = metrics.RowKeys(torch.arange(len(rows)))

    def work(batch: Batch) -> Tensor:
        trace = Trace(from_posterior(noise.Keyed(keys(batch))), len(batch.x))
        model(batch.x, trace, batch.context)
        for name, site in trace.sites.items():
            assert site.q is not None
            sizes[name] = units(site.q, site.z).shape[1]
            coded[name] = not is_continuous(site.p)
        return torch.stack([site.kl() for site in trace.sites.values()], 1)

    rates = metrics.by_tiles(model, rows, work).double().mean(0)
    parts = (each.split(list(sizes.values())) for each in (use.active, use.activity))
    return [
        LevelUse(name, rate, int(active.sum()), size, perplexity(seen) if coded[name] else None)
        for (name, size), rate, active, seen in zip(
            sizes.items(), rates.tolist(), *parts, strict=True
        )
    ]


def _idle(levels: list[LevelUse]) -> list[str]:
    """Return a warning that names the levels of a hierarchy whose rate is almost 0.

    Active units do not show these levels: the posterior mean of a level that equals its prior
    still varies with the levels above it, so that its units count as active.
    """
    idle = [f"{each.name} ({each.rate:.2f} nats)" for each in levels if each.rate < COLLAPSED_RATE]
    if not idle:
        return []
    which = f"level {idle[0]} has" if len(idle) == 1 else f"levels {', '.join(idle)} have"
    return [
        f"WARNING: the {which} collapsed and can be left out. Try --set free_bits=0.5, a smaller "
        "beta, or fewer levels."
    ]


def _guessed(nats: float, values: int | None) -> list[str]:
    """Return a warning if a held-out value costs more bits than a uniform guess."""
    if values is None or nats <= math.log(values):
        return []
    return [
        f"WARNING: too little learned: a held-out value takes {nats / math.log(2):.2f} bits, and "
        f"a uniform guess takes {math.log2(values):.2f}. Train for longer (--time-limit 10m), or "
        "on more data."
    ]


def _verdict(
    use: tuple[int, int],
    rate: float,
    gap: float,
    valid_elbo: float,
    sigma: tuple[float | None, list[str]],
) -> tuple[str, list[str]]:
    """Return the verdict and its explanation, given the measurements of continuous latents."""
    warnings: list[str] = []
    (active, latent), (spread, misfit) = use, sigma
    if active == 0 or rate < COLLAPSED_RATE:
        return "collapsed", [
            f"COLLAPSED: the latents carry {rate:.2f} nats and {active} of {latent} are in use; "
            "embeddings carry almost no information about a row. Try --set free_bits=0.5, a "
            "smaller beta, or longer training. If the columns of the data are independent, there "
            "is no structure to learn."
        ]
    if active == latent:
        warnings.append(
            f"WARNING: all {latent} latent dimensions are in use; more may help: "
            f"--latent {2 * latent}."
        )
    warnings += _overfitted(gap, valid_elbo)
    warnings += misfit
    summary = (
        f"{active} of {latent} latent dimensions in use, {rate:.2f} nats per row; held-out ELBO "
        f"{valid_elbo:.2f}, training {valid_elbo + gap:.2f}"
        + ("" if spread is None else f"; residuals {spread:.2f} sigma (1 is right)")
        + "."
    )
    if warnings:
        return "warning", [*warnings, summary]
    return "healthy", [f"OK: {summary}"]


def _overfitted(gap: float, valid_elbo: float) -> list[str]:
    """Return a warning if training rows fit much better than held-out ones."""
    if gap <= WIDE_GAP * max(1.0, abs(valid_elbo)):
        return []
    return [
        f"WARNING: the ELBO is {gap:.2f} nats worse on held-out rows than on training rows: "
        "the model overfits. Use more rows, or --preset fast."
    ]


def _misfit(found: Residuals, floor: float, options: Collection[str]) -> list[str]:
    """Return a warning that names the cause, if held-out residuals are not of the size of sigma.

    Args:
        found: the residuals.
        floor: smallest sigma that the likelihood can have.
        options: names of the recipe's arguments.
    """
    spread = found.spread
    if TOO_WIDE < spread < TOO_NARROW:
        return []
    start = (
        f"WARNING: held-out values lie {spread:.2f} standard deviations from their means instead "
        "of 1: the likelihood is too "
    )
    if spread >= TOO_NARROW:
        return [
            f"{start}narrow. The rows that it was learned from are predicted better: use more "
            "rows, or --preset fast; for new rows, look for drift."
        ]
    wide = found.spreads <= TOO_WIDE
    gains = _gain_of_student(found.z)
    floored = wide & (found.scale <= AT_FLOOR * floor)
    equal = wide & (found.repeated >= REPEATED)
    repeated = equal & ~floored
    tails = wide & ~floored & ~repeated & (gains >= HEAVY)
    count, columns = int(wide.sum()), len(wide)
    where = f"in {count} of {columns} columns" if columns > 1 else "in the only column of numbers"
    shared = columns > 1 and bool(found.scale.max() <= 1.001 * found.scale.min())
    shares = (
        "Many rows share one value of these columns: if few values occur, --types NAME=ordinal or "
        "=categorical."
    )
    causes = {
        f"Residuals are smaller than the smallest sigma, {floor:g} standard deviations of a "
        "column, so that finer differences do not change the scores."
        + (
            f" {shares}"
            if 2 * int((floored & equal).sum()) > int(floored.sum())
            else f" If they matter: --set floor={_finer(found, floored, floor):g}."
            * ("floor" in options)
        ): floored,
        f"Residuals are nearly zero. {shares}": repeated,
        f"The residuals have heavy tails: a Student-t gains {gains[tails].sum():.2f} nats per row."
        + " Try --set likelihood=student." * ("likelihood" in options): tails,
    }
    if shared:
        causes[
            "One sigma serves all columns, and the residuals of some are larger. Try "
            + ("" if "likelihood" in options else "--recipe sigma ")
            + "--set likelihood=feature."
        ] = wide & ~floored
    best = max(causes, key=lambda cause: int(causes[cause].sum()))
    if 2 * int(causes[best].sum()) < count:
        best = "Longer training may help: --preset best."
    return [f"{start}wide {where}. {best}"]


def _finer(found: Residuals, floored: Tensor, floor: float) -> float:
    """Return half the typical size of the residuals that the floor exceeds, rounded."""
    if not floored.any():
        return floor
    size = (found.spreads * found.scale)[floored].median().item()
    return float(f"{max(size / 2, 1e-3):.1g}")


def _gain_of_student(z: Tensor) -> Tensor:
    """Return the gain of a Student-t over a normal in log p of each column, (columns,) nats.

    Both are centred at 0 with their best scales; the normal has the better fit to normal z.
    """
    seen, x = ~z.isnan(), z.nan_to_num().double()
    count = seen.sum(0).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return (values * seen).sum(0) / count

    variance = mean(x.square()).clamp_min(1e-12)
    normal = -0.5 * (2 * math.pi * variance).log() - 0.5
    best = torch.full_like(normal, -math.inf)
    for df in STUDENTS:
        scale = variance.clone()
        for _ in range(50):  # the EM algorithm of the scale
            scale = mean((df + 1) / (df + x.square() / scale) * x.square()).clamp_min(1e-12)
        px = StudentT(torch.tensor(df, dtype=torch.float64), 0.0, scale.sqrt())
        best = torch.maximum(best, mean(px.log_prob(x)))
    return best - normal


def _verdict_of_codes(
    levels: list[LevelUse], rate: float, gap: float, valid_elbo: float
) -> tuple[str, list[str]]:
    """Return the verdict and its explanation, given the use of codebooks."""
    told = "; ".join(
        f"{each.active} of {each.latent} codes in use at {each.name}, perplexity "
        f"{each.perplexity:.1f}"
        for each in levels
    )
    if all(each.active < 2 for each in levels):
        return "collapsed", [f"COLLAPSED: {told}: every picture has the same codes."]
    warnings = [
        f"WARNING: only {each.active} of {each.latent} codes are in use at {each.name}. Try --set "
        f"codebook=ema_restart or fsq, or --set codes={max(2, 2 * each.active)}."
        for each in levels
        if each.active < IDLE_CODES * each.latent
    ] + _overfitted(gap, valid_elbo)
    summary = (
        f"{told}; {rate:.2f} nats per row; held-out ELBO {valid_elbo:.2f}, training "
        f"{valid_elbo + gap:.2f}."
    )
    if warnings:
        return "warning", [*warnings, summary]
    return "healthy", [f"OK: {summary}"]


class Residuals(NamedTuple):
    """Held-out residuals of the columns that are numbers.

    Attributes:
        z: (n, columns) residuals as standard normal scores; NaN where a value is missing.
        scale: (columns,) median scale of the likelihood of each column.
        repeated: (columns,) share of the values that equal the column's most frequent one.
    """

    z: Tensor
    scale: Tensor
    repeated: Tensor

    @property
    def spreads(self) -> Tensor:
        """The robust size of z in each column: 1 is right.

        1.4826 times the median of |z| is 1 for normal residuals, and robust to outliers.
        """
        return 1.4826 * self.z.abs().nanmedian(0).values

    @property
    def spread(self) -> float:
        """The median over columns, robust to columns that others determine (a code, a name)."""
        return self.spreads.median().item()


def _residuals(model: nn.Module, rows: Rows) -> Residuals | None:
    """Return the residuals of the columns of numbers, or None if there are none."""
    if rows.take(torch.zeros(1, dtype=torch.long)).x.dim() > 2:
        # Most pixels of a picture are background, for which a shared sigma is far too wide.
        return None

    def work(batch: Batch) -> Tensor:
        px = model(batch.x, Trace(posterior_mean, len(batch.x)), batch.context)
        return standardised(px, batch.x)

    found = metrics.by_tiles(model, rows, work)
    found = found[:, ~found[..., 0].isnan().all(0)]
    if not found.shape[1]:
        return None
    z, scale, x = found.unbind(-1)
    repeated = (x == x.mode(0).values).sum(0) / (~x.isnan()).sum(0)
    return Residuals(z, scale.nanmedian(0).values, repeated)


@singledispatch
def standardised(px: Distribution, x: Tensor) -> Tensor:
    """Return the normal score, the scale and the value of every number, (B, numbers, 3).

    Numbers are the values whose likelihood has a location and a scale. A normal score is
    (x - mean) / sigma for a normal likelihood, and for others what it is after the map through
    the two distribution functions.
    """
    return x[:, :0, None].expand(-1, -1, 3)


@standardised.register
def _(px: Normal, x: Tensor) -> Tensor:
    return torch.stack([(x - px.mean) / px.stddev, px.scale, x], -1)


@standardised.register
def _(px: Laplace | StudentT, x: Tensor) -> Tensor:
    below = px.cdf(x.double()).clamp(1e-12, 1 - 1e-12)
    return torch.stack([torch.special.ndtri(below).to(x), px.scale, x], -1)


@standardised.register
def _(px: Independent, x: Tensor) -> Tensor:
    return standardised(px.base_dist, x)


@standardised.register
def _(px: Observed, x: Tensor) -> Tensor:
    return standardised(px.cells, x)


@standardised.register
def _(px: Blocks, x: Tensor) -> Tensor:
    return torch.cat([standardised(d, x[:, columns]) for columns, d in px.blocks], 1)
