"""Arrow columns as plain numbers or levels, and back.

All handling of Arrow types is here, so that the kinds of columns (`numbers`, `categories`,
`dates`) use float64 arrays and strings only.
"""

from __future__ import annotations

import datetime as dt
import importlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lowerbound.columns import spellings
from lowerbound.columns.spellings import NUMBER
from lowerbound.errors import DataError

# Arrow makes these functions when it is imported, so type checkers cannot see them.
pc: Any = importlib.import_module("pyarrow.compute")

# Words that spreadsheets and statistics programs write for missing values. "None", "-" and "." are
# missing in a column of numbers but may be levels of a category, so they are not here.
MISSING_TEXT = (
    "",
    "?",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "nan",
    "NULL",
    "Null",
    "null",
    "NaT",
)
MISSING_NUMBER = (*MISSING_TEXT, "None", "none", "-", "--", ".")

_SPELLED = re.compile(r"timestamp\[(?P<unit>s|ms|us|ns), tz=(?P<tz>[^\]]+)\]")
_DECIMAL = re.compile(r"decimal(?P<bits>32|64|128|256)\((?P<precision>\d+), (?P<scale>-?\d+)\)")
_FIXED = re.compile(r"fixed_size_binary\[(?P<width>\d+)\]")
_DICTIONARY = re.compile(
    r"dictionary<values=(?P<values>.+), indices=(?P<indices>\w+), ordered=(?P<ordered>[01])>"
)


class BadValues(DataError):
    """Some values of a column cannot be used.

    Attributes:
        wrong: a mask (n,) of the rows with these values; None after pickling.
        why: the reason, such as "not a number".
    """

    wrong: np.ndarray | None = None
    why: str = ""

    @classmethod
    def at(  # noqa: PLR0913 - the parts of a message
        cls, wrong: np.ndarray, why: str, code: str, message: str, *, fix: str, column: str
    ) -> BadValues:
        """Return the error for the values where `wrong` holds, with the first row and a count."""
        count = int(wrong.sum())
        error = cls(code, message, fix=fix, column=column, row=row_of(wrong), count=count)
        error.wrong, error.why = wrong, why
        return error


def snippet(value: object, width: int = 60) -> str:
    """Quote a value for a message, cut to `width` characters and without control characters."""
    text = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in str(value)[: width + 1])
    return f"'{text}'" if len(text) <= width else f"'{text[:width]}…'"


def place(path: object, width: int = 160) -> str:
    """Quote a path for a message; a long one keeps its end, which identifies the file."""
    text = snippet(path, 10_000)[1:-1]
    return f"'{text}'" if len(text) <= width else f"'…{text[-width:]}'"


def spelled(name: str) -> str:
    """Return the name of a file as text, with bytes that are not UTF-8 escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def listed(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    """Join the first few names for a message, with the number of the others."""
    shown = ", ".join(snippet(n, 40) for n in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def arrow_type(text: str) -> pa.DataType:
    """Return the Arrow type of a text, the inverse of ``str(type)`` for flat types."""
    if found := _SPELLED.fullmatch(text):
        return pa.timestamp(found["unit"], tz=found["tz"])
    if found := _DECIMAL.fullmatch(text):
        make = getattr(pa, f"decimal{found['bits']}")
        return make(int(found["precision"]), int(found["scale"]))
    if found := _FIXED.fullmatch(text):
        return pa.binary(int(found["width"]))
    if found := _DICTIONARY.fullmatch(text):
        values, indices = arrow_type(found["values"]), arrow_type(found["indices"])
        return pa.dictionary(indices, values, ordered=found["ordered"] == "1")
    return pa.type_for_alias(text)


def is_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type holds strings, in any of Arrow's three layouts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether an Arrow type holds strings of bytes, in any of Arrow's layouts."""
    fixed = pa.types.is_fixed_size_binary(kind)
    return fixed or kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def is_flat(kind: pa.DataType) -> bool:
    """Return whether a value of this type is one number, boolean, moment, text or bytes."""
    tests = (
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_null,
        pa.types.is_time,
        pa.types.is_duration,
        is_moment,
        is_text,
        is_bytes,
        is_words,
    )
    return any(test(kind) for test in tests)


