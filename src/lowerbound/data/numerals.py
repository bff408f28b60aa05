"""Read columns of text that are numbers in another country's clothes: 1.234,50 or $1,200 or 12%.

Only whole columns are changed, only when there is one way to read them, and every change is
reported.
"""

from __future__ import annotations

import pyarrow as pa

from lowerbound.cells import MISSING_NUMBER, pc, snippet
from lowerbound.errors import DataError

_SYMBOLS = "$€£¥"
_POINT = r"^[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?$"  # 1,234.5
_COMMA = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$"  # 1.234,5
_MARKED = r"[.,'%$€£¥\x{00a0}\x{202f}]"


def repair_column(name: str, column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, str]:
    """Return the column as numbers with a note of what was changed, or as it is and no note.

    Raises:
        DataError: E018 when the column can be read in two ways.
    """
    cells = column.combine_chunks().dictionary_encode()
    words = cells.dictionary
    bare = pc.utf8_trim_whitespace(words)
    blank = pc.is_in(bare, value_set=pa.array(MISSING_NUMBER, bare.type))
    bare = pc.if_else(blank, pa.scalar(None, bare.type), bare)
    full = bare.drop_null()
    if not len(full) or not _all(full[:100], rf"^[-+]?[{_SYMBOLS}]?\s?[+-]?\d.*$"):
        return column, ""
    if not pc.any(pc.match_substring_regex(full, _MARKED)).as_py():
        return column, ""
    symbol, stripped = _strip_symbol(full)
    style = _style(name, stripped, symbol)
    if style is None:
        return column, ""
    _, numbers = _strip_symbol(bare)
    thousands, decimal = (",", ".") if style == _POINT else (".", ",")
    numbers = pc.replace_substring(numbers, thousands, "")
    numbers = pc.replace_substring(numbers, decimal, ".")
    numbers = pc.replace_substring_regex(numbers, r"^\+", "").cast(pa.float64())
    changed = [f"the symbol {symbol}"] if symbol else []
    if _any(stripped, rf"\{thousands}"):
        changed.append(f"thousands marks '{thousands}'")
    if style == _COMMA and _any(stripped, ","):
        changed.append("decimal commas")
    values = pa.chunked_array([numbers.take(cells.indices)])
    return values, f"column {snippet(name)}: read as numbers, without {' and '.join(changed)}"


def _all(words: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(words, pattern)).as_py())


def _any(words: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(words, pattern)).as_py())


def _strip_symbol(words: pa.Array) -> tuple[str, pa.Array]:
    """Take one currency or percent sign off, if every value has the same one."""
    words = pc.replace_substring_regex(words, r"['\x{00a0}\x{202f}](\d{3})", r"\1")
    full = words.drop_null()
    for symbol in (*_SYMBOLS, "%"):
        there = rf"^[+-]?[{symbol}]|[{symbol}]$" if symbol != "%" else "%$"
        if _all(full, there):
            gone = pc.replace_substring(words, symbol, "", max_replacements=1)
            return symbol, pc.utf8_trim_whitespace(gone)
    return "", words


def _style(name: str, words: pa.Array, symbol: str) -> str | None:
    """Tell how the numbers are written: decimal point, decimal comma, or not at all."""
    point, comma = _all(words, _POINT), _all(words, _COMMA)
    if point and comma and _any(words, "[.,]"):
        if symbol in ("$", "£") or (symbol and not _any(words, ",")):
            return _POINT
        example = words.filter(pc.match_substring_regex(words, "[.,]"))[0].as_py()
        raise DataError(
            "E018",
            f"column {snippet(name)} holds numbers such as {snippet(example)}, which can mean "
            f"{example.replace(',', '')} or {example.replace(',', '.')}",
            fix="write a point for decimals and no mark for thousands",
            column=name,
            value=example,
        )
    if point:
        return _POINT
    return _COMMA if comma else None
