"""Log-probability and gradient of counts that are mostly zero.

A training step of a model of cells has tens of thousands of columns, nearly all zero. With
autograd, log p(0) and its gradient take two dozen passes through memory; here both are computed
together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound.nn.recording import is_recorded

Rule = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor | None], Tensor]

_LOG_THETA = 60.0  # bound of log theta: e^60 is far above every mean
_FAR = -17.0  # log(mu / theta) below which theta log(1 + mu / theta) equals mu
_SMALL = 1e-30  # least sum of probabilities computed without logarithms


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x), exact in float64; torch's default returns x from x = 20 on."""
    return F.softplus(x, threshold=40.0)


def negative_binomial(log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """Return log p(0) = -theta * log(1 + mu / theta), stable for every theta.

    For theta far above mu it is -mu, because both factors would have the rounding error of a large
    logarithm.
    """
    held = log_theta.clamp_max(_LOG_THETA)
    log_ratio = log_mean - held
    value = -held.exp() * softplus(log_ratio)
    return torch.where(log_ratio < _FAR, -log_mean.exp(), value)


def inflated(log_p: Tensor, gate: Tensor) -> Tensor:
    """Return log p(0) of the zero-inflated distribution with gate probability sigmoid(gate)."""
    return torch.logaddexp(gate, log_p) - softplus(gate)


def log_p0(log_mean: Tensor, log_theta: Tensor, gate: Tensor | None = None) -> Tensor:
    """Return log p(0) of the negative binomial in nats, zero-inflated if a gate is given.

    Args:
        log_mean: log mu.
        log_theta: log theta, the inverse over-dispersion.
        gate: the logit of the probability of a zero that counts nothing.

    Returns:
        The shape of all of them together.
    """
    if is_recorded():
        return _formula(log_mean, log_theta, gate)
    return _LogP.apply(None, log_mean, log_theta, gate)


def log_p(
    count: Tensor, rule: Rule, log_mean: Tensor, log_theta: Tensor, gate: Tensor | None = None
) -> Tensor:
    """Return log p of counts in nats: `log_p0` for zeros, and a rule for the others.

    Args:
        count: the counts.
        rule: function that returns log p of the nonzero counts, given a function that picks them
            from a tensor, their log mu, all log theta (possibly one per column) and their gates.
        log_mean: log mu.
        log_theta: log theta, the inverse over-dispersion.
        gate: the logit of the probability of a zero that counts nothing.

    Returns:
        The shape of all of them together.
    """
    shapes = [x.shape for x in (count, log_mean, log_theta, gate) if x is not None]
    shape = torch.broadcast_shapes(*shapes)
    if is_recorded():  # shapes in a graph do not depend on its inputs
        at_zero = _formula(log_mean, log_theta, gate)
        found = rule(lambda x: x, log_mean, log_theta, gate)
        return torch.where(count == 0, at_zero, found.to(at_zero.dtype))
    gate = None if gate is None else gate.expand(shape)
    others = _Others(rule, count.expand(shape))
    return _LogP.apply(others, log_mean.expand(shape), log_theta, gate)


def _formula(log_mean: Tensor, log_theta: Tensor, gate: Tensor | None) -> Tensor:
    value = negative_binomial(log_mean, log_theta)
    return value if gate is None else inflated(value, gate)


class _Others:
    """The nonzero counts, and the rule for their log p."""

    def __init__(self, rule: Rule, count: Tensor) -> None:
        self.rule, self.shape = rule, count.shape
        there = count.reshape(-1) != 0
        if count.device.type == "cpu":  # twice as fast as torch
            self.place = torch.from_numpy(np.flatnonzero(there.numpy()))
        else:
            self.place = there.nonzero().squeeze(1)

    def at(self, x: Tensor) -> Tensor:
        """Return the elements of `x`, broadcast to the counts, at the nonzero counts."""
        if x.shape == self.shape[-1:]:  # one per column: avoid the broadcast copy
            return x.index_select(0, self.place % x.numel())
        return x.expand(self.shape).reshape(-1).index_select(0, self.place)

    def picked(
        self, log_mean: Tensor, log_theta: Tensor, gate: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the arguments of the rule."""
        return self.at(log_mean), log_theta, None if gate is None else self.at(gate)

    def inserted(self, at_zero: Tensor, *given: Any) -> Tensor:
        """Return log p of all counts, given log p(0)."""
        found = self.rule(self.at, *self.picked(*given)).to(at_zero.dtype)
        return at_zero.reshape(-1).index_copy(0, self.place, found).view(self.shape)


class _LogP(torch.autograd.Function):
    """log p of counts, with the gradients computed together with the value.

    The few nonzero counts have a separate graph, whose gradients are written into the gradients of
    all elements.
    """

    @staticmethod
    def forward(
        ctx: Any, others: _Others | None, log_mean: Tensor, log_theta: Tensor, gate: Tensor | None
    ) -> Tensor:
        """Return log p."""
        wanted = any(ctx.needs_input_grad)
        # Contiguous copies, because they are written to.
        laid = (part.contiguous() for part in _at_zero(log_mean, log_theta, gate, wanted))
        value, *slopes = laid
        ctx.others, ctx.slopes = others, len(slopes)
        if others is not None:
            with torch.set_grad_enabled(wanted):
                known = others.picked(log_mean.detach(), log_theta.detach(), gate)
                ctx.leaves = [x.detach().requires_grad_(wanted) for x in known if x is not None]
                ctx.found = others.rule(others.at, *ctx.leaves, *[None] * (gate is None))
            _write(value, others.place, ctx.found.detach())
            for slope in slopes:
                _write(slope, others.place, 0.0)
        gates = [] if gate is None else [gate]
        ctx.save_for_backward(*slopes, log_mean, log_theta, *gates)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by log mu, log theta and the gate."""
        (gradient,), others = gradients, ctx.others
        slopes, given = ctx.saved_tensors[: ctx.slopes], ctx.saved_tensors[ctx.slopes :]
        log_mean, log_theta, *gates = given
        if torch.is_grad_enabled():  # for second derivatives
            full = log_mean, log_theta, gates[0] if gates else None
            value = _formula(*full)
            value = value if others is None else others.inserted(value, *full)
            asked = [x for x in given if x.requires_grad]  # the others are constants
            by = iter(torch.autograd.grad(value, asked, gradient, create_graph=True))
            found = [next(by) if x.requires_grad else None for x in given]
            return None, *found, *[None] * (3 - len(given))
        by_mean, by_scale, *by_gate = slopes
        # log p(0) is theta times a function of mu / theta.
        by_theta = _summed(by_scale, gradient, log_theta) - _summed(by_mean, gradient, log_theta)
        by_theta = by_theta.masked_fill_(log_theta > _LOG_THETA, 0.0)
        cells = [(slope * gradient).contiguous() for slope in (by_mean, *by_gate)]
        if others is not None:
            each = others.at(gradient).to(ctx.found.dtype)
            told = torch.autograd.grad(ctx.found, ctx.leaves, each, retain_graph=True)
            by_theta += told[1]
            for cell, of in zip(cells, (told[0], *told[2:]), strict=True):
                _write(cell, others.place, of)
        sums = [c.sum_to_size(x.shape) for c, x in zip(cells, (log_mean, *gates), strict=True)]
        return None, sums[0], by_theta, *sums[1:], *[None] * (gates == [])


def _write(cells: Tensor, place: Tensor, values: Tensor | float) -> None:
    """Write values at flat indices of `cells`, in place."""
    flat = cells.view(-1)
    if isinstance(values, Tensor):
        flat.index_copy_(0, place, values.to(cells.dtype))
    else:
        flat.index_fill_(0, place, values)


def _summed(slope: Tensor, gradient: Tensor, like: Tensor) -> Tensor:
    """Return slope x gradient, summed to the shape of `like`."""
    columns = slope.dim() == 2 and like.shape == slope.shape[-1:]
    if columns and gradient.stride() == (gradient.stride(0), 0):  # one number per row, from a sum
        return gradient[:, 0] @ slope
    return (slope * gradient).sum_to_size(like.shape)


def _at_zero(
    log_mean: Tensor, log_theta: Tensor, gate: Tensor | None, wanted: bool
) -> tuple[Tensor, ...]:
    """Return `_formula` and, if wanted, its slopes by log mu, a common factor and the gate."""
    held = log_theta.clamp_max(_LOG_THETA)
    theta, log_ratio = held.exp().neg_(), log_mean - held
    log_p = softplus(log_ratio).mul_(theta)
    by_mean = log_ratio.sigmoid().mul_(theta) if wanted else None
    if not _all_above(log_ratio, _FAR):
        far, poisson = log_ratio < _FAR, -log_mean.exp()
        log_p = torch.where(far, poisson, log_p)
        by_mean = None if by_mean is None else torch.where(far, poisson, by_mean)
    if gate is None:
        return (log_p,) if by_mean is None else (log_p, by_mean, log_p.clone())
    value, share, by_gate = _mixed(log_p, gate)
    return (value,) if by_mean is None else (value, by_mean * share, share.mul_(log_p), by_gate)


def _mixed(log_p: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `inflated`, and its derivatives by log p and by the gate.

    Computed as log(g + (1 - g) p) with g = sigmoid(gate), which needs one logarithm, unless both
    terms are so small that their sum loses digits.
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
    """Return whether all elements are known to be above `least`, so that a branch can be skipped.

    Always False on accelerators, where the test would stall.
    """
    return x.device.type == "cpu" and (x.numel() == 0 or bool(x.amin() > least))
