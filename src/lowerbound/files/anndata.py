"""Read raw counts from AnnData, MuData, .h5ad and .h5mu files, and write results to a copy."""

from __future__ import annotations

import importlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.columns.arrow import listed, place, snippet
from lowerbound.errors import DataError, LowerboundError, UsageError, nearest
from lowerbound.files import memory
from lowerbound.files.arrays import from_sparse
from lowerbound.files.data import ArrowNative, Matrix
from lowerbound.files.hdf5 import refuse_fatal
from lowerbound.files.paths import readable
from lowerbound.files.stream import Stream
from lowerbound.optional import library

LAYER = "counts"  # the name that raw counts usually have
NEEDS = ("files of cells need", "cells")  # the start of the message, and the extra to install
RNA = ("rna", "RNA", "gex")  # names of the modality of counts in a MuData
EMBEDDING = "X_lowerbound"  # where embeddings are put, as other tools name theirs
_BY_GENE = (
    "it lies gene by gene; written cell by cell it is read in parts: adata.X = adata.X.tocsr()"
)
PART = 1 << 12  # cells in one part of a stream
_LOOKED_AT = 1000  # cells that tell whether a matrix holds counts
_CHUNK = 1 << 18  # values of a layer that are stored together


def is_anndata(data: object) -> bool:
    """Return whether an object is an AnnData, without importing the library."""
    return type(data).__module__.partition(".")[0] == "anndata" and hasattr(data, "var_names")


def rna_of(data: Any) -> Any:
    """Return the cells of an AnnData, or those of the RNA in a MuData, see `_modality`.

    Raises:
        UsageError: E201 for other objects.
        DataError: E045 for a MuData without a modality of RNA.
    """
    if is_anndata(data):
        return data
    if is_mudata(data):
        return data.mod[_modality(data.mod, lambda name: data.mod[name], "the MuData")]
    raise UsageError(
        "E201",
        f"a {type(data).__name__} is no AnnData",
        fix=f"give an AnnData, or a MuData with a modality called {RNA[0]}",
        type=type(data).__name__,
    )


def _modality(names: Iterable[str], opened: Callable[[str], Any], origin: str) -> str:
    """Return the name of the modality of RNA: by its name, or the only one that holds counts.

    Args:
        names: of all modalities.
        opened: returns a modality, as an AnnData or `_Stored`.
        origin: where they are, for the message.

    Raises:
        DataError: E045 where none or several could be meant.
    """
    known = [str(name) for name in names]
    for name in RNA:
        if name in known:
            return name
    held = {name: _counts(opened(name), origin, "")[1] for name in known}
    counted = [name for name, matrix in held.items() if matrix is not None and _whole(matrix)]
    if len(counted) == 1:
        return counted[0]
    one = (counted or known or ["NAME"])[0]
    raise DataError(
        "E045",
        f"{origin} has no modality {RNA[0]!r}, and "
        + (f"several hold counts: {listed(counted)}" if counted else "none holds counts")
        + f"; its modalities are {listed(known) or 'none'}",
        fix=f"write one as a file of its own: mdata[{one!r}].write_h5ad('{one}.h5ad')",
        modalities=known,
    )


def is_mudata(data: object) -> bool:
    """Return whether an object is a MuData, without importing the library."""
    return type(data).__module__.partition(".")[0] == "mudata" and hasattr(data, "mod")


def read_file(
    path: Path, rows: int | None = None, *, strict: bool = True, layer: str = ""
) -> Matrix:
    """Read the counts of an .h5ad or .h5mu file as `from_anndata` chooses them, and nothing else.

    Raises:
        DataError: E025 for a damaged file, E045 for an .h5mu file without a modality of RNA, and
            as `from_anndata`.
        ResourceError: E310 without anndata.
    """
    anndata = library("anndata", *NEEDS)
    refuse_fatal(path)
    if is_multimodal(path):
        with _intact(path), _cells_in(path) as (group, notes):
            frame = from_anndata(
                _stored(group, layer), rows, path.name, strict=strict, layer=layer
            )
        return replace(frame, notes=(*notes, *frame.notes))
    with _intact(path):
        opened = anndata.read_h5ad(path, backed="r")
    try:
        with _intact(path):
            return from_anndata(opened, rows, path.name, strict=strict, layer=layer)
    finally:
        opened.file.close()


def is_multimodal(path: Path) -> bool:
    """Return whether a file is a MuData by its name."""
    return path.suffix.lower() == ".h5mu"


