"""Inference of the kind of a raw column, and of the statistics of its coding."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lowerbound.columns import arrow as raw
from lowerbound.columns import hints
from lowerbound.columns.arrow import NUMBER, BadValues, listed, pc, row_of, snippet
from lowerbound.columns.base import Column
from lowerbound.columns.categories import MOST_LEVELS, Category
from lowerbound.columns.date_formats import COMPACT, styled, written
from lowerbound.columns.dates import (
    DAY,
    ISO,
    MOST_ATOMS,
    Datetime,
    digits,
    find_format,
    seconds,
)
from lowerbound.columns.levels import Known
from lowerbound.columns.numbers import (
    MOST_DECIMALS,
    NEAREST,
    Count,
    Numeric,
    Quantiles,
    refuse_not_counts,
)
from lowerbound.columns.skipped import Skipped
from lowerbound.columns.spread import Spread
from lowerbound.errors import DataError, UsageError

Transform = Literal["blend", "standard", "quantile"]

ATOM_SHARE = 0.05
_MOST_ATOMS = 10
_UNITS = (86_400e9, 3_600e9, 60e9, 1e9, 1e6, 1e3)  # day to microsecond, in nanoseconds
_MANY = 50  # least number of distinct values for the rule that compares with the median count
_FEW = 20
_SHARED = 10  # rows that share a value, in the mean, if few distinct ones are rounded numbers
_SPIKE = 5  # how many times as common as others an atom is
_NEAR = 3  # values on each side that a spike is compared with
_FAR = 20  # robust standard deviations from the median beyond which a moment is no date
_APART = 0.25  # of the range of the other dates: the distance of a common date that is none
_DOMINANT = 0.25  # share of the remaining rows that would make their distribution too narrow
_SCARCE = 5  # values besides the spikes that are atoms as well if they are not rare

_ID_NAME = re.compile(
    r"(?i:(^|[^a-z])(id|ids|uuid|guid|rowid|row_?num(ber)?|idx)($|[^a-z])|^index$|^unnamed)"
    r"|[a-z]I[dD]$"
    r"|(?i:(user|customer|client|account|order|transaction|record|session|device|patient)id$)"
)


@dataclass(frozen=True)
class Sample:
    """One column at fit time, with the user's settings for it."""

    name: str
    cells: pa.Array
    dtype: str
    transform: Transform
    exclude_atoms: bool
    labels: tuple[str, ...] | None  # the levels of a dictionary type, in order
    ordered: bool  # a dictionary type that declares its levels to be ordered
    declared: bool = False  # whether the user gave the kind: then no other is proposed

    @property
    def common(self) -> dict[str, Any]:
        """Return the fields common to all kinds of columns."""
        gone = self.cells.null_count
        if pa.types.is_floating(self.cells.type):
            gone = int(pc.sum(pc.is_null(self.cells, nan_is_null=True)).as_py() or 0)
        return {"name": self.name, "dtype": self.dtype, "rows": len(self.cells), "missing": gone}


def infer_column(sample: Sample) -> Column:
    """Return a column of the kind inferred from its values."""
    name, cells = sample.name, sample.cells
    if not raw.is_flat(cells.type):
        raise raw.nested(name, cells.type)
    distinct = _distinct(cells)
    if distinct <= 1:
        return _constant(sample)
    if sample.labels is not None and _repeated(len(sample.labels), sample):
        kind = "binary" if len(sample.labels) == 2 else "categorical"
        return _category(sample, "ordinal" if sample.ordered else kind)
    if raw.is_moment(cells.type):
        return _datetime(sample)
    if pa.types.is_boolean(cells.type):
        return _category(sample, "binary")
    if pa.types.is_dictionary(cells.type):
        return _infer_words(sample)
    return _infer_numbers(sample)


def _repeated(distinct: int, sample: Sample) -> bool:
    """Return whether levels repeat often enough to be modelled as categories."""
    seen = len(sample.cells) - sample.cells.null_count
    return distinct * 2 <= seen or (distinct <= 10 and distinct < seen)


