"""Convolutional networks for images (B, C, H, W) of any height and width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.errors import UsageError
from lowerbound.nn.networks.mlp import SILU, Nonlinearity


def halvings(size: int, times: int) -> list[int]:
    """Return `size` and its value after each of several halvings, rounded up.

    >>> halvings(33, 3)
    [33, 17, 9, 5]
    """
    sizes = [size]
    for _ in range(times):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


class Downsampling(nn.Conv2d):
    """4 x 4 convolution of stride 2: (B, C, H, W) -> (B, D, H / 2, W / 2), rounded up.

    An odd height or width is padded by a row or column of zeros at its end.

    Args:
        inputs: C.
        outputs: D.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, 2, 1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the smaller image."""
        height, width = input.shape[2:]
        return super().forward(F.pad(input, (0, width % 2, 0, height % 2)))


class Upsampling(nn.ConvTranspose2d):
    """Transpose of `Downsampling`: (B, D, H / 2, W / 2) -> (B, C, H, W), for odd sizes too.

    Args:
        inputs: D.
        outputs: C.
        size: (H, W) of the output.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__(inputs, outputs, 4, 2, 1)
        self.size = size

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """Return the larger image."""
        height, width = self.size
        return super().forward(input, output_size)[..., :height, :width]


class Encoder(nn.Sequential):
    """Convolutional encoder: halvings, then flattening, (B, C, H, W) -> (B, features).

    Args:
        inputs: C, channels of the input.
        size: (H, W).
        channels: output channels of every halving.
        after: nonlinearity after each halving.

    Attributes:
        features: number of output features.

    >>> encoder = Encoder(1, (28, 28), [16, 32])
    >>> encoder(torch.zeros(2, 1, 28, 28)).shape, encoder.features
    (torch.Size([2, 1568]), 1568)
    """

    def __init__(
        self,
        inputs: int,
        size: tuple[int, int],
        channels: Sequence[int],
        after: Nonlinearity = SILU,
    ) -> None:
        layers: list[nn.Module] = []
        for wide, narrow in pairwise([inputs, *channels]):
            layers += [Downsampling(wide, after.width * narrow), after.make()]
        super().__init__(*layers, nn.Flatten())
        height, width = (halvings(n, len(channels))[-1] for n in size)
        self.features = channels[-1] * height * width


class Decoder(nn.Sequential):
    """Convolutional decoder up to the last doubling: (B, latent) -> (B, channels[0], H/2, W/2).

    The last `Upsampling` belongs to the likelihood, whose family determines its channels.

    Args:
        latent: number of inputs.
        size: (H, W) of the image.
        channels: those of the `Encoder`, in its order.
        after: nonlinearity after each layer.

    >>> Decoder(3, (28, 28), [16, 32])(torch.zeros(2, 3)).shape
    torch.Size([2, 16, 14, 14])
    """

    def __init__(
        self,
        latent: int,
        size: tuple[int, int],
        channels: Sequence[int],
        after: Nonlinearity = SILU,
    ) -> None:
        heights, widths = (halvings(n, len(channels))[::-1] for n in size)
        first = channels[-1], heights[0], widths[0]
        layers: list[nn.Module] = [
            nn.Linear(latent, after.width * first[0] * first[1] * first[2]),
            after.make(),
            nn.Unflatten(1, first),
        ]
        sizes = list(zip(heights, widths, strict=True))[1:-1]
        for (wide, narrow), reached in zip(pairwise(channels[::-1]), sizes, strict=True):
            layers += [Upsampling(wide, after.width * narrow, reached), after.make()]
        super().__init__(*layers)


def margins(size: int, multiple: int) -> tuple[int, int]:
    """Return the padding before and after `size` that makes it a multiple of a number.

    >>> margins(28, 8), margins(33, 4), margins(32, 8)
    ((2, 2), (1, 2), (0, 0))
    """
    missing = -size % multiple
    return missing // 2, missing - missing // 2


class PadToMultiple(nn.Module):
    """Replicate an image's border until its height and width are multiples of a number.

    Args:
        size: (H, W) of the input.
        multiple: divisor of the output's height and width.
    """

    def __init__(self, size: tuple[int, int], multiple: int) -> None:
        super().__init__()
        top, left = (margins(n, multiple) for n in size)
        self.around = (*left, *top)
        self.size = size[0] + sum(top), size[1] + sum(left)

    def forward(self, x: Tensor) -> Tensor:
        """Return the larger image, with the given one in its middle."""
        return F.pad(x, self.around, mode="replicate") if any(self.around) else x


class CropPadding(nn.Module):
    """Remove the padding of `PadToMultiple`.

    Args:
        size: (H, W) of the output.
        multiple: as given to `PadToMultiple`.
    """

    def __init__(self, size: tuple[int, int], multiple: int) -> None:
        super().__init__()
        (self.top, _), (self.left, _) = (margins(n, multiple) for n in size)
        self.height, self.width = size

    def forward(self, x: Tensor) -> Tensor:
        """Return the middle of the image."""
        rows = slice(self.top, self.top + self.height)
        return x[..., rows, self.left : self.left + self.width]


class LearnedStart(nn.Module):
    """First state that is learned, the same (C, H, W) for every row.

    Args:
        shape: (C, H, W).

    >>> LearnedStart(4, 2, 2)(None, 3).shape
    torch.Size([3, 4, 2, 2])
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.state = nn.Parameter(torch.rand(shape))

    def forward(self, context: Tensor | None, batch: int) -> Tensor:
        """Return (batch, C, H, W)."""
        return self.state.expand(batch, *self.state.shape)


class EmptyImageState(nn.Module):
    """First state without channels, (B, 0, H, W), for levels of images."""

    anchor: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(0, height, width), persistent=False)

    def forward(self, context: Tensor | None, batch: int) -> Tensor:
        """Return (batch, 0, H, W) on the model's device."""
        return self.anchor.expand(batch, *self.anchor.shape)


class SizedImageState(nn.Module):
    """First state without channels, (B, 0, H, W), whose size is that of the context.

    The context of a model of pictures of any size tells nothing but this size.

    >>> SizedImageState()(torch.zeros(3, 0, 4, 5), 3).shape
    torch.Size([3, 0, 4, 5])
    """

    def forward(self, context: Tensor | None, batch: int) -> Tensor:
        """Return (batch, 0, H, W).

        Raises:
            UsageError: E247 without a context.
        """
        if context is None:
            raise UsageError(
                "E247",
                "this model needs the size of a picture as its context, and none was given",
                fix="lowerbound encode M.vae PICTURES --out LATENTS",
            )
        return context[:, :0]


class PlainResidualBlock(nn.Module):
    """Residual block of two convolutions without normalisation: (B, C, H, W) -> (B, C, H, W).

    References:
        He, Zhang, Ren & Sun, "Identity mappings in deep residual networks", 2016,
        https://arxiv.org/abs/1603.05027

    Args:
        channels: C.
        hidden: channels between the two convolutions.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, hidden, 3, 1, 1),
            nn.SiLU(),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined image."""
        return x + self.net(x)
