"""Train one model with several processes: share the rows of a batch, and agree on decisions.

Each process takes its share of the rows of a batch and the same share of the noise, so that the
averaged gradient equals that of a single process up to rounding. Decisions that must be the same
everywhere, such as those that depend on the clock, are made by the first process.
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

_PATIENCE = timedelta(days=7)  # timeout of processes that wait for the work of another


class Team(Protocol):
    """The interface of a group of processes that train one model.

    Attributes:
        size: number of processes.
        rank: index of this process, from 0; only the first one reads and writes checkpoints.
    """

    @property
    def size(self) -> int: ...  # noqa: D102 - above

    @property
    def rank(self) -> int: ...  # noqa: D102 - above

    @property
    def key(self) -> tuple[int, ...]:
        """Return the key that separates the random numbers of processes; () for a single one."""
        ...

    def share(self, index: Tensor) -> Tensor:
        """Return this process's part of the row indices of a batch."""
        ...

    def noise(self, whole: Noise) -> Noise:
        """Return this process's part of the noise of a batch."""
        ...

    def wrapped(self, objective: nn.Module) -> nn.Module:
        """Return the objective with gradients averaged over the processes in a backward pass."""
        ...

    def mean(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the means of scalars over the processes."""
        ...

    def any(self, here: bool) -> bool:
        """Return whether `here` is true in any of the processes."""
        ...

    def first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the first process; the others do not call it."""
        ...

    def per_machine(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in one process of each machine; the others do not call it."""
        ...

    def align(self, module: nn.Module) -> None:
        """Copy a module's parameters and buffers from the first process to all others."""
        ...


class Alone:
    """A team of one process, which does no communication."""

    size, rank = 1, 0
    key: tuple[int, ...] = ()

    def share(self, index: Tensor) -> Tensor:
        """Return all row indices."""
        return index

    def noise(self, whole: Noise) -> Noise:
        """Return the noise itself."""
        return whole

    def wrapped(self, objective: nn.Module) -> nn.Module:
        """Return the objective itself."""
        return objective

    def mean(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the values themselves."""
        return values

    def any(self, here: bool) -> bool:
        """Return `here`."""
        return here

    def first(self, make: Callable[[], T]) -> T:
        """Return `make()`."""
        return make()

    def per_machine(self, make: Callable[[], T]) -> T:
        """Return `make()`."""
        return make()

    def align(self, module: nn.Module) -> None:
        """Do nothing."""


ALONE = Alone()


class Ranks:
    """The processes of torch's default process group, which must be initialised.

    References:
        Li et al., "PyTorch distributed: experiences on accelerating data parallel training",
        2020, https://arxiv.org/abs/2006.15704

    Args:
        device: device of the model and of the tensors that are exchanged.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        self.key = (self.rank,)

    def share(self, index: Tensor) -> Tensor:
        """Return this process's part of the row indices; their number is a multiple of `size`."""
        each = len(index) // self.size
        return index[self.rank * each : (self.rank + 1) * each]

    def noise(self, whole: Noise) -> Noise:
        """Return noise that draws the rows of all processes and keeps those of this one."""
        return _Share(whole, self.rank, self.size)

    def wrapped(self, objective: nn.Module) -> nn.Module:
        """Return the objective in `DistributedDataParallel`, which averages the gradients."""
        return nn.parallel.DistributedDataParallel(objective)

    def mean(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the means of scalars over the processes."""
        told = torch.stack([value.detach().double() for value in values])
        dist.all_reduce(told)
        return tuple((told / self.size).to(values[0].dtype))

    def any(self, here: bool) -> bool:
        """Return whether `here` is true in any of the processes."""
        told = torch.tensor(float(here), device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told)

    def first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the first process; the others do not call it."""
        told = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(told, device=self.device)
        return told[0]  # pyright: ignore[reportReturnType] - set by the first process

    def per_machine(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in one process of each machine; the others do not call it.

        The others wait, and receive the result by pickle. An error of this library that `make`
        raises is raised in all of them.
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
        return made  # pyright: ignore[reportReturnType] - set if there is no error

    def align(self, module: nn.Module) -> None:
        """Copy a module's parameters and buffers from the first process to all others."""
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), 0)


def _machine(rank: int) -> tuple[str, ...]:
    """Return a key that is equal for processes that can open each other's files in /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:  # the system has no /proc: treat each process as a machine of its own
        return (f"process {rank}",)


def _tried(make: Callable[[], T]) -> tuple[T | None, LowerboundError | None]:
    """Return (result, None) of `make`, or (None, error) if it raises one of our errors."""
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
        """Draw the normals of all processes and return those of this one."""
        rows = shape[0]
        drawn = self.whole(name, Size((rows * self.size, *shape[1:])), like)
        return drawn[self.rank * rows : (self.rank + 1) * rows]


@contextmanager
def gathered(device: torch.device) -> Iterator[Team]:
    """Join torch's default process group, setting it up if torchrun started this process.

    Yields:
        The team of processes; `ALONE` without a group.

    Raises:
        Stopped: E501 if another process of the group ended.
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
            fix="read the output of that process; the same command resumes the fit",
        ) from error
    finally:
        if begun and dist.is_initialized():
            dist.destroy_process_group()


def _begin(device: torch.device) -> None:
    """Set up torch's default process group from torchrun's environment variables."""
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun's store survives restarts and still has the addresses of the dead processes: a
        # new process that reads them would wait for those. A prefix per restart avoids this.
        # Machines may count restarts differently: with several, torchrun must not share its store
        # (docs/scaling.md).
        store = PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def _reason(error: RuntimeError) -> str:
    """Return the first line of torch's message, without the location in its source."""
    return re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip()).splitlines()[0][:160]


def _by_another(error: RuntimeError) -> bool:
    """Return whether `error` is torch's error for a process that no longer answers."""
    known = isinstance(error, dist.DistError)
    return known or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))
