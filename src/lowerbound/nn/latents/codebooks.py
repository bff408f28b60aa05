"""Codebooks: K vectors, one of which stands for each place of an encoder's grid.

Ours: the lookup, the straight-through gradient, the penalties (in vector-quantize-pytorch they are
means over the batch, ours are sums per row), and the moving averages. Those agree with the
library's, which our tests hold them against, but are kept in buffers of our own names: they are
part of the model file, which outlives versions of libraries; and restarts here know how much a
code is used on average. The library's: k-means, finite scalar quantisation. It takes more than a
second to import and so is, where one of the two is first needed.
"""

from __future__ import annotations

import math
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.errors import UsageError
from lowerbound.nn.distributions.codewords import Nearest, Straight, nearest, vectors_of

COMMITMENT = 0.25  # van den Oord et al., 2017, section 3.2
DECAY = 0.99  # of the moving averages, appendix A.1
SMOOTHING = 1e-5  # of the counts
DEAD = 0.05  # of the mean count: a code with less is restarted
FRESH = 0.15  # of the mean count, of a new code: without a place it is dead after 110 steps
FIRST_PLACES = 64  # per code, that k-means looks at
LEAST_LEVELS = 3  # of one variable of a grid


def _squares(difference: Tensor) -> Tensor:
    """Return the sum of squares of every row, (B,)."""
    return difference.square().flatten(1).sum(1)


class Codebook(nn.Module):
    """K vectors in d dimensions: z -> the nearest of them, and what that adds to the loss.

    The loss is ||sg z - e||^2 (where the vectors learn by it) + 0.25 ||z - sg e||^2, summed over
    dimensions and places of a row; it is no nats. The decoder's gradient goes to z as it is.

    References:
        van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", 2017,
        eq. 3, https://arxiv.org/abs/1711.00937

    Args:
        size: K, at least 2.
        dim: d.

    Raises:
        UsageError: E254 for a codebook of fewer than two codes, or of no dimension.
    """

    pulled = False  # whether the loss moves the vectors

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 2 or dim < 1:
            raise UsageError(
                "E254",
                f"a codebook of {size} codes in {dim} dimensions cannot tell anything",
                fix="codes=512 and dim=16",
            )
        self.size, self.dim = size, dim

    def vectors(self) -> Tensor:
        """Return the vectors, (K, d)."""
        raise NotImplementedError

    def follow(self, z: Tensor, codes: Tensor) -> None:
        """Look at what was quantised, (B, d, *grid), and its codes (B, *grid), while training."""

    def forward(self, z: Tensor) -> tuple[Nearest, Tensor]:
        """Return q(z | x) for an encoder's output, and its penalty.

        Args:
            z: (B, d, *grid).

        Returns:
            The distribution, and (B,) in the loss's own units.
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
        return Nearest(z, Straight.apply(z, found.detach()), codes, self.size), penalty


class Pulled(Codebook):
    """Vectors that the loss pulls to what they stand for: the first VQ-VAE's."""

    pulled = True

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.vector = nn.Parameter(_start(size, dim))

    def vectors(self) -> Tensor:
        """Return the vectors, (K, d)."""
        return self.vector


def _start(size: int, dim: int) -> Tensor:
    """Return vectors near 0, as all of z are at the start."""
    return torch.empty(size, dim).uniform_(-1, 1) / math.sqrt(size)


