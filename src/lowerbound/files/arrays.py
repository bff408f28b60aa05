"""NumPy arrays and SciPy sparse matrices in memory."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lowerbound.columns.arrow import row_of, snippet
from lowerbound.errors import DataError
from lowerbound.files.data import Images, Matrix, Table, Whole, size
from lowerbound.files.pictures.columns import holds_pixels, pixels_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class NumpyNative:
    """Returns tables of results as two-dimensional arrays."""

    def wrap(self, table: pa.Table) -> np.ndarray:
        """Return the columns side by side, missing cells as NaN or None."""
        columns = [_column_array(table.column(j)) for j in range(table.num_columns)]
        if not columns:
            return np.empty((table.num_rows, 0))
        return np.stack(columns, axis=1)

    def renamed(self, names: tuple[str, ...]) -> NumpyNative:
        """Return the same: an array has no names."""
        return self


@dataclass(frozen=True)
class PictureNative(NumpyNative):
    """Returns tables of images as arrays of images, and other tables in two dimensions.

    Args:
        shape: of a picture.
    """

    shape: tuple[int, ...]

    def wrap(self, table: pa.Table) -> np.ndarray:
        """Return (n, *shape) for a table of pictures."""
        return pixels_of(table, self.shape) if holds_pixels(table) else super().wrap(table)


@dataclass(frozen=True)
class SparseNative:
    """Returns tables as sparse matrices if all columns are numbers, else as arrays."""

    def wrap(self, table: pa.Table) -> Any:
        """Return the columns as one CSR matrix."""
        dense = NumpyNative().wrap(table)
        if dense.dtype.kind in "OUSM":
            return dense
        return importlib.import_module("scipy.sparse").csr_matrix(dense)

    def renamed(self, names: tuple[str, ...]) -> SparseNative:
        """Return the same: a matrix has no names."""
        return self


def _column_array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.to_numpy()


def from_array(data: Any, names: Sequence[str] | None = None, origin: str = "") -> Whole:
    """Turn an array into named columns; those of a plain array are called x0, x1, ...

    Raises:
        DataError: E026, E027 or E040 for arrays that are no table of cells.
    """
    array = np.ma.asarray(data) if np.ma.isMaskedArray(data) else np.asarray(data)
    origin = origin or f"the array of shape {array.shape}"
    if array.dtype.names:
        fields = {n: from_column(np.ascontiguousarray(array[n]), n) for n in array.dtype.names}
        return _table(pa.table(fields), origin)
    if array.ndim in (3, 4) and array.size and array.dtype.kind in "buif":
        return _images(array, origin)
    _check_shape(array, origin)
    labels = list(names) if names is not None else [f"x{j}" for j in range(array.shape[1])]
    # One pass puts every column in one piece, which a column at a time would not.
    by_column = array.T.copy(order="C")
    columns = [from_column(by_column[j], labels[j]) for j in range(len(labels))]
    return _table(pa.Table.from_arrays(columns, names=labels), origin)


def _images(array: np.ndarray, origin: str) -> Images:
    """Return images, (n, H, W) or with channels first or last; masked pixels become NaN."""
    plain = np.ma.getdata(array)
    if plain.dtype.kind == "f" and plain.dtype.itemsize > 8:
        plain = _narrow(plain, "pixels")
    if np.ma.isMaskedArray(array) and np.ma.getmaskarray(array).any():
        plain = np.where(np.ma.getmaskarray(array), np.nan, plain)
    native = PictureNative(tuple(int(size) for size in array.shape[1:]))
    return Images(plain, native=native, origin=origin, total=len(array))


def _table(table: pa.Table, origin: str) -> Table:
    total = table.num_rows
    return Table(table, typed=False, native=NumpyNative(), origin=origin, total=total)


def _check_shape(array: np.ndarray, origin: str) -> None:
    if array.ndim == 2 and array.shape[0] and array.shape[1]:
        return
    if array.ndim == 2 or (array.ndim > 2 and not array.size):
        held = size(*array.shape) if array.ndim == 2 else f"the shape {list(array.shape)}"
        raise DataError(
            "E013",
            f"{origin} has {held}: nothing to read",
            fix="pass an array with at least 1 row and 1 column",
            shape=list(array.shape),
        )
    hints = {
        0: "pass a table of rows and columns",
        1: "Reshape your data: array.reshape(-1, 1) for one column, reshape(1, -1) for one row",
    }
    raise DataError(
        "E027",
        f"{origin} has {array.ndim} dimension{'s' * (array.ndim != 1)}; a table has 2. "
        "Reshape your data",
        fix=hints.get(array.ndim, "array.reshape(len(array), -1) makes each example one row"),
        shape=list(array.shape),
    )


def from_column(values: np.ndarray, name: str) -> pa.Array:
    """Turn one column of an array into Arrow cells without losing anything.

    Raises:
        DataError: E027, E029, E040 or E043, naming the column.
    """
    if values.ndim != 1:
        raise DataError(
            "E027",
            f"column {snippet(name)} has {values.ndim} dimensions",
            fix="give each column one value per row",
            column=name,
        )
    mask = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
    plain = np.ma.getdata(values) if mask is not None else values
    kind = plain.dtype.kind
    if kind == "c":
        raise DataError(
            "E040",
            f"column {snippet(name)} holds complex numbers",
            fix="use two columns, for the real and the imaginary part, or magnitude and phase",
            column=name,
        )
    if kind == "f" and plain.dtype.itemsize > 8:
        plain = _narrow(plain, name)
    if kind == "V":
        raise DataError(
            "E040", f"column {snippet(name)} holds raw bytes", fix="give numbers, text or dates"
        )
    if not plain.dtype.isnative:
        plain = plain.astype(plain.dtype.newbyteorder("="))
    if kind == "O":
        return _objects(plain, name, mask)
    try:
        return pa.array(plain, mask=mask)
    except (pa.ArrowException, UnicodeError, ValueError) as error:
        raise DataError(
            "E040",
            f"column {snippet(name)} has the type {plain.dtype}, which cannot be read: "
            f"{str(error)[:100]}",
            fix="convert it to numbers, text or dates",
            column=name,
        ) from error


def _narrow(values: np.ndarray, name: str) -> np.ndarray:
    """Bring extended precision to float64; rounding is fine, overflow is not."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float64)
    lost = np.isinf(narrow) & np.isfinite(values)
    if lost.any():
        raise DataError(
            "E043",
            f"column {snippet(name)} holds {values[lost][0]} in row {row_of(lost):,}, beyond "
            "64-bit floating point",
            fix="rescale the column, or take its logarithm",
            column=name,
            row=row_of(lost),
        )
    return narrow


