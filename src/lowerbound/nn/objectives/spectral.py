"""Spectral regularisation: a penalty on the Lipschitz constants of convolutions."""

from __future__ import annotations

from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.networks.residual_cells import MaskedConvolution
from lowerbound.nn.objectives.elbo import Loss
from lowerbound.noise import Noise

STARTING = 40  # power iterations before the first step


@singledispatch
def matrix(layer: nn.Module) -> Tensor | None:
    """Return a layer's kernel as (outputs, inputs x height x width), or None if it has none."""
    return None


@matrix.register
def _(layer: nn.Conv2d) -> Tensor:
    return layer.weight.flatten(1)


@matrix.register
def _(layer: nn.ConvTranspose2d) -> Tensor:
    return layer.weight.transpose(0, 1).flatten(1)


@matrix.register
def _(layer: MaskedConvolution) -> Tensor:
    return (layer.weight * layer.mask).flatten(1)


class Spectral(nn.Module):
    """Spectral regularisation of the convolutions, added to another objective.

    The penalty is lambda (sum of the kernels' largest singular values + sum of max |gamma|), where
    gamma are the scales of batch normalisations. The singular values come from power iteration,
    whose vectors are kept from step to step in buffers, so that checkpoints contain them. Kernels
    of one shape are computed together. A depthwise kernel is one matrix for all channels.

    References:
        Vahdat & Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, section 3.3;
        Yoshida & Miyato, "Spectral norm regularization", 2017, https://arxiv.org/abs/1705.10941

    Args:
        objective: the wrapped objective.
        weight: lambda, in nats; NVAE uses 0.01 to 0.1.
        iterations: power iterations per training step.

    Raises:
        UsageError: E249 if the model has no convolution.

    >>> from lowerbound import recipes
    >>> from lowerbound.nn import Elbo
    >>> loss = Spectral(Elbo(recipes.conv([1, 8, 8])), 0.1)
    >>> bool(loss.penalty() > 0)
    True
    """

    def __init__(self, objective: nn.Module, weight: float, iterations: int = 4) -> None:
        super().__init__()
        self.objective, self.weight, self.iterations = objective, weight, iterations
        self.kernels: dict[torch.Size, list[nn.Module]] = {}
        for layer in objective.modules():
            kernel = matrix(layer)
            if kernel is not None:
                self.kernels.setdefault(kernel.shape, []).append(layer)
        if not self.kernels:
            raise UsageError(
                "E249",
                "the spectral penalty needs a model with convolutions, and this one has none",
                fix="leave spectral out",
            )
        self.scaled = [
            m for m in objective.modules() if isinstance(m, nn.BatchNorm2d) and m.affine
        ]
        for i, stack in enumerate(self._stacks()):
            start = torch.randn(
                stack.shape[:2], generator=noise.generator("spectral", i), dtype=torch.float64
            )
            self.register_buffer(f"left_{i}", F.normalize(start.to(stack), dim=1))
            self.register_buffer(f"right_{i}", torch.zeros_like(stack[:, 0]))
        self._iterate(STARTING)

    @property
    def model(self) -> nn.Module:
        """The model of the wrapped objective."""
        return self.objective.get_submodule("model")

    def _stacks(self) -> list[Tensor]:
        """Return the kernels as matrices, (kernels of the shape, outputs, inputs) each."""
        return [
            torch.stack([kernel for kernel in map(matrix, layers) if kernel is not None])
            for layers in self.kernels.values()
        ]

    @torch.no_grad()
    def _iterate(self, times: int) -> None:
        """Move the singular vectors towards those of the largest singular values."""
        for i, stack in enumerate(self._stacks()):
            left, right = self.get_buffer(f"left_{i}"), self.get_buffer(f"right_{i}")
            for _ in range(times):
                right.copy_(F.normalize(torch.einsum("kon,ko->kn", stack, left), dim=1))
                left.copy_(F.normalize(torch.einsum("kon,kn->ko", stack, right), dim=1))

    def singular_values(self) -> Tensor:
        """Return the estimate of every kernel's largest singular value, differentiable."""
        return torch.cat(
            [
                torch.einsum(
                    "ko,kon,kn->k",
                    self.get_buffer(f"left_{i}").clone(),
                    stack,
                    self.get_buffer(f"right_{i}").clone(),
                )
                for i, stack in enumerate(self._stacks())
            ]
        )

    def penalty(self) -> Tensor:
        """Return the sum of singular values and of the largest scales of normalisation."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            if self.training:
                self._iterate(self.iterations)
            scales = [layer.weight.abs().max() for layer in self.scaled]
            return torch.cat([self.singular_values(), *(s[None] for s in scales)]).sum()

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the wrapped loss with the penalty added."""
        value, terms = self.objective(x, step, noise, context)
        penalty = self.penalty()
        return Loss(value + self.weight * penalty, {**terms, "spectral": penalty.detach()})
