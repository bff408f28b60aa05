"""Processes that train one model together: who takes which rows, and what they agree on.

One batch of all processes is the batch of one process: each takes its share of the rows, and the
same share of the noise, so that the averaged gradient is that of a single process to rounding.
What only one may decide, such as a look at a clock, the first process decides for all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Size, Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lowerbound.errors import LowerboundError, Stopped
from lowerbound.noise import Noise

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # that processes wait for what one of them makes


class Team(Protocol):
    """What a fit knows of the processes that train its model.

    Attributes:
        size: how many there are.
        rank: the number of this one, from 0 on; the first alone reads and writes files.
    """

    @property
    def size(self) -> int: ...  # noqa: D102 - above

    @property
    def rank(self) -> int: ...  # noqa: D102 - above

    @property
    def key(self) -> tuple[int, ...]:
        """Return what keeps apart the random numbers of processes; nothing, of one alone."""
        ...

    def share(self, index: Tensor) -> Tensor:
        """Return this process's part of the row numbers of a batch."""
        ...

    def noise(self, whole: Noise) -> Noise:
        """Return this process's part of the noise of a batch."""
        ...

    def wrapped(self, objective: nn.Module) -> nn.Module:
        """Return the objective so that a backward pass leaves the mean gradient of all."""
        ...

    def mean(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the means of scalars over the processes."""
        ...

    def any(self, here: bool) -> bool:
        """Tell whether something holds in any of the processes."""
        ...

    def first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the first process; the others do not call it."""
        ...

    def per_machine(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in one process of each machine; the others do not call it."""
        ...

    def align(self, module: nn.Module) -> None:
        """Give a module in all processes the numbers that it has in the first."""
        ...


class Alone:
    """One process: nothing is shared, and nothing costs anything."""

    size, rank = 1, 0
    key: tuple[int, ...] = ()

    def share(self, index: Tensor) -> Tensor:
        """Return all of it."""
        return index

    def noise(self, whole: Noise) -> Noise:
        """Return all of it."""
        return whole

    def wrapped(self, objective: nn.Module) -> nn.Module:
        """Return the objective itself."""
        return objective

    def mean(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the values themselves."""
        return values

    def any(self, here: bool) -> bool:
        """Return what holds here."""
        return here

    def first(self, make: Callable[[], T]) -> T:
        """Make it."""
        return make()

    def per_machine(self, make: Callable[[], T]) -> T:
        """Make it."""
        return make()

    def align(self, module: nn.Module) -> None:
        """Do nothing."""


ALONE = Alone()


class Ranks:
    """The processes of torch's default group, which whoever started them has set up.

    References:
        Li et al., "PyTorch distributed: experiences on accelerating data parallel training",
        2020, https://arxiv.org/abs/2006.15704

    Args:
        device: where tensors that are exchanged lie: that of the model.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        self.key = (self.rank,)

    def share(self, index: Tensor) -> Tensor:
        """Return as many of the numbers as the others have; their count is a multiple of size."""
        each = len(index) // self.size
        return index[self.rank * each : (self.rank + 1) * each]

    def noise(self, whole: Noise) -> Noise:
        """Draw for all, and return this process's rows: the same numbers as in one process."""
        return _Share(whole, self.rank, self.size)

    def wrapped(self, objective: nn.Module) -> nn.Module:
        """Let torch average gradients while the backward pass is under way."""
        return nn.parallel.DistributedDataParallel(objective)

    def mean(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the means of scalars over the processes."""
        told = torch.stack([value.detach().double() for value in values])
        dist.all_reduce(told)
        return tuple((told / self.size).to(values[0].dtype))

    def any(self, here: bool) -> bool:
        """Tell whether something holds in any of the processes."""
        told = torch.tensor(float(here), device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told)

    def first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the first process; the others do not call it."""
        told = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(told, device=self.device)
        return told[0]  # pyright: ignore[reportReturnType] - the first one's is there

    def per_machine(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in one process of each machine; the others do not call it.

        It is pickled for the others, which wait for as long as making it takes. What the one
        refuses is raised in all of them.
        """
        places: list[Any] = [None] * self.size
        dist.all_gather_object(places, _machine(self.rank))
        ranks = [[r for r, its in enumerate(places) if its == p] for p in dict.fromkeys(places)]
        group, _ = dist.new_subgroups_by_enumeration(ranks, _PATIENCE, "gloo")
        assert isinstance(group, dist.ProcessGroup), "every process is in one"
        first = next(here[0] for here in ranks if self.rank in here)
        told = [_tried(make) if self.rank == first else (None, None)]
        dist.broadcast_object_list(told, first, group)
        made, refusal = told[0]
        if refusal is not None:
            raise refusal
        return made  # pyright: ignore[reportReturnType] - made, where nothing was refused

    def align(self, module: nn.Module) -> None:
        """Give a module in all processes the numbers that it has in the first."""
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), 0)


def _machine(rank: int) -> tuple[str, ...]:
    """Return what processes have in common that can open each other's files without a name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:  # a system that does not show processes as files: each is by itself
        return (f"process {rank}",)


def _tried(make: Callable[[], T]) -> tuple[T | None, LowerboundError | None]:
    """Return what `make` returns, or what it refuses."""
    try:
        return make(), None
    except LowerboundError as error:
        return None, error


@dataclass(frozen=True)
class _Share:
    """The rows of noise that belong to one of several processes."""

    whole: Noise
    rank: int
    size: int

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Draw the normals of all processes, and return those of this one."""
        rows = shape[0]
        drawn = self.whole(name, Size((rows * self.size, *shape[1:])), like)
        return drawn[self.rank * rows : (self.rank + 1) * rows]


@contextmanager
def gathered(device: torch.device) -> Iterator[Team]:
    """Join the processes that torchrun, or whoever set up torch's default group, has started.

    Raises:
        Stopped: E501 where another of them ended.
    """
    begun = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        if begun:
            _begin(device)
        yield Ranks(device) if dist.is_initialized() else ALONE
    except RuntimeError as error:
        if not _by_another(error):
            raise
        raise Stopped(
            "E501",
            f"another process of this fit ended: {_reason(error)}",
            fix="look at what it said; the same command goes on",
        ) from error
    finally:
        if begun and dist.is_initialized():
            dist.destroy_process_group()


def _begin(device: torch.device) -> None:
    """Set up torch's default group from what torchrun has put into the environment."""
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps its store over restarts, with the addresses of processes that are dead
        # in it: whoever looks before the new ones are there waits for those. Machines do not
        # count their restarts alike, so of several each must keep its own store (docs/scaling.md).
        store = PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def _reason(error: RuntimeError) -> str:
    """Return what torch says, without the place in its source."""
    return re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip()).splitlines()[0][:160]


def _by_another(error: RuntimeError) -> bool:
    """Tell whether an error is torch's for a process that no longer answers."""
    known = isinstance(error, dist.DistError)
    return known or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))