@contextmanager
def _cells_in(path: Path) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Open the group of a file that is the AnnData, with notes on which one it is."""
    h5py = library("h5py", *NEEDS)
    with h5py.File(path, "r") as file:
        name, notes = _place_of_cells(file, path)
        yield file[name], notes


def _place_of_cells(file: Any, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the name of the group of an open file that is the AnnData, and notes on it.

    Args:
        file: the open file.
        path: whose name says whether it is a MuData.

    Raises:
        DataError: E045 for a MuData without a modality of RNA.
    """
    if not is_multimodal(path):
        return "/", ()
    modalities = file["mod"]
    name = _modality(modalities, lambda name: _stored(modalities[name]), path.name)
    note = f"{path.name}: the modality {name!r} was read; it has {listed(list(modalities))}"
    return f"mod/{name}", (note,) if len(modalities) > 1 else ()


def _stored(group: Any, layer: str = "") -> _Stored:
    """Return the parts of a group that must be an AnnData."""
    stored = _Stored.of(group, layer)
    if stored is None:
        raise ValueError(f"{group.name} is not marked as an AnnData")
    return stored


def from_anndata(
    data: Any,
    rows: int | None = None,
    origin: str = "the AnnData",
    *,
    strict: bool = True,
    layer: str = "",
) -> Matrix:
    """Take the raw counts of annotated cells, one column for each gene.

    They are those of `layer`; by default the layer "counts" where there is one; else X where it
    holds whole numbers; else raw.X where that does. Where none does, X is taken as it is.

    Raises:
        DataError: E013, E030 if `strict`, E040 or E042; E045 for an unknown layer.
    """
    matrix, names, notes = _chosen(data, origin, layer)
    part = slice(0, data.n_obs if rows is None else rows)
    frame = _rows(_with_whole_numbers(data.obs), matrix, names, part, origin, strict)
    return replace(frame, notes=(*notes, *frame.notes), total=data.n_obs, layer=layer)


def stream(
    opened: Callable[[], AbstractContextManager[Any]], path: Path, origin: str, layer: str = ""
) -> Stream[Matrix] | None:
    """Return the counts of a file or store as a stream.

    None where they are few, or lie gene by gene (CSC), or the file is older than its format's
    name. The labels of all cells are held while one walks over them.

    Args:
        opened: opens the group that is the AnnData.
        path: where it is.
        origin: its name in messages.
        layer: the layer with the counts; "" chooses it.

    Raises:
        DataError: E025 for a damaged file, and as `from_anndata`.
        ResourceError: E310 without anndata, E303 for more cells by gene than memory holds.
    """
    with _intact(path), opened() as group:
        cells = _Stored.of(group, layer)
        if cells is None or cells.n_obs <= PART:
            return None
        matrix, names, notes = _chosen(cells, path.name, layer)
        rows, size = cells.n_obs, _bytes(matrix)
        if getattr(matrix, "format", "csr") != "csr":
            memory.require(2 * size, path, _BY_GENE)  # as it lies there, and as it is wanted
            return None

    def frames() -> Iterator[Matrix]:
        with _intact(path), opened() as group:
            cells = _Stored.of(group, layer)
            assert cells is not None
            matrix = _counts(cells, path.name, layer)[1]
            for start in range(0, rows, PART):
                part = slice(start, min(start + PART, rows))
                yield _rows(cells.obs, matrix, names, part, path.name)

    told = {"origin": origin, "notes": tuple(notes), "bytes": size, "layer": layer}
    return Stream(tuple(names), rows, frames, **told)


def file_stream(path: Path, origin: str, layer: str = "") -> Stream[Matrix] | None:
    """Return the counts of an .h5ad or .h5mu file as a stream, see `stream`."""
    library("anndata", *NEEDS)
    refuse_fatal(path)
    with _intact(path), _cells_in(path) as (_, notes):
        pass

    @contextmanager
    def opened() -> Iterator[Any]:
        with _cells_in(path) as (group, _):
            yield group

    found = stream(opened, path, origin, layer)
    return None if found is None else replace(found, notes=(*notes, *found.notes))


def marked(data: object, column: str) -> list[str]:
    """Return the genes that a truth-valued column of `var` marks.

    Args:
        data: an AnnData, a MuData, or the path of an .h5ad or .h5mu file.
        column: of `var`, such as "highly_variable".

    Raises:
        DataError: E045 where there is no such column.
    """
    objects = is_anndata(data) or is_mudata(data)
    var = rna_of(data).var if objects else _var_of(Path(os.fsdecode(data)))  # pyright: ignore
    if column not in var.columns or var[column].dtype.kind != "b":
        known = [str(name) for name in var.columns if var[name].dtype.kind == "b"]
        raise DataError(
            "E045",
            f"var has no truth-valued column {column!r}; it has {listed(known) or 'none'}",
            fix="scanpy.pp.highly_variable_genes(adata) makes one, or --genes hvg:2000",
        )
    names, _ = _unique([str(gene) for gene in var.index])
    return [name for name, kept in zip(names, var[column], strict=True) if kept]


