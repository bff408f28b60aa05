"""Likelihood estimates on data larger than memory, accumulated over parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.coding.tables import Coded
from lowerbound.tasks import latent_use, metrics
from lowerbound.tasks.finite import finite
from lowerbound.tasks.state import TrainedState

TIMES = 4  # importance samples relative to those of a score: 128, fewer for deep networks
ANNEALED_ROWS = 64  # rows used by annealed importance sampling


class Moments:
    """Mean and variance of numbers that are added in parts.

    References:
        Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983, eq. 1.5.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Add a part, (n,)."""
        values = values.double()
        n, mean = len(values), values.mean().item()
        squares = (values - mean).square().sum().item()
        both, apart = self.count + n, mean - self.mean
        self.squares += squares + apart**2 * self.count * n / both
        self.mean += apart * n / both
        self.count = both

    @property
    def standard_error(self) -> float:
        """The standard error of the mean."""
        return math.sqrt(self.squares / max(1, self.count - 1) / self.count)


class Evaluation:
    """Likelihood estimates of a model, nats per row of the raw values.

    Args:
        trained: the model.
        samples: importance samples per row; by default `TIMES` as many as for a score.
        ais: also run annealed importance sampling on the first rows.
    """

    def __init__(
        self, trained: TrainedState, samples: int | None = None, ais: bool = False
    ) -> None:
        self.trained, self.ais = trained, ais
        self.samples = samples or TIMES * trained.importance_samples
        self.distortion, self.rate, self.log_p = Moments(), Moments(), Moments()
        self.jacobian, self.chain = Moments(), Moments()
        self._labelled: dict[str, Moments] = {}
        self._effective: list[Tensor] = []
        self._uses: list[latent_use.LatentUse] = []
        self._annealed: dict[str, Any] = {}

    def add(self, coded: Coded, labels: Sequence[str] = ()) -> None:
        """Add a part of the rows; the memory used is 4 bytes per row.

        Args:
            coded: the rows.
            labels: the label of each row, for the likelihood of each; () without labels.
        """
        model, rows = self.trained.model, coded.rows
        start, groups = self.log_p.count, coded.groups
        bound = metrics.elbo(model, rows, start=start)
        weighted = metrics.log_likelihood(model, rows, self.samples, start=start, groups=groups)
        self.distortion.add(bound.distortion)
        self.rate.add(bound.rate)
        self.log_p.add(weighted.log_p)
        jacobian = torch.from_numpy(coded.log_jacobian.copy())
        self.jacobian.add(jacobian)
        names, first = np.unique(np.sort(labels), return_index=True)
        order = torch.from_numpy(np.argsort(labels, kind="stable"))
        nll = -(weighted.log_p + jacobian)[order]
        for name, some in zip(names.tolist(), np.split(nll.numpy(), first[1:]), strict=False):
            self._labelled.setdefault(name, Moments()).add(torch.from_numpy(some))
        if model.rows is not None:
            self.chain.add(metrics.log_likelihood(model.rows, rows, 1, start=start).log_p)
        self._effective.append(weighted.effective_samples.float())
        self._uses.append(latent_use.latent_use(model, rows))
        if self.ais and not self._annealed:
            self._annealed = self._by_annealing(coded)

    def _by_annealing(self, coded: Coded) -> dict[str, Any]:
        batch = coded.rows.take(torch.arange(min(ANNEALED_ROWS, len(coded.rows))))
        annealed = metrics.ais(self.trained.model, batch)
        jacobian = float(coded.log_jacobian[: len(batch.x)].mean())
        chains = metrics.Annealing().chains
        nll = -annealed.mean - jacobian
        return {"ais_nll": nll, "ais_rows": len(batch.x), "ais_chains": chains}

    def report(self) -> dict[str, Any]:
        """Return the estimates over all rows as plain JSON values."""
        trained, jacobian = self.trained, self.jacobian.mean
        use = latent_use.together(self._uses)
        elbo = -self.distortion.mean - self.rate.mean + jacobian
        report: dict[str, Any] = {
            "rows": self.log_p.count,
            "elbo": elbo,
            "distortion": self.distortion.mean - jacobian,
            "rate": self.rate.mean,
            "iw_nll": -self.log_p.mean - jacobian,
            "iw_nll_standard_error": self.log_p.standard_error,
            "importance_samples": self.samples,
            "effective_samples_median": torch.cat(self._effective).median().item(),
            "active_units": int(use.active.sum()),
            "latent": len(use.active),
            "unit": "nats per row",
        }
        if trained.recipe.first_stage:  # the rate depends on the prior of the codes
            report["prior"] = trained.arguments["prior"]
        if trained.model.rows is not None:
            report["chain_nll"] = -self.chain.mean - jacobian
            report["chain_nll_standard_error"] = self.chain.standard_error
        if trained.coding.shape:
            cells = math.prod(trained.coding.shape)
            report["bits_per_dimension"] = metrics.bits_per_dimension(-elbo, cells)
        if self._labelled:
            report["labels"] = {
                name: {"rows": each.count, "iw_nll": each.mean}
                for name, each in sorted(self._labelled.items())
            }
        report |= self._annealed
        finite(np.array([n for n in report.values() if isinstance(n, float)]), "estimates")
        return report
