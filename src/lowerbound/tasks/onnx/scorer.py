"""The module that is exported to ONNX: raw values to score, p-value and alarm."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Size, Tensor, nn
from torch.quasirandom import SobolEngine

from lowerbound import noise
from lowerbound.columns.schema import Schema
from lowerbound.nn.trace import Trace, from_posterior
from lowerbound.tasks.onnx.columns import Coder, CountBelow
from lowerbound.tasks.trained import Model

_CELL = 2.0**-31  # half the spacing of a Sobol sequence; added so that no point is 0


class ConstantNoise:
    """Noise that is the same for every row, so that it becomes constants of the graph.

    Noise keyed to a row's content needs 64-bit hashes, which ONNX lacks. The draws are a
    scrambled Sobol sequence: each draw is standard normal, so that the weights are unbiased, and
    the draws cover the space evenly, so that they are nearly as accurate as twice as many
    independent draws.

    References:
        Owen, "Scrambled net variance for integrals of smooth functions", 1997; Buchholz, Wenzel &
        Mandt, "Quasi-Monte Carlo variational inference", 2018.

    Args:
        samples: draws per row.
        seed: seed of the scrambling.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self.sites: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return normals of `shape`, whose first axis is rows x samples with rows outermost."""
        if name not in self.sites:
            width = math.prod(shape[1:])
            self.sites[name] = self._draw(name, width).view(-1, *shape[1:]).to(like)
        one = self.sites[name]
        return one.repeat(shape[0] // self.samples, *[1] * (one.dim() - 1))

    def _draw(self, name: str, width: int) -> Tensor:
        key = "export", self.seed, name
        points = SobolEngine(width, scramble=True, seed=noise.derive(*key))
        even = points.draw(self.samples, dtype=torch.float64) + _CELL
        # A random order for each site, so that draws at different sites are paired at random.
        order = torch.randperm(self.samples, generator=noise.generator(*key))
        return torch.special.ndtri(even)[order]


class Scorer(nn.Module):
    """Score, p-value and alarm of raw rows, (rows, inputs) float64 with NaN for missing values.

    The score is -log (1/k) sum_i w_i, in nats, as that of `Model.score` with other draws.

    Args:
        trained: a model of table columns.
        schema: its columns.
        samples: k.
        seed: seed of the draws.
    """

    def __init__(self, trained: Model, schema: Schema, samples: int, seed: int) -> None:
        super().__init__()
        self.coder, self.model = Coder(schema), deepcopy(trained.model).cpu()
        self.draws = ConstantNoise(samples, seed)
        self.below = CountBelow([trained.calibration.scores])
        self.held_out = len(trained.calibration.scores)
        self.threshold = trained.alarm.threshold

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (rows,) nats, (rows,) p-values, (rows,) bool."""
        coded, surcharge = self.coder(raw)
        score = self.nats(coded)
        score = score if surcharge is None else score + surcharge
        below = self.below(score.unsqueeze(1)).squeeze(1)
        p_value = (1.0 + self.held_out - below) / (self.held_out + 1.0)
        return score, p_value, score > self.threshold

    def nats(self, x: Tensor) -> Tensor:
        """Return -log p of coded rows, (rows,) float64."""
        k = self.draws.samples
        trace = Trace(from_posterior(self.draws), x.shape[0], k)
        log_p = self.model(x, trace, None).log_prob(x.repeat_interleave(k, 0))
        log_w = (log_p + trace.log_ratio()).view(-1, k)
        return math.log(k) - log_w.double().logsumexp(1)