def _distinct(cells: pa.Array) -> int:
    """Return the number of distinct values, 0 or 1, or 2 for any larger number."""
    if pa.types.is_null(cells.type):
        return 0
    if pa.types.is_dictionary(cells.type):
        return len(cells.dictionary)
    if pa.types.is_floating(cells.type):
        wide = cells.cast(pa.float64())
        low, high = pc.min_max(pc.if_else(pc.is_nan(wide), None, wide)).values()
        return 0 if low.as_py() is None else 1 + (low != high)
    if pa.types.is_duration(cells.type) or pa.types.is_time(cells.type):
        cells = cells.cast(pa.int32() if cells.type.bit_width == 32 else pa.int64())
    low, high = pc.min_max(cells).values()
    return 0 if low.as_py() is None else 1 + (low != high)


def _infer_numbers(sample: Sample) -> Column:
    numbers = raw.floats(sample.cells, sample.name)
    spread = Spread.of(numbers)
    distinct = len(spread.values)
    if pa.types.is_integer(sample.cells.type) and np.abs(spread.values).max() >= 2.0**53:
        return _skip(sample, "id", "whole numbers of more than 15 digits")
    if distinct == 2 and (spread.whole or spread.rows >= _FEW):
        return _category(sample, "binary")
    pattern = hints.numbers_as_dates(spread)
    if pattern is not None:
        return _datetime(sample, pattern)
    if spread.whole and _ID_NAME.search(sample.name):
        many = distinct > 100 or distinct * 2 > spread.rows
        note = f"{distinct:,} distinct values"
        return _skip(sample, "id", note) if many else _category(sample, "categorical")
    if _looks_like_counts(spread):
        return _count(sample)
    return _numeric(sample, "positive" if _heavy_tailed(spread, sample) else "real", spread)


def _looks_like_counts(spread: Spread) -> bool:
    """Return whether values are whole, from 0, mostly small, dense, skewed and overdispersed."""
    if not spread.whole or spread.values[0] != 0 or len(spread.values) < 3:
        return False
    positive = spread.where(spread.values > 0)
    usual = positive.quantile(0.9)
    dense = np.searchsorted(positive.values, usual, side="right") >= 0.3 * usual
    mean, std = spread.moments()
    return bool(
        positive.quantile(0.5) <= _MANY
        and dense
        and spread.values[-1] < 2**24
        and std**2 >= 0.8 * mean
        and spread.skewness() >= 1
    )


def _heavy_tailed(spread: Spread, sample: Sample) -> bool:
    """Return whether the logarithm removes most of the skewness of a positive column."""
    positive = spread.where(spread.values > 0)
    zeros_allowed = not sample.exclude_atoms and spread.values[0] == 0
    if (spread.values[0] <= 0 and not zeros_allowed) or len(positive.values) < _FEW:
        return False
    skew = positive.skewness()
    logs = Spread(np.log(positive.values), positive.counts).skewness()
    return skew > 1.5 and abs(logs) < skew / 2


def _atoms(spread: Spread, kind: str, sample: Sample) -> np.ndarray:
    """Return a mask of the values that are atoms: they have a probability of their own.

    These are the values that very many rows share, other than their neighbours. If only a few
    others remain, they are atoms, too. In a heavy-tailed positive column, zero is always an atom
    because it has no logarithm.
    """
    if sample.exclude_atoms:
        return np.zeros(len(spread.values), dtype=bool)
    often = _spikes(spread) | _often(spread)
    if often.any() and (~often).sum() <= _SCARCE:
        often |= spread.counts >= _FEW
    if kind == "positive":
        often |= spread.values == 0
    return often


def _often(spread: Spread) -> np.ndarray:
    """Return the values of many rows among a great many values, however common neighbours are."""
    usual = max(float(np.median(spread.counts)), 1.0)
    often = spread.counts >= max(ATOM_SHARE * spread.rows, _FEW, _SPIKE * usual)
    if len(spread.values) < _MANY or (~often).sum() < _FEW or often.sum() > _MOST_ATOMS:
        often[:] = False
    return often


