"""Types of the columns of data frames: to Arrow without loss, and back to the same types.

A type is described as plain JSON values, so that a saved model gives rows of the types that it was
fitted on.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import pyarrow as pa

from lowerbound.columns.arrow import arrow_type, computable, is_flat, is_text, storage

# What conversions to a type raise where it does not hold the values, or where the description of
# a type is damaged: the values then keep the type that Arrow gives them.
_UNFIT = (
    pa.ArrowException,
    TypeError,
    ValueError,
    OverflowError,
    KeyError,
    AttributeError,
    NotImplementedError,
)
_INTERVAL = re.compile(r"(?P<first>[\[(])(?P<left>.+), (?P<right>.+)(?P<last>[\])])")
_ENDS = ("left", "right")
_CLOSED = {"(]": "right", "[)": "left", "[]": "both", "()": "neither"}


def _pandas() -> Any:
    return importlib.import_module("pandas")


@dataclass(frozen=True)
class Objects:
    """Type of a column of Python objects that another type holds.

    Attributes:
        of: the pandas type that holds them. Intervals that are not all closed on the same sides
            have one without `closed`.
    """

    of: Any


def kind_of(values: Any) -> Any:
    """Return the type of a pandas series or index; `Objects` for objects of pandas in one."""
    pd = _pandas()
    own = (pd.Interval, pd.Period, pd.Timestamp, pd.Timedelta)
    if values.dtype != np.dtype(object) or not isinstance(_first(values), own):
        return values.dtype
    known = [value for value in values if not _is_gone(value)]
    try:
        if all(isinstance(value, pd.Interval) for value in known):
            sides = pd.Index([end for value in known for end in (value.left, value.right)])
            closed = {value.closed for value in known}
            return Objects(
                pd.IntervalDtype(sides.dtype, closed.pop() if len(closed) < 2 else None)
            )
        kind = pd.Index(known).dtype
        return kind if kind == np.dtype(object) else Objects(kind)
    except _UNFIT:
        return values.dtype


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if not _is_gone(value)), None)


def _is_gone(value: Any) -> bool:
    pd = _pandas()
    return value is None or value is pd.NA or value is pd.NaT or (value != value) is True  # noqa: PLR0124


def of_pandas(series: Any) -> Any:
    """Return a pandas series whose values Arrow can hold.

    Sparse values become dense. Intervals become text, and ordered categories of text if they are
    a few that do not overlap. Categories that are neither numbers, moments nor text become text.
    """
    pd = _pandas()
    kind = kind_of(series)
    kind = kind.of if isinstance(kind, Objects) else kind
    if isinstance(kind, pd.SparseDtype):
        return series.sparse.to_dense()
    if isinstance(kind, pd.IntervalDtype):
        return _of_intervals(series)
    if isinstance(kind, pd.PeriodDtype):
        return series.astype(kind)
    if isinstance(kind, pd.CategoricalDtype) and not _is_plain(kind.categories):
        words = [str(category) for category in kind.categories]
        texts = pd.Categorical.from_codes(series.cat.codes, words, ordered=bool(kind.ordered))
        return pd.Series(texts, index=series.index)
    return series


def _of_intervals(series: Any) -> Any:
    pd = _pandas()
    known = series.dropna()
    words = series.astype(object).where(series.notna(), None).map(str, na_action="ignore")
    try:
        levels = pd.IntervalIndex(known.unique()).sort_values()
    except _UNFIT:  # closed on several sides
        return words
    if levels.is_overlapping or 2 * len(levels) > len(known):
        return words
    texts = pd.Categorical(words, [str(level) for level in levels], ordered=True)
    return pd.Series(texts, index=series.index)


def _is_plain(categories: Any) -> bool:
    """Return whether Arrow holds categories as numbers, moments or text."""
    try:
        kind = pa.array(categories, from_pandas=True).type
    except _UNFIT:
        return False
    return is_flat(kind) and not isinstance(kind, pa.BaseExtensionType)


def to_pandas(cells: pa.ChunkedArray, dtype: Any = None, objects: Any = None) -> Any:
    """Return a pandas series of Arrow values.

    Args:
        cells: the values.
        dtype: the type wanted; values that it cannot hold keep the type that Arrow gives them.
        objects: the objects that the values were read from, which equal values keep: 0.5 and 0.50
            are equal decimals, and None and NaN are both missing.
    """
    if dtype is not None:
        try:
            return _as_pandas(cells, dtype, objects)
        except _UNFIT:
            pass
    return cells.to_pandas()


def _as_pandas(cells: pa.ChunkedArray, dtype: Any, objects: Any = None) -> Any:
    pd = _pandas()
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.Series(_categorical(cells, dtype))
    if isinstance(dtype, Objects):
        return pd.Series(_objects(_values(cells, dtype.of), objects), dtype=object)
    if dtype == np.dtype(object):
        return pd.Series(_objects(cells.to_pylist(), objects), dtype=object)
    flat = computable(cells)
    flat = flat.cast(storage(flat.type))
    if isinstance(dtype, pd.IntervalDtype):
        return pd.Series(_intervals(flat.to_pylist(), dtype))
    if isinstance(dtype, pd.api.extensions.ExtensionDtype):
        return pd.Series(_extension(flat, dtype), dtype=dtype)
    kind = pa.from_numpy_dtype(dtype)
    both_float = pa.types.is_floating(kind) and pa.types.is_floating(flat.type)
    found = flat.cast(kind, safe=not both_float).to_pandas()
    return found.astype(dtype) if not flat.null_count or dtype.kind in "fmM" else found


def _values(cells: pa.ChunkedArray, dtype: Any) -> list[Any]:
    """Return values of a pandas type as Python objects, None where missing."""
    if isinstance(dtype, _pandas().IntervalDtype):
        return _interval_objects(computable(cells).to_pylist(), dtype)
    return [None if _is_gone(value) else value for value in _as_pandas(cells, dtype)]


def _objects(values: list[Any], own: Any) -> list[Any]:
    if own is None or not len(own) or len(values) % len(own):
        return values
    pairs = zip(values, cycle(zip(own, own.isna(), strict=True)))  # noqa: B905 - repeated
    return [old if (new is None and gone) or new == old else new for new, (old, gone) in pairs]


def _extension(flat: pa.ChunkedArray, dtype: Any) -> Any:
    """Return values as an array of an extension type of pandas."""
    pd = _pandas()
    if isinstance(dtype, pd.SparseDtype):
        dense = flat.cast(pa.from_numpy_dtype(dtype.subtype)).to_numpy()
        return pd.arrays.SparseArray(dense, dtype=dtype)
    if isinstance(dtype, pd.ArrowDtype):
        return dtype.__from_arrow__(flat.cast(dtype.pyarrow_dtype))
    return dtype.__from_arrow__(flat.cast(_arrow_type(dtype)))


def _arrow_type(dtype: Any) -> pa.DataType:
    """Return the Arrow type of the values that an extension type of pandas reads."""
    pd = _pandas()
    if isinstance(dtype, pd.PeriodDtype):
        return pa.int64()
    if isinstance(dtype, pd.DatetimeTZDtype):
        return pa.timestamp(dtype.unit, str(dtype.tz))
    if isinstance(dtype, pd.StringDtype):
        return pa.large_string()
    return pa.from_numpy_dtype(dtype.numpy_dtype)


def _categorical(cells: pa.ChunkedArray, dtype: Any) -> Any:
    """Return values as categories of the type, with further ones for values that are none."""
    pd = _pandas()
    values = computable(cells)
    values = values.cast(storage(values.type)).combine_chunks().dictionary_encode()
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    words = values.dictionary.to_pandas()
    known = list(dtype.categories)
    if not _is_plain(dtype.categories):
        known = [str(category) for category in known]
    words = (
        values.dictionary.to_pandas() if len(values.dictionary) else pd.Series([], dtype=object)
    )
    place = {category: code for code, category in enumerate(known)}
    codes = np.array([place.get(word, -1) for word in words] + [-1])
    new = codes[:-1] < 0
    if new.any():
        further = [*dtype.categories, *words[new]]
        codes[:-1][new] = len(known) + np.arange(new.sum())
        dtype = pd.CategoricalDtype(further, dtype.ordered)
    places = np.asarray(values.indices.cast(pa.int64()).fill_null(-1))
    return pd.Categorical.from_codes(codes[places], dtype=dtype)


def _intervals(words: Sequence[str | None], dtype: Any) -> Any:
    """Return an array of intervals from their text, such as ``(0.5, 1.0]``."""
    known = [word for word in words if word is not None]
    _, left, right = _sides(known, dtype)
    found = _pandas().arrays.IntervalArray.from_arrays(left, right, closed=dtype.closed)
    places = np.cumsum([word is not None for word in words]) - 1
    gone = np.array([word is None for word in words], dtype=bool)
    return found.take(np.where(gone, -1, places), allow_fill=True) if gone.any() else found


def _interval_objects(words: Sequence[str | None], dtype: Any) -> list[Any]:
    """Return intervals that may be closed on different sides, None where missing."""
    found, left, right = _sides([word for word in words if word is not None], dtype)
    made = iter(
        _pandas().Interval(low, high, _CLOSED[one["first"] + one["last"]])
        for one, low, high in zip(found, left, right, strict=True)
    )
    return [None if word is None else next(made) for word in words]


def _sides(words: Sequence[str], dtype: Any) -> tuple[list[re.Match[str]], Any, Any]:
    """Return texts of intervals as matches, and their left and right ends."""
    found = [one for one in map(_INTERVAL.fullmatch, words) if one]
    if len(found) < len(words):
        raise ValueError("not an interval")
    left, right = (_ends_of([one[side] for one in found], dtype.subtype) for side in _ENDS)
    return found, left, right


def _ends_of(texts: list[str], dtype: Any) -> Any:
    """Return text as numbers, moments or durations of a type."""
    pd = _pandas()
    if dtype.kind == "m":
        return pd.Index(pd.to_timedelta(texts)).astype(dtype)
    if dtype.kind == "M":
        zoned = isinstance(dtype, pd.DatetimeTZDtype)
        return pd.Index(pd.to_datetime(texts, utc=zoned, format="ISO8601")).astype(dtype)
    cells = pa.chunked_array([pa.array(texts, pa.string())])
    return to_pandas(cells.cast(pa.from_numpy_dtype(dtype)), dtype)


def described(dtype: Any) -> Any:
    """Return a type that `kind_of` returned as plain JSON values."""
    if isinstance(dtype, _pandas().CategoricalDtype):
        return {
            "categories": [str(category) for category in dtype.categories],
            "of": described(_kind_of_categories(dtype.categories)),
            "ordered": bool(dtype.ordered),
        }
    if isinstance(dtype, Objects):
        return {"objects": described(dtype.of)}
    if isinstance(dtype, _pandas().StringDtype) and dtype.na_value is _pandas().NA:
        return f"string[{dtype.storage}]"
    if isinstance(dtype, _pandas().ArrowDtype):
        return {"arrow": str(dtype.pyarrow_dtype)}
    if isinstance(dtype, _pandas().SparseDtype):
        fill = dtype.fill_value
        return {"sparse": str(dtype.subtype), "fill": None if fill != fill else _scalar(fill)}  # noqa: PLR0124
    return str(dtype)


def _kind_of_categories(categories: Any) -> Any:
    """Return the type of categories; `Objects` for objects that Arrow reads, except text."""
    kind = kind_of(categories)
    if kind != np.dtype(object) or isinstance(kind, Objects) or not _is_plain(categories):
        return kind
    plain = pa.array(categories, from_pandas=True).type
    return kind if is_text(plain) else Objects(_pandas().ArrowDtype(plain))


def dtype_of(description: Any) -> Any:
    """Return the type that `described` described, None for what is no such type."""
    pd = _pandas()
    try:
        if not isinstance(description, Mapping):
            return pd.api.types.pandas_dtype(description)
        if "objects" in description:
            inner = dtype_of(description["objects"])
            return None if inner is None else Objects(inner)
        if "arrow" in description:
            return pd.ArrowDtype(arrow_type(description["arrow"]))
        if "sparse" in description:
            fill = description["fill"]
            return pd.SparseDtype(description["sparse"], np.nan if fill is None else fill)
        words = pa.chunked_array([pa.array(description["categories"], pa.large_string())])
        categories = _parsed(words, description["of"])
        return pd.CategoricalDtype(categories, bool(description["ordered"]))
    except _UNFIT:
        return None


def _parsed(words: pa.ChunkedArray, description: Any) -> Any:
    """Return categories or labels of a type from their text."""
    pd = _pandas()
    kind = dtype_of(description)
    if kind is None:
        raise ValueError("no such type")
    if isinstance(kind, Objects):
        flat = isinstance(kind.of, pd.ArrowDtype)
        cells = words.cast(kind.of.pyarrow_dtype) if flat else words
        return pd.Index(_values(cells, kind.of), dtype=object)
    if isinstance(kind, pd.IntervalDtype):
        return pd.Index(_intervals(words.to_pylist(), kind))
    if kind == np.dtype(object) or is_text(pa.array(pd.Series([], dtype=kind)).type):
        return pd.Index(words.to_pylist(), dtype=kind)
    if isinstance(kind, pd.PeriodDtype):
        return pd.PeriodIndex(words.to_pylist(), dtype=kind)
    if kind.kind in "mM":
        return pd.Index(words.to_pylist()).astype(kind)
    return pd.Index(_as_pandas(words.cast(pa.from_numpy_dtype(kind)), kind))


def labels_described(columns: Any) -> Any:
    """Return the labels of the columns of a pandas frame as plain JSON values; None for text."""
    pd = _pandas()
    if isinstance(columns, pd.MultiIndex):
        labels = [[_scalar(each) for each in label] for label in columns]
        simple = all(_is_simple(each) for label in labels for each in label)
    else:
        labels = [_scalar(label) for label in columns]
        simple = all(map(_is_simple, labels))
    names = [None if name is None else str(name) for name in columns.names]
    if all(isinstance(label, str) for label in labels) and names == [None]:
        return None
    if simple:
        return {"labels": labels, "names": names}
    return {"labels": [str(label) for label in columns], "of": str(columns.dtype), "names": names}


def labels_of(description: Any) -> Any:
    """Return the labels that `labels_described` described as an index, None if they are none."""
    pd = _pandas()
    try:
        labels, names = description["labels"], description["names"]
        if "of" in description:
            found = _parsed(pa.chunked_array([pa.array(labels, pa.string())]), description["of"])
            return found.rename(names[0])
        if any(isinstance(label, list) for label in labels):
            return pd.MultiIndex.from_tuples([tuple(label) for label in labels], names=names)
        return pd.Index(labels, name=names[0])
    except _UNFIT:
        return None


def _scalar(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _is_simple(label: Any) -> bool:
    return label is None or isinstance(label, str | int | float) and label == label  # noqa: PLR0124


def polars_described(dtype: Any) -> Any:
    """Return a polars type that Arrow does not tell apart as plain JSON values, else None."""
    pl = importlib.import_module("polars")
    if isinstance(dtype, pl.Enum):
        return {"enum": dtype.categories.to_list()}
    return "categorical" if isinstance(dtype, pl.Categorical) else None


def polars_type(description: Any) -> Any:
    """Return the polars type that `polars_described` described, None for what is no such type."""
    pl = importlib.import_module("polars")
    if description == "categorical":
        return pl.Categorical()
    try:
        return pl.Enum(description["enum"])
    except (TypeError, ValueError, KeyError, pl.exceptions.PolarsError):
        return None


def to_polars(series: Any, dtype: Any) -> Any:
    """Return a polars series as the type wanted, or as it is if that does not hold its values."""
    pl = importlib.import_module("polars")
    if dtype is None or series.dtype == dtype:
        return series
    text = (pl.String, pl.Categorical, pl.Enum)
    alike = (
        isinstance(series.dtype, text) and isinstance(dtype, text),
        series.dtype.is_temporal() and dtype.is_temporal(),
        series.dtype.is_integer() and dtype.is_integer(),
        series.dtype.is_float() and dtype.is_float(),
        series.dtype.is_decimal() and dtype.is_decimal(),
        isinstance(series.dtype, pl.Binary) or isinstance(dtype, pl.Binary),
    )
    if not any(alike):
        return series
    try:
        plain = series.cast(pl.String) if isinstance(series.dtype, pl.Categorical) else series
        return plain.cast(dtype)
    except pl.exceptions.PolarsError:
        return series
