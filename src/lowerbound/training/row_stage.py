"""The second stage of a fit to a table: a chain of columns, measured on the training rows.

The VAE stays as it is: its embeddings and scores do not change. Rows are drawn and completed by
the chain (`lowerbound.nn.distributions.chains`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound import noise
from lowerbound.coding.base import Coding
from lowerbound.coding.rows import Dense, Rows, subset
from lowerbound.coding.tables import TableCoding
from lowerbound.columns.base import Days, Scale
from lowerbound.nn.distributions.chains import (
    FARTHEST,
    LOGISTICS,
    PADDING,
    Bound,
    Chain,
    ChainLayout,
    Coded,
    CodeValues,
    Formula,
    Gate,
    NumberColumn,
    OtherFormula,
    Steps,
    Sum,
    Tie,
)
from lowerbound.nn.model import LatentModel
from lowerbound.tasks.completion import BOTH, CHAIN, LATENTS, Completion
from lowerbound.tasks.crps import crps
from lowerbound.tasks.draws import chain_of
from lowerbound.training import gaussian_rows, relations
from lowerbound.training.engine import loop
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.plan import ANNEAL, Plan, budget_of, optimiser_of

CELLS = 64  # most cells of a column of numbers
ROWS_PER_CELL = 20
SPIKES = 256  # most values of a column with a probability of their own
# Rows that share a value with a probability of its own, at least; of a column whose values are
# shared by as many rows in the mean, two.
OFTEN = 5
NEARLY_ALL = 0.99  # share of rows with such values from which all values are among them
# Shares of rows from which a number is copied from another column: if equal to it, or if close.
COPIED, OFTEN_CLOSE = 0.01, 0.25
CLOSE = 0.1  # difference of two codes, in units of the coded column
MOST_COPIES = 4
# Smallest scale of a density: about that many rows lie within it, or the training rows would be
# learned by heart.
FINE_ROWS, FINEST, COARSEST = 20.0, 2.5e-3, 0.15
RARELY = 0.01  # rows of a component that no training row needs
# A combination of values is rare if it has less than the share `RARE` of the rows expected under
# independence, and at least `EXPECTED` were expected. Most pairs of columns with such tables.
RARE, EXPECTED, RARE_PAIRS = 0.05, 10.0, 24
TIED = 64  # most codes of a column of rare combinations, and most intervals of steps
# Most codes of a column that a tie is looked for in, and most combinations of two.
TIED_CODES, COMBINATIONS = 1024, 1 << 17
MAX_EXPONENT = 16  # powers of ten of a round number
WHOLE, WHOLE_DAYS = 1.0, ([1.0], [7.0, 1.0])  # step of a weekday; weights of dates without a time
CHANCE = 1e-6  # probability that a tie is found by chance
LOOKED_AT = 2_000  # rows that rule out most steps, before all rows confirm the others
MEASURED = 20_000  # rows on which the dependence of pairs is measured
PAIRED = 128  # columns up to which the order follows the dependence of pairs
BINS = 16  # of a column of numbers, for the dependence of pairs
# The Gaussian from which the densities of numbers begin: most numbers and codes in it, most codes
# of a column, and fewest rows of a code.
GAUSSIAN, FEW_CODES, OF_A_CODE = 64, 8, 10
SHARES = 30  # rounds in which the first shares of spikes, cells and logistics are found

MOST_ROWS = 200_000  # rows that the layout is measured on
MOST_LEVELS = 4096  # of a column; tables with more are drawn from the VAE
MOST_COLUMNS = 256  # coded columns; drawing takes a step for each
CELLS_AT_ONCE = 1 << 14  # values of a batch
# To choose how rows are completed: most rows, copies of each held-out row with other values hidden
# if these are fewer, share of the columns that is hidden, and draws of each row.
COMPARED, COPIES, HIDDEN, DRAWS = 500, 4, 0.3, 16
SURELY = 2.0  # standard errors
TIME = 0.4  # share of a time limit
FEW, SHARE, LEAST = 64, 1 / 64, 150  # fewest rows of a step, their share; steps of few rows
# Rows of a usual table. The learning rate of smaller ones falls with the root of the rows: of 500
# rows, the higher rate learned the rows by heart before it learned their dependence.
USUAL, LOWEST = 13_000, 3e-4
MANY_ROWS = 5_000  # from which a chain is trained for longer
# The learning rate falls to the end of the budget, and much is gained there: a fit goes on while
# it gains at all, and stops early only if it learns its rows by heart. The best weights are kept.
PATIENCE, GAIN = 6, 0.0

Floats = NDArray[np.floating[Any]]


class Pace(NamedTuple):
    """Hyperparameters of the training of a chain, for small or for larger tables.

    Attributes:
        fewer: passes of the first stage for each pass of this one.
        batch: most rows of a step.
        rate: learning rate.
        many: steps from which the rate falls with the root of the steps.
        decay: weight decay.
        span: the time constant of the weights' moving average is the number of steps over it.
    """

    fewer: int
    batch: int
    rate: float
    many: float
    decay: float
    span: int


# A high rate and few passes learn a small table sooner, and less of it by heart. On larger ones
# they leave shares of values inexact, by which drawn rows can be told.
OF_FEW_ROWS = Pace(fewer=7, batch=128, rate=1.2e-2, many=1_000, decay=3e-2, span=10)
OF_MANY_ROWS = Pace(fewer=2, batch=256, rate=4e-3, many=math.inf, decay=1e-1, span=5)


def is_wanted(plan: Plan, coding: Coding) -> bool:
    """Return whether a fit trains a chain: for tables, unless it is too large or not wanted."""
    if not plan.recipe.chained or "chain" in plan.settings:
        return False
    sizes = coding.arguments()["sizes"]
    return max(sizes) <= MOST_LEVELS and 1 < len(sizes) <= MOST_COLUMNS


def settings(
    plan: Plan, coding: Coding, rows: int, seconds: float | None
) -> tuple[Budget, Optimiser]:
    """Return the budget and the optimiser of the second stage.

    It takes fewer rows than the first stage may, by the pace of tables of this size. A wider
    network learns the training rows by heart sooner, and its draws are worse after the same time.

    Args:
        plan: the plan.
        coding: the coding of the table.
        rows: number of training rows.
        seconds: time for it; None for no limit.
    """
    usual, first = budget_of(plan), optimiser_of(plan)
    columns = max(1, len(coding.arguments()["sizes"]))
    pace = OF_MANY_ROWS if rows >= MANY_ROWS else OF_FEW_ROWS
    batch = min(pace.batch, max(FEW, round(rows * SHARE)), max(32, CELLS_AT_ONCE // columns))
    factor = pace.fewer * batch / first.batch_size
    budget = replace(
        usual,
        seconds=seconds,
        patience=PATIENCE,
        gain=GAIN,
        epochs=max(1, round(usual.epochs / pace.fewer)),
        steps=min(usual.steps, LEAST),
        most=None if usual.most is None else round(usual.most / factor),
    )
    steps = budget.total(max(1, rows // batch))
    rate = min(pace.rate, max(LOWEST, pace.rate * math.sqrt(rows / USUAL)))
    rate *= min(1.0, math.sqrt(pace.many / steps))
    optimiser = Optimiser(
        batch_size=batch,
        learning_rate=rate if plan.learning_rate is None else plan.learning_rate,
        weight_decay=pace.decay,
        ema=max(0.0, 1.0 - pace.span / max(steps, pace.span)),
        anneal=ANNEAL,
    )
    return budget, optimiser


def draws(model: LatentModel, valid: Rows) -> str:
    """Return the model that rows are drawn from: "chain", or "latents" if it is surely better.

    Draws of the chain keep to what others determine, and meet conditions exactly. Rows are drawn
    from the VAE only if the mean likelihood of held-out rows under it is higher by more than
    `SURELY` standard errors of the difference: of few rows, the difference is mostly chance.
    """
    assert model.rows is not None, "the chain is trained"
    some = subset(valid, torch.arange(min(len(valid), loop.CHECK_ROWS)))
    gain = loop.held_out_rows(model, some) - loop.held_out_rows(model.rows, some)
    error = gain.std(correction=min(1, len(gain) - 1)) / math.sqrt(len(gain))
    return LATENTS if gain.mean() > SURELY * error else CHAIN


@torch.no_grad()
def completes(model: LatentModel, valid: Rows, groups: Sequence[Sequence[int]], seed: int) -> str:
    """Return by which model rows are completed: "chain", "latents" or "both".

    A share of the columns of each held-out row is hidden at random, in some copies of the row if
    these are few, and drawn by each model and by their mixture. The one whose draws have the
    lowest mean CRPS is chosen (`lowerbound.tasks.crps`). The likelihood of the hidden values would
    not do: most of it can be that of a grid or of values that occur often, which says little about
    how close draws are.

    Args:
        model: the VAE, with a chain.
        valid: held-out rows.
        groups: the coded columns of each raw column.
        seed: of the hidden values and the draws.
    """
    assert model.rows is not None, "the chain is trained"
    x = valid.take(torch.arange(min(len(valid), COMPARED))).x
    x = x.repeat(COPIES, 1)[:COMPARED]
    source = noise.generator("compared", seed)
    hidden = torch.zeros_like(x, dtype=torch.bool)
    for columns in groups:
        hidden[:, list(columns)] = torch.rand(len(x), 1, generator=source) < HIDDEN
    judged = hidden & ~x.isnan()
    if not judged.any():
        return LATENTS
    rest = Dense(x.masked_fill(hidden, torch.nan))
    drawn = {
        by: Completion(model, by, groups).draws(rest, DRAWS, seed=seed) for by in (LATENTS, CHAIN)
    }
    chain = chain_of(model.rows)
    codes = torch.ones(x.shape[1], dtype=torch.bool)
    codes[list(chain.place)] = False
    for column, (gate, code) in chain.gates.items():  # the VAE draws numbers that do not apply
        own = drawn[LATENTS]
        own[..., column].masked_fill_(own[..., gate] != code, 0.0)
    half = DRAWS // 2
    drawn[BOTH] = torch.cat([drawn[LATENTS][:, :half], drawn[CHAIN][:, :half]], 1)
    by = {name: crps(each, x, codes)[judged].mean() for name, each in drawn.items()}
    return min(by, key=lambda name: float(by[name]))


class Measured(NamedTuple):
    """Layout, buffers and first bias of a chain, measured on the training rows.

    Attributes:
        layout: arguments of `Chain`, plain JSON values.
        buffers: tensors of the chain by name.
        bias: first bias of the chain's head: logarithms of how often each component occurs.
    """

    layout: ChainLayout
    buffers: dict[str, Tensor]
    bias: Tensor

    def give(self, chain: Chain) -> None:
        """Write what was measured into a chain of the same layout."""
        with torch.no_grad():
            for name, values in self.buffers.items():
                chain.get_buffer(name).copy_(values)
            chain.head.bias.copy_(self.bias)


class CodedColumns(NamedTuple):
    """The coded columns of a table, as its coding describes them.

    Attributes:
        families: kind of every coded column.
        sizes: number of codes of every coded column.
        scales: for columns of numbers, the map to raw values; else None.
        gates: the columns that have a value only under a code of another one: (column, that
            one, code).
        code_values: for columns of codes that stand for numbers, that of each code; else None.
        days: dates as weighted sums of coded columns.
    """

    families: Sequence[str]
    sizes: Sequence[int]
    scales: Sequence[Scale | None]
    gates: Sequence[tuple[int, int, int]] = ()
    code_values: Sequence[Sequence[float | None] | None] = ()
    days: Sequence[Days] = ()

    @classmethod
    def of(cls, coding: TableCoding) -> CodedColumns:
        """Return the coded columns of a table's coding."""
        parts = coding.arguments()
        return cls(
            parts["families"],
            parts["sizes"],
            coding.scales,
            coding.gates,
            coding.code_values,
            coding.days,
        )


