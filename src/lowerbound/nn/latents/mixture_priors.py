"""Priors that are mixtures of the model's own posteriors, at learned inputs or at exemplars.

For a fixed encoder and decoder the best prior is the aggregate posterior E_x q(z | x). These
priors follow it during training; `priors.Mixture` is fitted to it afterwards.
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


class EncoderReference:
    """Callable u -> q(z | u) that refers to the encoder and posterior of the model.

    A prior must not register the model's encoder a second time, because its weights would be
    counted and saved twice. This class is not a module, so that they are registered in the model
    only; in a deep copy of the model, the prior refers to the encoder of the copy.

    Args:
        encoder: the model's encoder, (x, context) -> one feature tensor per level.
        posterior: the level's posterior, which must depend on the features alone.
        level: index of the level.

    >>> from lowerbound.nn import Plain, Single
    >>> encode = EncoderReference(Single(nn.Linear(4, 8)), Plain(nn.Linear(8, 6)))
    >>> encode(torch.zeros(2, 4)).mean.shape
    torch.Size([2, 3])
    """

    def __init__(self, encoder: nn.Module, posterior: nn.Module, level: int = 0) -> None:
        self.encoder, self.posterior, self.level = encoder, posterior, level

    def __call__(self, u: Tensor) -> Distribution:
        """Return q(z | u) for every row of u, (n, ...)."""
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
            f"a prior that mixes posteriors needs normal posteriors, got {type(q).__name__}",
            fix="use the posterior Plain at this level, or another prior",
        ) from None


class Vamp(nn.Module):
    """VampPrior: p(z) = 1/K sum_k q(z | u_k), the model's posteriors at learned inputs u_k.

    The K pseudo-inputs are encoded once per forward pass, independent of the number of rows.

    References:
        Tomczak & Welling, "VAE with a VampPrior", 2018, eq. 9, https://arxiv.org/abs/1705.07120

    Args:
        encode: u -> q(z | u), see `EncoderReference`.
        components: K, the number of pseudo-inputs.
        shape: of one x.
        bounds: range of the data, to which pseudo-inputs are softly bounded, so that gradients
            do not vanish at its ends; None for unbounded data, such as standardised columns.

    Raises:
        UsageError: E240 for fewer than one component; E246 in the forward pass if the posterior
            is not normal.

    >>> from lowerbound.nn import Plain, Single
    >>> encode = EncoderReference(Single(nn.Linear(4, 8)), Plain(nn.Linear(8, 6)))
    >>> Vamp(encode, 10, [4])(torch.zeros(2, 0)).sample().shape
    torch.Size([2, 3])
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
        # With bounds, in units of the range.
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
        """Set pseudo-inputs to rows of the data, (n, ...); if n < K, the others stay unchanged."""
        rows = x[: len(self.raw)]
        low, high = self.bounds or (0.0, 1.0)
        filled = torch.where(rows.isnan(), torch.full_like(rows, (low + high) / 2), rows)
        self.raw[: len(rows)] = filled if self.bounds is None else (filled - low) / (high - low)

    def forward(self, h: Tensor) -> Distribution:
        """Return the mixture for every row of h."""
        loc, scale = _normal(self.encode(self.inputs()))
        return DiagonalMixture(self.uniform, loc, scale, h.shape[0])


class KeyRecorder(nn.Module):
    """Encoder that records, during training, the keys of the rows it read last.

    A level passes no x to its prior; a prior that leaves out the row itself asks here. Keys depend
    on the content of a row, so that a randomly augmented row is not recognised.

    Args:
        encoder: (x, context) -> features.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.keys = encoder, None

    def forward(self, x: Tensor, context: Tensor | None) -> Sequence[Tensor]:
        """Return the encoder's features."""
        if self.training:  # in evaluation, threads may share the model
            self.keys = row_keys(x)
        return self.encoder(x, context)

    def last(self) -> Tensor | None:
        """Return the keys (B,) of the rows read last, then None until rows are read again."""
        keys, self.keys = self.keys, None
        return keys


class Exemplar(nn.Module):
    """Exemplar prior: p(z) = 1/K sum_k N(z; mu(x_k), s^2 I) for exemplars x_k and one scale s.

    During training, a row that is an exemplar is left out of its own prior; otherwise the rate
    would be lowest for a model that memorises its exemplars. They are saved with the model.

    References:
        Norouzi, Fleet & Norouzi, "Exemplar VAE: linking generative models, nearest neighbor
        retrieval, and data augmentation", 2020, eq. 6 and section 3,
        https://arxiv.org/abs/2004.04795. The paper's retrieval of near exemplars is left out: all
        K are encoded at every step.

    Args:
        encode: x -> q(z | x) by the model's own networks, see `EncoderReference`.
        components: K, at least 2.
        shape: of one x.
        reading: returns the keys of the current training rows, see `KeyRecorder.last`; None leaves
            no row out.

    Raises:
        UsageError: E240 for fewer than two components; E246 in the forward pass if the posterior
            is not normal.

    >>> from lowerbound.nn import Plain, Single
    >>> encode = EncoderReference(Single(nn.Linear(4, 8)), Plain(nn.Linear(8, 6)))
    >>> Exemplar(encode, 10, [4])(torch.zeros(2, 0)).sample().shape
    torch.Size([2, 3])
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
        """Set the exemplars to rows of the data, (n, ...), repeated if n < K."""
        rows = x[torch.arange(len(self.exemplars)) % len(x)]
        self.exemplars.copy_(rows)
        self.keys.copy_(row_keys(rows))

    def forward(self, h: Tensor) -> Distribution:
        """Return the mixture for every row of h; in training, without the row itself."""
        read = self.reading() if self.training and self.reading is not None else None
        loc, _ = _normal(self.encode(self.exemplars))
        scale = scale_of(self.raw_scale, 1e-4, 1e4).expand_as(loc)
        logits = self.uniform
        if read is not None:
            own = read[:, None] == self.keys
            # A row equal to every exemplar keeps them all; none would remain otherwise.
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
    """Initialise a prior from rows of the data; most priors ignore the data.

    Args:
        prior: a prior.
        first: n -> the first n rows of the training data, (n, ...), or all rows if fewer.
    """


@start_from.register
def _(prior: Vamp, first: Callable[[int], Tensor]) -> None:
    prior.start_from(first(len(prior.raw)))


@start_from.register
def _(prior: Exemplar, first: Callable[[int], Tensor]) -> None:
    prior.start_from(first(len(prior.exemplars)))