def _spikes(spread: Spread) -> np.ndarray:
    """Return the values that are several times as common as the values next to them.

    A spike has `ATOM_SHARE` of the rows, or it would dominate those that remain after the
    commoner spikes: a normal distribution of these would be as narrow as the spike, and other
    values would seem impossible.
    """
    counts, places = spread.counts, np.flatnonzero(spread.counts >= _FEW)
    near = np.array([step for step in range(-_NEAR, _NEAR + 1) if step])[:, None] + places
    inside = (near >= 0) & (near < len(counts))
    neighbours = np.where(
        inside, counts[np.clip(near, 0, len(counts) - 1)], np.iinfo(np.int64).max
    )
    middle = (np.maximum(inside.sum(0), 1) - 1) // 2  # of an even number, the lower one
    usual = np.take_along_axis(np.sort(neighbours, axis=0), middle[None], 0)[0]
    spikes = places[counts[places] >= _SPIKE * usual]
    found, remaining = np.zeros(len(counts), dtype=bool), spread.rows
    for place in spikes[np.argsort(-counts[spikes], kind="stable")][:_MOST_ATOMS]:
        if counts[place] < min(ATOM_SHARE * spread.rows, _DOMINANT * remaining):
            break
        found[place], remaining = True, remaining - counts[place]
    return found


def _numeric(sample: Sample, kind: str, spread: Spread) -> Column:
    atoms = _atoms(spread, kind, sample)
    rest = spread.where(~atoms)
    known = rest
    if rest.rows < _FEW or len(rest.values) <= 1:
        # Too few rows for a scale: take that of the distinct values, where others may lie.
        distinct = spread.where(spread.values > 0) if kind == "positive" else spread
        known = Spread(distinct.values, np.ones_like(distinct.counts)) if atoms.any() else rest
    _refuse_tiny(known, kind, sample)
    logs = Spread(np.log(known.values), known.counts) if kind == "positive" else known
    mean, std = logs.moments()
    weight = _score_weight(sample.transform, rest.rows) if len(logs.values) > 2 else 0.0
    scored = bool(weight) and known is rest
    scores = Quantiles.chosen(logs.values, logs.counts, weight) if scored else None
    return Numeric.model_validate(
        {
            **sample.common,
            "kind": kind,
            "mean": mean,
            "std": std,
            "low": float(spread.values[0]),
            "high": float(spread.values[-1]),
            "whole": spread.whole if known is not rest else rest.whole,
            "grain": _grain(known, sample),
            "decimals": _decimals(known, sample),
            "atoms": tuple(spread.values[atoms].tolist()),
            "complete": not rest.rows,
            "quantiles": scores,
            "notes": _number_notes(sample, spread, bool(atoms.any())),
        }
    )


def _refuse_tiny(spread: Spread, kind: str, sample: Sample) -> None:
    """Raise E043 if all values lie so near to each other that slopes overflow float64."""
    if kind == "positive" or len(spread.values) < 2:
        return
    with np.errstate(over="ignore"):
        width = float(spread.values[-1] - spread.values[0])
    if width >= NEAREST:
        return
    raise DataError(
        "E043",
        f"the values of column {snippet(sample.name)} lie within {width:.2g} of each other, at "
        "the limit of 64-bit floating point",
        fix="rescale the column, such as by 1e300",
        column=sample.name,
    )


def _grain(spread: Spread, sample: Sample) -> float:
    """Return the number that all whole numbers are multiples of, if there are enough of them.

    Of times and durations it is the longest unit of time that divides all.
    """
    kind = raw.storage(raw.arrow_type(sample.dtype))
    if not spread.whole:
        return 1.0
    if not pa.types.is_temporal(kind):
        found = int(np.gcd.reduce(spread.values.astype(np.int64))) if len(spread.values) else 1
        return float(max(1, found)) if len(spread.values) >= _FEW else 1.0
    units = [float(unit / raw.nanoseconds(kind)) for unit in _UNITS]
    fit = (unit for unit in units if unit >= 1 and not (spread.values % unit).any())
    return next(fit, 1.0)


def _decimals(spread: Spread, sample: Sample) -> int | None:
    """Return the number of decimals to which all values are rounded, or None.

    Whole numbers have none. A few values may be short by chance of how they were made: if
    fewer than `_FEW` are distinct, each must be shared by `_SHARED` rows in the mean.
    """
    values = spread.values
    if spread.whole or (len(values) < _FEW and spread.rows < _SHARED * max(1, len(values))):
        return None
    narrow = raw.storage(raw.arrow_type(sample.dtype)) == pa.float32()
    kind = np.float32 if narrow else np.float64
    for decimals in range(1, MOST_DECIMALS + 1):
        if np.abs(values).max() >= 2**53 / 10**decimals:
            return None
        if (np.round(values, decimals).astype(kind) == values.astype(kind)).all():
            return decimals
    return None


