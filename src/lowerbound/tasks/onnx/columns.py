"""The coding of a table's columns as torch modules, which can be exported to ONNX.

`lowerbound.columns.schema` codes Arrow columns with NumPy, which cannot be exported. These modules
use the same statistics and formulas; every export compares the results of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lowerbound.columns.base import LIMIT, Column
from lowerbound.columns.categories import Category
from lowerbound.columns.dates import DAY, EPOCH_WEEKDAY, HOUR, Datetime
from lowerbound.columns.numbers import Count, Numeric
from lowerbound.columns.schema import Schema
from lowerbound.columns.skipped import Skipped
from lowerbound.tasks.onnx.inputs import columns_of

_FEW = 2048  # number of comparisons up to which a search in blocks is not faster


class CountBelow(nn.Module):
    """Number of sorted numbers that lie below a value, for every column.

    ONNX has no binary search, and comparing with a thousand numbers would take longer than the
    rest of the score. Therefore n numbers are split into about sqrt(n) blocks: comparison with the
    first numbers of the blocks finds the block of a value, and comparison with the numbers of the
    block its position. If there are few numbers, a single block is used.

    Args:
        numbers: the numbers of every column, in ascending order.
    """

    firsts: Tensor
    blocks: Tensor
    starts: Tensor

    def __init__(self, numbers: Sequence[NDArray[np.float64]]) -> None:
        super().__init__()
        most = max(1, *(len(each) for each in numbers))
        few = most * len(numbers) <= _FEW
        self.width = most if few else math.isqrt(most - 1) + 1
        count = -(-most // self.width)
        padded = np.full((len(numbers), count * self.width), np.inf)
        for row, each in zip(padded, numbers, strict=True):
            row[: len(each)] = each
        blocks = torch.from_numpy(padded).view(len(numbers), count, self.width)
        self.register_buffer("firsts", blocks[:, 1:, 0].clone())  # smaller values: first block
        self.register_buffer("blocks", blocks.reshape(-1, self.width))
        self.register_buffer("starts", torch.arange(len(numbers)) * count)

    def forward(self, values: Tensor) -> Tensor:
        """Return float64 counts, (rows, columns), for values of that shape; 0 for NaN."""
        each = values.unsqueeze(2)
        if not self.firsts.shape[1]:
            return _count(each > self.blocks)
        block = _count(each > self.firsts)
        inside = F.embedding(block.long() + self.starts, self.blocks)
        return block * self.width + _count(each > inside)


def _count(which: Tensor) -> Tensor:
    """Count along the last axis, in float64: integers need more operations in a graph."""
    return which.to(torch.float64).sum(-1)


class Standardised(nn.Module):
    """(x - mean) / std of every column, (rows, columns)."""

    mean: Tensor
    std: Tensor

    def __init__(self, columns: Sequence[Numeric]) -> None:
        super().__init__()
        self.register_buffer("mean", _doubles([c.mean for c in columns]))
        self.register_buffer("std", _doubles([c.std for c in columns]))

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, columns) scores."""
        return (x - self.mean) / self.std


