"""Objectives: losses that training minimises, in nats per example.

An objective holds the model, so that DDP, FSDP and torch.compile wrap the objective (the KL is in
the trace, not in the model's output). Each returns the loss and the plain ELBO separately, because
a loss with beta other than 1 or with free bits is not an ELBO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import is_density, kl_per_dimension
from lowerbound.nn.recording import at_step
from lowerbound.nn.trace import Trace, from_posterior, path_derivative
from lowerbound.noise import Noise

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    """Schedule with the same value at every step.

    >>> Constant(0.5)(100)
    0.5
    """

    value: float

    def __call__(self, step: int) -> float:
        """Return the value."""
        return self.value


@dataclass(frozen=True)
class Ramp:
    """Schedule that is linear from `start` to `end` over `steps` steps, then constant.

    References:
        Sonderby et al., "Ladder variational autoencoders", 2016 (warm-up),
        https://arxiv.org/abs/1602.02282; Burgess et al., "Understanding disentangling in
        beta-VAE", 2018 (capacity), https://arxiv.org/abs/1804.03599

    >>> [Ramp(0.0, 1.0, 10)(step) for step in (0, 5, 20)]
    [0.0, 0.5, 1.0]
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """Return the value at `step`."""
        done = min(1.0, step / max(1, self.steps))
        return self.start + done * (self.end - self.start)


class Loss(NamedTuple):
    """Loss of a batch and the terms to report.

    Attributes:
        value: the scalar to minimise, nats per example.
        terms: detached scalars in nats per example: "elbo" (plain), "distortion", "rate", and
            those of the objective.

    >>> Loss(torch.tensor(3.0), {"elbo": torch.tensor(-3.0)}).value
    tensor(3.)
    """

    value: Tensor
    terms: dict[str, Tensor]


class Elbo(nn.Module):
    """Negative (beta-)ELBO: E_q[-log p(x | z)] + beta KL(q(z | x) || p(z)), in nats per row.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, eq. 3,
        https://arxiv.org/abs/1312.6114; Higgins et al., "beta-VAE", 2017, eq. 4; free bits: Kingma
        et al., "Improved variational inference with inverse autoregressive flow", 2016, eq. 15,
        https://arxiv.org/abs/1606.04934; capacity: Burgess et al., 2018, eq. 8,
        https://arxiv.org/abs/1804.03599; balance: Vahdat & Kautz, "NVAE", 2020, appendix A,
        https://arxiv.org/abs/2007.03898

    Args:
        model: a module with ``forward(x, trace, context)``.
        beta: weight of the rate, a number or a schedule of the step.
        free_bits: nats per latent dimension (mean over the batch) below which the rate is free.
        capacity: schedule of a target C in nats; the rate term becomes beta |KL - C|.
        balance: while beta is below 1, weight the rate of each level by `balanced`, so that
            warm-up does not leave all information in the first levels.

    Raises:
        UsageError: E240 for negative free_bits, or for more than one of free_bits, capacity and
            balance.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> loss = Elbo(recipes.gaussian(4), beta=Ramp(0.0, 1.0, 100))
    >>> loss(torch.zeros(8, 4), 50, Stream(generator("example"))).terms["beta"]
    tensor(0.5000)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        beta: float | Schedule = 1.0,
        free_bits: float = 0.0,
        capacity: Schedule | None = None,
        balance: bool = False,
    ) -> None:
        super().__init__()
        if free_bits < 0:
            raise UsageError(
                "E240", f"free_bits must be at least 0, got {free_bits}", fix="free_bits=0.0"
            )
        wanted = {"free_bits": free_bits, "capacity": capacity is not None, "balance": balance}
        changing = [name for name, given in wanted.items() if given]
        if len(changing) > 1:
            raise UsageError(
                "E236",
                f"{' and '.join(changing)} cannot be combined: each changes the rate",
                fix="give one of them",
            )
        self.model = model
        self.beta: Schedule = beta if callable(beta) else Constant(float(beta))
        self.free_bits, self.capacity, self.balance = free_bits, capacity, balance

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch.

        Args:
            x: (B, ...).
            step: number of the optimiser step, for the schedules.
            noise: source of the posterior's draws.
            context: (B, ...) or None.

        Returns:
            The loss, with the terms "elbo", "distortion", "rate", "beta" and, for a posterior
            with one, "penalty".
        """
        trace = Trace(from_posterior(noise), len(x))
        distortion = -self.model(x, trace, context).log_prob(x).mean()
        rate, penalty = trace.kl(), trace.penalty()
        beta, nats = at_step(self.beta, step), rate.mean()
        value = distortion + beta * self._cost(trace, nats, step)
        terms = {
            "elbo": -(distortion.detach() + nats.detach()),
            "distortion": distortion.detach(),
            "rate": nats.detach(),
            "beta": torch.as_tensor(beta),
        }
        if penalty is not None:
            value = value + penalty.mean()
            terms["penalty"] = penalty.mean().detach()
        return Loss(value, terms)

    def _cost(self, trace: Trace, nats: Tensor, step: int) -> Tensor:
        """Return the rate term: the mean rate, its free-bits version, or its distance to C."""
        if self.capacity is not None:
            return (nats - at_step(self.capacity, step)).abs()
        if self.balance and self.beta(step) < 1:
            return balanced(trace)
        if not self.free_bits:
            return nats
        costs = []
        for site in trace.sites.values():
            assert site.q is not None
            each = kl_per_dimension(site.q, site.p)
            # Without a closed form, free bits apply to the whole site.
            mean = site.kl().mean()[None] if each is None else each.mean(0).flatten()
            costs.append(mean.clamp_min(self.free_bits).sum())
        return torch.stack(costs).sum()