def _score_weight(transform: Transform, rows: int) -> float:
    """Return the weight of Gaussian scores against standardised values in the coding.

    It is lower for few rows, whose ranks are noisy.
    """
    shares = {"standard": 0.0, "quantile": 1.0, "blend": 0.5 * rows / (rows + 300)}
    return shares[transform]


def _number_notes(sample: Sample, spread: Spread, atoms: bool) -> tuple[str, ...]:
    notes = []
    if pa.types.is_dictionary(sample.cells.type):
        notes.append("numbers stored as text")
    hint = "" if sample.declared else hints.of_numbers(sample.name, spread)
    if hint:
        notes.append(hint)
    elif spread.whole and len(spread.values) <= 10 and not atoms:
        flags = hints.typed(sample.name, "ordinal", "categorical")
        notes.append(f"only {len(spread.values)} values: {flags} may fit better")
    return tuple(notes)


def _count(sample: Sample) -> Column:
    numbers = raw.floats(sample.cells, sample.name)
    refuse_not_counts(numbers, sample.name)
    high = int(np.nanmax(numbers))
    hint = "" if sample.declared else hints.of_numbers(sample.name, Spread.of(numbers))
    notes = (hint,) if hint else ()
    return Count.model_validate({**sample.common, "kind": "count", "high": high, "notes": notes})


def _infer_words(sample: Sample) -> Column:
    words, name = sample.cells.dictionary, sample.name
    distinct, seen = len(words), len(sample.cells) - sample.cells.null_count
    if sample.ordered or distinct == 2:
        return _category(sample, "ordinal" if sample.ordered else "binary")
    try:
        pattern = find_format(words, name)
    except DataError as ambiguous:
        return _infer_labels(sample, f"{ambiguous.message}; {ambiguous.fix}")
    if pattern is not None:
        return _datetime(sample, pattern)
    if _ID_NAME.search(name) and (distinct > 100 or distinct * 2 > seen):
        return _skip(sample, "id", f"{distinct:,} distinct values")
    numbers = np.asarray(pc.match_substring_regex(words, NUMBER))
    zeros = pc.any(pc.match_substring_regex(words, r"^\s*0\d")).as_py()
    if distinct > _FEW and not zeros and numbers.mean() >= 0.9:
        return _infer_spelled_numbers(sample, numbers)
    return _infer_labels(sample)


def _infer_spelled_numbers(sample: Sample, numbers: np.ndarray) -> Column:
    """Read text as numbers if all of it is; raise E034 if nearly all of it is."""
    spelled = np.asarray(
        pc.is_in(
            sample.cells.dictionary, value_set=pa.array(raw.MISSING_NUMBER, pa.large_string())
        )
    )
    if (numbers | spelled).all():
        return _infer_numbers(sample)
    wrong = np.append(~(numbers | spelled), False)
    rows = wrong[np.asarray(sample.cells.indices.cast(pa.int64()).fill_null(-1))]
    first = row_of(rows)
    raise BadValues.at(
        rows,
        "not a number",
        "E034",
        f"column {snippet(sample.name)} is nearly all numbers, but {int(rows.sum()):,} of "
        f"{len(rows):,} rows are not, the first {snippet(sample.cells[first - 1].as_py())} in "
        f"row {first:,}",
        fix="correct these values or leave them empty, or treat the column as labels: "
        + hints.typed(sample.name, "categorical"),
        column=sample.name,
    )


def _infer_labels(sample: Sample, note: str = "") -> Column:
    words = sample.cells.dictionary
    note = note or hints.of_words(sample.name, sample.cells)[0]
    distinct, seen = len(words), len(sample.cells) - sample.cells.null_count
    repeated = _repeated(distinct, sample)
    spaces = float(pc.mean(pc.count_substring(words, pattern=" ")).as_py())
    prose = spaces >= 3 and distinct > 0.3 * seen
    if repeated and not prose and distinct <= MOST_LEVELS:
        return _category(sample, "categorical", note)
    kind = "text" if spaces >= 1 else "id"
    return _skip(sample, kind, note or f"{distinct:,} distinct values in {seen:,} rows")


def _skip(sample: Sample, kind: str, note: str) -> Column:
    return Skipped.model_validate({**sample.common, "kind": kind, "notes": (note,)})


