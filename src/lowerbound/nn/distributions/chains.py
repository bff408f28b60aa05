"""A chain of columns: p(row) as a product of p(column | any subset of the others).

One network gives the conditional of every column given any set of columns that are seen. Rows are
drawn column by column; values that are given are seen first, so that draws given some values are
exact draws from the conditionals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, NotRequired

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn
from typing_extensions import TypedDict

from lowerbound.errors import UsageError
from lowerbound.nn.distributions.base import ONE, Unchecked, sample
from lowerbound.nn.distributions.gaussian_conditionals import Conditional, GaussianConditionals
from lowerbound.nn.networks.seen_values import SeenValues

NEVER = -1e9  # in place of the logarithm of 0, so that a masked softmax stays finite
LOGISTICS = 5  # logistic components of a column of numbers, besides those at copied values
MIDDLES = -1.0, -0.5, 0.0, 0.5, 1.0  # first locations of the logistic components
NEAR = -3.0  # first logarithm of the scale of a logistic at a copied value
WIDEST = 2.0  # logarithm of the largest scale of a logistic, in units of the coded column
BROAD = 3.0  # standard deviation of the component that covers numbers training has not seen
FARTHEST = 6.0  # a number beyond it is read as it
TOGETHER = 64  # columns whose conditionals are computed together
PADDING = 3e38  # after the last number of a row of a table: model files hold finite numbers
QUANTILES = [(i + 0.5) / 8 for i in range(8)]  # of a component, for the mean of raw values
CERTAIN = 1e6  # factor on the logarithms of ties where rows are drawn: never against them


class NumberColumn(TypedDict):
    """The shape of p(number | others): how many components of each kind it has.

    Attributes:
        column: its index.
        spikes: number of values with a probability of their own.
        cells: number of intervals with a uniform density each.
        knots: number of knots of the map from codes to raw values.
        log: whether the raw value is the exponential of the mapped code.
        copies: columns of numbers whose raw value this one may repeat or be close to.
    """

    column: int
    spikes: int
    cells: int
    knots: int
    log: bool
    copies: list[int]


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
        copies: (B, N, S) the code that each copied column's raw value has in this column.
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


class Heads(NamedTuple):
    """The network's numbers for the conditionals of some columns.

    Attributes:
        components: by column, (B, K) unnormalised log-probabilities of its codes or components.
        location: by place among the columns of numbers, (B, smooth) of the logistic components.
        scale: likewise.
    """

    components: dict[int, Tensor]
    location: dict[int, Tensor]
    scale: dict[int, Tensor]


class Chain(nn.Module):
    """Network and layout of a chain of columns; called with a state it returns `ChainRows`.

    A column of categories has a softmax over its codes. A number has a mixture of

    - spikes, which are values that occur often;
    - copies of other columns' raw values, and logistic densities at these;
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
    ) -> None:
        super().__init__()
        count = len(families)
        self.order, self.numbers, self.ties = list(order), list(numbers), list(ties)
        self.novel, self.narrowest, self.width = novel, narrowest, width
        self.reserved = list(reserved) or [0.0] * count
        of_numbers = [i for i, kind in enumerate(families) if kind in ("real", "count")]
        self.place = {i: n for n, i in enumerate(of_numbers)}
        self.gates = {gate["column"]: (gate["by"], gate["code"]) for gate in gates}
        self._check(count, of_numbers, gates, rare, gaussian)
        levels = [max(2, size) for size in sizes]
        for each in numbers:
            levels[each["column"]] = each["spikes"] + each["cells"]
        self.levels = levels
        self.components = list(levels)
        for each in numbers:
            self.components[each["column"]] += 2 * len(each["copies"]) + LOGISTICS
        self.most_copies = max((len(each["copies"]) for each in numbers), default=0)
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
        named += [source for each in self.numbers for source in each["copies"]]
        fits = (
            sorted(self.order) == list(range(count))
            and [each["column"] for each in self.numbers] == of_numbers
            and all(0 <= i < count for i in named)
            and all(source in self.place for each in self.numbers for source in each["copies"])
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
        return 0 if number is None else len(self.numbers[number]["copies"])

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
        grain = self.grains[which]
        step = torch.where(grain > 0, grain, 1.0)
        raw = (self._raw_of(x, which) / step).round() * step
        # A positive raw value keeps a positive lower end.
        down = torch.where(raw > 0, torch.maximum(raw - step / 2, raw / 2), raw - step / 2)
        ends = [self.coded_of(each, which).to(x) for each in (raw, down, raw + step / 2)]
        even = grain > 0
        middle, low, high = (torch.where(even, each, x) for each in ends)
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
        copies = self._copies(values, every)
        return Coded(x, codes, values, spikes, cells, low, high, copies)

    def _copies(self, values: Tensor, which: Tensor) -> Tensor:
        """Return the codes (B, N', S) in some columns of numbers of the values they copy."""
        if not self.most_copies:
            return values.new_zeros(len(values), len(which), 0)
        source = self.get_buffer("source")[which].flatten()
        own = which.repeat_interleave(self.most_copies)
        raw = self.raw_of(values[:, source], source)
        return self.coded_of(raw, own).to(values).view(len(values), len(which), self.most_copies)

    def _on_grid(self, raw: Tensor, which: Tensor) -> Tensor:
        grain = self.grains[which]
        step = torch.where(grain > 0, grain, 1.0)
        return torch.where(grain > 0, (raw / step).round() * step, raw)

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
        """Return the vectors (B, C, width) of the values that are seen, and 0 for the others."""
        found = self.net.vectors(rows.codes, rows.values.clamp(-FARTHEST, FARTHEST))
        return found * seen[..., None]

    # Conditionals

    def heads(
        self,
        rows: Coded,
        seen: Tensor,
        columns: Sequence[int],
        total: Tensor,
        expected: Sequence[tuple[Tensor, Tensor] | None],
    ) -> Heads:
        """Return the network's numbers for the conditionals of some columns.

        Args:
            rows: B rows.
            seen: (B, P, C) bool, the columns that are seen where each of the P is predicted.
            columns: P columns to predict.
            total: (B, P, width) sum of the vectors of the seen columns, for each.
            expected: for each of the P, its mean and standard deviation in the Gaussian.
        """
        where = torch.tensor(list(columns), device=total.device)
        hidden = self.net(total, where).unbind(1)
        layers = _split(self.head, self.components)
        found = {c: F.linear(h, *layers[c]) for c, h in zip(columns, hidden, strict=True)}
        if not self.numbers:
            return Heads(found, {}, {})
        at, location, scale = self.get_buffer("at"), {}, {}
        shapes = _split(self.shapes, [2 * self.smooth] * len(self.numbers))
        skips = self.skip.weight.split(self.smooth)
        values = rows.values.clamp(-FARTHEST, FARTHEST)
        for i, column in enumerate(columns):
            number = self.place.get(column)
            if number is None:
                continue
            middle, log_scale = F.linear(hidden[i], *shapes[number]).chunk(2, 1)
            middle = middle + F.linear(values * seen[:, i][:, at], skips[number])
            own = expected[i]
            if own is not None:
                mean, deviation = (each.to(middle)[:, None] for each in own)
                free = middle[:, :LOGISTICS] * deviation + mean
                middle = torch.cat([free, middle[:, LOGISTICS:]], 1)
                wider = F.pad(deviation.log().expand(-1, LOGISTICS), (0, self.most_copies))
                log_scale = log_scale + wider
            if self.most_copies:
                middle = middle + F.pad(rows.copies[:, number], (LOGISTICS, 0))
            location[number] = middle
            scale[number] = log_scale.clamp(math.log(self.narrowest), WIDEST).exp()
        return Heads(found, location, scale)

    def log_prob_of(
        self, heads: Heads, columns: Sequence[int], rows: Coded, seen: Tensor
    ) -> Tensor:
        """Return log p(column | seen columns), (B, P) nats; arbitrary where it is NaN.

        Args:
            heads: what `heads` returned for these columns.
            columns: P columns.
            rows: B rows.
            seen: (B, P, C) bool, the columns that are seen where each of the P is predicted.
        """
        found, numbers = {}, []
        for i, column in enumerate(columns):
            if column in self.place:
                numbers.append(i)
            else:
                found[column] = self._log_prob_of_code(heads, column, rows, seen[:, i])
        if numbers:
            own = [columns[i] for i in numbers]
            which = torch.tensor([self.place[c] for c in own], device=rows.x.device)
            each = self._log_prob_of_numbers(heads, which, rows, seen[:, numbers]).unbind(1)
            found |= dict(zip(own, each, strict=True))
        return torch.stack([found[column] for column in columns], 1)

    def _tied(
        self, logits: Tensor, column: int, rows: Coded, seen: Tensor, factor: float = 1.0
    ) -> Tensor:
        """Return logits of a column, lowered for values that do not go with the seen columns."""
        for name, pairs, weight in (("tie", self.ties, factor), ("rare", self.rare, 1.0)):
            for i, tie in enumerate(pairs):
                if tie["column"] == column:
                    source = tie["seen"]
                    less = weight * self.get_buffer(f"{name}{i}")[rows.codes[:, source]]
                    logits = logits + less * seen[:, source, None]
        return logits

    def _code_logits(
        self, heads: Heads, column: int, rows: Coded, seen: Tensor, factor: float = 1.0
    ) -> Tensor:
        logits = heads.components[column]
        if self.reserved[column]:
            logits = torch.cat([torch.full_like(logits[:, :1], NEVER), logits[:, 1:]], 1)
        return self._tied(logits, column, rows, seen, factor)

    def _log_prob_of_code(self, heads: Heads, column: int, rows: Coded, seen: Tensor) -> Tensor:
        logits, codes = self._code_logits(heads, column, rows, seen), rows.codes[:, column]
        found, kept = -F.cross_entropy(logits, codes, reduction="none"), self.reserved[column]
        if not kept:
            return found
        return torch.where(codes == 0, math.log(kept), found + math.log1p(-kept))

    def _number_logits(
        self, heads: Heads, number: int, rows: Coded, seen: Tensor, factor: float = 1.0
    ) -> Tensor:
        """Return the logits (B, K) of the components of a column of numbers.

        The components are copies, spikes, cells, logistics, and logistics at the copies.
        """
        own = self.numbers[number]
        column, sources = own["column"], own["copies"]
        logits = self._tied(heads.components[column], column, rows, seen, factor)
        if not sources:
            return logits
        unseen = NEVER * (~seen[:, sources]).to(logits)
        others = logits.new_zeros(len(logits), logits.shape[1] - 2 * len(sources))
        return logits + torch.cat([unseen, others, unseen], 1)

    def _log_prob_of_numbers(
        self, heads: Heads, which: Tensor, rows: Coded, seen: Tensor
    ) -> Tensor:
        """Return the log-density (B, N') of numbers; `seen` (B, N', C) is what each is given."""
        numbers = which.tolist()
        x, low, high = rows.values[:, which], rows.low[:, which], rows.high[:, which]
        grid = high > low
        log_width = torch.where(grid, high - low, 1.0).log()
        spike, cell = rows.spikes[:, which], rows.cells[:, which]
        inside, edges = cell.clamp_min(0), self.edges[which]
        left, right = (edges.gather(1, (inside + k).T).T for k in (0, 1))
        alone, smooth, copied = [], [], []
        for i, number in enumerate(numbers):
            own = self.numbers[number]
            log_p = self._number_logits(heads, number, rows, seen[:, i]).log_softmax(1)
            copies, spare = len(own["copies"]), self.most_copies - len(own["copies"])
            at = [spike[:, i].clamp_min(0), inside[:, i] + own["spikes"]]
            alone.append(log_p.gather(1, torch.stack(at, 1) + copies))
            start = copies + own["spikes"] + own["cells"]
            smooth.append(F.pad(log_p[:, start:], (0, spare), value=NEVER))
            copied.append(F.pad(log_p[:, :copies], (0, spare), value=NEVER))
        of_spikes, of_cells = torch.stack(alone, 1).unbind(-1)
        of_cells = of_cells - (right - left).clamp_min(1e-12).log()
        terms = [
            torch.where(spike >= 0, of_spikes - log_width, NEVER)[..., None],
            torch.where(cell >= 0, of_cells, NEVER)[..., None],
        ]
        if self.most_copies:
            value = rows.copies[:, which]
            equal = grid[..., None] & (value >= low[..., None]) & (value <= high[..., None])
            terms.append(torch.where(equal, torch.stack(copied, 1) - log_width[..., None], NEVER))
        location = torch.stack([heads.location[n] for n in numbers], 1)
        scale = torch.stack([heads.scale[n] for n in numbers], 1)
        each = _logistic(low, high, grid, location, scale)
        each = each - torch.where(grid, log_width, 0.0)[..., None]
        terms.append(torch.stack(smooth, 1) + each)
        found = torch.cat(terms, -1).logsumexp(-1)
        broad = -0.5 * (x / BROAD).square() - math.log(BROAD * math.sqrt(2 * math.pi))
        return torch.logaddexp(found + math.log1p(-self.novel), broad + math.log(self.novel))

    # Drawing

    @torch.no_grad()
    def draw(self, x: Tensor, source: torch.Generator | None, temperature: float = 1.0) -> Tensor:
        """Return rows (B, C) with their open values drawn given the others; 0 where gated.

        Args:
            x: (B, C) coded rows, NaN where a value is open.
            source: the source of randomness.
            temperature: log-probabilities of components are divided by it.
        """
        x = x.clone()
        rows, seen = self.read(x), self.known(x)
        total, now = self.vectors(rows, seen).sum(1), self._given_all(rows, seen)
        for column in self.order:
            at = (self.applies(column, rows.codes, seen) & ~seen[:, column]).nonzero()[:, 0]
            if not len(at):
                continue
            own = self._expectation(now, column, at)
            drawn = self._drawn(column, rows.at(at), seen[at], total[at], own, source, temperature)
            total[at] += self._put(rows, at, column, drawn)
            seen[at, column] = True
            now = self._see(
                now, rows, column, torch.zeros_like(seen[:, 0]).index_fill(0, at, True)
            )
        return x.nan_to_num(0.0)

    # The Gaussian

    def _see(
        self, now: Conditional | None, rows: Coded, column: int, seen: Tensor
    ) -> Conditional | None:
        """Return the Gaussian given also a column, where it is seen (B,)."""
        if now is None or self.gaussian is None:
            return None
        number = self.place.get(column)
        values = rows.codes[:, column] if number is None else rows.values[:, number]
        if number is not None:
            values = values.clamp(-FARTHEST, FARTHEST)
        return self.gaussian.see(now, column, values, seen)

    def _given_all(self, rows: Coded, seen: Tensor) -> Conditional | None:
        """Return the Gaussian given all seen values, (B, C); None if there is none."""
        now = None if self.gaussian is None else self.gaussian.start(len(rows.x))
        for column in self.order:
            now = self._see(now, rows, column, seen[:, column])
        return now

    def _expectation(
        self, now: Conditional | None, column: int, at: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Return mean and standard deviation of a number in the Gaussian, of some rows."""
        number = self.place.get(column)
        if now is None or self.gaussian is None or number is None:
            return None
        return self.gaussian.of(now if at is None else now.at(at), number)

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
    ) -> Heads:
        """Return the heads of one column, whose copied columns may have been drawn since."""
        number = self.place.get(column)
        if number is not None:
            which = torch.tensor([number], device=rows.x.device)
            rows.copies[:, number] = self._copies(rows.values, which)[:, 0]
        return self.heads(rows, seen[:, None], [column], total[:, None], [expected])

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
        heads, number = self._heads_of(rows, seen, total, column, expected), self.place.get(column)
        if number is None:
            logits = self._code_logits(heads, column, rows, seen, CERTAIN)
            p = (logits / temperature).softmax(1)
            return p.multinomial(1, generator=source)[:, 0].to(rows.x)
        which = torch.tensor([number], device=rows.x.device)
        logits = self._number_logits(heads, number, rows, seen, CERTAIN)
        chosen = (logits / temperature).softmax(1).multinomial(1, generator=source)
        like = {"generator": source, "device": rows.x.device, "dtype": torch.float64}
        uniform = torch.rand(len(chosen), **like).clamp(1e-9, 1 - 1e-9)
        values = self._values(heads, number, rows, uniform)
        return self.rounded(values.gather(1, chosen), which)[0][:, 0]

    def _values(self, heads: Heads, number: int, rows: Coded, uniform: Tensor) -> Tensor:
        """Return the value (B, K) of each component of a number at quantiles (B,) of it."""
        own, u = self.numbers[number], uniform[:, None].to(rows.x)
        edges = self.edges[number, : own["cells"] + 1]
        cells = edges[:-1] + u * (edges[1:] - edges[:-1])
        spikes = self.spikes[number, : own["spikes"]].expand(len(u), -1)
        smooth = heads.location[number] + heads.scale[number] * uniform[:, None].logit().to(u)
        copies = len(own["copies"])
        smooth = smooth[:, : LOGISTICS + copies]
        return torch.cat([rows.copies[:, number, :copies], spikes, cells, smooth], 1)

    def determined(self, x: Tensor) -> Tensor:
        """Return rows (B, C) with the open values filled that a given value determines."""
        x = x.clone()
        for i, tie in enumerate(self.ties):
            source, column = tie["seen"], tie["column"]
            given, codes = self.known(x)[:, source], self.read(x).codes[:, source]
            allowed = self.get_buffer(f"tie{i}")[codes] == 0
            at = (given & x[:, column].isnan() & (allowed.sum(1) == 1)).nonzero()[:, 0]
            value = allowed[at].long().argmax(1) - self.first_value(column)
            number = self.place.get(column)
            x[at, column] = value.to(x) if number is None else self.spikes[number][value]
        return x

    @torch.no_grad()
    def expected(self, x: Tensor) -> Tensor:
        """Return rows with their open values replaced by E[raw value | given], (B, C).

        Codes are replaced by the likeliest one. Each open value is conditional on the given ones
        only; whether a gated column has a value is decided first.
        """
        x = x.clone()
        rows, given = self.read(x), self.known(x)
        total, seen = self.vectors(rows, given).sum(1), given.clone()
        now = self._given_all(rows, given)
        gating = {by for by, _ in self.gates.values()}
        vectors: dict[int, Tensor] = {}
        for column in sorted(self.order, key=lambda each: each not in gating):
            at = (self.applies(column, rows.codes, seen) & ~seen[:, column]).nonzero()[:, 0]
            if not len(at):
                continue
            shown, sums = given[at], total[at]
            known = None if now is None else now.at(at)
            if column in self.gates:  # the gate is open: this is what its column tells
                by = self.gates[column][0]
                sums = sums + torch.where(shown[:, by, None], 0.0, vectors.get(by, total)[at])
                known = self._see(known, rows.at(at), by, ~shown[:, by])
                shown[:, by] = True
            own = self._expectation(known, column)
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
        heads, number = self._heads_of(rows, seen, total, column, expected), self.place.get(column)
        if number is None:
            logits = self._code_logits(heads, column, rows, seen, CERTAIN)
            return logits.argmax(1).to(rows.x)
        p = self._number_logits(heads, number, rows, seen, CERTAIN).softmax(1).double()
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
        rows, known, given = self.read(x), self.known(x), self.given(x)
        columns = [order[place] for place in places]
        rank = torch.tensor(list(order), device=x.device).argsort()
        own = torch.tensor(list(places), device=x.device)[:, None]
        earlier = (rank < own).expand(len(x), -1, -1)
        if first is not None:
            earlier, given = earlier | first[:, None], given & ~first
        seen = earlier & known[:, None]
        vectors = self.vectors(rows, known)
        expected = self.expectations(rows, order[: places.stop], first, known)[places.start :]
        total = torch.bmm(earlier.to(vectors), vectors)
        heads = self.heads(rows, seen, columns, total, expected)
        found = self.log_prob_of(heads, columns, rows, seen)
        return torch.where(given[:, columns], found, 0.0)

    @torch.no_grad()
    def expectations(
        self, rows: Coded, order: Sequence[int], first: Tensor | None, known: Tensor
    ) -> list[tuple[Tensor, Tensor] | None]:
        """Return mean and standard deviation (B,) of numbers in the Gaussian.

        Args:
            rows: B rows.
            order: columns; each is conditioned on the columns before it.
            first: (B, C) bool, values on which every column is conditioned; None for none.
            known: (B, C) bool, values that are not missing.

        Returns:
            A pair for each column of the order, None for those that are no numbers.
        """
        if self.gaussian is None:
            return [None] * len(order)
        ahead = torch.zeros_like(known) if first is None else first & known
        now, found = self._given_all(rows, ahead), []
        for column in order:
            found.append(self._expectation(now, column))
            now = self._see(now, rows, column, known[:, column] & ~ahead[:, column])
        return found


def _split(layer: nn.Linear, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return the weights and biases of the parts of a linear layer's outputs.

    The gradient of a split is one concatenation; that of slices would be a sum of as many tensors
    of the size of all weights.
    """
    return list(zip(layer.weight.split(list(sizes)), layer.bias.split(list(sizes)), strict=True))


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
    gap = torch.where(grid[..., None], b - a, 1.0).clamp_min(1e-12)
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
