"""Residual cells of deep hierarchical models of images, and towers of them.

Shapes are (B, C, H, W). A cell that halves an image doubles its channels, and vice versa.

References:
    Vahdat & Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, section 3.1 and
    figures 2-3, https://arxiv.org/abs/2007.03898
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SHARE = 0.1  # weight of a cell's branch: keeps hundreds of cells stable
MOMENTUM = 0.05  # of the running statistics of batch normalisation


def _normalised(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=MOMENTUM)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: multiply every channel by a gate of the means of all channels.

    References:
        Hu, Shen & Sun, "Squeeze-and-excitation networks", 2018, https://arxiv.org/abs/1709.01507
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.gate = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.SiLU(),  # with ReLU, all units of a narrow gate could be dead
            nn.Linear(hidden, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated image."""
        return x * self.gate(x.mean((2, 3)))[..., None, None]


class Cell(nn.Module):
    """Residual cell: x -> skip(x) + 0.1 branch(x)."""

    def __init__(self, skip: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.skip, self.branch = skip, branch

    def forward(self, x: Tensor) -> Tensor:
        """Return the next image."""
        return torch.add(self.skip(x), self.branch(x), alpha=SHARE)


def encoder_cell(channels: int, squeeze: bool, halve: bool = False) -> Cell:
    """Return a cell of batch normalisation, SiLU and a 3 x 3 convolution, twice (figure 3b).

    Args:
        channels: of the input.
        squeeze: end with squeeze-and-excitation.
        halve: halve the image and double the channels.
    """
    outputs = 2 * channels if halve else channels
    branch: list[nn.Module] = [
        _normalised(channels),
        nn.SiLU(),
        nn.Conv2d(channels, outputs, 3, 2 if halve else 1, 1),
        _normalised(outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1),
    ]
    skip = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, outputs, 2, 2)) if halve else nn.Identity()
    return Cell(skip, _gated(branch, outputs, squeeze))


def decoder_cell(channels: int, squeeze: bool, double: bool = False, expand: int = 6) -> Cell:
    """Return a cell with a depthwise 5 x 5 convolution of expanded width (NVAE, figure 3a).

    It has a large receptive field for few weights, which helps generators more than encoders.

    Args:
        channels: of the input.
        squeeze: end with squeeze-and-excitation.
        double: double the image and halve the channels.
        expand: width of the depthwise convolution in `channels`.
    """
    outputs, hidden = channels // 2 if double else channels, expand * channels
    branch: list[nn.Module] = [
        _normalised(channels),
        nn.Conv2d(channels, hidden, 1, bias=False),
        _normalised(hidden),
        nn.SiLU(),
        # The layers above act on single pixels, so that upsampling after them costs a quarter.
        *([nn.Upsample(scale_factor=2)] if double else []),
        nn.Conv2d(hidden, hidden, 5, 1, 2, groups=hidden, bias=False),
        _normalised(hidden),
        nn.SiLU(),
        nn.Conv2d(hidden, outputs, 1, bias=False),
        _normalised(outputs),
    ]
    return Cell(_enlarging(channels, double), _gated(branch, outputs, squeeze))


def mirrored_cell(channels: int, squeeze: bool, double: bool = False) -> Cell:
    """Return the mirror image of the encoder's cell, which doubles the image where it halves.

    Args:
        channels: of the input.
        squeeze: end with squeeze-and-excitation.
        double: double the image and halve the channels.
    """
    outputs = channels // 2 if double else channels
    branch: list[nn.Module] = [
        _normalised(channels),
        nn.SiLU(),
        nn.Conv2d(channels, outputs, 3, 1, 1),
        *([nn.Upsample(scale_factor=2)] if double else []),
        _normalised(outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1),
    ]
    return Cell(_enlarging(channels, double), _gated(branch, outputs, squeeze))


def _enlarging(channels: int, double: bool) -> nn.Module:
    """Return a decoder's skip connection."""
    if not double:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, channels // 2, 1), nn.Upsample(None, 2, "bilinear"))


def _gated(branch: list[nn.Module], channels: int, squeeze: bool) -> nn.Sequential:
    return nn.Sequential(*branch, *([SqueezeExcite(channels)] if squeeze else []))


