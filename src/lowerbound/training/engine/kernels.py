"""Linear layers by oneDNN: in float32, about twice as fast as torch's own on some processors.

torch uses MKL for float32 products. The oneDNN operation used here is part of torch, but not of
its public interface: `available` checks that it exists and is correct. Otherwise torch's default
kernels are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        bias = bias.contiguous()  # the kernel silently misreads any other stride
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnn(torch.autograd.Function):
    """x W' + b and its gradients, with all three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        flat, rows = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        to_x = _product(gradient, weight.t(), None) if ctx.needs_input_grad[0] else None
        to_weight = _product(flat.t(), rows.t(), None) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, flat.sum(0) if ctx.biased else None


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `F.linear` of the same arguments, computed by oneDNN when training in float32.

    Without gradients, `F.linear` itself is used, so that checks and scores do not depend on the
    kernel that the model was trained with.
    """
    plain = x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (plain and torch.is_grad_enabled() and x.is_contiguous()):
        return F.linear(x, weight, bias)
    return _OneDnn.apply(x, weight, bias)  # pyright: ignore[reportReturnType]


def available() -> bool:
    """Return whether the oneDNN operation exists and agrees with `F.linear`."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(0, 2, 20).view(5, 4)
    try:
        found = onednn(x, weight, weight[:, 0])
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False
    return torch.allclose(found, F.linear(x, weight, weight[:, 0]), atol=1e-5)


@contextmanager
def replaced(module: nn.Module, kernel: str) -> Iterator[None]:
    """Use a kernel, "torch" or "onednn", for the linear layers of `module` inside the block.

    No other thread may use the module meanwhile. Other modules keep their kernels.
    """
    if kernel == "torch" or not available():
        yield
        return
    layers = [m for m in module.modules() if type(m) is nn.Linear]
    for layer in layers:
        layer.forward = _forward_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward_of(layer: nn.Linear) -> Any:
    def forward(x: Tensor) -> Tensor:
        return onednn(x, layer.weight, layer.bias)

    return forward
