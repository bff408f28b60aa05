"""Priors over grids of codes: all alike while the codes are learned, then a PixelCNN of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import Unchecked, tempered, truncated
from lowerbound.nn.distributions.codewords import AllAlike, OnCodebook
from lowerbound.nn.latents.codebooks import Codebook
from lowerbound.nn.networks.pixelcnn import PixelCNN, Walk


class Lent:
    """The vectors of a codebook that belongs to a posterior.

    A prior that registered the codebook too would have its buffers saved twice; this is no module.
    """

    def __init__(self, book: Codebook) -> None:
        self.book, self.size = book, book.size

    def __call__(self) -> Tensor:
        """Return the vectors, (K, d), which a prior does not move."""
        return self.book.vectors().detach()


class UniformCodes(nn.Module):
    """p(z) = K^-places: the prior under which a VQ-VAE is trained.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        section 3.1: the rate is then a constant, places x log K.

    Args:
        book: the codebook of the level's posterior.
        grid: (H, W), or () for one code.
    """

    def __init__(self, book: Codebook, *grid: int) -> None:
        super().__init__()
        self.lent, self.grid = Lent(book), grid

    def forward(self, h: Tensor) -> Distribution:
        """Return the same distribution for every row of h."""
        book = self.lent()
        like = book.new_zeros(len(h))
        return OnCodebook(book, AllAlike(like, self.grid, self.lent.size))


class PixelCodes(nn.Module):
    """p(z | h) by a gated PixelCNN over the codes, conditional on the state.

    References:
        van den Oord et al., "Conditional image generation with PixelCNN decoders", 2016; its use
        for a hierarchy of codes: Razavi, van den Oord & Vinyals, "Generating diverse high-fidelity
        images with VQ-VAE-2", 2019, section 3.2, https://arxiv.org/abs/1906.00446

    Args:
        book: the codebook of the level's posterior.
        net: with as many numbers per place as the book has codes.
    """

    def __init__(self, book: Codebook, net: PixelCNN) -> None:
        super().__init__()
        self.lent, self.net = Lent(book), net

    def forward(self, h: Tensor) -> Distribution:
        """Return p(z | h); the network runs only where it is asked for a mass or a draw."""
        # What asks may stand outside of a mixed-precision block that made the state.
        wide = h if h.dtype == torch.float64 else h.float()
        return OnCodebook(self.lent(), Raster(self.net, wide))


class Raster(Unchecked):
    """Codes of a grid one after the other, each given those before it.

    With a temperature or truncated it is a distribution of its own, normalised at every place.

    Args:
        net: of the numbers that a softmax turns into probabilities.
        h: (B, channels, H, W) the condition.
        temperature: that the numbers are divided by.
        most: how many of the likeliest codes a place keeps; None for all.
    """

    def __init__(
        self, net: PixelCNN, h: Tensor, temperature: float = 1.0, most: int | None = None
    ) -> None:
        self.net, self.h, self.temperature, self.most = net, h, temperature, most
        super().__init__(h.shape[:1], Size(net.grid), validate_args=False)

    def log_probs(self, numbers: Tensor) -> Tensor:
        """Return log-probabilities of the codes on axis 1, float32 or better."""
        wide = numbers if numbers.dtype == torch.float64 else numbers.float()
        wide = wide / self.temperature
        if self.most is not None and self.most < wide.shape[1]:
            # By place in the order, so that codes that are as likely as the last are left out.
            kept = wide.topk(self.most, 1).indices
            out = torch.ones_like(wide, dtype=torch.bool).scatter_(1, kept, False)
            wide = wide.masked_fill(out, -torch.inf)
        return wide.log_softmax(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of (B, H, W) codes, (B,) nats: all places in one pass."""
        log_p = self.log_probs(self.net(value, self.h))
        return log_p.gather(1, value[:, None]).flatten(1).sum(1)

    def sample(self, sample_shape: Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw (global generator of torch)."""
        draws = []
        for _ in range(sample_shape.numel()):
            uniform = torch.rand(
                len(self.h), *self.event_shape, dtype=torch.float64, device=self.h.device
            )
            draws.append(self.drawn(uniform))
        return torch.stack(draws).view(*sample_shape, *draws[0].shape)

    @torch.no_grad()
    def drawn(self, uniform: Tensor) -> Tensor:
        """Return the codes that uniform numbers, (B, H, W) in [0, 1), stand for."""
        walk, found = Walk(self.net, self.h), torch.empty(uniform.shape, dtype=torch.long)
        found = found.to(uniform.device)
        for i in range(uniform.shape[1]):
            for j in range(uniform.shape[2]):
                found[:, i, j] = self.pick(walk.numbers(), uniform[:, i, j])
                walk.put(found[:, i, j])
        return found

    def pick(self, numbers: Tensor, uniform: Tensor) -> Tensor:
        """Return the codes, (B,), at which the cumulated probabilities pass uniform numbers."""
        reached = self.log_probs(numbers).double().exp().cumsum(1)
        # Rounding keeps the last one from being 1, which no uniform number reaches.
        return (reached / reached[:, -1:] <= uniform[:, None]).sum(1)


@tempered.register
def _(p: Raster, temperature: float) -> Distribution:
    return Raster(p.net, p.h, p.temperature * temperature, p.most)


@truncated.register
def _(p: Raster, most: int) -> Distribution:
    if most < 1:
        raise UsageError(
            "E240", f"top_k must be a positive integer, got {most}", fix="top_k=1 or more"
        )
    return Raster(p.net, p.h, p.temperature, most)


PRIORS: dict[str, Callable[..., Any]] = {"uniform": UniformCodes, "pixelcnn": PixelCodes}
