"""Anomaly scores other than the likelihood: typicality, and the level ratio of a hierarchy.

A model fitted on pictures of clothes may assign a higher likelihood to pictures of digits than to
clothes, because they are simpler. Digits can still be detected: their likelihood is unusual
(`Typicality`), and the upper levels of a hierarchy carry little information about them
(`level_ratio`).

References:
    Nalisnick, Matsukawa, Teh, Gorur & Lakshminarayanan, "Do deep generative models know what they
    don't know?", 2019, https://arxiv.org/abs/1810.09136
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.coding.rows import Batch, Rows, subset
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import is_continuous, sample
from lowerbound.nn.trace import Choose, Drawn, Trace, from_posterior, posterior_mean
from lowerbound.noise import Noise
from lowerbound.tasks.calibration import Calibration
from lowerbound.tasks.metrics import TILE, by_tiles

LEVEL_SAMPLES = 8  # draws of all levels in each of the two bounds


@dataclass(frozen=True)
class Typicality:
    """Absolute deviation of a score from the mean of held-out scores.

    References:
        Nalisnick, Matsukawa, Teh & Lakshminarayanan, "Detecting out-of-distribution inputs to deep
        generative models using typicality", 2019, https://arxiv.org/abs/1906.02994: the test of
        section 3 for a batch of one row, with the mean score of held-out rows as the entropy.

    Args:
        held_out: scores -log p(x) of rows that training has not seen, nats.
    """

    held_out: Calibration

    @property
    def entropy(self) -> float:
        """The mean held-out score, nats: an estimate of E[-log p(x)]."""
        return float(self.held_out.scores.mean())

    def deviation(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return |-log p(x) - E[-log p(x)]|, (n,) nats, for scores -log p(x)."""
        return np.abs(np.asarray(scores, np.float64) - self.entropy)

    @property
    def calibration(self) -> Calibration:
        """Deviations of the n held-out rows, multiplied by (n + 1) / (n - 1).

        The mean is computed from the held-out rows, so they lie nearer to it than new rows do.
        The factor corrects for that: a p-value by ranks among these deviations is at most alpha
        with probability at most alpha, for any n.

        Such a p-value is never below that of full conformal prediction (Vovk, Gammerman & Shafer,
        2005), in which the new row is included in the mean. For a new score m + d, where m is the
        mean of the n held-out scores, full conformal prediction counts the held-out scores of at
        least m + d and those of at most m - d (n - 1) / (n + 1); the factor applies the smaller
        of the two distances to both sides.
        """
        n = len(self.held_out.scores)
        wider = (n + 1) / max(n - 1, 1)
        return Calibration.of(wider * self.deviation(self.held_out.scores))

    def p_values(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return twice the smaller of the two one-sided p-values by ranks, at most 1.

        For a row exchangeable with the held-out ones, it is at most alpha with probability at
        most alpha, for any distribution of the score. Unlike ranks of the deviation
        (`calibration`), it weights both sides equally if the scores of normal rows are skewed.
        """
        high = self.held_out.p_values(scores)
        low = Calibration(-self.held_out.scores[::-1]).p_values(-np.asarray(scores))
        return np.minimum(1.0, 2 * np.minimum(high, low))


def lowest_from_prior(noise: Noise, lowest: Collection[str], generator: torch.Generator) -> Choose:
    """Draw the sites named `lowest` from p(z | the sites above), all others from q(z | x).

    A site that is drawn from its prior adds nothing to a trace's `log_ratio`.

    Args:
        noise: source of the draws of continuous latents.
        lowest: names of the sites drawn from their priors.
        generator: source of the draws of codes.
    """
    usual = from_posterior(noise)

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        if name not in lowest:
            return usual(name, p, q)
        return usual(name, p, p) if is_continuous(p) else Drawn(sample(p, generator), p)

    return choose


def level_bound(model: nn.Module, rows: Rows, k: int, samples: int = LEVEL_SAMPLES) -> Tensor:
    """Return L^{>k} of every row, (n,) nats: a bound that uses the levels above the lowest k.

    L^{>k} = E[log p(x | z) + log p(z_>k) - log q(z_>k | x)], where the k lowest levels (nearest to
    the data) are drawn from p(z_<=k | z_>k) and the others from q(z_>k | x). It is a lower bound
    of log p(x); for k = 0 it is the ELBO. The draws depend on the row alone, and are shared by
    all k.

    References:
        Havtorn, Frellsen, Hauberg & Maaloe, "Hierarchical VAEs know what they don't know", 2021,
        https://arxiv.org/abs/2102.08248: the bound L^{>k}.

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        k: number of levels drawn from the prior, from 0 to the number of levels minus 1.
        samples: draws of all levels.

    Raises:
        UsageError: E240 for k out of range, or for fewer than one sample.
    """
    if samples < 1:
        raise UsageError(
            "E240", f"samples must be a positive integer, got {samples}", fix="samples=1"
        )
    priors = _priors(model, rows)
    if not 0 <= k < len(priors):
        raise UsageError(
            "E240",
            f"k must be from 0 to {len(priors) - 1}, so that at least one level of latents sees "
            f"the data, got {k}",
            fix=f"k={len(priors) - 1}",
        )
    lowest = list(priors)[len(priors) - k :]

    def work(batch: Batch) -> Tensor:
        keyed = noise.Keyed(noise.row_keys(*batch))
        source = noise.generator("levels", device=batch.x.device)
        choose = lowest_from_prior(keyed, lowest, source)
        trace = Trace(choose, len(batch.x), samples)
        px = model(batch.x, trace, batch.context)
        log_p = px.log_prob(batch.x.repeat_interleave(samples, 0))
        return (log_p + trace.log_ratio()).double().view(-1, samples).mean(1)

    # Codes are drawn from a generator, so one row at a time keeps draws independent of other rows.
    alone = not all(is_continuous(priors[name]) for name in lowest)
    return by_tiles(model, rows, work, 1 if alone else TILE)


def level_ratio(model: nn.Module, rows: Rows, k: int = 1, samples: int = LEVEL_SAMPLES) -> Tensor:
    """Return LLR^{>k} = L - L^{>k} of every row, (n,) nats; higher is more unusual.

    It measures the information about a row that only the lowest k levels have. For rows like the
    training rows, the upper levels have most of the information; other rows may combine familiar
    details in an unfamiliar way. The term log p(x) cancels, and the difference is
    KL(p(z_<=k | z_>k) q(z_>k | x) || p(z | x)) - KL(q(z | x) || p(z | x)).

    References:
        Havtorn, Frellsen, Hauberg & Maaloe, 2021, as in `level_bound`: the score LLR^{>k}.

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        k: number of levels, counted from the data upwards, drawn from their priors; 0 gives 0.
        samples: draws of all levels in each of the two bounds.

    Raises:
        UsageError: E240 as in `level_bound`.
    """
    return level_bound(model, rows, 0, samples) - level_bound(model, rows, k, samples)


def _priors(model: nn.Module, rows: Rows) -> dict[str, Distribution]:
    """Return the priors of all sites for one row, by name, coarse to fine."""
    priors: dict[str, Distribution] = {}

    def work(batch: Batch) -> Tensor:
        trace = Trace(posterior_mean, len(batch.x), decode=False)
        model(batch.x, trace, batch.context)
        priors.update({name: site.p for name, site in trace.sites.items()})
        return batch.x.new_zeros(len(batch.x))

    by_tiles(model, subset(rows, torch.zeros(1, dtype=torch.long)), work, 1)
    return priors