def measured(x: Floats, columns: CodedColumns, width: int) -> Measured:
    """Measure the layout of a chain on coded training rows.

    Args:
        x: (n, columns), NaN where missing.
        columns: what they hold.
        width: of the network.
    """
    families, sizes, scales, gates, code_values, days = columns
    places = [i for i, kind in enumerate(families) if kind in ("real", "count")]
    own = {i: scales[i] or Scale() for i in places}
    closing: list[Gate] = [{"column": c, "by": by, "code": code} for c, by, code in gates]
    shared: dict[str, Any] = {
        "gates": closing,
        "novel": 1.0 / (len(x) + 2),
        "narrowest": float(np.clip(FINE_ROWS / max(1, len(x)), FINEST, COARSEST)),
    }
    bare = _bare(families, sizes, own, shared)
    found = [_number(i, x, bare, n) for n, i in enumerate(places)]
    copies = _copies(x, places, bare)
    quantities = _quantities(x, places, bare, code_values, days)
    formulas, others, follows = _formulas(quantities, bare)
    bounds = _bounds(quantities)
    numbers: list[NumberColumn] = [
        {
            "column": each.column,
            "spikes": len(each.spikes),
            "cells": len(each.edges) - 1,
            "knots": len(own[each.column].raw),
            "log": own[each.column].log,
            "copies": copies.get(each.column, []),
        }
        for each in found
    ]
    for each, measured_number in zip(numbers, found, strict=True):
        if each["column"] in formulas:
            each["formula"] = formulas[each["column"]]
        if len(measured_number.spikes) and not measured_number.rest.any():
            each["only_spikes"] = True
    labels = _labels(x, families, sizes, found)
    ties, tables = _ties(labels)
    rare, offsets = _rare(labels, ties, closing)
    steps = [
        each
        for each in _steps(quantities, labels, ties, closing)
        if not any(relations.needs(follows, source, each["column"]) for source in each["columns"])
        and not follows.setdefault(each["column"], []).extend(each["columns"])
    ]
    order = _parts_first(_order(labels, closing), follows, [each.size for each in labels])
    codes = _codes(labels, families, sizes, places)
    layout: ChainLayout = {
        "order": order,
        "numbers": numbers,
        "ties": ties,
        "rare": rare,
        "width": width,
        "gates": closing,
        "novel": shared["novel"],
        "narrowest": shared["narrowest"],
        "gaussian": codes,
        "code_values": _code_values(quantities, formulas, others, steps, bounds, bare),
        "others": others,
        "steps": steps,
        "bounds": bounds,
    }
    with noise.isolated("not trained"):
        chain = Chain(families, sizes, **layout)
    buffers = _knots(chain, list(own.values())) if found else {}
    if found:
        buffers["edges"] = _padded([each.edges for each in found], chain.edges)
        buffers["spikes"] = _padded([each.spikes for each in found], chain.spikes)
    for i, (tie, table) in enumerate(zip(ties, tables, strict=True)):
        mask = torch.zeros_like(chain.get_buffer(f"tie{i}"))
        allowed = torch.from_numpy(table)
        known = allowed.any(1).nonzero()[:, 0]
        mask[known] = math.log(shared["novel"])  # also of the components that are no spikes
        first = chain.first_value(tie["column"])
        mask[: len(allowed), first : first + allowed.shape[1]].masked_fill_(allowed, 0.0)
        buffers[f"tie{i}"] = mask
    for i, (tie, table) in enumerate(zip(rare, offsets, strict=True)):
        less = torch.zeros_like(chain.get_buffer(f"rare{i}"))
        first = chain.first_value(tie["column"])
        less[: len(table), first : first + table.shape[1]] = torch.from_numpy(table)
        buffers[f"rare{i}"] = less
    shares = None
    if chain.gaussian is not None:
        for name, values in buffers.items():
            chain.get_buffer(name).copy_(values)
        gaussian, shares = _gaussian(x[: gaussian_rows.MOST], chain, codes or [], found)
        buffers["gaussian.mean"], buffers["gaussian.covariance"] = gaussian
    return Measured(layout, buffers, _bias(x, chain, found, shares))