def _var_of(path: Path) -> Any:
    io = importlib.import_module("anndata.io")
    with _intact(path), _cells_in(path) as (group, _):
        return io.read_elem(group["var"])


@dataclass(frozen=True)
class _Stored:
    """The parts of an AnnData file that are used, by its names; matrices stay on disk."""

    obs: Any
    var_names: Any
    X: Any
    layers: Mapping[str, Any]
    raw: Any

    @classmethod
    def of(cls, group: Any, layer: str = "") -> _Stored | None:
        """Return the parts of a group; None where it is not marked as an AnnData."""
        if group.attrs.get("encoding-type") != "anndata":
            return None
        io = importlib.import_module("anndata.io")
        wanted = layer or LAYER
        stored = group.get("layers", {})
        layers = {n: _matrix(stored[n]) if n == wanted else None for n in stored}
        raw = None
        if "raw/X" in group:
            raw = SimpleNamespace(
                X=_matrix(group["raw/X"]), var_names=io.read_elem(group["raw/var"]).index
            )
        genes = io.read_elem(group["var"]).index
        x = _matrix(group["X"]) if "X" in group else None
        # By all cells, so that every part of a stream has annotations of the same types.
        obs = _with_whole_numbers(io.read_elem(group["obs"]))
        return cls(obs, genes, x, layers, raw)

    @property
    def n_obs(self) -> int:
        """The number of cells."""
        return len(self.obs)


def _matrix(element: Any) -> Any:
    """Return a matrix whose rows are read on demand."""
    dense = hasattr(element, "shape")
    return element if dense else importlib.import_module("anndata.io").sparse_dataset(element)


def _bytes(matrix: Any) -> int:
    """Return the bytes that a matrix takes in memory, as CSR."""
    if hasattr(matrix, "group"):
        return 12 * int(matrix.group["data"].shape[0])
    return 12 * int(np.prod(matrix.shape))


def _chosen(data: Any, origin: str, layer: str) -> tuple[Any, list[str], list[str]]:
    """Return the matrix to read, the names of its columns, and notes for the user."""
    name, matrix, genes = _counts(data, origin, layer)
    names, repaired = _unique([str(gene) for gene in genes])
    notes = [f"{origin}: {name} was read"] if name != "X" else []
    return matrix, names, notes + ([f"{origin}: {repaired}"] if repaired else [])


def _rows(  # noqa: PLR0913, PLR0917 - the matrix and its names
    obs: Any, matrix: Any, names: list[str], part: slice, origin: str, strict: bool = True
) -> Matrix:
    """Read consecutive cells."""
    sparse = importlib.import_module("scipy.sparse")
    frame = from_sparse(sparse.csr_matrix(matrix[part]), names, origin, strict=strict)
    return replace(frame, native=ArrowNative(), obs=_annotations(obs[part]))


def _annotations(obs: Any) -> pa.Table:
    """Return the annotations of cells: measurements as float64, all others as text."""
    kept = {}
    for name, column in obs.items():
        if column.dtype.kind == "f":
            values = column.to_numpy(np.float64, na_value=np.nan)
            kept[str(name)] = pa.array(values, from_pandas=True)
            continue
        pairs = zip(column, column.isna(), strict=True)
        words = [None if missing else str(value) for value, missing in pairs]
        kept[str(name)] = pa.array(words, pa.string()).dictionary_encode()
    return pa.table(kept)


def _with_whole_numbers(obs: Any) -> Any:
    """Return annotations in which floats that are all whole are integers.

    They may name groups of cells, as 1.0 and 2.0 do where a column has gaps.
    """
    made = obs.copy(deep=False)
    for name, column in obs.items():
        if column.dtype.kind == "f" and _is_whole(column.dropna()):
            made[name] = column.astype("Int64")
    return made


def _is_whole(values: Any) -> bool:
    return bool(((values % 1 == 0) & (values.abs() < 1 << 53)).all())


def _counts(data: Any, origin: str, layer: str) -> tuple[str, Any, Any]:
    """Return the name of the counts in messages, the matrix, and the names of its columns."""
    if layer:
        if layer in data.layers:
            return f"the layer {layer!r}", data.layers[layer], data.var_names
        known = [str(name) for name in data.layers]
        near = nearest(layer, known)
        raise DataError(
            "E045",
            f"{origin} has no layer {layer!r}; its layers are {listed(known) or 'none'}",
            fix=f"--layer {near}" if near else "leave it out: X is read if it holds counts",
            layer=layer,
        )
    if LAYER in data.layers:
        return f"the layer {LAYER!r}", data.layers[LAYER], data.var_names
    raw = data.raw
    if raw is not None and not _whole(data.X) and _whole(raw.X):
        return "raw.X, since X holds no counts,", raw.X, raw.var_names
    return "X", data.X, data.var_names


