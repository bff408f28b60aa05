"""The module that is exported: raw cells to score, p-value and alarm."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Size, Tensor, nn
from torch.quasirandom import SobolEngine

from lowerbound import noise
from lowerbound.columns.schema import Schema
from lowerbound.nn.trace import Trace, from_posterior
from lowerbound.tasks.onnx.columns import Below, Coder
from lowerbound.tasks.trained import Model

_CELL = 2.0**-31  # half the distance of two neighbours of a Sobol sequence: keeps it off 0


class Fixed:
    """The same standard normals for every row: constants, which a graph can hold.

    Noise that is keyed to a row's content takes 64-bit hashes, which ONNX does not have. The
    draws are a scrambled Sobol sequence: each of them is standard normal, so that the weights
    stay unbiased, and together they leave no gaps, which is worth nearly twice as many independent
    ones.

    References:
        Owen, "Scrambled net variance for integrals of smooth functions", 1997; Buchholz, Wenzel &
        Mandt, "Quasi-Monte Carlo variational inference", 2018.

    Args:
        samples: draws per row.
        seed: of the scrambling.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self.sites: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return normals of `shape`, whose first axis is rows x samples, row by row."""
        if name not in self.sites:
            width = math.prod(shape[1:])
            self.sites[name] = self._draw(name, width).view(-1, *shape[1:]).to(like)
        one = self.sites[name]
        return one.repeat(shape[0] // self.samples, *[1] * (one.dim() - 1))

    def _draw(self, name: str, width: int) -> Tensor:
        key = "export", self.seed, name
        points = SobolEngine(width, scramble=True, seed=noise.derive(*key))
        even = points.draw(self.samples, dtype=torch.float64) + _CELL
        # In an order of its own, so that the sites of a model are paired at random.
        order = torch.randperm(self.samples, generator=noise.generator(*key))
        return torch.special.ndtri(even)[order]


class Scorer(nn.Module):
    """Raw cells (rows, inputs) float64, NaN where missing, to (score, p-value, alarm) of each row.

    The score is that of `Model.score`, but for its draws: -log (1/k) sum_i w_i, in nats.

    Args:
        trained: the model, with a coding of columns.
        schema: its columns.
        samples: k.
        seed: of the draws.
    """

    def __init__(self, trained: Model, schema: Schema, samples: int, seed: int) -> None:
        super().__init__()
        self.coder, self.model = Coder(schema), deepcopy(trained.model).cpu()
        self.draws = Fixed(samples, seed)
        self.below = Below([trained.calibration.scores])
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
