"""Priors that mix the model's own posteriors: at learned inputs, or at exemplars.

For a fixed encoder and decoder the best prior is the aggregate posterior E_x q(z | x). These
follow it while the model trains, where `priors.Mixture` is fitted to it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import moments
from lowerbound.nn.distributions.scales import scale_of, soft_clip
from lowerbound.nn.latents.priors import DiagonalMixture
from lowerbound.noise import row_keys


class Borrowed:
    """u -> q(z | u) by an encoder and a posterior that belong to the model itself.

    A prior that encodes must not register the encoder a second time: its weights would be counted,
    saved and (as tensors that share memory) refused by safetensors. This is no module, so what it
    holds is registered where it belongs and only there, and a deep copy of the model has a prior
    that borrows from the copy.

    Args:
        encoder: the model's, (x, context) -> one feature tensor per level.
        posterior: that of the level, a rule that looks neither at the state nor at the prior.
        level: number of the level.
    """

    def __init__(self, encoder: nn.Module, posterior: nn.Module, level: int = 0) -> None:
        self.encoder, self.posterior, self.level = encoder, posterior, level

    def __call__(self, u: Tensor) -> Distribution:
        """Return q(z | u), one for every row of u."""
        f = self.encoder(u, None)[self.level]
        return self.posterior(u.new_zeros(len(u), 0), f, None).q


Encode = Callable[[Tensor], Distribution]


def _normal(q: Distribution) -> tuple[Tensor, Tensor]:
    """Return mean and scale of q, (K, d) each.

    Raises:
        UsageError: E246 where q is not a factorised normal.
    """
    try:
        return moments(q)
    except UsageError:
        raise UsageError(
            "E246",
            f"a prior that mixes posteriors needs normal ones, not a {type(q).__name__}",
            fix="use posteriors.Plain at this level, or another prior",
        ) from None


class Vamp(nn.Module):
    """p(z) = 1/K sum_k q(z | u_k): a mixture of the model's own posteriors at learned inputs u_k.

    The pseudo-inputs are encoded once per walk, whatever the number of rows.

    References:
        Tomczak & Welling, "VAE with a VampPrior", 2018, eq. 9, https://arxiv.org/abs/1705.07120

    Args:
        encode: u -> q(z | u), see `Borrowed`.
        components: K, the number of pseudo-inputs.
        shape: of one x.
        bounds: the data's range, which pseudo-inputs do not leave (softly, so that none of them
            stops learning at an end); None for data without one, such as standardised columns.
    """

    uniform: Tensor

    def __init__(
        self,
        encode: Encode,
        components: int,
        shape: Sequence[int],
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        _at_least(components, 1)
        self.encode, self.bounds = encode, bounds
        start = torch.randn(components, *shape)
        # Bounded ones are in units of the range.
        self.raw = nn.Parameter(start if bounds is None else 0.5 + 0.1 * start)
        self.register_buffer("uniform", torch.zeros(components), persistent=False)

    def inputs(self) -> Tensor:
        """Return the pseudo-inputs, (K, ...)."""
        if self.bounds is None:
            return self.raw
        low, high = self.bounds
        return low + (high - low) * soft_clip(self.raw, 0.0, 1.0)

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Begin at rows of the data, (n, ...); with fewer than K, the others stay as they are."""
        rows = x[: len(self.raw)]
        low, high = self.bounds or (0.0, 1.0)
        filled = torch.where(rows.isnan(), torch.full_like(rows, (low + high) / 2), rows)
        self.raw[: len(rows)] = filled if self.bounds is None else (filled - low) / (high - low)

    def forward(self, h: Tensor) -> Distribution:
        """Return the mixture for every row of h."""
        loc, scale = _normal(self.encode(self.inputs()))
        return DiagonalMixture(self.uniform, loc, scale, h.shape[0])


class Reading(nn.Module):
    """An encoder that remembers, while training, which rows it read last.

    A level tells its prior nothing of x; a prior that leaves out the row itself asks here. Rows
    are known by their content, so a row that is changed at random on its way in is not found.

    Args:
        encoder: (x, context) -> features.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.keys = encoder, None

    def forward(self, x: Tensor, context: Tensor | None) -> Sequence[Tensor]:
        """Return the encoder's features."""
        self.keys = row_keys(x) if self.training else None
        return self.encoder(x, context)

    def last(self) -> Tensor | None:
        """Return the keys of the rows being read, (B,), once; None when no row is."""
        keys, self.keys = self.keys, None
        return keys


class Exemplar(nn.Module):
    """p(z) = 1/K sum_k N(z; mu(x_k), s^2 I): around the codes of exemplars, with one scale s.

    While training, a row that is an exemplar is left out of its own prior: else the rate would be
    lowest for a model that remembers its exemplars. The exemplars are saved with the model.

    References:
        Norouzi, Fleet & Norouzi, "Exemplar VAE: linking generative models, nearest neighbor
        retrieval, and data augmentation", 2020, eq. 6 and section 3, without its retrieval of
        near exemplars: all K are encoded at every step, https://arxiv.org/abs/2004.04795

    Args:
        encode: x -> q(z | x) by the model's own networks, see `Borrowed`.
        components: K, at least 2.
        shape: of one x.
        reading: gives the keys of the rows being trained on, see `Reading.last`; None leaves no
            row out.
    """

    exemplars: Tensor
    keys: Tensor
    uniform: Tensor

    def __init__(
        self,
        encode: Encode,
        components: int,
        shape: Sequence[int],
        reading: Callable[[], Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        _at_least(components, 2)
        self.encode, self.reading = encode, reading
        self.raw_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("exemplars", torch.zeros(components, *shape))
        self.register_buffer("keys", torch.zeros(components, dtype=torch.long))
        self.register_buffer("uniform", torch.zeros(components), persistent=False)
        self.start_from(torch.randn(components, *shape))

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Take exemplars from rows of the data, (n, ...); fewer than K are repeated."""
        rows = x[torch.arange(len(self.exemplars)) % len(x)]
        self.exemplars.copy_(rows)
        self.keys.copy_(row_keys(rows))

    def forward(self, h: Tensor) -> Distribution:
        """Return the mixture for every row of h, without the row itself while training."""
        read = None if self.reading is None else self.reading()
        loc, _ = _normal(self.encode(self.exemplars))
        scale = scale_of(self.raw_scale, 1e-4, 1e4).expand_as(loc)
        logits = self.uniform
        if read is not None and self.training:
            own = read[:, None] == self.keys
            # A row that is every exemplar keeps them all: there is nothing else.
            own &= ~own.all(1, keepdim=True)
            logits = torch.zeros_like(own, dtype=loc.dtype).masked_fill(own, -torch.inf)
            logits = logits.repeat_interleave(h.shape[0] // len(logits), 0)
        return DiagonalMixture(logits, loc, scale, h.shape[0])


def _at_least(components: int, least: int) -> None:
    if components < least:
        message = f"components must be at least {least} for this prior, got {components}"
        raise UsageError("E240", message, fix=f"components={max(least, 100)}")


@singledispatch
def start_from(prior: nn.Module, first: Callable[[int], Tensor]) -> None:
    """Let a prior begin at rows of the data; most priors begin where they are.

    Args:
        prior: a prior.
        first: n -> the first n rows of the training data, (n, ...), or as many as there are.
    """


@start_from.register
def _(prior: Vamp, first: Callable[[int], Tensor]) -> None:
    prior.start_from(first(len(prior.raw)))


@start_from.register
def _(prior: Exemplar, first: Callable[[int], Tensor]) -> None:
    prior.start_from(first(len(prior.exemplars)))
