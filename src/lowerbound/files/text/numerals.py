"""Parse numbers in local notation: 1.234,50 or $1,200 or 12%.

Only whole columns are changed, only when there is one way to read them, and every change is
reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from lowerbound.columns.arrow import MISSING_NUMBER, pc, snippet
from lowerbound.errors import DataError

_SYMBOLS = "$€£¥"
_SIGNS = (*_SYMBOLS, "%", "")  # either every number of a column has the same sign, or none has one
_POINT = r"^[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?$"  # 1,234.5
_COMMA = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$"  # 1.234,5
_MARKED = r"[.,'%$€£¥\x{00a0}\x{202f}]"
_LIKE_A_NUMBER = rf"^[-+]?[{_SYMBOLS}]?\s?[+-]?\d.*$"
_GAP = r"['\x{00a0}\x{202f}](\d{3})"  # thousands marks other than point and comma


@dataclass(frozen=True)
class Repair:
    """A rule for parsing the values of a column as numbers.

    Attributes:
        sign: the currency or percent sign to remove, or empty.
        thousands: the thousands mark to remove.
        decimal: the decimal mark, which becomes a point.
        note: the note for the user.
    """

    sign: str
    thousands: str
    decimal: str
    note: str

    def __call__(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the values as numbers."""
        cells = column.combine_chunks().dictionary_encode()
        words = _without(_bare(cells.dictionary), self.sign)
        words = pc.replace_substring(words, self.thousands, "")
        words = pc.replace_substring(words, self.decimal, ".")
        numbers = pc.replace_substring_regex(words, r"^\+", "").cast(pa.float64())
        return pa.chunked_array([numbers.take(cells.indices)])


@dataclass
class _Style:
    """The properties of all words so far, with one sign removed from each."""

    point: bool = True
    comma: bool = True
    commas: bool = False
    points: bool = False
    example: str = ""  # the first with a mark

    def see(self, words: pa.Array) -> None:
        self.point = self.point and _all(words, _POINT)
        self.comma = self.comma and _all(words, _COMMA)
        self.commas = self.commas or _any(words, ",")
        self.points = self.points or _any(words, r"\.")
        if not self.example and (self.commas or self.points):
            self.example = words.filter(pc.match_substring_regex(words, "[.,]"))[0].as_py()

    @property
    def possible(self) -> bool:
        return self.point or self.comma


@dataclass
class NumberNotation:
    """Detector of the notation of numbers in a column of text, fed part by part.

    Args:
        name: of the column.
    """

    name: str
    _styles: dict[str, _Style] = field(default_factory=lambda: {s: _Style() for s in _SIGNS})
    _seen: bool = False
    _marked: bool = False

    def see(self, column: pa.ChunkedArray) -> None:
        """Add a part of the column."""
        if not self._styles:
            return
        full = _bare(pc.unique(column)).drop_null()
        # A few words that are not numbers are enough to decide.
        if not (_all(full[:100], _LIKE_A_NUMBER) and _all(full, _LIKE_A_NUMBER)):
            self._styles.clear()
            return
        self._seen = self._seen or len(full) > 0
        self._marked = self._marked or _any(full, _MARKED)
        for sign, style in list(self._styles.items()):
            if sign and not _all(pc.replace_substring_regex(full, _GAP, r"\1"), _beside(sign)):
                del self._styles[sign]
                continue
            style.see(_without(full, sign))
            if not style.possible:
                del self._styles[sign]

    def repair(self) -> Repair | None:
        """Return the rule for parsing the column as numbers; None if it stays text.

        Raises:
            DataError: E018 if the numbers can be read in two ways.
        """
        if not (self._styles and self._seen and self._marked):
            return None
        sign, style = next(iter(self._styles.items()))
        point = style.point
        either = point and style.comma and (style.commas or style.points)
        if either and not (sign in ("$", "£") or (sign and not style.commas)):
            raise self._two_ways(style.example)
        thousands, decimal = (",", ".") if point else (".", ",")
        changed = [f"the symbol {sign}"] if sign else []
        if style.commas if point else style.points:
            changed.append(f"thousands marks '{thousands}'")
        if not point and style.commas:
            changed.append("decimal commas")
        told = f"column {snippet(self.name)}: read as numbers"
        without = f", without {' and '.join(changed)}" if changed else ""
        return Repair(sign, thousands, decimal, told + without)

    def _two_ways(self, example: str) -> DataError:
        return DataError(
            "E018",
            f"column {snippet(self.name)} holds numbers such as {snippet(example)}, which can "
            f"mean {example.replace(',', '')} or {example.replace(',', '.')}",
            fix="write a point for decimals and no mark for thousands",
            column=self.name,
            value=example,
        )


def _bare(words: pa.Array) -> pa.Array:
    """Remove spaces, and markers of missing values."""
    bare = pc.utf8_trim_whitespace(words)
    blank = pc.is_in(bare, value_set=pa.array(MISSING_NUMBER, bare.type))
    return pc.if_else(blank, pa.scalar(None, bare.type), bare)


def _all(words: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(words, pattern)).as_py() is not False


def _any(words: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(words, pattern)).as_py())


def _beside(sign: str) -> str:
    """Return the pattern of a number with the sign at one of its ends."""
    return "%$" if sign == "%" else rf"^[+-]?[{sign}]|[{sign}]$"


def _without(words: pa.Array, sign: str) -> pa.Array:
    """Remove one currency or percent sign, and marks between groups of three digits."""
    words = pc.replace_substring_regex(words, _GAP, r"\1")
    if not sign:
        return words
    return pc.utf8_trim_whitespace(pc.replace_substring(words, sign, "", max_replacements=1))
