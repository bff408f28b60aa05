"""Maps of latents whose log|det| is cheap: what makes a posterior richer than a diagonal normal.

A map is a module (z, context) -> (y, log|det dy/dz|), shapes (B, d), (B, c) -> (B, d), (B,), in
the direction of sampling: one pass of a network draws and gives the density of the draw. The way
back is not needed for training or scores, and none of these maps has a cheap one.
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

# zuko turns torch's checks of distributions' arguments off, for everybody: put them back.
_BEFORE: dict[str, Any] = {n: vars(Distribution)[n] for n in ("_validate_args", "arg_constraints")}
from zuko.nn import MaskedMLP  # noqa: E402
from zuko.transforms import MonotonicRQSTransform  # noqa: E402

for _name, _value in _BEFORE.items():
    setattr(Distribution, _name, _value)

Map = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

OPEN = 2.0  # a forget gate's initial logit: an untrained step keeps sigmoid(2) = 0.88 of z
SHUT = -9.0  # the least logit of a gate: a step keeps at least 1e-4 of z, and can be undone
LEAST = 1e-3  # of a planar map's slope along its normal, which must stay above 0


class Masked(nn.Module):
    """A MADE: numbers for every variable from the context and the variables before it.

    References:
        Germain, Gregor, Murray & Larochelle, "MADE: masked autoencoder for distribution
        estimation", 2015, https://arxiv.org/abs/1502.03509

    Args:
        latent: d, the number of variables.
        context: c, the number of features that every variable may see, at least 1.
        width: n, numbers per variable.
        hidden: widths of the hidden layers.
        backward: the last variable is the first of the order.
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
            if isinstance(layer, nn.Linear):  # which weights exist is no weight: not in the file
                layer.register_buffer("mask", layer.get_buffer("mask"), persistent=False)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """Return (B, d, n) numbers, float32 or better."""
        numbers = self.net(torch.cat([z, context.to(z.dtype)], 1))
        wide = numbers if numbers.dtype == torch.float64 else numbers.float()
        return wide.unflatten(1, (-1, self.width))


