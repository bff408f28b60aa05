"""Objectives with terms of the aggregate posterior q(z) = E_x q(z | x), in nats per example.

They add other terms than the rate to the distortion, so that their value is not an ELBO. The plain
ELBO is reported separately, as for every objective.
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
from lowerbound.nn.recording import at_step
from lowerbound.nn.trace import Site, Trace, from_posterior
from lowerbound.noise import Noise


class _Walk(NamedTuple):
    """A forward pass of a model with one level of latents, and the terms to report."""

    site: Site
    distortion: Tensor
    rate: Tensor
    penalty: Tensor | None

    def loss(self, value: Tensor, **terms: Tensor) -> Loss:
        """Return the loss with the posterior's penalty added."""
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
            f"this objective needs a model of one level, got one of {len(trace.sites)} levels",
            fix="train it with the ELBO, or use a model of one level",
        )
    (site,) = trace.sites.values()
    penalty = trace.penalty()
    mean = None if penalty is None else penalty.mean()
    return _Walk(site, distortion, trace.kl().mean(), mean)


Weights = Callable[[int, int], Tensor]


def stratified(batch: int, examples: int) -> Tensor:
    """Return the log-weights of minibatch stratified sampling, (B, B), M = B - 1.

    Row i has the weight 1/N for the example that z_i was drawn from (the diagonal), the weight
    (N - M) / (N M) for one other example and 1/M for the rest. They sum to 1, and over batches
    that contain the example of z, E[q^(z)] = q(z). Much public code puts 1/N in column 0 instead
    of the diagonal, which gives E[q^(z)] / q(z) of 1.4 and more (enumerated at N = 6, B = 4).

    References:
        Chen, Li, Grosse & Duvenaud, "Isolating sources of disentanglement in variational
        autoencoders", 2018, appendix C.1, https://arxiv.org/abs/1802.04942

    Args:
        batch: B.
        examples: N, the number of training examples, at least B.

    Raises:
        UsageError: E237 for a batch larger than the data.

    >>> stratified(3, 10).exp().sum(1)
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    if batch > examples:
        raise UsageError(
            "E237",
            f"examples must be at least the batch size {batch}, got {examples}",
            fix=f"examples={batch}",
        )
    others = batch - 1
    if not others:  # no other example is in the batch
        return torch.zeros(1, 1, dtype=torch.float64)
    weights = torch.full((batch, batch), 1 / others, dtype=torch.float64)
    row = torch.arange(batch)
    weights[row, (row + 1) % batch] = (examples - others) / (examples * others)
    weights[row, row] = 1 / examples
    return weights.log()


def weighted(batch: int, examples: int) -> Tensor:
    """Return the log-weights of minibatch-weighted sampling, (B, B): log of 1 / (N B).

    The estimate is biased: q^(z) lacks the examples outside the batch, so that the terms are off
    by constants of up to log N, which do not change gradients.

    References:
        Chen et al., 2018, section 3.3 and appendix C.2, https://arxiv.org/abs/1802.04942

    Args:
        batch: B.
        examples: N.
    """
    return torch.full((batch, batch), -math.log(examples * batch), dtype=torch.float64)


class Parts(NamedTuple):
    """The three parts of the rate, (B,) nats each, whose sum is log q(z | x) - log p(z).

    Attributes:
        mi: log q(z | x) - log q(z), whose mean is the mutual information of x and z.
        tc: log q(z) - sum_d log q(z_d), whose mean is the total correlation of the latents.
        dimension: sum_d log q(z_d) - log p(z), whose mean is the KL from the marginals to p.
    """

    mi: Tensor
    tc: Tensor
    dimension: Tensor


def decompose(q: Distribution, p: Distribution, z: Tensor, log_weights: Tensor) -> Parts:
    """Split log q(z | x) - log p(z) of draws into its three parts, with estimates of q(z).

    References:
        Chen et al., 2018, eq. 2, https://arxiv.org/abs/1802.04942

    Args:
        q: q(z | x) of every row, factorised.
        p: p(z).
        z: (B, ...), draws from q.
        log_weights: (B, B), in row i the log-weights of q(z_i | x_j), see `stratified`.

    Raises:
        UsageError: E246 for a posterior that does not factorise over dimensions.
    """
    cells = elementwise(q)
    if not isinstance(q, Independent):
        raise UsageError(
            "E246",
            f"the total correlation needs a factorised posterior, got {type(q).__name__}",
            fix="use the posterior Plain",
        )
    # log q(z_i,d | x_j): (B, B, d)
    pairs = cells.log_prob(z[:, None]).flatten(2)
    weights = log_weights.to(pairs)
    joint = (pairs.sum(2) + weights).logsumexp(1)
    marginals = (pairs + weights[:, :, None]).logsumexp(1).sum(1)
    own = pairs.diagonal().sum(0)
    return Parts(own - joint, joint - marginals, marginals - p.log_prob(z))


class BetaTc(nn.Module):
    """beta-TCVAE: E[-log p(x | z)] + alpha MI + beta TC + gamma KL of the marginals.

    References:
        Chen, Li, Grosse & Duvenaud, "Isolating sources of disentanglement in variational
        autoencoders", 2018, eq. 4, https://arxiv.org/abs/1802.04942

    Args:
        model: a module with ``forward(x, trace, context)``, one level, q(z | x) factorised.
        examples: N, the number of training examples.
        tc: beta, weight of the total correlation, a number or a schedule of the step.
        mi: alpha, weight of the mutual information.
        dimension: gamma, weight of the KL of the marginals.
        weights: estimate of q(z) from a batch, `stratified` or `weighted`.

    Raises:
        UsageError: E240 for examples below 1 or below the rows of a batch; in the forward pass,
            E246 for a model of several levels or a posterior that does not factorise.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> loss = BetaTc(recipes.gaussian(4), examples=100)
    >>> sorted(loss(torch.zeros(8, 4), 0, Stream(generator("example"))).terms)
    ['dimension', 'distortion', 'elbo', 'mi', 'rate', 'tc']
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
        """Return the loss of a batch; its terms include "mi", "tc" and "dimension".

        Args:
            x: (B, ...), distinct rows of the training data.
            step: number of the optimiser step, for the schedules.
            noise: source of the posterior's draws.
            context: (B, ...) or None.
        """
        walk = _walk(self.model, x, noise, context)
        q, p, z = walk.site.q, walk.site.p, walk.site.z
        assert q is not None
        parts = decompose(q, p, z, self.weights(len(x), self.examples).to(z.device))
        means = Parts(*(part.mean() for part in parts))
        costs = [at_step(w, step) * m for w, m in zip(self.schedules, means, strict=True)]
        return walk.loss(walk.distortion + torch.stack(costs).sum(), **means._asdict())


