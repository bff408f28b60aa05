"""Priors over grids of codes: uniform while the codebook is learned, then a PixelCNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import ONE, Unchecked, sample, tempered, truncated
from lowerbound.nn.distributions.codewords import OnCodebook, UniformCodeGrid
from lowerbound.nn.latents.codebooks import Codebook
from lowerbound.nn.networks.pixelcnn import PixelCNN, Walk


class CodebookReference:
    """Reference to the codebook of a posterior.

    It is not a module, so that the codebook's buffers are not saved a second time.
    """

    def __init__(self, book: Codebook) -> None:
        self.book, self.size = book, book.size

    def __call__(self) -> Tensor:
        """Return the vectors, (K, d), detached: a prior does not train them."""
        return self.book.vectors().detach()


class UniformCodes(nn.Module):
    """Uniform prior over grids of codes, under which a VQ-VAE is trained.

    The rate is then the constant H W log K nats.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        section 3.1, https://arxiv.org/abs/1711.00937

    Args:
        book: the codebook of the level's posterior, K vectors.
        grid: H, W; nothing for a single code.

    >>> from lowerbound.nn import GradientCodebook
    >>> p = UniformCodes(GradientCodebook(8, dim=2), 3, 3)(torch.zeros(1, 0))
    >>> p.log_prob(p.sample())  # -9 log 8
    tensor([-18.7150])
    """

    def __init__(self, book: Codebook, *grid: int) -> None:
        super().__init__()
        self.lent, self.grid = CodebookReference(book), grid

    def forward(self, h: Tensor) -> Distribution:
        """Return the same distribution for every row of h."""
        book = self.lent()
        like = book.new_zeros(len(h))
        return OnCodebook(book, UniformCodeGrid(like, self.grid, self.lent.size))


class PixelCodes(nn.Module):
    """p(z | h) by a gated PixelCNN over the codes, conditional on the state.

    References:
        van den Oord et al., "Conditional image generation with PixelCNN decoders", 2016,
        https://arxiv.org/abs/1606.05328; for a hierarchy of codes: Razavi, van den Oord & Vinyals,
        "Generating diverse high-fidelity images with VQ-VAE-2", 2019, section 3.2,
        https://arxiv.org/abs/1906.00446

    Args:
        book: the codebook of the level's posterior, K vectors.
        net: a `PixelCNN` with K codes.

    >>> from lowerbound.nn import GradientCodebook
    >>> p = PixelCodes(GradientCodebook(8, dim=2), PixelCNN(8, (3, 3), channels=4, layers=1))
    >>> p(torch.zeros(1, 0, 3, 3)).sample().shape
    torch.Size([1, 2, 3, 3])
    """

    def __init__(self, book: Codebook, net: PixelCNN) -> None:
        super().__init__()
        self.lent, self.net = CodebookReference(book), net

    def forward(self, h: Tensor) -> Distribution:
        """Return p(z | h); the network runs only when log_prob or sample is called."""
        # That call may be outside of the mixed-precision block that computed the state.
        wide = h if h.dtype == torch.float64 else h.float()
        return OnCodebook(self.lent(), Raster(self.net, wide))


class Raster(Unchecked):
    """Autoregressive distribution over grids of codes in raster order.

    Temperature and truncation apply to the conditional distribution at every position, which
    remains normalised.

    Args:
        net: the network that gives the logits.
        h: (B, channels, H, W) the condition.
        temperature: divisor of the logits.
        most: number of most probable codes kept at each position; None for all.
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
            # By rank, so that ties with the last kept code are left out.
            kept = wide.topk(self.most, 1).indices
            out = torch.ones_like(wide, dtype=torch.bool).scatter_(1, kept, False)
            wide = wide.masked_fill(out, -torch.inf)
        return wide.log_softmax(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of (B, H, W) codes, (B,) nats, in one pass over all positions."""
        log_p = self.log_probs(self.net(value, self.h))
        return log_p.gather(1, value[:, None]).flatten(1).sum(1)

    @torch.no_grad()
    def drawn(self, uniform: Tensor) -> Tensor:
        """Return the codes, (B, H, W), by inversion of uniform numbers (B, H, W) in [0, 1)."""
        walk, found = Walk(self.net, self.h), torch.empty(uniform.shape, dtype=torch.long)
        found = found.to(uniform.device)
        for i in range(uniform.shape[1]):
            for j in range(uniform.shape[2]):
                found[:, i, j] = self.pick(walk.numbers(), uniform[:, i, j])
                walk.put(found[:, i, j])
        return found

    def pick(self, numbers: Tensor, uniform: Tensor) -> Tensor:
        """Return the first codes, (B,), whose cumulative probability exceeds `uniform`."""
        reached = self.log_probs(numbers).double().exp().cumsum(1)
        # Division makes the last one exactly 1, above every uniform number.
        return (reached / reached[:, -1:] <= uniform[:, None]).sum(1)


@sample.register
def _(p: Raster, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    draws = []
    for _ in range(shape.numel()):
        each = Size([len(p.h)]) + p.event_shape
        uniform = torch.rand(each, generator=generator, dtype=torch.float64, device=p.h.device)
        draws.append(p.drawn(uniform))
    return torch.stack(draws).view(*shape, *draws[0].shape)


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