def _constant(sample: Sample) -> Column:
    words = raw.levels(sample.cells, sample.name).words
    words = [w for w in words if w is not None]
    if len(words) > 1:
        raise _impossible(sample, "constant", f"it has {len(words):,} distinct values")
    common = sample.common
    note = "always missing" if not words else f"always {snippet(words[0])}"
    if words and common["missing"]:
        note += " where it is not missing"
    return Skipped.model_validate(
        {**common, "kind": "constant", "value": words[0] if words else None, "notes": (note,)}
    )


def _datetime(sample: Sample, pattern: str | None = None) -> Column:
    moments = seconds(sample.cells, sample.name, pattern)
    if np.isnan(moments).all():
        return _constant(sample)
    notes = ()
    if pattern not in (None, ISO):
        cells = sample.cells
        words = digits(cells) if raw.is_number(cells.type) else cells
        notes = (hints.of_dates(pattern, words.dictionary, moments),)
    atoms = () if sample.exclude_atoms else _apart(Spread.of(moments))
    if atoms:
        rows = int(np.isin(moments, atoms).sum())
        shown = listed([written(atom) for atom in atoms], 3)
        notes += (f"{rows:,} {'rows hold' if rows > 1 else 'row holds'} {shown}: modelled apart",)
    return Datetime.fit(
        sample.cells, moments, atoms, pattern=pattern, notes=notes, **sample.common
    )


def _apart(spread: Spread) -> tuple[float, ...]:
    """Return the moments that stand for something else, such as "never" or "unknown".

    They are far from all others (9999-12-31), or are much commoner than the dates next to them
    (1970-01-01), or are common and beyond a gap at an end (1900-01-01).
    """
    if spread.rows < _FEW:
        return ()
    found = _spikes(spread)
    rest = spread.where(~found)
    middle = rest.quantile(0.5)
    deviation = max((rest.quantile(0.75) - rest.quantile(0.25)) / 1.349, DAY)
    far = ~found & (np.abs(spread.values - middle) > _FAR * deviation)
    if far.sum() + found.sum() <= MOST_ATOMS:
        found |= far
    for end, neighbour in ((0, 1), (-1, -2)):
        others = spread.where(~found)
        if len(others.values) < 3 or found.sum() == MOST_ATOMS:
            break
        gap = abs(others.values[end] - others.values[neighbour])
        width = others.values[-1] - others.values[0] - gap
        usual = max(float(np.median(others.counts)), 1.0)
        if gap >= _APART * width and others.counts[end] >= _SPIKE * usual:
            found[spread.values == others.values[end]] = True
    return tuple(spread.values[found].tolist())


def _sorted_words(sample: Sample) -> tuple[list[str], np.ndarray]:
    """Return levels sorted by number if all are numbers, else by text."""
    codes, words = raw.levels(sample.cells, sample.name)
    counts = np.bincount(codes[codes >= 0], minlength=len(words))
    pairs = [(w, int(c)) for w, c in zip(words, counts, strict=True) if w is not None and c]
    if all(re.fullmatch(NUMBER, w) for w, _ in pairs):
        pairs.sort(key=lambda pair: (float(pair[0].strip()), pair[0]))
    else:
        pairs.sort()
    return [w for w, _ in pairs], np.array([c for _, c in pairs], dtype=np.int64)


def _category(sample: Sample, kind: str, note: str = "", order: list[str] | None = None) -> Column:
    words, counts = _sorted_words(sample)
    if len(words) > MOST_LEVELS:
        raise DataError(
            "E039",
            f"column {snippet(sample.name)} has {len(words):,} levels; at most "
            f"{MOST_LEVELS:,} can be modelled",
            fix=f"group its rare levels, or leave it out: --drop {sample.name}",
            column=sample.name,
        )
    if kind == "binary" and len(words) > 2:
        raise _impossible(sample, kind, f"it has {len(words):,} levels: {listed(words)}")
    if sample.ordered and order is None:
        kept = set(words)
        order = [w for w in sample.labels or () if w in kept]
    if order is not None:
        text = sample.cells.type if sample.ordered else pa.large_string()
        places = Known(order, text).find(words, sample.cells.type)
        if strange := [w for w, place in zip(words, places, strict=True) if place < 0]:
            raise _impossible(
                sample, kind, f"{listed(strange)} is not in the order given", strange
            )
        found = dict(zip(places, zip(words, counts.tolist(), strict=True), strict=True))
        ranked = [found.get(place, (word, 0)) for place, word in enumerate(order)]
        words, counts = [word for word, _ in ranked], np.array([count for _, count in ranked])
    rare = int((counts < 10).sum())
    share = counts[counts < 10].sum() / max(counts.sum(), 1)
    notes = [note] if note else []
    if rare and len(words) > 2:
        occur = "levels occur" if rare > 1 else "level occurs"
        notes.append(f"{rare:,} {occur} fewer than 10 times ({share:.1%} of rows)")
    return Category.model_validate(
        {
            **sample.common,
            "kind": kind,
            "levels": tuple(words),
            "counts": tuple(counts.tolist()),
            "notes": tuple(notes),
        }
    )


