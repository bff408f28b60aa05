"""A chain of columns: p(row) as a product of p(column | any subset of the others).

One network gives the conditional of every column given any set of columns that are seen. Rows are
drawn column by column; values that are given are seen first, so that draws given some values are
exact draws from the conditionals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple, NotRequired

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn
from typing_extensions import TypedDict

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import ONE, Unchecked, sample
from lowerbound.nn.distributions.gaussian_conditionals import GaussianConditionals
from lowerbound.nn.networks.seen_values import SeenValues

NEVER = -1e9  # in place of the logarithm of 0, so that a masked softmax stays finite
LOGISTICS = 5  # logistic components of a column of numbers, besides those at copied values
MIDDLES = -1.0, -0.5, 0.0, 0.5, 1.0  # first locations of the logistic components
NEAR = -3.0  # first logarithm of the scale of a logistic at a copied value
WIDEST = 2.0  # logarithm of the largest scale of a logistic, in units of the coded column
BROAD = 3.0  # standard deviation of the component that covers numbers training has not seen
FARTHEST = 6.0  # a number beyond it is read as it
LARGEST = 1e30  # raw value by a formula; 1 / 0 counts as it
OUTERMOST = 100.0  # a formula may give a value far beyond the others, whose code is cut there
FEW_COMPONENTS = 15  # columns with at most one more are computed together
TOGETHER = 64  # columns whose conditionals are computed together
PADDING = 3e38  # after the last number of a row of a table: model files hold finite numbers
QUANTILES = [(i + 0.5) / 8 for i in range(8)]  # of a component, for the mean of raw values
MATCHES, MATCHED = 3, 2_048  # rounds of matching rare combinations, and rows at once
# Times that rows are drawn again, most copies of a row each time, and times that fewer than the
# share `HARDLY` of them may come right.
AGAIN, COPIES, VAIN, HARDLY = 24, 32, 3, 0.02
PATTERNS = 256  # most patterns of open columns that are drawn in orders of their own
NEARLY = 1e-4  # difference of two codes of one value
SAME = 1e-6  # difference of two raw values of one number, as a share of the larger
OPEN, NO_CODE = -1, -2  # in place of a code: nothing follows, or a number without a code
CERTAIN = 1e6  # factor on the logarithms of ties where rows are drawn: never against them


class Formula(TypedDict):
    """A formula for a number, in raw values.

    Attributes:
        columns: columns of numbers, or of codes with values in `CodeValues`.
        weights: the weight of each of these columns.
        constant: the intercept, or the factor of a product.
        form: "sum" for sum(weights * columns) + constant; "log", the same of logarithms; "exp",
            the exponential of a sum; "product" for product(columns ** weights) * constant.
    """

    columns: list[int]
    weights: list[float]
    constant: float
    form: Literal["sum", "log", "exp", "product"]


class NumberColumn(TypedDict):
    """The shape of p(number | others): how many components of each kind it has.

    Attributes:
        column: its index.
        spikes: number of values with a probability of their own.
        cells: number of intervals with a uniform density each.
        knots: number of knots of the map from codes to raw values.
        log: whether the raw value is the exponential of the mapped code.
        copies: columns of numbers whose raw value this one may repeat or be close to.
        formula: the raw value that it had on all training rows, from those of other columns.
        only_spikes: true if every number of the training rows is a spike; then no other is drawn.
    """

    column: int
    spikes: int
    cells: int
    knots: int
    log: bool
    copies: list[int]
    formula: NotRequired[Formula]
    only_spikes: NotRequired[bool]


class CodeValues(TypedDict):
    """The numbers that the codes of a column stand for.

    Attributes:
        column: its index.
        values: the raw value of each code; None for a code that stands for none. In a column that
            decides on a gated number, that is the code under which the number has a value.
        near: largest difference of a raw value by the formula from that of its code.
        formula: the raw value that it had on all training rows, from those of other columns.
    """

    column: int
    values: list[float | None]
    near: float
    formula: NotRequired[Formula]


class OtherFormula(TypedDict):
    """A further formula of a column, for draws and gaps where the first one says nothing.

    Attributes:
        column: its index.
        formula: the raw value that it had on all training rows.
        within: most difference of the raw value of the formula's first column from its value
            before it was rounded; 0 if the formula gives every number, to its grid.
    """

    column: int
    formula: Formula
    within: float


class Sum(TypedDict):
    """A weighted sum of raw values: one number, a date in days, or a difference of two.

    Attributes:
        columns: columns of numbers, or of codes with values in `CodeValues`.
        weights: the weight of each of these columns.
        constant: the intercept.
    """

    columns: list[int]
    weights: list[float]
    constant: float


class Bound(Sum):
    """A sum that was at most 0 on all training rows: one number was at most another."""


class Steps(Sum):
    """A column whose code followed from the interval of a sum on all training rows.

    Attributes:
        column: its index.
        cuts: rising values of the sum between the intervals.
        codes: the code in each interval, one more than cuts. Codes of numbers are spikes.
    """

    column: int
    cuts: list[float]
    codes: list[int]


class Tie(TypedDict):
    """A pair of columns with restricted combinations of values.

    Attributes:
        seen: the column that is seen.
        column: the column whose values are restricted by it.
    """

    seen: int
    column: int


class Gate(TypedDict):
    """A column that has a value only where another one has a certain code.

    Attributes:
        column: the gated column.
        by: the column that decides.
        code: its code under which the gated column has a value.
    """

    column: int
    by: int
    code: int


class ChainLayout(TypedDict):
    """The arguments of `Chain` that a model file stores, as plain JSON values."""

    order: list[int]
    numbers: list[NumberColumn]
    gates: list[Gate]
    ties: list[Tie]
    rare: list[Tie]
    width: int
    novel: float
    narrowest: float
    gaussian: NotRequired[list[list[int]] | None]
    code_values: NotRequired[list[CodeValues]]
    others: NotRequired[list[OtherFormula]]
    steps: NotRequired[list[Steps]]
    bounds: NotRequired[list[Bound]]


class Coded(NamedTuple):
    """Rows as the chain reads them.

    Attributes:
        x: (B, C) coded rows, NaN where a value is open or does not apply.
        codes: (B, C) int64, the index of each value among the codes of its column.
        values: (B, N) of the columns of numbers, 0 where missing.
        spikes: (B, N) int64 index of the spike that the number is, or -1.
        cells: (B, N) int64 index of the cell that the number lies in, or -1.
        low: (B, N) least number that is rounded to the same value.
        high: (B, N) largest such number.
        copies: (B, N, S) the code that each copied raw value has in this column.
    """

    x: Tensor
    codes: Tensor
    values: Tensor
    spikes: Tensor
    cells: Tensor
    low: Tensor
    high: Tensor
    copies: Tensor

    def at(self, rows: Tensor) -> Coded:
        """Return some of the rows."""
        return Coded(*(each[rows] for each in self))


class Prepared(NamedTuple):
    """Rows as their conditionals need them, with an order of the columns.

    Attributes:
        rows: B rows.
        known: (B, C) bool, the values that are not missing.
        given: (B, C) bool, the values that have a log p.
        rank: (C,) the place of each column in the order.
        first: (B, C) bool, values that come before all others; None for none.
        mean: (B, N) of the numbers in the Gaussian given earlier values; None without one.
        deviation: (B, N) likewise, the standard deviation.
    """

    rows: Coded
    known: Tensor
    given: Tensor
    rank: Tensor
    first: Tensor | None
    mean: Tensor | None
    deviation: Tensor | None


class Heads(NamedTuple):
    """The network's numbers for the conditionals of n columns: all codes, or all numbers.

    Attributes:
        columns: their indices.
        at: their places among the columns that were asked for.
        logits: (n, B, K) unnormalised log-probabilities of codes or components; -1e9 after the
            last one of a column.
        location: (n, B, smooth) of the logistic components of numbers; None for codes.
        scale: likewise.
    """

    columns: list[int]
    at: slice
    logits: Tensor
    location: Tensor | None
    scale: Tensor | None


class Chain(nn.Module):
    """Network and layout of a chain of columns; called with a state it returns `ChainRows`.

    A column of categories has a softmax over its codes. A number has a mixture of

    - spikes, which are values that occur often;
    - copies of other columns' raw values or of the value by a formula, and logistic densities at
      these;
    - cells, which are intervals with a uniform density each;
    - logistic densities.

    All of it is a density of the coded number: what is rounded to one value has a constant
    density there.

    References:
        Uria, Murray & Larochelle, "A deep and tractable density estimator", 2014,
        https://arxiv.org/abs/1310.1757; Salimans, Karpathy, Chen & Kingma, "PixelCNN++", 2017,
        section 2.1 (mixtures of logistics of rounded numbers), https://arxiv.org/abs/1701.05517

    Args:
        families: kind of every coded column; "real" and "count" are numbers.
        sizes: number of codes of every coded column; 1 for numbers.
        reserved: for every column, the probability of code 0, which stands for values that
            training has not seen, or 0 where code 0 is like the others.
        order: the columns in the order in which they are drawn.
        numbers: the columns of numbers, in the order of their indices.
        gates: columns that have a value only under a code of another one.
        ties: pairs of columns where one determines the other; other combinations of values are
            never drawn.
        rare: pairs of columns with combinations of values that are much rarer than under
            independence. The buffer ``rare{i}`` is added to the logits: log(observed / expected)
            for these combinations, 0 for others. The network learns the difference to it.
        width: of the network.
        novel: probability of a number that training has not seen, and the factor on that of a
            pair of tied values that it has not seen. Neither is ever drawn.
        narrowest: smallest scale of a logistic density, in units of the coded column.
        gaussian: the (column, code) pairs that enter a Gaussian besides all numbers. The logistic
            densities of a number begin at its conditional in this Gaussian, given the seen
            columns, and the network learns the difference. None is without it.
        code_values: the numbers that codes stand for, of columns in a formula or in `steps`.
        others: further formulas, for draws and gaps only: the density does not know them.
        steps: columns that follow from the interval a number lies in.
        bounds: numbers that are at most others, for draws and gaps only.

    Raises:
        UsageError: E240 if the arguments contradict each other.
    """

    edges: Tensor
    spikes: Tensor
    raw: Tensor
    coded: Tensor
    grains: Tensor

    def __init__(  # noqa: PLR0913 - the arguments that a model file stores
        self,
        families: Sequence[str],
        sizes: Sequence[int],
        reserved: Sequence[float] = (),
        *,
        order: Sequence[int],
        numbers: Sequence[NumberColumn],
        gates: Sequence[Gate] = (),
        ties: Sequence[Tie] = (),
        rare: Sequence[Tie] = (),
        width: int = 256,
        novel: float = 1e-3,
        narrowest: float = 2.5e-3,
        gaussian: Sequence[Sequence[int]] | None = None,
        code_values: Sequence[CodeValues] = (),
        others: Sequence[OtherFormula] = (),
        steps: Sequence[Steps] = (),
        bounds: Sequence[Bound] = (),
    ) -> None:
        super().__init__()
        count = len(families)
        self.order, self.numbers, self.ties = list(order), list(numbers), list(ties)
        self.novel, self.narrowest, self.width = novel, narrowest, width
        self.reserved = list(reserved) or [0.0] * count
        of_numbers = [i for i, kind in enumerate(families) if kind in ("real", "count")]
        self.place = {i: n for n, i in enumerate(of_numbers)}
        self.gates = {gate["column"]: (gate["by"], gate["code"]) for gate in gates}
        self.code_values = {each["column"]: each for each in code_values}
        self.others, self.steps, self.bounds = list(others), list(steps), list(bounds)
        self._check(count, of_numbers, gates, rare, gaussian)
        levels = [max(2, size) for size in sizes]
        for each in numbers:
            levels[each["column"]] = each["spikes"] + each["cells"]
        self.levels = levels
        self.components = list(levels)
        for each in numbers:
            self.components[each["column"]] += 2 * slots(each) + LOGISTICS
        self.most_copies = max(map(slots, numbers), default=0)
        self.smooth = LOGISTICS + self.most_copies
        ends = list(accumulate(self.components))
        self.spans = [(end - size, end) for end, size in zip(ends, self.components, strict=True)]
        self.net = SeenValues(levels, of_numbers, width)
        self.head = nn.Linear(width, ends[-1])
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.gaussian = None
        if numbers:
            self._build_numbers()
            if gaussian is not None:
                self.gaussian = GaussianConditionals(of_numbers, gaussian, list(self.gates))
        for i, tie in enumerate(ties):
            shape = levels[tie["seen"]], self.components[tie["column"]]
            self.register_buffer(f"tie{i}", torch.zeros(shape))
        for column, each in self.code_values.items():
            numbers_of = [math.nan if v is None else v for v in each["values"]]
            found = torch.tensor(numbers_of, dtype=torch.float64)
            self.register_buffer(f"code_values{column}", found, persistent=False)
        self.rare = list(rare)
        for i, tie in enumerate(rare):
            shape = levels[tie["seen"]], self.components[tie["column"]]
            self.register_buffer(f"rare{i}", torch.zeros(shape))

    def _check(
        self,
        count: int,
        of_numbers: list[int],
        gates: Sequence[Gate],
        rare: Sequence[Tie],
        gaussian: Sequence[Sequence[int]] | None,
    ) -> None:
        named = [tie[end] for tie in [*self.ties, *rare] for end in ("seen", "column")]
        named += [gate[end] for gate in gates for end in ("column", "by")]
        formulas = [each["formula"] for each in self.numbers if "formula" in each]
        formulas += [each["formula"] for each in self.code_values.values() if "formula" in each]
        formulas += [each["formula"] for each in self.others]
        copied = [source for each in self.numbers for source in each["copies"]]
        sources = [source for formula in formulas for source in formula["columns"]]
        further = [*self.bounds, *self.steps]
        sources += [source for each in further for source in each["columns"]]
        named += [*self.code_values, *(e["column"] for e in (*self.steps, *self.others))]
        sums = [*formulas, *further]
        quantities = {*self.place, *self.code_values}
        fits = (
            sorted(self.order) == list(range(count))
            and [each["column"] for each in self.numbers] == of_numbers
            and all(0 <= i < count for i in named)
            and all(source in self.place for source in copied)
            and quantities.issuperset(sources)
            and self.place.keys().isdisjoint(self.code_values)
            and all(len(s["codes"]) == len(s["cuts"]) + 1 for s in self.steps)
            and all(len(f["columns"]) == len(f["weights"]) > 0 for f in sums)
            and all(map(math.isfinite, (w for f in sums for w in _factors(f))))
            and all(each["cells"] >= 1 and each["knots"] >= 2 for each in self.numbers)
            and all(each["spikes"] >= 0 for each in self.numbers)
            and all(self.order.index(g["by"]) < self.order.index(g["column"]) for g in gates)
            and all(0 <= i < count and i not in self.place for i, _ in gaussian or ())
            and 0 < self.novel < 1
            and 0 < self.narrowest < 1
        )
        if not fits:
            raise UsageError(
                "E240",
                "the columns of the chain contradict each other",
                fix="take the arguments from `lowerbound.training.row_stage`",
            )

    def _build_numbers(self) -> None:
        """Make the buffers of the columns of numbers, and the heads of their densities."""
        each, count = self.numbers, len(self.numbers)

        def padded(name: str, width: int, value: float, dtype: torch.dtype) -> None:
            self.register_buffer(name, torch.full((count, width), value, dtype=dtype))

        widest = [max(n[kind] for n in each) for kind in ("cells", "spikes", "knots")]
        padded("edges", widest[0] + 1, PADDING, torch.float32)
        padded("spikes", max(1, widest[1]), PADDING, torch.float32)
        padded("raw", widest[2], PADDING, torch.float64)
        padded("coded", widest[2], PADDING, torch.float64)
        self.register_buffer("grains", torch.zeros(count, dtype=torch.float64))
        self.shapes = nn.Linear(self.width, count * 2 * self.smooth)
        self.skip = nn.Linear(count, count * self.smooth, bias=False)
        nn.init.zeros_(self.shapes.weight)
        nn.init.zeros_(self.skip.weight)
        with torch.no_grad():
            middle = [*MIDDLES] + [0.0] * self.most_copies
            narrow = [-1.0] * LOGISTICS + [NEAR] * self.most_copies
            self.shapes.bias.copy_(torch.tensor([*middle, *narrow]).repeat(count))
        source = torch.zeros(count, self.most_copies, dtype=torch.long)
        for n, own in enumerate(each):
            source[n, : len(own["copies"])] = torch.tensor([self.place[c] for c in own["copies"]])
        further: dict[str, Tensor] = {
            "last_knot": torch.tensor([n["knots"] - 1 for n in each]),
            "last_cell": torch.tensor([n["cells"] - 1 for n in each]),
            "spike_count": torch.tensor([n["spikes"] for n in each]),
            "logs": torch.tensor([n["log"] for n in each]),
            "at": torch.tensor([n["column"] for n in each]),
            "source": source,
        }
        for name, values in further.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, h: Tensor) -> ChainRows:
        """Return the distribution of rows, one for each row of a state (B, 0)."""
        return ChainRows(self, len(h))

    def first_value(self, column: int) -> int:
        """Return the index of a column's first code among its components."""
        number = self.place.get(column)
        return 0 if number is None else slots(self.numbers[number])

    # The map between codes and raw values

    def raw_of(self, x: Tensor, which: Tensor) -> Tensor:
        """Return raw values (B, N'), on their grid, of coded numbers of the columns `which`."""
        return self._on_grid(self._raw_of(x, which), which)

    def _raw_of(self, x: Tensor, which: Tensor) -> Tensor:
        """Return raw values (B, N') of coded numbers of the columns `which` (N',)."""
        found = _interpolated(x.double(), self.coded[which], self.raw[which], self._ends(which))
        return torch.where(self.get_buffer("logs")[which], found.clamp_max(700.0).exp(), found)

    def coded_of(self, raw: Tensor, which: Tensor) -> Tensor:
        """Return coded numbers of raw values, the inverse of `_raw_of`."""
        logs = self.get_buffer("logs")[which]
        found = torch.where(logs, raw.clamp_min(1e-300).log(), raw)
        return _interpolated(found, self.raw[which], self.coded[which], self._ends(which))

    def _ends(self, which: Tensor) -> Tensor:
        return self.get_buffer("last_knot")[which]

    def rounded(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return coded numbers on the grid of their raw values, and what is rounded to them.

        Args:
            x: (B, N') coded numbers.
            which: (N',) their places among the columns of numbers.

        Returns:
            The numbers, and the least and the largest number that are rounded to the same raw
            value; all three are x for columns without a grid.
        """
        some = (self.grains[which] > 0).nonzero()[:, 0]
        if not len(some):
            return x, x, x
        if len(some) == len(which):
            return self._ends_on_grid(x, which)
        ends = self._ends_on_grid(x[:, some], which[some])
        middle, low, high = (x.index_copy(1, some, each) for each in ends)
        return middle, low, high

    def _ends_on_grid(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `rounded` does, for columns with a grid only."""
        step = self.grains[which]
        raw = self.raw_of(x, which)
        # A positive raw value keeps a positive lower end.
        down = torch.where(raw > 0, torch.maximum(raw - step / 2, raw / 2), raw - step / 2)
        middle, low, high = (self.coded_of(e, which).to(x) for e in (raw, down, raw + step / 2))
        return middle, low, high

    # Reading rows

    def read(self, x: Tensor) -> Coded:
        """Return rows (B, C) as the chain reads them; NaN is open.

        A gated column counts as missing where its gate is closed, whatever its number there.
        """
        codes = x.nan_to_num(0.0).long()
        if not self.numbers:
            none = x.new_zeros(len(x), 0)
            return Coded(x, codes, none, none.long(), none.long(), none, none, none[..., None])
        at = self.get_buffer("at")
        own = x[:, at]
        values = own.nan_to_num(0.0)
        every = torch.arange(len(at), device=x.device)
        _, low, high = self.rounded(values, every)
        spikes, cells, codes[:, at] = self._places(values, low, high, every)
        copies = self._copies(values, codes, every)
        return Coded(x, codes, values, spikes, cells, low, high, copies)

    def _copies(self, values: Tensor, codes: Tensor, which: Tensor) -> Tensor:
        """Return the codes (B, N', S) in some columns of numbers of the values they copy."""
        if not self.most_copies:
            return values.new_zeros(len(values), len(which), 0)
        source = self.get_buffer("source")[which].flatten()
        raw = self.raw_of(values[:, source], source)
        raw = raw.view(len(values), len(which), self.most_copies)
        for i, number in enumerate(which.tolist()):
            own = self.numbers[number]
            if "formula" in own:
                raw[:, i, len(own["copies"])] = self._by_formula(values, codes, own["formula"])
        own = which.repeat_interleave(self.most_copies)
        raw = self._on_grid(raw.flatten(1), own)
        found = self.coded_of(raw, own).to(values).clamp(-OUTERMOST, OUTERMOST)
        return found.view(len(values), len(which), self.most_copies)

    def _by_formula(
        self, values: Tensor, codes: Tensor, formula: Formula, shift: float = 0.0
    ) -> Tensor:
        """Return the raw value (B,) that a formula gives, its first column being shifted."""
        raw = self._raw_values(values, codes, formula["columns"])
        if shift:
            raw[:, 0] += shift
        weights = raw.new_tensor(formula["weights"])
        form, constant = formula["form"], formula["constant"]
        if form == "product":
            found = (raw.clamp_min(0.0) ** weights).prod(-1) * constant
        else:
            found = (raw.clamp_min(0.0).log() if form == "log" else raw) @ weights + constant
            found = found.exp() if form == "exp" else found
        return found.nan_to_num(0.0).clamp(-LARGEST, LARGEST)

    def _sum_of(self, each: Sum, values: Tensor, codes: Tensor) -> Tensor:
        """Return a weighted sum of raw values, (B,)."""
        raw = self._raw_values(values, codes, each["columns"])
        return raw @ raw.new_tensor(each["weights"]) + each["constant"]

    def _raw_values(self, values: Tensor, codes: Tensor, columns: Sequence[int]) -> Tensor:
        """Return the raw values (B, n) of columns of numbers, or of codes that stand for some.

        A gated number has the value of the code where its gate is closed.
        """
        numbers = [column for column in columns if column in self.place]
        which = [self.place[column] for column in numbers]
        at = torch.tensor(which, dtype=torch.long, device=values.device)
        raw = self.raw_of(values[:, at], at).unbind(1) if which else ()
        found = dict(zip(numbers, raw, strict=True))
        for column in columns:
            by, none = self.gates.get(column, (column, -1))
            own = by if by in self.code_values else column
            if own in self.code_values:
                raw = self.get_buffer(f"code_values{own}")[codes[:, own]].nan_to_num(0.0)
                number = found.get(column)
                found[column] = raw if number is None else number.where(codes[:, by] == none, raw)
        return torch.stack([found[column] for column in columns], -1)

    def _have_values(self, columns: Sequence[int], codes: Tensor, seen: Tensor) -> Tensor:
        """Return the rows (B,) in which the raw values of all these columns are seen.

        Args:
            columns: as for `_raw_values`.
            codes: (B, C) codes.
            seen: (B, C) bool.
        """
        known = torch.ones_like(seen[:, 0])
        for column in columns:
            by, none = self.gates.get(column, (column, -1))
            own, one = by if by in self.code_values else column, seen[:, column]
            if own in self.code_values:
                stands = ~self.get_buffer(f"code_values{own}")[codes[:, own]].isnan()
                inside = seen[:, own] & (stands | (one & (codes[:, by] == none)))
                one = one & stands if own == column else inside
            known &= one
        return known

    def _implied(
        self,
        column: int,
        values: Tensor,
        codes: Tensor,
        seen: Tensor,
        others: Sequence[Formula] = (),
    ) -> Tensor:
        """Return the code of a column (B,) that follows from the seen ones.

        It is `OPEN` where nothing follows, and `NO_CODE` where a number follows that no code
        stands for. A formula counts before others, these before steps, and the first steps before
        the next.
        """
        implied = codes.new_full((len(codes),), OPEN)
        for each in reversed(self.steps):
            if each["column"] == column:
                raw = self._sum_of(each, values, codes)
                interval = torch.bucketize(raw, raw.new_tensor(each["cuts"]), right=True)
                found = codes.new_tensor(each["codes"])[interval]
                implied = found.where(self._have_values(each["columns"], codes, seen), implied)
        own = self.code_values.get(column)
        if own is None:
            return implied
        gated = [self.place[c] for c, (by, _) in self.gates.items() if by == column][:1]
        table = self.get_buffer(f"code_values{column}")
        none = codes.new_tensor(self._no_value(column))
        for formula in [*reversed(others), *([own["formula"]] if "formula" in own else [])]:
            raw = self._by_formula(values, codes, formula)
            if gated:
                which = torch.tensor(gated, device=raw.device)
                raw = self._on_grid(raw[:, None], which)[:, 0]
            near, code = (raw[:, None] - table).abs().nan_to_num(math.inf).min(1)
            known = self._have_values(formula["columns"], codes, seen)
            implied = torch.where(known, code.where(near <= own["near"], none), implied)
        return implied

    def _no_value(self, column: int) -> int:
        """Return the code under which a gated number has a value; `NO_CODE` without one."""
        code = next((code for by, code in self.gates.values() if by == column), NO_CODE)
        return NO_CODE if code == 0 and self.reserved[column] else code

    @cached_property
    def _dependent(self) -> set[int]:
        """The columns that may follow from others."""
        further = {column for column in range(len(self.order)) if self._others_of(column)}
        return further | self._followers | set(self._by_formulas)

    @cached_property
    def _followers(self) -> set[int]:
        """The columns of codes that follow from numbers."""
        by_formula = {c for c, each in self.code_values.items() if "formula" in each}
        return by_formula | {each["column"] for each in self.steps}

    def _on_grid(self, raw: Tensor, which: Tensor) -> Tensor:
        grain = self.grains[which]
        step = torch.where(grain > 0, grain, 1.0)
        # Decimals are rounded as NumPy and pandas do: an exact half is one of the product.
        parts = (1 / step).round()
        decimal = (raw * parts).round() / parts.clamp_min(1.0)
        whole = (raw / step).round() * step
        divides = (parts * step - 1).abs() < 1e-9
        return torch.where(grain > 0, torch.where(divides, decimal, whole), raw)

    def _places(
        self, x: Tensor, low: Tensor, high: Tensor, which: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the spike and the cell of numbers (B, N'), -1 for none, and their codes."""
        count, table = self.get_buffer("spike_count")[which], self.spikes[which]
        near = torch.searchsorted(table, low.T.contiguous()).clamp_max(table.shape[1] - 1)
        value, near = table.gather(1, near).T, near.T
        inside = (low <= value) & (value <= high) & (low < high)
        spikes = torch.where(inside & (near < count), near, -1)
        edges, last = self.edges[which], self.get_buffer("last_cell")[which]
        inner = torch.searchsorted(edges, x.T.contiguous(), right=True).T - 1
        end = edges.gather(1, last[:, None] + 1)[:, 0]
        outside = (inner < 0) | (x > end)
        inside = torch.minimum(inner.clamp_min(0), last)
        place = torch.where(spikes >= 0, spikes, count + inside)
        return spikes, torch.where(outside, -1, inside), place

    def vectors(self, rows: Coded, seen: Tensor) -> Tensor:
        """Return the vectors (C, B, width) of the values that are seen, and 0 for the others."""
        return self.net.vectors(rows.codes, rows.values.clamp(-FARTHEST, FARTHEST), seen)

    # Conditionals

    def _groups(self, columns: Sequence[int]) -> list[list[int]]:
        """Return places of columns of a kind and of similar numbers of components."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for i, column in enumerate(columns):
            length = max(FEW_COMPONENTS, self.components[column] - 1).bit_length()
            groups.setdefault((column in self.place, length), []).append(i)
        return list(groups.values())

    def _grouped(self, columns: Sequence[int]) -> list[int]:
        """Return the columns with those of a group of `_groups` next to each other."""
        return [columns[i] for group in self._groups(columns) for i in group]

    def heads(
        self,
        rows: Coded,
        seen: Tensor,
        columns: Sequence[int],
        total: Tensor,
        expected: tuple[Tensor, Tensor] | None,
    ) -> list[Heads]:
        """Return the network's numbers for the conditionals of some columns.

        Args:
            rows: B rows.
            seen: (B, P, C) bool, the columns that are seen where each of the P is predicted.
            columns: P columns to predict, those of a group next to each other.
            total: (P, B, width) sum of the vectors of the seen columns, for each.
            expected: mean and standard deviation in the Gaussian, each (B, P), arbitrary for
                codes; None without one.
        """
        device = total.device
        hidden = self.net(total, torch.tensor(list(columns), device=device))
        groups, found = self._groups(columns), []
        for group, h in zip(groups, hidden.split([len(g) for g in groups]), strict=True):
            own = [columns[i] for i in group]
            some = slice(group[0], group[-1] + 1)
            logits = self._components(h, own)
            location = scale = None
            if own[0] in self.place:
                which = torch.tensor([self.place[column] for column in own], device=device)
                given = None if expected is None else [each[:, some] for each in expected]
                location, scale = self._logistics(h, which, rows, seen[:, some], given)
            found.append(Heads(own, some, logits, location, scale))
        return found

    def _components(self, hidden: Tensor, columns: Sequence[int]) -> Tensor:
        """Return the logits (n, B, K) of the codes or components of n columns."""
        device = hidden.device
        sizes = torch.tensor([self.components[c] for c in columns], device=device)
        starts = torch.tensor([self.spans[c][0] for c in columns], device=device)
        each = torch.arange(max(self.components[c] for c in columns), device=device)
        index = (starts[:, None] + torch.minimum(each, sizes[:, None] - 1)).flatten()
        weight = self.head.weight.index_select(0, index).view(len(columns), len(each), -1)
        bias = self.head.bias.index_select(0, index).view(len(columns), 1, -1)
        bias = bias.masked_fill((each >= sizes[:, None])[:, None], NEVER)
        return torch.baddbmm(bias, hidden, weight.transpose(1, 2))

    def _logistics(
        self,
        hidden: Tensor,
        which: Tensor,
        rows: Coded,
        seen: Tensor,
        expected: Sequence[Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Return locations and scales (n, B, smooth) of the logistic components of n numbers."""
        count, at = len(self.numbers), self.get_buffer("at")
        weight = self.shapes.weight.view(count, 2 * self.smooth, -1).index_select(0, which)
        bias = self.shapes.bias.view(count, 1, -1).index_select(0, which)
        shapes = torch.baddbmm(bias, hidden, weight.transpose(1, 2))
        values = rows.values.clamp(-FARTHEST, FARTHEST)
        shown = values[:, None] * seen[:, :, at]
        skip = self.skip.weight.view(count, self.smooth, -1).index_select(0, which)
        skipped = torch.bmm(shown.transpose(0, 1), skip.transpose(1, 2))
        location, log_scale = shapes.chunk(2, -1)
        location = location + skipped
        if expected is not None:
            mean, deviation = (each.T.to(location)[..., None] for each in expected)
            free = location[..., :LOGISTICS] * deviation + mean
            location = torch.cat([free, location[..., LOGISTICS:]], -1)
            wider = deviation.log().expand(-1, -1, LOGISTICS)
            log_scale = log_scale + F.pad(wider, (0, self.most_copies))
        if self.most_copies:
            location = location + F.pad(rows.copies[:, which].transpose(0, 1), (LOGISTICS, 0))
        return location, log_scale.clamp(math.log(self.narrowest), WIDEST).exp()

    def log_prob_of(self, heads: Sequence[Heads], rows: Coded, seen: Tensor) -> Tensor:
        """Return log p(column | seen columns), (B, P) nats; arbitrary where it is NaN.

        Args:
            heads: what `heads` returned for P columns.
            rows: B rows.
            seen: (B, P, C) bool, the columns that are seen where each of the P is predicted.
        """
        each = [
            self._log_prob_of_codes(some, rows, seen[:, some.at])
            if some.location is None
            else self._log_prob_of_numbers(some, rows, seen[:, some.at])
            for some in heads
        ]
        return torch.cat(each).T

    def _log_p(self, heads: Heads, rows: Coded, seen: Tensor, factor: float = 1.0) -> Tensor:
        """Return the log-probabilities (n, B, K) of codes or components.

        Values that do not go with the seen columns are less likely, and a column that is not seen
        is not copied.

        Args:
            heads: of n columns.
            rows: B rows.
            seen: (B, n, C) bool, the columns that are seen where each of the n is predicted.
            factor: on the logarithms of ties.
        """
        return self._logits(heads, rows, seen, factor).log_softmax(-1)

    def _logits(self, heads: Heads, rows: Coded, seen: Tensor, factor: float = 1.0) -> Tensor:
        """Return what `_log_p` does, unnormalised."""
        less = self._less(heads, rows, seen, factor)
        return heads.logits if less is None else heads.logits + less

    @torch.no_grad()
    def _less(self, heads: Heads, rows: Coded, seen: Tensor, factor: float) -> Tensor | None:
        """Return what is added to the logits (n, B, K) of `heads`; None for nothing."""
        width = heads.logits.shape[2]
        each = [
            self._less_of(column, width, rows, seen[:, own], factor)
            for own, column in enumerate(heads.columns)
        ]
        if all(some is None for some in each):
            return None
        none = torch.zeros_like(heads.logits[0])
        return torch.stack([none if some is None else some for some in each])

    def _less_of(
        self, column: int, width: int, rows: Coded, seen: Tensor, factor: float
    ) -> Tensor | None:
        """Return what is added to the logits (B, width) of one column given `seen` (B, C)."""
        parts: list[Tensor] = []
        for name, pairs, weight in (("tie", self.ties, factor), ("rare", self.rare, 1.0)):
            for i, tie in enumerate(pairs):
                if tie["column"] != column:
                    continue
                source, table = tie["seen"], weight * self.get_buffer(f"{name}{i}")
                found = F.embedding(rows.codes[:, source], table) * seen[:, source, None]
                parts.append(F.pad(found, (0, width - table.shape[1])))
        places = torch.arange(width, device=seen.device)
        if column in self._followers:
            code = self._implied(column, rows.values, rows.codes, seen)
            others = places != (code + self.first_value(column))[:, None]
            parts.append(factor * math.log(self.novel) * (others & (code >= 0)[:, None]))
        known = self._known_copies(column, seen, rows.codes)
        if known is not None:
            unseen, copies = NEVER * (~known).to(rows.x), known.shape[1]
            end = self.components[column]
            parts.append(F.pad(unseen, (0, width - copies)))
            parts.append(F.pad(unseen, (end - copies, width - end)))
            if factor > 1 and "formula" in self.numbers[self.place[column]]:
                others = places != copies - 1
                parts.append(NEVER * (known[:, copies - 1, None] & others))
        if self.reserved[column]:
            parts.append((NEVER * (places == 0).to(rows.x)).expand(len(seen), -1))
        return sum(parts[1:], start=parts[0]) if parts else None

    def _known_copies(self, column: int, seen: Tensor, codes: Tensor) -> Tensor | None:
        """Return which copied values of a column are known, (B, S); None if it copies nothing."""
        number = self.place.get(column)
        if number is None or not slots(self.numbers[number]):
            return None
        own = self.numbers[number]
        known = seen[:, own["copies"]]
        if "formula" not in own:
            return known
        by_formula = self._have_values(own["formula"]["columns"], codes, seen)
        return torch.cat([known, by_formula[:, None]], 1)

    def _log_prob_of_codes(self, heads: Heads, rows: Coded, seen: Tensor) -> Tensor:
        """Return the log-probabilities (n, B) of codes; `seen` (B, n, C) is what each is given."""
        codes = rows.codes[:, heads.columns].T
        logits = self._logits(heads, rows, seen)
        found = logits.gather(-1, codes[..., None])[..., 0] - logits.logsumexp(-1)
        kept = found.new_tensor([[self.reserved[column]] for column in heads.columns])
        unknown = (kept > 0) & (codes == 0)
        return torch.where(unknown, kept.log(), found + (-kept).log1p())

    def _log_prob_of_numbers(self, heads: Heads, rows: Coded, seen: Tensor) -> Tensor:
        """Return the log-density (n, B) of numbers; `seen` (B, n, C) is what each is given.

        The components are copies, spikes, cells, logistics, and logistics at the copies.
        """
        assert heads.location is not None, "the columns are numbers"
        assert heads.scale is not None, "the columns are numbers"
        logits, device = self._logits(heads, rows, seen), seen.device
        own = [self.numbers[self.place[column]] for column in heads.columns]
        which = torch.tensor([self.place[column] for column in heads.columns], device=device)
        spikes, cells = (
            torch.tensor([[n[kind]] for n in own], device=device) for kind in ("spikes", "cells")
        )
        copies = torch.tensor([[slots(n)] for n in own], device=device)
        x, low, high = (each[:, which].T for each in (rows.values, rows.low, rows.high))
        grid = high > low
        log_width = torch.where(grid, high - low, 1.0).log()
        spike, cell = rows.spikes[:, which].T, rows.cells[:, which].T
        inside, edges = cell.clamp_min(0), self.edges[which]
        width = edges.gather(1, inside + 1) - edges.gather(1, inside)
        at = torch.stack([spike.clamp_min(0) + copies, inside + spikes + copies], -1)
        of_spikes, of_cells = logits.gather(-1, at).unbind(-1)
        of_cells = of_cells - width.clamp_min(1e-12).log()
        terms = [
            torch.where(spike >= 0, of_spikes - log_width, NEVER)[..., None],
            torch.where(cell >= 0, of_cells, NEVER)[..., None],
        ]
        some = torch.arange(self.smooth, device=device)
        if self.most_copies:
            value, each = rows.copies[:, which].transpose(0, 1), some[: self.most_copies]
            equal = grid[..., None] & (value >= low[..., None]) & (value <= high[..., None])
            equal &= (each < copies)[:, None]
            first = logits[..., : self.most_copies]
            first = F.pad(first, (0, self.most_copies - first.shape[-1]), value=NEVER)
            terms.append(torch.where(equal, first - log_width[..., None], NEVER))
        index = (copies + spikes + cells + some).clamp_max(logits.shape[-1] - 1)
        smooth = logits.gather(-1, index[:, None].expand(-1, logits.shape[1], -1))
        smooth = smooth.masked_fill((some >= LOGISTICS + copies)[:, None], NEVER)
        each = _logistic(low, high, grid, heads.location, heads.scale)
        terms.append(smooth + each - torch.where(grid, log_width, 0.0)[..., None])
        found = torch.cat(terms, -1).logsumexp(-1) - logits.logsumexp(-1)
        broad = -0.5 * (x / BROAD).square() - math.log(BROAD * math.sqrt(2 * math.pi))
        return torch.logaddexp(found + math.log1p(-self.novel), broad + math.log(self.novel))

    # Drawing

    @torch.no_grad()
    def draw(self, x: Tensor, source: torch.Generator | None, temperature: float = 1.0) -> Tensor:
        """Return rows (B, C) with their open values drawn given the others; 0 where gated.

        Numbers are drawn between the least and the largest of the training rows. Rows in which a
        formula gives a number beyond them, or which break a dependency with given values, are
        drawn again, a few times.

        Args:
            x: (B, C) coded rows, NaN where a value is open.
            source: the source of randomness.
            temperature: log-probabilities of components are divided by it.
        """
        drawn, free = self._draw(x, source, temperature), x.isnan()
        if not self.has_dependencies:
            return drawn
        wrong = self.breaks(drawn, free).nonzero()[:, 0]
        if not len(wrong):
            return drawn
        orders, vain = self._orders_given(x[wrong]), 0
        for _ in range(AGAIN):
            copies = min(max(len(x), COPIES) // len(wrong), COPIES) or 1
            again, own = (each.repeat_interleave(copies, 0) for each in (x[wrong], orders))
            made = self._draw_in_orders(again, own, source, temperature)
            right = ~self.breaks(made, again.isnan()).view(-1, copies)
            first = right.long().argmax(1) + copies * torch.arange(len(wrong), device=x.device)
            drawn[wrong] = made[first]
            left = ~right.any(1)
            vain += bool((~left).double().mean() < HARDLY)
            wrong, orders = wrong[left], orders[left]
            if not len(wrong) or vain == VAIN:  # given values may contradict each other
                break
        return drawn

    def _orders_given(self, x: Tensor) -> Tensor:
        """Return the order (B, C) to draw each row in, that of `_order_given` for its values."""
        patterns, at = self._open(x).unique(dim=0, return_inverse=True)
        some = [
            self._order_given(pattern) if i < PATTERNS else self.order
            for i, pattern in enumerate(patterns)
        ]
        return torch.tensor(some, device=x.device)[at]

    def _open(self, x: Tensor) -> Tensor:
        """Return which values of rows are open, (B, C): those behind a closed gate are not."""
        free = x.isnan()
        for column, (by, code) in self.gates.items():
            free[:, column] &= free[:, by] | (x[:, by] == code)
        return free

    def _order_given(self, free: Tensor) -> list[int]:
        """Return an order to draw the open columns (C,) in, if others are given.

        The next column is the first that follows from known ones, or else the first that a
        formula says nearly, or else the first in the fixed order.
        """
        open_ = [column for column in self.order if free[column]]
        order = [column for column in self.order if not free[column]]
        exact = [(c, each["columns"]) for c, each in self._by_formulas.items()]
        exact += [(e["column"], e["formula"]["columns"]) for e in self.others if not e["within"]]
        exact += [(each["column"], each["columns"]) for each in self.steps]
        coded = [(c, each["formula"]) for c, each in self.code_values.items() if "formula" in each]
        exact += [(column, formula["columns"]) for column, formula in coded]
        near = [(e["column"], e["formula"]["columns"]) for e in self.others if e["within"]]
        while open_:
            told = [
                column
                for rules in (exact, near)
                for column in open_
                if any(c == column and not set(open_) & set(parts) for c, parts in rules)
            ]
            column = told[0] if told else open_[0]
            by = self.gates.get(column, (column,))[0]
            for each in (by, column):
                if each in open_:
                    open_.remove(each)
                    order.append(each)
        return order

    def _inside(self, x: Tensor, number: int) -> Tensor:
        """Return numbers cut to the range of the training rows."""
        which = torch.tensor([number], device=x.device)
        last = self.numbers[number]["cells"]
        ends = self.edges[number, [0, last]][:, None]
        step = self.grains[number]
        if step > 0:  # the outermost edges are half a step beyond the outermost numbers
            inner = step * step.new_tensor([[0.25], [-0.25]])
            ends = self.coded_of(self._on_grid(self._raw_of(ends, which) + inner, which), which)
        low, high = ends[:, 0].to(x)
        return x.clamp(low, high)

    def _draw(self, x: Tensor, source: torch.Generator | None, temperature: float) -> Tensor:
        """Return rows drawn once, in the fixed order."""
        x = x.clone()
        rows, seen = self.read(x), self.known(x)
        total, now = self.vectors(rows, seen).sum(0), None
        if self.gaussian is not None:
            now = self.gaussian.begin(seen, ~seen, self._rank(self.order))
            every = torch.arange(len(x), device=x.device)
            for column in self.order:
                at = every[seen[:, column]]
                now.see(column, self._feature(rows, column, at), at)
        for column in self.order:
            at = (self.applies(column, rows.codes, seen) & ~seen[:, column]).nonzero()[:, 0]
            if not len(at):
                continue
            own = None
            if now is not None and column in self.place:
                own = now.of(self.place[column], at)
            drawn = self._drawn(column, rows.at(at), seen[at], total[at], own, source, temperature)
            total[at] += self._put(rows, at, column, drawn)
            seen[at, column] = True
            if now is not None:
                now.see(column, self._feature(rows, column, at), at)
        return x.nan_to_num(0.0)

    def _draw_in_orders(
        self, x: Tensor, orders: Tensor, source: torch.Generator | None, temperature: float
    ) -> Tensor:
        """Return rows drawn once, each in an order (B, C) of its own."""
        x = x.clone()
        rows, seen = self.read(x), self.known(x)
        total = self.vectors(rows, seen).sum(0)
        for next_ in orders.unbind(1):
            for column in next_.unique().tolist():
                opened = self.applies(column, rows.codes, seen) & ~seen[:, column]
                at = (opened & (next_ == column)).nonzero()[:, 0]
                if not len(at):
                    continue
                given, own = rows.at(at), None
                expected = self._given(given, seen[at]) if column in self.place else None
                if expected is not None:
                    mean, deviation = (each[:, self.place[column]] for each in expected)
                    own = mean, deviation
                drawn = self._drawn(column, given, seen[at], total[at], own, source, temperature)
                total[at] += self._put(rows, at, column, drawn)
                seen[at, column] = True
        return x.nan_to_num(0.0)

    def _rank(self, order: Sequence[int]) -> Tensor:
        """Return the place of each column in an order, (C,)."""
        return torch.tensor(list(order), device=self.head.weight.device).argsort()

    def _feature(self, rows: Coded, column: int, at: Tensor) -> Tensor:
        """Return the numbers or the codes of a column as the Gaussian reads them."""
        number = self.place.get(column)
        if number is None:
            return rows.codes[at, column]
        return rows.values[at, number].clamp(-FARTHEST, FARTHEST)

    # Drawing one column

    def given(self, x: Tensor) -> Tensor:
        """Return which values are given and have a value at all, (B, C) bool."""
        given = ~x.isnan()
        for column, (by, code) in self.gates.items():
            given[:, column] &= x[:, by] == code
        return given

    def known(self, x: Tensor) -> Tensor:
        """Return which values are seen, (B, C): those that are given, and no unknown level."""
        seen = self.given(x)
        for column, kept in enumerate(self.reserved):
            if kept:
                seen[:, column] &= x[:, column] != 0
        return seen

    def applies(self, column: int, codes: Tensor, seen: Tensor) -> Tensor:
        """Return for which rows a column has a value, (B,) bool."""
        gate = self.gates.get(column)
        if gate is None:
            return torch.ones(len(codes), dtype=torch.bool, device=codes.device)
        by, code = gate
        return seen[:, by] & (codes[:, by] == code)

    def _put(self, rows: Coded, at: Tensor, column: int, drawn: Tensor) -> Tensor:
        """Write drawn values of a column into rows, in place; return their vectors."""
        number = self.place.get(column)
        rows.x[at, column] = drawn
        if number is None:
            codes = rows.codes[at, column] = drawn.long()
            return self.net.vector(column, codes, None, drawn)
        which, own = torch.tensor([number], device=drawn.device), drawn[:, None]
        _, low, high = self.rounded(own, which)
        spikes, cells, place = self._places(own, low, high, which)
        rows.values[at, number], rows.codes[at, column] = drawn, place[:, 0]
        rows.low[at, number], rows.high[at, number] = low[:, 0], high[:, 0]
        rows.spikes[at, number], rows.cells[at, number] = spikes[:, 0], cells[:, 0]
        return self.net.vector(column, place[:, 0], number, drawn.clamp(-FARTHEST, FARTHEST))

    def _heads_of(
        self,
        rows: Coded,
        seen: Tensor,
        total: Tensor,
        column: int,
        expected: tuple[Tensor, Tensor] | None,
    ) -> tuple[Heads, Tensor]:
        """Return the heads of one column, and log p of its components (B, K) to draw from.

        The columns that it copies may have been drawn since the rows were read.
        """
        number = self.place.get(column)
        if number is not None:
            which = torch.tensor([number], device=rows.x.device)
            rows.copies[:, number] = self._copies(rows.values, rows.codes, which)[:, 0]
        given = None if expected is None else (expected[0][:, None], expected[1][:, None])
        (heads,) = self.heads(rows, seen[:, None], [column], total[None], given)
        return heads, self._log_p(heads, rows, seen[:, None], CERTAIN)[0]

    def _drawn(  # noqa: PLR0913, PLR0917 - the state of the rows, and the source of draws
        self,
        column: int,
        rows: Coded,
        seen: Tensor,
        total: Tensor,
        expected: tuple[Tensor, Tensor] | None,
        source: torch.Generator | None,
        temperature: float,
    ) -> Tensor:
        """Draw a column given the seen ones, (B,)."""
        heads, log_p = self._heads_of(rows, seen, total, column, expected)
        drawn = self._component(column, heads, log_p / temperature, rows, source)
        if column in self._dependent:
            told = rows.values, rows.codes, seen
            uniform = torch.rand(len(drawn), generator=source, device=drawn.device)
            drawn = self._near(column, drawn, uniform, *told)
            made, follows = self._follows(column, *told)
            drawn = torch.where(follows, made, drawn)
        return drawn

    def _component(
        self,
        column: int,
        heads: Heads,
        log_p: Tensor,
        rows: Coded,
        source: torch.Generator | None,
    ) -> Tensor:
        """Draw a code, or a number from one of its components, (B,)."""
        p, number = log_p.softmax(1), self.place.get(column)
        if number is None:
            return p.multinomial(1, generator=source)[:, 0].to(rows.x)
        own = self.numbers[number]
        which = torch.tensor([number], device=rows.x.device)

        def values() -> tuple[Tensor, Tensor]:
            """Return a draw for each row, and whether it is a spike."""
            chosen = p.multinomial(1, generator=source)
            like = {"generator": source, "device": p.device, "dtype": torch.float64}
            uniform = torch.rand(len(p), **like).clamp(1e-9, 1 - 1e-9)
            value = self._values(heads, number, rows, uniform).gather(1, chosen)
            if "formula" not in own:
                value = self._inside(value, number)
            value, low, high = self.rounded(value, which)
            return value[:, 0], self._places(value, low, high, which)[0][:, 0] >= 0

        drawn, is_spike = values()
        for _ in range(AGAIN if own.get("only_spikes") else 0):
            if bool(is_spike.all()):
                break
            again, also = values()
            if not bool((also & ~is_spike).any()):
                break
            drawn, is_spike = torch.where(is_spike, drawn, again), is_spike | also
        return drawn

    def _values(self, heads: Heads, number: int, rows: Coded, uniform: Tensor) -> Tensor:
        """Return the value (B, K) of each component of a number at quantiles (B,) of it."""
        assert heads.location is not None, "the column is one of numbers"
        assert heads.scale is not None, "the column is one of numbers"
        own, u = self.numbers[number], uniform[:, None].to(rows.x)
        edges = self.edges[number, : own["cells"] + 1]
        cells = edges[:-1] + u * (edges[1:] - edges[:-1])
        spikes = self.spikes[number, : own["spikes"]].expand(len(u), -1)
        smooth = heads.location[0] + heads.scale[0] * uniform[:, None].logit().to(u)
        copies = slots(own)
        smooth = smooth[:, : LOGISTICS + copies]
        return torch.cat([rows.copies[:, number, :copies], spikes, cells, smooth], 1)

    @property
    def has_dependencies(self) -> bool:
        """True if a column determines another one, or follows from others."""
        rules = self.ties, self._followers, self._by_formulas, self.others, self.bounds
        return any(map(bool, rules))

    @cached_property
    def _by_formulas(self) -> dict[int, Formula]:
        """The formulas by column of numbers."""
        return {each["column"]: each["formula"] for each in self.numbers if "formula" in each}

    def _others_of(self, column: int) -> list[OtherFormula]:
        """Return the further formulas of a column, or of the number that it decides on."""
        named = {column, *(c for c, (by, _) in self.gates.items() if by == column)}
        return [each for each in self.others if each["column"] in named]

    def determined(self, x: Tensor) -> Tensor:
        """Return rows (B, C) with the open values filled that a given value determines."""
        x = x.clone()
        for _ in range(len(self.order) if self.has_dependencies else 0):
            free = x.isnan()
            for i in range(len(self.ties)):
                x = self._tied_value(i, x, free & x.isnan())
            for column in self.order:
                x = self._followed(column, x, free & x.isnan())
            if int(x.isnan().sum()) == int(free.sum()):
                break
        return x

    def consistent(self, x: Tensor, free: Tensor) -> Tensor:
        """Return complete rows (B, C) with free values replaced that others determine.

        Args:
            x: the rows.
            free: (B, C) bool, values that were not given.
        """
        x = x.clone()
        for column, number in self.place.items():
            which = torch.tensor([number], device=x.device)
            inside = self.rounded(self._inside(x[:, column, None], number), which)[0][:, 0]
            x[:, column] = torch.where(free[:, column], inside, x[:, column])
        for _ in range(len(self.order) if self.ties else 0):
            before = x.clone()
            for i in range(len(self.ties)):
                x = self._tied_value(i, x, free)
            if torch.equal(before, x):
                break
        x = self._bounded(x, free)
        # Of the free columns of a rule, the last one in the order follows from the others.
        for place, column in enumerate(self.order):
            later = torch.zeros(len(self.order), dtype=torch.bool, device=x.device)
            later[self.order[place + 1 :]] = True
            x = self._followed(column, x, free, later)
        return x

    def _followed(
        self, column: int, x: Tensor, free: Tensor, later: Tensor | None = None
    ) -> Tensor:
        """Return rows with free values of a column replaced that follow from other columns.

        Args:
            column: its index.
            x: (B, C) rows.
            free: (B, C) bool.
            later: (C,) bool, columns from whose free values nothing follows; None for none.
        """
        if column not in self._dependent:
            return x
        some = free[:, column].nonzero()[:, 0]
        if not len(some):
            return x
        rows, seen = x[some], self.known(x[some])
        if later is not None:
            seen = seen & ~(free[some] & later)
        told = self._number_values(rows), self._some_codes(rows), seen
        made, at = self._follows(column, *told)
        x = x.clone()
        if later is not None:
            middle = torch.full_like(rows[:, column], 0.5)
            made = torch.where(at, made, self._near(column, rows[:, column], middle, *told))
            at = torch.ones_like(at)
        if column in self.gates:
            by, code = self.gates[column]
            at &= rows[:, by] == code
        x[some[at], column] = made[at]
        return x

    def _near(
        self,
        column: int,
        x: Tensor,
        uniform: Tensor,
        values: Tensor,
        codes: Tensor,
        seen: Tensor,
    ) -> Tensor:
        """Return values (B,) of a column, replaced where formulas allow others only.

        Args:
            column: its index.
            x: (B,) coded values.
            uniform: (B,) which of the allowed values replaces one, from 0, the least, to 1.
            values: (B, N) numbers of the rows.
            codes: (B, C) codes.
            seen: (B, C) bool.
        """
        number = self.place.get(column)
        near = [each for each in self._others_of(column) if each["within"] > 0]
        if number is None or not near:
            return x
        which = torch.tensor([number], device=x.device)
        raw, step = self.raw_of(x[:, None], which)[:, 0], float(self.grains[number])
        least, most = torch.full_like(raw, -LARGEST), torch.full_like(raw, LARGEST)
        for each in near:
            formula, within = each["formula"], each["within"]
            ends = [self._by_formula(values, codes, formula, by) for by in (-within, within)]
            low, high = torch.maximum(least, torch.minimum(*ends)), torch.maximum(*ends)
            high = torch.minimum(most, high)
            known = self._have_values(formula["columns"], codes, seen) & (low <= high)
            least, most = least.where(~known, low), most.where(~known, high)
        new = least + uniform * (most - least)
        if step > 0:  # one of the multiples of the grid between the two
            first, last = (least / step).ceil(), (most / step).floor()
            place = first + (uniform * (last - first + 1)).floor().minimum(last - first)
            new = torch.where(first <= last, place * step, new)
        made = self.coded_of(self._on_grid(new[:, None], which), which)[:, 0].to(x)
        return torch.where((raw < least) | (raw > most), made, x)

    def _follows(
        self, column: int, values: Tensor, codes: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the coded value (B,) of a column that follows from the seen ones, and where."""
        others = [each["formula"] for each in self._others_of(column) if each["within"] == 0]
        number = self.place.get(column)
        made = values.new_zeros(len(values))
        at = torch.zeros_like(seen[:, 0])
        if number is not None:
            which = torch.tensor([number], device=values.device)
            first = self._by_formulas.get(column)
            for formula in [*reversed(others), *([first] if first else [])]:
                raw = self._on_grid(self._by_formula(values, codes, formula)[:, None], which)
                value = self.coded_of(raw, which).to(made).clamp(-OUTERMOST, OUTERMOST)
                known = self._have_values(formula["columns"], codes, seen)
                made = torch.where(known, self.rounded(value, which)[0][:, 0], made)
                at |= known
        if column in self._followers or (number is None and others):
            code = self._implied(column, values, codes, seen, others)
            made = torch.where(code >= 0, self._value_of(column, code.clamp_min(0)).to(made), made)
            at |= code >= 0
        return made, at

    def breaks(self, x: Tensor, free: Tensor) -> Tensor:
        """Return which of the complete rows (B, C) break a dependency of the training rows.

        A free number that follows from others also breaks it beyond the range of training, and so
        does a free value that is lacking although its gate, which follows from others, is open.

        Args:
            x: the rows.
            free: (B, C) bool, values that were not given.
        """
        known, broken = self.known(x), (self._open(x) & free).any(1)
        codes = self._codes_of(x, {c for tie in self.ties for c in (tie["seen"], tie["column"])})
        for i, tie in enumerate(self.ties):
            one, other = tie["seen"], tie["column"]
            value = codes[other] + self.first_value(other)
            less = self.get_buffer(f"tie{i}")[codes[one], value]
            broken |= (less < 0) & known[:, one] & known[:, other]
        for column in {**self._by_formulas, **dict.fromkeys(self._followers)}:
            changed = torch.zeros_like(known)
            changed[:, column] = known[:, column]
            made = self._followed(column, x, changed)[:, column]
            broken |= known[:, column] & ((made - x[:, column]).abs() > NEARLY)
        every = self._some_codes(x)
        for column in self._followers:
            implied = self._implied(column, self._number_values(x), every, known)
            broken |= known[:, column] & (implied == NO_CODE)
        broken |= self._beyond(x, known).any(1)
        for column in self._by_formulas:
            inside = self._inside(x[:, column], self.place[column])
            far = (inside - x[:, column]).abs() > NEARLY
            broken |= known[:, column] & free[:, column] & far
        return broken

    def _beyond(self, x: Tensor, known: Tensor) -> Tensor:
        """Return which bounds the known values of rows (B, C) break, (B, bounds) bool."""
        if not self.bounds:
            return known[:, :0]
        columns = sorted({column for each in self.bounds for column in each["columns"]})
        weights = torch.zeros(len(columns), len(self.bounds), dtype=torch.float64, device=x.device)
        for i, each in enumerate(self.bounds):
            for column, weight in zip(each["columns"], each["weights"], strict=True):
                weights[columns.index(column), i] = weight
        codes = self._some_codes(x)
        raw = self._raw_values(self._number_values(x), codes, columns)
        constants = raw.new_tensor([each["constant"] for each in self.bounds])
        have = torch.stack([self._have_values([each], codes, known) for each in columns], 1)
        open_ = (~have).double() @ (weights != 0).double() > 0
        return (raw @ weights + constants > SAME * (raw.abs() @ weights.abs())) & ~open_

    def _bounded(self, x: Tensor, free: Tensor) -> Tensor:
        """Return rows with a free number moved to each bound that is broken."""
        x = x.clone()
        for _ in range(len(self.order) if self.bounds else 0):
            beyond, before = self._beyond(x, self.known(x)), x.clone()
            values, codes = self._number_values(x), self._some_codes(x)
            for i in beyond.any(0).nonzero()[:, 0].tolist():
                bound = self.bounds[i]
                for own, weight in zip(bound["columns"], bound["weights"], strict=True):
                    at = (beyond[:, i] & free[:, own]).nonzero()[:, 0]
                    if own not in self.place or not len(at):
                        continue
                    which = torch.tensor([self.place[own]], device=x.device)
                    rest = self._sum_of(bound, values[at], codes[at])
                    new = self._raw_values(values[at], codes[at], [own]) - rest[:, None] / weight
                    x[at, own] = self.coded_of(self._on_grid(new, which), which)[:, 0].to(x)
                    beyond[at, i] = False
            if torch.equal(before, x):
                break
        return x

    def _tied_value(self, i: int, x: Tensor, free: Tensor) -> Tensor:
        """Return rows with free values of a tie's column replaced where only one is allowed."""
        source, column = self.ties[i]["seen"], self.ties[i]["column"]
        some = free[:, column].nonzero()[:, 0]
        if not len(some):
            return x
        codes = self._codes_of(x[some], [source])[source]
        allowed = self.get_buffer(f"tie{i}")[codes] == 0
        alone = self.known(x[some])[:, source] & (allowed.sum(1) == 1)
        at, allowed = some[alone], allowed[alone]
        x[at, column] = self._value_of(column, allowed.long().argmax(1) - self.first_value(column))
        return x

    def _value_of(self, column: int, codes: Tensor) -> Tensor:
        """Return the coded values that codes of a column stand for."""
        number = self.place.get(column)
        return codes.to(self.head.weight) if number is None else self.spikes[number][codes]

    def _number_values(self, x: Tensor) -> Tensor:
        """Return the columns of numbers, 0 where missing, (B, N)."""
        return x[:, self.get_buffer("at")].nan_to_num(0.0) if self.numbers else x[:, :0]

    def _some_codes(self, x: Tensor) -> Tensor:
        """Return the codes (B, C) of the columns of codes, 0 for those of numbers."""
        codes = x.nan_to_num(0.0).long()
        codes[:, list(self.place)] = 0
        return codes

    def _codes_of(self, x: Tensor, columns: Iterable[int]) -> dict[int, Tensor]:
        """Return column -> codes (B,), as `read` does for all columns."""
        found = {}
        for column in columns:
            own, number = x[:, column].nan_to_num(0.0), self.place.get(column)
            if number is None:
                found[column] = own.long()
                continue
            which = torch.tensor([number], device=x.device)
            _, low, high = self.rounded(own[:, None], which)
            found[column] = self._places(own[:, None], low, high, which)[2][:, 0]
        return found

    @torch.no_grad()
    def expected(self, x: Tensor) -> Tensor:
        """Return rows with their open values replaced by E[raw value | given], (B, C).

        Codes are replaced by the likeliest one. Each open value is conditional on the given ones
        only; whether a gated column has a value is decided first.
        """
        x = x.clone()
        rows, given = self.read(x), self.known(x)
        total, seen = self.vectors(rows, given).sum(0), given.clone()
        now = self._given(rows, given)
        gating = {by for by, _ in self.gates.values()}
        vectors: dict[int, Tensor] = {}
        for column in sorted(self.order, key=lambda each: each not in gating):
            at = (self.applies(column, rows.codes, seen) & ~seen[:, column]).nonzero()[:, 0]
            if not len(at):
                continue
            shown, sums = given[at], total[at]
            known = None if now is None else [each[at] for each in now]
            if column in self.gates:  # the gate is open: this is what its column tells
                by = self.gates[column][0]
                sums = sums + torch.where(shown[:, by, None], 0.0, vectors.get(by, total)[at])
                shown[:, by] = True
                known = self._given(rows.at(at), shown)
            own = None
            if known is not None and column in self.place:
                own = known[0][:, self.place[column]], known[1][:, self.place[column]]
            value = self._expected(column, rows.at(at), shown, sums, own)
            vectors[column] = total.new_zeros(total.shape)
            vectors[column][at] = self._put(rows, at, column, value)
            seen[at, column] = True
        return x.nan_to_num(0.0)

    def _expected(
        self,
        column: int,
        rows: Coded,
        seen: Tensor,
        total: Tensor,
        expected: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Return the mean of a number, or the likeliest code, given the seen columns; (B,).

        The mean is that of raw values. Numbers beyond the training rows count as their ends: the
        mean of an exponential would be that of its farthest values.
        """
        heads, log_p = self._heads_of(rows, seen, total, column, expected)
        number = self.place.get(column)
        if number is None:
            return log_p.argmax(1).to(rows.x)
        p = log_p.exp().double()
        which = torch.tensor([number], device=p.device)
        ends = self.edges[number, 0], self.edges[number, self.numbers[number]["cells"]]
        mean = torch.zeros_like(p[:, :1])
        for quantile in QUANTILES:
            u = torch.full((len(p),), quantile, dtype=torch.float64, device=p.device)
            values = self._values(heads, number, rows, u).clamp(*ends)
            raw = self._raw_of(values, which.expand(values.shape[1]))
            mean += (p * raw).sum(1, keepdim=True) / len(QUANTILES)
        return self.coded_of(mean, which)[:, 0].to(rows.x)

    def log_prob(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """Return log p of the values of rows that are not NaN, (B,) nats, in the fixed order.

        Args:
            x: (B, C) coded rows.
            first: (B, C) bool, values on which those of the others are conditional; None for
                none.
        """
        return self.log_prob_in_order(x, self.order, first)

    def log_prob_in_order(
        self, x: Tensor, order: Sequence[int], first: Tensor | None = None
    ) -> Tensor:
        """Return `log_prob` in any order in which each gated column follows its gate."""
        starts = range(0, len(order), TOGETHER)
        windows = [range(i, min(i + TOGETHER, len(order))) for i in starts]
        each = [self.log_prob_of_places(x, order, some, first).sum(1) for some in windows]
        return torch.stack(each).sum(0)

    def log_prob_of_places(
        self, x: Tensor, order: Sequence[int], places: range, first: Tensor | None = None
    ) -> Tensor:
        """Return log p(column | earlier columns) at some places of an order, (B, P) nats.

        Args:
            x: (B, C) coded rows; a missing value adds 0.
            order: all columns.
            places: P places in it.
            first: as for `log_prob`.
        """
        columns = [order[place] for place in places]
        return self.log_prob_of_prepared(self.prepared(x, self._rank(order), first), columns)

    def prepared(self, x: Tensor, rank: Tensor, first: Tensor | None = None) -> Prepared:
        """Return what the conditionals of rows need and no weight of the network changes.

        Args:
            x: (B, C) coded rows.
            rank: (C,) the place of each column in the order.
            first: as for `log_prob`.
        """
        rows, known = self.read(x), self.known(x)
        given = self.given(x)
        if first is not None:
            given = given & ~first
        expected = self.expectations(rows, rank, first, known)
        return Prepared(rows, known, given, rank, first, *(expected or (None, None)))

    def prepared_in_orders(self, x: Tensor, ranks: Tensor) -> Prepared:
        """Return what `prepared` does for S batches of rows at once, all (S, ...).

        Args:
            x: (S, B, C) coded rows.
            ranks: (S, C) the place of each column in the order of each batch.
        """
        count, size = x.shape[:2]
        flat = x.flatten(0, 1)
        rows, known = self.read(flat), self.known(flat)
        batches = torch.arange(len(flat), device=x.device).view(count, size)
        orders, which = ranks.unique(dim=0, return_inverse=True)
        parts = [batches[which == number].flatten() for number in range(len(orders))]
        found = [
            self.expectations(rows.at(part), rank, None, known[part])
            for part, rank in zip(parts, orders, strict=True)
        ]
        back = torch.cat(parts).argsort()

        def split(each: Tensor) -> Tensor:
            return each.view(count, size, *each.shape[1:])

        mean = deviation = None
        if found[0] is not None:
            mean, deviation = (split(torch.cat(each)[back]) for each in zip(*found, strict=True))
        read = Coded(*map(split, rows))
        return Prepared(read, split(known), split(self.given(flat)), ranks, None, mean, deviation)

    def log_prob_of_prepared(self, prepared: Prepared, columns: Sequence[int]) -> Tensor:
        """Return log p(column | earlier columns) of some columns, (B, P) nats.

        Args:
            prepared: the rows and their order.
            columns: P columns.
        """
        grouped = self._grouped(columns)
        rows, seen, heads = self._heads_of_prepared(prepared, grouped)
        found = self.log_prob_of(heads, rows, seen)
        found = torch.where(prepared.given[:, grouped], found, 0.0)
        return found[:, [grouped.index(column) for column in columns]]

    def _heads_of_prepared(
        self, prepared: Prepared, columns: Sequence[int]
    ) -> tuple[Coded, Tensor, list[Heads]]:
        """Return rows, what each column is given (B, P, C), and heads, for grouped columns."""
        rows, known, rank, first = prepared.rows, prepared.known, prepared.rank, prepared.first
        at = torch.tensor(list(columns), device=known.device)
        earlier, vectors = rank < rank[at][:, None], self.vectors(rows, known)
        if first is None:
            total = earlier.to(vectors) @ vectors.flatten(1)
            total = total.view(len(columns), *vectors.shape[1:])
            seen = earlier & known[:, None]
        else:
            each = earlier | first[:, None]
            total = (each.to(vectors) @ vectors.transpose(0, 1)).transpose(0, 1)
            seen = each & known[:, None]
        expected = None
        if prepared.mean is not None and prepared.deviation is not None:
            which = [self.place.get(column, 0) for column in columns]
            expected = prepared.mean[:, which], prepared.deviation[:, which]
        return rows, seen, self.heads(rows, seen, columns, total, expected)

    @torch.no_grad()
    def match_rare(self, x: Tensor) -> None:
        """Change how likely rare combinations are, so that they come as often as in rows (n, C).

        The network learns little from combinations that hardly occur. Of each one, the logarithm
        of its observed over its expected number is added to its logit, half a row being added to
        both. That is one step of iterative proportional fitting, taken `MATCHES` times, for the
        direction of a pair that the fixed order draws.
        """
        rank = {column: place for place, column in enumerate(self.order)}
        pairs = {tie["column"]: [] for tie in self.rare if rank[tie["seen"]] < rank[tie["column"]]}
        for i, tie in enumerate(self.rare):
            if rank[tie["seen"]] < rank[tie["column"]]:
                pairs[tie["column"]].append((i, tie["seen"]))
        for _ in range(MATCHES if pairs else 0):
            expected = {i: self.get_buffer(f"rare{i}").double() * 0 for i in range(len(self.rare))}
            observed = {i: each.clone() for i, each in expected.items()}
            for column, ties in pairs.items():
                for some in x.split(MATCHED):
                    prepared = self.prepared(some, self._rank(self.order))
                    rows, seen, (heads,) = self._heads_of_prepared(prepared, [column])
                    p = self._log_p(heads, rows, seen)[0].exp().double()
                    given, value = self.known(some), rows.codes[:, column]
                    for i, source in ties:
                        at = (given[:, source] & given[:, column]).nonzero()[:, 0]
                        codes = rows.codes[at, source]
                        expected[i].index_add_(0, codes, p[at])
                        made = codes, value[at] + self.first_value(column)
                        observed[i].index_put_(made, torch.ones_like(p[at, 0]), accumulate=True)
            for i, table in expected.items():
                buffer = self.get_buffer(f"rare{i}")
                ratio = ((observed[i] + 0.5) / (table + 0.5)).log().to(buffer)
                buffer += torch.where(buffer != 0, ratio, 0.0)

    @torch.no_grad()
    def expectations(
        self, rows: Coded, rank: Tensor, first: Tensor | None, known: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return mean and standard deviation (B, N) of all numbers in the Gaussian.

        Args:
            rows: B rows.
            rank: (C,) the place of each column in the order; each is conditioned on the columns
                before it.
            first: (B, C) bool, values on which every column is conditioned; None for none.
            known: (B, C) bool, values that are not missing.

        Returns:
            None without a Gaussian.
        """
        if self.gaussian is None:
            return None
        first = torch.zeros_like(known) if first is None else first & known
        values = rows.values.clamp(-FARTHEST, FARTHEST)
        return self.gaussian.given_earlier(values, rows.codes, first, known & ~first, rank)

    def _given(self, rows: Coded, seen: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return `expectations` given the seen values only."""
        return self.expectations(rows, torch.zeros_like(rows.codes[0]), seen, seen)


def slots(number: NumberColumn) -> int:
    """Return how many values a number may copy: those of columns, and that of its formula."""
    return len(number["copies"]) + ("formula" in number)


def _factors(formula: Formula | Sum) -> list[float]:
    return [*formula["weights"], formula["constant"]]


def _interpolated(x: Tensor, xs: Tensor, ys: Tensor, last: Tensor) -> Tensor:
    """Interpolate (B, N) numbers linearly between knots (N, K), and beyond the outermost two.

    Args:
        x: the numbers.
        xs: rising knots, padded.
        ys: values at the knots.
        last: (N,) index of the last knot of each column.
    """
    at = torch.searchsorted(xs, x.T.contiguous()).T.clamp_min(1)
    at = torch.minimum(at, last).T
    x0, x1 = xs.gather(1, at - 1), xs.gather(1, at)
    y0, y1 = ys.gather(1, at - 1), ys.gather(1, at)
    slope = (y1 - y0) / (x1 - x0).clamp_min(1e-300)
    return (y0 + (x.T - x0) * slope).T


def _logistic(low: Tensor, high: Tensor, grid: Tensor, location: Tensor, scale: Tensor) -> Tensor:
    """Return log-densities (B, N, L) of logistics at x, or their log-masses in [low, high]."""
    a = (low[..., None] - location) / scale
    b = (high[..., None] - location) / scale
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))
    # b - a would lose the digits that large a and b have in common.
    gap = torch.where(grid[..., None], (high - low)[..., None] / scale, 1.0).clamp_min(1e-12)
    tails = F.logsigmoid(b) + F.logsigmoid(-a)
    # Where nothing is rounded, a = b, and the same product is the density times the scale.
    return tails + torch.where(grid[..., None], (-torch.expm1(-gap)).log(), -scale.log())


class ChainRows(Unchecked):
    """The distribution of rows of a `Chain`; x: (B, C), NaN for values that are summed out.

    Args:
        chain: the network.
        rows: B.
    """

    def __init__(self, chain: Chain, rows: int) -> None:
        self.chain = chain
        super().__init__(Size([rows]), Size([len(chain.order)]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of every row, (B,) nats."""
        return self.chain.log_prob(value)


@sample.register
def _(d: ChainRows, generator: torch.Generator | None, shape: Size = ONE) -> Tensor:
    whole = shape + d.batch_shape
    like = d.chain.head.weight
    x = like.new_full((whole.numel(), len(d.chain.order)), torch.nan)
    return d.chain.draw(x, generator).view(*whole, -1)
