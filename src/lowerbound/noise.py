"""Random numbers from explicit sources: seeded generators, and noise keyed by a row's values.

Nothing here reads or changes the global random state of torch, NumPy or Python, so that fits and
draws in several threads do not affect each other. A `Noise` is a callable
``(name, shape, like) -> standard normals`` that a trace calls for each latent site.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any, Protocol

import torch
from torch import Size, Tensor
from torch.quasirandom import SobolEngine
from torch.utils._python_dispatch import TorchDispatchMode

from lowerbound.errors import UsageError

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd constant of splitmix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def derive(*key: object) -> int:
    """Return a 63-bit seed that depends only on ``repr(key)``."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded by `key`; equal keys give equal streams on any machine."""
    return torch.Generator(device).manual_seed(derive(*key))


@contextmanager
def isolated(*key: object) -> Iterator[None]:
    """Draw from generators seeded by `key` inside the block, not from torch's global ones.

    This is for code that takes no generator, such as torch's weight initialisers. It applies to
    every random function of torch that is called in the block without a generator. Only the
    calling thread is affected, and no global state is read or written. The numbers are the same
    as after ``torch.manual_seed(derive(*key))``.
    """
    with GivenGenerators(cache(lambda device: generator(*key, device=device))):
        yield


class GivenGenerators(TorchDispatchMode):
    """A context in which torch's random functions draw from given generators.

    It applies to the calling thread only. A function that is called with a generator keeps it.

    Args:
        source: device -> the generator for draws on that device.

    Raises:
        UsageError: E246 inside the block, for a random function that takes no generator.
    """

    def __init__(self, source: Callable[[torch.device], torch.Generator]) -> None:
        super().__init__()
        self.source = source

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler for this mode, which takes more than a second."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`; if it draws random numbers and has no generator, supply one."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        func = _with_generator(func)
        names = [argument.name for argument in func._schema.arguments]
        given = kwargs | dict(zip(names, args, strict=False))
        if given.get("generator") is None:
            tensors = [value for value in given.values() if isinstance(value, Tensor)]
            device = given.get("device") or (tensors[0].device if tensors else "cpu")
            given["generator"] = self.source(torch.device(device))
        return func(**given)


@cache
def _with_generator(func: Any) -> Any:
    """Return the overload of a random operation of torch that takes a generator."""
    overload = func._overloadname
    for name in (overload, "generator" if overload == "default" else f"{overload}_generator"):
        found = getattr(func.overloadpacket, name, None)
        if found and any(argument.name == "generator" for argument in found._schema.arguments):
            return found
    raise UsageError(
        "E246",
        f"{func.overloadpacket} draws from the global random state: it takes no generator",
        fix="draw with a function that takes one, such as torch.rand(..., generator=...)",
    )


