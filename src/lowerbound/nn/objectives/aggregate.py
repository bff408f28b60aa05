"""Objectives that weigh the aggregate posterior q(z) = E_x q(z | x), in nats per example.

What they add to the distortion is not the rate, so their value is no ELBO; that is reported beside
it, as by every objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import elementwise, reparameterise
from lowerbound.nn.objectives.elbo import Constant, Loss, Schedule
from lowerbound.nn.trace import Site, Trace, from_posterior
from lowerbound.noise import Noise


class _Walk(NamedTuple):
    """One walk of a model with one site of latents, and what every objective reports of it."""

    site: Site
    distortion: Tensor
    rate: Tensor
    penalty: Tensor | None

    def loss(self, value: Tensor, **terms: Tensor) -> Loss:
        """Return the loss: the posterior's own penalty belongs to every value."""
        nats, rate = self.distortion.detach(), self.rate.detach()
        reported = {"elbo": -(nats + rate), "distortion": nats, "rate": rate}
        reported |= {name: term.detach() for name, term in terms.items()}
        if self.penalty is not None:
            value, reported["penalty"] = value + self.penalty, self.penalty.detach()
        return Loss(value, reported)


def _walk(model: nn.Module, x: Tensor, noise: Noise, context: Tensor | None) -> _Walk:
    trace = Trace(from_posterior(noise), len(x))
    distortion = -model(x, trace, context).log_prob(x).mean()
    if len(trace.sites) != 1:
        raise UsageError(
            "E246",
            f"the model has {len(trace.sites)} levels of latents; q(z) is known for one",
            fix="train it with the ELBO, or take a model of one level",
        )
    (site,) = trace.sites.values()
    penalty = trace.penalty()
    mean = None if penalty is None else penalty.mean()
    return _Walk(site, distortion, trace.kl().mean(), mean)


Weights = Callable[[int, int], Tensor]


def stratified(batch: int, examples: int) -> Tensor:
    """Return the log-weights of minibatch stratified sampling, (B, B), M = B - 1.

    Row i: 1/N for the example that z_i was drawn from (the diagonal), (N - M) / (N M) for one
    other and 1/M for the rest, which sums to 1: then E[q^(z)] = q(z) over batches that hold z's
    own example. In much public code the 1/N lies in column 0 and not on the diagonal: its
    E[q^(z)] / q(z) comes to 1.4 and more (enumerated at N = 6, B = 4).

    References:
        Chen, Li, Grosse & Duvenaud, "Isolating sources of disentanglement in variational
        autoencoders", 2018, appendix C.1, https://arxiv.org/abs/1802.04942

    Args:
        batch: B.
        examples: N, the number of training examples, at least B.

    Raises:
        UsageError: E237 for a batch larger than the data.
    """
    if batch > examples:
        raise UsageError(
            "E237",
            f"examples must be at least the batch size {batch}, got {examples}",
            fix=f"examples={batch} or more",
        )
    others = batch - 1
    if not others:  # nothing is known of the other examples
        return torch.zeros(1, 1, dtype=torch.float64)
    weights = torch.full((batch, batch), 1 / others, dtype=torch.float64)
    row = torch.arange(batch)
    weights[row, (row + 1) % batch] = (examples - others) / (examples * others)
    weights[row, row] = 1 / examples
    return weights.log()


def weighted(batch: int, examples: int) -> Tensor:
    """Return the log-weights of minibatch-weighted sampling, (B, B): 1 / (N B) everywhere.

    Biased: on average q^(z) has lost the share of the examples outside the batch, so that the
    terms are off by constants of up to log N; gradients are not concerned by these.

    References:
        Chen et al., 2018, section 3.3 and appendix C.2.

    Args:
        batch: B.
        examples: N.
    """
    return torch.full((batch, batch), -math.log(examples * batch), dtype=torch.float64)


class Parts(NamedTuple):
    """The three parts of the rate, (B,) nats each: their sum is log q(z | x) - log p(z).

    Attributes:
        mi: log q(z | x) - log q(z): on average the mutual information of x and z.
        tc: log q(z) - sum_d log q(z_d): on average the total correlation of the latents.
        dimension: sum_d log q(z_d) - log p(z): on average the KL of the marginals from the prior.
    """

    mi: Tensor
    tc: Tensor
    dimension: Tensor


def decompose(q: Distribution, p: Distribution, z: Tensor, log_weights: Tensor) -> Parts:
    """Split log q(z | x) - log p(z) of draws by estimates of q(z) and of its marginals.

    References:
        Chen et al., 2018, eq. 2.

    Args:
        q: q(z | x) of every row, factorised.
        p: p(z).
        z: (B, ...), draws from q.
        log_weights: (B, B), row i those of q(z_i | x_j), see `stratified`.

    Raises:
        UsageError: E246 for a posterior that does not factorise over dimensions.
    """
    cells = elementwise(q)
    if not isinstance(q, Independent):
        raise UsageError(
            "E246",
            f"a {type(q).__name__} has no marginal densities, so no total correlation",
            fix="use posteriors.Plain",
        )
    # log q(z_i,d | x_j): (B, B, d)
    pairs = cells.log_prob(z[:, None]).flatten(2)
    weights = log_weights.to(pairs)
    joint = (pairs.sum(2) + weights).logsumexp(1)
    marginals = (pairs + weights[:, :, None]).logsumexp(1).sum(1)
    own = pairs.diagonal().sum(0)
    return Parts(own - joint, joint - marginals, marginals - p.log_prob(z))