class Scored(nn.Module):
    """The quantile scaling of every column: linear between knots, and extrapolated linearly."""

    scores: Tensor
    slopes: Tensor
    knots: Tensor
    starts: Tensor

    def __init__(self, columns: Sequence[Numeric]) -> None:
        super().__init__()
        maps = [c.quantiles for c in columns if c.quantiles is not None]
        scores, slopes, knots, starts = [], [], [], [0]
        for each in maps:
            raw, at_knots, along = each.slopes()
            knot = np.clip(np.arange(len(along)) - 1, 0, None)  # the knot below, or the first
            scores.append(at_knots[knot])
            slopes.append(along)
            knots.append(raw[knot])
            starts.append(starts[-1] + len(along))
        self.below = CountBelow([np.asarray(each.raw) for each in maps])
        for name, values in (("scores", scores), ("slopes", slopes), ("knots", knots)):
            self.register_buffer(name, torch.from_numpy(np.concatenate(values)))
        self.register_buffer("starts", torch.tensor(starts[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, columns): the score of the knot below, plus slope times distance."""
        place = self.below(x).long() + self.starts
        return self.scores[place] + self.slopes[place] * (x - self.knots[place])


class Numbers(nn.Module):
    """Columns of numbers with the same coding: with or without logarithm, quantiles and atoms.

    Args:
        columns: at least one. If they have atoms, the codes of the atoms of all columns follow
            the scores of all columns.
    """

    atoms: Tensor
    none: Tensor
    first: Tensor
    broken: Tensor

    def __init__(self, columns: Sequence[Numeric]) -> None:
        super().__init__()
        first = columns[0]
        self.positive, self.with_atoms = first.kind == "positive", bool(first.atoms)
        self.scale = Scored(columns) if first.quantiles else Standardised(columns)
        most = max(len(c.atoms) for c in columns)
        padded = [[*c.atoms, *[math.nan] * (most - len(c.atoms))] for c in columns]
        self.register_buffer("atoms", _doubles(padded))
        self.register_buffer("none", _doubles([c.none for c in columns]))
        # 0.1 may come as the float64 of a float32, 0.10000000149.
        broken = (self.atoms != self.atoms.round()) & (self.atoms.float() != 0)
        self.register_buffer("broken", broken)
        self.register_buffer("first", _doubles([float(c.complete) for c in columns]))

    def forward(self, raw: Tensor) -> Tensor:
        """Return (rows, columns), or (rows, 2 x columns) with atoms."""
        if not self.with_atoms:
            return self.scores(raw)
        same = raw.unsqueeze(2) == self.atoms
        narrow = (raw.unsqueeze(2).float() == self.atoms.float()) & self.broken
        hits = (same | narrow).to(raw.dtype)  # at most one per value
        code = torch.arange(hits.shape[2], dtype=raw.dtype)
        free = hits.sum(2) == 0
        atom = torch.where(free, self.none, (hits * code).sum(2) + self.first)
        scores = self.scores(raw.masked_fill(~free, math.nan))
        return torch.cat([scores, atom.masked_fill(raw.isnan(), math.nan)], 1)

    def scores(self, raw: Tensor) -> Tensor:
        """Return the scaled numbers, (rows, columns)."""
        if self.positive:
            raw = raw.masked_fill(raw <= 0, 0.0).log()
        return self.scale(raw).clamp(-LIMIT, LIMIT)


class Positions(nn.Module):
    """Columns of levels, given as positions: (rows, columns) to codes."""

    count: Tensor
    offset: Tensor
    unseen: Tensor

    def __init__(self, columns: Sequence[Category]) -> None:
        super().__init__()
        open_ended = [c.kind == "categorical" for c in columns]
        self.register_buffer("count", _doubles([len(c.levels) for c in columns]))
        self.register_buffer("offset", _doubles([float(o) for o in open_ended]))
        self.register_buffer("unseen", _doubles([0.0 if o else math.nan for o in open_ended]))

    def forward(self, raw: Tensor) -> Tensor:
        """Return codes; a value that is no position of a level is coded as unseen, or missing."""
        known = ((raw >= 0) & (raw < self.count)) | raw.isnan()
        return torch.where(known, raw + self.offset, self.unseen)


class Moments(nn.Module):
    """One column of dates in seconds: (rows, 1) to those of week, weekday and hour that vary.

    If there are atoms, the code of the row's atom follows.
    """

    atoms: Tensor

    def __init__(self, columns: Sequence[Datetime]) -> None:
        super().__init__()
        (self.column,) = columns
        self.register_buffer("atoms", _doubles(self.column.atoms))

    def forward(self, raw: Tensor) -> Tensor:
        """Return (rows, parts)."""
        if not self.column.atoms:
            return self.split(raw)
        hits = (raw == self.atoms).to(raw.dtype)
        free = hits.sum(1, keepdim=True) == 0
        code = (hits * torch.arange(hits.shape[1], dtype=raw.dtype)).sum(1, keepdim=True)
        atom = torch.where(free, float(hits.shape[1]), code).masked_fill(raw.isnan(), math.nan)
        return torch.cat([self.split(raw.masked_fill(~free, math.nan)), atom], 1)

    def split(self, raw: Tensor) -> Tensor:
        """Return week, weekday and hour, as far as they vary."""
        day = (raw / DAY).floor()
        week = ((day + EPOCH_WEEKDAY) / 7).floor()
        parts = [day + EPOCH_WEEKDAY - 7 * week]
        if self.column.last > self.column.first:
            score = (week - self.column.mean) / self.column.std
            parts.insert(0, score.clamp(-LIMIT, LIMIT))
        if self.column.hours:
            parts.append(((raw - DAY * day) / HOUR).floor())
        return torch.cat(parts, 1)


class Counts(nn.Module):
    """Columns of counts, which are not changed."""

    def __init__(self, columns: Sequence[Count]) -> None:
        super().__init__()

    def forward(self, raw: Tensor) -> Tensor:
        """Return `raw`."""
        return raw


class ChangedConstants(nn.Module):
    """Columns that were constant in training: (rows, columns) to the nats of changed values."""

    nats: Tensor

    def __init__(self, columns: Sequence[Skipped]) -> None:
        super().__init__()
        self.register_buffer("nats", _doubles([math.log(c.rows + 2.0) for c in columns]))

    def forward(self, raw: Tensor) -> Tensor:
        """Return (rows,) nats; position 0 is the constant."""
        return (((raw != 0) & ~raw.isnan()).to(raw.dtype) * self.nats).sum(1)


_MODULES = {
    Numeric: Numbers,
    Category: Positions,
    Datetime: Moments,
    Count: Counts,
    Skipped: ChangedConstants,
}


class Coder(nn.Module):
    """Conversion of raw values, as `inputs.matrix` returns them, to coded rows and surcharges.

    Args:
        schema: the columns of the model.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        columns = columns_of(schema)
        place = {part.name: i for i, part in enumerate(schema.parts)}
        self.members, self.changes, self.changeable = nn.ModuleList(), None, None
        self.sources: list[Tensor | None] = []
        order: list[int] = []
        groups: dict[object, list[int]] = {}
        for i, column in enumerate(columns):
            groups.setdefault(_group(column), []).append(i)
        for places in groups.values():
            alike = [columns[i] for i in places]
            source = None if len(places) == len(columns) else torch.tensor(places)
            module = _MODULES[type(alike[0])](alike)  # pyright: ignore[reportArgumentType]
            if isinstance(module, ChangedConstants):
                self.changes, self.changeable = module, source
                continue
            self.members.append(module)
            self.sources.append(source)
            order += [place[part] for part in _parts_of(alike)]
        back = torch.tensor(order).argsort()
        self.back = None if torch.equal(back, torch.arange(len(back))) else back

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (rows, parts) float32, and (rows,) nats, or None if no column was constant."""
        pieces = [
            module(_picked(raw, source))
            for module, source in zip(self.members, self.sources, strict=True)
        ]
        coded = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        nats = None if self.changes is None else self.changes(_picked(raw, self.changeable))
        return _picked(coded, self.back).float(), nats


def _group(column: Column) -> object:
    """Return a key that is equal for columns of the same coding; every date has its own."""
    if isinstance(column, Numeric):
        return column.kind, column.quantiles is None, bool(column.atoms)
    return column.name if isinstance(column, Datetime) else type(column)


def _parts_of(columns: Sequence[Column]) -> list[str]:
    """Return the parts in the order of a module's output: first parts, then atoms."""
    if isinstance(columns[0], Numeric):
        return [c.parts[i].name for i in range(len(columns[0].parts)) for c in columns]
    return [part.name for column in columns for part in column.parts]


def _picked(x: Tensor, places: Tensor | None) -> Tensor:
    return x if places is None else x.index_select(1, places)


def _doubles(values: Sequence[object]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
