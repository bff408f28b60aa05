"""Codebooks: K vectors, and the quantisation of an encoder's grid to them.

Penalties are sums per row, in units of squared latents. Everything that a codebook has learned is
held in buffers and parameters of this file's own names, because those names are part of the model
file. Restarts use the average count of each code to decide which codes are dead.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.codewords import NearestCode, StraightThrough, nearest, vectors_of

COMMITMENT = 0.25  # van den Oord et al., 2017, section 3.2
DECAY = 0.99  # of the moving averages, appendix A.1
SMOOTHING = 1e-5  # added to the counts
DEAD = 0.05  # a code whose count is below this share of the mean count is restarted
FRESH = 0.15  # count of a restarted code as a share of the mean: unused, it is dead in 110 steps
FIRST_POSITIONS = 64  # positions per code that k-means is given
LLOYD_STEPS = 10  # iterations of k-means
LEAST_LEVELS = 3  # of one variable of a lattice
MARGIN = 1e-3  # by which the outermost levels of a lattice exceed the range of tanh, appendix A.1


def _squares(difference: Tensor) -> Tensor:
    """Return the sum of squares of every row, (B,)."""
    return difference.square().flatten(1).sum(1)


class Codebook(nn.Module):
    """Base class of codebooks: K vectors in d dimensions that replace each z by the nearest.

    The penalty is ||sg z - e||^2 (only where the vectors learn by gradient) + 0.25 ||z - sg e||^2,
    summed over the dimensions and positions of a row. It is in squared units of z, not in nats.
    The decoder's gradient is copied to z unchanged (straight-through).

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        eq. 3, https://arxiv.org/abs/1711.00937

    Args:
        size: K, at least 2.
        dim: d.

    Raises:
        UsageError: E254 for fewer than two codes or fewer than one dimension.

    >>> class Corners(Codebook):
    ...     def vectors(self):
    ...         return torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> Corners(2, dim=2)(torch.tensor([[0.9, 0.8]]))[0].codes
    tensor([1])
    """

    pulled = False  # whether the loss moves the vectors

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 2 or dim < 1:
            raise UsageError(
                "E254",
                f"a codebook needs at least 2 codes and dim=1, got codes={size} and dim={dim}",
                fix="codes=512 and dim=16",
            )
        self.size, self.dim = size, dim

    def vectors(self) -> Tensor:
        """Return the vectors, (K, d)."""
        raise NotImplementedError

    def follow(self, z: Tensor, codes: Tensor) -> None:
        """Update the codebook from z (B, d, *grid) and its codes (B, *grid); training only."""

    def forward(self, z: Tensor) -> tuple[NearestCode, Tensor]:
        """Return q(z | x) for an encoder's output, and its penalty.

        Args:
            z: (B, d, *grid) encoder output.

        Returns:
            The distribution, and the penalty (B,) in squared units of z.
        """
        z = z if z.dtype == torch.float64 else z.float()
        book = self.vectors()
        codes = nearest(z.detach(), book)
        found = vectors_of(codes, book)
        penalty = COMMITMENT * _squares(z - found.detach())
        if self.pulled:
            penalty = penalty + _squares(z.detach() - found)
        if self.training:
            self.follow(z.detach(), codes)
        return NearestCode(z, StraightThrough.apply(z, found.detach()), codes, self.size), penalty


class GradientCodebook(Codebook):
    """Codebook whose vectors learn by gradient: the codebook loss of the original VQ-VAE.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        eq. 3, https://arxiv.org/abs/1711.00937

    Args:
        size: K, at least 2.
        dim: d.

    >>> q, penalty = GradientCodebook(8, 2)(torch.zeros(3, 2, 5))
    >>> q.mean.shape, q.codes.shape, penalty.shape
    (torch.Size([3, 2, 5]), torch.Size([3, 5]), torch.Size([3]))
    """

    pulled = True

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.vector = nn.Parameter(_start(size, dim))

    def vectors(self) -> Tensor:
        """Return the vectors, (K, d)."""
        return self.vector


def _start(size: int, dim: int) -> Tensor:
    """Return vectors near 0, where all of z lie before training."""
    return torch.empty(size, dim).uniform_(-1, 1) / math.sqrt(size)


class EmaCodebook(Codebook):
    """Codebook whose vectors are moving averages of the encoder outputs assigned to them.

    For a code with n positions in a step, N <- g N + (1 - g) n and m <- g m + (1 - g) sum z. The
    vector is e = m / N', where N' is N with Laplace smoothing (N itself stays unsmoothed). At the
    start N = 1 and m = e, so that a code without any position does not move.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        appendix A.1, eq. 6-8, https://arxiv.org/abs/1711.00937
        Razavi, van den Oord & Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2",
        2019 (smoothing), https://arxiv.org/abs/1906.00446

    Args:
        size: K, at least 2.
        dim: d.
        decay: g, from 0 to 1.

    >>> book = EmaCodebook(8, dim=2)
    >>> q, penalty = book(torch.zeros(3, 2, 4, 4))
    >>> q.codes.shape, len(list(book.parameters()))
    (torch.Size([3, 4, 4]), 0)
    """

    vector: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, size: int, dim: int, decay: float = DECAY) -> None:
        super().__init__(size, dim)
        self.decay = decay
        start = _start(size, dim)
        self.register_buffer("vector", start)
        self.register_buffer("count", torch.ones(size))
        self.register_buffer("total", start.clone())

    def vectors(self) -> Tensor:
        """Return the vectors, (K, d)."""
        return self.vector

    @torch.no_grad()
    def follow(self, z: Tensor, codes: Tensor) -> None:
        """Move the averages towards a batch; skip a batch with a value that is not finite."""
        positions = z.movedim(1, -1).reshape(-1, self.dim).to(self.total)
        if positions.isfinite().all():
            self.learn(positions, codes.flatten())

    def learn(self, positions: Tensor, codes: Tensor) -> None:
        """Move the averages by positions (n, d) and their codes (n,).

        The vectors are replaced, not changed in place: the prior of the same forward pass still
        refers to the old ones.
        """
        count, total = _sums(positions, codes, self.size)
        self.count.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        whole = self.count.sum()
        smooth = (self.count + SMOOTHING) / (whole + self.size * SMOOTHING) * whole
        self.vector = self.total / smooth[:, None]


_ROWS = 1 << 14  # one-hot vectors held in memory at a time


def _sums(positions: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the number and the sum of the positions of each code, (K,) and (K, d).

    One-hot products give the same bits in every run, on a GPU too; scatter_add does not.
    """
    count = positions.new_zeros(size)
    total = positions.new_zeros(size, positions.shape[1])
    with torch.autocast(positions.device.type, enabled=False):
        for some, whose in zip(positions.split(_ROWS), codes.split(_ROWS), strict=True):
            chosen = F.one_hot(whose, size).to(positions)
            count += chosen.sum(0)
            total += chosen.T @ some
    return count, total


