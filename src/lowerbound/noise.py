"""Where randomness comes from: generators keyed by purpose, and normals keyed by a row's content.

Nothing here touches the global random state of torch, numpy or Python. A `Noise` is a callable
``(name, shape, like) -> standard normals``; a trace asks it for the noise of each latent site.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Size, Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd constant of splitmix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def derive(*key: object) -> int:
    """Return a 63-bit seed that is a pure function of `key` (of its printed form)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded by `key`: same key, same stream, on any machine."""
    return torch.Generator(device).manual_seed(derive(*key))


@contextmanager
def isolated(*key: object) -> Iterator[None]:
    """Seed torch's global generators inside the block, and give the caller's state back after."""
    with torch.random.fork_rng(_used_devices()):
        reseed(*key)
        yield


def reseed(*key: object) -> None:
    """Seed torch's global generators: for use inside of `isolated` only."""
    seed = derive(*key)
    torch.default_generator.manual_seed(seed)
    for device in _used_devices():
        torch.cuda.default_generators[device].manual_seed(seed)


def _used_devices() -> range:
    """Return the accelerators in use.

    One that nobody has used yet is left alone: torch.manual_seed would queue a seed for it, and
    the caller's first draw there would change.
    """
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


class Noise(Protocol):
    """Standard normal noise for the latent site `name`."""

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return normals of `shape` with the dtype and device of `like`."""
        ...


@dataclass(frozen=True)
class Stream:
    """Noise drawn one after the other from a generator: for training and for free sampling."""

    source: torch.Generator

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return the next normals of the stream."""
        return torch.randn(shape, generator=self.source, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Keyed:
    """Noise that is a function of a row's key and of the sample's number, and of nothing else.

    A row's importance samples are then the same whatever the batch, the order, the neighbours
    or the chunk that they are computed in.

    Args:
        keys: (B,) int64, one per row (see `row_keys`).
        first: number of the first sample in this chunk; samples of a row follow one another.
    """

    keys: Tensor
    first: int = 0

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return normals of `shape`, whose first axis is rows x samples, row by row."""
        samples = shape[0] // len(self.keys)
        width = math.prod(shape[1:])
        pairs = (width + 1) // 2
        number = torch.arange(self.first, self.first + samples, device=self.keys.device)
        counter = number[:, None] * pairs + torch.arange(pairs, device=self.keys.device)
        salted = _mix(self.keys ^ derive("site", name))
        bits = _mix(salted[:, None, None] + (counter + 1) * _GOLDEN)
        flat = _box_muller(bits)[..., :width]
        return flat.reshape(shape).to(like)


def row_keys(*parts: Tensor | None) -> Tensor:
    """Return a 64-bit key per row that depends on the bits of the row's values alone.

    Args:
        parts: (B, ...) tensors, hashed together; None is skipped. Negative zero counts as zero
            and every NaN as the same NaN, so that equal rows have equal keys.

    Returns:
        (B,) int64.
    """
    key: Tensor | None = None
    for part in parts:
        if part is None:
            continue
        values = part.detach().flatten(1).double() + 0.0
        values = torch.where(values.isnan(), torch.full_like(values, torch.nan), values)
        bits = values.view(torch.int64)
        place = torch.arange(1, bits.shape[1] + 1, device=bits.device) * _GOLDEN
        mixed = _mix(_mix(bits + place) + place).sum(1)
        key = mixed if key is None else _mix(key) + mixed
    assert key is not None, "row_keys needs at least one tensor"
    return _mix(key)


def uniforms(numbers: Tensor, count: int, *key: object) -> Tensor:
    """Return uniform numbers in [0, 1) that are a function of `key` and of each row's number.

    Args:
        numbers: (B,) int64.
        count: uniforms per row.
        key: what they are for.

    Returns:
        (B, count) float64.
    """
    place = torch.arange(1, count + 1, device=numbers.device)
    salted = _mix(numbers[:, None] * _GOLDEN + derive("uniforms", *key))
    return _shift_right(_mix(salted + place * _GOLDEN), 11).double() / 2**53


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Shift int64 right filling with zeros (torch's own shift keeps the sign)."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Scramble 64-bit words: the finaliser of splitmix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)


def _box_muller(bits: Tensor) -> Tensor:
    """Turn (..., n) words into (..., 2 n) standard normals (Box & Muller, 1958)."""
    high = (_shift_right(bits, 32).double() + 1.0) / 2**32
    low = (bits & 0xFFFFFFFF).double() / 2**32
    radius, angle = (-2.0 * high.log()).sqrt(), 2.0 * math.pi * low
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)
