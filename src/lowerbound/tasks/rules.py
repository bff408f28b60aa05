"""The dependencies that drawn and filled rows keep, in words: sums, keys, limits and orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lowerbound.coding.tables import TableCoding
from lowerbound.columns.arrow import snippet
from lowerbound.nn.distributions.chains import Bound, Chain, Formula

MOST = 1000
NAME = 40  # characters of a column's name
DIGITS = 9
CUTS = 4  # limits between intervals that are named
CLOSE = 1e-6  # of 1, for a weight to be written as a division
SHOWN, WIDTH = 4, 66  # rules in the report of a fit, and characters of each


def rules(chain: Chain, coding: TableCoding) -> list[str]:
    """Return the dependencies that held on all training rows, which drawn and filled rows keep.

    Dates are numbers of days in them. An order of two columns in one formula is left out.

    Args:
        chain: the chain of columns of a table.
        coding: the coding of the table.
    """
    words = _Words(coding)
    formulas = list(_formulas(chain, words))
    pairs = [pair for bound in chain.bounds if (pair := words.order(bound))]
    orders = [
        f"{lower} <= {upper}"
        for lower, upper in pairs
        if not any({lower, upper} <= named for named, _ in formulas)
    ]
    others = [*_keys(chain, words), *_limits(chain, words), *orders]
    return list(dict.fromkeys([*(text for _, text in formulas), *others]))[:MOST]


def shown(found: Sequence[str]) -> list[str]:
    """Return the first few rules as lines of a fit's report."""
    lines = [text if len(text) <= WIDTH else f"{text[:WIDTH]}…" for text in found[: SHOWN + 1]]
    if len(found) > len(lines):
        lines[SHOWN] = f"and {len(found) - SHOWN:,} more, which `lowerbound info` lists"
    return [f"{'' if i else 'rules':<10} {text}" for i, text in enumerate(lines)]


class _Words:
    """The names of the coded columns, and sums of them as text."""

    def __init__(self, coding: TableCoding) -> None:
        self.names = {
            part: snippet(group.column, NAME)[1:-1]
            for group in coding.groups
            for part in group.parts
        }
        self.shifts: dict[str, float] = {}
        self.units: dict[int, float] = {}
        for each in coding.days:
            self.shifts[self.names[each.parts[0]]] = each.constant
            self.units |= dict(zip(each.parts, each.weights, strict=True))

    def sum_of(self, columns: Sequence[int], weights: Sequence[float]) -> dict[str, float]:
        """Return raw column -> weight. The parts of a date have one weight, that of its days."""
        found: dict[str, float] = {}
        for column, weight in zip(columns, weights, strict=True):
            found[self.names[column]] = weight / self.units.get(column, 1.0)
        return found

    def formula(self, column: int, formula: Formula) -> str:
        """Return the formula of a column as text."""
        own, form, constant = self.names[column], formula["form"], formula["constant"]
        if form == "product":
            factors = [] if constant == 1 else [f"{constant:.{DIGITS}g}"]
            factors += [f"{self.names[c]}{_power(w)}" for c, w in _by_size(formula) if w > 0]
            over = [f" / {self.names[c]}{_power(-w)}" for c, w in _by_size(formula) if w < 0]
            return f"{own} = {' * '.join(factors) or '1'}{''.join(over)}"
        terms = self.sum_of(formula["columns"], formula["weights"])
        terms.pop(own, None)  # the week of a date, in the formula of its weekday
        constant += self.shifts.get(own, 0.0)
        constant -= sum(weight * self.shifts.get(name, 0.0) for name, weight in terms.items())
        if form == "log":
            terms = {f"log({name})": weight for name, weight in terms.items()}
        text = _sum(terms, constant)
        return f"{own} = exp({text})" if form == "exp" else f"{own} = {text}"

    def order(self, bound: Bound) -> tuple[str, str] | None:
        """Return the lower and the upper column of a bound; None for the range of one column."""
        terms = self.sum_of(bound["columns"], bound["weights"])
        lower = [name for name, weight in terms.items() if weight > 0]
        upper = [name for name, weight in terms.items() if weight < 0]
        return (lower[0], upper[0]) if lower and upper else None


def _formulas(chain: Chain, words: _Words) -> Iterator[tuple[set[str], str]]:
    """Yield the raw columns of each formula, and the formula as text.

    Of the formulas in the same columns, that with the shortest weights is taken.
    """
    own = [(each["column"], each["formula"]) for each in chain.numbers if "formula" in each]
    own += [(c, each["formula"]) for c, each in chain.code_values.items() if "formula" in each]
    own += [(each["column"], each["formula"]) for each in chain.others if each["within"] == 0]
    best: dict[frozenset[str], tuple[tuple[int, ...], str]] = {}
    for column, formula in own:
        named = frozenset(words.names[each] for each in (column, *formula["columns"]))
        text = words.formula(column, formula)
        rank = sum(map(str.isdigit, text)), text.count(" - "), -chain.order.index(column)
        if named not in best or rank < best[named][0]:
            best[named] = rank, text
    for named, (_, text) in sorted(best.items(), key=lambda each: each[1][0]):
        yield set(named), text


def _keys(chain: Chain, words: _Words) -> Iterator[str]:
    """Yield one line for each column that determines another one."""
    found = []
    for i, tie in enumerate(chain.ties):
        table = chain.get_buffer(f"tie{i}")
        known = table[(table < 0).any(1)] == 0
        one, other = words.names[tie["seen"]], words.names[tie["column"]]
        if one != other and len(known) and int(known.sum(1).max()) == 1:
            found.append((one, other))
    for one, other in found:
        if (other, one) not in found:
            yield f"{one} determines {other}"
        elif one < other:
            yield f"{one} and {other} determine each other"


def _limits(chain: Chain, words: _Words) -> Iterator[str]:
    """Yield one line for each column that follows from the interval of a number or of a date."""
    done = set()
    for each in chain.steps:
        source, other = (words.names[c] for c in (each["columns"][0], each["column"]))
        if (source, other) in done:  # another part of a date
            continue
        done.add((source, other))
        cuts = [f"{cut:.{DIGITS}g}" for cut in each["cuts"]]
        if each["columns"][0] in words.units:
            cuts = [str(day) for day in np.ceil(each["cuts"]).astype("datetime64[D]")]
        more = f" and {len(cuts) - CUTS} more" if len(cuts) > CUTS else ""
        yield f"{source} determines {other}, at {', '.join(cuts[:CUTS])}{more}"


def _by_size(formula: Formula) -> list[tuple[int, float]]:
    """Return the factors of a product with their powers, the largest power first."""
    pairs = zip(formula["columns"], formula["weights"], strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])


def _power(weight: float) -> str:
    return "" if weight == 1 else f"^{weight:g}"


def _sum(terms: Mapping[str, float], constant: float) -> str:
    """Return a weighted sum as text, positive terms first."""
    text = ""
    for name, weight in sorted(terms.items(), key=lambda each: each[1] < 0):
        size, parts = abs(weight), round(1 / abs(weight))
        sign = " - " if weight < 0 else " + "
        text += sign if text else sign.strip(" +")
        if parts > 1 and abs(parts * size - 1) < CLOSE:
            text += f"{name} / {parts}"
        else:
            text += name if size == 1 else f"{size:.{DIGITS}g} * {name}"
    if abs(constant) > 1e-9:
        text += f"{' - ' if constant < 0 else ' + '}{abs(constant):.{DIGITS}g}"
    return text