def is_words(kind: pa.DataType) -> bool:
    """Return whether `plain` returned a dictionary of strings."""
    return pa.types.is_dictionary(kind) and is_text(kind.value_type)


def is_number(kind: pa.DataType) -> bool:
    """Return whether an Arrow type holds machine numbers or booleans."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def is_moment(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a date or a timestamp."""
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def declared(kind: pa.DataType) -> pa.DataType:
    """Return the type to decode to, without extension and run-end wrappers."""
    if isinstance(kind, pa.BaseExtensionType):
        return declared(kind.storage_type)
    return declared(kind.value_type) if pa.types.is_run_end_encoded(kind) else kind


def storage(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, also without dictionaries."""
    kind = declared(kind)
    return storage(kind.value_type) if pa.types.is_dictionary(kind) else kind


def unwrapped(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values without extension and run-end wrappers."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        parts = [chunk.storage for chunk in column.chunks]
        return unwrapped(pa.chunked_array(parts, kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        parts = [pc.run_end_decode(chunk) for chunk in column.chunks]
        return unwrapped(pa.chunked_array(parts, kind.value_type))
    return column


def computable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values in a layout that Arrow's functions support; few support views."""
    column = unwrapped(column)
    kind = column.type
    if is_bytes(storage(kind)):
        parts = [_decoded(chunk) for chunk in column.chunks]
        return pa.chunked_array(parts, pa.large_string())
    if is_words(kind) and kind.value_type == pa.string_view():
        make, wide = pa.DictionaryArray.from_arrays, pa.large_string()
        parts = [make(c.indices, c.dictionary.cast(wide)) for c in column.chunks]
        return pa.chunked_array(parts, pa.dictionary(kind.index_type, wide))
    return column.cast(pa.large_string()) if kind == pa.string_view() else column


def _decoded(cells: Any) -> pa.Array:
    """Return bytes as text, in which those that are not UTF-8 are escaped."""
    cells = cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells
    try:
        return cells.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        texts = [
            None if each is None else each.decode("utf-8", "backslashreplace")
            for each in cells.to_pylist()
        ]
        return pa.array(texts, pa.large_string())


def _encoded(words: list[str]) -> list[bytes]:
    """Return the bytes that `_decoded` turned into these texts."""
    return [
        re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), w.encode())
        for w in words
    ]


def rewrapped(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return values in the type that `computable` took them from, with its wrappers."""
    if column.type == kind:
        return column
    if isinstance(kind, pa.BaseExtensionType):
        inner = rewrapped(column, kind.storage_type)
        return pa.chunked_array([kind.wrap_array(chunk) for chunk in inner.chunks], kind)
    if pa.types.is_run_end_encoded(kind):
        inner = rewrapped(column, kind.value_type)
        ends = kind.run_end_type
        parts = [pc.run_end_encode(chunk, run_end_type=ends) for chunk in inner.chunks]
        return pa.chunked_array(parts, kind)
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        inner = rewrapped(column, kind.value_type)
        if pa.types.is_float16(inner.type):  # which Arrow cannot encode
            return inner
        made = inner.dictionary_encode().combine_chunks()
        made = _single(made)
        codes = made.indices.cast(kind.index_type)
        parts = [pa.DictionaryArray.from_arrays(codes, made.dictionary, ordered=kind.ordered)]
        return pa.chunked_array(parts, kind)
    if is_bytes(storage(kind)):
        cells = pa.array(column.to_pylist(), pa.large_string()).dictionary_encode()
        values = pa.array(_encoded(cells.dictionary.to_pylist()), pa.binary())
        column = pa.chunked_array([values.take(cells.indices)])
    return column.cast(kind)


def plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one chunk without wrappers; strings become a dictionary."""
    if len(column) <= _FEW and column.type in (pa.string(), pa.large_string()):
        texts = [None if text in MISSING_TEXT else text for text in column.to_pylist()]
        if _all_plain([text for text in texts if text is not None]):
            return _few_words(texts)
    column = computable(column)
    if pa.types.is_dictionary(column.type):
        inner = column.type.value_type
        if not is_flat(storage(inner)):
            return _single(column.combine_chunks())
        try:
            flat = column.unify_dictionaries().combine_chunks()
        except pa.ArrowException:  # nulls among the levels cannot be unified
            flat = None
        if flat is None or not is_text(inner):
            parts = [chunk.dictionary_decode() for chunk in column.chunks]
            return plain(pa.chunked_array(parts, type=inner))
    elif is_text(column.type):
        flat = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    else:
        flat = column.combine_chunks()
        return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    return _without_blanks(_single(flat))


def _single(array: Any) -> pa.DictionaryArray:
    if isinstance(array, pa.ChunkedArray):
        return array.chunk(0) if array.num_chunks else pa.array([], type=array.type)
    return array


def _few_words(texts: list[str | None]) -> pa.DictionaryArray:
    """Return few words as a dictionary, in the order in which they first occur."""
    place: dict[str, int] = {}
    codes = [None if text is None else place.setdefault(text, len(place)) for text in texts]
    words = pa.array(list(place), pa.large_string())
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), words)


