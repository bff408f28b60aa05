"""Fully connected networks and readers of table rows: (B, ...) -> (B, ...)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowerbound.errors import UsageError

ONE_HOT_LIMIT = 64  # a column with more levels than this is embedded


class Nonlinearity(NamedTuple):
    """Nonlinearity after a linear map or a convolution.

    Attributes:
        width: inputs of the nonlinearity per output: 2 for a gated one.
        make: constructor of the module, which acts on axis 1.
    """

    width: int
    make: Callable[[], nn.Module]


SILU = Nonlinearity(1, nn.SiLU)
NONLINEARITIES = {
    "silu": SILU,
    "relu": Nonlinearity(1, nn.ReLU),
    "tanh": Nonlinearity(1, nn.Tanh),
    # Times a sigmoid: Dauphin et al., "Language modeling with gated convolutions", 2017.
    "gated": Nonlinearity(2, partial(nn.GLU, 1)),
}


def trunk(sizes: Sequence[int], after: Nonlinearity = SILU) -> nn.Sequential:
    """Return linear maps with a nonlinearity after each: (B, sizes[0]) -> (B, sizes[-1]).

    Args:
        sizes: widths from input to output.
        after: the nonlinearity.

    >>> [type(layer).__name__ for layer in trunk([4, 8, 2])]
    ['Linear', 'SiLU', 'Linear', 'SiLU']
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, after.width * outputs), after.make()]
    return nn.Sequential(*layers)


class MLP(nn.Sequential):
    """Linear layers with SiLU between them; (B, sizes[0]) -> (B, sizes[-1]).

    Args:
        sizes: widths from input to output; two widths give one linear map.

    >>> MLP([4, 8, 2])(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(*list(trunk(sizes))[:-1])


class Concat(nn.Module):
    """The usual `advance` of a level: (h, z) -> net([h, z]), concatenated on axis 1.

    Args:
        net: module from the concatenation to the next state.

    >>> Concat(MLP([5, 8]))(torch.zeros(3, 2), torch.zeros(3, 3)).shape
    torch.Size([3, 8])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Return the next state."""
        return self.net(torch.cat([h, z], 1))


class Empty(nn.Module):
    """First state of a model without context: a tensor of shape (batch, 0).

    >>> Empty()(None, 3).shape
    torch.Size([3, 0])
    """

    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(self, context: Tensor | None, batch: int) -> Tensor:
        """Return a (batch, 0) tensor on the model's device."""
        return self.anchor.new_zeros(batch, 0)


class Single(nn.Module):
    """Encoder of a model of one level: (x, context) -> [net(x)].

    Args:
        net: module from x to the features.

    >>> [f.shape for f in Single(MLP([4, 8]))(torch.zeros(3, 4), None)]
    [torch.Size([3, 8])]
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return the one feature tensor."""
        return [self.net(x)]


class Reader(nn.Module):
    """Base class of readers, which turn columns of one kind into `width` numbers without NaN."""

    width: int


class FilledReader(Reader):
    """Reader of numbers: NaN becomes 0.

    Args:
        features: number of columns.
        indicators: append an indicator of the missing values for each column.

    >>> FilledReader(2, indicators=True)(torch.tensor([[1.0, torch.nan]]))
    tensor([[1., 0., 0., 1.]])
    """

    def __init__(self, features: int, indicators: bool) -> None:
        super().__init__()
        self.indicators = indicators
        self.width = features * (2 if indicators else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width)."""
        filled = x.nan_to_num(0.0)
        return torch.cat([filled, x.isnan().to(x.dtype)], 1) if self.indicators else filled


class CodeFeatures(Reader):
    """Reader of categorical codes: one-hot vectors, or embeddings for more than 64 levels.

    A missing code (NaN) becomes the zero vector.

    Args:
        sizes: number of codes of each column.
    """

    few: Tensor
    offsets: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        few = [i for i, size in enumerate(sizes) if size <= ONE_HOT_LIMIT]
        self.many = [i for i, size in enumerate(sizes) if size > ONE_HOT_LIMIT]
        offsets = torch.tensor([0, *[sizes[i] for i in few]]).cumsum(0)
        self.register_buffer("few", torch.tensor(few, dtype=torch.long), persistent=False)
        self.register_buffer("offsets", offsets[:-1], persistent=False)
        self.one_hot = int(offsets[-1])
        widths = [min(50, round(1.6 * sizes[i] ** 0.56)) for i in self.many]
        self.tables = nn.ModuleList(
            nn.Embedding(sizes[i], width) for i, width in zip(self.many, widths, strict=True)
        )
        self.width = self.one_hot + sum(widths)

    def forward(self, codes: Tensor) -> Tensor:
        """Return (B, width) for (B, columns) float codes."""
        seen = ~codes.isnan()
        index = codes.nan_to_num(0.0).long()
        hot = codes.new_zeros(codes.shape[0], self.one_hot)  # len() would fix it in a graph
        if self.one_hot:
            places = index[:, self.few] + self.offsets
            hot.scatter_(1, places, seen[:, self.few].to(hot.dtype))
        rest = [
            table(index[:, i]) * seen[:, i : i + 1]
            for i, table in zip(self.many, self.tables, strict=True)
        ]
        return torch.cat([hot, *rest], 1)


class TableFeatures(Reader):
    """Reader of the coded columns of a table: (B, columns) -> (B, width), NaN being missing.

    Args:
        families: for every coded column, "real", "count", "binary", "ordinal" or "categorical".
        sizes: number of codes of every coded column; 1 for numbers.
        indicators: append missing-value indicators for the numeric columns.

    >>> reader = TableFeatures(["real", "categorical"], [1, 3], indicators=True)
    >>> reader(torch.tensor([[0.5, 2.0], [torch.nan, 0.0]]))
    tensor([[0.5000, 0.0000, 0.0000, 0.0000, 1.0000],
            [0.0000, 1.0000, 1.0000, 0.0000, 0.0000]])
    """

    def __init__(self, families: Sequence[str], sizes: Sequence[int], indicators: bool) -> None:
        super().__init__()
        self.readers, self.width = nn.ModuleDict(), 0
        for family in dict.fromkeys(families):
            columns = [i for i, f in enumerate(families) if f == family]
            self.register_buffer(f"at_{family}", torch.tensor(columns), persistent=False)
            reader = _READERS[family]([sizes[i] for i in columns], indicators)
            self.readers[family] = reader
            self.width += reader.width

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width) for coded (B, columns) with NaN for missing."""
        pieces = [
            reader(x.index_select(1, self.get_buffer(f"at_{family}")))
            for family, reader in self.readers.items()
        ]
        return torch.cat(pieces, 1)


