"""Latent levels and their chain: p(x, z) = p(z_1 | h_0) ... p(z_L | h_L-1) p(x | h_L)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.nn.trace import Trace


class Model(Protocol):
    """The interface of models for objectives, tasks and training."""

    def __call__(
        self, x: Tensor | None, trace: Trace, context: Tensor | None = None
    ) -> Distribution | None:
        """Draw every latent site with `trace` and return p(x | z).

        It may return None for a trace with ``decode=False``, whose caller needs the draws only.
        """
        ...


def _modules(model: nn.Module) -> list[nn.Module]:
    """Return a module and all in it; one that is used twice may occur twice.

    ``model.modules()`` names each on the way, which takes a twentieth of the score of a row.
    """
    found = [model]
    for module in found:
        found += [child for child in module._modules.values() if child is not None]
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Put a model in evaluation mode inside the block; yield the device of its parameters.

    A model that is already in evaluation mode is not modified, so that threads can share it.
    """
    training = [module for module in _modules(model) if module.training]
    for module in training:
        module.training = False
    try:
        yield next(model.parameters()).device
    finally:
        for module in training:
            module.training = True


class Level(nn.Module):
    """One group of latents: its prior, its posterior, and the update of the state by z.

    Args:
        name: the site's name in traces, files and reports.
        prior: h -> p(z | h).
        posterior: a `lowerbound.nn.latents.posteriors.Posterior`, (h, f, p) -> Proposal.
        advance: (h, z) -> h.

    >>> import torch
    >>> from lowerbound.nn import MLP, Concat, Plain, StandardNormal, Trace, from_prior
    >>> level = Level("z", StandardNormal(2), Plain(nn.Linear(8, 4)), Concat(MLP([2, 8])))
    >>> trace = Trace(from_prior(torch.Generator()), rows=3)
    >>> level(torch.zeros(3, 0), None, trace).shape
    torch.Size([3, 8])
    """

    def __init__(
        self, name: str, prior: nn.Module, posterior: nn.Module, advance: nn.Module
    ) -> None:
        super().__init__()
        self.name, self.prior, self.posterior, self.advance = name, prior, posterior, advance

    def forward(self, h: Tensor, f: Tensor | None, trace: Trace) -> Tensor:
        """Draw this level's z with `trace` and return the next state."""
        return self.advance(h, self.draw(h, f, trace))

    def draw(self, h: Tensor, f: Tensor | None, trace: Trace) -> Tensor:
        """Draw this level's z with `trace`: from its prior alone where there are no features."""
        p = self.prior(h)
        if f is None:
            return trace.draw(self.name, p)
        q, penalty = self.posterior(h, f, p)
        return trace.draw(self.name, p, q, penalty)


class LatentModel(nn.Module):
    """A chain of levels between an encoder and a likelihood.

    Args:
        encoder: (x, context) -> one feature tensor per level, in the order of the levels.
        levels: the groups of latents, coarse to fine.
        likelihood: h -> p(x | h).
        start: (context, rows) -> the first state: once for each row, however many draws it gets.
        rows: another model of the same rows, without latents, from which rows are drawn and
            completed; None draws them from this model.

    Attributes:
        proposal: a distribution of z given x for importance sampling, fitted after training (see
            `lowerbound.nn.latents.importance`); None draws from the posterior.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, https://arxiv.org/abs/1312.6114

    >>> import torch
    >>> from lowerbound.nn import MLP, Concat, Conditional, Empty, Plain, SharedSigma, Single
    >>> from lowerbound.nn import StandardNormal, Trace, posterior_mean
    >>> level = Level("z", StandardNormal(2), Plain(nn.Linear(8, 4)), Concat(MLP([2, 8])))
    >>> likelihood = Conditional(nn.Linear(8, 4), SharedSigma())
    >>> model = LatentModel(Single(MLP([4, 8])), [level], likelihood, Empty())
    >>> trace = Trace(posterior_mean, rows=3)
    >>> model(torch.zeros(3, 4), trace).mean.shape, trace.sites["z"].z.shape
    (torch.Size([3, 4]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        levels: Sequence[Level],
        likelihood: nn.Module,
        start: nn.Module,
        rows: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.likelihood, self.start = encoder, likelihood, start
        self.rows = rows
        self.proposal: nn.Module | None = None
        self.levels = nn.ModuleList(levels)

    def forward(
        self, x: Tensor | None, trace: Trace, context: Tensor | None = None
    ) -> Distribution | None:
        """Draw the latents of all levels and return p(x | z) for these draws.

        No state of the model is changed in evaluation mode, so that threads can share it.

        Args:
            x: (rows, ...) data, or None to draw without data.
            trace: how z is drawn; it holds the draws afterwards.
            context: (rows, ...) what p(x) is conditional on, or None.

        Returns:
            A distribution with batch shape (rows x samples,); None where the trace does not
            decode, which spares the last update of the state and the likelihood.
        """
        h = trace.expand(self.start(context, trace.rows))
        features: Sequence[Tensor | None] = [None] * len(self.levels)
        if x is not None and len(self.levels):
            features = trace.encode(self.encoder, x, context)
        levels: list[Level] = list(self.levels)  # pyright: ignore[reportAssignmentType]
        for level, f in zip(levels, features, strict=True):
            expanded = None if f is None else trace.expand(f)
            if level is levels[-1] and not trace.decode:
                level.draw(h, expanded, trace)
                return None
            h = level(h, expanded, trace)
        return self.likelihood(h)