def _objects(values: np.ndarray, name: str, mask: np.ndarray | None = None) -> pa.Array:
    """Read Python objects that are all numbers, all text or all dates; None is missing."""
    try:
        return pa.array(values, mask=mask, from_pandas=True)
    except (pa.ArrowException, TypeError, OverflowError, ValueError) as error:
        raise mixed(values, name, str(error)) from error


def mixed(values: Any, name: str, why: str = "") -> DataError:
    """Name the first cell whose type differs from that of the first one."""
    kinds = [type(v) for v in values]
    here = [j for j, v in enumerate(values) if v is not None and v == v]  # noqa: PLR0124 NaN
    first = here[0] if here else 0
    odd = next((j for j in here if kinds[j] is not kinds[first]), first)
    if odd == first:
        message = f"column {snippet(name)} holds {kinds[first].__name__} objects: {why[:100]}"
    else:
        message = (
            f"column {snippet(name)} mixes types: row {first + 1:,} holds "
            f"{snippet(values[first], 30)} ({kinds[first].__name__}), row {odd + 1:,} "
            f"{snippet(values[odd], 30)} ({kinds[odd].__name__})"
        )
    return DataError(
        "E029",
        message,
        fix="make the column all numbers, all text or all dates",
        column=name,
        row=odd + 1,
    )


def from_sparse(
    data: Any, names: Sequence[str] | None = None, origin: str = "", *, strict: bool = True
) -> Matrix:
    """Take a sparse matrix of any format as CSR, sorted and without duplicate entries.

    Args:
        data: the matrix.
        names: of its columns.
        origin: its name in messages.
        strict: raise E030; otherwise infinite values and NaN stay in the matrix.

    Raises:
        DataError: E013, E030, E040 or E042.
    """
    origin = origin or f"the sparse matrix of shape {data.shape}"
    if len(data.shape) != 2 or not all(data.shape):
        raise DataError(
            "E013", f"{origin} has no rows or no columns", fix="pass a matrix with both"
        )
    if data.dtype.kind not in "fiub":
        raise DataError(
            "E040", f"{origin} holds {data.dtype} values", fix="pass real numbers: .astype(float)"
        )
    sparse = importlib.import_module("scipy.sparse")
    try:
        matrix: csr_matrix = sparse.csr_matrix(data, copy=True)
        matrix.check_format(full_check=True)
        entries = matrix.nnz
        matrix.sum_duplicates()
    except (ValueError, IndexError) as error:
        raise DataError(
            "E042", f"{origin} is damaged: {error}", fix="build it again from its entries"
        ) from error
    notes = ()
    if matrix.nnz < entries:
        notes = (f"{entries - matrix.nnz:,} entries at the same place were added up",)
    if strict and matrix.dtype.kind == "f" and not np.isfinite(matrix.data).all():
        wrong = ~np.isfinite(matrix.data)
        raise DataError(
            "E030",
            f"{origin} has {int(wrong.sum()):,} infinite or NaN entries, the first in column "
            f"{int(matrix.indices[wrong][0]):,}",
            fix="remove them; a sparse matrix has no missing cells",
            count=int(wrong.sum()),
        )
    labels = tuple(names) if names is not None else tuple(f"x{j}" for j in range(data.shape[1]))
    known = {"native": SparseNative(), "origin": origin, "notes": notes}
    return Matrix(matrix, labels, total=data.shape[0], **known)
