"""Objective of conditional models that are used with z from the prior, as for restoration."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.errors import UsageError
from lowerbound.nn.distributions import base
from lowerbound.nn.objectives.elbo import Constant, Loss, Schedule
from lowerbound.nn.recording import at_step
from lowerbound.nn.trace import Choose, Drawn, Trace
from lowerbound.noise import Noise


class Hybrid(nn.Module):
    """Negative of (1 - s) ELBO(q) + s E_p(z | y) log p(x | z, y), for a model of x given y.

    A picture is restored with z from p(z | y), which does not occur in the ELBO: p(x | z, y) may
    rely on information in z that comes from x alone. The second term is the ELBO with the prior as
    the posterior, whose rate is 0, so that the sum is a lower bound on log p(x | y). Both terms
    come from one forward pass, which encodes y once.

    References:
        Sohn, Lee & Yan, "Learning structured output representation using deep conditional
        generative models", 2015, eq. 6 and 7, where alpha = 1 - s and "GSNN" is the second term.

    Args:
        model: a module with ``forward(x, trace, context)`` whose prior depends on the context.
        share: s, between 0 and 1.
        beta: weight of the rate, a number or a schedule of the step.

    Raises:
        UsageError: E240 for a share that is not between 0 and 1.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> loss = Hybrid(recipes.gaussian(4), 0.5)
    >>> loss(torch.zeros(8, 4), 0, Stream(generator("example"))).terms["prior"].shape
    torch.Size([])
    """

    def __init__(self, model: nn.Module, share: float, *, beta: float | Schedule = 1.0) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise UsageError(
                "E240", f"prior_share must be between 0 and 1, got {share}", fix="prior_share=0.5"
            )
        self.model, self.share = model, share
        self.beta: Schedule = beta if callable(beta) else Constant(float(beta))

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch, see `Elbo.forward`; "prior" is minus the second term."""
        trace, beta = Trace(_both(noise), len(x), samples=2), at_step(self.beta, step)
        log_p = self.model(x, trace, context).log_prob(x.repeat_interleave(2, 0))
        distortion, from_prior = -log_p.view(-1, 2).mean(0)
        rate = trace.kl().view(-1, 2)[:, 0].mean()
        value = (1 - self.share) * (distortion + beta * rate) + self.share * from_prior
        terms = {
            "elbo": -(distortion.detach() + rate.detach()),
            "distortion": distortion.detach(),
            "rate": rate.detach(),
            "beta": torch.as_tensor(beta),
            "prior": from_prior.detach(),
        }
        penalty = trace.penalty()
        if penalty is not None:
            value, terms["penalty"] = value + penalty.mean(), penalty.mean().detach()
        return Loss(value, terms)


def _both(noise: Noise) -> Choose:
    """Draw twice for each row: first from q(z | x, y), then from p(z | y)."""

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        assert q is not None, "this way of drawing needs data: call the model with x"
        told, source = base.draw(q, partial(noise, name))
        untold, _ = base.draw(p, partial(noise, f"{name} of the prior"))
        first = torch.arange(len(told), device=told.device) % 2 == 0
        return Drawn(torch.where(first.view(-1, *[1] * (told.dim() - 1)), told, untold), source)

    return choose