class BetaTc(nn.Module):
    """The beta-TCVAE: E[-log p(x | z)] + alpha MI + beta TC + gamma KL of the marginals.

    References:
        Chen, Li, Grosse & Duvenaud, "Isolating sources of disentanglement in variational
        autoencoders", 2018, eq. 4, https://arxiv.org/abs/1802.04942

    Args:
        model: a module with ``forward(x, trace, context)``, one level, q(z | x) factorised.
        examples: N, the number of training examples.
        tc: beta, weight of the total correlation, a number or a schedule of the step.
        mi: alpha, weight of the mutual information.
        dimension: gamma, weight of the KL of the marginals.
        weights: how q(z) is estimated from a batch, `stratified` or `weighted`.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: int,
        *,
        tc: float | Schedule = 6.0,
        mi: float | Schedule = 1.0,
        dimension: float | Schedule = 1.0,
        weights: Weights = stratified,
    ) -> None:
        super().__init__()
        if examples < 1:
            raise UsageError(
                "E240",
                f"examples must be a positive integer, got {examples}",
                fix="give the number of training rows",
            )
        self.model, self.examples, self.weights = model, examples, weights
        self.schedules = tuple(_schedule(weight) for weight in (mi, tc, dimension))

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch; `terms` hold the three parts beside the plain ELBO.

        Args:
            x: (B, ...), distinct rows of the training data.
            step: number of the optimiser step, for the schedules.
            noise: where the posterior's draws come from.
            context: (B, ...) or None.
        """
        walk = _walk(self.model, x, noise, context)
        q, p, z = walk.site.q, walk.site.p, walk.site.z
        assert q is not None
        parts = decompose(q, p, z, self.weights(len(x), self.examples).to(z.device))
        means = Parts(*(part.mean() for part in parts))
        costs = [w(step) * m for w, m in zip(self.schedules, means, strict=True)]
        return walk.loss(walk.distortion + torch.stack(costs).sum(), **means._asdict())


def _schedule(weight: float | Schedule) -> Schedule:
    return weight if callable(weight) else Constant(float(weight))


Kernel = Callable[[Tensor, int], Tensor]


def inverse_multiquadratic(squares: Tensor, latent: int) -> Tensor:
    """Return C / (C + |a - b|^2) with C = 2 d, what |a - b|^2 is on average under N(0, I).

    References:
        Tolstikhin et al., "Wasserstein auto-encoders", 2018, section 4.
    """
    return 2 * latent / (2 * latent + squares)


def gaussian(squares: Tensor, latent: int) -> Tensor:
    """Return exp(-|a - b|^2 / (2 d)): the RBF kernel with a width of sqrt(d)."""
    return (squares / (-2 * latent)).exp()


def mmd(a: Tensor, b: Tensor, kernel: Kernel = inverse_multiquadratic) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy; it may be below 0.

    References:
        Gretton et al., "A kernel two-sample test", 2012, eq. 3.

    Args:
        a: (n, d) draws, n at least 2.
        b: (m, d) draws of the other distribution, m at least 2.
        kernel: (squared distances, d) -> values.
    """
    d = a.shape[1]
    within = [_off_diagonal_mean(kernel(_squares(v, v), d)) for v in (a, b)]
    return within[0] + within[1] - 2 * kernel(_squares(a, b), d).mean()


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b).square().sum(2)


def _off_diagonal_mean(k: Tensor) -> Tensor:
    n = len(k)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))


class InfoMmd(nn.Module):
    """The InfoVAE with MMD: E[-log p(x | z)] + beta KL(q(z | x) || p(z)) + w MMD(q(z), p(z)).

    In the paper's letters beta = 1 - alpha and w = alpha + lambda - 1: it is to be maximised
    E[log p(x | z)] - (1 - alpha) KL - (alpha + lambda - 1) MMD. beta = 0 is the MMD-VAE (a
    Wasserstein auto-encoder with a random encoder).

    References:
        Zhao, Song & Ermon, "InfoVAE: balancing learning and inference in variational
        autoencoders", 2019, eq. 6, https://arxiv.org/abs/1706.02262

    Args:
        model: a module with ``forward(x, trace, context)``, one level, a normal prior.
        mmd: w, weight of the squared MMD.
        beta: weight of the rate, a number or a schedule of the step.
        kernel: `inverse_multiquadratic` or `gaussian`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mmd: float | Schedule = 10.0,
        beta: float | Schedule = 1.0,
        kernel: Kernel = inverse_multiquadratic,
    ) -> None:
        super().__init__()
        for name, weight in (("mmd", mmd), ("beta", beta)):
            if not callable(weight) and weight < 0:
                raise UsageError(
                    "E240", f"{name} must be at least 0, got {weight}", fix=f"{name}=1.0"
                )
        self.model, self.kernel = model, kernel
        self.mmd, self.beta = _schedule(mmd), _schedule(beta)

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch; of a single row, of which there is no MMD, without it.

        Args:
            x: (B, ...).
            step: number of the optimiser step, for the schedules.
            noise: where the posterior's draws, and those of the prior, come from.
            context: (B, ...) or None.
        """
        walk = _walk(self.model, x, noise, context)
        site, gap = walk.site, walk.rate.new_zeros(())
        if len(x) > 1:
            of_prior = reparameterise(site.p, noise("the prior's", site.z.shape, site.z))
            gap = mmd(site.z.flatten(1), of_prior.flatten(1), self.kernel)
        value = walk.distortion + self.beta(step) * walk.rate + self.mmd(step) * gap
        return walk.loss(value, mmd=gap, beta=torch.tensor(self.beta(step)))
