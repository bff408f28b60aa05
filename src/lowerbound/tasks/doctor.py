"""The health of a trained model, in numbers and in plain words."""

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
COLLAPSED_RATE = 0.1  # nats: below this the latents carry next to nothing
WIDE_GAP = 0.15  # of the held-out ELBO, per row
IDLE_CODES = 0.5  # share of a codebook that may be out of use


@dataclass(frozen=True)
class LevelUse:
    """How much one level of latents is used.

    Attributes:
        name: of the level.
        rate: mean KL, nats per row.
        active: latent dimensions in use, or codes.
        latent: latent dimensions in all, or codes.
        perplexity: of codes, how many as often used as one another would tell as much; else None.
    """

    name: str
    rate: float
    active: int
    latent: int
    perplexity: float | None = None


@dataclass(frozen=True)
class Health:
    """What the doctor measured, and says.

    Attributes:
        active: latent dimensions in use.
        latent: latent dimensions in all.
        rate: mean KL, nats per row.
        rate_per_dimension: mean KL of each latent dimension, nats, where it has a closed form.
        levels: the same of each level, coarse to fine.
        train_elbo: plain ELBO of training rows, nats.
        valid_elbo: plain ELBO of held-out rows, nats.
        spread: root mean square of (x - mean) / sigma over held-out numeric cells: 1 is right,
            above 1 the model is too sure; None where there is no such cell.
        verdict: "healthy", "warning" or "collapsed".
        lines: the verdict in sentences, the worst first.
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
        """Return plain JSON values."""
        return asdict(self)


def examine(model: nn.Module, train: Rows, valid: Rows, values: int | None = None) -> Health:
    """Examine a trained model on training and on held-out rows.

    Of a model of codes, the codes of a codebook are what is in use or not.

    Args:
        model: a trained model.
        train: rows that it learned from.
        valid: rows that it did not.
        values: how many a cell may have, where all cells have as many, such as 256 of a pixel.
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


def of_restoring(
    health: Health, measured: str, is_better: bool, than: str = "what is given"
) -> Health:
    """Return the health of a model that restores: what counts is what it makes of held-out pairs.

    Its latents may be idle: where what is given leaves nothing open they have nothing to say.

    Args:
        health: as `examine` found it.
        measured: what it makes of held-out pairs, in words.
        is_better: than `than`.
        than: what anyone has without the model.
    """
    use = f"latents carry {health.rate:.2f} nats; held-out ELBO {health.valid_elbo:.2f}"
    if is_better:
        return replace(health, verdict="healthy", lines=[f"OK: {measured}; {use}."])
    advice = f"WARNING: no better than {than}. Longer training or more pictures may help."
    return replace(health, verdict="warning", lines=[advice, f"{measured}; {use}."])


def _some(rows: Rows) -> Rows:
    return subset(rows, torch.arange(min(ROWS, len(rows))))


def _levels(model: nn.Module, rows: Rows, use: latent_use.LatentUse) -> list[LevelUse]:
    """Measure every level; `use` is that of the units of all levels in order."""
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
    """Return a warning that names the levels of a hierarchy that carry next to nothing.

    By their rates: the mean of a level that only repeats its prior still moves with the levels
    above it, so that its units count as active.
    """
    idle = [f"{each.name} ({each.rate:.2f} nats)" for each in levels if each.rate < COLLAPSED_RATE]
    if not idle:
        return []
    which = f"level {idle[0]} has" if len(idle) == 1 else f"levels {', '.join(idle)} have"
    return [
        f"WARNING: the {which} collapsed: the model does without. Try --set free_bits=0.5, a "
        "smaller beta, or fewer levels."
    ]


def _guessed(nats: float, values: int | None) -> list[str]:
    """Return a warning where a held-out cell costs more than a guess among its values would."""
    if values is None or nats <= math.log(values):
        return []
    return [
        f"WARNING: too little learned: a held-out value takes {nats / math.log(2):.2f} bits, and "
        f"guessing it takes {math.log2(values):.2f}. Learn for longer (--time-limit 10m), or from "
        "more."
    ]


def _verdict(
    active: int, latent: int, rate: float, gap: float, valid_elbo: float, spread: float | None
) -> tuple[str, list[str]]:
    """Turn the measurements into sentences; the first names the verdict."""
    warnings = []
    if active == 0 or rate < COLLAPSED_RATE:
        return "collapsed", [
            f"COLLAPSED: the latents carry {rate:.2f} nats and {active} of {latent} are in use; "
            "samples and embeddings say nothing about a row. Try --set free_bits=0.5, a "
            "smaller beta, or longer training; or the columns are independent and there is "
            "nothing to find."
        ]
    if active == latent:
        warnings.append(
            f"WARNING: all {latent} latent dimensions are in use; more may help: "
            f"--latent {2 * latent}."
        )
    warnings += _overfitted(gap, valid_elbo)
    if spread is not None and not 0.7 < spread < 1.4:
        sure = "too sure" if spread > 1 else "not sure enough"
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
    """Return a warning where training rows fit much better than held-out ones."""
    if gap <= WIDE_GAP * max(1.0, abs(valid_elbo)):
        return []
    return [
        f"WARNING: the ELBO is {gap:.2f} nats worse on held-out rows than on training rows: "
        "the model over-fits. More rows, or --preset fast, would narrow that."
    ]


def _verdict_of_codes(
    levels: list[LevelUse], rate: float, gap: float, valid_elbo: float
) -> tuple[str, list[str]]:
    """Turn the use of codebooks into sentences; the first names the verdict."""
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

    1.4826 times the median of |z| is 1 for normal residuals and deaf to outliers; the median over
    columns is deaf to those that another column decides, such as a code beside its name.
    """
    if rows.take(torch.zeros(1, dtype=torch.long)).x.dim() > 2:
        # Most pixels of a picture are background, which a shared sigma is far too wide for.
        return None

    def work(batch: Batch) -> Tensor:
        px = model(batch.x, Trace(posterior_mean, len(batch.x)), batch.context)
        return standardised(px, batch.x)

    z = metrics.by_tiles(model, rows, work)
    sizes = [1.4826 * c[~c.isnan()].abs().median() for c in z.T if not c.isnan().all()]
    return torch.stack(sizes).median().item() if sizes else None


@singledispatch
def standardised(px: Distribution, x: Tensor) -> Tensor:
    """Return (x - mean) / sigma of the cells that have a location and a scale, (B, cells)."""
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
