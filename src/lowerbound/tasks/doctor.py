"""Diagnosis of a trained model: measurements, and a verdict in plain sentences."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, Normal, StudentT

from lowerbound import noise
from lowerbound.coding.rows import Batch, Rows, subset
from lowerbound.nn.distributions.base import Blocks, Observed, is_continuous
from lowerbound.nn.distributions.codewords import perplexity, units
from lowerbound.nn.trace import Trace, from_posterior, posterior_mean
from lowerbound.tasks import latent_use, metrics

ROWS = 4096
COLLAPSED_RATE = 0.1  # nats: below this the latents carry almost no information
WIDE_GAP = 0.15  # of the held-out ELBO, per row
IDLE_CODES = 0.5  # share of a codebook that may be unused without a warning


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


def examine(model: nn.Module, train: Rows, valid: Rows, values: int | None = None) -> Health:
    """Diagnose a trained model on training and on held-out rows.

    For a model of codes, the units in use are the codes of its codebooks.

    Args:
        model: a trained model.
        train: training rows.
        valid: held-out rows.
        values: number of possible values of each element of x, such as 256 for pixels; None if
            the elements are continuous or differ.
    """
    train, valid = _some(train), _some(valid)
    use = latent_use.latent_use(model, valid)
    bound, learned = metrics.elbo(model, valid), metrics.elbo(model, train)
    rate = bound.rate.mean().item()
    valid_elbo, train_elbo = bound.elbo.mean().item(), learned.elbo.mean().item()
    spread = _spread(model, valid)
    active, latent = int(use.active.sum()), len(use.active)
    levels = _levels(model, valid, use)
    gap = train_elbo - valid_elbo
    if all(level.perplexity is None for level in levels):
        worst, lines = _verdict(active, latent, rate, gap, valid_elbo, spread)
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

    def work(batch: Batch) -> Tensor:
        keys = noise.row_keys(*batch)
        trace = Trace(from_posterior(noise.Keyed(keys)), len(batch.x))
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
    active: int, latent: int, rate: float, gap: float, valid_elbo: float, spread: float | None
) -> tuple[str, list[str]]:
    """Return the verdict and its explanation, given the measurements of continuous latents."""
    warnings = []
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
    if spread is not None and not 0.7 < spread < 1.4:
        sure = "too narrow" if spread > 1 else "too wide"
        warnings.append(
            f"WARNING: held-out values lie {spread:.2f} standard deviations from their means "
            f"instead of 1: the likelihood is {sure}. Heavy tails? Try --set likelihood=student."
        )
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


def _spread(model: nn.Module, rows: Rows) -> float | None:
    """Return the median over columns of the robust size of (x - mean) / sigma, or None.

    1.4826 times the median of |z| is 1 for normal residuals and robust to outliers; the median
    over columns is robust to columns that another column determines, such as a code and its name.
    """
    if rows.take(torch.zeros(1, dtype=torch.long)).x.dim() > 2:
        # Most pixels of a picture are background, for which a shared sigma is far too wide.
        return None

    def work(batch: Batch) -> Tensor:
        px = model(batch.x, Trace(posterior_mean, len(batch.x)), batch.context)
        return standardised(px, batch.x)

    z = metrics.by_tiles(model, rows, work)
    sizes = [1.4826 * c[~c.isnan()].abs().median() for c in z.T if not c.isnan().all()]
    return torch.stack(sizes).median().item() if sizes else None


@singledispatch
def standardised(px: Distribution, x: Tensor) -> Tensor:
    """Return (x - mean) / sigma of the values that have a location and a scale, (B, values)."""
    return x[:, :0]


@standardised.register
def _(px: Normal | Laplace | StudentT, x: Tensor) -> Tensor:
    return ((x - px.mean) / px.stddev).flatten(1)


@standardised.register
def _(px: Independent, x: Tensor) -> Tensor:
    return standardised(px.base_dist, x)


@standardised.register
def _(px: Observed, x: Tensor) -> Tensor:
    return standardised(px.cells, x)


@standardised.register
def _(px: Blocks, x: Tensor) -> Tensor:
    return torch.cat([standardised(d, x[:, columns]) for columns, d in px.blocks], 1)
