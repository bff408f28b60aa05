"""Levels, and the one walk over them: p(x, z) = p(z_1 | h_0) ... p(z_L | h_L-1) p(x | h_L)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.nn.trace import Trace


class Model(Protocol):
    """What objectives, tasks and training know of a model."""

    def __call__(
        self, x: Tensor | None, trace: Trace, context: Tensor | None = None
    ) -> Distribution:
        """Walk through the latent sites of `trace` and return p(x | z)."""
        ...


class Level(nn.Module):
    """One group of latents: its prior, the rule of its posterior, and how z moves the state on.

    Args:
        name: the site's name in traces, files and reports.
        prior: h -> p(z | h).
        posterior: a `lowerbound.nn.latents.posteriors.Posterior`, (h, f, p) -> Proposal.
        advance: (h, z) -> h.
    """

    def __init__(
        self, name: str, prior: nn.Module, posterior: nn.Module, advance: nn.Module
    ) -> None:
        super().__init__()
        self.name, self.prior, self.posterior, self.advance = name, prior, posterior, advance

    def forward(self, h: Tensor, f: Tensor | None, trace: Trace) -> Tensor:
        """Draw this level's z in the way of `trace` and return the next state."""
        p = self.prior(h)
        if f is None:
            return self.advance(h, trace.draw(self.name, p))
        q, penalty = self.posterior(h, f, p)
        return self.advance(h, trace.draw(self.name, p, q, penalty))


class LatentModel(nn.Module):
    """A chain of levels between an encoder and a likelihood.

    Args:
        encoder: (x, context) -> one feature tensor per level, in the order of the levels.
        levels: the groups of latents, coarse to fine.
        likelihood: h -> p(x | h).
        start: (context, rows) -> the first state: once for each row, however many draws it gets.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        encoder: nn.Module,
        levels: Sequence[Level],
        likelihood: nn.Module,
        start: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder, self.likelihood, self.start = encoder, likelihood, start
        self.levels = nn.ModuleList(levels)

    def forward(
        self, x: Tensor | None, trace: Trace, context: Tensor | None = None
    ) -> Distribution:
        """Walk the levels and return p(x | z) for the trace's draws.

        Args:
            x: (rows, ...) data, or None to draw without data.
            trace: how z is drawn; holds what was drawn afterwards.
            context: (rows, ...) what p(x) is conditional on, or None.

        Returns:
            A distribution with batch shape (rows x samples,).
        """
        h = trace.expand(self.start(context, trace.rows))
        features = [None] * len(self.levels) if x is None else self.encoder(x, context)
        for level, f in zip(self.levels, features, strict=True):
            h = level(h, None if f is None else trace.expand(f), trace)
        return self.likelihood(h)