def _bare(
    families: Sequence[str],
    sizes: Sequence[int],
    own: Mapping[int, Scale],
    shared: Mapping[str, Any],
) -> Chain:
    """Return a chain that knows the maps between codes and raw values only."""
    numbers: list[NumberColumn] = [
        {"column": i, "spikes": 0, "cells": 1, "knots": len(s.raw), "log": s.log, "copies": []}
        for i, s in own.items()
    ]
    order = list(range(len(families)))
    gated = {gate["column"] for gate in shared["gates"]}
    order.sort(key=lambda i: i in gated)
    with noise.isolated("not trained"):
        chain = Chain(families, sizes, order=order, numbers=numbers, width=1, **shared)
    if own:
        for name, values in _knots(chain, list(own.values())).items():
            chain.get_buffer(name).copy_(values)
    return chain


def _knots(chain: Chain, scales: Sequence[Scale]) -> dict[str, Tensor]:
    return {
        "raw": _padded([np.asarray(s.raw) for s in scales], chain.raw),
        "coded": _padded([np.asarray(s.coded) for s in scales], chain.coded),
        "grains": torch.tensor([s.grain for s in scales], dtype=torch.float64),
    }


def _padded(rows: Sequence[Floats], like: Tensor) -> Tensor:
    """Return rows of different lengths as one tensor, padded after their end."""
    found = torch.full_like(like, PADDING)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = torch.as_tensor(np.asarray(values), dtype=like.dtype)
    return found


