"""Convert the input of an estimator to `Data`, and its results to the container of the input.

Tables with names (data frames, Arrow, paths) are read as `lowerbound.files.read` reads them.
Arrays and sparse matrices pass scikit-learn's own check first, so that what scikit-learn accepts,
refuses and says about them holds here too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import singledispatch
from importlib import import_module
from numbers import Integral
from types import MappingProxyType
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.errors import DataError, ResourceError
from lowerbound.files import paths
from lowerbound.files.anndata import is_anndata, is_mudata
from lowerbound.files.arrays import NumpyNative, PictureNative, SparseNative
from lowerbound.files.data import ArrowNative, Native, Whole
from lowerbound.files.dataframes import FrameNative, frame
from lowerbound.files.datasets import is_dataset
from lowerbound.files.pictures.columns import pixels_of
from lowerbound.files.pictures.options import ANY, Wanted
from lowerbound.files.read import read
from lowerbound.files.torch_datasets import is_torch_dataset

_ARRAYS: dict[str, Any] = {
    "accept_sparse": "csr",
    "ensure_all_finite": "allow-nan",
    "input_name": "X",
}
DENSE_BYTES = 4 * 2**30  # of a sparse matrix that a model of dense columns would have to unpack


class Given(NamedTuple):
    """An input, and whether its columns have meaningful names."""

    frame: Whole
    named: bool


class Seen(NamedTuple):
    """The container that a model was fitted on.

    Attributes:
        names: of all columns, in order.
        named: whether the names mean something.
        kind: of container, as `wrap` knows it.
        frame: types and labels of the columns of a data frame, as `FrameNative` describes them.
    """

    names: list[str]
    named: bool
    kind: str
    frame: Mapping[str, Any] = MappingProxyType({})


def noted(native: Native, named: bool) -> dict[str, Any]:
    """Return the facts about a container from which `seen` returns it."""
    found: dict[str, Any] = {"kind": kind_of(native), "named": named}
    return {**found, "frame": native.description()} if isinstance(native, FrameNative) else found


def seen(facts: Mapping[str, Any]) -> Seen:
    """Return the container that the facts of a trained model record.

    An estimator notes it under "input"; `lowerbound fit` reads paths, which are Arrow tables.
    """
    names = facts["columns"]
    named = any(name != f"x{place}" for place, name in enumerate(names))
    return Seen(names, **{"named": named, "kind": "arrow", **facts.get("input", {})})


def admit(
    data: object,
    *,
    estimator: object,
    rows: int = 1,
    pictures: bool = False,
    wanted: Wanted = ANY,
) -> Given:
    """Read the input of an estimator.

    Args:
        data: a path or a list of paths, a data frame, an Arrow table, a ``pyarrow.dataset``, a
            dict of columns, an array-like of numbers, a sparse matrix, or a torch ``Dataset`` or
            ``DataLoader``.
        estimator: named in scikit-learn's messages.
        rows: the least number of rows.
        pictures: let arrays have more than two dimensions.
        wanted: of pictures in files.

    Raises:
        ValueError: scikit-learn's, for arrays that are no table of finite or missing numbers.
        DataError: E0xx for paths and data frames that cannot be read.
    """
    if isinstance(data, Whole):
        return Given(data, True)
    if nw.dependencies.is_pandas_like_dataframe(data) and not _has_names(data):
        return Given(_labelled(data), False)
    if _is_table(data):
        frame = read(data, wanted=wanted)
        return Given(frame, not is_array(kind_of(frame.native)))
    if np.ma.isMaskedArray(data):
        data = np.ma.asarray(data, dtype=np.float64).filled(np.nan)
    # Imported here: sklearn takes 75 MB that loading and scoring tables do without.
    checked = import_module("sklearn.utils").check_array(
        data, ensure_min_samples=rows, estimator=estimator, allow_nd=pictures, **_ARRAYS
    )
    return Given(read(checked), False)


def _is_table(data: object) -> bool:
    known = nw.dependencies
    return (
        isinstance(data, Mapping | pa.RecordBatch)
        or bool(paths.named(data))
        or is_torch_dataset(data)
        or is_dataset(data)
        or known.is_into_dataframe(data)
        or known.is_polars_lazyframe(data)
        or is_anndata(data)
        or is_mudata(data)
    )


def _has_names(data: Any) -> bool:
    return all(isinstance(label, str) for label in data.columns)


def _labelled(data: Any) -> Whole:
    """Read a pandas frame whose labels are not all text; 0, 1, ... in any order are positions."""
    frame = read(data)
    labels = list(data.columns)
    places = all(isinstance(label, Integral) for label in labels)
    if places and sorted(labels) == list(range(len(labels))):
        return frame.renamed(tuple(f"x{label}" for label in labels))
    return frame


def matched(frame: Whole, named: bool, seen: Seen, estimator: str) -> Whole:
    """Return `frame` with the names seen in `fit`: by name where both have names, else in order.

    Labels that are not text count as names where they are those of `fit`.

    Raises:
        DataError: E080 for another number of columns.
    """
    if named and seen.named:
        return frame
    if not (named or seen.named) and set(seen.names) == set(frame.names):
        return frame
    if named or seen.named:
        doubt = (
            f"X has feature names, but {estimator} was fitted without feature names"
            if named
            else "X does not have valid feature names, but "
            f"{estimator} was fitted with feature names"
        )
        warnings.warn(doubt, stacklevel=4)
    return by_position(frame, seen.names, estimator)


def by_position(frame: Whole, names: Sequence[str], estimator: str) -> Whole:
    """Return `frame` with its columns called `names`, in order.

    Raises:
        DataError: E080 for another number of columns.
    """
    if len(frame.names) != len(names):
        raise DataError(
            "E080",
            f"X has {len(frame.names)} features, but {estimator} is expecting {len(names)} "
            "features as input",
            fix="give the columns that the model was fitted on, or a data frame with their names",
            given=len(frame.names),
            expected=len(names),
        )
    return frame.renamed(tuple(names))


def refuse_huge(frame: Whole) -> None:
    """Raise E303 for a sparse matrix that does not fit into memory as a dense one."""
    if frame.dense_bytes <= DENSE_BYTES:
        return
    raise ResourceError(
        "E303",
        f"{frame.origin} takes {frame.dense_bytes / 2**30:,.0f} GB as dense columns, which this "
        f"recipe needs ({DENSE_BYTES / 2**30:,.0f} GB at most)",
        fix="recipe='counts' keeps counts sparse; or score fewer rows at a time",
    )


@singledispatch
def kind_of(native: Native) -> str:
    """Return the name of a kind of container, which `wrap` takes."""
    return "arrow"


@kind_of.register
def _(native: NumpyNative) -> str:
    return "numpy"


@kind_of.register
def _(native: SparseNative) -> str:
    return "sparse"


@kind_of.register
def _(native: FrameNative) -> str:
    return native.narwhal.implementation.value


_FIXED: dict[str, Native] = {
    "numpy": NumpyNative(),
    "sparse": SparseNative(),
    "arrow": ArrowNative(),
}


def wrap(seen: Seen, table: pa.Table) -> Any:
    """Return rows of a model as the container that it was fitted on.

    Raises:
        ResourceError: E310 where the library of that kind is not installed.
    """
    kind, table = seen.kind, completed(seen.kind, table, seen.names)
    if kind in _FIXED:
        return _FIXED[kind].wrap(table)
    try:
        return frame(kind, table, seen.names, seen.frame)
    except ModuleNotFoundError:
        raise ResourceError(
            "E310",
            f"the model was fitted on a data frame of {kind}, which is not installed here",
            fix=f"pip install {kind}",
        ) from None


def pictures(table: pa.Table, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a table of pictures as an array, (n, *shape)."""
    return PictureNative(shape).wrap(table)