def balanced(trace: Trace) -> Tensor:
    """Return sum_l gamma_l KL_l over the levels, in nats, mean over the batch.

    gamma_l is proportional to (E|KL_l| + 0.01) / s_l, has mean 1 and no gradient. s_l is the size
    of the level divided by the number of levels of that size, as in the authors' code.

    References:
        Vahdat & Kautz, "NVAE", 2020, appendix A, https://arxiv.org/abs/2007.03898
    """
    each = [site.kl() for site in trace.sites.values()]
    shapes = [site.z.shape[1:] for site in trace.sites.values()]
    sizes = torch.tensor([shape.numel() / shapes.count(shape) for shape in shapes])
    gamma = torch.stack([kl.detach().abs().mean() for kl in each]) + 0.01
    gamma = gamma / sizes.to(gamma)
    return (gamma / gamma.mean() * torch.stack([kl.mean() for kl in each])).sum()


class StickingTheLanding(nn.Module):
    """Negative (beta-)ELBO with the path-derivative gradient, whose variance is 0 if q is exact.

    The rate is that of the draw, log q(z | x) - log p(z), with the parameters of log q detached.
    The term removed from the gradient is the score, whose expectation is 0; in a hierarchy, it is
    0 given the earlier draws. The gradient is therefore unbiased for any beta.

    References:
        Roeder, Wu & Duvenaud, "Sticking the landing: simple, lower-variance gradient estimators
        for variational inference", 2017, eq. 7, https://arxiv.org/abs/1703.09194

    Args:
        model: a module with ``forward(x, trace, context)``.
        beta: weight of the rate, a number or a schedule of the step.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> loss = StickingTheLanding(recipes.gaussian(4))
    >>> loss(torch.zeros(8, 4), 0, Stream(generator("example"))).value.shape
    torch.Size([])
    """

    def __init__(self, model: nn.Module, *, beta: float | Schedule = 1.0) -> None:
        super().__init__()
        self.model = model
        self.beta: Schedule = beta if callable(beta) else Constant(float(beta))

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch: see `Elbo.forward`."""
        trace = Trace(path_derivative(noise), len(x))
        distortion = -self.model(x, trace, context).log_prob(x).mean()
        rate, penalty, beta = -trace.log_ratio().mean(), trace.penalty(), at_step(self.beta, step)
        value = distortion + beta * rate
        terms = {
            "elbo": -(distortion.detach() + rate.detach()),
            "distortion": distortion.detach(),
            "rate": rate.detach(),
            "beta": torch.as_tensor(beta),
        }
        if penalty is not None:
            value, terms["penalty"] = value + penalty.mean(), penalty.mean().detach()
        return Loss(value, terms)


class Iwae(nn.Module):
    """Negative importance-weighted bound L_k = E log (1/k) sum_i w_i, w = p(x, z) / q(z | x).

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", 2016, eq. 8,
        https://arxiv.org/abs/1509.00519; Tucker et al., "Doubly reparameterized gradient
        estimators for Monte Carlo objectives", 2019, eq. 7 (DReG),
        https://arxiv.org/abs/1810.04152

    Args:
        model: a module with ``forward(x, trace, context)``.
        k: number of importance samples.
        dreg: use the doubly reparameterised gradient for the encoder, whose signal-to-noise ratio
            does not fall with k. It is unbiased only if no posterior depends on an earlier draw,
            because the dependence of log q(z_2 | z_1, x) on z_1 is cut with the parameters, and a
            path through two draws is weighted twice. (The unbiased form would run the posterior's
            network again with detached weights: Bauer & Mnih, "Generalized doubly reparameterized
            gradient estimators", 2021.) dreg=False uses the gradient of the bound, which is
            unbiased for every model.

    Raises:
        UsageError: E240 for k below 1. In the forward pass, E246 if the likelihood is not a
            density in training, or if dreg is set and a posterior depends on an earlier draw.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> loss = Iwae(recipes.gaussian(4), k=5)
    >>> terms = loss(torch.zeros(8, 4), 0, Stream(generator("example"))).terms
    >>> bool(terms["bound"] >= terms["elbo"])
    True
    """

    def __init__(self, model: nn.Module, k: int, *, dreg: bool = True) -> None:
        super().__init__()
        if k < 1:
            raise UsageError("E240", f"k must be a positive integer, got {k}", fix="k=1")
        self.model, self.k, self.dreg = model, k, dreg

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch; its terms include "bound" and the one-sample "elbo"."""
        choose = path_derivative(noise) if self.dreg else from_posterior(noise)
        trace = Trace(choose, len(x), self.k)
        px = self.model(x, trace, context)
        if not is_density(px):
            raise UsageError(
                "E246",
                f"in training the likelihood is a {type(px).__name__}, which is no density: the "
                "importance-weighted bound would not be a bound",
                fix='train it with the ELBO, or use likelihood="shared"',
            )
        log_p = px.log_prob(x.repeat_interleave(self.k, 0))
        log_w = (log_p + trace.log_ratio()).view(len(x), self.k)
        bound = log_w.logsumexp(1) - math.log(self.k)
        weights, value = log_w.detach().softmax(1), -bound.mean()
        elbo, distortion = log_w.detach().mean(), -log_p.detach().mean()
        terms = {
            "elbo": elbo,
            "bound": -value.detach(),
            "distortion": distortion,
            "rate": -(distortion + elbo),
        }
        if self.dreg:
            if torch.is_grad_enabled():
                _refuse_chains(trace)
                _weight_paths(trace, weights.flatten())
            surrogate = (weights * log_w).sum(1).mean()
            # The value is the bound; only the gradient is the surrogate's.
            value = -(surrogate - (value + surrogate).detach())
        penalty = trace.penalty()
        if penalty is not None:
            value, terms["penalty"] = value + penalty.mean(), penalty.mean().detach()
        return Loss(value, terms)


def _refuse_chains(trace: Trace) -> None:
    """Raise an error if a posterior depends on an earlier draw."""
    name = trace.chained()
    if name is not None:
        raise UsageError(
            "E246",
            f"the posterior of {name!r} depends on a draw of an earlier level, where the doubly "
            "reparameterised gradient is biased",
            fix="Iwae(..., dreg=False)",
        )


def _weight_paths(trace: Trace, weights: Tensor) -> None:
    """Multiply the gradient through each draw by its weight: w^2 in total for the encoder."""
    for site in trace.sites.values():
        if site.z.requires_grad:
            shaped = weights.view(-1, *[1] * (site.z.dim() - 1))
            site.z.register_hook(shaped.mul)


class ThetaPrior(NamedTuple):
    """Prior on parameters of the network.

    Attributes:
        family: a `torch.distributions` class with location and scale, ``Normal`` or ``Laplace``.
        scale: its scale, around location 0.
        match: pattern of the names of the parameters, such as ``"likelihood.*"``.

    >>> prior = ThetaPrior(torch.distributions.Normal, 0.5, "*weight")
    >>> prior.log_prob(nn.Linear(2, 1)).shape
    torch.Size([])
    """

    family: type[torch.distributions.Distribution]
    scale: float
    match: str = "*"

    def log_prob(self, model: nn.Module) -> Tensor:
        """Return log p(theta) of the matching parameters of `model`, a scalar in nats.

        Raises:
            UsageError: E240 if no parameter matches.
        """
        chosen = [p for name, p in model.named_parameters() if fnmatch(name, self.match)]
        if not chosen:
            raise UsageError(
                "E249",
                f"no parameter of the model matches {self.match!r}",
                fix='match="*" holds for all of them',
            )
        one = chosen[0].new_tensor
        density = self.family(one(0.0), one(self.scale))  # pyright: ignore[reportArgumentType]
        return torch.stack([density.log_prob(p).sum() for p in chosen]).sum()


class Map(nn.Module):
    """Maximum a posteriori estimation of theta: -log p(theta) / N added to another objective.

    Without priors this is maximum likelihood. A normal prior of scale s has the gradient of weight
    decay 1 / (s^2 N).

    Args:
        objective: the wrapped objective.
        priors: priors on groups of parameters.
        examples: N, the number of training examples.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> prior = ThetaPrior(torch.distributions.Normal, 1.0)
    >>> loss = Map(Elbo(recipes.gaussian(4)), [prior], examples=1000)
    >>> "log_theta" in loss(torch.zeros(8, 4), 0, Stream(generator("example"))).terms
    True
    """

    def __init__(self, objective: nn.Module, priors: Sequence[ThetaPrior], examples: int) -> None:
        super().__init__()
        self.objective, self.priors, self.examples = objective, tuple(priors), examples

    @property
    def model(self) -> nn.Module:
        """The model of the wrapped objective."""
        return self.objective.get_submodule("model")

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the wrapped loss minus log p(theta) / N."""
        value, terms = self.objective(x, step, noise, context)
        log_theta = sum((p.log_prob(self.model) for p in self.priors), value.new_zeros(()))
        terms = {**terms, "log_theta": log_theta.detach()}
        return Loss(value - log_theta / self.examples, terms)
