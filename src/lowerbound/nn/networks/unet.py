"""Fully convolutional networks for pictures of any size: what restoring them is made of.

They know nothing of probability. Shapes are (B, C, H, W); no layer normalises, so that what comes
out at a pixel does not depend on how large the picture around it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.errors import UsageError


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(x))), 3 x 3, the branch beginning at zero.

    References:
        Lim et al., "Enhanced deep residual networks for single image super-resolution", 2017,
        figure 2: no batch normalisation. https://arxiv.org/abs/1707.02921
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        with torch.no_grad():  # small and not zero: at zero the first convolution has no gradient
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next state."""
        return x + self.second(F.silu(self.first(x)))


def blocks(channels: int, count: int) -> nn.Sequential:
    """Return `count` residual blocks one after the other."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class UNet(nn.Module):
    """Down through halvings and up again, joined at each scale: (B, C, H, W) -> (B, D, H, W).

    H and W must be multiples of 2^(scales - 1).

    References:
        Ronneberger, Fischer & Brox, "U-Net", 2015, https://arxiv.org/abs/1505.04597; with residual
        blocks and 2 x 2 strides: Zhang et al., "Plug-and-play image restoration with deep denoiser
        prior", 2021 (DRUNet), https://arxiv.org/abs/2008.13751

    Args:
        inputs: C.
        widths: channels of each scale, fine to coarse; D is the first.
        depth: residual blocks per scale and way.
    """

    def __init__(self, inputs: int, widths: Sequence[int], depth: int) -> None:
        super().__init__()
        wide = list(zip(widths, widths[1:], strict=False))
        self.first = nn.Conv2d(inputs, widths[0], 3, 1, 1)
        self.down = nn.ModuleList(blocks(width, depth) for width in widths[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in wide)
        self.middle = blocks(widths[-1], depth)
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in reversed(wide)
        )
        self.up = nn.ModuleList(blocks(width, depth) for width in reversed(widths[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of every pixel."""
        h, skips = self.first(x), []
        for down, shrink in zip(self.down, self.shrink, strict=True):
            h = down(h)
            skips.append(h)
            h = shrink(h)
        h = self.middle(h)
        for up, enlarge in zip(self.up, self.enlarge, strict=True):
            h = up(enlarge(h) + skips.pop())
        return h


class Beside(nn.Module):
    """Features of a picture, and the picture itself beside them: what a residual is added to.

    Args:
        features: the network that sees the picture.
        base: the picture as the output wants it: folded, or enlarged and folded.
    """

    def __init__(self, features: nn.Module, base: nn.Module) -> None:
        super().__init__()
        self.features, self.base = features, base

    def forward(self, context: Tensor | None, batch: int) -> Tensor:
        """Return [features, base], the first state."""
        if context is None:
            raise UsageError(
                "E247",
                "this model makes pictures of given ones, and nothing is given",
                fix="lowerbound info M.vae tells its recipe: denoise, upscale, inpaint or segment",
            )
        return torch.cat([self.features(context), self.base(context)], 1)


class Merge(nn.Module):
    """(h, z) -> the features moved on by what z says; the picture beside them stays as it is.

    Args:
        features: channels of the features, the first of h.
        latent: channels of z.
        stride: pixels of h per pixel of z.
        depth: residual blocks after the merging.
    """

    def __init__(self, features: int, latent: int, stride: int, depth: int) -> None:
        super().__init__()
        self.features, self.stride = features, stride
        self.merge = nn.Conv2d(latent, features, 3, 1, 1)
        self.blocks = blocks(features, depth)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Return the next state."""
        said = self.merge(z)
        if self.stride > 1:
            said = F.interpolate(said, scale_factor=float(self.stride), mode="bilinear")
        features, base = h[:, : self.features], h[:, self.features :]
        return torch.cat([self.blocks(features + said), base], 1)


class Onto(nn.Module):
    """The numbers of the likelihood: a network's, the first of them added to the picture given.

    Args:
        features: channels of the features, the first of h.
        carried: channels of the picture beside them.
        numbers: per pixel of the output.
        fold: pixels of the output per pixel of h, in each direction.
    """

    def __init__(self, features: int, carried: int, numbers: int, fold: int) -> None:
        super().__init__()
        self.features, self.fold = features, fold
        self.net = nn.Conv2d(features, numbers * fold**2, 3, 1, 1)
        if carried:  # training begins with the picture as it is given
            assert self.net.bias is not None
            nn.init.zeros_(self.net.weight)
            nn.init.zeros_(self.net.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Return (B, numbers, H fold, W fold)."""
        numbers, base = self.net(h[:, : self.features]), h[:, self.features :]
        if base.shape[1]:
            rest = numbers[:, base.shape[1] :]
            numbers = torch.cat([numbers[:, : base.shape[1]] + base, rest], 1)
        return F.pixel_shuffle(numbers, self.fold)


class Bicubic(nn.Module):
    """Enlarge a picture by bicubic interpolation, (B, C, H, W) -> (B, C, H scale, W scale)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the larger picture."""
        return F.interpolate(x, scale_factor=float(self.scale), mode="bicubic")
