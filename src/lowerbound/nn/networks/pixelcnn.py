"""Gated PixelCNN: logits for every position of a grid of codes from the positions before it.

Positions are in raster order: row by row, from left to right. The network runs in two ways with
the same weights: over whole grids at once, and position by position (`Walk`), where each row of
the vertical stack is computed once and the cost of a position does not depend on the grid's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gate(x: Tensor) -> Tensor:
    """Return tanh(a) sigmoid(b) for [a, b] = x on axis 1 (eq. 2 of the paper)."""
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class GatedLayer(nn.Module):
    """Layer of the vertical stack, which sees the rows above, and of the horizontal stack.

    The inputs of both stacks are shifted by one, so that the output at a position does not depend
    on its own code. The horizontal stack reads the vertical one, so that every earlier position is
    visible (there is no blind spot).

    References:
        van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu, "Conditional image
        generation with PixelCNN decoders", 2016, figure 2, https://arxiv.org/abs/1606.05328

    Args:
        channels: C, of each stack.
        reach: number of positions to each side, and of rows above, that a layer sees.
        given: channels of the condition; 0 for none.
    """

    def __init__(self, channels: int, reach: int, given: int) -> None:
        super().__init__()
        self.reach = reach
        self.vertical = nn.Conv2d(channels, 2 * channels, (reach + 1, 2 * reach + 1))
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, reach + 1))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.onward = nn.Conv2d(channels, channels, 1)
        self.given = nn.Conv2d(given, 4 * channels, 1, bias=False) if given else None

    def told(self, given: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        """Return the terms of the condition for the two stacks, (B, 2 C, H, W) each."""
        if self.given is None or given is None:
            return 0.0, 0.0
        down, right = self.given(given).chunk(2, 1)
        return down, right

    def down(self, above: Tensor, told: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return rows of the vertical stack, and their term for the horizontal one.

        Args:
            above: (B, C, reach + rows, W), including `reach` rows above the computed ones.
            told: the term of the condition, (B, 2 C, rows, W).
        """
        raw = self.vertical(F.pad(above, (self.reach, self.reach)))
        return gate(raw + told), self.across(raw)

    def forward(self, v: Tensor, h: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return both stacks, (B, C, H, W), for whole grids."""
        for_v, for_h = self.told(given)
        v, read = self.down(F.pad(v, (0, 0, self.reach, 0)), for_v)
        raw = self.horizontal(F.pad(h, (self.reach, 0))) + read + for_h
        return v, h + self.onward(gate(raw))

    def right(self, left: Tensor, read: Tensor) -> Tensor:
        """Return one position of the horizontal stack, (B, C).

        Args:
            left: (B, C, reach + 1), the position itself being the last.
            read: sum of the terms of the vertical stack and of the condition, (B, 2 C).
        """
        raw = F.linear(left.flatten(1), self.horizontal.weight.flatten(1), self.horizontal.bias)
        return left[:, :, -1] + _pointwise(self.onward, gate(raw + read))


def _pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution to one position, (B, C)."""
    return F.linear(x, layer.weight.flatten(1), layer.bias)


class CausalAttention(nn.Module):
    """Causal self-attention: each position attends to itself and to all earlier positions.

    References:
        Chen, Mishra, Rohaninejad & Abbeel, "PixelSNAIL: an improved autoregressive generative
        model", 2018, https://arxiv.org/abs/1712.09763, as in the top prior of VQ-VAE-2.

    Args:
        channels: C.
        heads: number of heads, a divisor of C.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.asks = nn.Conv2d(channels, 3 * channels, 1)
        self.onward = nn.Conv2d(channels, channels, 1)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, (B, heads, n, C / heads), from (B, 3 C, n)."""
        return x.unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)

    def forward(self, h: Tensor) -> Tensor:
        """Return h plus the attention's output, (B, C, H, W)."""
        q, k, v = self.split(self.asks(h).flatten(2))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return h + self.onward(found.transpose(-1, -2).reshape(h.shape))


class PixelCNN(nn.Module):
    """Gated PixelCNN over grids of codes: logits from the earlier codes and a condition.

    References:
        van den Oord et al., "Conditional image generation with PixelCNN decoders", 2016,
        https://arxiv.org/abs/1606.05328

    Args:
        codes: K, the number of codes.
        grid: (H, W).
        channels: of each stack.
        layers: number of gated layers.
        given: channels of the condition (B, given, H, W); 0 for none.
        heads: heads of causal attention after the middle and after the last layer; 0 for none.

    >>> net = PixelCNN(8, (3, 4), channels=4, layers=2)
    >>> net(torch.zeros(2, 3, 4, dtype=torch.long), torch.zeros(2, 0, 3, 4)).shape
    torch.Size([2, 8, 3, 4])
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the sizes of a network over codes
        self,
        codes: int,
        grid: Sequence[int],
        channels: int = 64,
        layers: int = 6,
        given: int = 0,
        heads: int = 0,
    ) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.embedding = nn.Embedding(codes, channels)
        self.places = nn.Parameter(0.02 * torch.randn(2, channels, *self.grid))
        self.reading = _reading(given, channels) if given else None
        told = channels if given else 0
        self.layers = nn.ModuleList(GatedLayer(channels, 1, told) for _ in range(layers))
        looking = {(layers - 1) // 2, layers - 1} if heads else set()
        self.attention = nn.ModuleDict(
            {str(i): CausalAttention(channels, heads) for i in sorted(looking)}
        )
        self.head = nn.ModuleList(
            [nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, codes, 1)]
        )
        for last in self.head[1].parameters():  # untrained, all codes are equally probable
            nn.init.zeros_(last)

    def condition(self, given: Tensor) -> Tensor | None:
        """Return the features of a condition, which all layers share, or None."""
        return None if self.reading is None else self.reading(given)

    def stacks(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of both stacks: embedded codes (B, C, H, W), shifted by one."""
        v = F.pad(embedded, (0, 0, 1, 0))[:, :, :-1] + self.places[0]
        h = F.pad(embedded, (1, 0))[..., :-1] + self.places[1]
        return v, h

    def numbers(self, embedded: Tensor, given: Tensor) -> Tensor:
        """Return logits (B, K, H, W) from embedded codes (B, C, H, W)."""
        told = self.condition(given)
        v, h = self.stacks(embedded)
        for i, layer in enumerate(self.layers):
            v, h = layer(v, h, told)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
        for layer in self.head:
            h = layer(F.silu(h))
        return h

    def forward(self, codes: Tensor, given: Tensor) -> Tensor:
        """Return logits (B, K, H, W), those of a position from the earlier codes only.

        Args:
            codes: (B, H, W).
            given: (B, given, H, W), with 0 channels if there is no condition.
        """
        return self.numbers(self.embedding(codes).movedim(-1, 1), given)


