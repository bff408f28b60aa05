"""Normalizing flows over latents: invertible maps with a cheap log determinant.

A map is a module (z, context) -> (y, log|det dy/dz|), with shapes (B, d), (B, c) -> (B, d), (B,),
in the direction of sampling: one pass draws and gives the density of the draw. Training and
scores do not need the inverse, which is expensive for these maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import (
    Normals,
    Unchecked,
    centre,
    draw,
    reparameterise,
    stopped,
)
from lowerbound.nn.distributions.scales import soft_clip

# Importing zuko disables torch's argument checks of all distributions: restore them.
_BEFORE: dict[str, Any] = {n: vars(Distribution)[n] for n in ("_validate_args", "arg_constraints")}
from zuko.nn import MaskedMLP  # noqa: E402
from zuko.transforms import MonotonicRQSTransform  # noqa: E402

for _name, _value in _BEFORE.items():
    setattr(Distribution, _name, _value)

Map = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

OPEN = 2.0  # initial logit of a forget gate: an untrained step keeps sigmoid(2) = 0.88 of z
SHUT = -9.0  # least logit of a gate: a step keeps at least 1e-4 of z and stays invertible
LEAST = 1e-3  # least slope of a planar map along its normal, which must stay above 0


class MADE(nn.Module):
    """MADE: a network whose outputs for a variable depend on the context and earlier variables.

    References:
        Germain, Gregor, Murray & Larochelle, "MADE: masked autoencoder for distribution
        estimation", 2015, https://arxiv.org/abs/1502.03509

    Args:
        latent: d, the number of variables.
        context: c, the number of features that every output depends on, at least 1.
        width: n, outputs per variable.
        hidden: widths of the hidden layers.
        backward: reverse the order of the variables.
    """

    def __init__(
        self, latent: int, context: int, width: int, hidden: Sequence[int], backward: bool
    ) -> None:
        super().__init__()
        place = torch.arange(latent).flip(0) if backward else torch.arange(latent)
        before = place[None, :] < place[:, None]
        seen = torch.cat([before, torch.ones(latent, context, dtype=torch.bool)], 1)
        self.width = width
        adjacency: Any = seen.repeat_interleave(width, 0)
        self.net = MaskedMLP(adjacency, list(hidden), activation=nn.SiLU)
        for layer in self.net:
            if isinstance(layer, nn.Linear):  # the mask is fixed: not saved
                layer.register_buffer("mask", layer.get_buffer("mask"), persistent=False)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """Return (B, d, n) numbers, float32 or better."""
        numbers = self.net(torch.cat([z, context.to(z.dtype)], 1))
        wide = numbers if numbers.dtype == torch.float64 else numbers.float()
        return wide.unflatten(1, (-1, self.width))


class Autoregressive(nn.Module):
    """Step of an inverse autoregressive flow: y = sigma z + (1 - sigma) m.

    [m, s] = MADE(z, context), sigma = sigmoid(s), log|det| = sum_i log sigma_i. Alternate
    `backward` from step to step, so that every variable depends on all others.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling, "Improved variational inference
        with inverse autoregressive flow", 2016, eq. 10-14, https://arxiv.org/abs/1606.04934

    Args:
        latent: d.
        context: c, features of the encoder.
        hidden: widths of the masked network's hidden layers.
        backward: reverse the order of the variables.

    >>> y, log_det = Autoregressive(3, 8)(torch.zeros(5, 3), torch.zeros(5, 8))
    >>> y.shape, log_det.shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self, latent: int, context: int, hidden: Sequence[int] = (64,), backward: bool = False
    ) -> None:
        super().__init__()
        self.numbers = MADE(latent, context, 2, hidden, backward)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dz|, nats."""
        m, s = self.numbers(z, context).unbind(2)
        gate = soft_clip(s + OPEN, SHUT, -SHUT)
        return torch.lerp(m, z, gate.sigmoid()), F.logsigmoid(gate).sum(1)


class Spline(nn.Module):
    """Monotone rational-quadratic spline per variable, conditional on the earlier variables.

    y_i = g(z_i; MADE_i(z_<i, context)) on [-bound, bound], and y_i = z_i outside.

    References:
        Durkan, Bekasov, Murray & Papamakarios, "Neural spline flows", 2019, eq. 4-5,
        https://arxiv.org/abs/1906.04032

    Args:
        latent: d.
        context: c, features of the encoder.
        hidden: widths of the masked network's hidden layers.
        backward: reverse the order of the variables.
        bins: bins of each spline.
        bound: end of the interval that the splines act on.

    >>> y, log_det = Spline(3, 8)(torch.full((5, 3), 9.0), torch.zeros(5, 8))
    >>> y[0].tolist(), log_det[0].item()  # unchanged outside of [-5, 5]
    ([9.0, 9.0, 9.0], 0.0)
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of every map, and those of a spline
        self,
        latent: int,
        context: int,
        hidden: Sequence[int] = (64,),
        backward: bool = False,
        bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        super().__init__()
        self.sizes, self.bound = [bins, bins, bins - 1], bound
        self.numbers = MADE(latent, context, sum(self.sizes), hidden, backward)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dz|, nats."""
        widths, heights, slopes = self.numbers(z, context).split(self.sizes, 2)
        y, log_slope = MonotonicRQSTransform(widths, heights, slopes, self.bound).call_and_ladj(z)
        return y, log_slope.sum(1)


class Planar(nn.Module):
    """Planar flow: y = z + u tanh(w'z + b), with u, w and b from the context.

    The map is invertible for w'u > -1, so that the component of u along w is mapped there. The
    smooth map used keeps w'u = 0 unchanged, unlike the paper's, whose u has a pole at w = 0.

    References:
        Rezende & Mohamed, "Variational inference with normalizing flows", 2015, eq. 10-12 and
        appendix A.1, https://arxiv.org/abs/1505.05770

    Args:
        latent: d.
        context: c, features of the encoder.

    >>> y, log_det = Planar(3, 8)(torch.zeros(5, 3), torch.zeros(5, 8))
    >>> y.shape, log_det.shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, latent: int, context: int) -> None:
        super().__init__()
        self.latent = latent
        self.net = nn.Linear(context, 2 * latent + 1)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dz| = log(1 + (1 - tanh^2) w'u), nats."""
        numbers = self.net(context)
        wide = numbers if numbers.dtype == torch.float64 else numbers.float()
        u, w, b = wide.split([self.latent, self.latent, 1], 1)
        along, square = (w * u).sum(1, keepdim=True), w.square().sum(1, keepdim=True)
        u = u + (_above_minus_one(along) - along) * w / square.clamp_min(1e-12)
        bend = ((w * z).sum(1, keepdim=True) + b).tanh()
        slope = (1 - bend.square()) * (w * u).sum(1, keepdim=True)
        return z + u * bend, slope.log1p().squeeze(1)


def _above_minus_one(x: Tensor) -> Tensor:
    """Return a smooth increasing function of x that is above -1 and maps 0 to 0."""
    return LEAST - 1 + F.softplus(x + math.log(math.expm1(1 - LEAST)))


class FlowDistribution(Unchecked):
    """Distribution of z = f_K(... f_1(z_0)), z_0 ~ base, for maps without a cheap inverse.

    log q(z) = log q_0(z_0) - sum_k log|det df_k/dz_k-1| (Kingma et al., 2016, eq. 5) is known for
    a draw, because its z_0 is known: `distributions.base.draw` returns it with the draw. Any other
    z would need the inverse.

    Args:
        base: q_0, a distribution over (B, d) or images with a log_prob.
        maps: f_1 to f_K, (z, context) -> (y, log|det dy/dz|).
        context: (B, c), the condition of the maps.
    """

    has_rsample = True

    def __init__(self, base: Distribution, maps: Sequence[Map], context: Tensor) -> None:
        self.base, self.maps, self.context = base, tuple(maps), context
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def push(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(start) and the sum of the log determinants, (B,) nats."""
        z, total = start, start.new_zeros(start.shape[0])
        for step in self.maps:
            z, log_det = step(z, self.context)
            total = total + log_det
        return z, total

    def rsample(self, sample_shape: Size | Sequence[int] = torch.Size()) -> Tensor:  # noqa: B008
        """Draw differentiably, from torch's global generator."""
        starts = self.base.rsample(Size(sample_shape))
        one = self.batch_shape + self.event_shape
        drawn = torch.stack([self.push(start)[0] for start in starts.view(-1, *one)])
        return drawn.view(starts.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise an error: only the density of draws is known, see `DrawnFlowDistribution`.

        Raises:
            UsageError: E246 always.
        """
        raise _unknown()


class DrawnFlowDistribution(Unchecked):
    """A `FlowDistribution` after one draw: its log_prob is known for that draw only.

    Args:
        q: the distribution that was drawn from.
        start: (B, d) z_0.
        z: (B, d) the draw.
        log_q: (B,) log q(z), nats.
    """

    def __init__(self, q: FlowDistribution, start: Tensor, z: Tensor, log_q: Tensor) -> None:
        self.q, self.start, self.z, self.log_q = q, start, z, log_q
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q of the draw, (B,) nats.

        Raises:
            UsageError: E246 for any other value.
        """
        if value is not self.z:
            raise _unknown()
        return self.log_q


def _unknown() -> UsageError:
    return UsageError(
        "E246",
        "the density of a flow is known for its own draws only, because its maps are not inverted",
        fix="call log_prob of the distribution that distributions.base.draw returns with a draw",
    )


@reparameterise.register
def _(q: FlowDistribution, noise: Tensor) -> Tensor:
    return q.push(reparameterise(q.base, noise))[0]


@centre.register
def _(q: FlowDistribution) -> Tensor:
    # The mean has no closed form; the image of the base's centre stands for it.
    return q.push(centre(q.base))[0]


@draw.register
def _(q: FlowDistribution, normals: Normals) -> tuple[Tensor, Distribution]:
    start, source = draw(q.base, normals)
    z, log_det = q.push(start)
    return z, DrawnFlowDistribution(q, start, z, source.log_prob(start) - log_det)


@stopped.register
def _(d: DrawnFlowDistribution) -> Distribution:
    """Return the draw with log q(z) cut from the parameters, so that its gradient is in z alone.

    After a map y = f(z) with Jacobian J, d log q/dy = J^-T (d log q/dz - d log|det J|/dz), which
    takes d backward passes and no inverse of f. (Cutting the parameters along z_0 -> z is not
    enough: their effect on z at a given z_0 would be lost, and the gradient biased.)

    References:
        Vaitl, Nicoli, Nakajima & Kessel, "Gradients should stay on path: better estimators of the
        reverse- and forward KL divergence for normalizing flows", 2022,
        https://arxiv.org/abs/2207.08219
    """
    if not (torch.is_grad_enabled() and d.z.requires_grad):
        return DrawnFlowDistribution(d.q, d.start, d.z, d.log_q.detach())
    z = d.start.detach().requires_grad_()
    (slope,) = torch.autograd.grad(stopped(d.q.base).log_prob(z).sum(), z)
    for step in d.q.maps:
        z, slope = _past(step, d.q.context, z.detach().requires_grad_(), slope)
    along = ((d.z - d.z.detach()) * slope.to(z.dtype)).flatten(1).sum(1)
    return DrawnFlowDistribution(d.q, d.start, d.z, d.log_q.detach() + along)


def _past(step: Map, context: Tensor, z: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Return y = step(z) and the gradient of the log-density by y, given that by z (`slope`).

    The steps are taken one by one, because the product of their Jacobians is ill-conditioned.
    """
    y, log_det = step(z, context)
    if log_det.requires_grad:
        slope = slope - torch.autograd.grad(log_det.sum(), z, retain_graph=True)[0]
    numbers = z[0].numel()
    units = torch.eye(numbers, dtype=y.dtype, device=y.device).view(numbers, 1, *z.shape[1:])
    (rows,) = torch.autograd.grad(y, z, units.expand(-1, *z.shape), is_grads_batched=True)
    transposed = rows.flatten(2).permute(1, 2, 0).double()  # rows[i, b, j] = dy_bi / dz_bj
    # A singular Jacobian gives a gradient that is not finite; training skips such a step.
    solved, _ = torch.linalg.solve_ex(transposed, slope.flatten(1).double()[..., None])
    return y, solved.view(z.shape)
