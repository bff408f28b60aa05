"""Fully convolutional networks for the restoration of pictures (B, C, H, W) of any size.

No layer normalises, so that the output at a pixel does not depend on the size of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.errors import UsageError


class ResidualBlock(nn.Module):
    """Residual block x + conv(SiLU(conv(x))), 3 x 3, whose branch is small at initialisation.

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
    """Return a sequence of `count` residual blocks."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class UNet(nn.Module):
    """U-Net with residual blocks: (B, C, H, W) -> (B, D, H, W).

    H and W must be multiples of 2^(scales - 1).

    References:
        Ronneberger, Fischer & Brox, "U-Net", 2015, https://arxiv.org/abs/1505.04597; with residual
        blocks and 2 x 2 strides: Zhang et al., "Plug-and-play image restoration with deep denoiser
        prior", 2021 (DRUNet), https://arxiv.org/abs/2008.13751

    Args:
        inputs: C.
        widths: channels of each scale, fine to coarse; D is the first.
        depth: residual blocks per scale and direction.

    >>> UNet(3, [8, 16], depth=1)(torch.zeros(2, 3, 4, 6)).shape
    torch.Size([2, 8, 4, 6])
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


class RestorationStart(nn.Module):
    """First state of a restoration model: features of the given picture, and the picture itself.

    The likelihood adds a residual to the picture (see `ResidualOutput`).

    Args:
        features: network from the picture to its features.
        base: module that brings the picture to the form of the output, such as a bicubic
            enlargement.
    """

    def __init__(self, features: nn.Module, base: nn.Module) -> None:
        super().__init__()
        self.features, self.base = features, base

    def forward(self, context: Tensor | None, batch: int) -> Tensor:
        """Return [features, base], the first state."""
        if context is None:
            raise UsageError(
                "E247",
                "this model needs a picture as its context, and none was given",
                fix="lowerbound info M.vae shows its recipe: denoise, upscale, inpaint or segment",
            )
        return torch.cat([self.features(context), self.base(context)], 1)


class FeatureUpdate(nn.Module):
    """The `advance` of restoration models: z changes the features of h, not its picture.

    Args:
        features: channels of the features, the first of h.
        latent: channels of z.
        stride: pixels of h per pixel of z.
        depth: residual blocks after z is added.
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


class ResidualOutput(nn.Module):
    """Network of the likelihood's numbers, the first of which are residuals of the given picture.

    Args:
        features: channels of the features, the first of h.
        carried: channels of the picture, the others of h.
        numbers: outputs per pixel.
        fold: pixels of the output per pixel of h, in each direction.
    """

    def __init__(self, features: int, carried: int, numbers: int, fold: int) -> None:
        super().__init__()
        self.features, self.fold = features, fold
        self.net = nn.Conv2d(features, numbers * fold**2, 3, 1, 1)
        if carried:  # untrained, the output is the given picture
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