def _whole(matrix: Any) -> bool:
    """Return whether the first cells hold whole numbers."""
    first = matrix[:_LOOKED_AT]
    values = first if isinstance(first, np.ndarray) else np.asarray(first.data)
    return bool((values == np.floor(values)).all())


def _unique(names: list[str]) -> tuple[list[str], str]:
    """Number names that several columns have, as anndata does: GENE, GENE-1, GENE-2."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not twice:
        return names, ""
    anndata = library("anndata", *NEEDS)
    index = importlib.import_module("pandas").Index(names)
    unique = anndata.utils.make_index_unique(index)
    told = f"{len(twice):,} names of genes occur more than once, such as {snippet(twice[0])}"
    return [str(name) for name in unique], f"{told}: they were numbered"


def with_embedding(source: Path, z: NDArray[np.floating]) -> Callable[[BinaryIO], None]:
    """Return a writer of a copy of a file of cells with an embedding in ``obsm["X_lowerbound"]``.

    Args:
        source: the file that the cells are from; nothing else of it changes.
        z: (cells, latent).
    """
    h5py, io = library("h5py", *NEEDS), importlib.import_module("anndata.io")

    def write(file: BinaryIO) -> None:
        with readable(source), source.open("rb") as given:
            shutil.copyfileobj(given, file)
        file.flush()
        with h5py.File(file, "r+") as whole:
            opened = whole[_place_of_cells(whole, source)[0]]
            if "obsm" not in opened:
                io.write_elem(opened, "obsm", {})
            io.write_elem(opened["obsm"], EMBEDDING, z)

    return write


def with_layers(
    source: Path, genes: Sequence[str], blocks: Iterable[Mapping[str, NDArray[np.floating]]]
) -> Callable[[BinaryIO], None]:
    """Return a writer of a copy of a file of cells with further layers, block by block.

    Genes of the file that are not among `genes` are NaN in the layers.

    Args:
        source: the file that the cells are from; nothing else of it changes.
        genes: the names of the columns of the blocks.
        blocks: consecutive cells: (cells, genes) by the name of the layer.

    Raises:
        DataError: E031 where no gene of the blocks has a column in X.
    """
    h5py, io = library("h5py", *NEEDS), importlib.import_module("anndata.io")

    def write(file: BinaryIO) -> None:
        with readable(source), source.open("rb") as given:
            shutil.copyfileobj(given, file)
        file.flush()
        with h5py.File(file, "r+") as whole:
            opened = whole[_place_of_cells(whole, source)[0]]
            names, _ = _unique([str(gene) for gene in io.read_elem(opened["var"]).index])
            known = {name: place for place, name in enumerate(names)}
            own = [place for place, gene in enumerate(genes) if gene in known]
            if not own:
                raise DataError(
                    "E031",
                    f"none of the genes is in X of {place(source)}, which layers need",
                    fix="choose an --out that ends in .parquet",
                )
            at = np.array([known[genes[place]] for place in own])
            layers = opened.require_group("layers")
            layers.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
            shape, start = (len(io.read_elem(opened["obs"])), len(names)), 0
            for block in blocks:
                for name, values in block.items():
                    dataset = layers.get(name) if start else _new_layer(layers, name, shape)
                    wide = np.full((len(values), len(names)), np.nan, np.float32)
                    wide[:, at] = values[:, own]
                    dataset[start : start + len(wide)] = wide
                start += len(next(iter(block.values())))

    return write


def _new_layer(layers: Any, name: str, shape: tuple[int, int]) -> Any:
    """Return an empty layer, in place of one of that name."""
    if name in layers:
        del layers[name]
    chunks = (max(1, min(shape[0], _CHUNK // max(shape[1], 1))), shape[1])
    made = layers.create_dataset(name, shape, "f4", chunks=chunks, compression="lzf")
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return made


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turn the libraries' errors for bytes that are not an AnnData into E025."""
    try:
        yield
    except (LowerboundError, MemoryError):
        raise
    except Exception as error:  # of any class: the libraries do not check what they read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            "E025",
            f"{place(path)} is damaged, or no AnnData: {reason[:160]}",
            fix="write it again: adata.write_h5ad(path)",
            path=str(path),
        ) from error