def _reading(given: int, channels: int) -> nn.Sequential:
    """Return the network of the condition, which every position sees in full."""
    first, last = nn.Conv2d(given, channels, 3, 1, 1), nn.Conv2d(channels, channels, 3, 1, 1)
    return nn.Sequential(first, nn.SiLU(), last)


class Walk:
    """Evaluation of a `PixelCNN` position by position: call `numbers`, then `put`, repeatedly.

    It keeps the last rows of the vertical stack and the last positions of the horizontal one for
    each layer, and the keys and values so far for each attention. There are no gradients.

    Args:
        net: the network.
        given: (B, given, H, W).
    """

    def __init__(self, net: PixelCNN, given: Tensor) -> None:
        self.net, rows = net, len(given)
        told = net.condition(given)
        self.told = [layer.told(told) for layer in _layers(net)]
        channels, (height, width) = net.places.shape[1], net.grid
        like = net.places
        self.row = like.new_zeros(rows, channels, 1, width)  # embedded codes of the row above
        self.last = like.new_zeros(rows, channels)  # embedded code of the position to the left
        self.above = [like.new_zeros(rows, channels, x.reach, width) for x in _layers(net)]
        self.left = [like.new_zeros(rows, channels, x.reach + 1) for x in _layers(net)]
        self.read: list[Tensor] = []
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        for name, x in _attentions(net).items():
            shape = rows, x.heads, height * width, channels // x.heads
            self.seen[name] = like.new_zeros(shape), like.new_zeros(shape)
        self.at = 0

    def _begin_row(self, i: int) -> None:
        """Compute a row of the vertical stack at all layers."""
        v = self.row + self.net.places[0, :, i : i + 1]
        self.read = []
        for n, layer in enumerate(_layers(self.net)):
            window = torch.cat([self.above[n], v], 2)
            for_v, for_h = (
                x[:, :, i : i + 1] if isinstance(x, Tensor) else x for x in self.told[n]
            )
            self.above[n] = window[:, :, 1:]
            v, read = layer.down(window, for_v)
            self.read.append((read + for_h)[:, :, 0])
            self.left[n] = torch.zeros_like(self.left[n])
        self.last = torch.zeros_like(self.last)

    def numbers(self) -> Tensor:
        """Return the logits of the next position, (B, K)."""
        i, j = divmod(self.at, self.net.grid[1])
        if j == 0:
            self._begin_row(i)
        h = self.last + self.net.places[1, :, i, j]
        attentions = _attentions(self.net)
        for n, layer in enumerate(_layers(self.net)):
            self.left[n] = torch.cat([self.left[n][:, :, 1:], h[:, :, None]], 2)
            h = layer.right(self.left[n], self.read[n][:, :, j])
            if str(n) in attentions:
                h = self._look(str(n), attentions[str(n)], h)
        for layer in self.net.head:
            assert isinstance(layer, nn.Conv2d)
            h = _pointwise(layer, F.silu(h))
        return h

    def _look(self, name: str, attention: CausalAttention, h: Tensor) -> Tensor:
        """Return h of the next position plus its attention to the earlier ones, (B, C)."""
        q, k, v = attention.split(_pointwise(attention.asks, h)[..., None])
        keys, values = self.seen[name]
        keys[:, :, self.at], values[:, :, self.at] = k[:, :, 0], v[:, :, 0]
        so_far = slice(self.at + 1)
        weight = (q @ keys[:, :, so_far].transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        found = (weight @ values[:, :, so_far]).flatten(1)
        return h + _pointwise(attention.onward, found)

    def put(self, codes: Tensor) -> None:
        """Set the codes (B,) of the position, and move to the next one."""
        width = self.net.grid[1]
        j = self.at % width
        self.last = self.net.embedding(codes)
        if j == 0:
            self.row = torch.zeros_like(self.row)
        self.row[:, :, 0, j] = self.last
        self.at += 1


def _layers(net: PixelCNN) -> list[GatedLayer]:
    return list(net.layers)  # pyright: ignore[reportReturnType]


def _attentions(net: PixelCNN) -> dict[str, CausalAttention]:
    return dict(net.attention.items())  # pyright: ignore[reportReturnType]