class Tower(nn.Module):
    """Bottom-up network: x -> the features after each step, in reverse order.

    Args:
        stem: module from the data to the first features.
        steps: one module per level, fine to coarse.
    """

    def __init__(self, stem: nn.Module, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem, self.steps = stem, nn.ModuleList(steps)

    def forward(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return one feature tensor per level, coarse to fine."""
        x, features = self.stem(x), []
        for step in self.steps:
            x = step(x)
            features.append(x)
        return features[::-1]


class CheckpointedSequential(nn.Sequential):
    """Sequence with gradient checkpointing: activations are recomputed in the backward pass.

    Outputs, gradients, running statistics and names of weights are those of `nn.Sequential`.

    References:
        Chen, Xu, Zhang & Guestrin, "Training deep nets with sublinear memory cost", 2016.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return what the sequence returns."""
        if not torch.is_grad_enabled():
            return super().forward(input)
        return checkpoint(  # pyright: ignore[reportReturnType]
            super().forward,
            input,
            use_reentrant=False,
            preserve_rng_state=False,  # cells draw no random numbers
            context_fn=lambda: (nullcontext(), _Again(self)),
        )


class _Again(AbstractContextManager[None]):
    """Context of a recomputation, in which batch normalisation must not count its batch again."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        self.momenta = [layer.momentum for layer in self.layers]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            layer.momentum = momentum
            if layer.training and layer.num_batches_tracked is not None:
                layer.num_batches_tracked -= 1


class MaskedConvolution(nn.Conv2d):
    """Masked convolution: the output at a pixel depends on earlier pixels in raster order.

    Of the pixel itself it sees the channels of earlier variables, and of the same variable unless
    `strict`. The channels are divided equally among the variables, in order.

    References:
        van den Oord, Kalchbrenner & Kavukcuoglu, "Pixel recurrent neural networks", 2016,
        section 3.4, https://arxiv.org/abs/1601.06759

    Args:
        variables: channels of the image that is ordered.
        widths: (inputs, outputs), multiples of `variables`.
        kernel: odd width.
        strict: a variable does not see itself.
        backward: reverse the order of pixels and variables.
        depthwise: every channel sees itself only.
    """

    mask: Tensor

    def __init__(  # noqa: PLR0913, PLR0917 - the order of the pixels, and a convolution's arguments
        self,
        variables: int,
        widths: tuple[int, int],
        kernel: int,
        strict: bool,
        backward: bool,
        depthwise: bool = False,
    ) -> None:
        inputs, outputs = widths
        groups = inputs if depthwise else 1
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
        middle = kernel // 2
        mask = torch.zeros(self.weight.shape)
        mask[:, :, :middle] = 1
        mask[:, :, middle, :middle] = 1
        owner_in = torch.arange(inputs) * variables // inputs
        owner_out = torch.arange(outputs) * variables // outputs
        before, after = owner_in[None], owner_out[:, None]
        if backward:
            mask, before, after = mask.flip(2, 3), -before, -after
        seen = before < after if strict else before <= after
        mask[:, :, middle, middle] = 1 - float(strict) if depthwise else seen.to(mask.dtype)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the convolution with the masked weights."""
        return self._conv_forward(input, self.weight * self.mask, self.bias)


class MaskedShift(nn.Module):
    """Step of a flow over images of latents: y = z - mu(earlier z, context), log|det| = 0.

    It adds dependence between pixels to a factorised posterior. The Jacobian is triangular with
    ones on its diagonal, so that the log density does not change.

    References:
        Vahdat & Kautz, 2020, section 3.4; Kingma et al., "Improved variational inference with
        inverse autoregressive flow", 2016.

    Args:
        variables: channels of z.
        context: channels of the features.
        backward: reverse the order of pixels and channels.
        expand: hidden channels per variable.
    """

    def __init__(
        self, variables: int, context: int, backward: bool = False, expand: int = 6
    ) -> None:
        super().__init__()
        hidden = expand * variables
        self.first = MaskedConvolution(variables, (variables, hidden), 3, True, backward)
        self.given = nn.Conv2d(context, hidden, 1)
        self.wide = MaskedConvolution(variables, (hidden, hidden), 5, False, backward, True)
        self.last = MaskedConvolution(variables, (hidden, variables), 1, False, backward)
        with torch.no_grad():  # near the identity at first
            self.last.weight.mul_(0.1)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dz|, (B,) nats."""
        hidden = F.elu(self.first(z) + self.given(context))
        mu = self.last(F.elu(self.wide(hidden)))
        return z - mu.to(z.dtype), z.new_zeros(len(z))