def kmeans(positions: Tensor, means: Tensor, steps: int = LLOYD_STEPS) -> Tensor:
    """Return the means after some iterations of Lloyd's k-means; a mean without positions stays.

    scikit-learn's k-means is not used here: it adds up in the order in which its threads finish,
    and an interrupted fit must end in the same bits as one that was not interrupted.

    Args:
        positions: (n, d).
        means: (K, d) at the start.
        steps: number of iterations.

    Returns:
        (K, d).

    >>> kmeans(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[1.5], [3.0]])).T
    tensor([[1., 9.]])
    """
    for _ in range(steps):
        count, total = _sums(positions, nearest(positions, means), len(means))
        means = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], means)
    return means


class EmaRestartCodebook(EmaCodebook):
    """Moving averages that start at k-means of the first batch, and whose dead codes restart.

    A code whose count falls below 5% of the mean count is moved to a random position of the batch
    and given a count small enough to move quickly and large enough to survive until it is used.
    The positions are a function of a seed drawn with the vectors and of the number of the step.
    Both are saved, so that a resumed fit continues exactly, and no global generator is used.

    References:
        Dhariwal et al., "Jukebox: a generative model for music", 2020, section 3,
        https://arxiv.org/abs/2005.00341

    Args:
        size: K, at least 2.
        dim: d.
        decay: g, from 0 to 1.

    >>> book = EmaRestartCodebook(2, dim=1).train()
    >>> _ = book(torch.tensor([[0.0], [0.0], [6.0], [6.0]]))
    >>> sorted(book.vectors().flatten().tolist())
    [0.0, 6.0]
    """

    seed: Tensor
    steps: Tensor

    def __init__(self, size: int, dim: int, decay: float = DECAY) -> None:
        super().__init__(size, dim, decay)
        self.register_buffer("seed", torch.randint(1 << 62, ()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def learn(self, positions: Tensor, codes: Tensor) -> None:
        """Start at k-means in the first step; later, move the averages and restart dead codes."""
        generator = noise.generator("codes", int(self.seed), int(self.steps))
        self.steps += 1
        if self.steps == 1:
            self._begin(positions, generator)
            return
        super().learn(positions, codes)
        mean = len(positions) / self.size
        dead = (self.count < DEAD * mean).nonzero()[:, 0]
        if not len(dead):
            return
        found = _some(positions, len(dead), generator)
        dead = dead[: len(found)]  # a small batch restarts fewer
        self.vector[dead], self.total[dead] = found, found * FRESH * mean
        self.count[dead] = FRESH * mean

    def _begin(self, positions: Tensor, generator: torch.Generator) -> None:
        """Start at k-means of the batch; with fewer positions than codes, the other codes stay."""
        some = _some(positions, FIRST_POSITIONS * self.size, generator)
        means = kmeans(some, some[: self.size])
        self.vector = torch.cat([means, self.vector[len(means) :]])
        self.count.fill_(FRESH * len(positions) / self.size)
        self.total.copy_(self.vector * self.count[:, None])


def _some(positions: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return at most `most` positions in random order."""
    order = torch.randperm(len(positions), generator=generator)
    return positions[order[:most].to(positions.device)]


class SimVqCodebook(Codebook):
    """Codebook of frozen random vectors under one learned linear map, which moves all of them.

    References:
        Zhu et al., "Addressing representation collapse in vector quantized models with one linear
        layer" (SimVQ), 2024, https://arxiv.org/abs/2411.02038

    Args:
        size: K, at least 2.
        dim: d.

    >>> [(name, p.shape) for name, p in SimVqCodebook(8, dim=2).named_parameters()]
    [('turn', torch.Size([2, 2]))]
    """

    pulled = True
    frozen: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.register_buffer("frozen", torch.randn(size, dim) * dim**-0.5)
        self.turn = nn.Parameter(nn.Linear(dim, dim, bias=False).weight.detach())

    def vectors(self) -> Tensor:
        """Return the vectors, (K, d)."""
        with torch.autocast(self.turn.device.type, enabled=False):
            return self.frozen @ self.turn.T


class FsqCodebook(Codebook):
    """Finite scalar quantisation: each variable is bounded and rounded; the codes are the grid.

    With L levels and h = (L - 1) (1 + 0.001) / 2, a variable becomes round(h tanh(z + s) - o),
    divided by floor(L / 2), where o is 1/2 for an even L and 0 for an odd one, and tanh s = o / h.
    There are no parameters, no penalty and no collapse. z has one variable per entry of `levels`.

    References:
        Mentzer, Minnen, Agustsson & Tschannen, "Finite scalar quantization: VQ-VAE made simple",
        2023, section 3.1 and appendix A.1, https://arxiv.org/abs/2309.15505

    Args:
        levels: number of levels of each variable, at least 3.

    Raises:
        UsageError: E254 if a variable has fewer than 3 levels.

    >>> q, penalty = FsqCodebook([3, 5])(torch.tensor([[0.1, 9.0]]))
    >>> q.mean, q.codes, penalty
    (tensor([[0., 1.]]), tensor([13]), tensor([0.]))
    """

    scale: Tensor
    offset: Tensor
    shift: Tensor
    width: Tensor
    basis: Tensor
    grid: Tensor

    def __init__(self, levels: list[int]) -> None:
        super().__init__(math.prod(levels), len(levels))
        if min(levels) < LEAST_LEVELS:
            raise UsageError(
                "E254",
                f"every variable of a lattice needs at least {LEAST_LEVELS} levels, got {levels}",
                fix=f"codes={LEAST_LEVELS ** len(levels)} or more",
            )
        count = torch.tensor(levels)
        scale = (count - 1) * (1 + MARGIN) / 2
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        width = count // 2
        basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        digits = torch.arange(self.size)[:, None] // basis % count
        # Functions of `levels`, which the recipe's arguments determine: none is saved.
        for name, value in {
            "scale": scale,
            "offset": offset,
            "shift": (offset / scale).atanh(),
            "width": width,
            "basis": basis,
            "grid": (digits - width) / width,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def vectors(self) -> Tensor:
        """Return the vectors, (K, d)."""
        return self.grid

    def forward(self, z: Tensor) -> tuple[NearestCode, Tensor]:
        """Return q(z | x) and a penalty of 0; rounding passes the gradient, tanh shapes it."""
        z = z if z.dtype == torch.float64 else z.float()
        with torch.autocast(z.device.type, enabled=False):
            bounded = (z.movedim(1, -1) + self.shift).tanh() * self.scale - self.offset
            codes = ((bounded.round().long() + self.width) * self.basis).sum(-1)
            passed = (bounded / self.width).movedim(-1, 1)
        found = vectors_of(codes, self.vectors()).to(z)
        q = NearestCode(z, StraightThrough.apply(passed, found), codes, self.size)
        return q, z.new_zeros(len(z))


def lattice(codes: int) -> list[int]:
    """Return numbers of levels, near one another, whose product is close to `codes` from below.

    There are enough variables for about 8 levels each. The first one is the largest that fits.

    Raises:
        UsageError: E254 for fewer than 3 codes.

    >>> lattice(512), lattice(1024), lattice(4096)
    ([8, 8, 8], [8, 5, 5, 5], [8, 8, 8, 8])
    """
    if codes < LEAST_LEVELS:
        raise UsageError(
            "E254",
            f"a lattice needs at least {LEAST_LEVELS} codes, got codes={codes}",
            fix="codes=512",
        )
    variables = math.ceil(round(math.log(codes, 8), 9))
    least = int(round(codes ** (1 / variables), 9))
    return [codes // least ** (variables - 1), *[least] * (variables - 1)]


KINDS = {
    "gradient": GradientCodebook,
    "ema": EmaCodebook,
    "ema_restart": EmaRestartCodebook,
    "simvq": SimVqCodebook,
    "fsq": lambda size, dim: FsqCodebook(lattice(size)),
}