def _without_blanks(cells: pa.DictionaryArray) -> pa.DictionaryArray:
    """Replace words for missing values by nulls, and drop unused levels."""
    words = cells.dictionary.cast(pa.large_string())
    if len(cells) <= _FEW and not cells.null_count and _all_plain(words.to_pylist()):
        used = set(cells.indices.to_pylist())
        if len(used) == len(words):  # nothing to do, as for most columns of one row
            return pa.DictionaryArray.from_arrays(cells.indices.cast(pa.int32()), words)
    blank = pc.is_in(pc.utf8_trim_whitespace(words), value_set=pa.array(MISSING_TEXT, words.type))
    keep = ~np.asarray(blank.fill_null(True))
    indices = _indices(cells)
    used = np.zeros(len(words), dtype=bool)
    used[indices[indices >= 0]] = True
    keep &= used
    renumber = np.where(keep, np.cumsum(keep) - 1, -1)
    fresh = np.where(indices >= 0, renumber[indices], -1) if len(words) else indices
    return pa.DictionaryArray.from_arrays(
        pa.array(fresh.astype(np.int32), mask=fresh < 0), words.filter(pa.array(keep))
    )


_FEW = 64  # rows up to which Python is faster than the functions of Arrow
_BARE = re.compile(r"[!-~](?:[ -~]*[!-~])?")  # begins and ends with what is surely no space


def _all_plain(words: Sequence[str | None]) -> bool:
    """Return whether words are neither blank nor missing, nor change when they are trimmed."""
    return all(
        word is not None and word not in MISSING_TEXT and _BARE.fullmatch(word) for word in words
    )


def missing(column: pa.ChunkedArray, words: Sequence[str] = MISSING_TEXT) -> pa.ChunkedArray:
    """Return a mask (n,) of missing values: null, NaN, or a word for them."""
    options = pc.NullOptions(nan_is_null=True)
    column = computable(column)
    gone = pc.call_function("is_null", [column], options)
    if not is_text(storage(column.type)):
        return gone
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    bare = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    return pc.or_(gone, pc.is_in(bare, value_set=pa.array(words, pa.large_string())))


def _indices(cells: pa.DictionaryArray) -> np.ndarray:
    if not cells.indices.null_count:
        return np.asarray(cells.indices).astype(np.int64)
    return np.asarray(cells.indices.cast(pa.int64()).fill_null(-1))


class Levels(NamedTuple):
    """Distinct values of a column as text, and the code of each row."""

    codes: np.ndarray  # (n,) int64, -1 where missing
    words: list[str]


def levels(cells: pa.Array, column: str) -> Levels:
    """Return the distinct values of a column as text, and the code of each row."""
    if pa.types.is_null(cells.type):
        return Levels(np.full(len(cells), -1), [])
    if pa.types.is_floating(cells.type):
        # Arrow cannot hash half floats or convert them to text.
        cells = cells.cast(pa.float32()) if cells.type == pa.float16() else cells
        cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)
        cells = pc.add(cells, pa.scalar(0.0, cells.type))  # -0.0 is 0.0
    try:
        cells = cells.dictionary_encode()  # nothing to do for a dictionary
        words = cells.dictionary
        words = words if words.type == pa.large_string() else words.cast(pa.large_string())
        return Levels(_indices(cells), words.to_pylist())
    except pa.ArrowNotImplementedError as error:
        raise nested(column, cells.type) from error


