"""The module that is exported to ONNX: raw values to score, p-value and alarm."""

from __future__ import annotations

import math
from copy import deepcopy

from torch import Size, Tensor, nn

from lowerbound import noise
from lowerbound.columns.schema import Schema
from lowerbound.nn.latents.importance import by_proposal
from lowerbound.nn.trace import Trace, from_posterior
from lowerbound.tasks.onnx.columns import Coder, CountBelow
from lowerbound.tasks.trained import Model


class ConstantNoise:
    """Noise that is the same for every row, so that it becomes constants of the graph.

    Noise keyed to a row's content needs 64-bit hashes, which ONNX lacks. With the seed 0, the
    draws are those of `Model.score` for a model with a proposal.

    Args:
        samples: draws per row.
        seed: seed of the scrambling of the points.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples = samples
        self.points = noise.SharedPoints("export", seed) if seed else noise.SharedPoints()
        self.sites: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return normals of `shape`, whose first axis is rows x samples with rows outermost."""
        if name not in self.sites:
            self.sites[name] = self.points.part(1)(name, Size([self.samples, *shape[1:]]), like)
        one = self.sites[name]
        return one.repeat(shape[0] // self.samples, *[1] * (one.dim() - 1))


class Scorer(nn.Module):
    """Score, p-value and alarm of raw rows, (rows, inputs) float64 with NaN for missing values.

    The score is -log (1/k) sum_i w_i, in nats. It is that of `Model.score` for a model with a
    proposal, the same k and the seed 0, but for rows with gaps that get better proposals there;
    for other models, the draws differ.

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
        px = by_proposal(self.model)(x, trace, None)
        log_p = px.log_prob(x.repeat_interleave(k, 0))
        log_w = (log_p + trace.log_ratio()).view(-1, k)
        return math.log(k) - log_w.double().logsumexp(1)
