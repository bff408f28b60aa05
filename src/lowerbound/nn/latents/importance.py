"""Proposals for importance sampling: r(z | x), nearer to the posterior than q(z | x).

q(z | x) shapes the latents in training, and embeddings are its means. For the estimate of log p(x)
any distribution of z may be drawn from, and the nearer it is to p(z | x), the fewer draws are
needed. A proposal is fitted after training, for the frozen model (`ProposalBound`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.nn.distributions.base import Normals, Unchecked, draw, moments, stopped
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.model import LatentModel
from lowerbound.nn.trace import Choose, Drawn, Trace

WIDEST = 32  # latents up to which their correlations are modelled: d^2 numbers for each row


class Correlations(NamedTuple):
    """Parameters of one multivariate normal per row: z = loc + scale (I + mixing) e, e ~ N(0, I).

    Attributes:
        loc: (rows, d).
        scale: (rows, d).
        mixing: (rows, d, d), strictly lower triangular.
    """

    loc: Tensor
    scale: Tensor
    mixing: Tensor


class CorrelatedNormal(Unchecked):
    """Multivariate normals, one per row, with `samples` draws of each.

    `torch.distributions.MultivariateNormal` would hold a d x d matrix for every draw, and solve a
    system for the density of a draw that is known from its standard normals.

    Args:
        given: the parameters of each row.
        samples: draws of a row; the batch is rows x samples, the draws of a row together.

    >>> given = Correlations(torch.zeros(5, 2), torch.ones(5, 2), torch.zeros(5, 2, 2))
    >>> z, source = draw(CorrelatedNormal(given, 3), lambda shape, like: torch.zeros(shape))
    >>> z.shape, source.log_prob(z)[0]  # -log(2 pi) nats
    (torch.Size([15, 2]), tensor(-1.8379))
    """

    def __init__(self, given: Correlations, samples: int) -> None:
        self.given, self.samples = given, samples
        rows, d = given.loc.shape
        super().__init__(Size([rows * samples]), Size([d]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean of every draw, (rows x samples, d)."""
        return self.given.loc.repeat_interleave(self.samples, 0)


class DrawnCorrelatedNormal(Unchecked):
    """A `CorrelatedNormal` after one draw of its batch: its log_prob is that of these draws.

    Args:
        q: the distribution that was drawn from.
        start: (rows, samples, d) the standard normals e.
        z: (rows x samples, d) the draws.
    """

    def __init__(self, q: CorrelatedNormal, start: Tensor, z: Tensor) -> None:
        self.q, self.start, self.z = q, start, z
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log r of the draws, (rows x samples,) nats; `value` must be the draws."""
        assert value is self.z, "the density is known for the draws"
        d = self.start.shape[2]
        volume = self.q.given.scale.log().sum(1) + 0.5 * d * math.log(2 * math.pi)
        return (-0.5 * self.start.square().sum(2) - volume[:, None]).flatten()


class _Along(Unchecked):
    """The same with log r cut from the parameters, so that its gradient is in z alone."""

    def __init__(self, drawn: DrawnCorrelatedNormal) -> None:
        self.drawn = drawn
        super().__init__(drawn.batch_shape, drawn.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log r of the draws, whose slope in z is -(I + mixing)^-T e / scale."""
        _, scale, mixing = (each.detach() for each in self.drawn.q.given)
        start = self.drawn.start
        back = torch.linalg.solve_triangular(
            mixing.mT, start.mT, upper=True, unitriangular=True
        ).mT
        slope = -(back / scale[:, None]).flatten(0, 1)
        log_r = self.drawn.log_prob(value).detach()
        return log_r + ((value - value.detach()) * slope).sum(1)


@draw.register
def _(q: CorrelatedNormal, normals: Normals) -> tuple[Tensor, Distribution]:
    loc, scale, mixing = q.given
    start = normals(q.batch_shape + q.event_shape, loc).view(-1, q.samples, loc.shape[1])
    mixed = start + start @ mixing.mT
    z = (loc[:, None] + scale[:, None] * mixed).flatten(0, 1)
    return z, DrawnCorrelatedNormal(q, start, z)


@stopped.register
def _(q: DrawnCorrelatedNormal) -> Distribution:
    return _Along(q)


class ImportanceProposal(nn.Module):
    """r(z | x), a multivariate normal given by an encoder like the model's, with its own weights.

    It starts as q(z | x), without correlations.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", 2016 (the bound that it
        is fitted by); Cremer, Li & Duvenaud, "Inference suboptimality in variational
        autoencoders", 2018, https://arxiv.org/abs/1801.03558 (what separates q from the posterior)

    Args:
        encoder: (x, context) -> [features].
        head: features -> location and scale, as of the posterior `Plain`.
        features: number of features.
        latent: d, the size of z.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, features: int, latent: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.mixing = nn.Linear(features, latent * latent)
        nn.init.zeros_(self.mixing.weight)
        nn.init.zeros_(self.mixing.bias)

    @classmethod
    def like(cls, model: LatentModel) -> ImportanceProposal:
        """Return a proposal that begins as the posterior of a model of one level.

        Args:
            model: the model, whose posterior is `Plain` and made by one linear layer.
        """
        posterior = model.levels[0].get_submodule("posterior")
        assert isinstance(posterior, Plain), "other posteriors have no such proposal"
        last = posterior.conditional.net
        assert isinstance(last, nn.Linear), "the last layer tells the number of features"
        encoder, head = deepcopy(model.encoder), deepcopy(posterior.conditional)
        return cls(encoder, head, last.in_features, last.out_features // 2)

    def forward(self, x: Tensor, context: Tensor | None) -> Sequence[Tensor]:
        """Return location (rows, d), scale (rows, d) and mixing (rows, d, d) of z."""
        features = self.encoder(x, context)[0]
        loc, scale = moments(self.head(features))
        return loc, scale, self.mixing(features).unflatten(1, (loc.shape[1], -1)).tril(-1)


class ByProposal(nn.Module):
    """A model whose draws of z given x come from its proposal r(z | x) in place of q(z | x).

    Args:
        model: a model of one level of latents, with a proposal.
    """

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor | None, trace: Trace, context: Tensor | None = None
    ) -> Distribution | None:
        """Draw z by the trace's rule and return p(x | z); without data, as the model does."""
        proposal = self.model.proposal
        if x is None or proposal is None:
            return self.model(x, trace, context)
        given = Correlations(*trace.encode(proposal, x, context))
        r = CorrelatedNormal(given, trace.samples)
        choose = partial(_in_place, trace.choose, r)
        inner = Trace(choose, trace.rows, trace.samples, decode=trace.decode, sites=trace.sites)
        px = self.model(None, inner, context)
        for site in trace.sites.values():
            site.q = r
        return px


def _in_place(
    choose: Choose, r: Distribution, name: str, p: Distribution, q: Distribution | None
) -> Drawn:
    return choose(name, p, r)


def by_proposal(model: nn.Module) -> nn.Module:
    """Return the model with draws from its proposal, or the model itself if it has none."""
    if isinstance(model, LatentModel) and model.proposal is not None:
        return ByProposal(model)
    return model
