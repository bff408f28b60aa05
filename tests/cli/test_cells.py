"""Cells in .h5ad files: raw counts in, embeddings back beside them."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import lowerbound
from lowerbound import VAE, cli
from lowerbound.data import anndatas
from lowerbound.data.source import read
from lowerbound.errors import DataError, ResourceError, UsageError

CELLS, GENES = 80, 12
FIT = ["--recipe", "counts", "--preset", "fast", "--max-epochs", "3", "-q"]


def cells(genes=None):
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.exp(rng.normal(size=(CELLS, 1)) + rng.normal(size=(1, GENES))))
    genes = genes or [f"gene{j}" for j in range(GENES)]
    return anndata.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame({"site": ["a", "b"] * (CELLS // 2)}, index=list(map(str, range(CELLS)))),
        var=pd.DataFrame(index=genes),
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells().write_h5ad("pbmc.h5ad")
    return tmp_path


def test_fit_and_embed_back_into_obsm(here, capsys):
    assert cli.main(["fit", "pbmc.h5ad", *FIT, "--out", "m.vae"]) == 0
    assert cli.main(["embed", "m.vae", "pbmc.h5ad", "--out", "z.h5ad"]) == 0
    before, after = anndata.read_h5ad("pbmc.h5ad"), anndata.read_h5ad("z.h5ad")
    z = after.obsm["X_lowerbound"]
    model = lowerbound.Trained.load("m.vae")
    np.testing.assert_array_equal(z, model.embed("pbmc.h5ad"))
    assert (after.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(after.obs, before.obs)
    assert list(after.var_names) == list(before.var_names)
    assert cli.main(["embed", "m.vae", "z.h5ad", "--out", "again.h5ad", "-q"]) == 0
    np.testing.assert_array_equal(anndata.read_h5ad("again.h5ad").obsm["X_lowerbound"], z)
    assert cli.main(["score", "m.vae", "pbmc.h5ad", "--out", "s.parquet", "-q"]) == 0
    capsys.readouterr()
    assert cli.main(["embed", "m.vae", "pbmc.h5ad", "--out", "pbmc.h5ad", "--overwrite"]) == 2
    assert "would replace the data" in capsys.readouterr().err
    np.save("x.npy", before.X.toarray())
    assert cli.main(["embed", "m.vae", "x.npy", "--out", "y.h5ad"]) == 2
    assert "no .h5ad file" in capsys.readouterr().err
    assert cli.main(["embed", "m.vae", "pbmc.h5ad", "--out", "z.h5ad"]) == 2
    assert "E220" in capsys.readouterr().err


def test_the_estimator_takes_anndata(here):
    model = VAE(recipe="counts", preset="fast", max_epochs=2).fit(cells())
    assert model.transform(cells()).shape[0] == CELLS
    assert list(model.feature_names_in_) == [f"gene{j}" for j in range(GENES)]


def test_which_counts_are_read(here):
    plain = read(cells())
    assert plain.notes == ()
    assert plain.names == tuple(f"gene{j}" for j in range(GENES))
    log = cells()
    log.layers["counts"] = log.X.copy()
    log.X.data = np.log1p(log.X.data)
    layered = read(log)
    assert "the layer 'counts' was read" in layered.notes[0]
    assert (layered.matrix != plain.matrix).nnz == 0
    raw = cells()
    raw.raw = raw.copy()
    raw = raw[:, :5].copy()
    raw.X.data = np.log1p(raw.X.data)
    assert read(raw).matrix.shape == (CELLS, GENES)
    assert "raw.X" in read(raw).notes[0]
    raw.write_h5ad("raw.h5ad")
    assert (read("raw.h5ad").matrix != plain.matrix).nnz == 0
    few = read("raw.h5ad", rows=7)
    assert few.matrix.shape == (7, GENES)
    assert few.total == CELLS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what will be the default of a later anndata
        raw.write_zarr("raw.zarr")
    assert (read("raw.zarr").matrix != plain.matrix).nnz == 0
    dense = cells()
    dense.X = dense.X.toarray()
    dense.write_h5ad("dense.h5ad")
    assert (read("dense.h5ad").matrix != plain.matrix).nnz == 0


def test_genes_of_the_same_name_are_numbered(here):
    with pytest.warns(UserWarning, match="not unique"):
        twice = cells(["g", "g", *(f"gene{j}" for j in range(2, GENES))])
    frame = read(twice)
    assert frame.names[:2] == ("g", "g-1")
    assert "1 names of genes occur more than once" in frame.notes[0]


def test_what_is_no_anndata(here, monkeypatch):
    raw = (here / "pbmc.h5ad").read_bytes()
    for name, content in {
        "cut": raw[:3000],
        "text": b"no HDF5 at all",
        "zeros": bytes(5000),
    }.items():
        (here / f"{name}.h5ad").write_bytes(content)
        with pytest.raises(DataError) as refusal:
            read(f"{name}.h5ad")
        assert refusal.value.code == "E025", name
    log = cells()
    log.X.data = np.log1p(log.X.data)
    with pytest.raises(DataError) as refusal:
        VAE(recipe="counts", preset="fast").fit(log)
    assert refusal.value.code == "E073"
    real = anndatas.importlib.import_module

    def without(name):
        if name == "anndata":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(anndatas.importlib, "import_module", without)
    with pytest.raises(ResourceError, match="anndata") as lacks:
        read("pbmc.h5ad")
    assert lacks.value.code == "E310"


def test_several_files_of_cells_are_no_table(here):
    cells().write_h5ad("other.h5ad")
    with pytest.raises((DataError, UsageError), match="AnnData files"):
        read(str(here / "*.h5ad"))
