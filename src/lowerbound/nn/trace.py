"""Traces: how z is drawn at each latent site of one forward pass, and a record of the draws.

One forward pass (`lowerbound.nn.model.LatentModel.forward`) serves training, sampling, embedding,
reconstruction and scoring; they differ in the `Choose` that the trace is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.distributions import Distribution

from lowerbound.nn.distributions import base
from lowerbound.noise import Noise


class Drawn(NamedTuple):
    """A draw, and the posterior it came from, if any, as importance weights need it."""

    z: Tensor
    source: Distribution | None


Choose = Callable[[str, Distribution, "Distribution | None"], Drawn]


@dataclass
class Site:
    """The record of one group of latents: the draw, its prior, its posterior and its penalty."""

    z: Tensor
    p: Distribution
    q: Distribution | None
    source: Distribution | None
    penalty: Tensor | float

    @cached_property
    def log_q(self) -> Tensor:
        """Log q(z | x) of the draw, (B,) nats, computed on first use."""
        assert self.source is not None, "this draw has no posterior, and so no importance weight"
        return self.source.log_prob(self.z)

    def exact_kl(self) -> Tensor | None:
        """KL(q || p), (B,) nats, or None where no closed form is registered."""
        assert self.q is not None, "a site drawn without a posterior has no KL"
        return base.exact_kl(self.q, self.p)

    def kl(self) -> Tensor:
        """KL(q || p), (B,) nats: exact where registered, else the one-sample estimate."""
        exact = self.exact_kl()
        return self.log_q - self.p.log_prob(self.z) if exact is None else exact

    def log_ratio(self) -> Tensor:
        """Log p(z) - log q(z | x), (B,) nats, of the draw."""
        return self.p.log_prob(self.z) - self.log_q


class Encoded:
    """The encoder's output for one batch, kept for further forward passes over the same batch."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor | None, Sequence[Tensor]] | None = None

    def get(self, encoder: nn.Module, x: Tensor, context: Tensor | None) -> Sequence[Tensor]:
        """Return ``encoder(x, context)``, computed by the first call.

        Raises:
            ValueError: for another batch than that of the first call.
        """
        if self._kept is None:
            self._kept = x, context, encoder(x, context)
        first, its_context, features = self._kept
        if x is not first or context is not its_context:
            raise ValueError("an Encoded holds one batch: make a new one for each batch")
        return features


@dataclass
class Trace:
    """One forward pass through the latent sites of a model.

    Args:
        choose: how z is drawn from (name, p, q).
        rows: number of examples.
        samples: draws per example; a model sees rows x samples, the draws of a row together.
        encoded: the encoder's output, shared by several traces of one batch; None if no other
            trace needs it.
        decode: whether p(x | z) is wanted. If not, `LatentModel` stops after the last draw.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> trace = Trace(from_posterior(Stream(generator("example"))), rows=8, samples=3)
    >>> p_x = recipes.gaussian(4)(torch.zeros(8, 4), trace)
    >>> trace.kl().shape  # nats, one per draw
    torch.Size([24])
    """

    choose: Choose
    rows: int
    samples: int = 1
    encoded: Encoded | None = None
    decode: bool = True
    sites: dict[str, Site] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Rows times samples: the length of the first axis after the encoder."""
        return self.rows * self.samples

    def encode(self, encoder: nn.Module, x: Tensor, context: Tensor | None) -> Sequence[Tensor]:
        """Return ``encoder(x, context)``, as kept in `encoded` if another trace has asked."""
        return (
            encoder(x, context) if self.encoded is None else self.encoded.get(encoder, x, context)
        )

    def expand(self, features: Tensor) -> Tensor:
        """Repeat per-row features for the samples of each row: rows are encoded only once."""
        return features if self.samples == 1 else features.repeat_interleave(self.samples, 0)

    def draw(
        self,
        name: str,
        p: Distribution,
        q: Distribution | None = None,
        penalty: Tensor | float = 0.0,
    ) -> Tensor:
        """Draw z at the site `name`, (batch, ...), and record it.

        Args:
            name: of the site, unique within a model.
            p: the prior p(z | h).
            q: the posterior, or None to draw without data.
            penalty: (batch,) addition to the loss that is not in nats.
        """
        z, source = self.choose(name, p, q)
        self.sites[name] = Site(z, p, q, source, penalty)
        return z

    def _total(self, term: Callable[[Site], Tensor | float]) -> Tensor:
        terms = [term(site) for site in self.sites.values()]
        if not terms:  # a model without latents
            return torch.zeros(self.batch)
        if len(terms) == 1 and isinstance(terms[0], Tensor):
            return terms[0]
        return torch.stack([torch.as_tensor(term).expand(self.batch) for term in terms]).sum(0)

    def kl(self) -> Tensor:
        """KL(q || p) summed over the sites, (batch,) nats."""
        return self._total(Site.kl)

    def log_ratio(self) -> Tensor:
        """Log p(z) - log q(z | x) summed over the sites, (batch,) nats."""
        return self._total(Site.log_ratio)

    def log_prior(self) -> Tensor:
        """Log p(z) summed over the sites, (batch,) nats."""
        return self._total(lambda site: site.p.log_prob(site.z))

    def chained(self) -> str | None:
        """Return the first site whose posterior depends on an earlier draw, or None.

        The answer is read from the autograd graph, which leads from a draw back to an earlier
        one. Without gradients there is no graph, and the answer is None.
        """
        earlier, seen = set(), set()
        for name, site in self.sites.items():
            if site.z.grad_fn is None:
                continue
            if _leads(site.z.grad_fn, earlier, seen):
                return name
            earlier.add(site.z.grad_fn)
        return None

    def penalty(self) -> Tensor | None:
        """Return the posteriors' penalties, (batch,), which are not nats; None without any."""
        if not any(isinstance(site.penalty, Tensor) for site in self.sites.values()):
            return None
        return self._total(lambda site: site.penalty)