def labels_of(column: pa.ChunkedArray) -> list[str]:
    """Return the levels in use of a dictionary column as text, in the order of the dictionary."""
    column = unwrapped(column)
    try:
        cells = _single(column.unify_dictionaries().combine_chunks())
    except pa.ArrowException:  # nulls among the levels cannot be unified
        return levels(plain(column), "").words
    used = np.unique(_indices(cells))
    order = cells.dictionary.take(pa.array(used[used >= 0]))
    return levels(order, "").words


def nested(column: str, kind: pa.DataType) -> DataError:
    """Return the error for a column whose values are lists or structures."""
    return DataError(
        "E023",
        f"column {snippet(column)} must have one value per row, got {kind}",
        fix=f"split it into plain columns, or leave it out: --drop {column}",
        column=column,
    )


def row_of(mask: np.ndarray) -> int:
    """Return the number of the first row where `mask` holds; the first data row is 1."""
    return int(np.flatnonzero(mask)[0]) + 1


def nanoseconds(kind: pa.DataType) -> float:
    """Return the nanoseconds in one tick of a type of dates, times or durations."""
    if kind == pa.date32():
        return 86_400e9
    return 1e6 if kind == pa.date64() else _NANOSECONDS[kind.unit]


_NANOSECONDS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0}


def floats(cells: pa.Array, column: str, like: pa.DataType | None = None) -> np.ndarray:
    """Read a column as float64 with NaN where missing, and 0.0 for -0.0.

    Args:
        cells: the column.
        column: its name, for messages.
        like: the type in training. Times and durations are returned in its unit.

    Raises:
        DataError: E032 when a value is not a number, E030 when one is infinite, E040 when the
            type has no numbers.
    """
    kind = cells.type
    if like is not None and pa.types.is_temporal(like) and is_words(kind):
        values = _parse_ticks(cells, column, like)
    elif is_words(kind):
        values = _parse_words(cells, column)
    elif pa.types.is_boolean(kind):
        values = _numpy(cells.cast(pa.uint8()).cast(pa.float64()))
    elif pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        values = _numpy(cells.cast(width).cast(pa.float64(), safe=False))
        if like is not None and pa.types.is_temporal(like) and like != kind:
            values = values * (nanoseconds(kind) / nanoseconds(like))
    elif pa.types.is_null(kind):
        values = np.full(len(cells), np.nan)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = _numpy(cells)
    elif pa.types.is_decimal(kind):
        values = _numpy(cells.cast(pa.float64(), safe=False))
    else:
        raise DataError(
            "E040",
            f"column {snippet(column)} has the type {kind}, which holds no numbers",
            fix=f"convert it to numbers, or leave it out: --drop {column}",
            column=column,
        )
    refuse_infinite(values, column)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        return values + 0.0


def _numpy(cells: pa.Array) -> np.ndarray:
    return np.asarray(cells.to_numpy(zero_copy_only=False), dtype=np.float64)


def _parse_words(cells: pa.DictionaryArray, column: str) -> np.ndarray:
    words = cells.dictionary
    blank = pc.is_in(
        pc.utf8_trim_whitespace(words), value_set=pa.array(MISSING_NUMBER, words.type)
    )
    fine = pc.or_(blank, pc.match_substring_regex(words, NUMBER))
    codes = _indices(cells)
    if len(words) and not pc.all(fine).as_py():
        wrong = np.append(~np.asarray(fine), False)[codes]
        raise BadValues.at(
            wrong,
            "not a number",
            "E032",
            f"column {snippet(column)} must be numbers, but row {row_of(wrong):,} holds "
            f"{snippet(words[int(codes[row_of(wrong) - 1])])} ({int(wrong.sum()):,} of "
            f"{len(codes):,} rows are not numbers)",
            fix=f"correct these values or leave them empty; at fit time --types {column}="
            "categorical keeps the column as labels",
            column=column,
        )
    bare = pc.replace_substring_regex(pc.utf8_trim_whitespace(words), r"^\+", "")
    numbers = pc.if_else(blank, pa.scalar(None, bare.type), bare).cast(pa.float64())
    return np.append(_numpy(numbers), np.nan)[codes]