class MappedReader(Reader):
    """Fixed elementwise map before `FilledReader`: log(1 + x) for counts, centring for grades."""

    scale: Tensor

    def __init__(self, scale: Tensor, shift: float, log: bool, filled: FilledReader) -> None:
        super().__init__()
        self.shift, self.log, self.filled, self.width = shift, log, filled, filled.width
        self.register_buffer("scale", scale, persistent=False)
        # Skip two passes over up to tens of thousands of columns if they would change nothing.
        self.moved = shift != 0 or bool((scale != 1).any())

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width)."""
        x = x.clamp_min(0).log1p() if self.log else x
        return self.filled(x * self.scale - self.shift if self.moved else x)


def _numbers(sizes: Sequence[int], indicators: bool) -> Reader:
    return FilledReader(len(sizes), indicators)


def _counts(sizes: Sequence[int], indicators: bool) -> Reader:
    return MappedReader(torch.ones(len(sizes)), 0.0, True, FilledReader(len(sizes), indicators))


def _binary(sizes: Sequence[int], indicators: bool) -> Reader:
    return MappedReader(
        torch.full((len(sizes),), 2.0), 1.0, False, FilledReader(len(sizes), indicators)
    )


def _grades(sizes: Sequence[int], indicators: bool) -> Reader:
    scale = 2.0 / (torch.tensor(sizes) - 1).clamp_min(1)
    return MappedReader(scale, 1.0, False, FilledReader(len(sizes), indicators))


def _codes(sizes: Sequence[int], indicators: bool) -> Reader:
    return CodeFeatures(sizes)


_READERS = {
    "real": _numbers,
    "count": _counts,
    "binary": _binary,
    "ordinal": _grades,
    "categorical": _codes,
}


class RandomLayer(nn.Module):
    """Base of layers that draw random numbers while training, from a generator lent to them.

    `loop.fit` lends one to all such layers of its model and seeds it anew at every step, so that
    a fit can be resumed exactly and fits in several threads do not share a state. Elsewhere, use
    `lent`.
    """

    _generator: torch.Generator | None = None

    @property
    def generator(self) -> torch.Generator:
        """The generator that was lent to the layer.

        Raises:
            UsageError: E246 where none was lent.
        """
        if self._generator is None:
            raise UsageError(
                "E246",
                f"a layer of type {type(self).__name__} draws while training, and no generator "
                "was lent to it",
                fix="with lent(model, generator): ..., or model.eval()",
            )
        return self._generator


@contextmanager
def lent(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Let all `RandomLayer` layers of a module use a generator inside the block.

    Args:
        module: the module, which one thread at a time may train.
        generator: on the device of the module.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, RandomLayer)]
    before = [layer._generator for layer in layers]
    for layer in layers:
        layer._generator = generator
    try:
        yield
    finally:
        for layer, earlier in zip(layers, before, strict=True):
            layer._generator = earlier


class ValueDropout(RandomLayer):
    """Hide a random share of the values from the encoder while training.

    The bound stays a bound: q(z | x) may be any function of x, so also of a part of it. It makes
    the posterior robust to missing values and is a mild regulariser.

    Args:
        rate: probability that a value is hidden.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some values NaN in training, and x itself in evaluation."""
        if not self.training or not self.rate:
            return x
        uniform = torch.rand(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)
        return x.masked_fill(uniform < self.rate, torch.nan)