class Noise(Protocol):
    """A source of standard normal noise for latent sites."""

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return normals of `shape` for the site `name`, with the dtype and device of `like`."""
        ...


@dataclass(frozen=True)
class Stream:
    """Noise drawn sequentially from a generator, for training and for sampling from the prior."""

    source: torch.Generator

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return the next normals of the generator."""
        return torch.randn(shape, generator=self.source, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Keyed:
    """Noise that depends only on the site, the row's key and the index of the sample.

    The importance samples of a row are therefore the same in any batch, order and chunk.

    Args:
        keys: (B,) int64, one per row (see `row_keys`).
        first: index of the first sample of this chunk.
    """

    keys: Tensor
    first: int = 0

    def __call__(self, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return normals of `shape`, whose first axis is rows x samples with rows outermost."""
        samples = shape[0] // len(self.keys)
        width = math.prod(shape[1:])
        pairs = (width + 1) // 2
        number = torch.arange(self.first, self.first + samples, device=self.keys.device)
        counter = number[:, None] * pairs + torch.arange(pairs, device=self.keys.device)
        salted = _mix(self.keys ^ derive("site", name))
        bits = _mix(salted[:, None, None] + (counter + 1) * _GOLDEN)
        flat = _box_muller(bits)[..., :width]
        return flat.reshape(shape).to(like)


class SharedPoints:
    """Normals that are the same for every row: a scrambled Sobol sequence, one point per sample.

    A point has a coordinate for each number that the sites of a model take together. Each point
    is standard normal, so that importance weights are unbiased, and the points cover the space
    evenly, so that they are about as accurate as twice as many independent ones. As no row has
    points of its own, an estimate for a row depends on that row alone, at no cost, and the errors
    of rows are dependent: means over rows need `Keyed`.

    References:
        Owen, "Scrambled net variance for integrals of smooth functions", 1997; Buchholz, Wenzel &
        Mandt, "Quasi-Monte Carlo variational inference", 2018, https://arxiv.org/abs/1807.01604

    Args:
        key: of the scrambling; equal keys give equal points.
    """

    def __init__(self, *key: object) -> None:
        self.key = key
        self._known: dict[tuple[str, int], Tensor] = {}  # by site and width, (samples, width)
        self._places: dict[tuple[str, int], int] = {}  # their first coordinates

    def part(self, rows: int, first: int = 0) -> Noise:
        """Return the noise of `rows` rows, for the samples from the index `first` on."""
        return partial(self._normals, rows, first)

    def _normals(self, rows: int, first: int, name: str, shape: Size, like: Tensor) -> Tensor:
        """Return normals of `shape`, whose first axis is rows x samples with rows outermost."""
        end, site = first + shape[0] // rows, (name, math.prod(shape[1:]))
        if site not in self._known or len(self._known[site]) < end:
            count = 1 << (end - 1).bit_length()  # sequences are even at powers of two
            self._known[site] = self._points(site, count).to(like)
        some = self._known[site][first:end].view(-1, *shape[1:])
        return some.repeat(rows, *[1] * (some.dim() - 1))

    def _points(self, site: tuple[str, int], count: int) -> Tensor:
        """Return `count` points of a site, (count, width) normals, float64."""
        place = self._places.setdefault(site, sum(width for _, width in self._places))
        end = place + site[1]
        if end > EVEN:
            source = generator("shared points", *self.key, *site)
            return torch.randn(count, site[1], generator=source, dtype=torch.float64)
        draw = _few_points if count * end <= _FEW else _even_points
        return draw(count, place, end, derive("shared points", *self.key))


def _even_points(count: int, place: int, end: int, seed: int) -> Tensor:
    """Return coordinates `place` to `end` of `count` Sobol points, as float64 normals."""
    even = SobolEngine(end, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return torch.special.ndtri(even[:, place:] + _CELL)


_FEW = 1 << 15  # numbers of points that are kept: to make them takes as long as to score a row
_few_points = lru_cache(maxsize=16)(_even_points)
EVEN = 1024  # coordinates of the sequence; further ones are independent of each other
_CELL = 2.0**-31  # half the spacing of a Sobol sequence; added so that no coordinate is 0


def row_keys(*parts: Tensor | None) -> Tensor:
    """Return a 64-bit key per row, a hash of the row's values.

    Args:
        parts: (B, ...) tensors, hashed together; None is skipped. Negative zero is hashed as
            zero, and all NaNs are hashed alike, so that equal rows have equal keys.

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
    """Return uniform numbers in [0, 1) that depend only on `key` and on each row's index.

    Args:
        numbers: (B,) int64, the indices of the rows.
        count: uniforms per row.
        key: the purpose of the numbers; different keys give independent numbers.

    Returns:
        (B, count) float64.
    """
    place = torch.arange(1, count + 1, device=numbers.device)
    salted = _mix(numbers[:, None] * _GOLDEN + derive("uniforms", *key))
    return _shift_right(_mix(salted + place * _GOLDEN), 11).double() / 2**53


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Shift int64 right, filling with zeros (torch's own shift keeps the sign)."""
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