def _leads(start: Node, goals: set[Node], seen: set[Node]) -> bool:
    """Return whether the graph below `start` contains one of `goals`; `seen` holds none."""
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node in goals:
            return True
        if node not in seen:
            seen.add(node)
            waiting += [below for below, _ in node.next_functions if below is not None]
    return False


def _posterior(q: Distribution | None) -> Distribution:
    assert q is not None, "this way of drawing needs data: call the model with x"
    return q


def from_posterior(noise: Noise) -> Choose:
    """Return the rule that draws from q(z | x) by reparameterisation, for training and scores.

    Args:
        noise: source of standard normals, by name of the site.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> trace = Trace(from_posterior(Stream(generator("example"))), rows=8)
    >>> _ = recipes.gaussian(4, latent=2)(torch.zeros(8, 4), trace)
    >>> trace.sites["z"].z.shape
    torch.Size([8, 2])
    """

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        return Drawn(*base.draw(_posterior(q), partial(noise, name)))

    return choose


def path_derivative(noise: Noise) -> Choose:
    """Return a rule like `from_posterior`, with the parameters of log q detached.

    The gradient of log q(z | x) then passes through z only.

    References:
        Roeder, Wu & Duvenaud, "Sticking the landing", 2017, https://arxiv.org/abs/1703.09194;
        Tucker, Lawson, Gu & Maddison, "Doubly reparameterized gradient estimators for Monte Carlo
        objectives", 2019, https://arxiv.org/abs/1810.04152

    Args:
        noise: source of standard normals, by name of the site.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> trace = Trace(path_derivative(Stream(generator("example"))), rows=8)
    >>> _ = recipes.gaussian(4)(torch.zeros(8, 4), trace)
    >>> trace.log_ratio().shape
    torch.Size([8])
    """

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        z, source = base.draw(_posterior(q), partial(noise, name))
        return Drawn(z, base.stopped(source))

    return choose


def from_prior(
    generator: torch.Generator, temperature: float = 1.0, top_k: int | None = None
) -> Choose:
    """Return the rule that draws from p(z), for samples.

    Args:
        generator: the source of randomness, on the model's device.
        temperature: multiplies the scale of the prior; below 1, draws are closer to its centre.
        top_k: number of most probable codes kept at each position of a grid; None for all.

    Raises:
        UsageError: E246 in the forward pass for a prior without a temperature, E256 for top_k of
            a prior that is not over codes.

    >>> from lowerbound import recipes
    >>> trace = Trace(from_prior(torch.Generator(), temperature=0.8), rows=5)
    >>> recipes.gaussian(4)(None, trace).mean.shape
    torch.Size([5, 4])
    """

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        wanted = p if temperature == 1.0 else base.tempered(p, temperature)
        wanted = wanted if top_k is None else base.truncated(wanted, top_k)
        return Drawn(base.sample(wanted, generator), None)

    return choose


def posterior_mean(name: str, p: Distribution, q: Distribution | None) -> Drawn:
    """Take the mean of q(z | x), or the mode of codes: for embeddings and reconstructions.

    >>> from lowerbound import recipes
    >>> trace = Trace(posterior_mean, rows=5)
    >>> recipes.gaussian(4)(torch.zeros(5, 4), trace).mean.shape
    torch.Size([5, 4])
    """
    return Drawn(base.centre(_posterior(q)), None)


def replay(zs: Mapping[str, Tensor], otherwise: Choose | None = None) -> Choose:
    """Return the rule that uses given values, and draws other sites by `otherwise`.

    Args:
        zs: values by name of the site, (batch, ...).
        otherwise: rule for sites without a given value.

    >>> from lowerbound import recipes
    >>> trace = Trace(replay({"z": torch.zeros(5, 2)}), rows=5)
    >>> recipes.gaussian(4, latent=2)(None, trace).mean.shape
    torch.Size([5, 4])
    """

    def choose(name: str, p: Distribution, q: Distribution | None) -> Drawn:
        if name in zs:
            return Drawn(zs[name], None)
        assert otherwise is not None, f"no value was given for the site {name!r}"
        return otherwise(name, p, q)

    return choose
