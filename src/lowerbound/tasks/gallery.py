"""Samples, traversals, interpolations and manifolds of a picture model, as tensors.

Every function returns pictures in the units of the model, (n, C, H, W);
`lowerbound.cli.work.drawing` writes them to files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from lowerbound import noise
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import is_continuous
from lowerbound.nn.trace import Trace, from_prior, replay
from lowerbound.tasks import draws
from lowerbound.tasks.finite import using

REACH = 3.0  # standard deviations of the prior that a traversal and a manifold span


@torch.no_grad()
def samples(model: nn.Module, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
    """Return the means of p(x | z) for z from the prior, (n, ...)."""
    with using(model) as device:
        choose = from_prior(noise.generator("gallery", seed, device=device), temperature)
        return model(None, Trace(choose, n)).mean


def traversal(model: nn.Module, z: Tensor, dimensions: Sequence[int], steps: int) -> Tensor:
    """Return pictures decoded while one latent at a time varies from -3 to 3.

    Args:
        model: a model of pictures.
        z: (d,) values of the other latents.
        dimensions: indices of the latents to vary.
        steps: pictures per latent.

    Returns:
        (len(dimensions) x steps, ...), the steps of a latent adjacent.

    Raises:
        UsageError: E255 for a model whose latents are codes.
    """
    with using(model) as device, torch.no_grad():
        source = noise.generator("gallery", "traversal", device=device)
        trace = Trace(from_prior(source), 1, decode=False)
        model(None, trace)
    if not all(is_continuous(site.p) for site in trace.sites.values()):
        raise UsageError(
            "E255",
            "a traversal needs continuous latents, and those of this model are codes",
            fix="lowerbound plot M.vae levels --out levels.png, or samples",
        )
    places = torch.linspace(-REACH, REACH, steps)
    moved = z.repeat(len(dimensions), steps, 1)
    for row, dimension in enumerate(dimensions):
        moved[row, :, dimension] = places
    return draws.decode(model, moved.flatten(0, 1))


def interpolation(model: nn.Module, ends: Tensor, steps: int) -> Tensor:
    """Return pictures decoded along a straight line in latent space, both ends included.

    Args:
        model: a model of pictures.
        ends: (2, ...) the two pictures.
        steps: number of pictures.
    """
    first, last = draws.embed(model, Dense(ends))
    share = torch.linspace(0, 1, steps)[:, None]
    return draws.decode(model, torch.lerp(first, last, share))


def manifold(model: nn.Module, latent: int, steps: int) -> Tensor:
    """Return a grid of pictures over the quantiles of a prior of two latents.

    References:
        Kingma & Welling, "Auto-encoding variational Bayes", 2014, figure 4.

    Raises:
        UsageError: E246 for a model with another number of latents.
    """
    if latent != 2:
        raise UsageError(
            "E246",
            f"a manifold needs two latents, and this model has {latent}",
            fix="fit with --latent 2, or plot a traversal",
        )
    edge = 0.5 / steps
    places = Normal(0.0, 1.0).icdf(torch.linspace(edge, 1 - edge, steps))
    down, across = torch.meshgrid(-places, places, indexing="ij")
    return draws.decode(model, torch.stack([across, down], -1).flatten(0, 1))


@torch.no_grad()
def levels(
    model: nn.Module, columns: int, *, seed: int = 0, temperature: float = 1.0
) -> tuple[list[str], Tensor]:
    """Draw pictures that share the coarser levels of a hierarchy, for every level.

    Returns:
        The names of the levels, and (levels x columns, ...) pictures. All pictures in the row of
        a level share the draws of this level and of all coarser ones.
    """
    with using(model) as device:
        choose = from_prior(noise.generator("gallery", "levels", seed, device=device), temperature)
        trace = Trace(choose, 1, decode=False)
        model(None, trace)
        names, rows = list(trace.sites), []
        for count in range(1, len(names) + 1):
            kept = {
                name: trace.sites[name].z.expand(columns, *trace.sites[name].z.shape[1:])
                for name in names[:count]
            }
            rows.append(model(None, Trace(replay(kept, choose), columns)).mean)
    return names, torch.cat(rows)


def most_used(activity: Tensor, count: int) -> list[int]:
    """Return the indices of the latents that vary most over the data, in descending order."""
    order = activity.argsort(descending=True)
    return [int(i) for i in order[:count]]
