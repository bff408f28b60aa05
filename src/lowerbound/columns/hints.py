"""Remarks on columns that may hold something else than their kind says: codes, dates, row numbers.

A remark names the flag that says so: nothing is changed without it.
"""

from __future__ import annotations

import re
import shlex

import numpy as np
import pyarrow as pa

from lowerbound.columns.arrow import pc, row_of, snippet
from lowerbound.columns.date_formats import COMPACT, fitting, likeliest, written
from lowerbound.columns.spread import Spread

_MOSTLY = 0.8  # share of words that are dates from which a column looks like dates
_SAME = 0.99  # share of values with equally many digits in a column of codes
_ID_DIGITS = 8  # from which distinct numbers of one length are ids
_CODE_DIGITS = 5  # from which few distinct numbers of one length are codes
_SPARSE = 0.1  # share of the numbers between the smallest and the largest that occur
_FEW = 20  # rows from which numbers that all differ are ids
_USUAL_YEARS = ("1900", "2100")

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Words in the names of columns.
_CODE = re.compile(
    "codes?|cd|zip|zips|zipcode|postal|postcode|postalcode|plz|cep|naics|naicscode|sic|isic|nace|"
    "mcc|fips|iban|bic|ssn|ein|vin|isbn|issn|ean|upc|sku|gtin|cusip|isin|lei|siren|siret"
)
_NUMBER = re.compile("no|nr|num|nbr|number|key|ref|phone|telephone|tel|mobile|fax|account|acct")
_DATE = re.compile("dates?|datum|dt|day|month|period|yyyymm|ym|ymd|yearmonth")
_CLOCK = re.compile("time|timestamp|ts|epoch|unix|created|updated|modified|at|stamp|date")
_TIME_OF_DAY = r"(?i)^\d{1,2}[:.]\d{2}([:.]\d{2})?( ?[AP]\.?M\.?)?$|^\d{1,2} ?[AP]\.?M\.?$"
_MONTH = "(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_SHORT_MONTH = rf"(?i)^({_MONTH}[-/ ]?'?\d{{2}}|\d{{2}}[-/ ]?{_MONTH})$"


def typed(column: str, *kinds: str) -> str:
    """Return the flag that gives a column one of these kinds."""
    first, *others = kinds
    flag = f"--types {shlex.quote(f'{column}={first}')}"
    return " or ".join([flag, *(f"{shlex.quote(f'{column}={kind}')}" for kind in others)])


def _tokens(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def _any(words: re.Pattern[str], tokens: list[str]) -> bool:
    return any(words.fullmatch(token) for token in tokens)


def of_numbers(name: str, spread: Spread) -> str:
    """Return a remark on a column of numbers that look like codes, dates or row numbers."""
    if not spread.whole or len(spread.values) < 3:
        return ""
    return _dates(name, spread) or _codes(name, spread)


def _codes(name: str, spread: Spread) -> str:
    values, words = spread.values, _tokens(name)
    distinct, rows = len(values), spread.rows
    if values[0] < 0:
        return ""
    flags = typed(name, "id") if distinct * 2 > rows else typed(name, "categorical", "id")
    if distinct == rows >= _FEW and values[-1] - values[0] + 1 == rows:
        return f"numbers every row: {typed(name, 'id')} leaves it out"
    length = _digits(spread)
    named = _any(_CODE, words) or (_any(_NUMBER, words[-1:]) and values[-1] >= 1000)
    ids = length >= _ID_DIGITS and distinct >= 0.9 * rows >= 0.9 * _FEW
    density = distinct / (values[-1] - max(values[0], 1) + 1)
    codes = length >= _CODE_DIGITS and distinct * 3 <= rows and density < _SPARSE
    if not (named or ids or (codes and (values % 10 != 0).any())):
        return ""
    digits = f" of {length} digits" if length else ""
    end = "" if distinct * 2 <= rows else " leaves it out"
    return f"looks like a code{digits}, not a quantity: {flags}{end}"


def _digits(spread: Spread) -> int:
    """Return the number of digits that nearly all values share; 0 if there is none."""
    some = spread.where(spread.values > 0)  # 0 often marks an unknown code
    if not len(some.values):
        return 0
    lengths = np.floor(np.log10(some.values)).astype(int) + 1
    counts = np.bincount(lengths, some.counts)
    return int(counts.argmax()) if counts.max() >= _SAME * some.rows else 0


def _dates(name: str, spread: Spread) -> str:
    """Return a remark on whole numbers that look like dates but are not read as such."""
    values, words = spread.values, _tokens(name)
    low, high = values[0], values[-1]
    if _any(_CLOCK, words):
        for unit, size in (("seconds", 1e9), ("milliseconds", 1e12)):
            if size <= low and high <= 2.2 * size:
                return f"looks like {unit} since 1970: write dates as 2024-01-31T18:05:00"
    if _any(_DATE, words) and low >= 20_000 and high <= 60_000:
        return "looks like the day numbers of a spreadsheet: write dates as 2024-01-31"
    if low >= 190_001 and high <= 210_012 and (values % 100 <= 12).all() and (values % 100).all():
        return f"looks like months written as YYYYMM: {typed(name, 'datetime:%Y%m')}"
    usual = (values >= 19_000_101) & (values <= 21_001_231)
    if spread.where(usual).rows < _MOSTLY * spread.rows:
        return ""
    text = pa.array(values.astype(np.int64)).cast(pa.string())
    good = np.asarray(pc.is_valid(_usual(text)))
    if spread.where(good).rows < _MOSTLY * spread.rows or good.all():
        return ""
    wrong = spread.where(~good)
    return (
        f"looks like dates written as YYYYMMDD, but {wrong.rows:,} of {spread.rows:,} values are "
        f"not, such as {int(wrong.values[0])}: leave these empty"
    )


def _usual(text: pa.Array) -> pa.Array:
    best = likeliest(text)
    return pa.nulls(len(text)) if best is None or best.pattern != COMPACT else best.moments


def numbers_as_dates(spread: Spread) -> str | None:
    """Return the format of whole numbers that are all dates, such as 20240131; else None."""
    values = spread.values
    if not spread.whole or len(values) < 3 or values[0] < 1e7:
        return None
    lengths = np.unique(np.floor(np.log10(values)).astype(int) + 1)
    if len(lengths) > 1 or lengths[0] not in (8, 12, 14):
        return None
    fits = fitting(pa.array(values.astype(np.int64)).cast(pa.string()))
    return fits[0].pattern if len(fits) == 1 else None


def of_words(name: str, cells: pa.DictionaryArray) -> tuple[str, np.ndarray]:
    """Return a remark on text that looks like dates, and a mask (n,) of the values that are not.

    Args:
        name: of the column.
        cells: its text, which is not all dates in one format.
    """
    words = pc.utf8_trim_whitespace(cells.dictionary)
    nothing = np.zeros(len(cells), dtype=bool)
    if len(words) < 3:
        return "", nothing
    example = snippet(pc.min(words))
    for pattern, what in ((_TIME_OF_DAY, "times of day"), (_SHORT_MONTH, "months without a day")):
        if pc.all(pc.match_substring_regex(words, pattern)).as_py():
            advice = (
                "write hours as a number" if what == "times of day" else "write months as 2024-01"
            )
            return f"looks like {what}, such as {example}, not read as dates: {advice}", nothing
    best = likeliest(words)
    if best is None or not 0 < best.moments.null_count <= (1 - _MOSTLY) * len(words):
        return "", nothing
    wrong = np.append(np.asarray(best.moments.is_null()), False)
    rows = wrong[np.asarray(cells.indices.cast(pa.int64()).fill_null(-1))]
    first = row_of(rows)
    shown = snippet(cells[first - 1].as_py())
    dates = snippet(words[int(np.flatnonzero(~wrong[:-1])[0])])
    return (
        f"looks like dates such as {dates}, but {int(rows.sum()):,} of {len(rows):,} values are "
        f"not, the first {shown} in row {first:,}: correct these or leave them empty",
        rows,
    )


def of_dates(pattern: str, words: pa.Array, moments: np.ndarray) -> str:
    """Return a remark on how text or numbers were read as dates.

    Args:
        pattern: the format that they were read by.
        words: the distinct values as text.
        moments: all dates in seconds since 1970, NaN where missing.
    """
    first, last = written(np.nanmin(moments)), written(np.nanmax(moments))
    # The least word, so that the remark does not depend on the order of the rows.
    return f"dates such as {snippet(pc.min(words))}, read as {first} to {last}"