class Autoregressive(nn.Module):
    """One step of an inverse autoregressive flow: y = sigma z + (1 - sigma) m.

    [m, s] = MADE(z, context), sigma = sigmoid(s), log|det| = sum_i log sigma_i. Turn `backward`
    round from step to step, so that the variables change places.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling, "Improved variational inference
        with inverse autoregressive flow", 2016, eq. 10-14, https://arxiv.org/abs/1606.04934

    Args:
        latent: d.
        context: c, features of the encoder.
        hidden: widths of the masked network's hidden layers.
        backward: order of the variables.
    """

    def __init__(
        self, latent: int, context: int, hidden: Sequence[int] = (64,), backward: bool = False
    ) -> None:
        super().__init__()
        self.numbers = Masked(latent, context, 2, hidden, backward)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dz|, nats."""
        m, s = self.numbers(z, context).unbind(2)
        gate = soft_clip(s + OPEN, SHUT, -SHUT)
        return torch.lerp(m, z, gate.sigmoid()), F.logsigmoid(gate).sum(1)


class Spline(nn.Module):
    """A monotone rational-quadratic spline per variable, shaped by the variables before it.

    y_i = g(z_i; MADE_i(z_<i, context)) on [-bound, bound], and y_i = z_i outside.

    References:
        Durkan, Bekasov, Murray & Papamakarios, "Neural spline flows", 2019, eq. 4-5,
        https://arxiv.org/abs/1906.04032

    Args:
        latent: d.
        context: c, features of the encoder.
        hidden: widths of the masked network's hidden layers.
        backward: order of the variables.
        bins: of each spline.
        bound: where the splines end.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the two sizes of a spline beside what every map has
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
        self.numbers = Masked(latent, context, sum(self.sizes), hidden, backward)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dz|, nats."""
        widths, heights, slopes = self.numbers(z, context).split(self.sizes, 2)
        y, log_slope = MonotonicRQSTransform(widths, heights, slopes, self.bound).call_and_ladj(z)
        return y, log_slope.sum(1)


class Planar(nn.Module):
    """A bend along one direction: y = z + u tanh(w'z + b), with u, w and b from the context.

    The map can be undone while w'u > -1; so the part of u along w is moved there, by a smooth map
    that (unlike the paper's) leaves w'u = 0 where it is: without that, u has a pole at w = 0.

    References:
        Rezende & Mohamed, "Variational inference with normalizing flows", 2015, eq. 10-12 and
        appendix A.1, https://arxiv.org/abs/1505.05770

    Args:
        latent: d.
        context: c, features of the encoder.
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
    """Return a number above -1 that grows with x, and is 0 at 0."""
    return LEAST - 1 + F.softplus(x + math.log(math.expm1(1 - LEAST)))


class Flowed(Unchecked):
    """The distribution of z = f_K(... f_1(z_0)), z_0 ~ base: easy to draw from, hard to invert.

    log q(z) = log q_0(z_0) - sum_k log|det df_k/dz_k-1| (Kingma et al., 2016, eq. 5) is known for
    a draw, whose z_0 is at hand: `distributions.draw` gives it beside the draw. For any other z it
    would take the way back.

    Args:
        base: q_0, a distribution of (B, d) (or images) with a log_prob of its own.
        maps: f_1 to f_K, (z, context) -> (y, log|det dy/dz|).
        context: (B, c), what the maps are conditional on.
    """

    has_rsample = True

    def __init__(self, base: Distribution, maps: Sequence[Map], context: Tensor) -> None:
        self.base, self.maps, self.context = base, tuple(maps), context
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def push(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image of z_0 = `start` and the sum of log|det| on its way, (B,) nats."""
        z, total = start, start.new_zeros(start.shape[0])
        for step in self.maps:
            z, log_det = step(z, self.context)
            total = total + log_det
        return z, total

    def rsample(self, sample_shape: Size | Sequence[int] = torch.Size()) -> Tensor:  # noqa: B008
        """Draw (global generator of torch), differentiably."""
        starts = self.base.rsample(Size(sample_shape))
        one = self.batch_shape + self.event_shape
        drawn = torch.stack([self.push(start)[0] for start in starts.view(-1, *one)])
        return drawn.view(starts.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse: see `OwnDraw`.

        Raises:
            UsageError: E246 always.
        """
        raise _unknown()


class OwnDraw(Unchecked):
    """What is known of a `Flowed` after one draw: log q of that draw, and of no other value.

    Args:
        q: what was drawn from.
        start: (B, d) z_0.
        z: (B, d) its image, the draw.
        log_q: (B,) log q(z), nats.
    """

    def __init__(self, q: Flowed, start: Tensor, z: Tensor, log_q: Tensor) -> None:
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
        "the density of a flow is known for its own draws only: no way back from z is computed",
        fix="draw with distributions.draw(q, ...), and ask what it returns beside the draw",
    )


@reparameterise.register
def _(q: Flowed, noise: Tensor) -> Tensor:
    return q.push(reparameterise(q.base, noise))[0]


@centre.register
def _(q: Flowed) -> Tensor:
    # The image of the base's centre: the mean has no closed form.
    return q.push(centre(q.base))[0]


@draw.register
def _(q: Flowed, normals: Normals) -> tuple[Tensor, Distribution]:
    start, source = draw(q.base, normals)
    z, log_det = q.push(start)
    return z, OwnDraw(q, start, z, source.log_prob(start) - log_det)


@stopped.register
def _(d: OwnDraw) -> Distribution:
    """Cut the parameters and keep the path: log q(z) whose only gradient is that in z.

    Past a map y = f(z) with Jacobian J, d log q/dy = J^-T (d log q/dz - d log|det J|/dz): d passes
    backwards instead of the way back. (To cut the parameters along z_0 -> z is not enough: what
    they do to z at a given z_0 would be lost, and the estimate of the gradient biased.)

    References:
        Vaitl, Nicoli, Nakajima & Kessel, "Gradients should stay on path: better estimators of the
        reverse- and forward KL divergence for normalizing flows", 2022.
    """
    if not (torch.is_grad_enabled() and d.z.requires_grad):
        return OwnDraw(d.q, d.start, d.z, d.log_q.detach())
    z = d.start.detach().requires_grad_()
    (slope,) = torch.autograd.grad(stopped(d.q.base).log_prob(z).sum(), z)
    for step in d.q.maps:
        z, slope = _past(step, d.q.context, z.detach().requires_grad_(), slope)
    along = ((d.z - d.z.detach()) * slope.to(z.dtype)).flatten(1).sum(1)
    return OwnDraw(d.q, d.start, d.z, d.log_q.detach() + along)


def _past(step: Map, context: Tensor, z: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Return y = step(z) and d/dy of the log-density whose d/dz before the step is `slope`.

    One step at a time, because the product of several Jacobians is ill-conditioned in float32.
    """
    y, log_det = step(z, context)
    if log_det.requires_grad:
        slope = slope - torch.autograd.grad(log_det.sum(), z, retain_graph=True)[0]
    numbers = z[0].numel()
    units = torch.eye(numbers, dtype=y.dtype, device=y.device).view(numbers, 1, *z.shape[1:])
    (rows,) = torch.autograd.grad(y, z, units.expand(-1, *z.shape), is_grads_batched=True)
    transposed = rows.flatten(2).permute(1, 2, 0).double()  # rows[i, b, j] = dy_bi / dz_bj
    # A singular Jacobian gives a slope that is not finite, and training skips such a step.
    solved, _ = torch.linalg.solve_ex(transposed, slope.flatten(1).double()[..., None])
    return y, solved.view(z.shape)