def _schedule(weight: float | Schedule) -> Schedule:
    return weight if callable(weight) else Constant(float(weight))


Kernel = Callable[[Tensor, int], Tensor]


def inverse_multiquadratic(squares: Tensor, latent: int) -> Tensor:
    """Return C / (C + |a - b|^2) with C = 2 d, the mean of |a - b|^2 under N(0, I).

    References:
        Tolstikhin et al., "Wasserstein auto-encoders", 2018, section 4,
        https://arxiv.org/abs/1711.01558
    """
    return 2 * latent / (2 * latent + squares)


def gaussian(squares: Tensor, latent: int) -> Tensor:
    """Return exp(-|a - b|^2 / (2 d)), the RBF kernel of width sqrt(d)."""
    return (squares / (-2 * latent)).exp()


def mmd(a: Tensor, b: Tensor, kernel: Kernel = inverse_multiquadratic) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy; it may be below 0.

    References:
        Gretton et al., "A kernel two-sample test", 2012, eq. 3,
        https://jmlr.org/papers/v13/gretton12a.html

    Args:
        a: (n, d) draws, n at least 2.
        b: (m, d) draws of the other distribution, m at least 2.
        kernel: (squared distances, d) -> values.

    >>> mmd(torch.zeros(2, 1), torch.full((2, 1), 100.0)) > 1.9
    tensor(True)
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
    """InfoVAE with MMD: E[-log p(x | z)] + beta KL(q(z | x) || p(z)) + w MMD(q(z), p(z)).

    In the notation of the paper, beta = 1 - alpha and w = alpha + lambda - 1. beta = 0 gives the
    MMD-VAE, a Wasserstein autoencoder with a random encoder.

    References:
        Zhao, Song & Ermon, "InfoVAE: balancing learning and inference in variational
        autoencoders", 2019, eq. 6, https://arxiv.org/abs/1706.02262

    Args:
        model: a module with ``forward(x, trace, context)``, one level, a normal prior.
        mmd: w, weight of the squared MMD.
        beta: weight of the rate, a number or a schedule of the step.
        kernel: `inverse_multiquadratic` or `gaussian`.

    Raises:
        UsageError: E240 for a negative weight; in the forward pass, E246 for a model of several
            levels.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> loss = InfoMmd(recipes.gaussian(4), mmd=10.0, beta=0.0)
    >>> sorted(loss(torch.zeros(8, 4), 0, Stream(generator("example"))).terms)
    ['beta', 'distortion', 'elbo', 'mmd', 'rate']
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
        """Return the loss of a batch; a batch of one row has no MMD term.

        Args:
            x: (B, ...).
            step: number of the optimiser step, for the schedules.
            noise: source of the draws of the posterior and of the prior.
            context: (B, ...) or None.
        """
        walk = _walk(self.model, x, noise, context)
        site, gap = walk.site, walk.rate.new_zeros(())
        if len(x) > 1:
            of_prior = reparameterise(site.p, noise("the prior's", site.z.shape, site.z))
            gap = mmd(site.z.flatten(1), of_prior.flatten(1), self.kernel)
        value = walk.distortion + self.beta(step) * walk.rate + self.mmd(step) * gap
        return walk.loss(value, mmd=gap, beta=torch.tensor(self.beta(step)))
