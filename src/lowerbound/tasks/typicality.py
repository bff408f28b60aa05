"""Anomaly scores other than the likelihood: typicality, and a ratio of bounds of a hierarchy.

A model of clothes may give digits a higher likelihood than clothes, because they are simpler.
Digits can still be told from clothes: their likelihood is unusual (`Typicality`), and the upper
levels of a hierarchy carry little information about them (`level_ratio`).

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
    """Deviation of a score from the mean of held-out scores, in either direction.

    References:
        Nalisnick, Matsukawa, Teh & Lakshminarayanan, "Detecting out-of-distribution inputs to deep
        generative models using typicality", 2019, https://arxiv.org/abs/1906.02994: the test of
        section 3 for a batch of one row, the entropy being the mean score of held-out rows.

    Args:
        held_out: scores -log p(x) of rows that training has not seen, nats.
    """

    held_out: Calibration

    @property
    def entropy(self) -> float:
        """The mean held-out score, nats: an estimate of E[-log p(x)]."""
        return float(self.held_out.scores.mean())

    def deviation(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return |-log p(x) - E[-log p(x)]| of rows with such scores, (n,) nats."""
        return np.abs(np.asarray(scores, np.float64) - self.entropy)

    @property
    def calibration(self) -> Calibration:
        """Deviations of the n held-out rows, (n + 1) / (n - 1) times as far.

        The mean is their own, so they are nearer to it than a new row is. The factor makes up for
        that: a p-value by ranks among these is at most alpha with probability at most alpha,
        however few they are.

        It is never below the p-value of full conformal prediction (Vovk, Gammerman & Shafer,
        2005), where the new row takes part in the mean. For a row at m + d, m being the mean of
        the n, that one counts the held-out rows from m + d on and those up to
        m - d (n - 1) / (n + 1); the factor applies the shorter distance to both sides.
        """
        n = len(self.held_out.scores)
        wider = (n + 1) / max(n - 1, 1)
        return Calibration.of(wider * self.deviation(self.held_out.scores))

    def p_values(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return twice the smaller of the two one-sided p-values by ranks, at most 1.

        It is at most alpha with probability alpha for a row like the held-out ones, whatever the
        distribution of the score. Unlike ranks of the deviation (`calibration`), it looks at both
        sides equally where the scores of usual rows have one long tail.
        """
        high = self.held_out.p_values(scores)
        low = Calibration(-self.held_out.scores[::-1]).p_values(-np.asarray(scores))
        return np.minimum(1.0, 2 * np.minimum(high, low))


def lowest_from_prior(noise: Noise, lowest: Collection[str], generator: torch.Generator) -> Choose:
    """Draw the sites named `lowest` from p(z | the sites above), all others from q(z | x).

    A site that is drawn from its prior adds nothing to a trace's `log_ratio`.

    Args:
        noise: the source of draws of continuous latents.
        lowest: names of sites.
        generator: the source of draws of codes.
    """
    usual = from_posterior(noise)

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        if name not in lowest:
            return usual(name, p, q)
        return usual(name, p, p) if is_continuous(p) else Drawn(sample(p, generator), p)

    return choose


def level_bound(model: nn.Module, rows: Rows, k: int, samples: int = LEVEL_SAMPLES) -> Tensor:
    """Return L^{>k} of every row, (n,) nats: a bound that uses the levels above the lowest k.

    L^{>k} = E[log p(x | z) + log p(z_>k) - log q(z_>k | x)], the k lowest levels (those next to
    the data) being drawn from p(z_<=k | z_>k) and the others from q(z_>k | x). It is a lower bound
    of log p(x), and for k = 0 the ELBO. Draws depend on the row alone, and are shared by all k.

    References:
        Havtorn, Frellsen, Hauberg & Maaloe, "Hierarchical VAEs know what they don't know", 2021,
        https://arxiv.org/abs/2102.08248: the bound L^{>k}.

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        k: how many levels come from the prior: fewer than there are.
        samples: draws of all levels.

    Raises:
        UsageError: E240 for a number of levels that the model cannot do without, and for fewer
            than one sample.
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

    alone = not all(is_continuous(priors[name]) for name in lowest)  # codes: draws of this row
    return by_tiles(model, rows, work, 1 if alone else TILE)


def level_ratio(model: nn.Module, rows: Rows, k: int = 1, samples: int = LEVEL_SAMPLES) -> Tensor:
    """Return LLR^{>k} = L - L^{>k} of every row, (n,) nats; higher is more unusual.

    It measures the information about a row that only the lowest k levels have. For rows like the
    training ones the upper levels have most of it; other rows may have familiar details in an
    unfamiliar arrangement. Log p(x) cancels, and the difference is
    KL(p(z_<=k | z_>k) q(z_>k | x) || p(z | x)) - KL(q(z | x) || p(z | x)).

    References:
        Havtorn, Frellsen, Hauberg & Maaloe, 2021, as in `level_bound`: the score LLR^{>k}.

    Args:
        model: a module with ``forward(x, trace, context)``.
        rows: the data.
        k: how many levels, from the data upwards, are compared with their prior; 0 gives 0.
        samples: draws of all levels in each of the two bounds.

    Raises:
        UsageError: E240 as in `level_bound`.
    """
    return level_bound(model, rows, 0, samples) - level_bound(model, rows, k, samples)


def _priors(model: nn.Module, rows: Rows) -> dict[str, Distribution]:
    """Return the priors of a model's sites at one row, by name, coarse to fine."""
    priors: dict[str, Distribution] = {}

    def work(batch: Batch) -> Tensor:
        trace = Trace(posterior_mean, len(batch.x), decode=False)
        model(batch.x, trace, batch.context)
        priors.update({name: site.p for name, site in trace.sites.items()})
        return batch.x.new_zeros(len(batch.x))

    by_tiles(model, subset(rows, torch.zeros(1, dtype=torch.long)), work, 1)
    return priors
