"""Cells in files that are worked on part by part: what comes out is as of all in memory."""

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import torch

import commands
import lowerbound
from lowerbound.cli import main
from lowerbound.coding import large
from lowerbound.coding.rows import Sparse
from lowerbound.coding.stored_sparse import store
from lowerbound.errors import DataError, ResourceError
from lowerbound.files import anndata as anndatas
from lowerbound.files import data as native
from lowerbound.files.data import Whole
from lowerbound.files.read import read, walk
from lowerbound.files.stream import Stream

CELLS, GENES, PART = 90, 12, 32
FIT = ["--recipe", "counts", "--preset", "fast", "--max-epochs", "3", "-q"]


def counts(rows=CELLS, genes=GENES, seed=0):
    rng = np.random.default_rng(seed)
    means = np.exp(rng.normal(size=(rows, 1)) + rng.normal(size=(1, genes)) - 0.5)
    return sp.csr_matrix(rng.poisson(means).astype(np.float32))


def plain():
    sites = np.where(np.arange(CELLS) % 3 == 0, "a", "b").astype(object)
    sites[:5] = None
    return anndata.AnnData(
        counts(),
        obs=pd.DataFrame(
            {"site": sites, "depth": 0.5, "share": np.arange(CELLS) / 8},
            index=[f"cell{i}" for i in range(CELLS)],
        ),
        var=pd.DataFrame(index=[f"gene{j}" for j in range(GENES)]),
    )


def layered():
    data = plain()
    data.layers["counts"] = data.X.copy()
    data.X = data.X.log1p()
    return data


def normalised():
    data = plain()
    data.raw = data.copy()
    data.X = data.X.log1p()
    return data


def full():
    data = plain()
    data.X = data.X.toarray()
    return data


def doubled():
    data = plain()
    data.var_names = ["gene0", *data.var_names[:-1]]
    return data


KINDS = {f.__name__: f for f in (plain, layered, normalised, full, doubled)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_parts():
    """Work on a few cells at a time, and hold none of them in a fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anndatas, "PART", PART)
        patch.setattr(native, "PART", PART)
        patch.setattr(large, "HELD_VALUES", CELLS)
        yield


def written(kind, suffix):
    data, path = KINDS[kind](), f"cells{suffix}"
    (data.write_h5ad if suffix == ".h5ad" else data.write_zarr)(path)
    return path


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*not unique", "ignore:Writing zarr v2")
def test_parts_are_the_rows_of_the_whole(here, in_parts, kind, suffix):
    path = written(kind, suffix)
    whole, parts = read(path), walk(path)
    assert isinstance(whole, Whole)
    assert isinstance(parts, Stream)
    assert [frame.rows for frame in parts.parts()] == [32, 32, 26]
    assert [frame.start for frame in parts.parts()] == [0, 32, 64]
    assert parts.names == whole.names
    assert parts.rows == whole.rows
    assert parts.notes == whole.notes
    assert parts.origin == whole.origin
    held = parts.whole()
    assert (held.matrix != whole.matrix).nnz == 0
    assert held.obs["site"].to_pylist() == whole.obs["site"].to_pylist()
    assert parts.bytes >= whole.matrix.data.nbytes
    some = parts.sample(20, 0)
    places = [whole.matrix.toarray().tolist().index(row) for row in some.matrix.toarray().tolist()]
    assert places == sorted(places)
    assert len(some.obs) == 20


def test_files_by_gene_and_few_cells_are_held(here, in_parts, monkeypatch):
    data = plain()
    data.X = data.X.tocsc()
    data.write_h5ad("columns.h5ad")
    data[:PART].copy().write_h5ad("few.h5ad")
    assert isinstance(walk("columns.h5ad"), Whole)
    assert isinstance(walk("few.h5ad"), Whole)
    monkeypatch.setattr(anndatas.memory, "available", lambda: 1000)
    assert isinstance(walk("few.h5ad"), Whole)
    with pytest.raises(ResourceError, match=r"columns\.h5ad"):
        walk("columns.h5ad")


def test_damage_is_told(here, in_parts):
    whole = (here / written("plain", ".h5ad")).read_bytes()
    (here / "short.h5ad").write_bytes(whole[: len(whole) // 2])
    assert main.main(["embed", "m.vae", "short.h5ad", "--out", "z.npy"]) != 0
    with pytest.raises(DataError, match="damaged"):
        walk("short.h5ad")


@pytest.mark.parametrize(
    "batch",
    [
        [],
        ["--types", "site=batch"],
        ["--batch", "site", "--covariate", "share", "--layer", "counts", "--genes", "GENES"],
    ],
    ids=["plain", "batch", "covariates"],
)
def test_a_fit_that_holds_no_cells_gives_the_same_model(here, batch):
    path = written("layered", ".h5ad")
    (here / "GENES").write_text("".join(f"gene{j}\n" for j in range(0, GENES, 2)))
    assert main.main(["fit", path, *FIT, *batch, "--out", "whole.vae"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anndatas, "PART", PART)
        patch.setattr(native, "PART", PART)
        patch.setattr(large, "HELD_VALUES", CELLS)
        assert main.main(["fit", path, *FIT, *batch, "--out", "parts.vae"]) == 0
        for verb in (["score"], ["embed"], ["reconstruct"]):
            out = ["--out", f"{verb[0]}.parquet", "-q"]
            assert main.main([*verb, "parts.vae", path, *out]) == 0
        assert main.main(["embed", "parts.vae", path, "--out", "z.h5ad", "-q"]) == 0
    one, other = lowerbound.Model.load("whole.vae"), lowerbound.Model.load("parts.vae")
    assert one.coding == other.coding
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert one.documents()["calibration.json"] == other.documents()["calibration.json"]
    z = one.embed(path)
    np.testing.assert_array_equal(z, anndata.read_h5ad("z.h5ad").obsm["X_lowerbound"])
    table = pq.read_table("embed.parquet")
    assert table["row"].to_pylist() == list(range(CELLS))
    np.testing.assert_array_equal(np.stack([table[f"z{j}"] for j in range(z.shape[1])], 1), z)
    scores = pq.read_table("score.parquet")["anomaly_score"].to_numpy()
    np.testing.assert_array_equal(scores, commands.score("whole.vae", path).table["anomaly_score"])
    assert pq.ParquetFile("reconstruct.parquet").metadata.num_rows == CELLS


def test_stored_counts_are_the_counts():
    matrix, empty = counts(50, 40, 3), sp.csr_matrix((3, 40), dtype=np.float32)
    given = [matrix, empty, matrix]
    context = torch.arange(206.0).view(103, 2)
    whole = Sparse(sp.vstack(given, "csr"), context)
    parts = [Sparse(*both) for both in zip(given, context.split([50, 3, 50]), strict=True)]
    index = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    kept, digest = store(parts, (len(whole), 40))
    for one, other in zip(kept.take(index), whole.take(index), strict=True):
        assert torch.equal(one, other)
    assert len(kept) == len(whole)
    assert kept.take(index[:0]).x.shape == (0, 40)
    other = matrix.copy()
    other.data[0] += 1
    assert store([Sparse(other)], (50, 40))[1] not in (
        digest,
        store([Sparse(matrix)], (50, 40))[1],
    )
