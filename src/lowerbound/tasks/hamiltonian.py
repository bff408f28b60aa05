"""One move of Hamiltonian Monte Carlo, for annealed importance sampling and conditional draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lowerbound import noise

Slope = Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def move(
    slope: Slope,
    z: dict[str, Tensor],
    steps: Mapping[str, Tensor],
    leapfrog: int,
    source: torch.Generator,
) -> tuple[dict[str, Tensor], Tensor]:
    """Make one Hamiltonian move of every chain, which keeps the target density unchanged.

    References:
        Neal, "MCMC using Hamiltonian dynamics", 2011, https://arxiv.org/abs/1206.1901

    Args:
        slope: positions -> log-density (chains,), and its gradient by site.
        z: positions by site, (chains, ...) each.
        steps: step sizes by site, which broadcast to the positions.
        leapfrog: leapfrog steps.
        source: the source of randomness.

    Returns:
        The new positions, and a mask (chains,) of the moves that were accepted.
    """
    normals = noise.Stream(source)
    momentum = {n: normals(n, v.shape, v) for n, v in z.items()}
    density, gradient = slope(z)
    start = density - _kinetic(momentum)
    new, p = dict(z), {n: m + 0.5 * steps[n] * gradient[n] for n, m in momentum.items()}
    for i in range(leapfrog):
        new = {n: v + steps[n] * p[n] for n, v in new.items()}
        density, gradient = slope(new)
        share = 0.5 if i == leapfrog - 1 else 1.0
        p = {n: m + share * steps[n] * gradient[n] for n, m in p.items()}
    gain = (density - _kinetic(p) - start).nan_to_num(-torch.inf)
    uniform = torch.rand(gain.shape, generator=source, dtype=gain.dtype, device=gain.device)
    accept = uniform.log() < gain
    kept = {n: torch.where(accept.view(-1, *[1] * (v.dim() - 1)), new[n], v) for n, v in z.items()}
    return kept, accept


def _kinetic(momentum: dict[str, Tensor]) -> Tensor:
    return torch.stack(
        [0.5 * m.double().square().flatten(1).sum(1) for m in momentum.values()]
    ).sum(0)
