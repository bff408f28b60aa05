"""Cells in .h5ad files: raw counts in, embeddings back beside them."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import commands
import lowerbound
from lowerbound import VAE
from lowerbound.cli import main
from lowerbound.coding.context import Context, Factor
from lowerbound.coding.counts import CountsCoding
from lowerbound.coding.tables import TableCoding
from lowerbound.errors import DataError, ResourceError, UsageError
from lowerbound.files import anndata as anndatas
from lowerbound.files.read import read

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
    assert main.main(["fit", "pbmc.h5ad", *FIT[:-1], "--out", "m.vae"]) == 0
    assert "lowerbound score m.vae NEW.h5ad" in capsys.readouterr().out
    assert main.main(["embed", "m.vae", "pbmc.h5ad", "--out", "z.h5ad"]) == 0
    before, after = anndata.read_h5ad("pbmc.h5ad"), anndata.read_h5ad("z.h5ad")
    z = after.obsm["X_lowerbound"]
    model = lowerbound.Model.load("m.vae")
    np.testing.assert_array_equal(z, model.embed("pbmc.h5ad"))
    assert (after.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(after.obs, before.obs)
    assert list(after.var_names) == list(before.var_names)
    assert main.main(["embed", "m.vae", "z.h5ad", "--out", "again.h5ad", "-q"]) == 0
    np.testing.assert_array_equal(anndata.read_h5ad("again.h5ad").obsm["X_lowerbound"], z)
    assert main.main(["score", "m.vae", "pbmc.h5ad", "--out", "s.parquet", "-q"]) == 0
    capsys.readouterr()
    assert main.main(["embed", "m.vae", "pbmc.h5ad", "--out", "pbmc.h5ad", "--overwrite"]) == 2
    assert "would replace the data" in capsys.readouterr().err
    assert main.main(["compare", "m.vae", "pbmc.h5ad"]) == 2
    assert "a model of counts" in capsys.readouterr().err
    np.save("x.npy", before.X.toarray())
    assert main.main(["embed", "m.vae", "x.npy", "--out", "y.h5ad"]) == 2
    assert "not an .h5ad file" in capsys.readouterr().err
    assert main.main(["embed", "m.vae", "pbmc.h5ad", "--out", "z.h5ad"]) == 2
    assert "E220" in capsys.readouterr().err


def test_the_estimator_takes_anndata(here):
    model = VAE(recipe="counts", preset="fast", max_epochs=2).fit(cells())
    assert model.transform(cells()).shape[0] == CELLS
    assert list(model.feature_names_in_) == [f"gene{j}" for j in range(GENES)]


def test_a_layer_is_chosen_and_remembered(here, capsys):
    given = cells()
    given.layers["spliced"] = given.X.copy()
    given.X = given.X.log1p()
    given.write_h5ad("layers.h5ad")
    fit = ["fit", "layers.h5ad", *FIT, "--out", "m.vae", "--layer"]
    assert main.main([*fit, "splice"]) == 3
    told = capsys.readouterr().err
    assert "E045" in told
    assert "--layer spliced" in told
    assert main.main([*fit, "spliced"]) == 0
    model = lowerbound.load("m.vae")
    np.testing.assert_array_equal(model.embed("layers.h5ad"), model.embed(given))
    np.testing.assert_array_equal(model.embed(given.copy()), model.embed(given))
    np.save("x.npy", cells().X.toarray())
    assert main.main(["fit", "x.npy", *FIT, "--layer", "spliced", "--out", "n.vae"]) == 2
    assert "E236" in capsys.readouterr().err
    plain = cells()
    with pytest.raises(DataError, match="no layer 'spliced'"):
        model.embed(plain)


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


def test_the_batch_of_a_cell_is_given_to_the_model(here, capsys):
    batch = ["--batch", "site"]
    assert main.main(["fit", "pbmc.h5ad", *FIT, *batch, "--out", "m.vae"]) == 0
    model = lowerbound.Model.load("m.vae")
    assert model.coding.arguments() == {"features": GENES, "batches": 2}
    given = cells()
    rows = model.coding.encode(read(given)).rows.take(torch.arange(CELLS))
    assert rows.context[:4, 1:].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    known = model.log_likelihood(given)
    other = cells()
    other.obs["site"] = ["b", "a"] * (CELLS // 2)
    assert (model.log_likelihood(other) != known).all()
    # A batch that training never saw is a little of each; what is not known of a cell too.
    other.obs["site"] = ["c", None, *["a", "b"] * (CELLS // 2 - 1)]
    coded = model.coding.encode(read(other))
    assert dict(coded.unseen) == {"site": 2}
    assert coded.rows.take(torch.arange(2)).context[:, 1:].tolist() == [[0.5, 0.5]] * 2
    assert np.isfinite(model.log_likelihood(other)).all()
    del other.obs["site"]
    other.obs["sit"] = "a"
    with pytest.raises(DataError, match="'site' is missing.*similar name: 'sit'"):
        model.log_likelihood(other)


def test_a_column_of_a_table_can_be_the_batch(here):
    frame = pd.DataFrame(
        cells().X.toarray().astype(int), columns=[f"gene{j}" for j in range(GENES)]
    )
    frame["run"] = np.arange(CELLS) % 4
    found = VAE(recipe="counts", preset="fast", max_epochs=1, types={"run": "batch"}).fit(frame)
    assert "run" not in [group.column for group in found.trained_.coding.groups]
    (run,) = found.trained_.coding.covariates.factors
    assert run.levels == {"0": 20, "1": 20, "2": 20, "3": 20}
    with pytest.raises(UsageError, match="run=id"):
        VAE(recipe="counts", types={"run": "id"}).fit(frame)
    with pytest.raises(DataError, match="'runs' is missing"):
        VAE(recipe="counts", types={"runs": "batch"}).fit(frame)


def test_what_is_no_count_is_named_by_its_own_column(here):
    wrong = cells()
    wrong.X[3, 5] = 0.5
    with pytest.raises(DataError, match="0.5 in row 3, column 'gene5'"):
        VAE(recipe="counts", drop=["gene0", "gene1"]).fit(wrong)


def test_cells_are_counts_unless_another_recipe_is_chosen(here, capsys):
    few = ["--preset", "fast", "--max-epochs", "1"]
    assert main.main(["fit", "pbmc.h5ad", *few, "--out", "m.vae"]) == 0
    assert "counts, which suits raw counts of cells" in capsys.readouterr().err
    assert lowerbound.Model.load("m.vae").recipe.name == "counts"
    assert main.main(["fit", "pbmc.h5ad", *few, "--recipe", "table", "--out", "t.vae"]) == 0
    assert lowerbound.Model.load("t.vae").recipe.name == "table"
    assert commands.fit(cells(), preset="fast", max_epochs=1).model.recipe.name == "counts"
    logged = cells()
    logged.X = logged.X.log1p()
    assert commands.fit(logged, preset="fast", max_epochs=1).model.recipe.name == "table"


NAMES = ("BATF", *(f"GENE{j}" for j in range(99)))


def some_cells(names, site=True):
    rng = np.random.default_rng(1)
    known = {"batch": ["a", "b"] * 5} if site else {}
    return anndata.AnnData(
        sp.csr_matrix(rng.poisson(1.0, (10, len(names))).astype(np.float32)),
        obs=pd.DataFrame(known, index=list(map(str, range(10)))),
        var=pd.DataFrame(index=list(names)),
    )


def test_missing_genes_are_counted_and_left_out():
    coding = CountsCoding(NAMES)
    given = some_cells(NAMES[:-10][::-1])  # in another order
    coded = coding.encode(read(given))
    (note,) = coded.notes
    assert note.startswith("10 of 100 genes of the model are missing from the AnnData")
    assert "the likelihood leaves them out: 'GENE89', 'GENE90'" in note
    dense = coded.rows.take(torch.arange(10)).x.numpy()
    assert np.isnan(dense[:, 90:]).all()
    np.testing.assert_array_equal(dense[:, :90], given.X.toarray()[:, ::-1])
    assert CountsCoding(NAMES).encode(read(some_cells(NAMES))).notes == ()


@pytest.mark.parametrize("coding", ["counts", "table"])
def test_too_many_missing_genes_are_counted_and_none_is_renamed(coding):
    known = read(some_cells(NAMES))
    plain = {"types": {}, "drop": (), "transform": "standard"}
    kinds = {"counts": CountsCoding, "table": TableCoding}
    made = kinds[coding].fit(known, **plain)
    for names in (NAMES[:-11], [name.lower() for name in NAMES]):
        with pytest.raises(DataError) as caught:
            made.encode(read(some_cells(names)))
        error = caught.value
        assert error.code == "E031"
        absent = len(set(NAMES) - set(names))
        assert error.message.startswith(f"{absent} of 100 genes of the model are missing")
        assert "rename" not in error.fix
        assert "similar" not in error.message


def test_no_gene_is_proposed_for_a_missing_batch():
    coding = CountsCoding(NAMES, Context((Factor("batch", {"a": 5, "b": 5}),)))
    with pytest.raises(DataError) as caught:
        coding.encode(read(some_cells(NAMES, site=False)))
    assert caught.value.fix == "add the column 'batch'"
    table = read(some_cells(NAMES, site=False)).to_table()
    with pytest.raises(DataError) as caught:
        coding.encode(table)
    assert "BATF" not in str(caught.value)


def test_inspect_says_what_annotations_look_like(here):
    given = cells()
    rng = np.random.default_rng(0)
    given.obs["louvain"] = pd.Categorical(rng.choice(["B", "T", "NK"], CELLS))
    given.obs["pct_mito"] = rng.gamma(2.0, 2.0, CELLS)
    given.obs["n_genes"] = rng.integers(0, 10**6, CELLS).astype(float)
    given.obs["barcode"] = [f"AAC{i}" for i in range(CELLS)]
    given.obs["one"] = "x"
    given.obs["cell_type"] = given.obs["louvain"].where(np.arange(CELLS) % 3 > 0)
    given.write_h5ad("told.h5ad")
    result = commands.inspect("told.h5ad")
    found = {each["name"]: each for each in result.facts["annotations"]}
    looks = {
        name: (each["kind"], each["looks_like"], each["flag"]) for name, each in found.items()
    }
    assert looks == {
        "site": ("levels", "batch", "--batch site"),
        "louvain": ("levels", "label", "--groupby louvain"),
        "cell_type": ("levels", "label", "--labels cell_type"),
        "pct_mito": ("number", "covariate", "--covariate pct_mito"),
        "n_genes": ("name", "", ""),
        "barcode": ("name", "", ""),
        "one": ("levels", "", ""),
    }
    assert result.next == "lowerbound fit told.h5ad --recipe counts --batch site"
    assert result.sheet.rows[0] == ("site", "levels", "2: 'a', 'b'", "batch: --batch site")


def test_inspect_lists_the_few_values_that_are_not_counts(here):
    odd = cells()
    odd.X = odd.X.toarray()
    odd.X[3, 5], odd.X[8, 7] = 1.5, -2
    odd.X = sp.csr_matrix(odd.X)
    odd.write_h5ad("odd.h5ad")
    result = commands.inspect("odd.h5ad", drop="gene1,gene2")
    found = [(p["column"], p["values"][0]["row"]) for p in result.facts["problems"]]
    assert found == [("gene5", 4), ("gene7", 9)]
    told = "lowerbound fit odd.h5ad --recipe counts --batch site --drop gene1,gene2"
    assert result.next == told
    with pytest.raises(UsageError):
        commands.inspect("odd.h5ad", drop="gene1,gene99")
