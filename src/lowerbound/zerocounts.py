"""log p of a count of zero, and its gradient: what a table of mostly zeros is made of.

A step of a model of cells passes over tens of thousands of columns, and nearly every cell of them
is zero. Written as one expression for autograd, log p(0) and its gradient are two dozen passes
through memory; here they are made together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_THETA = 60.0  # e^60 is far above every mean
_FAR = -17.0  # log(mu / theta) from which down theta log(1 + mu / theta) is mu
_SMALL = 1e-30  # a probability


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) to the last bit of float64; torch's default is x itself from x = 20 on."""
    return F.softplus(x, threshold=40.0)


def negative_binomial(log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """Return log p(0) = -theta * log(1 + mu / theta), stable for every theta.

    It is -mu where theta is far above it: the two factors would each carry the rounding of a
    large logarithm there.
    """
    held = log_theta.clamp_max(_LOG_THETA)
    log_ratio = log_mean - held
    value = -held.exp() * softplus(log_ratio)
    return torch.where(log_ratio < _FAR, -log_mean.exp(), value)


def inflated(log_p: Tensor, gate: Tensor) -> Tensor:
    """Return log p(0) where with probability sigmoid(gate) there is a zero anyhow."""
    return torch.logaddexp(gate, log_p) - softplus(gate)


def log_p0(log_mean: Tensor, log_theta: Tensor, gate: Tensor | None = None) -> Tensor:
    """Return log p(0) of the negative binomial, nats, zero-inflated where there is a gate.

    Args:
        log_mean: log mu.
        log_theta: log theta, the inverse over-dispersion.
        gate: the logit of the probability of a zero that counts nothing.

    Returns:
        The shape of all of them together.
    """
    if torch.compiler.is_exporting():
        return _formula(log_mean, log_theta, gate)
    return _LogP0.apply(log_mean, log_theta, gate)


def _formula(log_mean: Tensor, log_theta: Tensor, gate: Tensor | None) -> Tensor:
    value = negative_binomial(log_mean, log_theta)
    return value if gate is None else inflated(value, gate)


class _LogP0(torch.autograd.Function):
    """`_formula`, with the gradient by each argument made along with the value."""

    @staticmethod
    def forward(ctx: Any, log_mean: Tensor, log_theta: Tensor, gate: Tensor | None) -> Tensor:
        """Return log p(0)."""
        held = log_theta.clamp_max(_LOG_THETA)
        theta, log_ratio = held.exp().neg_(), log_mean - held
        log_p = softplus(log_ratio).mul_(theta)
        by_mean = log_ratio.sigmoid().mul_(theta) if any(ctx.needs_input_grad) else None
        if not _all_above(log_ratio, _FAR):
            far, poisson = log_ratio < _FAR, -log_mean.exp()
            log_p = torch.where(far, poisson, log_p)
            by_mean = None if by_mean is None else torch.where(far, poisson, by_mean)
        if gate is None:
            ctx.save_for_backward(log_mean, log_theta, by_mean, log_p)
            return log_p
        value, share, by_gate = _mixed(log_p, gate)
        if by_mean is not None:
            by_mean, log_p = by_mean * share, log_p * share
        ctx.save_for_backward(log_mean, log_theta, by_mean, log_p, gate, by_gate)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by log mu, log theta and the gate."""
        (gradient,) = gradients
        log_mean, log_theta, by_mean, by_scale, *gates = ctx.saved_tensors
        given = [log_mean, log_theta, *gates[:1]]
        if torch.is_grad_enabled():  # the gradient is itself to be differentiated
            value = _formula(log_mean, log_theta, gates[0] if gates else None)
            found = torch.autograd.grad(value, given, gradient, create_graph=True)
            return *found, *[None] * (3 - len(given))
        by_mean = by_mean * gradient
        # log p(0) is theta times what depends on mu / theta.
        by_theta = (by_scale * gradient).sum_to_size(log_theta.shape)
        by_theta = by_theta - by_mean.sum_to_size(log_theta.shape)
        by_gate = (gates[1] * gradient).sum_to_size(gates[0].shape) if gates else None
        return (
            by_mean.sum_to_size(log_mean.shape),
            by_theta.masked_fill(log_theta > _LOG_THETA, 0.0),
            by_gate,
        )


def _mixed(log_p: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `inflated`, and its derivatives by log p and by the gate.

    As log(g + (1 - g) p) with g = sigmoid(gate), for which one logarithm is enough, unless both
    are so small that their sum loses digits.
    """
    log_p, gate = torch.broadcast_tensors(log_p, gate)
    closed, p = gate.sigmoid(), log_p.exp()
    opened = gate.neg().sigmoid_()
    drawn = p.mul_(opened)
    total = closed + drawn
    by_gate = opened.sub_(drawn).mul_(closed).div_(total)
    if _all_above(total, _SMALL):
        share = drawn.div_(total)
        return total.log_(), share, by_gate
    apart = gate - log_p
    by_gate = torch.where(total > _SMALL, by_gate, apart.sigmoid() - closed)
    return inflated(log_p, gate), apart.neg_().sigmoid_(), by_gate


def _all_above(x: Tensor, least: float) -> bool:
    """Tell whether all are: the other way to compute them is then spared.

    To ask an accelerator would stall it.
    """
    return x.device.type == "cpu" and (x.numel() == 0 or bool(x.amin() > least))