class Averaged(Codebook):
    """Vectors that are moving averages of what they stood for.

    N <- g N + (1 - g) n and m <- g m + (1 - g) sum z, per step of n places with the code; then
    e = m / N', where N' are the counts with Laplace's smoothing, which is not written back. At the
    start N = 1 and m = e, so that a code without any place stays where it is.

    References:
        van den Oord et al., 2017, appendix A.1, eq. 6-8; smoothing and restarts: Razavi, van den
        Oord & Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", 2019, and
        Dhariwal et al., "Jukebox", 2020, section 3.

    Args:
        size: K.
        dim: d.
        decay: g.
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
        """Move the averages towards a batch; one that is not finite is left out."""
        places = z.movedim(1, -1).reshape(-1, self.dim).to(self.total)
        if places.isfinite().all():
            self.learn(places, codes.flatten())

    def learn(self, places: Tensor, codes: Tensor) -> None:
        """Move the averages: places (n, d) and their codes (n,).

        The vectors become new ones and are not changed in place: a prior of the same walk has them
        as they were.
        """
        count, total = torch.zeros_like(self.count), torch.zeros_like(self.total)
        # A sum by one-hot products has the same bits in every run, on a GPU too.
        with torch.autocast(places.device.type, enabled=False):
            for some, whose in zip(places.split(_ROWS), codes.split(_ROWS), strict=True):
                chosen = F.one_hot(whose, self.size).to(places)
                count += chosen.sum(0)
                total += chosen.T @ some
        self.count.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        whole = self.count.sum()
        smooth = (self.count + SMOOTHING) / (whole + self.size * SMOOTHING) * whole
        self.vector = self.total / smooth[:, None]


_ROWS = 1 << 14  # of one-hot vectors that are held at a time


class Restarted(Averaged):
    """Moving averages that begin at k-means of the first batch, and whose dead codes restart.

    A code whose count falls below a share of the mean count is put on a random place of the batch,
    with a count that gives it time to be found, and little inertia. Which places, is a function of
    a seed that is drawn with the vectors and of the number of the step, both of which are saved: a
    fit that goes on from a state goes on as it would have, and nobody else's draws change.
    """

    seed: Tensor
    steps: Tensor

    def __init__(self, size: int, dim: int, decay: float = DECAY) -> None:
        super().__init__(size, dim, decay)
        self.register_buffer("seed", torch.randint(1 << 62, ()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def learn(self, places: Tensor, codes: Tensor) -> None:
        """Begin at k-means, or move the averages and put dead codes elsewhere."""
        key = "codes", int(self.seed), int(self.steps)
        self.steps += 1
        if self.steps == 1:
            with noise.isolated(*key):
                self._begin(places)
            return
        super().learn(places, codes)
        mean = len(places) / self.size
        dead = (self.count < DEAD * mean).nonzero()[:, 0]
        if not len(dead):
            return
        order = torch.randperm(len(places), generator=noise.generator(*key))
        chosen = order[: len(dead)].to(places.device)
        dead, found = dead[: len(chosen)], places[chosen]  # at most as many as there are places
        self.vector[dead], self.total[dead] = found, found * FRESH * mean
        self.count[dead] = FRESH * mean

    def _begin(self, places: Tensor) -> None:
        """Begin at k-means of the first batch; with fewer places than codes, the others stay."""
        chosen = torch.randperm(len(places), device=places.device)[: FIRST_PLACES * self.size]
        clusters = min(self.size, len(chosen))
        library = import_module("vector_quantize_pytorch.vector_quantize_pytorch")
        middle, _ = library.kmeans(places[chosen][None], clusters)
        self.vector = torch.cat([middle[0].to(places), self.vector[clusters:]])
        self.count.fill_(FRESH * len(places) / self.size)
        self.total.copy_(self.vector * self.count[:, None])


class Turned(Codebook):
    """Random vectors that stay, seen through one learned linear map: all move with every one.

    References:
        Zhu et al., "Addressing representation collapse in vector quantized models with one linear
        layer" (SimVQ), 2024, https://arxiv.org/abs/2411.02038
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


class Lattice(Codebook):
    """Finite scalar quantisation: each variable bounded and rounded, the codes are their grid.

    There is nothing to learn, nothing to collapse and no penalty.

    References:
        Mentzer, Minnen, Agustsson & Tschannen, "Finite scalar quantization: VQ-VAE made simple",
        2023, https://arxiv.org/abs/2309.15505

    Args:
        levels: of each variable, at least 3.

    Raises:
        UsageError: E254 for too few levels.
    """

    def __init__(self, levels: list[int]) -> None:
        super().__init__(math.prod(levels), len(levels))
        if min(levels) < LEAST_LEVELS:
            raise UsageError(
                "E254",
                f"levels are {levels}, but every variable needs at least {LEAST_LEVELS}",
                fix=f"codes={LEAST_LEVELS ** len(levels)} or more",
            )
        library = import_module("vector_quantize_pytorch")
        self.rounded = library.FSQ(list(levels), force_quantization_f32=False)

    def vectors(self) -> Tensor:
        """Return the vectors, (K, d)."""
        return self.rounded.get_buffer("implicit_codebook")

    def forward(self, z: Tensor) -> tuple[Nearest, Tensor]:
        """Return q(z | x) and no penalty; the gradient passes the bound, but not the rounding."""
        z = z if z.dtype == torch.float64 else z.float()
        with torch.autocast(z.device.type, enabled=False):
            rounded, index = self.rounded(z.movedim(1, -1).reshape(1, -1, self.dim))
        codes = index.view(z.shape[:1] + z.shape[2:]).long()
        passed = rounded.view(z.movedim(1, -1).shape).movedim(-1, 1)
        found = vectors_of(codes, self.vectors()).to(z)
        q = Nearest(z, Straight.apply(passed, found), codes, self.size)
        return q, z.new_zeros(len(z))


def lattice(codes: int) -> list[int]:
    """Return levels whose product is at most `codes`, near to it and to one another.

    As many variables as have about 8 levels each; the first one takes what is left over.

    >>> lattice(512), lattice(1024), lattice(4096)
    ([8, 8, 8], [8, 5, 5, 5], [8, 8, 8, 8])
    """
    if codes < LEAST_LEVELS:
        raise UsageError("E254", f"a grid of {codes} codes has no levels", fix="codes=512")
    variables = math.ceil(round(math.log(codes, 8), 9))
    least = int(round(codes ** (1 / variables), 9))
    return [codes // least ** (variables - 1), *[least] * (variables - 1)]


KINDS = {
    "gradient": Pulled,
    "ema": Averaged,
    "ema_restart": Restarted,
    "simvq": Turned,
    "fsq": lambda size, dim: Lattice(lattice(size)),
}