def is_array(kind: str) -> bool:
    """Return whether containers of this kind have columns without names."""
    return kind in ("numpy", "sparse")


def completed(kind: str, table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return `table` with every column of `names`, for containers whose columns have no names.

    A column that is not modelled has no values to give: its cells are missing.
    """
    if not is_array(kind):
        return table
    gone = pa.nulls(table.num_rows, pa.float64())
    known = set(table.column_names)
    return pa.table({name: table[name] if name in known else gone for name in names})


def _records(table: pa.Table) -> NDArray[Any]:
    """Return a table of mixed columns as a structured array, one field per column."""
    columns = {name: table[name].to_numpy() for name in table.column_names}
    result = np.empty(table.num_rows, dtype=[(n, c.dtype) for n, c in columns.items()])
    for name, column in columns.items():
        result[name] = column
    return result


def results_of(frame: Whole, table: pa.Table) -> Any:
    """Return a table of results about the rows of `frame`; a structured array for an array."""
    if is_array(kind_of(frame.native)):
        return _records(table)
    return frame.native.wrap(table)


def like(frame: Whole, table: pa.Table) -> Any:
    """Return a table of changed rows of `frame` in the container of `frame`."""
    if frame.shape:
        return frame.native.wrap(table)
    return frame.native.wrap(completed(kind_of(frame.native), table, frame.names))


def copies(frame: Whole, table: pa.Table, number: int) -> Any:
    """Return changed copies of `frame` in its container.

    Arrays are put behind one another instead: (number, n, columns), or of pictures
    (number, n, *shape).
    """
    if not is_array(kind_of(frame.native)):
        return frame.native.wrap(table)
    if frame.shape:
        return pixels_of(table, (frame.rows, *frame.shape))
    cells = NumpyNative().wrap(table.select(frame.names))
    return cells.reshape(number, frame.rows, len(frame.names))