def _parse_ticks(cells: pa.DictionaryArray, column: str, like: pa.DataType) -> np.ndarray:
    """Read text of times of day or durations in the unit of a type; numbers are ticks of it."""
    read = spellings.time_of_day if pa.types.is_time(like) else spellings.span
    if is_moment(like):
        read = spellings.moment
    words = cells.dictionary.to_pylist()
    found = [read(word) for word in words]
    spelled = np.array([np.nan if at is None else at / nanoseconds(like) for at in found])
    if None not in found:
        return np.append(spelled, np.nan)[_indices(cells)]
    rest = pa.array([word if at is None else "" for word, at in zip(words, found, strict=True)])
    plain = _parse_words(pa.DictionaryArray.from_arrays(cells.indices, rest), column)
    return np.where(np.isnan(plain), np.append(spelled, np.nan)[_indices(cells)], plain)


def refuse_infinite(values: np.ndarray, column: str) -> None:
    """Raise E030 if a value is infinite, because no density is finite there."""
    # A sum is infinite or NaN if an element is, and takes a tenth of the time of a full test.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return
    wrong = np.isinf(values)
    if wrong.any():
        raise BadValues.at(
            wrong,
            "infinite",
            "E030",
            f"column {snippet(column)} has {int(wrong.sum()):,} infinite values, the first in "
            f"row {row_of(wrong):,}",
            fix="leave these values empty (missing values are modelled) or correct them",
            column=column,
        )


def restore(values: np.ndarray, dtype: str) -> pa.Array:
    """Return float64 numbers (NaN = missing) in an Arrow type, saturating at its limits."""
    kind = storage(arrow_type(dtype))
    gone = np.isnan(values)
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        width = kind if pa.types.is_integer(kind) else _ticks(kind)
        if pa.types.is_time(kind):  # of a day
            values = np.clip(values, 0, 86_400e9 / nanoseconds(kind) - 1)
        return pa.array(_saturate(values, width.to_pandas_dtype()), mask=gone).cast(kind)
    if pa.types.is_boolean(kind):
        return pa.array(np.nan_to_num(values) > 0.5, mask=gone)
    if pa.types.is_decimal(kind):
        most = 10.0 ** (kind.precision - kind.scale) * (1 - 1e-9)
        return pa.array(np.clip(values, -most, most), mask=gone).cast(kind, safe=False)
    if is_text(kind):
        return pa.array(values, mask=gone).cast(kind)
    if pa.types.is_floating(kind):
        largest = np.finfo(kind.to_pandas_dtype()).max
        narrow = np.clip(values, -largest, largest).astype(kind.to_pandas_dtype())
        return pa.array(narrow, type=kind, mask=gone)
    return pa.array(values, mask=gone)


def _ticks(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def _saturate(values: np.ndarray, width: type[np.integer]) -> np.ndarray:
    limits = np.iinfo(width)
    # float64 cannot represent the largest 64-bit integers: saturate at the last one below.
    top = limits.max if limits.bits < 64 else np.nextafter(float(limits.max), 0.0)
    return np.clip(np.rint(np.nan_to_num(values)), limits.min, top).astype(width)


# Types that Arrow cannot index, and the types to index instead.
_TAKEN_AS = {
    pa.float16(): pa.float32(),
    pa.string_view(): pa.large_string(),
    pa.binary_view(): pa.binary(),
}


def spell(codes: np.ndarray, words: list[str], dtype: str) -> pa.Array:
    """Return the words of level codes (-1 = missing) in an Arrow type."""
    kind = arrow_type(dtype)
    inner = storage(kind)
    if pa.types.is_null(inner):
        return pa.nulls(len(codes), kind)
    values = pa.array(words, pa.large_string())
    narrow = _TAKEN_AS.get(inner, inner)
    if pa.types.is_duration(inner):  # Arrow casts numbers to durations, and casts nothing to times
        values = values.cast(pa.int64())
    elif pa.types.is_time(inner):
        values = pa.array([dt.time.fromisoformat(word[:15]) for word in words], pa.time64("us"))
    if is_bytes(inner):
        values = pa.array(_encoded(words), pa.binary())
    values = values.cast(narrow)
    indices = pa.array(codes.astype(np.int32), mask=codes < 0)
    if pa.types.is_dictionary(kind):
        encoded = pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)
        return encoded.cast(kind) if encoded.type != kind else encoded
    return values.take(indices).cast(inner)