class _Number(NamedTuple):
    """The spikes and the cells of a column of numbers, and how many rows each of them holds."""

    column: int
    spikes: Floats
    edges: Floats
    often: NDArray[np.int64]
    rest: NDArray[np.int64]


def _number(column: int, x: Floats, bare: Chain, number: int) -> _Number:
    """Measure the spikes and the cells of a column."""
    own = x[:, column]
    values, counts = np.unique(own[~np.isnan(own)].astype(np.float32), return_counts=True)
    if not len(values):
        return _Number(column, values, np.array([-1.0, 1.0]), counts, np.zeros(1, np.int64))
    which = torch.tensor([number])
    _, low, high = bare.rounded(torch.from_numpy(values)[:, None], which)
    low, high = low[:, 0].numpy(), high[:, 0].numpy()
    often = np.zeros(len(values), dtype=bool)
    if bare.grains[number] > 0:
        least = 2 if counts.mean() >= OFTEN else OFTEN
        if counts[counts >= least].sum() >= NEARLY_ALL * counts.sum() and len(values) <= SPIKES:
            least = 1
        often[np.argsort(-counts, kind="stable")[:SPIKES]] = True
        often &= counts >= least
    rest = ~often if (~often).any() else np.ones(len(values), dtype=bool)
    middle = (high[:-1] + low[1:]) / 2  # between neighbouring values
    rows = counts[rest].sum()
    cells = int(np.clip(rows // ROWS_PER_CELL, 1, CELLS))
    shares = np.cumsum(np.where(rest, counts, 0)) / rows
    cuts = np.searchsorted(shares, np.arange(1, cells) / cells)
    inner = middle[np.unique(cuts[cuts < len(middle)])]
    pad = 0.0 if high[0] > low[0] else 0.5 * float(np.diff(values).min(initial=0.1))
    edges = np.unique(np.r_[low[0] - pad, inner, high[-1] + pad].astype(np.float32))
    held = np.histogram(values, edges, weights=np.where(often, 0, counts))[0]
    return _Number(column, values[often], edges, counts[often], held.astype(np.int64))


def _copies(x: Floats, places: Sequence[int], bare: Chain) -> dict[int, list[int]]:
    """Return, for each column of numbers, the columns whose raw value it repeats or is close to.

    Two values are close if their codes in one column are.
    """
    if not 2 <= len(places) <= PAIRED:
        return {}
    every = torch.arange(len(places))
    some = torch.from_numpy(x[:MEASURED][:, places])
    raw = bare.raw_of(some.nan_to_num(0.0), every).masked_fill(some.isnan(), torch.nan)
    grid = bare.grains > 0
    found: dict[int, list[int]] = {}
    for n in range(len(places)):
        own = torch.full_like(every, n)
        equal = ((raw == raw[:, n : n + 1]) & grid).double().mean(0) * float(grid[n])
        distance = (bare.coded_of(raw, own) - some[:, n : n + 1]).abs()
        share = torch.maximum(equal / COPIED, (distance < CLOSE).double().mean(0) / OFTEN_CLOSE)
        share[n] = 0.0
        best = share.sort(descending=True, stable=True).indices[:MOST_COPIES].tolist()
        found[places[n]] = [places[other] for other in best if share[other] >= 1.0]
    return found


class _Term(NamedTuple):
    """A number as a weighted sum of coded columns: of one, or of the parts of a date.

    Attributes:
        columns: coded columns, of numbers or of codes that stand for numbers.
        weights: the weight of each of them.
        constant: the intercept.
    """

    columns: list[int]
    weights: list[float]
    constant: float

    def stored(self) -> Sum:
        """Return the term as a plain JSON value."""
        return {"columns": self.columns, "weights": self.weights, "constant": self.constant}

    def sum_of(self, raw: Mapping[int, Floats]) -> Floats:
        """Return the number in all rows, from those of the coded columns."""
        pairs = zip(self.columns, self.weights, strict=True)
        return sum((weight * raw[c] for c, weight in pairs), np.array(self.constant))


class _Quantities(NamedTuple):
    """The numbers of a table, one of each raw column.

    Attributes:
        terms: what each is a sum of.
        raw: (n, terms) raw values; gated numbers have that of the code where the gate is closed.
        grains: (terms,) the number that all values are multiples of; 0 for none.
        values: column of codes -> the number of each code, NaN for none.
        dates: the terms that are dates.
    """

    terms: list[_Term]
    raw: Floats
    grains: Floats
    values: dict[int, Floats]

    dates: set[int]

    @property
    def fixed(self) -> set[int]:
        """The terms that are sums, but no whole days: their parts follow from no sum."""
        return {
            n
            for n, term in enumerate(self.terms)
            if len(term.columns) > 1 and term.weights not in WHOLE_DAYS
        }


def _quantities(
    x: Floats,
    places: Sequence[int],
    bare: Chain,
    values: Sequence[Sequence[float | None] | None],
    days: Sequence[Days],
) -> _Quantities:
    of_codes = {i: np.array(each, float) for i, each in enumerate(values) if each is not None}
    of_dates = {column for each in days for column in each.parts}
    deciding = {by for by, _ in bare.gates.values()} | of_dates
    terms = [
        _Term([c], [1.0], 0.0)
        for c in places
        if c not in of_dates and (c not in bare.gates or bare.gates[c][0] in of_codes)
    ]
    terms += [_Term([column], [1.0], 0.0) for column in of_codes if column not in deciding]
    terms += [_Term(list(each.parts), list(each.weights), each.constant) for each in days]
    if not 2 <= len(terms) <= PAIRED:
        terms = []
    raw = {column: _raw(x, column, bare, of_codes) for term in terms for column in term.columns}
    every = np.stack([term.sum_of(raw) for term in terms], 1) if terms else np.empty((len(x), 0))

    def grain(term: _Term) -> float:
        if len(term.columns) > 1:
            return min(term.weights)
        number = bare.place.get(term.columns[0])
        return float(number is not None and bare.grains[number])

    dates = set(range(len(terms) - len(days), len(terms))) if terms else set()
    return _Quantities(terms, every, np.array([grain(term) for term in terms]), of_codes, dates)


def _raw(x: Floats, column: int, bare: Chain, of_codes: Mapping[int, Floats]) -> Floats:
    """Return the raw values (n,) of a column of numbers, or of codes that stand for some."""
    own = x[:, column]
    if column not in bare.place:
        at = np.where(np.isnan(own), len(of_codes[column]), own).astype(int)
        return np.append(of_codes[column], np.nan)[at]
    which = torch.tensor([bare.place[column]])
    rows = torch.from_numpy(own)[:, None]
    raw = bare.raw_of(rows.nan_to_num(0.0), which).masked_fill(rows.isnan(), torch.nan)[:, 0]
    by, none = bare.gates.get(column, (column, -1))
    found = raw.numpy().copy()
    if by in of_codes:
        shut = ~np.isnan(x[:, by]) & (x[:, by] != none)
        found[shut] = of_codes[by][x[shut, by].astype(int)]
    return found


def _formulas(
    found: _Quantities, bare: Chain
) -> tuple[dict[int, Formula], list[OtherFormula], dict[int, list[int]]]:
    """Return column -> formula of what follows from other numbers, further ones, and the order.

    The last is column -> columns that must come first, for coded columns: the gate of a number
    with a formula follows as well.
    """
    if not found.terms:
        return {}, [], {}
    related = relations.related(found.raw, found.grains, found.fixed)
    terms, follows = found.terms, {column: [by] for column, (by, _) in bare.gates.items()}
    formulas: dict[int, Formula] = {}
    for n, relation in related.formulas.items():
        for column, formula in _of_parts(terms, n, relation).items():
            formulas[column] = formula
            if n in related.follows:
                first = bare.gates.get(column, (column,))[0]
                follows.setdefault(first, []).extend(formula["columns"])
    others: list[OtherFormula] = []
    for n, some in related.others.items():
        for relation, within in some:
            own = _of_parts(terms, n, relation)
            if len(own) > 1 and within > 0:  # one part alone may be farther from its formula
                continue
            shift = within / terms[relation.columns[0]].weights[0]
            for column, formula in own.items():
                others.append({"column": column, "formula": formula, "within": shift})
    return formulas, others, follows


def _of_parts(terms: Sequence[_Term], n: int, relation: relations.Relation) -> dict[int, Formula]:
    """Return column -> formula in coded columns, for the parts of a number with a formula.

    Empty if there is none, as for the logarithm of a date.
    """
    weighted = [(terms[i], w) for i, w in zip(relation.columns, relation.weights, strict=True)]
    several = any(len(term.columns) > 1 for term in (terms[n], *(term for term, _ in weighted)))
    if several and relation.form != "sum":
        return {}
    columns = [c for term, _ in weighted for c in term.columns]
    weights = [w * part for term, w in weighted for part in term.weights]
    constant = relation.constant
    constant += sum(w * term.constant for term, w in weighted) - terms[n].constant
    whole: Formula = {
        "columns": columns,
        "weights": weights,
        "constant": constant,
        "form": relation.form,
    }
    *week, last = terms[n].columns
    if not week:
        return {last: whole}
    days = float(terms[n].weights[0])  # in the middle of a week, rounding gives the week
    middle = [weight / days for weight in weights], (constant - (days - 1) / 2) / days
    return {
        week[0]: {**whole, "weights": middle[0], "constant": middle[1]},
        last: {**whole, "columns": [*columns, week[0]], "weights": [*weights, -days]},
    }


def _bounds(found: _Quantities) -> list[Bound]:
    """Return a bound for each pair of numbers with lower <= upper on all rows.

    The dates of a column lie between its first and its last one. Of other numbers, the densities
    are in the range of the training rows already.
    """
    bounds: list[Bound] = []
    for n, term in enumerate(found.terms):
        if len(term.columns) > 1 and not np.isnan(found.raw[:, n]).all():
            for sign, end in (
                (1.0, np.nanmax(found.raw[:, n])),
                (-1.0, np.nanmin(found.raw[:, n])),
            ):
                weights = [sign * weight for weight in term.weights]
                constant = sign * (term.constant - float(end))
                bounds.append({"columns": term.columns, "weights": weights, "constant": constant})
    for i, j in relations.at_most(found.raw):
        lower, upper = found.terms[i], found.terms[j]
        weights = [*lower.weights, *(-weight for weight in upper.weights)]
        constant = lower.constant - upper.constant
        columns = [*lower.columns, *upper.columns]
        bounds.append({"columns": columns, "weights": weights, "constant": constant})
    return bounds


def _steps(
    found: _Quantities, labels: Sequence[_Label], ties: Sequence[Tie], gates: Sequence[Gate]
) -> list[Steps]:
    """Return the columns of codes that follow from the interval that a number lies in.

    Each code must hold on all rows of its intervals, on `OFTEN` or more, and not by chance. Of
    each column, the number with the fewest intervals is taken.
    """
    tied = {(tie["seen"], tie["column"]) for tie in ties}
    tied |= {(gate["column"], gate["by"]) for gate in gates}
    steps = []
    targets = [i for i, each in enumerate(labels) if each.exact and each.size <= TIED][:PAIRED]
    for column in targets:
        own = labels[column].codes
        best: Steps | None = None
        for n, term in enumerate(found.terms):
            source, *parts = term.columns
            tied_too = column in term.columns or (source, column) in tied
            if tied_too or (not parts and source in found.values):
                continue
            raw = found.raw[:, n]
            each = _runs(raw[:LOOKED_AT], own[:LOOKED_AT]) and _intervals(
                raw, own, n in found.dates
            )
            if each is not None and (best is None or len(each[0]) < len(best["cuts"])):
                cuts, codes = each
                best = {"column": column, **term.stored(), "cuts": cuts, "codes": codes}
        if best is not None:
            steps.append(best)
    return steps


def _intervals(
    raw: Floats, codes: NDArray[np.int64], of_dates: bool
) -> tuple[list[float], list[int]] | None:
    """Return cuts between intervals of a number with one code each, and the codes.

    Args:
        raw: (n,) the number, in days since 1970 if they are dates.
        codes: (n,), -1 where missing.
        of_dates: whether the number is a date.
    """
    found = _runs(raw, codes)
    if found is None:
        return None
    raw, codes, first = found
    # Near a blurred limit, codes alternate from row to row. Dates may begin and end anywhere.
    rows = np.diff(np.r_[first, len(codes)])
    if len(rows) == 1 or (rows[1:-1] if len(rows) > OFTEN else rows).min() < OFTEN:
        return None
    share = np.bincount(codes) / len(codes)
    if _by_chance(len(codes) - len(first), float((share**2).sum())):
        return None
    between = zip(raw[first[1:] - 1], raw[first[1:]], strict=True)
    cuts = [(_roundest_day if of_dates else _roundest)(*ends) for ends in between]
    return cuts, codes[first].tolist()


def _roundest_day(low: float, high: float) -> float:
    """Return the first day of a year, or else of a month, that is above `low`, at most `high`."""
    last = np.datetime64(math.floor(high), "D")
    for unit in ("Y", "M"):
        cut = float(last.astype(f"datetime64[{unit}]").astype("datetime64[D]").astype(int))
        if low < cut <= high:
            return cut
    return high


def _roundest(low: float, high: float) -> float:
    """Return the number of fewest digits that is above `low` and at most `high`."""
    for digits in range(-MAX_EXPONENT, MAX_EXPONENT):
        cut = math.floor(high * 10.0**digits) / 10.0**digits
        if low < cut <= high:
            return cut
    return high


def _runs(
    raw: Floats, codes: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]] | None:
    """Return rows in the order of a number, and where each run of one code begins.

    None if a number goes with several codes, or if there are too many runs.
    """
    known = ~np.isnan(raw) & (codes >= 0)
    order = np.argsort(raw[known], kind="stable")
    raw, codes = raw[known][order], codes[known][order]
    changes = np.flatnonzero(codes[1:] != codes[:-1])
    if len(changes) >= TIED or (raw[changes] == raw[changes + 1]).any():
        return None
    return raw, codes, np.r_[0, changes + 1]


def _code_values(
    found: _Quantities,
    formulas: Mapping[int, Formula],
    others: Sequence[OtherFormula],
    steps: Sequence[Steps],
    bounds: Sequence[Bound],
    bare: Chain,
) -> list[CodeValues]:
    """Return the numbers of all codes in formulas, steps and bounds, and the formulas of codes."""
    every = [*formulas.values(), *(each["formula"] for each in others)]
    named = [*formulas, *(c for each in every for c in each["columns"])]
    named += [c for each in steps for c in each["columns"]]
    named += [c for each in bounds for c in each["columns"]]
    gate = {column: by for column, (by, _) in bare.gates.items()}
    place = {term.columns[0]: n for n, term in enumerate(found.terms) if len(term.columns) == 1}
    made: dict[int, CodeValues] = {}
    for named_column in named:
        column = gate.get(named_column, named_column)
        column = column if column in found.values else named_column
        if column not in found.values:
            continue
        near = WHOLE / 4  # of a part of a date
        if named_column in place:
            raw, grain = found.raw[:, place[named_column]], found.grains[place[named_column]]
            near = grain / 4 if grain > 0 else relations.CLOSE * float(np.nanstd(raw))
        numbers = [None if math.isnan(v) else float(v) for v in found.values[column]]
        made[column] = {"column": column, "values": numbers, "near": float(near)}
        if named_column in formulas:
            made[column]["formula"] = formulas[named_column]
    return list(made.values())


def _codes(
    labels: Sequence[_Label], families: Sequence[str], sizes: Sequence[int], places: Sequence[int]
) -> list[list[int]] | None:
    """Return the (column, code) pairs of the Gaussian; None if it would be too large.

    The most frequent code of a column is that of all zeros.
    """
    room = GAUSSIAN - len(places)
    if not places or room < 0:
        return None
    pairs: list[list[int]] = []
    for column in sorted(set(range(len(families))) - set(places), key=lambda c: sizes[c]):
        counts = np.bincount(labels[column].codes[labels[column].codes >= 0], minlength=2)
        often = [int(code) for code in np.argsort(-counts)[1:] if counts[code] >= OF_A_CODE]
        if counts.astype(bool).sum() <= FEW_CODES and len(often) <= room:
            pairs += [[column, code] for code in sorted(often)]
            room -= len(often)
    return pairs


def _gaussian(
    x: Floats, chain: Chain, codes: Sequence[Sequence[int]], found: Sequence[_Number]
) -> tuple[gaussian_rows.Gaussian, Floats]:
    """Fit the Gaussian of a chain, and the shares of spikes, cells and logistics of each number.

    The shares are those under which rows that a copy of the Gaussian was not fitted to are most
    likely, (numbers, 3).
    """
    rows = torch.from_numpy(x).float()
    given, coded = chain.given(rows), chain.read(rows)
    known = chain.known(rows)
    values = coded.values.double().clamp(-FARTHEST, FARTHEST)
    at = chain.get_buffer("at")
    numbers = values.masked_fill(~given[:, at], torch.nan)
    further = [
        (coded.codes[:, column] == code).double().masked_fill(~known[:, column], torch.nan)
        for column, code in codes
    ]
    features = torch.cat([numbers, *(each[:, None] for each in further)], 1)
    assert chain.gaussian is not None, "the chain has a Gaussian"

    rank = torch.tensor(chain.order).argsort()

    def predict(gaussian: gaussian_rows.Gaussian, some: Tensor) -> gaussian_rows.Predicted:
        assert chain.gaussian is not None, "the chain has a Gaussian"
        chain.gaussian.mean, chain.gaussian.covariance = gaussian
        expected = chain.expectations(coded.at(some), rank, None, known[some])
        assert expected is not None, "the chain has a Gaussian"
        return gaussian_rows.Predicted(*expected)

    judged = gaussian_rows.judged(features, numbers, predict)
    return judged.gaussian, _shares(coded.at(judged.rows), numbers[judged.rows], judged, found)


def _shares(
    rows: Coded, numbers: Tensor, judged: gaussian_rows.Judged, found: Sequence[_Number]
) -> Floats:
    """Return the shares (numbers, 3) of spikes, cells and logistics, by maximum likelihood."""
    low, high = rows.low.double(), rows.high.double()
    z = [((each - judged.mean) / judged.deviation).numpy() for each in (low, high)]
    width = (high - low).numpy()
    grid = width > 0
    dense = np.exp(-0.5 * z[0] ** 2) / math.sqrt(2 * math.pi) / judged.deviation.numpy()
    below, above = map(scipy.special.ndtr, z)
    smooth = np.where(grid, (above - below) / np.where(grid, width, 1), dense)
    spikes, cells = rows.spikes.numpy(), rows.cells.numpy()
    shares = np.empty((len(found), 3))
    for n, each in enumerate(found):
        at = ~numbers[:, n].isnan().numpy()
        spike, cell = spikes[at, n], cells[at, n]
        # The row itself is not counted, or rare values would seem likelier than they are.
        of_spike = np.r_[np.maximum(each.often - 1.0, 0.0), 0.0] / max(each.often.sum(), 1)
        held = (each.rest + 0.5 - (each.rest > 0)) / max(each.rest.sum(), 1) / np.diff(each.edges)
        p = np.stack(
            [
                of_spike[spike] / np.where(grid[at, n], width[at, n], 1.0),
                np.where(cell >= 0, held[cell], 0.0),
                smooth[at, n] + 1e-12,
            ],
            1,
        )
        share = np.full(3, 1 / 3)
        for _ in range(SHARES if len(p) else 0):
            weight = p * share
            share = (weight / weight.sum(1, keepdims=True)).mean(0)
        shares[n] = share
    return shares.clip(1e-4, 1.0)


def _bias(x: Floats, chain: Chain, found: Sequence[_Number], shares: Floats | None) -> Tensor:
    """Return the logarithms of how often each component of each column occurs.

    Without `shares` of spikes, cells and logistics, a number that is no spike is one of a cell or
    of a logistic density with equal shares.
    """
    numbers = {each.column: each for each in found}
    rows = []
    for column, size in enumerate(chain.levels):
        own = numbers.get(column)
        if own is None:
            codes = x[:, column][~np.isnan(x[:, column])].astype(np.int64)
            rows.append(np.bincount(codes, minlength=size)[:size] + 0.5)
            continue
        copies = np.full(chain.first_value(column), 0.05 * len(x))
        if "formula" in chain.numbers[chain.place[column]]:
            copies[-1] = len(x)
        often, rest = own.often.sum(), own.rest.sum()
        total = often + rest
        of = (often, rest / 2, rest / 2)
        if shares is not None:
            of = tuple(total * shares[chain.place[column]])
        spikes, cells = own.often / max(often, 1), own.rest / max(rest, 1)
        smooth = np.full(LOGISTICS, of[2] / LOGISTICS)
        counts = np.r_[copies, of[0] * spikes, of[1] * cells, smooth, copies]
        rows.append(counts + (0.5 if own.rest.any() else RARELY))
    return torch.from_numpy(np.log(np.concatenate(rows) / max(1, len(x)))).float()


class _Label(NamedTuple):
    """A column as codes, for the dependence of pairs.

    Attributes:
        codes: (n,) int64, -1 where missing.
        size: number of codes.
        exact: whether each code is one value.
    """

    codes: NDArray[np.int64]
    size: int
    exact: bool


def _labels(
    x: Floats, families: Sequence[str], sizes: Sequence[int], found: Sequence[_Number]
) -> list[_Label]:
    numbers = {each.column: each for each in found}
    labels = []
    for column in range(len(families)):
        own, missing = x[:, column], np.isnan(x[:, column])
        if column not in numbers:
            codes = np.where(missing, -1, np.nan_to_num(own)).astype(np.int64)
            labels.append(_Label(codes, max(2, sizes[column]), True))
            continue
        spikes = numbers[column].spikes
        at = np.searchsorted(spikes, own).clip(0, max(len(spikes) - 1, 0))
        if len(spikes) and bool((spikes[at] == own)[~missing].all()):
            labels.append(_Label(np.where(missing, -1, at), len(spikes), True))
            continue
        known = own[~missing]
        cuts = np.unique(np.quantile(known, np.arange(1, BINS) / BINS)) if len(known) else own[:0]
        codes = np.where(missing, -1, np.searchsorted(cuts, np.nan_to_num(own), side="right"))
        labels.append(_Label(codes, len(cuts) + 1, False))
    return labels


def _ties(labels: Sequence[_Label]) -> tuple[list[Tie], list[NDArray[np.bool_]]]:
    """Return pairs of columns where one determines the other on all rows, and the seen pairs.

    Each pair is returned in both directions, with a table of the combinations that occur.
    """
    ties: list[Tie] = []
    tables = []
    few = [_Label(each.codes[:LOOKED_AT], *each[1:]) for each in labels]
    small = [i for i, each in enumerate(labels) if each.exact and each.size <= TIED_CODES]
    for seen in small[:PAIRED]:
        for column in small[:PAIRED]:
            if seen == column or labels[seen].size * labels[column].size > COMBINATIONS:
                continue
            if (_crossed(few[seen], few[column]) > 0).sum(1).max() > 1:
                continue
            table = _crossed(labels[seen], labels[column])
            if not _determines(table):
                continue
            for one, other, found in ((seen, column, table), (column, seen, table.T)):
                if {"seen": one, "column": other} not in ties:
                    ties.append({"seen": one, "column": other})
                    tables.append(found > 0)
    return ties, tables


def _rare(
    labels: Sequence[_Label], ties: Sequence[Tie], gates: Sequence[Gate]
) -> tuple[list[Tie], list[Floats]]:
    """Return pairs of columns with much rarer pairs of values than if independent, both ways.

    Pairs of columns are ranked by the expected number of rows with rare combinations, and the
    first `RARE_PAIRS` are returned with a table of log(observed / expected) for rare combinations
    and 0 for others.
    """
    small = [i for i, each in enumerate(labels) if each.exact and each.size <= TIED][:PAIRED]
    known = {(tie["seen"], tie["column"]) for tie in ties}
    known |= {(gate["by"], gate["column"]) for gate in gates}
    found = []
    for one in small:
        for other in small:
            if one >= other or {(one, other), (other, one)} & known:
                continue
            table = _crossed(labels[one], labels[other])
            total = max(1, table.sum())
            expected = table.sum(1, keepdims=True) * table.sum(0) / total
            rare = (expected >= EXPECTED) & (table < RARE * expected)
            mass = float(expected[rare].sum()) / total
            if mass > 0:
                less = np.log((table + 0.5) / np.maximum(expected, 0.5))
                found.append((mass, one, other, np.where(rare, less, 0.0).astype(np.float32)))
    found.sort(key=lambda each: -each[0])
    pairs: list[Tie] = []
    tables: list[Floats] = []
    for _, one, other, less in found[:RARE_PAIRS]:
        both: list[Tie] = [{"seen": one, "column": other}, {"seen": other, "column": one}]
        pairs += both
        tables += [less, less.T]
    return pairs, tables


def _crossed(one: _Label, other: _Label) -> NDArray[np.int64]:
    """Return the number of rows with each pair of codes, (one.size, other.size)."""
    both = (one.codes >= 0) & (other.codes >= 0)
    pairs = one.codes[both] * other.size + other.codes[both]
    return np.bincount(pairs, minlength=one.size * other.size).reshape(one.size, other.size)


def _determines(table: NDArray[np.int64]) -> bool:
    """Return whether each code of the first column goes with one of the second, not by chance.

    A further row of a code seen before would agree by chance with the probability that two rows
    agree in the second column.
    """
    if ((table > 0).sum(1) > 1).any():
        return False
    share = table.sum(0) / max(1, table.sum())
    return not _by_chance(int((table.sum(1) - 1).clip(0).sum()), float((share**2).sum()))


def _by_chance(confirmed: int, alike: float) -> bool:
    """Return whether a dependency between two columns is not significant, at level `CHANCE`.

    Args:
        confirmed: number of rows that agree with the dependency, without the first row of each
            value.
        alike: probability that two rows have equal values in the dependent column.
    """
    return not 0 < alike < 1 or confirmed * math.log(alike) >= math.log(CHANCE)


def _order(labels: Sequence[_Label], gates: Sequence[Gate]) -> list[int]:
    """Return the columns such that each follows one on which it depends strongly.

    A gated column comes directly after the column that decides on it. Tables of many columns keep
    their own order.
    """
    gated = {gate["column"]: gate["by"] for gate in gates}
    free = [i for i in range(len(labels)) if i not in gated]
    if 2 < len(free) <= PAIRED:
        free = _by_dependence(free, [_Label(e.codes[:MEASURED], *e[1:]) for e in labels])
    order = []
    for column in free:
        order += [column, *(i for i, by in gated.items() if by == column)]
    return order


def _parts_first(
    order: Sequence[int], follows: Mapping[int, Sequence[int]], sizes: Sequence[int]
) -> list[int]:
    """Return the order with every column after the columns that it follows from.

    Of these, columns of few values are first: where the total is given, the last part follows
    from the others, and may have any value.

    Args:
        order: the columns.
        follows: column -> columns that it follows from, without any circle.
        sizes: number of values, or of parts of the range, of each column.
    """
    found: list[int] = []
    begun: set[int] = set()

    def put(column: int) -> None:
        if column in begun:
            return
        begun.add(column)
        for part in follows.get(column, ()):
            put(part)
        together = {c for parts in follows.values() if column in parts for c in parts}
        fewer = [c for c in together if sizes[c] < sizes[column]]
        for part in sorted(fewer, key=lambda c: (sizes[c], order.index(c))):
            if not relations.needs(follows, part, column):
                put(part)
        found.append(column)

    for column in order:
        put(column)
    return found


def _by_dependence(columns: Sequence[int], labels: Sequence[_Label]) -> list[int]:
    """Order columns greedily by their largest mutual information with an earlier one."""
    size = len(columns)
    nats = np.zeros((size, size))
    for a in range(size):
        for b in range(a):
            nats[a, b] = nats[b, a] = _information(labels[columns[a]], labels[columns[b]])
    order = [int(nats.sum(1).argmax())]
    while len(order) < size:
        rest = [i for i in range(size) if i not in order]
        order.append(max(rest, key=lambda i: (nats[i, order].max(), -i)))
    return [columns[i] for i in order]


def _information(one: _Label, other: _Label) -> float:
    """Return the mutual information of two columns, nats, less what chance alone gives."""
    table = _crossed(one, other)
    rows = table.sum()
    if not rows:
        return 0.0
    table = table[table.any(1)][:, table.any(0)]
    p = table / rows
    expected = p.sum(1, keepdims=True) * p.sum(0)
    seen = p > 0
    chance = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * rows)
    return float((p[seen] * np.log(p[seen] / expected[seen])).sum() - chance)