def _impossible(
    sample: Sample,
    kind: str,
    why: str,
    values: list[str] | None = None,
    wrong: np.ndarray | None = None,
) -> DataError:
    """Return the error for a column that cannot be of a kind, because of some of its values."""
    if values:
        codes, words = raw.levels(sample.cells, sample.name)
        wrong = np.isin(codes, [words.index(value) for value in values])
        why += f" (row {row_of(wrong):,})"
    message = f"column {snippet(sample.name)} cannot be {kind}: {why}"
    fix = f"correct the values, or leave out --types {sample.name}=..."
    if wrong is None:
        return DataError("E033", message, fix=fix, column=sample.name, kind=kind)
    error = BadValues.at(wrong, f"cannot be {kind}", "E033", message, fix=fix, column=sample.name)
    error.details["kind"] = kind
    return error


def _force_numeric(sample: Sample, kind: str) -> Column:
    numbers = raw.floats(sample.cells, sample.name)
    spread = Spread.of(numbers)
    if len(spread.values) <= 1:
        return _constant(sample)
    lowest = 0 if sample.exclude_atoms else -np.finfo(float).tiny
    if kind == "positive" and spread.values[0] <= lowest:
        with np.errstate(invalid="ignore"):
            wrong = numbers <= lowest
        why = f"row {row_of(wrong):,} holds {numbers[wrong][0]:g}"
        raise _impossible(sample, kind, why, wrong=wrong)
    return _numeric(sample, kind, spread)


def _force_ordinal(sample: Sample, order: list[str] | None) -> Column:
    words, _ = _sorted_words(sample)
    if order is None and not sample.ordered and not all(re.fullmatch(NUMBER, w) for w in words):
        raise UsageError(
            "E205",
            f"the order of the levels of column {snippet(sample.name)} is not known: "
            f"{listed(words)}",
            fix=f"--types '{sample.name}=ordinal:{'<'.join(words[:6])}' (lowest first)",
            column=sample.name,
        )
    return _category(sample, "ordinal", order=order)


def _force_datetime(sample: Sample, pattern: str | None) -> Column:
    cells = sample.cells
    if raw.is_number(cells.type) and not pa.types.is_boolean(cells.type):
        return _datetime(sample, pattern or COMPACT)
    if pa.types.is_dictionary(cells.type):
        words = pc.utf8_trim_whitespace(cells.dictionary)
        pattern = styled(pattern, words) if pattern else find_format(words, sample.name)
    return _datetime(sample, pattern)


_FORCED: dict[str, Callable[[Sample], Column]] = {
    "real": lambda sample: _force_numeric(sample, "real"),
    "positive": lambda sample: _force_numeric(sample, "positive"),
    "count": _count,
    "binary": lambda sample: _category(sample, "binary"),
    "categorical": lambda sample: _category(sample, "categorical"),
    "id": lambda sample: _skip(sample, "id", "as told"),
    "text": lambda sample: _skip(sample, "text", "as told"),
    "constant": _constant,
}


def force_column(sample: Sample, kind: str, spec: list[str] | None) -> Column:
    """Return a column of the kind that the user gave, or raise an error that says why not.

    Args:
        sample: the column.
        kind: the kind.
        spec: the order of the levels of an ordinal, or the format of dates; None to infer it.
    """
    sample = replace(sample, declared=True)
    if kind not in ("id", "text"):
        if not raw.is_flat(sample.cells.type):
            raise raw.nested(sample.name, sample.cells.type)
        if not _distinct(sample.cells):
            return _constant(sample)
    if kind == "ordinal":
        return _force_ordinal(sample, spec)
    if kind == "datetime":
        return _force_datetime(sample, spec[0] if spec else None)
    return _FORCED[kind](sample)
